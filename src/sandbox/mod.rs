//! Real servers in temp folders, for the demo and the tests: started in a fraction of a second, killed in every way that
//! a test needs, and gone afterwards without a trace, also after a panic, Ctrl-C or a kill of the process itself.
//!
//! Everything here blocks: call it from a test or from `spawn_blocking`, not from a task that serves clients.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub mod binaries;
pub mod cassandra;
pub mod postgres;

pub use binaries::Installation;
pub use postgres::{Options, Postgres, Stop};

/// Why a server could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server, or what runs it, is nowhere.
    #[error("no {server} found in {searched}; to get one: {install}")]
    NoServer {
        /// What is missing.
        server: &'static str,
        /// Where was looked.
        searched: String,
        /// The one line that helps.
        install: &'static str,
    },
    /// Every address that was tried is in use.
    #[error("no address of 127.0.0.0/8 is free for a Cassandra node: its ports 7000, 9041 and 9042 must be")]
    NoAddress,
    /// A program of the server failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which one.
        program: String,
        /// What it said.
        output: String,
    },
    /// Files, processes.
    #[error("sandbox: {what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What went wrong.
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what: what.into(), source }
}

/// PostgreSQL refuses to run as root; as root its programs run as this user and group ("nobody").
const NOBODY: u32 = 65534;

/// A temp folder with a reaper: a small shell that waits for the end of this process, stops what still runs in the
/// folder, and removes it. Dropping the last clone does the same at once.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    keep: bool,
    reaper: Option<Child>,
}

/// Waits for end of input, which comes when the owner lets go or dies; then no postmaster and no file stays.
const REAPER: &str = r#"
trap '' INT TERM HUP QUIT
read -r _
for file in "$1"/*/data/postmaster.pid; do
  [ -f "$file" ] || continue
  pid=$(head -n 1 "$file")
  kill -QUIT "$pid" 2>/dev/null || continue
  for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
done
for file in "$1"/*.pid; do
  [ -f "$file" ] && kill -KILL "$(head -n 1 "$file")" 2>/dev/null
done
[ -n "$2" ] || rm -rf "$1"
"#;

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Sandbox {
    /// A new, empty folder. `keep`: leave its files behind (servers are stopped all the same).
    pub fn new(keep: bool) -> Result<Sandbox, Error> {
        let dir = temp_root().join(format!("tandem-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&dir).map_err(io_error(format!("create {}", dir.display())))?;
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o711)).map_err(io_error("open the folder"))?;
        let reaper = Some(reaper(&dir, keep)?);
        Ok(Sandbox { inner: Arc::new(Inner { dir, keep, reaper }) })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The reaper kills this process too, if it is still there.
    pub fn remember(&self, pid: u32) -> Result<(), Error> {
        std::fs::write(self.pid_file(pid), pid.to_string()).map_err(io_error("remember a process"))
    }

    /// The process is gone.
    pub fn forget(&self, pid: u32) {
        let _ = std::fs::remove_file(self.pid_file(pid));
    }

    fn pid_file(&self, pid: u32) -> PathBuf {
        self.inner.dir.join(format!("{pid}.pid"))
    }

    /// A folder in it that the servers' user owns.
    fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.inner.dir.join(name);
        own_folder(&path)?;
        Ok(path)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(mut reaper) = self.reaper.take() {
            drop(reaper.stdin.take());
            let _ = reaper.wait();
        }
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn reaper(dir: &Path, keep: bool) -> Result<Child, Error> {
    Command::new("sh")
        .args(["-c", REAPER, "reaper"])
        .arg(dir)
        .arg(if keep { "keep" } else { "" })
        .process_group(0) // Ctrl-C goes to the terminal's group; the reaper outlives it.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io_error("start the reaper"))
}

/// Socket paths may have 107 bytes, and as root every parent must be open to others: a long or private TMPDIR will not do.
fn temp_root() -> PathBuf {
    let dir = std::env::temp_dir();
    if dir.as_os_str().len() > 40 || is_root() { PathBuf::from("/tmp") } else { dir }
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn own_folder(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(io_error(format!("create {}", path.display())))?;
    own(path)
}

/// Hand a file to the user that the servers run as.
fn own(path: &Path) -> Result<(), Error> {
    if !is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).map_err(io_error(format!("chown {}", path.display())))
}

/// A program that runs as the servers' user, without this process's environment.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LANG", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Variables that say where servers are to be had. All others of tandem's are its settings (`TANDEM_ORIGIN_URL`), or say where
/// one runs (`TANDEM_ADMIN`).
const OF_SERVERS: [&str; 4] = ["TANDEM_PG_BIN", "TANDEM_CACHE", "TANDEM_CASSANDRA", "TANDEM_JAVA"];

/// This tandem, without the settings that the environment has for another: they overrule its file and its arguments, and
/// where tandem runs by them, a demo, a test or a benchmark would work on what that one moves.
pub fn tandem(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let is_setting = |name: &str| name.starts_with("TANDEM_") && !OF_SERVERS.contains(&name);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Run a program to its end.
fn run(mut command: Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(io_error(format!("run {program}")))?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Failed { program, output });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A TCP port that nobody listens on now. Below the range that the system gives to outgoing connections, so that it is
/// still free when a server that was stopped comes back to it.
pub fn free_port() -> u16 {
    let spread = std::process::id().wrapping_mul(97);
    loop {
        let port = 20_000 + (spread.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Where `scripts/setup` puts what it fetches, and where templates are kept: `TANDEM_CACHE`, or the user's cache folder.
/// Root's home is closed to the servers' user, so root has `/var/cache/tandem`.
pub fn cache_folder() -> PathBuf {
    if let Some(dir) = std::env::var_os("TANDEM_CACHE") {
        return PathBuf::from(dir);
    }
    if is_root() {
        return PathBuf::from("/var/cache/tandem");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("tandem")
}
