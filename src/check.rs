//! What `tandem check` finds before a migration begins: rules with stable names, and findings of them.
//!
//! The rules of a database live with its protocol; those of this machine, the journal's directory and its disk, are
//! here. A finding says what, where, and what to do; it never holds a row's values (promise 13).

use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use crate::config::Config;
use crate::journal::storage::free_bytes;
use crate::record::Side;

/// How bad a finding is. Ordered from harmless to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Something will be dirty, slow or different until somebody acts.
    Warning,
    /// Something will not be mirrored, or tandem will not run.
    Error,
}

impl Severity {
    /// As it is told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that is looked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable: scripts ignore findings by it.
    pub name: &'static str,
    /// Of all its findings.
    pub severity: Severity,
    /// What it means, and what to do.
    pub advice: &'static str,
}

/// A rule that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub rule: &'static Rule,
    /// Where; `None` is this machine.
    pub side: Option<Side>,
    /// The table, role, setting, ..
    pub object: String,
}

impl Finding {
    /// It is an error, and nobody has decided to go on with it: by name.
    pub fn refuses(&self, ignored: &[String]) -> bool {
        self.rule.severity == Severity::Error && !ignored.iter().any(|name| name == self.rule.name)
    }
}

/// More objects of one rule are counted, not named.
pub const NAMED_MAX: usize = 20;

/// A finding of this rule for each object, and one for those that are too many to be named.
pub fn each(rule: &'static Rule, side: Option<Side>, mut objects: Vec<String>) -> impl Iterator<Item = Finding> {
    let more = objects.len().saturating_sub(NAMED_MAX);
    objects.truncate(NAMED_MAX);
    objects.extend((more > 0).then(|| format!("and {more} more")));
    objects.into_iter().map(move |object| Finding { rule, side, object })
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In no particular order.
    pub findings: Vec<Finding>,
    /// Sides that could not be asked, and why.
    pub unreachable: Vec<String>,
}

/// Declares rules: a constant for each, and the list of them.
macro_rules! rules {
    ($($constant:ident: $severity:ident $name:literal $advice:literal;)+) => {
        $(pub(crate) const $constant: &$crate::check::Rule = &$crate::check::Rule {
            name: $name,
            severity: $crate::check::Severity::$severity,
            advice: $advice,
        };)+

        /// Every rule of this module.
        pub const RULES: &[&$crate::check::Rule] = &[$($constant),+];
    };
}
pub(crate) use rules;

rules! {
    JOURNAL_DIRECTORY: Error "journal_directory" "journal.dir cannot be written by this user: change its owner, or the key";
    JOURNAL_IN_USE: Note "journal_in_use" "a tandem holds journal.dir: it runs, or still drains. Two migrations need two directories; one migration keeps its own";
    DISK_SPACE: Warning "disk_space" "the disk of journal.dir has less room than journal.size_limit: make room, or lower it";
}

/// Look at what tandem needs of this machine. Makes nothing and writes nothing.
pub fn machine(config: &Config) -> Vec<Finding> {
    let dir = &config.journal.dir;
    let found = |rule| Finding { rule, side: None, object: dir.display().to_string() };
    // What is not there is made at the first start: then the nearest folder that is there counts.
    let existing = dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    let free = free_bytes(existing).map(|free| free.saturating_add(used_bytes(dir)));
    let wrong = [
        (JOURNAL_DIRECTORY, !is_writable(existing)),
        (JOURNAL_IN_USE, is_locked(&dir.join("lock"))),
        (DISK_SPACE, free.is_some_and(|free| free < config.journal.size_limit.0.saturating_add(LEFT_TO_OTHERS))),
    ];
    wrong.into_iter().filter(|(_, wrong)| *wrong).map(|(rule, _)| found(rule)).collect()
}

fn is_locked(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn is_writable(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    // SAFETY: the call reads the string, which outlives it.
    unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

/// The journal makes no file where less than this is left behind it.
const LEFT_TO_OTHERS: u64 = 33 << 20;

/// What the journal has of its limit already.
fn used_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(config: &Config) -> Vec<&'static str> {
        machine(config).iter().map(|finding| finding.rule.name).collect()
    }

    #[test]
    fn a_journal_directory_is_looked_at_without_being_made() {
        let sandbox = tempfile::tempdir().expect("a temp folder");
        let mut config = Config::from_text("proxy.toml", &crate::config::example(), []).expect("valid");
        config.journal.dir = sandbox.path().join("journal");
        config.journal.size_limit.0 = 1;
        assert!(named(&config).is_empty());
        assert!(!config.journal.dir.exists());
        config.journal.size_limit.0 = u64::MAX;
        assert_eq!(named(&config), ["disk_space"]);
    }

    #[test]
    fn a_journal_of_a_running_tandem_is_found() {
        let sandbox = tempfile::tempdir().expect("a temp folder");
        let mut config = Config::from_text("proxy.toml", &crate::config::example(), []).expect("valid");
        config.journal.dir = sandbox.path().to_owned();
        config.journal.size_limit.0 = 1;
        let lock = File::create(sandbox.path().join("lock")).expect("created");
        lock.lock().expect("free");
        assert_eq!(named(&config), ["journal_in_use"]);
    }
}
