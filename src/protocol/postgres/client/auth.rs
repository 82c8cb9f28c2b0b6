//! Logging in: trust, password in clear, MD5, SCRAM-SHA-256 (documentation, "Start-up" and "SASL Authentication").
//!
//! Channel binding (`SCRAM-SHA-256-PLUS`) is not spoken: a server never demands it, and `verify-full` closes the gap
//! that it is for.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use crate::protocol::postgres::wire::{self, Fields, back, front};

use super::{Client, Error, ServerConfig};

// AuthenticationXxx codes: documentation, "Message Formats".
const OK: i32 = 0;
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// Answer whatever the server asks until it is content.
pub(super) async fn log_in(client: &mut Client, config: &ServerConfig) -> Result<(), Error> {
    loop {
        let body = client.expect(back::AUTHENTICATION, "logging in").await?;
        let mut fields = Fields::new(back::AUTHENTICATION, &body);
        match fields.i32()? {
            OK => return Ok(()),
            CLEARTEXT if !client.is_private() && !config.allow_cleartext => {
                return Err(Error::Auth("the server wants the password in clear, and the connection has no TLS"));
            }
            CLEARTEXT => put_password(client, password(config)?.as_bytes())?,
            MD5 => {
                let salt = fields.take(4)?.try_into().expect("took four bytes");
                let hash = md5_hash(config.user.as_bytes(), password(config)?.as_bytes(), salt);
                put_password(client, hash.as_bytes())?;
            }
            SASL => scram(client, password(config)?, fields).await?,
            _ => return Err(Error::Auth("the server wants a method that tandem does not speak (GSSAPI, SSPI, ..)")),
        }
        client.send().await?;
    }
}

fn password(config: &ServerConfig) -> Result<&str, Error> {
    config.password.as_deref().ok_or(Error::Auth("the server wants a password and none is configured"))
}

fn put_password(client: &mut Client, password: &[u8]) -> Result<(), Error> {
    if password.contains(&0) {
        return Err(Error::Auth("the password holds a zero byte"));
    }
    wire::message(client.out(), front::PASSWORD, |b| wire::cstr(b, password));
    Ok(())
}

async fn scram(client: &mut Client, password: &str, mut mechanisms: Fields<'_>) -> Result<(), Error> {
    loop {
        match mechanisms.cstr()? {
            name if name == SCRAM_SHA_256.as_bytes() => break,
            b"" => return Err(Error::Auth("the server offers no SASL mechanism that tandem speaks")),
            _ => (),
        }
    }
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    wire::message(client.out(), front::PASSWORD, |b| {
        wire::cstr(b, SCRAM_SHA_256.as_bytes());
        let len = i32::try_from(scram.message().len()).expect("a first SCRAM message is some dozen bytes");
        bytes::BufMut::put_i32(b, len);
        b.extend_from_slice(scram.message());
    });
    let challenge = sasl_step(client, SASL_CONTINUE).await?;
    scram.update(&challenge).map_err(|_| Error::Auth("the server's SCRAM challenge is malformed"))?;
    wire::message(client.out(), front::PASSWORD, |b| b.extend_from_slice(scram.message()));
    let last = sasl_step(client, SASL_FINAL).await?;
    scram.finish(&last).map_err(|_| Error::Auth("the server could not prove that it knows the password"))
}

async fn sasl_step(client: &mut Client, step: i32) -> Result<bytes::Bytes, Error> {
    client.send().await?;
    let body = client.expect(back::AUTHENTICATION, "logging in").await?;
    let mut fields = Fields::new(back::AUTHENTICATION, &body);
    match fields.i32()? {
        code if code == step => Ok(body.slice(4..)),
        _ => Err(Error::Auth("the server left the SASL exchange")),
    }
}
