//! What relays do with a peer's stream beside reading it: hand it what it takes now, and part from it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a peer that was told that this is the end may take to hang up.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// Write what the peer takes now, and see that it is sent; returns how much it took. `unflushed`: it took something that may
/// not be sent yet, for TLS keeps some; who calls again, also with nothing to write, sends that.
///
/// # Errors
/// The peer is gone; how much it took is not known then.
pub fn offer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match Pin::new(&mut *stream).poll_write(cx, &bytes[at..]) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(len)) => at += len,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
        *unflushed = true;
    }
    if *unflushed && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) {
        *unflushed = false;
        flushed?;
    }
    Ok(at)
}

/// Tell the peer that this is the end, and read on until it hangs up, for [`FAREWELL`] at most: a socket that is closed with
/// something unread in it takes back what the peer has not got yet, and a busy one has asked for more meanwhile.
pub async fn see_off<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let leaving = async {
        stream.shutdown().await?;
        let mut unread = [0; 1_024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // It may be gone already, or never go.
    let _ = timeout(FAREWELL, leaving).await;
}
