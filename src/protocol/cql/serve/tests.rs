//! Clients that come while nodes hang.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use super::*;
use crate::config::Config;
use crate::cutover::gate::{Gate, Route};
use crate::protocol::cql::cluster::scripted::{Scripted, hurry};
use crate::protocol::cql::setup::Setup;
use crate::protocol::cql::wire::request::put_startup;
use crate::protocol::cql::wire::{Opcode, Version};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where clients come in, and a folder for it.
async fn front(origin: &Scripted) -> (SocketAddr, TempDir) {
    let target = Scripted::start(1, &[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "[[listen]]\nwire = \"cql\"\naddress = \"127.0.0.1:0\"\n[origin]\nurl = \"cql://{}\"\n[target]\nurl = \"cql://{}\"\n\
         [journal]\ndir = \"{}\"\n[limits]\nconnect_timeout = \"10s\"\n",
        origin.address(0),
        target.address(0),
        folder.path().display(),
    );
    let config = Config::from_text("proxy.toml", &text, []).expect("valid");
    let gate = Gate::new(Route { primary: Side::Origin, mirror: false, epoch: 1 });
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let setup =
        Setup::over(Sides::default(), &config, gate, None, (stop.clone(), tasks)).await.expect("both are there");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, Arc::new(setup.front(None).expect("no TLS")), stop));
    (address, folder)
}

async fn log_in(address: SocketAddr) -> Result<(), Error> {
    let mut server = Link::new(TcpStream::connect(address).await?, Sender::Server, 1 << 20);
    let answer = server.ask(Version::V4, Opcode::Startup, |out| put_startup(out, &[("CQL_VERSION", "3.0.0")])).await?;
    assert_eq!(answer.header.opcode, Opcode::Ready);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_when_a_node_begins_to_hang_is_let_in_by_another() {
    hurry();
    let origin = Scripted::start(2, &[]).await;
    let (address, _folder) = front(&origin).await;
    origin.node(1).hangs = true;
    for _ in 0..3 {
        let came = Instant::now();
        log_in(address).await.expect("the other serves");
        assert!(came.elapsed() < CONNECT_TIMEOUT + Duration::from_secs(2), "{:?}", came.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_when_every_node_hangs_is_told_so() {
    hurry();
    let origin = Scripted::start(2, &[]).await;
    let (address, _folder) = front(&origin).await;
    (0..2).for_each(|node| origin.node(node).hangs = true);
    let error = log_in(address).await.expect_err("nobody serves");
    assert_eq!(error.to_string(), "tandem cannot reach a node of the origin");
}
