//! What a node leaves behind that was killed while it deleted the tables that a compaction had replaced: it refuses to start then,
//! since one of them has lost some of its files. It says which, and to delete the rest by hand.
//!
//! The format of its transaction logs: `org.apache.cassandra.db.lifecycle.LogRecord`, lines `ADD:[prefix,..`, `REMOVE:[prefix,..`,
//! `COMMIT:[..`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Said by a node that does not start for that reason.
pub(super) const REFUSAL: &str = "due to a problem with transaction log files";

/// Finish what the logs in this folder, and below it, say was begun.
pub(super) fn finish(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            finish(&path)?;
        } else if name.contains("_txn_") && name.ends_with(".log") {
            let log = fs::read_to_string(&path)?;
            condemned(&log).try_for_each(|prefix| remove(folder, prefix))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The names that the files to be deleted begin with: the old tables of a compaction that ended, the new ones of one that did not.
fn condemned(log: &str) -> impl Iterator<Item = &str> {
    let record = if log.lines().any(|line| line.starts_with("COMMIT:[")) { "REMOVE:[" } else { "ADD:[" };
    log.lines().filter_map(move |line| {
        line.strip_prefix(record)?.split(',').next()?.rsplit('/').next().filter(|name| !name.is_empty())
    })
}

fn remove(folder: &Path, prefix: &str) -> io::Result<()> {
    let names = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    for path in fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).filter(names) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_losers_of_a_compaction_are_deleted_and_its_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let table = folder.path().join("keyspaces-1");
        fs::create_dir(&table).expect("a folder");
        let files = ["nb-3-big-Data.db", "nb-4-big-Data.db", "nb-5-big-Data.db", "nb-5-big-Index.db"];
        for (end, stay) in [("COMMIT:[,0,0][1]\n", &files[2..]), ("", &files[..2])] {
            for file in files {
                fs::write(table.join(file), "").expect("written");
            }
            let at = table.display();
            let log = format!(
                "ADD:[{at}/nb-5-big-,0,8][2]\nREMOVE:[{at}/nb-3-big-,7,8][3]\nREMOVE:[{at}/nb-4-big-,7,8][4]\n{end}"
            );
            fs::write(table.join("nb_txn_compaction_2f.log"), log).expect("written");
            finish(folder.path()).expect("finished");
            let mut left: Vec<_> = fs::read_dir(&table)
                .expect("a folder")
                .map(|entry| entry.expect("a file").file_name().into_string().expect("a name"))
                .collect();
            left.sort();
            assert_eq!(left, stay);
        }
    }
}
