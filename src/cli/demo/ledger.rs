//! What one client knows: which of its writes were acknowledged, and which may or may not have happened. In the end the
//! target must agree.
//!
//! A write whose answer was lost is *uncertain*, and the client never touches its row again: then each row's history is
//! known up to its last write.

use std::collections::HashMap;

use super::Failure;
use super::stage::reach;
use crate::protocol::postgres::client::ServerConfig;

/// Tables with rows that belong to one client each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Notes,
    Devices,
    Orders,
}

impl Table {
    const ALL: [Table; 3] = [Table::Notes, Table::Devices, Table::Orders];

    fn query(self) -> &'static str {
        match self {
            Table::Notes => "SELECT name, version FROM notes",
            Table::Devices => "SELECT id, version FROM devices",
            Table::Orders => "SELECT id, version FROM orders",
        }
    }

    /// The version of one row, by its key.
    pub(super) fn look_up(self) -> &'static str {
        match self {
            Table::Notes => "SELECT version FROM notes WHERE name = $1",
            Table::Devices => "SELECT version FROM devices WHERE id = $1",
            Table::Orders => "SELECT version FROM orders WHERE id = $1",
        }
    }
}

/// A row's state: its version, or absent.
pub(super) type State = Option<u64>;

/// What may be found in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    acked: State,
    uncertain: Option<State>,
}

impl Row {
    fn allows(&self, found: State) -> bool {
        found == self.acked || self.uncertain == Some(found)
    }
}

/// One client's knowledge.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    client: u32,
    /// Sequence numbers of history rows whose commit was acknowledged.
    history: Vec<u32>,
    rows: HashMap<(Table, String), Row>,
    /// The row that was written last.
    last: Option<(Table, String)>,
}

impl Ledger {
    pub(super) fn new(client: u32) -> Ledger {
        Ledger { client, ..Ledger::default() }
    }

    /// A history row was committed.
    pub(super) fn wrote_history(&mut self, seq: u32) {
        self.history.push(seq);
    }

    /// A row was written, or deleted.
    pub(super) fn wrote(&mut self, table: Table, key: &str, state: State) {
        self.rows.insert((table, key.to_owned()), Row { acked: state, uncertain: None });
        self.last = Some((table, key.to_owned()));
    }

    /// The answer was lost.
    pub(super) fn doubts(&mut self, table: Table, key: &str, state: State) {
        self.rows.entry((table, key.to_owned())).or_default().uncertain = Some(state);
    }

    /// The client may write the row: nothing is uncertain.
    pub(super) fn knows(&self, table: Table, key: &str) -> bool {
        self.rows.get(&(table, key.to_owned())).is_none_or(|row| row.uncertain.is_none())
    }

    /// The row that was written last, and the history row.
    pub(super) fn last(&self) -> (Option<(Table, &str)>, Option<u32>) {
        (self.last.as_ref().map(|(table, key)| (*table, key.as_str())), self.history.last().copied())
    }

    /// The row may be as it was read: it is what this client wrote last, and nobody else writes it.
    pub(super) fn allows(&self, table: Table, key: &str, found: State) -> bool {
        self.rows.get(&(table, key.to_owned())).is_none_or(|row| row.allows(found))
    }

    /// How many rows are not as they must be.
    fn wrong(&self, found: &HashMap<(Table, String), u64>) -> u64 {
        self.rows.iter().filter(|(key, row)| !row.allows(found.get(*key).copied())).count() as u64
    }
}

/// How many acknowledged writes the server does not have.
pub(super) async fn missing(config: &ServerConfig, ledgers: &[Ledger]) -> Result<u64, Failure> {
    let mut found = HashMap::new();
    for table in Table::ALL {
        let mut client = reach(config).await?;
        client.put_query(table.query());
        client.send().await?;
        while let Some(row) = client.next_row().await? {
            found.insert((table, row.string(0)?), row.parse(1)?);
        }
    }
    let wrong: u64 = ledgers.iter().map(|ledger| ledger.wrong(&found)).sum();
    Ok(wrong + missing_history(config, ledgers).await?)
}

async fn missing_history(config: &ServerConfig, ledgers: &[Ledger]) -> Result<u64, Failure> {
    let mut client = reach(config).await?;
    let mut missing = 0;
    for ledger in ledgers {
        client.put_query(&format!("SELECT seq FROM history WHERE client = {} ORDER BY seq", ledger.client));
        client.send().await?;
        // Both are in order: each acknowledged number is met on the way, or was passed.
        let mut acked = ledger.history.iter().copied().peekable();
        while let Some(row) = client.next_row().await? {
            let seq: u32 = row.parse(0)?;
            while acked.next_if(|&acked| acked < seq).is_some() {
                missing += 1;
            }
            acked.next_if_eq(&seq);
        }
        missing += acked.count() as u64;
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "k";

    fn wrong(ledger: &Ledger, found: State) -> u64 {
        ledger.wrong(&found.into_iter().map(|version| ((Table::Notes, KEY.to_owned()), version)).collect())
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut ledger = Ledger::new(1);
        ledger.wrote(Table::Notes, KEY, Some(3));
        assert_eq!([wrong(&ledger, Some(3)), wrong(&ledger, Some(2)), wrong(&ledger, None)], [0, 1, 1]);
        ledger.wrote(Table::Notes, KEY, None);
        assert_eq!([wrong(&ledger, Some(3)), wrong(&ledger, None)], [1, 0]);
    }

    #[test]
    fn a_client_reads_what_it_wrote_last() {
        let mut ledger = Ledger::new(1);
        ledger.wrote_history(7);
        ledger.wrote(Table::Notes, KEY, Some(3));
        assert_eq!(ledger.last(), (Some((Table::Notes, KEY)), Some(7)));
        assert!(ledger.allows(Table::Notes, KEY, Some(3)));
        assert!(!ledger.allows(Table::Notes, KEY, Some(2)) && !ledger.allows(Table::Notes, KEY, None));
    }

    #[test]
    fn an_uncertain_write_may_be_there() {
        let mut ledger = Ledger::new(1);
        ledger.wrote(Table::Notes, KEY, Some(3));
        ledger.doubts(Table::Notes, KEY, Some(4));
        assert!(!ledger.knows(Table::Notes, KEY));
        assert_eq!([wrong(&ledger, Some(3)), wrong(&ledger, Some(4)), wrong(&ledger, Some(5))], [0, 0, 1]);
    }
}
