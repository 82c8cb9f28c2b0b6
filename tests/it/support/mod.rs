//! What the tests have in common: servers and clients.

#![allow(dead_code, reason = "each test uses what it needs")]

pub(crate) mod bank;
pub(crate) mod cassandra;
pub(crate) mod control;
pub(crate) mod cql;
pub(crate) mod cql_load;
pub(crate) mod cql_type;
pub(crate) mod history;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod paper;
pub(crate) mod raw;
pub(crate) mod stage;
pub(crate) mod tandem;

use std::time::Duration;

use ::tandem::sandbox::{Installation, Options, Postgres, Sandbox, binaries};
use tokio_postgres::NoTls;

/// Look again and again, for as long as nothing but a hang takes on a machine that is busy with other things; ever more
/// seldom, for looking keeps it busy too.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let looks = async {
        let mut pause = Duration::from_millis(5);
        loop {
            match look().await {
                Some(found) => break found,
                None => tokio::time::sleep(pause).await,
            }
            pause = (pause * 5 / 4).min(Duration::from_millis(25));
        }
    };
    tokio::time::timeout(Duration::from_secs(180), looks).await.ok()
}

/// A server of the newest version with default options, and its sandbox.
pub(crate) fn server(name: &str) -> Postgres {
    server_with(name, &newest(), &Options::default())
}

/// A server.
pub(crate) fn server_with(name: &str, installation: &Installation, options: &Options) -> Postgres {
    let sandbox = Sandbox::new(false).expect("a temp folder");
    Postgres::start_new(&sandbox, installation, name, options).expect("a server")
}

/// An old origin and a new target: two versions where they can be had.
pub(crate) fn pair() -> (Postgres, Postgres) {
    let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    (server_with("origin", &old, &Options::default()), server_with("target", &new, &Options::default()))
}

/// The newest PostgreSQL there is.
pub(crate) fn newest() -> Installation {
    binaries::oldest_and_newest().expect("PostgreSQL is installed").1
}

/// A client of `url`; its connection runs as a task of the test.
pub(crate) async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server answers");
    tokio::spawn(connection);
    client
}

/// Run a script of statements on `url`, on a connection of its own.
pub(crate) async fn sql(url: &str, script: &str) {
    connect(url).await.batch_execute(script).await.expect(script);
}

/// The rows of a query as text, columns separated by `|`.
pub(crate) async fn rows(url: &str, query: &str) -> Vec<String> {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = connect(url).await.simple_query(query).await.expect(query);
    let line = |row: &tokio_postgres::SimpleQueryRow| {
        let cells: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
        cells.join("|")
    };
    messages.iter().filter_map(|message| if let Row(row) = message { Some(line(row)) } else { None }).collect()
}
