//! The connection that a session will move to: opened and logged in ahead, then brought to what the session has.

use std::collections::HashMap;

use bytes::Bytes;

use crate::protocol::postgres::client::{Client, Error, ServerConfig};
use crate::protocol::postgres::wire::{self, Fields, HEADER, back, front};

use super::state::State;
use super::{Form, Luggage, Parcel};

/// A connection to the other side, and what it has already.
pub(crate) struct Standby {
    pub(crate) client: Client,
    state: State,
    statements: HashMap<Bytes, Parcel>,
    /// What the server would not take, for people: a setting or a statement that it does not know.
    pub(crate) refused: Vec<String>,
}

impl Standby {
    /// Log in.
    ///
    /// # Errors
    /// The server's. Not cancel safe: a cancelled opening is dropped whole.
    pub(crate) async fn open(config: &ServerConfig) -> Result<Standby, Error> {
        let mut client = Client::connect(config).await?;
        client.keep_asides();
        Ok(Standby { client, state: State::default(), statements: HashMap::new(), refused: Vec::new() })
    }

    /// Make it have what the session has; one round trip, none where it has it already.
    ///
    /// # Errors
    /// The connection's. What the server refuses is in `refused`, and the rest is done. Not cancel safe.
    pub(crate) async fn follow(&mut self, state: &State, luggage: &Luggage) -> Result<(), Error> {
        let mut asked = Vec::new();
        for change in state.change_from(&self.state) {
            change.put(&mut self.client);
            asked.push(change.what());
        }
        let gone: Vec<Bytes> = self.gone(luggage).collect();
        let texts = luggage.statements.iter().any(|parcel| matches!(parcel.form, Form::Sql(_)));
        if !asked.is_empty() || texts {
            // Questions of ours used up the unnamed statement. It is the last of the luggage.
            self.statements.remove(&b""[..]);
        }
        for name in gone {
            self.statements.remove(&name);
            wire::close(self.client.out(), b'S', &name);
            self.client.put_sync();
            asked.push("a Close".to_owned());
        }
        for parcel in &luggage.statements {
            if self.statements.get(&parcel.name) != Some(parcel) {
                self.statements.insert(parcel.name.clone(), parcel.clone());
                self.put(parcel);
                asked.push(format!("prepared statement {}", String::from_utf8_lossy(&parcel.name)));
            }
        }
        self.state = state.clone();
        if asked.is_empty() {
            return Ok(());
        }
        self.client.send().await?;
        for what in asked {
            match self.client.finish().await {
                Ok(()) => {}
                Err(Error::Db(error)) => self.refused.push(format!("{what}: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Names whose statement is another one now, or none.
    fn gone<'a>(&'a self, luggage: &'a Luggage) -> impl Iterator<Item = Bytes> + 'a {
        let stays = |known: &Parcel| luggage.statements.contains(known);
        self.statements.values().filter(move |known| !stays(known)).map(|known| known.name.clone())
    }

    fn put(&mut self, parcel: &Parcel) {
        match &parcel.form {
            Form::Parse(message) => {
                self.client.out().extend_from_slice(message);
                self.client.put_sync();
            }
            Form::Sql(text) => self.client.put_query_bytes(text),
        }
    }
}

/// Parameters of the start-up packet that the new connection begins with; who and where come from elsewhere.
pub(crate) fn startup_parameters(packet: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut fields = Fields::new(front::QUERY, packet.get(8..).unwrap_or_default());
    let mut found = Vec::new();
    while let (Ok(name), Ok(value)) = (fields.cstr(), fields.cstr()) {
        let ours = matches!(name, b"user" | b"database" | b"replication") || name.starts_with(b"_pq_.");
        if !ours && !name.is_empty() {
            found.push((text(name), text(value)));
        }
    }
    found
}

/// What the client is told about settings that another server reports.
pub(crate) fn reports(client: &Client) -> bytes::BytesMut {
    let mut out = bytes::BytesMut::new();
    for (name, value) in client.parameters() {
        out.reserve(HEADER + name.len() + value.len() + 2);
        wire::message(&mut out, back::PARAMETER_STATUS, |b| {
            wire::cstr(b, name.as_bytes());
            wire::cstr(b, value.as_bytes());
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_connection_begins_with_what_the_client_asked_for() {
        let packet = [
            &[0; 8][..],
            b"user\0app\0database\0shop\0application_name\0till\0_pq_.x\0on\0options\0-c work_mem=1MB\0\0",
        ]
        .concat();
        let pairs = startup_parameters(&packet);
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("application_name", "till"), ("options", "-c work_mem=1MB")]);
    }
}
