//! What stands between clients and a server: tandem, and who it is compared with, as child processes.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tandem::sandbox::{self, Postgres, Sandbox, free_port};
use tempfile::TempDir;

/// Where pgbouncer is.
const PGBOUNCER: &str = "TANDEM_BENCH_PGBOUNCER";
/// Where zdm-proxy is.
const ZDM: &str = "ZDM_PROXY";
/// A folder for tandem's journals, on a disk that is not the servers'.
const JOURNAL: &str = "TANDEM_BENCH_DIR";
/// Longest time for a start, and for a mirror to catch up.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// The same for a backfill or a verify.
const WALK_PATIENCE: Duration = Duration::from_secs(1_800);
const WALK_LOOK: Duration = Duration::from_millis(15);

/// The binary of this build, without the settings of whoever measures.
fn program() -> Command {
    sandbox::tandem(env!("CARGO_BIN_EXE_tandem"))
}

/// A proxy that runs; dropped, it is killed.
pub(crate) struct Proxy {
    child: Child,
    sandbox: Sandbox,
    log: PathBuf,
    /// Where clients connect.
    pub(crate) port: u16,
    /// Where its API is, if it is tandem.
    admin: u16,
    /// Its journal, if that is elsewhere; removed when the process is gone.
    journal: Option<TempDir>,
}

impl Proxy {
    /// tandem between a database of `origin` and one of `target`, with more lines of configuration. It is ready.
    pub(crate) fn tandem(sandbox: &Sandbox, origin: &str, target: &str, more: &str) -> Result<Proxy> {
        Proxy::tandem_on(sandbox, "postgres", origin, target, more)
    }

    /// The same on any wire.
    pub(crate) fn tandem_on(sandbox: &Sandbox, wire: &str, origin: &str, target: &str, more: &str) -> Result<Proxy> {
        let (port, admin) = (free_port(), free_port());
        let dir = sandbox.dir().join(format!("tandem-{port}"));
        std::fs::create_dir(&dir)?;
        let text = format!(
            "[[listen]]\nwire = \"{wire}\"\naddress = \"127.0.0.1:{port}\"\n[origin]\nurl = \"{origin}\"\n\
             [target]\nurl = \"{target}\"\n[admin]\naddress = \"127.0.0.1:{admin}\"\n{more}\n"
        );
        std::fs::write(dir.join("proxy.toml"), text)?;
        let mut command = program();
        command.arg("run").current_dir(&dir);
        let journal = std::env::var_os(JOURNAL).map(tempfile::tempdir_in).transpose()?;
        command.envs(journal.iter().map(|journal| ("TANDEM_JOURNAL_DIR", journal.path())));
        let mut proxy = Proxy::start(sandbox, command, port, admin, &dir)?;
        proxy.journal = journal;
        proxy.wait("ready", |proxy| Ok(proxy.status().is_ok_and(|status| status["readiness"] == "ready")))?;
        Ok(proxy)
    }

    /// pgbouncer with session pooling. `None`: nobody said where it is.
    ///
    /// It uses a server connection once only, as everybody else here: a backend that has been there for a round has most of
    /// the table mapped into its memory, which made a round of two seconds a tenth faster and is no work of a proxy's.
    pub(crate) fn pgbouncer(sandbox: &Sandbox, server: &Postgres) -> Result<Option<Proxy>> {
        let Some(program) = std::env::var_os(PGBOUNCER) else { return Ok(None) };
        let port = free_port();
        let dir = sandbox.dir().join(format!("pgbouncer-{port}"));
        std::fs::create_dir(&dir)?;
        let users = dir.join("users.txt");
        std::fs::write(&users, "\"postgres\" \"\"\n")?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = trust\nauth_file = {}\npool_mode = session\ndefault_pool_size = 100\nunix_socket_dir =\n\
             log_connections = 0\nlog_disconnections = 0\nserver_lifetime = 0\n",
            server.port(),
            users.display()
        );
        std::fs::write(dir.join("pgbouncer.ini"), text)?;
        let mut command = Command::new(program);
        // As root it refuses to run as root.
        if std::fs::metadata(&dir).is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) {
            command.args(["-u", "nobody"]);
        }
        command.arg("-q").arg(dir.join("pgbouncer.ini"));
        let mut proxy = Proxy::start(sandbox, command, port, 0, &dir)?;
        proxy.wait("ready", |proxy| Ok(TcpStream::connect(("127.0.0.1", proxy.port)).is_ok()))?;
        Ok(Some(proxy))
    }

    /// What to say without it.
    pub(crate) fn no_pgbouncer() -> String {
        format!("not compared with pgbouncer: say where it is, such as {PGBOUNCER}=/usr/sbin/pgbouncer")
    }

    /// A copy of this program between its client and a server: see `support::cql::splice`.
    pub(crate) fn splice(sandbox: &Sandbox, server: SocketAddr) -> Result<Proxy> {
        let port = free_port();
        let dir = sandbox.dir().join(format!("splice-{port}"));
        std::fs::create_dir(&dir)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(format!("--splice=127.0.0.1:{port}")).arg(format!("--splice-to={server}"));
        let mut proxy = Proxy::start(sandbox, command, port, 0, &dir)?;
        proxy.wait("ready", |proxy| Ok(TcpStream::connect(("127.0.0.1", proxy.port)).is_ok()))?;
        Ok(proxy)
    }

    /// zdm-proxy as its manual sets it up. `None`: nobody said where it is.
    pub(crate) fn zdm(sandbox: &Sandbox, origin: SocketAddr, target: SocketAddr) -> Result<Option<Proxy>> {
        let Some(program) = std::env::var_os(ZDM) else { return Ok(None) };
        let port = free_port();
        let dir = sandbox.dir().join(format!("zdm-{port}"));
        std::fs::create_dir(&dir)?;
        let mut command = Command::new(program);
        for (side, server) in [("ORIGIN", origin), ("TARGET", target)] {
            command.env(format!("ZDM_{side}_CONTACT_POINTS"), server.ip().to_string());
            command.env(format!("ZDM_{side}_PORT"), server.port().to_string());
            command.env(format!("ZDM_{side}_USERNAME"), "cassandra");
            command.env(format!("ZDM_{side}_PASSWORD"), "cassandra");
        }
        command.env("ZDM_PROXY_LISTEN_ADDRESS", "127.0.0.1").env("ZDM_PROXY_LISTEN_PORT", port.to_string());
        // It begins with a version of another product, which nodes of Cassandra refuse.
        command.env("ZDM_CONTROL_CONN_MAX_PROTOCOL_VERSION", "4");
        command.env("ZDM_METRICS_PORT", free_port().to_string()).env("ZDM_LOG_LEVEL", "WARN");
        let mut proxy = Proxy::start(sandbox, command, port, 0, &dir)?;
        proxy.wait("ready", |proxy| Ok(TcpStream::connect(("127.0.0.1", proxy.port)).is_ok()))?;
        Ok(Some(proxy))
    }

    /// What to say without it.
    pub(crate) fn no_zdm() -> String {
        format!("not compared with zdm-proxy: say where it is, such as {ZDM}=/usr/local/bin/zdm-proxy")
    }

    fn start(sandbox: &Sandbox, mut command: Command, port: u16, admin: u16, dir: &Path) -> Result<Proxy> {
        let log = dir.join("log");
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        sandbox.remember(child.id())?;
        Ok(Proxy { child, sandbox: sandbox.clone(), log, port, admin, journal: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What tandem says of itself.
    pub(crate) fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    /// What a command of tandem's answers, whatever its exit code.
    pub(crate) fn ask(&self, command: &[&str]) -> Result<Value> {
        let admin = format!("http://127.0.0.1:{}", self.admin);
        let output = program().args(command).args(["--json", "--admin", &admin]).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Wait until the target has everything.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let fields = ["lag_records", "lag_keys", "lag_bytes", "dirty", "parked"];
        self.wait("settled", |proxy| {
            let status = proxy.status()?;
            Ok(fields.iter().all(|field| status["mirror"][field].as_u64() == Some(0)))
        })
    }

    /// Wait until a backfill or a verify has ended, and how.
    pub(crate) fn ended(&self, kind: &str) -> Result<Value> {
        let began = Instant::now();
        while began.elapsed() < WALK_PATIENCE {
            let report = self.ask(&[kind, "status"])?;
            if ["Done", "Failed", "Cancelled"].iter().any(|state| report["state"] == *state) {
                return Ok(report);
            }
            sleep(WALK_LOOK);
        }
        bail!("the {kind} never ends")
    }

    fn wait(&mut self, what: &str, is: impl Fn(&Proxy) -> Result<bool>) -> Result<()> {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if is(self)? {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                break;
            }
            sleep(LOOK);
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        bail!("never {what}: {:?}\n{log}", self.status().ok())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.sandbox.forget(self.child.id());
    }
}
