//! A real PostgreSQL server in a temp folder.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use super::{Error, Installation, Sandbox, cache_folder, command, free_port, io_error, own, own_folder, run};

/// How a server is set up. The default: superuser `postgres`, everybody on 127.0.0.1 is trusted, fsync on.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines of `postgresql.conf`, such as `wal_level = logical`.
    pub config: Vec<String>,
    /// All of `pg_hba.conf`; `None`: trust on 127.0.0.1 and the socket.
    pub hba: Option<String>,
    /// Turn TLS on with this certificate.
    pub tls: Option<Tls>,
}

/// A server's certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: String,
    /// Private key, PEM.
    pub key: String,
    /// Trusted authority for client certificates, PEM.
    pub ca: Option<String>,
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions, writes everything (`pg_ctl stop -m fast`).
    Fast,
    /// Leaves recovery to the next start (`-m immediate`).
    Immediate,
    /// SIGKILL to every process: a crash.
    Kill,
}

/// A server. Dropped, it is gone.
pub struct Postgres {
    // Dropped last: the folder outlives the server.
    folder: PathBuf,
    port: u16,
    installation: Installation,
    child: Option<Child>,
    _sandbox: Sandbox,
}

/// Longest wait for a start or a stop; recovery after a crash under load is well below it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at the server's state file.
const LOOK: Duration = Duration::from_millis(5);
const HBA: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";

impl Postgres {
    /// Make a server and start it. `name` is its folder in the sandbox.
    pub fn start_new(
        sandbox: &Sandbox,
        installation: &Installation,
        name: &str,
        options: &Options,
    ) -> Result<Postgres, Error> {
        let folder = sandbox.folder(name)?;
        copy(&template(installation)?, &folder.join("data"))?;
        configure(&folder.join("data"), &folder, options)?;
        let mut server = Postgres {
            folder,
            port: free_port(),
            installation: installation.clone(),
            child: None,
            _sandbox: sandbox.clone(),
        };
        server.start()?;
        Ok(server)
    }

    /// A physical standby of this server, streaming from it; this server is stopped and started for the copy.
    pub fn start_standby(&mut self, sandbox: &Sandbox, name: &str) -> Result<Postgres, Error> {
        let folder = sandbox.folder(name)?;
        let data = folder.join("data");
        self.stop(Stop::Fast)?;
        copy(&self.data(), &data)?;
        self.start()?;
        let settings = data.join("postgresql.auto.conf");
        let mut config = std::fs::read_to_string(&settings).map_err(io_error("read the server's settings"))?;
        let _ = writeln!(config, "unix_socket_directories = '{}'", folder.display());
        let _ = writeln!(config, "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'", self.port);
        put(&settings, &config)?;
        put(&data.join("standby.signal"), "")?;
        let (port, installation) = (free_port(), self.installation.clone());
        let mut standby = Postgres { folder, port, installation, child: None, _sandbox: sandbox.clone() };
        standby.start()?;
        Ok(standby)
    }

    /// Start it again, on the same port. Returns when it takes connections; recovery after a crash included.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = self.folder.join("log");
        let file = File::options().create(true).append(true).open(&log).map_err(io_error("open the server's log"))?;
        let errors = file.try_clone().map_err(io_error("open the server's log"))?;
        let mut postgres = command(&self.installation.bin.join("postgres"));
        postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]).stdout(file).stderr(errors);
        self.child = Some(postgres.spawn().map_err(io_error("start postgres"))?);
        self.wait_ready()
    }

    /// Stop it and wait until it is gone.
    pub fn stop(&mut self, how: Stop) -> Result<(), Error> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let mut backends = Vec::new();
        match how {
            Stop::Fast => signal(child.id(), libc::SIGINT),
            Stop::Immediate => signal(child.id(), libc::SIGQUIT),
            Stop::Kill => {
                // Stopped, it has no more children: none is missed.
                signal(child.id(), libc::SIGSTOP);
                backends = children(child.id());
                signal(child.id(), libc::SIGKILL);
                backends.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            }
        }
        child.wait().map_err(io_error("wait for postgres"))?;
        // While one of them lives, the shared memory is in use and no server starts on the same data.
        wait_gone(&backends);
        Ok(())
    }

    /// Stop and start.
    pub fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start()
    }

    /// SIGSTOP all its processes: connections stay, nothing answers.
    pub fn freeze(&self) {
        self.everybody().into_iter().for_each(freeze);
    }

    /// SIGCONT all its processes.
    pub fn thaw(&self) {
        self.everybody().into_iter().for_each(|pid| signal(pid, libc::SIGCONT));
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `postgres://postgres@127.0.0.1:PORT/database`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The folder of its unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.folder
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it is.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The end of its log, for an error or a failing test.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned()
    }

    fn everybody(&self) -> Vec<u32> {
        let postmaster = self.child.as_ref().map(Child::id);
        postmaster.into_iter().flat_map(|pid| children(pid).into_iter().chain([pid])).collect()
    }

    /// Line 8 of `postmaster.pid` says `ready`, or `standby`, once connections are taken (source: `miscadmin.h`,
    /// LOCK_FILE_LINE_PM_STATUS).
    fn wait_ready(&mut self) -> Result<(), Error> {
        let pid = self.child.as_ref().map(Child::id).unwrap_or_default().to_string();
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            let state = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines();
            if lines.next() == Some(pid.as_str())
                && lines.nth(6).is_some_and(|line| ["ready", "standby"].contains(&line.trim()))
            {
                return Ok(());
            }
            let exited = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if exited {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.stop(Stop::Kill);
        Err(Error::Failed { program: format!("postgres {}", self.installation.version), output: self.log_tail() })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        let _ = self.stop(Stop::Immediate);
    }
}

/// A folder as `initdb` makes it, made once for each version and copied for each server.
fn template(installation: &Installation) -> Result<PathBuf, Error> {
    let templates = cache_folder().join("templates");
    let ready = templates.join(&installation.version);
    if ready.join("PG_VERSION").is_file() {
        return Ok(ready);
    }
    own_folder(&templates)?;
    // Several processes may be at it; the first rename counts.
    let fresh = templates.join(format!("{}.{}-{}", installation.version, std::process::id(), free_port()));
    let mut initdb = command(&installation.bin.join("initdb"));
    initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]).arg("-D").arg(&fresh);
    run(initdb)?;
    if std::fs::rename(&fresh, &ready).is_err() {
        let _ = std::fs::remove_dir_all(&fresh);
    }
    Ok(ready)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(from).arg(to);
    run(cp).map(drop)
}

fn configure(data: &Path, sockets: &Path, options: &Options) -> Result<(), Error> {
    let mut config = format!(
        "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 400\nshared_buffers = 64MB\n",
        sockets.display()
    );
    if let Some(tls) = &options.tls {
        config.push_str("ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n");
        put(&data.join("server.crt"), &tls.cert)?;
        put(&data.join("server.key"), &tls.key)?;
        if let Some(ca) = &tls.ca {
            config.push_str("ssl_ca_file = 'ca.crt'\n");
            put(&data.join("ca.crt"), ca)?;
        }
    }
    for line in &options.config {
        let _ = writeln!(config, "{line}");
    }
    put(&data.join("postgresql.auto.conf"), &config)?;
    put(&data.join("pg_hba.conf"), options.hba.as_deref().unwrap_or(HBA))
}

/// Write a file that only the server may read.
pub(super) fn put(path: &Path, text: &str) -> Result<(), Error> {
    let what = || format!("write {}", path.display());
    std::fs::write(path, text).map_err(io_error(what()))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(io_error(what()))?;
    own(path)
}

/// Source: proc(5), `/proc/pid/task/tid/children`.
fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Wait for the end of processes that were killed.
fn wait_gone(pids: &[u32]) {
    wait_until(|| !pids.iter().any(|pid| is_alive(*pid)));
}

/// For [`PATIENCE`] at most.
fn wait_until(so: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if so() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Not gone, and not waiting to be reaped. Source: proc(5), `/proc/pid/stat`: the state follows the name in parentheses.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// SIGSTOP, and wait until each thread has stopped: a busy machine takes its time.
pub(super) fn freeze(pid: u32) {
    signal(pid, libc::SIGSTOP);
    wait_until(|| has_stopped(pid));
}

/// Source: proc(5), `/proc/pid/task/tid/stat`, field 3.
fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let stat = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
    let state = |stat: String| stat.rsplit_once(") ").map_or("T".to_owned(), |(_, rest)| rest[..1].to_owned());
    threads.flatten().map(stat).map(state).all(|state| ["T", "t", "Z", "X"].contains(&state.as_str()))
}

pub(super) fn signal(pid: u32, signal: i32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: kill takes no memory of ours; the pid is a child that was not waited for, or a child of it.
    unsafe { libc::kill(pid, signal) };
}
