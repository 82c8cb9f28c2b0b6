//! Clients as users have them: one journey with each driver (`tests/journeys`), direct and through a real `tandem run`
//! with mirroring on. Both print the same observations, and the target ends with the rows of the origin.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tandem::sandbox::{Installation, Options, Sandbox, binaries, cache_folder, free_port, postgres::Tls};

use crate::support::{newest, rows, server_with, sql, tandem::Tandem};

const SCHEMA: &str = include_str!("../journeys/schema.sql");
pub(crate) const TABLES: &[&str] = &["typed", "item", "account", "bulk"];
/// Of both users: `by_scram` and `by_md5`.
pub(crate) const PASSWORD: &str = "open sesame";
const ROLES: &str = "
    SET password_encryption = 'scram-sha-256'; CREATE ROLE by_scram LOGIN PASSWORD 'open sesame';
    SET password_encryption = 'md5'; CREATE ROLE by_md5 LOGIN PASSWORD 'open sesame';
";
const GRANTS: &str = "
    GRANT ALL ON ALL TABLES IN SCHEMA public TO by_scram;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO by_scram;
";
/// tandem itself is `postgres`; clients prove who they are.
const HBA: &str = "local all all trust\nhost all postgres all trust\nhost all by_md5 all md5\n\
                   host all all all scram-sha-256\n";

/// Origin and target, tandem between them, TLS everywhere: the origin and tandem show the same certificate.
pub(crate) struct Stage {
    pub(crate) origin: tandem::sandbox::Postgres,
    pub(crate) target: tandem::sandbox::Postgres,
    pub(crate) tandem: Tandem,
    /// Of the listener with TLS.
    port: u16,
    files: Sandbox,
}

/// Where a journey connects.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) port: u16,
    pub(crate) database: &'static str,
    pub(crate) root_cert: PathBuf,
}

impl Stage {
    pub(crate) async fn build() -> Stage {
        let (old, new) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
        let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let issued = issued.expect("a certificate");
        let (cert, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
        let files = Sandbox::new(false).expect("a temp folder");
        std::fs::write(files.dir().join("server.crt"), &cert).expect("written");
        std::fs::write(files.dir().join("server.key"), &key).expect("written");
        let tls = Some(Tls { cert, key, ca: None });
        let origin = server_with("origin", &old, &Options { hba: Some(HBA.to_owned()), tls, ..Options::default() });
        let target = server_with("target", &new, &Options::default());
        sql(&origin.url("postgres"), ROLES).await;
        for database in ["direct", "app"] {
            sql(&origin.url("postgres"), &format!("CREATE DATABASE {database}")).await;
            sql(&origin.url(database), &format!("{SCHEMA}{GRANTS}")).await;
        }
        sql(&target.url("postgres"), "CREATE DATABASE app").await;
        sql(&target.url("app"), SCHEMA).await;
        let crt = files.dir().join("server.crt");
        let port = free_port();
        let more = format!(
            "[[listen]]\nwire = \"postgres\"\naddress = \"127.0.0.1:{port}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n\
             [mirror]\nself_repair = false\n",
            crt.display(),
            files.dir().join("server.key").display(),
        );
        let url = format!("{}?sslmode=verify-full&sslrootcert={}", origin.url("app"), crt.display());
        let tandem = Tandem::start(&url, &target.url("app"), &more).await;
        Stage { origin, target, tandem, port, files }
    }

    pub(crate) fn direct(&self) -> Place {
        self.place(self.origin.port(), "direct")
    }

    pub(crate) fn through(&self) -> Place {
        self.place(self.port, "app")
    }

    fn place(&self, port: u16, database: &'static str) -> Place {
        Place { port, database, root_cert: self.files.dir().join("server.crt") }
    }

    /// Everything was captured row by row and nothing is set aside; both sides hold the same rows, some in each table.
    pub(crate) async fn assert_mirrored(&self, tables: &[&str]) {
        self.tandem.nothing_set_aside().await;
        for table in tables {
            let query = format!("SELECT * FROM {table} AS t ORDER BY t::text");
            let (origin, target) =
                (rows(&self.origin.url("app"), &query).await, rows(&self.target.url("app"), &query).await);
            assert!(!origin.is_empty(), "the journey wrote nothing to {table}");
            assert_eq!(origin, target, "{table} differs");
        }
    }
}

/// What `scripts/setup --drivers` fetched for a driver.
pub(crate) fn driver(name: &str, file: &str) -> PathBuf {
    let path = cache_folder().join("drivers").join(name).join(file);
    assert!(
        path.exists(),
        "the driver of this journey is not installed ({}); run: scripts/setup --drivers",
        path.display()
    );
    path
}

pub(crate) fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journeys").join(path)
}

/// A program whose surroundings are only what the journey needs.
fn at(mut command: Command, place: &Place) -> Command {
    command.envs([
        ("PGHOST", "127.0.0.1"),
        ("PGUSER", "by_scram"),
        ("PGPASSWORD", PASSWORD),
        ("PGDATABASE", place.database),
    ]);
    command.env("PGPORT", place.port.to_string()).env("PGSSLROOTCERT", &place.root_cert).env("TZ", "UTC");
    command.stdin(std::process::Stdio::null());
    command
}

pub(crate) fn said(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Run it to its end; it must succeed.
async fn travel(command: Command, place: &Place, name: &str) -> Vec<String> {
    let output = tokio::process::Command::from(at(command, place)).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await;
    let output = output.unwrap_or_else(|_| panic!("{name} hangs")).expect("the program of the journey runs");
    let lines = said(&output);
    assert!(output.status.success(), "{name}: {lines:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines.len() > 10, "{name} saw too little: {lines:#?}");
    lines
}

/// Direct, then through tandem.
async fn journey(command: impl Fn() -> Command) {
    let stage = Stage::build().await;
    let direct = travel(command(), &stage.direct(), "direct").await;
    let through = travel(command(), &stage.through(), "through tandem").await;
    same(&direct, &through);
    stage.assert_mirrored(TABLES).await;
}

pub(crate) fn same(direct: &[String], through: &[String]) {
    for (direct, through) in direct.iter().zip(through) {
        assert_eq!(direct, through, "seen direct (left) and through tandem (right)");
    }
    assert_eq!(direct.len(), through.len());
}

pub(crate) fn python(journey: &str) -> Command {
    let mut command = Command::new(driver("python", "bin/python"));
    driver("python", "requirements.txt"); // Written last: the installation is whole.
    command.arg(script("python").join(journey));
    command
}

pub(crate) fn node(journey: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script("node-postgres").join(journey)).env("JOURNEY_PG", driver("node-postgres", "node_modules/pg"));
    command
}

pub(crate) fn java(journey: &str) -> Command {
    driver("pgjdbc", "pom.xml"); // Written last: the installation is whole.
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp"]);
    command.arg(driver("pgjdbc", "").join("*")).arg(script("pgjdbc").join(journey));
    command
}

fn psql(installation: &Installation) -> Command {
    let mut sh = Command::new("sh");
    sh.arg(script("psql/journey.sh")).arg(installation.bin.join("psql"));
    sh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_psql_sees_no_difference() {
    let (oldest, _) = binaries::oldest_and_newest().expect("PostgreSQL is installed");
    journey(|| psql(&oldest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_psql_sees_no_difference() {
    journey(|| psql(&newest())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psycopg_sees_no_difference() {
    journey(|| python("journey_psycopg.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asyncpg_sees_no_difference() {
    journey(|| python("journey_asyncpg.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_postgres_sees_no_difference() {
    journey(|| node("journey.js")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgjdbc_sees_no_difference() {
    journey(|| java("Journey.java")).await;
}
