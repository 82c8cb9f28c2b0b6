//! Real servers for the tests of this folder: the oldest and the newest installed version.

use crate::sandbox::{Options, Postgres, Sandbox, binaries};

use super::client::{Endpoint, Host, ServerConfig};

pub(crate) struct Server(Postgres);

const HBA: &str = "local all all trust\nhost all by_md5 all md5\nhost all all all scram-sha-256\n";

impl Server {
    pub(crate) fn all() -> Vec<Server> {
        let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
        [old, new].iter().map(|installation| Server::start(installation, None)).collect()
    }

    pub(crate) fn any() -> Server {
        Server::start(&binaries::oldest_and_newest().expect("PostgreSQL is installed").0, None)
    }

    pub(crate) fn with_tls(tls: crate::sandbox::postgres::Tls) -> Server {
        Server::start(&binaries::oldest_and_newest().expect("PostgreSQL is installed").0, Some(tls))
    }

    fn start(installation: &crate::sandbox::Installation, tls: Option<crate::sandbox::postgres::Tls>) -> Server {
        let sandbox = Sandbox::new(false).expect("a temp folder");
        let options = Options { hba: Some(HBA.into()), tls, ..Options::default() };
        Server(Postgres::start_new(&sandbox, installation, "server", &options).expect("a server"))
    }

    /// SIGSTOP: it answers nothing any more, and hangs up on nobody.
    pub(crate) fn freeze(&self) {
        self.0.freeze();
    }

    /// By its socket, where everybody is trusted.
    pub(crate) fn config(&self) -> ServerConfig {
        ServerConfig {
            hosts: vec![Endpoint { host: Host::Unix(self.0.socket_dir().into()), port: self.0.port() }],
            user: "postgres".into(),
            database: "postgres".into(),
            ..ServerConfig::default()
        }
    }

    /// By TCP, where passwords are asked for.
    pub(crate) fn tcp_config(&self) -> ServerConfig {
        let hosts = vec![Endpoint { host: Host::Tcp("127.0.0.1".into()), port: self.0.port() }];
        ServerConfig { hosts, ..self.config() }
    }
}
