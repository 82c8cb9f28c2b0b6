//! The first messages of a connection, until both sides are ready for queries.
//!
//! Authentication is relayed: the server's challenge goes to the client, the client's answer to the server, and tandem
//! never learns the password. One thing is changed on the way: the mechanism `SCRAM-SHA-256-PLUS` is not offered, because
//! it binds to the TLS channel, and there are two of them. (A client that uses TLS, supports channel binding and finds
//! that the server, over TLS too, does not offer it, is refused by the server as under attack: such clients set
//! `channel_binding=disable`, or the server connection goes without TLS.)
//!
//! A password that the client sends in clear because its own connection is encrypted does not go on over one that is not.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire::{Fields, HEADER, Header, WireError, back, cstr, error_response, front, message};

/// PostgreSQL's own limit of a start-up packet.
pub(super) const STARTUP_BYTES_MAX: usize = 10_000;
/// Authentication messages are short; PostgreSQL takes at most this.
const AUTH_BYTES_MAX: usize = 65_536;

/// The start-up failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A socket failed or ended.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not what the protocol says.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// A first message that is not one.
    #[error("a first message of {0} bytes is not PostgreSQL's")]
    Length(i32),
    /// The server said no; the client was told.
    #[error("the server refused the connection")]
    Refused,
    /// The server is a standby; the client was told.
    #[error("no host is a primary at the moment")]
    Standby,
    /// The client's password was not sent where others could read it; the client was told.
    #[error("the server wants the password in clear, and the connection to it has no TLS")]
    Exposed,
}

/// What a login must be.
#[derive(Clone, Copy, Default)]
pub(super) struct Demands {
    /// A standby will not do: the client is told to come again.
    pub(super) primary: bool,
    /// Passwords in clear are not passed on: nobody could read along between client and tandem, and beyond somebody can.
    pub(super) sealed: bool,
}

/// A first message: the code behind the length, and the whole packet.
pub(super) struct First {
    /// Protocol version, or one of the request codes.
    pub(super) code: i32,
    /// With its length, as it came.
    pub(super) packet: BytesMut,
}

/// Read a first message. Reads not one byte more: what follows an SSLRequest must be TLS, not something stuffed in front.
pub(super) async fn first<S: AsyncRead + Unpin>(stream: &mut S) -> Result<First, Error> {
    let len = stream.read_i32().await?;
    let size = usize::try_from(len).ok().filter(|size| (8..=STARTUP_BYTES_MAX).contains(size));
    let size = size.ok_or(Error::Length(len))?;
    let mut packet = BytesMut::zeroed(size);
    packet[..4].copy_from_slice(&len.to_be_bytes());
    stream.read_exact(&mut packet[4..]).await?;
    let code = i32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    Ok(First { code, packet })
}

/// A start-up packet for another database: of a parameter that is named twice the last counts (PostgreSQL's
/// `ProcessStartupPacket`). One that does not end as it must stays as it is, for the server to refuse.
pub(super) fn with_database(packet: &[u8], database: &str) -> BytesMut {
    let Some(open) = packet.strip_suffix(&[0]) else { return packet.into() };
    let mut out = BytesMut::from(open);
    for text in ["database", database, ""] {
        out.extend_from_slice(text.as_bytes());
        out.put_u8(0);
    }
    if let Ok(len) = u32::try_from(out.len()) {
        out[..4].copy_from_slice(&len.to_be_bytes());
    }
    out
}

/// What the start-up taught about the session.
#[derive(Default)]
pub(super) struct Started {
    /// The server's process.
    pub(super) pid: u32,
    /// Body of BackendKeyData: what a CancelRequest will carry.
    pub(super) key: Vec<u8>,
    /// Settings that the server reported.
    pub(super) parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Started {
    /// Reported since PostgreSQL 14.
    fn is_standby(&self) -> bool {
        self.parameters.iter().any(|(name, value)| name == b"in_hot_standby" && value == b"on")
    }
}

/// Relay everything between the start-up packet, which was forwarded, and the first ReadyForQuery, which is too.
pub(super) async fn relay<C, S>(client: &mut C, server: &mut S, demands: Demands) -> Result<Started, Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut started = Started::default();
    let mut answer = BytesMut::new();
    let mut unbound = false;
    // What the next message begins with, where it was read to see who speaks.
    let mut begun = None;
    loop {
        let (kind, mut whole) = whole_message(server, begun.take(), AUTH_BYTES_MAX * 16).await?;
        let body = &whole[HEADER..];
        let mut turn = Turn::Servers;
        match kind {
            back::AUTHENTICATION => {
                let code = Fields::new(kind, body).i32()?;
                if code == CLEARTEXT && demands.sealed {
                    let text =
                        "the server asks for the password in clear, and tandem's connection to it is not encrypted";
                    let hint = "in tandem's configuration: sslmode=verify-full; or sslmode=disable, if nobody can read along there";
                    return tell(client, "28000", text, hint).await.and(Err(Error::Exposed));
                }
                turn = turn_after(code);
                if let Some(without) = without_channel_binding(body)? {
                    whole = without;
                    unbound = true;
                }
            }
            back::ERROR_RESPONSE if unbound => whole = with_hint(body)?,
            back::BACKEND_KEY_DATA => {
                started.key = body.to_vec();
                started.pid = Fields::new(kind, body).u32()?;
            }
            back::PARAMETER_STATUS => {
                let mut fields = Fields::new(kind, body);
                started.parameters.push((fields.cstr()?.to_vec(), fields.cstr()?.to_vec()));
            }
            _ => {}
        }
        if kind == back::READY_FOR_QUERY && demands.primary && started.is_standby() {
            let text = "the server is a standby and its primary cannot be reached: a failover, perhaps (tandem)";
            return tell(client, "57P03", text, "try again in a moment").await.and(Err(Error::Standby));
        }
        // What needs no answer travels with what does.
        answer.extend_from_slice(&whole);
        if turn != Turn::Servers || matches!(kind, back::READY_FOR_QUERY | back::ERROR_RESPONSE) {
            client.write_all(&answer).await?;
            client.flush().await?;
            answer.clear();
        }
        match kind {
            back::READY_FOR_QUERY => return Ok(started),
            back::ERROR_RESPONSE => return Err(Error::Refused),
            _ => {}
        }
        if turn == Turn::Anybodys {
            tokio::select! {
                kind = server.read_u8() => begun = Some(kind?),
                kind = client.read_u8() => (turn, begun) = (Turn::Clients, Some(kind?)),
            }
        }
        if turn == Turn::Clients {
            let (kind, whole) = whole_message(client, begun.take(), AUTH_BYTES_MAX).await?;
            if kind != front::PASSWORD {
                return Err(WireError::Malformed(char::from(kind)).into());
            }
            server.write_all(&whole).await?;
            server.flush().await?;
        }
    }
}

/// Whose message is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Servers,
    Clients,
    /// Of GSSAPI's tokens the last one is the server's, and nothing says which it is (documentation, "Start-up",
    /// AuthenticationGSSContinue).
    Anybodys,
}

/// AuthenticationCleartextPassword.
const CLEARTEXT: i32 = 3;

fn turn_after(authentication: i32) -> Turn {
    // 5 MD5, 7 GSS, 8 GSS continue, 9 SSPI, 10 SASL, 11 SASL continue.
    match authentication {
        CLEARTEXT | 5 | 7 | 9..=11 => Turn::Clients,
        8 => Turn::Anybodys,
        _ => Turn::Servers,
    }
}

/// The client learns why it is not let in.
async fn tell<C: AsyncWrite + Unpin>(client: &mut C, code: &str, text: &str, hint: &str) -> Result<(), Error> {
    let mut answer = BytesMut::new();
    error_response(&mut answer, "FATAL", code, text, Some(hint));
    client.write_all(&answer).await?;
    Ok(client.flush().await?)
}

/// AuthenticationSASL without the mechanisms that bind to a TLS channel; `None`: there is none.
fn without_channel_binding(body: &[u8]) -> Result<Option<BytesMut>, WireError> {
    let mut fields = Fields::new(back::AUTHENTICATION, body);
    if fields.i32()? != 10 {
        return Ok(None);
    }
    let mut out = BytesMut::new();
    let (mut kept, mut all) = (Vec::new(), 0);
    loop {
        let mechanism = fields.cstr()?;
        if mechanism.is_empty() {
            break;
        }
        all += 1;
        if !mechanism.ends_with(b"-PLUS") {
            kept.push(mechanism);
        }
    }
    if kept.len() == all {
        return Ok(None);
    }
    message(&mut out, back::AUTHENTICATION, |b| {
        b.put_i32(10);
        for mechanism in kept {
            b.extend_from_slice(mechanism);
            b.put_u8(0);
        }
        b.put_u8(0);
    });
    Ok(Some(out))
}

/// INVALID AUTHORIZATION SPECIFICATION: what the server calls a client that takes the missing mechanism for an attack.
const INVALID_AUTHORIZATION: &[u8] = b"28000";
const HINT: &[u8] = b"tandem stands between two TLS channels; connect to it with channel_binding=disable";

/// The server's refusal; where the mechanism that we left out is the reason, with what to do.
fn with_hint(body: &[u8]) -> Result<BytesMut, WireError> {
    let mut fields = Fields::new(back::ERROR_RESPONSE, body);
    let (mut code, mut hint) = (&b""[..], false);
    loop {
        match fields.u8()? {
            0 => break,
            b'C' => code = fields.cstr()?,
            field => {
                hint |= field == b'H';
                fields.cstr()?;
            }
        }
    }
    let mut out = BytesMut::new();
    message(&mut out, back::ERROR_RESPONSE, |b| {
        b.extend_from_slice(&body[..body.len() - fields.rest().len() - 1]);
        if code == INVALID_AUTHORIZATION && !hint {
            b.put_u8(b'H');
            cstr(b, HINT);
        }
        b.put_u8(0);
    });
    Ok(out)
}

/// Read one message whole, not one byte more. Of one that has begun the first byte was read.
async fn whole_message<S: AsyncRead + Unpin>(
    stream: &mut S,
    begun: Option<u8>,
    limit: usize,
) -> Result<(u8, BytesMut), Error> {
    let mut head = [0; HEADER];
    head[0] = match begun {
        Some(kind) => kind,
        None => stream.read_u8().await?,
    };
    stream.read_exact(&mut head[1..]).await?;
    let header = Header::peek(&head)?.ok_or(WireError::Malformed('?'))?;
    if header.size > limit {
        return Err(WireError::TooLarge { kind: char::from(header.kind), len: header.size, limit }.into());
    }
    let mut whole = BytesMut::zeroed(header.size);
    whole[..HEADER].copy_from_slice(&head);
    stream.read_exact(&mut whole[HEADER..]).await?;
    Ok((header.kind, whole))
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::protocol::postgres::wire;

    #[test]
    fn channel_binding_is_not_offered() {
        let mut body = BytesMut::new();
        body.put_i32(10);
        body.extend_from_slice(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let out = without_channel_binding(&body).expect("well formed").expect("changed");
        assert_eq!(&out[HEADER + 4..], b"SCRAM-SHA-256\0\0");
    }

    #[test]
    fn a_database_is_named_last_where_a_packet_ends_as_it_must() {
        let packet = |rest: &[u8]| [&[0, 0, 0, 0], &196_608_i32.to_be_bytes()[..], rest].concat();
        let renamed = with_database(&packet(b"user\0me\0database\0app\0\0"), "moved");
        assert_eq!(&renamed[8..], b"user\0me\0database\0app\0database\0moved\0\0");
        assert_eq!(renamed[..4], u32::try_from(renamed.len()).expect("short").to_be_bytes());
        let unended = packet(b"user\0me");
        assert_eq!(with_database(&unended, "moved"), unended);
    }

    fn authentication(code: i32, rest: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        message(&mut out, back::AUTHENTICATION, |b| {
            b.put_i32(code);
            b.extend_from_slice(rest);
        });
        out
    }

    fn password(token: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        message(&mut out, front::PASSWORD, |b| b.extend_from_slice(token));
        out
    }

    /// A relay between two peers that the test plays.
    async fn relayed<F: Future<Output = ()>>(
        demands: Demands,
        play: impl FnOnce(DuplexStream, DuplexStream) -> F,
    ) -> Result<Started, Error> {
        let ((client, mut near), (server, mut far)) = (duplex(1 << 16), duplex(1 << 16));
        tokio::join!(relay(&mut near, &mut far, demands), play(client, server)).0
    }

    async fn hears(peer: &mut DuplexStream, bytes: &[u8]) {
        let mut heard = vec![0; bytes.len()];
        peer.read_exact(&mut heard).await.expect("it speaks");
        assert_eq!(heard, bytes);
    }

    /// GSSAPI ends with a token of the server's that the client has no answer to, or goes on with one that it has.
    #[tokio::test]
    async fn the_last_token_of_gssapi_is_the_server_s() {
        let ready = [&back::READY_FOR_QUERY.to_be_bytes()[..], &[0, 0, 0, 5, b'I']].concat();
        for rounds in 0..3 {
            let (ready, play) = (ready.clone(), rounds);
            let started = relayed(Demands::default(), |mut client, mut server| async move {
                let asked = authentication(7, b"");
                server.write_all(&asked).await.expect("open");
                hears(&mut client, &asked).await;
                for token in 0..=play {
                    client.write_all(&password(&[token])).await.expect("open");
                    hears(&mut server, &password(&[token])).await;
                    let goes_on = authentication(8, &[token]);
                    server.write_all(&goes_on).await.expect("open");
                    hears(&mut client, &goes_on).await;
                }
                let let_in = [&authentication(0, b"")[..], &ready].concat();
                server.write_all(&let_in).await.expect("open");
                hears(&mut client, &let_in).await;
            });
            started.await.expect("let in");
        }
    }

    #[tokio::test]
    async fn a_password_in_clear_does_not_leave_an_encrypted_connection_for_one_that_is_not() {
        let play = |mut client: DuplexStream, mut server: DuplexStream| async move {
            server.write_all(&authentication(CLEARTEXT, b"")).await.expect("open");
            assert_eq!(client.read_u8().await.expect("it is told"), back::ERROR_RESPONSE);
        };
        let demands = Demands { sealed: true, ..Demands::default() };
        assert!(matches!(relayed(demands, play).await, Err(Error::Exposed)));
    }

    #[test]
    fn a_client_that_binds_all_the_same_is_told_what_to_do() {
        let mut refusal = BytesMut::new();
        wire::error_response(&mut refusal, "FATAL", "28000", "SCRAM channel binding negotiation error", None);
        let told = with_hint(&refusal[HEADER..]).expect("well formed");
        assert!(told.ends_with(&[b"H", HINT, b"\0\0"].concat()));
        let mut other = BytesMut::new();
        wire::error_response(&mut other, "FATAL", "28P01", "password authentication failed", None);
        assert_eq!(with_hint(&other[HEADER..]).expect("well formed"), other);
        assert!(with_hint(b"SFATAL").is_err());
    }

    #[tokio::test]
    async fn a_first_message_of_an_impossible_length_is_refused_before_it_is_read() {
        for len in [-1, 0, 7, 10_001, i32::MAX] {
            let bytes = [&len.to_be_bytes()[..], &[0; 8]].concat();
            assert!(matches!(first(&mut &bytes[..]).await, Err(Error::Length(_))));
        }
    }
}
