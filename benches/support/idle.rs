//! Many clients that do nothing. Few machines have a server for thousands of sessions, so the clients' sessions end at a
//! stub that speaks the start-up and answers every query with nothing; whoever else comes (tandem's own connections)
//! is passed on to a real server.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// Who the idle clients log in as: this is how the stub knows them.
const USER: &str = "somebody_idle";
/// Source: PostgreSQL documentation, "Message Formats", SSLRequest.
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
const PROTOCOL_3_0: [u8; 4] = 196_608_u32.to_be_bytes();
const READY_FOR_QUERY: &[u8] = b"Z\0\0\0\x05I";

/// A stub and its clients, served on this thread while somebody waits for them.
pub(crate) struct Crowd {
    runtime: Runtime,
    clients: Vec<TcpStream>,
    /// Where the stub listens.
    pub(crate) port: u16,
}

impl Crowd {
    /// A stub in front of the server at `port`. One thread of its own serves it, because tandem needs it at any time.
    pub(crate) fn new(server: u16) -> Result<Crowd> {
        raise_file_limit();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server));
            }
        });
        Ok(Crowd { runtime, clients: Vec::new(), port })
    }

    /// More clients connect, and stay.
    pub(crate) fn join(&mut self, port: u16, database: &str, count: usize) -> Result<()> {
        for _ in 0..count {
            let client = self.runtime.block_on(login(port, database));
            self.clients.push(client.with_context(|| format!("client {}", self.clients.len()))?);
        }
        Ok(())
    }

    /// Each client sends one query and gets its answer.
    pub(crate) fn ask(&mut self, query: &str) -> Result<()> {
        for client in &mut self.clients {
            self.runtime.block_on(async {
                client.write_all(&message(b'Q', query)).await?;
                until_ready(client).await
            })?;
        }
        Ok(())
    }
}

fn message(kind: u8, text: &str) -> Vec<u8> {
    [&[kind][..], &(text.len() as u32 + 5).to_be_bytes(), text.as_bytes(), b"\0"].concat()
}

async fn login(port: u16, database: &str) -> Result<TcpStream> {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
    let fields = format!("user\0{USER}\0database\0{database}\0\0");
    let len = fields.len() as u32 + 8;
    client.write_all(&[&len.to_be_bytes()[..], &PROTOCOL_3_0, fields.as_bytes()].concat()).await?;
    until_ready(&mut client).await?;
    Ok(client)
}

/// All answers here are shorter than what one read takes.
async fn until_ready(client: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 1024];
    let mut len = 0;
    while !buffer[..len].ends_with(READY_FOR_QUERY) {
        let read = client.read(&mut buffer[len..]).await?;
        ensure!(read > 0, "refused: {}", String::from_utf8_lossy(&buffer[..len]));
        len += read;
    }
    Ok(())
}

async fn serve(mut client: TcpStream, server: u16) -> io::Result<()> {
    let mut packet = startup(&mut client).await?;
    while packet[4..8] == SSL_REQUEST {
        client.write_all(b"N").await?;
        packet = startup(&mut client).await?;
    }
    if packet.windows(USER.len()).any(|window| window == USER.as_bytes()) {
        return idle(client).await;
    }
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    server.write_all(&packet).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

async fn startup(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = client.read_u32().await?;
    let mut packet = len.to_be_bytes().to_vec();
    packet.resize(len.clamp(8, 10_000) as usize, 0);
    client.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

async fn idle(mut client: TcpStream) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let parameters = [("client_encoding", "UTF8"), ("standard_conforming_strings", "on"), ("server_version", "18.0")];
    let mut hello = b"R\0\0\0\x08\0\0\0\0".to_vec();
    for (name, value) in parameters {
        hello.extend(message(b'S', &format!("{name}\0{value}")));
    }
    hello.extend([&b"K\0\0\0\x0c"[..], &number, &number, READY_FOR_QUERY].concat());
    client.write_all(&hello).await?;
    let mut buffer = [0; 128];
    while client.read(&mut buffer).await? > 0 {
        let answer = [&message(b'C', "SELECT 0"), READY_FOR_QUERY].concat();
        client.write_all(&answer).await?;
    }
    Ok(())
}

/// Each idle client takes two files here.
pub(crate) fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write only the struct, which outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
