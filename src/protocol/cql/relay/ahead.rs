//! A connection to where a session will have to go, made while a switch is prepared: then nobody is held for a login. What
//! was made for another keyspace, or is lost by then, is made again when it is needed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

use super::Reaching;
use crate::protocol::cql::startup::Luggage;
use crate::record::Side;

/// Where sessions are to have a connection to, and how many are making one.
#[derive(Clone)]
pub(in crate::protocol::cql) struct Destination {
    to: watch::Sender<Option<Side>>,
    opening: Arc<AtomicUsize>,
}

/// What one relay has ahead.
pub(super) struct Ahead<S> {
    opening: Arc<AtomicUsize>,
    changed: BoxFuture<'static, (watch::Receiver<Option<Side>>, Option<Side>)>,
    made: Made<S>,
}

enum Made<S> {
    Nothing,
    Soon { to: Side, luggage: Luggage, reaching: Reaching<S>, _opening: Opening },
    There(Side, Luggage, S, BytesMut),
}

/// A connection is being made.
struct Opening(Arc<AtomicUsize>);

impl Default for Destination {
    fn default() -> Destination {
        Destination { to: watch::Sender::new(None), opening: Arc::default() }
    }
}

impl Destination {
    /// Sessions that are elsewhere connect to this side; `None`: nowhere, and give up what they have.
    pub(in crate::protocol::cql) fn set(&self, to: Option<Side>) {
        self.to.send_replace(to);
    }

    /// How many connections are being made.
    pub(in crate::protocol::cql) fn opening(&self) -> usize {
        self.opening.load(Ordering::Relaxed)
    }
}

impl<S> Made<S> {
    fn is_to(&self, side: Side) -> bool {
        match self {
            Made::Nothing => false,
            Made::Soon { to, .. } | Made::There(to, ..) => *to == side,
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn change(mut from: watch::Receiver<Option<Side>>) -> (watch::Receiver<Option<Side>>, Option<Side>) {
    if from.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    let to = *from.borrow_and_update();
    (from, to)
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    pub(super) fn new(destination: &Destination) -> Ahead<S> {
        let mut from = destination.to.subscribe();
        from.mark_changed();
        Ahead { opening: destination.opening.clone(), changed: Box::pin(change(from)), made: Made::Nothing }
    }

    /// Do what was asked for. `reach` makes a connection, for a session that is `here`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        here: Side,
        reach: impl FnOnce(Side) -> (Luggage, Reaching<S>),
    ) {
        if let Poll::Ready((from, to)) = self.changed.as_mut().poll(cx) {
            self.changed = Box::pin(change(from));
            // It wakes us at the next change.
            cx.waker().wake_by_ref();
            self.made = match to.filter(|to| *to != here) {
                None => Made::Nothing,
                Some(to) => {
                    self.opening.fetch_add(1, Ordering::Relaxed);
                    let (luggage, reaching) = reach(to);
                    Made::Soon { to, luggage, reaching, _opening: Opening(self.opening.clone()) }
                }
            };
        }
        if self.made.is_to(here) {
            // It was not there in time, or did not fit: the session went by a connection of its own.
            self.made = Made::Nothing;
        }
        let Made::Soon { to, luggage, reaching, .. } = &mut self.made else { return };
        let Poll::Ready(reached) = reaching.as_mut().poll(cx) else { return };
        self.made = match reached {
            Ok((server, unread)) => Made::There(*to, luggage.clone(), server, unread),
            // It is tried again when it is needed.
            Err(_) => Made::Nothing,
        };
    }

    /// The connection to this side, if it is there and fits.
    pub(super) fn take(&mut self, to: Side, luggage: &Luggage, cx: &mut Context<'_>) -> Option<(S, BytesMut)> {
        let fits = matches!(&self.made, Made::There(side, with, ..) if *side == to && with == luggage);
        if !fits {
            return None;
        }
        let Made::There(_, _, mut server, mut unread) = std::mem::replace(&mut self.made, Made::Nothing) else {
            return None;
        };
        let mut room = [0; 4_096];
        let mut buffer = ReadBuf::new(&mut room);
        match Pin::new(&mut server).poll_read(cx, &mut buffer) {
            Poll::Pending => Some((server, unread)),
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                unread.extend_from_slice(buffer.filled());
                Some((server, unread))
            }
            // The server closed it.
            Poll::Ready(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};

    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn reached(server: DuplexStream) -> (Luggage, Reaching<DuplexStream>) {
        (Luggage::default(), Box::pin(ready(Ok((server, BytesMut::new())))))
    }

    async fn poll_once(ahead: &mut Ahead<DuplexStream>, reach: impl FnMut() -> (Luggage, Reaching<DuplexStream>)) {
        poll_at(Side::Origin, ahead, reach).await;
    }

    async fn poll_at(
        here: Side,
        ahead: &mut Ahead<DuplexStream>,
        mut reach: impl FnMut() -> (Luggage, Reaching<DuplexStream>),
    ) {
        poll_fn(|cx| {
            ahead.poll(cx, here, |_| reach());
            Poll::Ready(())
        })
        .await;
    }

    async fn take(ahead: &mut Ahead<DuplexStream>, luggage: &Luggage) -> bool {
        poll_fn(|cx| Poll::Ready(ahead.take(Side::Target, luggage, cx).is_some())).await
    }

    #[tokio::test]
    async fn a_connection_is_there_before_it_is_needed_and_used_if_it_fits() {
        let destination = Destination::default();
        let mut ahead: Ahead<DuplexStream> = Ahead::new(&destination);
        let (near, far) = duplex(8);
        let mut near = Some(near);
        let mut step = async |ahead: &mut Ahead<DuplexStream>| {
            poll_once(ahead, || reached(near.take().expect("once"))).await;
        };
        step(&mut ahead).await;
        assert!(!take(&mut ahead, &Luggage::default()).await, "nobody asked for one");
        destination.set(Some(Side::Origin));
        step(&mut ahead).await;
        assert!(!take(&mut ahead, &Luggage::default()).await, "it is there");
        destination.set(Some(Side::Target));
        step(&mut ahead).await;
        assert_eq!(destination.opening(), 0);
        let elsewhere = Luggage { keyspace: Some(Arc::from("another")), registered: None };
        assert!(!take(&mut ahead, &elsewhere).await, "made for another keyspace");
        assert!(take(&mut ahead, &Luggage::default()).await);
        drop(far);
    }

    #[tokio::test]
    async fn what_is_lost_or_given_up_is_not_used() {
        let destination = Destination::default();
        let mut ahead: Ahead<DuplexStream> = Ahead::new(&destination);
        destination.set(Some(Side::Target));
        // Its far end is gone at once.
        poll_once(&mut ahead, || reached(duplex(8).0)).await;
        assert!(!take(&mut ahead, &Luggage::default()).await);
    }

    /// Whether the other end was dropped.
    async fn is_closed(mut far: DuplexStream) -> bool {
        poll_fn(|cx| {
            let mut room = [0; 1];
            let mut buffer = ReadBuf::new(&mut room);
            Poll::Ready(Pin::new(&mut far).poll_read(cx, &mut buffer).is_ready())
        })
        .await
    }

    #[tokio::test]
    async fn what_did_not_fit_is_closed_when_the_session_is_there() {
        let destination = Destination::default();
        let mut ahead: Ahead<DuplexStream> = Ahead::new(&destination);
        let (near, far) = duplex(8);
        let mut near = Some(near);
        destination.set(Some(Side::Target));
        poll_once(&mut ahead, || reached(near.take().expect("once"))).await;
        let elsewhere = Luggage { keyspace: Some(Arc::from("another")), registered: None };
        assert!(!take(&mut ahead, &elsewhere).await, "made for another keyspace");
        poll_at(Side::Target, &mut ahead, || unreachable!("it is there")).await;
        assert!(is_closed(far).await);
    }

    #[tokio::test]
    async fn what_came_too_late_is_given_up_when_the_session_is_there() {
        let destination = Destination::default();
        let mut ahead: Ahead<DuplexStream> = Ahead::new(&destination);
        let (near, far) = duplex(8);
        let (connected, late) = tokio::sync::oneshot::channel();
        let mut late = Some(late);
        destination.set(Some(Side::Target));
        poll_once(&mut ahead, || {
            let late = late.take().expect("once");
            (Luggage::default(), Box::pin(async { Ok((late.await.expect("sent"), BytesMut::new())) }))
        })
        .await;
        assert!(!take(&mut ahead, &Luggage::default()).await, "it is being made");
        assert_eq!(destination.opening(), 1);
        // It comes just now, or it hangs: nobody waits for it any more.
        connected.send(near).expect("it is waited for until then");
        poll_at(Side::Target, &mut ahead, || unreachable!("it is there")).await;
        assert_eq!(destination.opening(), 0);
        assert!(is_closed(far).await);
    }
}
