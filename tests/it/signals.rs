//! What signals do to the real process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::tandem::Tandem;
use crate::support::{connect, pair, sql, until};

#[tokio::test]
async fn a_hangup_changes_nothing_and_the_log_says_what_does() {
    let (origin, target) = pair();
    let mut tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), "").await;
    let client = connect(&tandem.url("postgres")).await;
    tandem.signal("HUP");
    let told = until(async || tandem.log().contains("SIGHUP changes nothing").then_some(())).await;
    assert!(told.is_some(), "{}", tandem.log());
    client.simple_query("SELECT 1").await.expect("it goes on");
    drop(client);
    assert_eq!(tandem.terminate(), Some(0), "{}", tandem.log());
}

/// A server that takes a login and then says nothing more; told when it was asked something.
fn mute() -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://u@{}/d", listener.local_addr().expect("bound"));
    let (tell, asked) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || take(stream, &tell));
        }
    });
    (url, asked)
}

fn take(mut stream: TcpStream, tell: &mpsc::SyncSender<()>) -> Option<()> {
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head).ok()?;
        let (len, code) = (u32::from_be_bytes(head[..4].try_into().ok()?), &head[4..]);
        let mut rest = vec![0; (len as usize).checked_sub(8)?];
        stream.read_exact(&mut rest).ok()?;
        if code == 196_608_u32.to_be_bytes() {
            break;
        }
        // A request for TLS or GSS.
        stream.write_all(b"N").ok()?;
    }
    stream.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x01Z\0\0\0\x05I").ok()?;
    let mut asked = [0; 1];
    stream.read_exact(&mut asked).ok()?;
    let _ = tell.try_send(());
    // Until the other end has had enough.
    std::io::copy(&mut stream, &mut std::io::sink()).ok()?;
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_a_server_ends_when_it_is_told_to() {
    let ((origin, asked), (target, _asked)) = (mute(), mute());
    let mut tandem = Tandem::configured("postgres", "", &origin, &target, "");
    tandem.spawn();
    let was = until(async || asked.try_recv().ok()).await;
    assert!(was.is_some(), "it asks the primary first: {}", tandem.log());
    tandem.signal("TERM");
    assert_eq!(tandem.ended_soon().await, Some(0), "{}", tandem.log());
    assert!(tandem.log().contains("before the start was over"), "{}", tandem.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_does_not_hold_up_the_end() {
    let (origin, target) = pair();
    let limits = "[limits]\ndrain_timeout = \"2s\"";
    let mut tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), limits).await;
    sql(&tandem.url("postgres"), "CREATE TABLE acc (id int PRIMARY KEY)").await;
    tandem.settled().await;
    origin.freeze();
    // All that follow it have asked it something then, and wait for the answer.
    tandem.status_is("stuck", |status| status["mirror"]["phase"] == "paying").await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    tandem.signal("TERM");
    assert_eq!(tandem.ended_soon().await, Some(0), "{}", tandem.log());
    assert!(!tandem.log().contains("is cut off"), "nobody had to be left behind: {}", tandem.log());
}
