//! The servers that all other tests stand on.

use ::tandem::sandbox::{Options, Sandbox, Stop, binaries};

use crate::support::{newest, rows, server, server_with, sql};

#[tokio::test]
async fn a_server_survives_every_kind_of_stop_with_what_it_committed() {
    for installation in binaries::installations().expect("PostgreSQL is installed") {
        let mut server = server_with("s", &installation, &Options::default());
        let url = server.url("postgres");
        sql(&url, "CREATE TABLE t (n int PRIMARY KEY)").await;
        for (n, how) in [Stop::Fast, Stop::Immediate, Stop::Kill].into_iter().enumerate() {
            sql(&url, &format!("INSERT INTO t VALUES ({n})")).await;
            server.restart(how).expect("it comes back");
            let count = rows(&url, "SELECT count(*) FROM t").await;
            assert_eq!(count, [(n + 1).to_string()], "{} {how:?}", installation.version);
        }
    }
}

#[tokio::test]
async fn options_reach_the_server() {
    let options = Options { config: vec!["work_mem = 7MB".to_owned()], ..Options::default() };
    let server = server_with("s", &newest(), &options);
    assert_eq!(rows(&server.url("postgres"), "SHOW work_mem").await, ["7MB"]);
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let server = server("s");
    let (data, socket) = (server.data(), server.socket_dir().to_owned());
    assert!(data.exists());
    drop(server);
    assert!(!data.exists());
    assert!(!socket.exists());
}

#[test]
fn a_sandbox_with_a_stale_pid_file_is_removed_all_the_same() {
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let dir = sandbox.dir().to_owned();
    std::fs::create_dir_all(dir.join("s/data")).expect("a folder");
    std::fs::write(dir.join("s/data/postmaster.pid"), "999999999\n").expect("a file");
    drop(sandbox);
    assert!(!dir.exists());
}
