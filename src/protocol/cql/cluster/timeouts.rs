//! How long a cluster's nodes work on a write before they give it up: their own settings, where they show them.

use std::time::Duration;

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::wire::primitive::{Consistency, Value};
use crate::protocol::cql::wire::request::{Bound, Parameters, Values};

use super::fields::Named;

const TEXT: &str = "SELECT value FROM system_views.settings WHERE name = ?";

/// A cluster's timeouts. The default: Cassandra's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `write_request_timeout`.
    pub write: Duration,
    /// `counter_write_request_timeout`.
    pub counter: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { write: Duration::from_secs(2), counter: Duration::from_secs(5) }
    }
}

/// As a node shows them. Those that it does not (before 4.0, or to who may not ask) are the default.
pub(super) async fn read(client: &Client) -> Timeouts {
    let default = Timeouts::default();
    Timeouts {
        write: setting(client, "write_request_timeout").await.unwrap_or(default.write),
        counter: setting(client, "counter_write_request_timeout").await.unwrap_or(default.counter),
    }
}

/// 4.0 has the unit in the name.
async fn setting(client: &Client, name: &str) -> Option<Duration> {
    match value(client, name).await {
        Ok(Some(found)) => Some(found),
        Ok(None) => value(client, &format!("{name}_in_ms")).await.ok().flatten(),
        Err(_) => None,
    }
}

async fn value(client: &Client, name: &str) -> Result<Option<Duration>, Error> {
    let values: [Bound<'_>; 1] = [(None, Value::Set(name.as_bytes()))];
    let parameters = Parameters { values: Some(Values::Given(&values)), ..Parameters::new(Consistency::One) };
    let answer = client.query(TEXT, &parameters).await?;
    let rows = Named::of(&answer)?;
    let text = rows.iter().next().transpose()?.and_then(|row| row.text("value").map(str::to_owned));
    Ok(text.as_deref().and_then(duration))
}

/// `2000ms`, `2s`, `1m`; without a unit milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "us" | "µs" => Some(Duration::from_micros(number)),
        "ns" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_cassandra_writes_them() {
        let read = [("2000ms", 2_000), ("2s", 2_000), ("1m", 60_000), ("5000", 5_000), ("1500us", 1)];
        for (text, millis) in read {
            assert_eq!(duration(text).map(|read| read.as_millis()), Some(millis), "{text}");
        }
        assert_eq!([duration("2 fortnights"), duration("null"), duration("")], [None; 3]);
    }
}
