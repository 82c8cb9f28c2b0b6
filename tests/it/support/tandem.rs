//! The real binary as a child process.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use ::tandem::admin::client::Client;
use ::tandem::config::Secret;
use ::tandem::sandbox::{self, Sandbox, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::until;

/// The program under test, without the settings of whoever tests it. Nothing else starts it.
pub(crate) fn program() -> Command {
    sandbox::tandem(env!("CARGO_BIN_EXE_tandem"))
}

/// What tables and types of other tests may be found to lack, where nodes are shared.
const OF_OTHERS: [&str; 4] = ["schema_differs", "index_missing", "type_differs", "clustering_order_differs"];

/// A running `tandem run`; dropped, it is killed.
pub(crate) struct Tandem {
    child: Option<Child>,
    sandbox: Sandbox,
    /// Where clients connect.
    pub(crate) port: u16,
    /// Where the admin API is.
    pub(crate) admin: String,
    token: Option<Secret>,
}

impl Tandem {
    /// Start it between two servers. `more` is added to its proxy.toml. Returns when it is ready.
    pub(crate) async fn start(origin: &str, target: &str, more: &str) -> Tandem {
        Tandem::start_wire("postgres", origin, target, more).await
    }

    async fn start_wire(wire: &str, origin: &str, target: &str, more: &str) -> Tandem {
        Tandem::start_listening(wire, "", origin, target, more).await
    }

    /// The same, with more lines of `[[listen]]`.
    pub(crate) async fn start_listening(wire: &str, listen: &str, origin: &str, target: &str, more: &str) -> Tandem {
        let mut tandem = Tandem::configured(wire, listen, origin, target, more);
        tandem.launch().await;
        tandem
    }

    /// Start it with a token of the admin API.
    pub(crate) async fn start_guarded(origin: &str, target: &str, token: &str) -> Tandem {
        let mut tandem = Tandem::configured("postgres", "", origin, target, "token_file = \"admin.token\"");
        std::fs::write(tandem.dir().join("admin.token"), token).expect("written");
        tandem.token = Some(Secret::new(token));
        tandem.launch().await;
        tandem
    }

    /// What [`Tandem::start_listening`] would start.
    pub(crate) fn configured(wire: &str, listen: &str, origin: &str, target: &str, more: &str) -> Tandem {
        let sandbox = Sandbox::new(false).expect("a temp folder");
        let (port, admin) = (free_port(), free_port());
        let text = format!(
            "[[listen]]\nwire = \"{wire}\"\naddress = \"127.0.0.1:{port}\"\n{listen}\n\
             [origin]\nurl = \"{origin}\"\n[target]\nurl = \"{target}\"\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n{more}\n"
        );
        std::fs::write(sandbox.dir().join("proxy.toml"), text).expect("written");
        Tandem { child: None, sandbox, port, admin: format!("http://127.0.0.1:{admin}"), token: None }
    }

    /// Start it between two nodes of Cassandra, as [`Tandem::start`] does.
    pub(crate) async fn start_cql(origin: SocketAddrV4, target: SocketAddrV4, more: &str) -> Tandem {
        Tandem::start_wire("cql", &format!("cql://{origin}"), &format!("cql://{target}"), more).await
    }

    /// Start the process, again with the same files. Returns when it is ready.
    pub(crate) async fn launch(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Start the process, and wait for nothing.
    pub(crate) fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir().join("log")).expect("a log");
        let mut command = program();
        command.arg("run").current_dir(self.dir()).stdin(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the binary runs"));
    }

    async fn ready(&mut self) {
        let client = self.client();
        let ready = until(async || {
            if client.get("/v1/status").await.is_ok_and(|status| status["readiness"] == "ready") {
                return Some(());
            }
            if let Ok(Some(status)) = self.child.as_mut().expect("spawned above").try_wait() {
                panic!("tandem ended with {status}:\n{}", self.log());
            }
            None
        });
        if ready.await.is_none() {
            panic!("tandem is not ready:\n{}", self.log());
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }

    /// SIGSTOP: connections stay, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// A signal, and nothing is waited for.
    pub(crate) fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Wait until it ends by itself, as long as is ever waited; the exit code.
    pub(crate) async fn ended_soon(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("it was started");
        until(async || child.try_wait().expect("it is ours")).await.and_then(|status| status.code())
    }

    /// Wait until it ends by itself; the exit code. Blocks.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.take()?.wait().expect("it is ours").code()
    }

    /// `postgres://postgres@..` through it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)
    }

    /// Switch the primary, and wait for it; asked again while something stands in the way that passes. Other tests have tables
    /// of their own on shared nodes.
    pub(crate) async fn switch_to(&self, side: &str) {
        let mut last = String::new();
        let switched = until(async || {
            let asked = self.switch_once(side).await;
            asked.map_err(|said| last = said).ok()
        });
        switched.await.unwrap_or_else(|| panic!("no switch to {side}: {last}\n{}", self.log()));
    }

    /// The same, asked once; else what was said.
    pub(crate) async fn switch_once(&self, side: &str) -> Result<(), String> {
        let mut command = tokio::process::Command::from(program());
        command.args(["switch", side, "--yes", "--admin", &self.admin]);
        command.args(OF_OTHERS.iter().flat_map(|name| ["--ignore", name]));
        let output = command.output().await.expect("the binary runs");
        let said = || String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(()).ok_or_else(said)
    }

    /// The admin API.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.admin, self.token.as_ref()).expect("a URL")
    }

    /// What it measures, in Prometheus' text format.
    pub(crate) async fn metrics(&self) -> String {
        let address = self.admin.strip_prefix("http://").expect("a URL");
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let asked = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("text");
        text
    }

    /// One of them that counts; 0 if it was never counted.
    pub(crate) async fn count(&self, series: &str) -> u64 {
        let metrics = self.metrics().await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// Wait until the secondary has everything, and nothing is parked or dirty. Clients are silent meanwhile.
    pub(crate) async fn settled(&self) {
        self.status_is("settled", is_settled).await;
    }

    /// Wait until everything that was written is paid; what is parked or dirty stays so.
    pub(crate) async fn caught_up(&self) {
        self.status_is("caught up", has_caught_up).await;
    }

    /// Everything that was written is paid, not a row parked and not a table dirty. Of a tandem with `mirror.self_repair =
    /// false`: nothing ever was.
    pub(crate) async fn nothing_set_aside(&self) {
        self.caught_up().await;
        for ledger in ["/v1/dirty", "/v1/parked"] {
            let list = self.client().get(ledger).await.expect("it answers");
            assert_eq!(list, serde_json::json!([]), "{ledger}\n{}", self.log());
        }
    }

    /// Wait until the mirror is in this phase.
    pub(crate) async fn mirror_is(&self, phase: &str) {
        self.status_is(phase, |status| status["mirror"]["phase"] == phase).await;
    }

    /// Wait until it has paid something since it was started.
    pub(crate) async fn mirror_pays(&self) {
        self.status_is("paying", |status| status["mirror"]["paid_keys"].as_u64() > Some(0)).await;
    }

    pub(crate) async fn status_is(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) {
        let mut last = String::new();
        let so = until(async || {
            let status = self.client().get("/v1/status").await;
            last = match &status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            status.is_ok_and(|status| is(&status)).then_some(())
        });
        so.await.unwrap_or_else(|| panic!("never {what}: {last}\n{}", self.log()));
    }

    /// Ask for the repair of every dirty table; [`Tandem::settled`] waits for it.
    pub(crate) async fn repair_all(&self) {
        self.status_is("caught up", has_caught_up).await;
        let dirty = self.client().get("/v1/dirty").await.expect("it answers");
        for table in dirty.as_array().expect("a list") {
            let body = serde_json::json!({"action": "repair", "table": table["id"]});
            // It may have repaired itself meanwhile.
            let _ = self.client().post("/v1/dirty", &body).await;
        }
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Memory that it holds, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let pid = self.child.as_ref().expect("it runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
    }

    /// Its working folder, with proxy.toml and the journal.
    pub(crate) fn dir(&self) -> &Path {
        self.sandbox.dir()
    }
}

impl Drop for Tandem {
    fn drop(&mut self) {
        self.kill();
    }
}

fn zero(status: &serde_json::Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| status["mirror"][field].as_u64() == Some(0))
}

/// The mirror has read and paid the whole journal.
fn has_caught_up(status: &serde_json::Value) -> bool {
    zero(status, &["lag_records", "lag_keys", "lag_bytes"])
}

fn is_settled(status: &serde_json::Value) -> bool {
    has_caught_up(status) && zero(status, &["dirty", "parked"])
}

/// Run the command line to its end.
pub(crate) fn cli(args: &[&str]) -> Output {
    program().args(args).output().expect("the binary runs")
}

/// A running `tandem backfill worker`, with the files of the tandem that it works for; dropped, it is killed.
pub(crate) struct Worker {
    child: Option<Child>,
    folder: std::path::PathBuf,
    name: String,
}

impl Worker {
    /// Start the process.
    pub(crate) fn start(tandem: &Tandem, name: &str, more: &[&str]) -> Worker {
        let folder = tandem.dir().to_owned();
        let file = |kind: &str| std::fs::File::create(folder.join(format!("worker-{name}.{kind}"))).expect("a file");
        let mut command = program();
        command.args(["backfill", "worker", "--json", "--admin", &tandem.admin, "--name", name]).args(more);
        command.current_dir(&folder).stdin(Stdio::null()).stdout(file("out")).stderr(file("log"));
        let child = Some(command.spawn().expect("the binary runs"));
        Worker { child, folder, name: name.to_owned() }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// Ctrl-C; the exit code, and what it printed.
    pub(crate) fn interrupt(&mut self) -> (Option<i32>, String) {
        self.signal("INT");
        let code = self.ended();
        (code, self.file("out"))
    }

    /// A signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs").success());
    }

    /// Wait until it ends; the exit code. Blocks.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.take()?.wait().expect("it is ours").code()
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        self.file("log")
    }

    fn file(&self, kind: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("worker-{}.{kind}", self.name))).unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
