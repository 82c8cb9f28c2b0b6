//! What a session has beside its prepared statements, as its server tells it, and how another server is given it.
//!
//! `pg_settings` shows neither custom settings (`app.tenant`, the idiom of row security) nor the role: those are asked
//! for by name ([`Customs`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::postgres::client::{Client, DataRow, Error, Format, Param, QUERY_CANCELED};

use super::customs::Customs;

/// What a session has. Values are in the client's encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Settings that the session changed, custom ones included.
    settings: BTreeMap<String, Vec<u8>>,
    /// SET ROLE.
    role: Option<Vec<u8>>,
    /// SET SESSION AUTHORIZATION.
    authorization: Option<Vec<u8>>,
    /// LISTEN.
    channels: BTreeSet<Vec<u8>>,
    /// What exists in this session only and cannot be given to another server, for people: kinds, no names of values.
    pub(crate) pins: BTreeSet<String>,
}

/// Each row is a kind, a name and a value. Names are qualified and operators too: the session's search_path is its own.
const LOOK: &str = "\
    SELECT 'setting', s.name, s.setting FROM pg_catalog.pg_settings AS s WHERE s.source OPERATOR(pg_catalog.=) 'session' \
    AND s.context IN ('user', 'superuser') AND s.name NOT IN ('transaction_isolation', 'transaction_read_only', \
    'transaction_deferrable') \
    UNION ALL SELECT 'setting', n, pg_catalog.current_setting(n, true) \
    FROM pg_catalog.unnest(pg_catalog.string_to_array($1, ',')) AS u (n) \
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) n) \
    AND pg_catalog.current_setting(n, true) IS NOT NULL \
    UNION ALL SELECT 'role', '', pg_catalog.current_setting('role') \
    UNION ALL SELECT 'authorization', '', pg_catalog.current_setting('session_authorization') \
    UNION ALL SELECT 'channel', '', c FROM pg_catalog.pg_listening_channels() AS l (c) \
    UNION ALL SELECT 'pin', '', 'temporary tables' FROM pg_catalog.pg_class AS c \
    WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT 'pin', '', 'temporary functions' FROM pg_catalog.pg_proc AS p \
    WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    UNION ALL SELECT 'pin', '', 'temporary types' FROM pg_catalog.pg_type AS t \
    WHERE t.typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
    AND t.typtype OPERATOR(pg_catalog.=) ANY ('{e,d,r}') \
    UNION ALL SELECT 'pin', '', 'held cursors' FROM pg_catalog.pg_cursors AS c WHERE c.is_holdable \
    UNION ALL SELECT 'pin', '', 'session advisory locks' FROM pg_catalog.pg_locks AS l \
    WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' \
    AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";

/// The session's own limits, lifted for what follows before the next Sync; those that there were. A look shows the lifted
/// value: so this is asked only of a session whose limits are in the way.
const UNBOUNDED: &str = "\
    SELECT n, v, pg_catalog.set_config(n, '0', true) FROM (SELECT n, pg_catalog.current_setting(n) AS v \
    FROM pg_catalog.unnest(ARRAY['statement_timeout', 'lock_timeout']) AS u (n) OFFSET 0) AS was \
    WHERE v OPERATOR(pg_catalog.<>) '0'";

/// Read what a session has, on its own connection, which is idle. `user` is who it logged in as. A look that the session's
/// own limits end, or a CancelRequest that was meant for the client's last statement, is tried again without them.
///
/// # Errors
/// The server's, or its connection's. Not cancel safe.
pub(crate) async fn read(session: &mut Client, customs: &Customs, user: &str) -> Result<State, Error> {
    let (names, some_lost) = customs.array();
    // The client may have parsed its unnamed statement, and binds it next.
    let mut read = look(session, &names, user).await;
    for _ in 0..UNBOUNDED_LOOKS {
        if matches!(read.as_ref().map_err(Error::code), Err(Some(QUERY_CANCELED | LOCK_NOT_AVAILABLE))) {
            read = look_unbounded(session, &names, user).await;
        }
    }
    let mut state = read?;
    if some_lost {
        state.pins.insert("custom settings: more names are in use than can be asked for".to_owned());
    }
    Ok(state)
}

async fn look(session: &mut Client, names: &str, user: &str) -> Result<State, Error> {
    State::of(&session.query_as(NAME, LOOK, &[parameter(names)], Format::Text).await?, user)
}

async fn look_unbounded(session: &mut Client, names: &str, user: &str) -> Result<State, Error> {
    session.put_as(NAME, UNBOUNDED, &[], Format::Text);
    session.put_as(NAME, LOOK, &[parameter(names)], Format::Text);
    session.put_sync();
    session.send().await?;
    let mut limits = Vec::new();
    while let Some(row) = session.next_row_of_statement().await? {
        limits.push(row);
    }
    let mut state = State::of(&session.rows().await?, user)?;
    for limit in limits {
        state.settings.insert(limit.string(0)?, limit.get(1)?.unwrap_or_default().to_vec());
    }
    Ok(state)
}

fn parameter(names: &str) -> Param<'_> {
    Param { oid: TEXT, ..Param::text(names) }
}

/// Lifting the limits takes little, but has to be done within them.
const UNBOUNDED_LOOKS: u32 = 3;
/// SQLSTATE of what `lock_timeout` ended.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// pg_type.oid of `text`.
const TEXT: u32 = 25;
/// The name of our statement among the client's.
const NAME: &str = "tandem look";

impl State {
    /// It listens: what it is told last must reach its client.
    pub(crate) fn listens(&self) -> bool {
        !self.channels.is_empty()
    }

    /// What it listens on.
    pub(crate) fn channels(&self) -> &BTreeSet<Vec<u8>> {
        &self.channels
    }

    /// Of a session that listens on these.
    #[cfg(test)]
    pub(crate) fn listening(channels: &[&str]) -> State {
        State { channels: channels.iter().map(|name| (*name).into()).collect(), ..State::default() }
    }

    fn of(rows: &[DataRow], user: &str) -> Result<State, Error> {
        let mut state = State::default();
        for row in rows {
            state.take(row, user)?;
        }
        Ok(state)
    }

    fn take(&mut self, row: &DataRow, user: &str) -> Result<(), Error> {
        let (kind, name) = (row.string(0)?, row.string(1)?);
        let value = row.get(2)?.unwrap_or_default().to_vec();
        match kind.as_str() {
            "setting" => drop(self.settings.insert(name, value)),
            "role" => self.role = Some(value).filter(|role| role != b"none"),
            "authorization" => self.authorization = Some(value).filter(|name| name != user.as_bytes()),
            "channel" => drop(self.channels.insert(value)),
            _ => drop(self.pins.insert(String::from_utf8_lossy(&value).into_owned())),
        }
        Ok(())
    }

    /// What makes a session that has `before` have this: questions to put, each answered for itself. Empty: nothing.
    pub(crate) fn change_from(&self, before: &State) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.settings != before.settings || self.role != before.role || self.authorization != before.authorization {
            self.settings_from(before, &mut changes);
        }
        let gone = before.channels.difference(&self.channels);
        changes.extend(gone.map(|channel| Change::Sql(sql(b"UNLISTEN ", channel))));
        let new = self.channels.difference(&before.channels);
        changes.extend(new.map(|channel| Change::Sql(sql(b"LISTEN ", channel))));
        changes
    }

    /// Under the role that it logged in as: another may not change everything.
    fn settings_from(&self, before: &State, changes: &mut Vec<Change>) {
        if before.role.is_some() {
            changes.push(Change::Sql(b"RESET ROLE".to_vec()));
        }
        if before.authorization.is_some() {
            changes.push(Change::Sql(b"RESET SESSION AUTHORIZATION".to_vec()));
        }
        let gone = before.settings.keys().filter(|name| !self.settings.contains_key(*name));
        changes.extend(gone.map(|name| Change::Sql(reset(name))));
        // Values are in the encoding of the client: it comes first.
        let encoding = self.settings.get_key_value(ENCODING);
        let others = self.settings.iter().filter(|(name, _)| *name != ENCODING);
        let differs = |(name, value): &(&String, &Vec<u8>)| before.settings.get(*name) != Some(*value);
        let set = encoding.into_iter().chain(others).filter(differs);
        changes.extend(set.map(|(name, value)| Change::Set(name.clone(), value.clone())));
        if let Some(name) = &self.authorization {
            changes.push(Change::Sql(sql(b"SET SESSION AUTHORIZATION ", name)));
        }
        if let Some(role) = &self.role {
            changes.push(Change::Sql(sql(b"SET ROLE ", role)));
        }
    }
}

const ENCODING: &str = "client_encoding";

/// Something to do on the new server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A statement.
    Sql(Vec<u8>),
    /// A setting and its value.
    Set(String, Vec<u8>),
}

impl Change {
    /// Put it; one ReadyForQuery answers it.
    pub(super) fn put(&self, to: &mut Client) {
        match self {
            Change::Sql(sql) => to.put_query_bytes(sql),
            Change::Set(name, value) => {
                let params = [
                    Param { oid: TEXT, ..Param::text(name) },
                    Param { oid: TEXT, value: Some(value), ..Param::text("") },
                ];
                to.put_statement("SELECT pg_catalog.set_config($1, $2, false)", &params, Format::Text);
                to.put_sync();
            }
        }
    }

    /// What it was, for people: no values.
    pub(super) fn what(&self) -> String {
        match self {
            Change::Set(name, _) => format!("SET {name}"),
            Change::Sql(sql) => String::from_utf8_lossy(sql).into_owned(),
        }
    }
}

/// A statement with a name at its end.
fn sql(head: &[u8], name: &[u8]) -> Vec<u8> {
    [head, &quoted(name)].concat()
}

fn reset(name: &str) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = name.split('.').map(|part| quoted(part.as_bytes())).collect();
    [b"RESET ".as_slice(), &parts.join(&b'.')].concat()
}

fn quoted(name: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for &byte in name {
        out.extend(std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(settings: &[(&str, &str)], role: Option<&str>, channels: &[&str]) -> State {
        State {
            settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            role: role.map(Into::into),
            channels: channels.iter().map(|name| (*name).into()).collect(),
            ..State::default()
        }
    }

    fn told(changes: &[Change]) -> Vec<String> {
        changes.iter().map(Change::what).collect()
    }

    #[test]
    fn a_state_that_is_there_already_needs_nothing() {
        let there = state(&[("work_mem", "4096")], Some("clerk"), &["news"]);
        assert_eq!(there.change_from(&there), []);
    }

    #[test]
    fn settings_change_under_the_role_of_the_login_and_the_role_comes_last() {
        let before = state(&[("work_mem", "4096"), ("app.tenant", "7")], Some("clerk"), &["old"]);
        let after = state(&[("work_mem", "64"), ("client_encoding", "LATIN1")], Some("boss"), &["new"]);
        assert_eq!(
            told(&after.change_from(&before)),
            [
                "RESET ROLE",
                "RESET \"app\".\"tenant\"",
                "SET client_encoding",
                "SET work_mem",
                "SET ROLE \"boss\"",
                "UNLISTEN \"old\"",
                "LISTEN \"new\""
            ]
        );
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(sql(b"LISTEN ", b"a\"b"), b"LISTEN \"a\"\"b\"");
    }
}
