//! Real servers for the tests of this folder, one of each installed version per test.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::client::{Endpoint, Host, ServerConfig, SslMode, Tls};

pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

fn nobody(command: &mut Command) -> &mut Command {
    command
        .uid(65534)
        .gid(65534)
        .env_clear()
        .env("LANG", "C")
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

fn bins() -> Vec<PathBuf> {
    let mut bins: Vec<PathBuf> = std::env::var("TANDEM_PG_BIN").iter().flat_map(std::env::split_paths).collect();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        bins.push(entry.path().join("bin"));
    }
    bins.retain(|bin| bin.join("postgres").exists());
    assert!(!bins.is_empty(), "no PostgreSQL found: apt-get install postgresql, or set TANDEM_PG_BIN");
    bins
}

impl Server {
    pub(crate) fn all() -> Vec<Server> {
        bins().iter().map(|bin| Server::start(bin)).collect()
    }

    pub(crate) fn any() -> Server {
        Server::start(&bins()[0])
    }

    fn start(bin: &Path) -> Server {
        static PORT: AtomicU16 = AtomicU16::new(0);
        let port = 20000 + (std::process::id() % 1000) as u16 * 20 + PORT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("tpg").tempdir_in("/tmp").expect("a folder");
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).expect("chown");
        let data = dir.path().join("d");
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["--no-sync", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        assert!(nobody(&mut initdb).status().expect("initdb").success());
        let hba = "local all all trust\nhost all by_md5 all md5\nhost all all all scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), hba).expect("written");
        let mut postgres = Command::new(bin.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(dir.path()).args(["-p", &port.to_string()]);
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_prepared_transactions=10", "-c", "fsync=off"]);
        let child = nobody(&mut postgres).spawn().expect("postgres");
        let pid_file = data.join("postmaster.pid");
        while !std::fs::read_to_string(&pid_file)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|l| l.trim() == "ready"))
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Server { child, dir, port }
    }

    pub(crate) fn config(&self) -> ServerConfig {
        ServerConfig {
            hosts: vec![Endpoint { host: Host::Unix(self.dir.path().into()), port: self.port }],
            user: "postgres".into(),
            database: "postgres".into(),
            ..ServerConfig::default()
        }
    }

    pub(crate) fn tcp_config(&self) -> ServerConfig {
        let hosts = vec![Endpoint { host: Host::Tcp("127.0.0.1".into()), port: self.port }];
        ServerConfig { hosts, tls: Tls { mode: SslMode::Prefer, ..Tls::default() }, ..self.config() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: immediate shutdown, children included.
        unsafe { libc::kill(i32::try_from(self.child.id()).expect("a pid"), libc::SIGQUIT) };
        let _ = self.child.wait();
    }
}
