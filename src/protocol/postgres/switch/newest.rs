//! The rows that were written last, looked at once more on both sides: with the gate closed and the mirror at the end of
//! the journal, each must be the same on both. It costs a round trip, and what it would find is what a mirror can get
//! wrong at the very end: the last payment, a wrong snapshot, somebody who writes to the secondary.
//!
//! Rows are told apart by a digest of their text (`Pair::digest_sql`), which is the same on 14 to 18 whatever the oids of
//! types are, and found by the keys that the journal has, as a payment finds them. The catalogs are read while clients
//! still run; a key that does not fit them has them read again, once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cutover::steps::{self, Compared};
use crate::mirror::state::keys::Key;
use crate::protocol::postgres::client::{self, Client, DataRow, Format};
use crate::protocol::postgres::copier::debt::{Arrays, fits, reorder};
use crate::protocol::postgres::copier::schema::{At, Home, Pair, Schema, operator_schemas};
use crate::protocol::postgres::key::{Layout, UNKNOWN};
use crate::protocol::postgres::scope::Scope;
use crate::record::{Side, TableId};

use super::Error;

/// Most keys that are looked at; more are left out.
pub const KEYS_MAX: usize = 1_000;
/// Most bytes of keys in one flight: less than any server's receive buffer, so that neither end waits for the other.
/// Only very long keys take a second flight.
const FLIGHT_BYTES: usize = 48 << 10;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In numbers.
    pub compared: Compared,
    /// Tables with rows that differ, or that cannot be compared, and why. No keys and no values.
    pub tables: Vec<String>,
}

/// Both sides' tables, matched.
pub struct Comparison {
    from: Side,
    schema: Schema,
}

/// Keys of one table, in one statement.
struct Request {
    pair: Arc<Pair>,
    keys: Vec<Key>,
}

/// Digests of rows by key: one set for each request.
type Digests = Vec<HashMap<Vec<u8>, Vec<u8>>>;

/// What the catalogs, as they were read, make of the keys.
#[derive(Default)]
struct Sorted {
    requests: Vec<Request>,
    outcome: Outcome,
    /// Some do not fit: tables or their keys have changed since.
    stale: bool,
}

impl Comparison {
    /// Read both catalogs; `from` is what side the first connection is of, and `scope` that of the mirror from there. Both connections are [`super::connect`]'s, and
    /// find operators of extensions from here on.
    pub async fn prepare(
        from: Side,
        scope: &Scope,
        primary: &mut Client,
        secondary: &mut Client,
    ) -> Result<Comparison, steps::Error> {
        let on_from = |error: Error| error.on(from);
        let on_to = |error: Error| error.on(from.other());
        let mut schemas = operator_schemas(primary).await.map_err(Error::from).map_err(on_from)?;
        schemas.extend(operator_schemas(secondary).await.map_err(Error::from).map_err(on_to)?);
        schemas.sort_unstable();
        schemas.dedup();
        if !schemas.is_empty() {
            let set = format!("SET search_path = {}", schemas.join(", "));
            primary.simple(&set).await.map_err(Error::from).map_err(on_from)?;
            secondary.simple(&set).await.map_err(Error::from).map_err(on_to)?;
        }
        let mut comparison = Comparison { from, schema: Schema::new().within(scope.clone()) };
        comparison.load(primary, secondary).await?;
        Ok(comparison)
    }

    async fn load(&mut self, primary: &mut Client, secondary: &mut Client) -> Result<(), steps::Error> {
        let from = self.from;
        self.schema.load_primary(primary).await.map_err(|error| Error::from(error).on(from))?;
        self.schema.load_secondary(secondary).await.map_err(|error| Error::from(error).on(from.other()))
    }

    /// Compare the rows of these canonical keys, at most [`KEYS_MAX`].
    ///
    /// # Errors
    /// A side that does not answer. Rows that differ are no error here.
    pub async fn compare<'k>(
        &mut self,
        primary: &mut Client,
        secondary: &mut Client,
        keys: impl IntoIterator<Item = (TableId, &'k [u8])>,
    ) -> Result<Outcome, steps::Error> {
        let keys: Vec<_> = keys.into_iter().take(KEYS_MAX).collect();
        let sorted = self.sort(&keys);
        if !sorted.stale {
            match self.ask(primary, secondary, sorted).await {
                Err(Asked::Stale(_)) => (),
                other => return other.map_err(Asked::into),
            }
        }
        self.load(primary, secondary).await?;
        let sorted = self.sort(&keys);
        self.ask(primary, secondary, sorted).await.map_err(Asked::into)
    }

    fn sort(&mut self, keys: &[(TableId, &[u8])]) -> Sorted {
        let mut sorted = Sorted::default();
        let mut tables: BTreeMap<u64, (TableId, Vec<&[u8]>)> = BTreeMap::new();
        for (table, key) in keys.iter().filter(|(_, key)| !key.starts_with(&UNKNOWN)) {
            tables.entry(table.0).or_insert((*table, Vec::new())).1.push(key);
        }
        for (table, keys) in tables.into_values() {
            let layout = self.schema.layout(table);
            match self.schema.home(table) {
                Home::Nowhere => sorted.stale = true,
                Home::Refused(name, why) => {
                    let different = keys.len() as u64;
                    sorted.outcome.compared.keys += different;
                    sorted.outcome.compared.different += different;
                    sorted.outcome.tables.push(format!("{name}: {why}"));
                }
                Home::Pair(pair, places) => sorted.request(pair, places.as_deref(), layout, &keys),
            }
        }
        sorted
    }

    async fn ask(&self, primary: &mut Client, secondary: &mut Client, sorted: Sorted) -> Result<Outcome, Asked> {
        let mut outcome = sorted.outcome;
        let mut rest = &sorted.requests[..];
        while !rest.is_empty() {
            let (flight, later) = rest.split_at(flight(rest));
            rest = later;
            let (one, two) =
                tokio::join!(digests(primary, At::Primary, flight), digests(secondary, At::Secondary, flight));
            let one = one.map_err(|error| asked(error, self.from))?;
            let two = two.map_err(|error| asked(error, self.from.other()))?;
            for (request, (one, two)) in flight.iter().zip(one.into_iter().zip(two)) {
                outcome.add(request, different(&one, &two));
            }
        }
        outcome.tables.dedup();
        Ok(outcome)
    }
}

impl Sorted {
    fn request(&mut self, pair: Arc<Pair>, places: Option<&[usize]>, layout: Option<Layout>, keys: &[&[u8]]) {
        let fit = |key: &&&[u8]| fits(layout, pair.key.len(), key);
        let fitting: Vec<Key> = keys
            .iter()
            .filter(fit)
            .map(|key| match places {
                Some(places) => reorder(&pair, key, places),
                None => Key::from(*key),
            })
            .collect();
        self.stale |= fitting.len() < keys.len();
        self.outcome.compared.keys += fitting.len() as u64;
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for key in fitting {
            bytes += key.len() + 4;
            keys.push(key);
            if bytes > FLIGHT_BYTES / 2 && !pair.wide {
                self.requests.push(Request { pair: Arc::clone(&pair), keys: std::mem::take(&mut keys) });
                bytes = 0;
            }
        }
        if !keys.is_empty() {
            self.requests.push(Request { pair, keys });
        }
    }
}

impl Outcome {
    fn add(&mut self, request: &Request, different: u64) {
        self.compared.different += different;
        if different > 0 {
            self.tables.push(request.pair.primary.sql());
        }
    }
}

/// Why there is no answer.
enum Asked {
    /// The schema may have changed.
    Stale(steps::Error),
    Failed(steps::Error),
}

impl From<Asked> for steps::Error {
    fn from(asked: Asked) -> steps::Error {
        let (Asked::Stale(error) | Asked::Failed(error)) = asked;
        error
    }
}

/// Class 42 is what a statement meets whose table has changed.
fn asked(error: client::Error, side: Side) -> Asked {
    let stale = error.code().is_some_and(|code| code.starts_with("42"));
    let error = Error::from(error).on(side);
    if stale { Asked::Stale(error) } else { Asked::Failed(error) }
}

/// How many requests go at once: one at least.
fn flight(requests: &[Request]) -> usize {
    let sizes = requests.iter().scan(0, |sum, request| {
        *sum += request.keys.iter().map(|key| key.len() + 4).sum::<usize>() + 1_000;
        Some(*sum)
    });
    sizes.take_while(|sum| *sum <= FLIGHT_BYTES).count().max(1)
}

async fn digests(conn: &mut Client, at: At, requests: &[Request]) -> Result<Digests, client::Error> {
    for Request { pair, keys } in requests {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
        conn.put_statement(&pair.digest_sql(at), &Arrays::of(pair, &keys).params(), Format::Text);
    }
    conn.put_sync();
    conn.send().await?;
    let mut found = Vec::with_capacity(requests.len());
    for _ in requests {
        let mut rows = HashMap::new();
        while let Some(row) = conn.next_row_of_statement().await? {
            let (key, digest) = split(&row)?;
            rows.insert(key, digest);
        }
        found.push(rows);
    }
    conn.finish().await?;
    Ok(found)
}

/// The key's columns as they came, and the digest before them.
fn split(row: &DataRow) -> Result<(Vec<u8>, Vec<u8>), client::Error> {
    let mut values = row.values();
    let digest = values.next().ok_or(client::Error::Value(0))??.unwrap_or_default().to_vec();
    let mut key = Vec::new();
    for value in values {
        let value = value?.unwrap_or_default();
        crate::protocol::postgres::key::push(&mut key, value);
    }
    Ok((key, digest))
}

/// Rows that are on one side only, or not the same on both.
fn different(one: &HashMap<Vec<u8>, Vec<u8>>, two: &HashMap<Vec<u8>, Vec<u8>>) -> u64 {
    let changed = one.iter().filter(|(key, digest)| two.get(*key) != Some(digest)).count();
    let only = two.keys().filter(|key| !one.contains_key(*key)).count();
    (changed + only) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_differ_by_content_and_by_being_there() {
        let rows = |rows: &[(&str, &str)]| -> HashMap<Vec<u8>, Vec<u8>> {
            rows.iter().map(|(key, digest)| (key.as_bytes().to_vec(), digest.as_bytes().to_vec())).collect()
        };
        let one = rows(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(different(&one, &one), 0);
        assert_eq!(different(&one, &rows(&[("a", "1"), ("b", "x"), ("d", "3")])), 3);
        assert_eq!(different(&rows(&[]), &rows(&[])), 0);
    }
}
