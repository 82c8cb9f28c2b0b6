//! The time zones that nodes read texts in: a timestamp as text that says none is one of the node's own (source: Cassandra's
//! `TimestampSerializer.dateStringToTimestamp`), in statements and in JSON.

use std::fmt;

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;

/// As far as tandem looks: what is ahead of UTC on a day in winter and on one in summer, in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Zone {
    winter: i64,
    summer: i64,
}

const TEXT: &str =
    "SELECT (timestamp)'2000-01-01 00:00', (timestamp)'2000-07-01 00:00' FROM system.local WHERE key = 'local'";
/// These two in UTC, in milliseconds since 1970.
const DAYS: [i64; 2] = [946_684_800_000, 962_409_600_000];

/// That of the node.
pub(super) async fn zone(client: &Client) -> Result<Zone, Error> {
    let answer = client.query(TEXT, &Parameters::new(Consistency::One)).await?;
    let row = answer.row()?.ok_or(Error::Answer("a row of a system table is not there"))?;
    let read = |at: usize| row.get(at).flatten().and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
    let [winter, summer] = [0, 1].map(|at| read(at).map(|millis| (DAYS[at] - millis) / 60_000));
    match (winter, summer) {
        (Some(winter), Some(summer)) => Ok(Zone { winter, summer }),
        _ => Err(Error::Answer("a timestamp is none")),
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = |minutes: i64| {
            let sign = if minutes < 0 { '-' } else { '+' };
            format!("UTC{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
        };
        match self.winter == self.summer {
            true => f.write_str(&ahead(self.winter)),
            false => write!(f, "{}, in July {}", ahead(self.winter), ahead(self.summer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_told_by_what_it_is_ahead_of_utc() {
        for (winter, summer, expected) in [
            (0, 0, "UTC+00:00"),
            (60, 120, "UTC+01:00, in July UTC+02:00"),
            (-210, -150, "UTC-03:30, in July UTC-02:30"),
        ] {
            assert_eq!(Zone { winter, summer }.to_string(), expected);
        }
    }
}
