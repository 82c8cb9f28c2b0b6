//! A line to a server that can be cut: the server goes on, and is away for who comes by it.

use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

/// Bytes to a node and back, until somebody cuts the line.
pub(crate) struct Line {
    /// Where it begins.
    pub(crate) address: SocketAddrV4,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    /// It is not cut.
    pub(crate) fn to(node: SocketAddrV4) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let Ok(std::net::SocketAddr::V4(address)) = listener.local_addr() else { panic!("an address of IPv4") };
        let line = Line { address, is_cut: Arc::default(), streams: Arc::default() };
        let (is_cut, streams) = (line.is_cut.clone(), line.streams.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(node) else { continue };
                if is_cut.load(SeqCst) {
                    continue;
                }
                streams
                    .lock()
                    .expect("no panic")
                    .extend([near.try_clone().expect("ours"), far.try_clone().expect("ours")]);
                pump(near.try_clone().expect("ours"), far.try_clone().expect("ours"));
                pump(far, near);
            }
        });
        line
    }

    /// End what goes by it, and let nothing through.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, SeqCst);
        for stream in self.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// New connections go through.
    pub(crate) fn mend(&self) {
        self.is_cut.store(false, SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
