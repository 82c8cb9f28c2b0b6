//! Rows that differ, one a line of JSON, in a file beside the journal: as many as there are, up to a bound in bytes.
//! Keys are in it, so its mode is 0600 (promise 13).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::job::Line;

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    place: Place,
    bytes_max: u64,
}

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Lines {
    /// In a directory, as `history-differences.jsonl`; what would make it longer than this is dropped, and said so.
    pub fn in_dir(dir: &Path, bytes_max: u64) -> Lines {
        Lines { place: Place::File(dir.join("history-differences.jsonl")), bytes_max }
    }

    /// For tests.
    pub fn in_memory(bytes_max: u64) -> Lines {
        Lines { place: Place::Memory(Arc::default()), bytes_max }
    }

    /// Begin anew: the lines of the job before are gone.
    pub(super) fn clear(&self) -> io::Result<()> {
        match &self.place {
            Place::File(path) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Place::Memory(lines) => {
                lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Ok(())
            }
        }
    }

    /// Add lines; how many were dropped. Blocks on the disk.
    pub(super) fn add(&self, lines: &[Line]) -> io::Result<u64> {
        match &self.place {
            Place::File(path) => {
                let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
                let len = file.metadata()?.len();
                self.write(&mut file, len, lines)
            }
            Place::Memory(kept) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let len = kept.len() as u64;
                self.write(&mut *kept, len, lines)
            }
        }
    }

    fn write(&self, out: &mut impl Write, mut len: u64, lines: &[Line]) -> io::Result<u64> {
        let mut dropped = 0;
        for line in lines {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            if len + text.len() as u64 > self.bytes_max {
                dropped += 1;
                continue;
            }
            len += text.len() as u64;
            out.write_all(&text)?;
        }
        Ok(dropped)
    }

    /// At most `max` lines, the first ones. Blocks on the disk.
    pub fn read(&self, max: usize) -> io::Result<Vec<Line>> {
        match &self.place {
            Place::File(path) => match File::open(path) {
                Ok(file) => parse(BufReader::new(file), max),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            },
            Place::Memory(kept) => parse(&kept.lock().unwrap_or_else(PoisonError::into_inner)[..], max),
        }
    }
}

/// A line that a crash cut is no line.
fn parse(from: impl BufRead, max: usize) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for line in from.split(b'\n') {
        lines.extend(serde_json::from_slice(&line?).ok());
        if lines.len() == max {
            break;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::work::Differs;

    fn line(key: &str) -> Line {
        Line { job: 1, table: "t".into(), how: Differs::Extra, key: key.into() }
    }

    #[test]
    fn lines_are_kept_up_to_their_bound_and_a_cut_one_is_none() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let lines = Lines::in_dir(dir.path(), 100);
        assert!(lines.read(10).expect("reads").is_empty());
        assert_eq!(lines.add(&[line("a"), line("b")]).expect("writes"), 0);
        assert_eq!(lines.add(&[line("c"), line("d")]).expect("writes"), 2);
        let Place::File(path) = &lines.place else { unreachable!("it is a file") };
        OpenOptions::new().append(true).open(path).expect("opens").write_all(b"{\"job\":1,").expect("writes");
        let keys: Vec<_> = lines.read(10).expect("reads").into_iter().map(|line| line.key).collect();
        assert_eq!(keys, ["a", "b"]);
        lines.clear().expect("cleared");
        assert!(lines.read(10).expect("reads").is_empty());
    }
}
