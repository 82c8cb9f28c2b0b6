//! What one session does when it is called, and when it finds another primary behind the gate.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::net::socket::Socket;
use crate::protocol::postgres::client::{Client, Error, Format, Released};
use crate::protocol::postgres::plan::Traces;
use crate::protocol::postgres::relay::{Arrived, Beyond, Heed, Rest, Stranded};
use crate::protocol::postgres::serve::Front;
use crate::protocol::postgres::wire::{self, front};
use crate::record::Side;

use super::Luggage;
use super::sessions::{Call, Card, Home, Opened, Opening};
use super::standby::{self, Standby};
use super::state::{self, State};

/// A server that says nothing for so long when a session is looked at is taken for gone.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// How long a session tries to reach the new primary before its client is told.
const MOVE_MAX: Duration = Duration::from_secs(15);
/// The name of the statements that end a transaction and begin it anew.
const CHAINED: &str = "tandem begin";
/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(100);

/// What ties one session to the rest of the process.
pub(crate) struct Ties {
    front: Arc<Front>,
    card: Arc<Card>,
    /// The call that was done with.
    seen: u64,
    /// The call for which a second connection was opened.
    opened: u64,
    /// The call for which the session was looked at.
    looked: u64,
}

impl Ties {
    pub(crate) fn new(front: Arc<Front>, card: Arc<Card>) -> Ties {
        // Whoever comes while others get ready gets ready too.
        Ties { front, card, seen: 0, opened: 0, looked: 0 }
    }

    /// Of a call to get ready. Who is held can be looked at too: while everybody is, nobody becomes idle.
    fn heed_prepare(&mut self, number: u64, side: Side, opens: bool, rest: Rest) -> Heed {
        let sessions = &self.front.shared.sessions;
        if self.card.stays || self.card.raw || self.card.moving().home.side == side {
            self.seen = number;
            sessions.looked(&self.card, number);
            sessions.answer(&self.card, number, Ok(()));
            return Heed::Nothing;
        }
        if self.card.moving().refusal(number).is_some() {
            self.seen = number;
            return Heed::Nothing;
        }
        let clean = self.card.traces() == Traces::NONE;
        // What pinned it may be gone by a statement that leaves no trace, such as a DROP.
        let pinned = !self.card.moving().state.pins.is_empty() && self.looked != number;
        if (!clean || pinned) && rest != Rest::Busy {
            self.looked = number;
            return Heed::Look;
        }
        // Whoever listens must do so on the new primary before anybody can speak there.
        let unheard = clean && self.card.moving().is_unheard();
        if (opens || unheard) && self.opened != number {
            self.opened = number;
            return Heed::Open;
        }
        if clean {
            self.seen = number;
            sessions.looked(&self.card, number);
        }
        Heed::Nothing
    }

    fn heed_move(&mut self, number: u64, side: Side, rest: Rest) -> Heed {
        self.seen = number;
        if self.card.stays || self.card.moving().home.side == side {
            Heed::Nothing
        } else if self.card.raw {
            Heed::Leave(Stranded::Pinned(self.card.pins()))
        } else if rest == Rest::Idle {
            Heed::Move
        } else {
            // Its next unit finds the other primary behind the gate.
            Heed::Nothing
        }
    }
}

impl Drop for Ties {
    fn drop(&mut self) {
        self.front.cancels.forget(&self.card);
        self.card.leave_for_good();
    }
}

impl Beyond<Socket> for Ties {
    fn cancel(&mut self) {
        let (home, front) = (self.card.moving().home.clone(), self.front.clone());
        tokio::spawn(async move {
            if let Err(error) = front.send_cancel(&home).await {
                tracing::warn!(%error, "a statement whose client hung up could not be cancelled");
            }
        });
    }

    fn register(&self, waker: &Waker) {
        self.card.register(waker);
    }

    fn heed(&mut self, rest: Rest) -> Heed {
        if let Some(asked) = self.card.cancel_asked() {
            return Heed::Cancel(asked);
        }
        let sessions = &self.front.shared.sessions;
        if sessions.number() == self.seen {
            return Heed::Nothing;
        }
        let called = sessions.called();
        match called.what {
            Call::Rest => {
                self.seen = called.number;
                self.card.moving().stands_by(Opening::Nothing);
                Heed::Nothing
            }
            Call::Prepare(side) => self.heed_prepare(called.number, side, true, rest),
            Call::Look(side) => self.heed_prepare(called.number, side, false, rest),
            Call::Move(side) => self.heed_move(called.number, side, rest),
            // Heard again by whoever begins something yet.
            Call::GiveUp(side) => match self.card.stays || self.card.moving().home.side == side || rest != Rest::Busy {
                true => Heed::Nothing,
                false => Heed::Leave(Stranded::GivenUp),
            },
        }
    }

    fn look(&mut self, server: Socket, luggage: Luggage) -> Detour {
        let (front, card, number) = (self.front.clone(), self.card.clone(), self.looked);
        Box::pin(async move {
            let sessions = &front.shared.sessions;
            let _turn = match sessions.called().what {
                Call::Prepare(_) => Some(sessions.looks.acquire().await),
                _ => None,
            };
            if sessions.number() != number {
                // Called to something else by now.
                return Ok(Arrived::back(server));
            }
            let mut client = adopt(server, &front, &card);
            let modes = if luggage.chained { Some(end_chained(&mut client).await.map_err(lost)?) } else { None };
            let looked = look(&mut client, &front, &card).await;
            if let Some(modes) = modes {
                begin(&mut client, &modes).await.map_err(lost)?;
            }
            match looked {
                // Its client is in nobody's way, and goes on.
                Err(Error::Db(error)) if error.severity == "ERROR" => {
                    sessions.refuse(&card, number, format!("what it has cannot be read: {error}"));
                }
                looked => looked.map_err(lost)?,
            }
            let Released { stream, unread, asides } = client.release();
            Ok(Arrived { server: stream, unread, asides, reports: BytesMut::new(), backend: None })
        })
    }

    fn open(&mut self, luggage: Luggage) {
        let (front, card, number) = (self.front.clone(), self.card.clone(), self.opened);
        let (made, soon) = tokio::sync::oneshot::channel();
        self.card.moving().stands_by(Opening::Soon(soon));
        tokio::spawn(async move {
            let mut as_of = State::default();
            let opened = open_ahead(&front, &card, &luggage, &mut as_of).await;
            let answer = opened.as_ref().map(|_| ()).map_err(Clone::clone);
            if opened.is_ok() {
                card.moving().follows(&made, &as_of);
            }
            let _ = made.send(opened);
            front.shared.sessions.answer(&card, number, answer);
        });
    }

    fn relocate(&mut self, server: Socket, to: Side, luggage: Luggage) -> Detour {
        let (front, card) = (self.front.clone(), self.card.clone());
        Box::pin(async move {
            let moved = relocate(server, to, &luggage, &front, &card);
            timeout(MOVE_MAX + LOOK_MAX, moved).await.unwrap_or(Err(Stranded::Unreachable("it does not answer".into())))
        })
    }
}

type Detour = Pin<Box<dyn Future<Output = Result<Arrived<Socket>, Stranded>> + Send>>;

fn adopt(server: Socket, front: &Front, card: &Card) -> Client {
    let home = card.moving().home.clone();
    Client::adopt(server, front.servers.of(home.side).clone(), home.endpoint)
}

/// Read what the session has, on its own connection.
async fn look(client: &mut Client, front: &Front, card: &Card) -> Result<(), Error> {
    let look = card.look();
    let reading = state::read(client, &front.shared.sessions.customs, &card.who.user);
    let read = timeout(LOOK_MAX, reading).await.unwrap_or(Err(io::Error::from(io::ErrorKind::TimedOut).into()));
    read.map(|state| look.saw(state))
}

fn lost(error: Error) -> Stranded {
    Stranded::Lost(io::Error::other(error))
}

/// A second connection with what the session has `as_of` now.
async fn open_ahead(front: &Front, card: &Card, luggage: &Luggage, as_of: &mut State) -> Opened {
    let turns = front.shared.sessions.turns.clone();
    let _turn = turns.acquire_owned().await;
    let side = card.moving().home.side.other();
    let mut standby = open(front, card, side).await.map_err(|error| error.to_string())?;
    as_of.clone_from(&card.moving().state);
    let followed = timeout(MOVE_MAX, standby.follow(as_of, luggage)).await;
    followed.map_err(|_| "the new primary does not answer")?.map_err(|error| error.to_string())?;
    match standby.refused.first() {
        None => Ok(standby),
        Some(what) => Err(what.clone()),
    }
}

async fn open(front: &Front, card: &Card, side: Side) -> Result<Box<Standby>, Error> {
    let config = front.servers.for_client(side, card, &front.shared.catalog);
    Ok(Box::new(Standby::open(&config).await?))
}

async fn relocate(
    server: Socket,
    to: Side,
    luggage: &Luggage,
    front: &Arc<Front>,
    card: &Arc<Card>,
) -> Result<Arrived<Socket>, Stranded> {
    let mut old = adopt(server, front, card);
    let looks = luggage.chained || card.traces() != Traces::NONE || card.moving().state.listens();
    let modes = if luggage.chained { Some(end_chained(&mut old).await.map_err(lost)?) } else { None };
    if looks {
        look(&mut old, front, card).await.map_err(lost)?;
    }
    let pins = card.pins();
    if !pins.is_empty() {
        return Err(Stranded::Pinned(pins));
    }
    if luggage.user_types && front.closes_types && front.shared.sessions.types_differ.load(Ordering::Relaxed) {
        return Err(Stranded::Pinned(vec!["types whose oids differ".to_owned()]));
    }
    let mut asides = part_from(old);
    let mut standby = arrive(to, luggage, front, card).await?;
    if let Some(modes) = modes {
        begin(&mut standby.client, &modes).await.map_err(|error| Stranded::Unreachable(error.to_string()))?;
    }
    let reports = standby::reports(&standby.client);
    let (backend, key) = (standby.client.backend(), standby.client.cancel_key());
    let endpoint = standby.client.endpoint().clone();
    card.moved(backend.id, Home { side: to, endpoint, key });
    let Released { stream, unread, asides: more } = standby.client.release();
    // What it was told about its settings while they were brought over is in the reports.
    asides.extend_from_slice(&notifications(&more));
    Ok(Arrived { server: stream, unread, asides, reports, backend: Some(backend) })
}

/// Say goodbye to the old server without waiting for it; what it told last is the client's.
fn part_from(old: Client) -> BytesMut {
    let Released { mut stream, asides, .. } = old.release();
    tokio::spawn(async move {
        let mut bye = BytesMut::new();
        wire::bare(&mut bye, front::TERMINATE);
        let _ = timeout(LOOK_MAX, async { stream.write_all(&bye).await.and(stream.shutdown().await) }).await;
    });
    asides
}

/// The transaction that AND CHAIN began ends where it is; what begins the same one elsewhere, or again. No simple query: it
/// would drop the client's unnamed statement.
async fn end_chained(old: &mut Client) -> Result<String, Error> {
    let modes = ["SHOW transaction_isolation", "SHOW transaction_read_only", "SHOW transaction_deferrable"];
    modes.into_iter().chain(["ROLLBACK"]).for_each(|sql| old.put_as(CHAINED, sql, &[], Format::Text));
    old.put_sync();
    old.send().await?;
    let rows = old.rows().await?;
    let text = |at: usize| rows.get(at).map_or(Ok(String::new()), |row| row.string(0));
    let access = if text(1)? == "on" { "READ ONLY" } else { "READ WRITE" };
    let deferrable = if text(2)? == "on" { "DEFERRABLE" } else { "NOT DEFERRABLE" };
    Ok(format!("BEGIN ISOLATION LEVEL {}, {access}, {deferrable}", text(0)?))
}

async fn begin(client: &mut Client, modes: &str) -> Result<(), Error> {
    client.query_as(CHAINED, modes, &[], Format::Text).await.map(drop)
}

/// The connection that was opened ahead if it is still one, else a new one; with everything that the session has.
async fn arrive(to: Side, luggage: &Luggage, front: &Front, card: &Card) -> Result<Box<Standby>, Stranded> {
    let began = tokio::time::Instant::now();
    let mut ahead = take_standby(card).await;
    loop {
        let tried = match ahead.take() {
            Some(standby) => bring(standby, luggage, card).await,
            None => match open(front, card, to).await {
                Ok(standby) => bring(standby, luggage, card).await,
                Err(error) => Err(error),
            },
        };
        match tried {
            Ok(standby) => return refused(&standby).map_or(Ok(standby), Err),
            Err(error) if began.elapsed() > MOVE_MAX || !is_passing(&error) => {
                return Err(Stranded::Unreachable(error.to_string()));
            }
            Err(error) => tracing::debug!(%error, "a session cannot reach the new primary yet"),
        }
        sleep(AGAIN).await;
    }
}

async fn take_standby(card: &Card) -> Option<Box<Standby>> {
    let opening = card.moving().take_standby();
    let standby = match opening {
        Opening::Nothing => None,
        Opening::Soon(soon) => timeout(MOVE_MAX, soon).await.ok()?.ok()?.ok(),
    };
    standby.and_then(|mut standby| standby.client.is_alive().then_some(standby))
}

async fn bring(mut standby: Box<Standby>, luggage: &Luggage, card: &Card) -> Result<Box<Standby>, Error> {
    let state = card.moving().state.clone();
    standby.follow(&state, luggage).await?;
    Ok(standby)
}

/// A statement that is refused is refused again when it is used; a setting that is missing would be missed by nobody but
/// the rows.
fn refused(standby: &Standby) -> Option<Stranded> {
    let settings = standby.refused.iter().filter(|what| !what.starts_with("prepared statement"));
    let settings: Vec<String> = settings.cloned().collect();
    if settings.is_empty() { None } else { Some(Stranded::Pinned(settings)) }
}

/// A wrong password will be wrong again.
fn is_passing(error: &Error) -> bool {
    !matches!(error.code(), Some("28P01" | "28000" | "3D000")) && !matches!(error, Error::Auth(_))
}

/// Of messages, those that are notifications.
fn notifications(messages: &[u8]) -> BytesMut {
    let (mut out, mut rest) = (BytesMut::new(), messages);
    while let Ok(Some(header)) = wire::Header::peek(rest) {
        let Some((whole, behind)) = rest.split_at_checked(header.size) else { break };
        if header.kind == wire::back::NOTIFICATION_RESPONSE {
            out.extend_from_slice(whole);
        }
        rest = behind;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::client::{Endpoint, Host};
    use crate::protocol::postgres::moving::sessions::Who;

    #[test]
    fn what_came_of_the_transaction_that_the_fence_waited_for_is_known_before_the_flip() {
        let front = Arc::new(Front::nowhere());
        let endpoint = Endpoint { host: Host::Tcp("a".into()), port: 1 };
        let home = Home { side: Side::Origin, endpoint, key: vec![1] };
        let card = Card::new(Who::default(), Box::default(), "UTF8".into(), (false, false), 7, home);
        let card = Arc::new(card);
        let (sessions, mut ties) = (&front.shared.sessions, Ties::new(front.clone(), card.clone()));
        let prepare = sessions.call(Call::Prepare(Side::Target));
        assert!(matches!(ties.heed(Rest::Busy), Heed::Open));
        sessions.answer(&card, prepare.number, Ok(()));
        card.leave(Traces::CHANNELS);
        assert!(matches!(ties.heed(Rest::Busy), Heed::Nothing));
        // Its transaction ends, and with it the drain: who fences looks while its server is being asked.
        assert!(matches!(ties.heed(Rest::Idle), Heed::Look));
        let look = card.look();
        assert!(card.is_doubtful());
        let again = sessions.call_only(Call::Look(Side::Target), std::slice::from_ref(&card));
        look.saw(State::listening(&["news"]));
        assert!(card.is_doubtful() && !card.moving().was_looked_at(again.number));
        assert!(matches!(ties.heed(Rest::Idle), Heed::Open), "it listens where its second connection does not");
        assert!(matches!(ties.heed(Rest::Idle), Heed::Nothing));
        assert!(card.moving().was_looked_at(again.number) && !card.moving().has_answered(again.number));
    }
}
