//! Writes that no key names: functions, triggers, rules, CALL, DO.
//!
//! The primary counts, per table and transaction, the rows that were written, by whomever. A hidden query reads these
//! counts before and after such a statement, in its own transaction and before anything can commit; where they say more
//! than the statement itself accounts for, the table is dirty. TRUNCATE is not counted, and what was counted before it is
//! forgotten: it gives its table another file, or leaves less counted than there was. The query runs under names of its
//! own in the extended protocol, so the client's unnamed statement and portal are left alone.
//!
//! In the same way it counts what was written to its own catalogs: a trigger that a DO block makes is known before the
//! client learns that it is there. A table that such code makes, such as a partition for the row at hand, is dirty: nobody can
//! count what is in it.
//!
//! CALL and DO outside a transaction may end it on their way. Before they run, a record says that every table is dirty;
//! when the counts are there, a record that says which ones takes its place, and the first is ended as aborted. Nothing
//! can go right ahead of them, in what would be their transaction: their counts are not compared with earlier ones (a
//! count that PostgreSQL flushed in between would hide a write, while one of an earlier transaction that it did not flush
//! yet only owes too much). Which files there were is asked in a transaction before theirs, or else the catalog says it:
//! a file that another session changed since owes too much, too.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::protocol::postgres::bypass::Anywhere;
use crate::protocol::postgres::catalog::Catalog;
use crate::protocol::postgres::key;
use crate::protocol::postgres::plan::{Action, Counted, Script, Statement};
use crate::protocol::postgres::wire::{Fields, WireError, back};
use crate::record::{Reason, TableId};

use super::expect::View;
use super::front::could_commit;
use super::tickets::Mark;
use super::{Out, Session};

/// Statement and portal of the hidden query.
const NAME: &[u8] = b"tandem counts";

/// The oid under which it is counted what was written to the server's own catalogs.
const CATALOGS: u32 = 0;

/// Where a row of the answer has an oid else: it names a table that the catalog does not have.
const MADE: &[u8] = b"made";

/// Catalogs of the server in which every row that is written is a schema that other writes must be captured by.
const OF_CODE: [&str; 4] = ["pg_trigger", "pg_rewrite", "pg_proc", "pg_event_trigger"];

/// Catalogs in which only rows that change are, and only where one of them is of no temporary table, which functions make and
/// empty all the time. A new table is looked for when it is named.
const OF_TABLES: [&str; 2] = ["pg_class", "pg_attribute"];

/// What the server says of a table.
#[derive(Clone, Copy, Debug)]
struct Written {
    rows: u64,
    /// 0: it has none, or is gone.
    file: u32,
}

/// What a transaction did to tables.
#[derive(Debug, Default)]
struct Counts {
    /// Of those that it wrote to, and of those with other files than the catalog knows.
    written: HashMap<u32, Written>,
    /// Schema and name of those that the catalog does not have.
    made: HashSet<(String, String)>,
}

/// Counts that were asked for ahead of a statement which may end its transaction.
pub(super) struct Ahead {
    catalog: Arc<Catalog>,
    counts: Counts,
    /// The transaction in which they were asked for is not over.
    is_open: bool,
}

/// One statement being counted.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// By which the server is asked, before and after.
    catalog: Arc<Catalog>,
    before: Counts,
    after: Counts,
    /// Tables whose keys the statement itself names.
    own: HashSet<TableId>,
    /// It empties those itself, or gives them other files.
    empties: bool,
    /// The name of the table that it makes itself.
    makes: Option<String>,
    /// Rows that its command tag claims.
    rows: u64,
    /// The provisional record right below the mark waits for the result.
    provisional: Option<Mark>,
    /// What it writes is not known yet, and may be counted.
    _anywhere: Option<Anywhere>,
}

/// Hidden writes that a statement may do; `None`: it does none.
pub(super) fn counted(action: &Action) -> Option<&Counted> {
    match action {
        Action::Counted(counted) | Action::Opaque(counted) => Some(counted),
        Action::Evident(evident) => evident.counted.as_ref(),
        Action::Asked(asked) => asked.counted.as_ref(),
        Action::Truncate(truncate) => truncate.counted.as_ref(),
        Action::Ddl(ddl) => ddl.counted.as_ref(),
        Action::Fetch(fetch) => fetch.counted.as_ref(),
        _ => None,
    }
}

/// Must the server count? Not where the plan knows all tables that could be written.
pub(super) fn counts(action: &Action) -> bool {
    counted(action).is_some_and(|counted| !counted.alone)
}

/// May it run code of the user's? That may open cursors, which run when they are read.
pub(super) fn runs_user_code(action: &Action) -> bool {
    match action {
        Action::CopyIn(copy) => copy.counted.is_some(),
        other => counted(other).is_some(),
    }
}

fn own(action: &Action) -> HashSet<TableId> {
    match action {
        Action::Evident(evident) => evident.keys.iter().flat_map(|key| &key.tables).map(|table| table.id).collect(),
        Action::Asked(asked) => asked.tables.iter().copied().collect(),
        Action::Truncate(truncate) => truncate.tables.iter().copied().collect(),
        // A table that it drops has no file any more.
        Action::Ddl(ddl) => {
            ddl.rewritten.iter().chain(ddl.drops.then_some(&ddl.tables).into_iter().flatten()).copied().collect()
        }
        _ => HashSet::new(),
    }
}

impl Session {
    /// Before the statement. `provisional`: it may commit by itself.
    pub(super) fn count_before(&mut self, statement: &Statement, provisional: bool, out: &mut Out<'_>) {
        if self.skipping {
            return;
        }
        let own = match &statement.action {
            Action::Evident(evident) if !self.writes_own(evident) => HashSet::new(),
            action => own(action),
        };
        let empties = matches!(statement.action, Action::Truncate(_) | Action::Ddl(_));
        let mark = provisional.then(|| self.tickets.mark());
        let (catalog, before) = match self.ahead.take().filter(|_| provisional) {
            Some(ahead) => (ahead.catalog.clone(), ahead.files()),
            None => (self.shared.catalog.now().clone(), Counts::default()),
        };
        let makes = match &statement.action {
            Action::Ddl(ddl) => ddl.fills.as_ref().map(|(_, name)| name.clone()),
            _ => None,
        };
        let anywhere = provisional.then(|| self.shared.uncounted.begin());
        let counting = Counting {
            catalog,
            before,
            own,
            empties,
            makes,
            provisional: mark,
            _anywhere: anywhere,
            ..Counting::default()
        };
        self.counting.push_back(counting);
        if !provisional {
            self.put_count(false, out);
        }
    }

    /// Ahead of what may end its transaction, in one of its own. `true`: the server was asked, the message comes again.
    pub(super) fn ask_ahead(&mut self, script: &Script, out: &mut Out<'_>) -> bool {
        let ends = |statement: &Statement| counts(&statement.action) && could_commit(&statement.action);
        let between_units = !self.in_block && !self.open_started && self.can_ask_first();
        // What nobody can read the server mostly refuses.
        if !between_units || self.ahead.is_some() || script.whole || !script.statements.iter().any(ends) {
            return false;
        }
        let catalog = self.shared.catalog.now().clone();
        self.ask_first(NAME, count_sql(&catalog).as_bytes(), View::Ahead, out);
        self.ahead = Some(Ahead { catalog, counts: Counts::default(), is_open: true });
        true
    }

    /// A row of what was asked ahead.
    pub(super) fn ahead_row(&mut self, body: &[u8]) -> Result<(), WireError> {
        match &mut self.ahead {
            Some(ahead) => ahead.counts.read_row(body),
            None => Ok(()),
        }
    }

    /// A unit is over. What was asked in it serves the next one.
    pub(super) fn ahead_over(&mut self) {
        self.ahead.take_if(|ahead| !std::mem::take(&mut ahead.is_open));
    }

    /// Behind the statement; its answer is needed before anything commits.
    pub(super) fn count_after(&mut self, out: &mut Out<'_>) {
        if !self.skipping {
            self.put_count(true, out);
            self.asking += 1;
            self.flushed = false;
        }
    }

    fn put_count(&mut self, after: bool, out: &mut Out<'_>) {
        let Some(catalog) = self.counting.back().map(|counting| counting.catalog.clone()) else { return };
        self.put_hidden(NAME, count_sql(&catalog).as_bytes(), View::Count { after }, out);
    }

    /// A row of counts.
    pub(super) fn count_row(&mut self, after: bool, body: &[u8]) -> Result<(), WireError> {
        match self.counting.front_mut() {
            Some(counting) if after => counting.after.read_row(body),
            Some(counting) => counting.before.read_row(body),
            None => Ok(()),
        }
    }

    /// The statement's own command tag.
    pub(super) fn counted_tag(&mut self, tag: &[u8]) {
        if let Some(counting) = self.counting.front_mut() {
            counting.rows = rows_claimed(tag).unwrap_or(0);
        }
    }

    /// All counts of a statement are there: say which tables are dirty.
    pub(super) fn count_done(&mut self) {
        let Some(counting) = self.counting.pop_front() else { return };
        let made = counting.made();
        let changed = counting.of(&counting.after, CATALOGS).rows > counting.of(&counting.before, CATALOGS).rows;
        if changed || !made.is_empty() {
            self.front_group().schema = true;
        }
        for table in made {
            self.keys.dirty(table, Reason::Uncaptured);
        }
        let (tables, emptied) = counting.dirty();
        for table in tables {
            self.keys.dirty(table, Reason::Uncaptured);
        }
        if emptied && counting.provisional.is_some() {
            self.shared.catalog.stale(); // So that it is told once.
        }
        if let Some(mark) = counting.provisional {
            self.tickets.void(mark);
        }
    }

    /// A provisional record: every table is dirty, unless a better one follows.
    pub(super) fn provisional(&mut self) {
        let mut buf = std::mem::take(&mut self.keys);
        self.dirty_any();
        std::mem::swap(&mut self.keys, &mut buf);
        match self.shared.journal.begin(buf.finish(self.backend)) {
            Ok(ticket) => self.tickets.push_provisional(ticket),
            Err(error) => self.unwritten(&buf, &error),
        }
    }
}

impl Ahead {
    /// What the statement meets; rows that were counted are not compared with.
    fn files(self) -> Counts {
        let files = self.counts.written.into_iter().map(|(oid, written)| (oid, Written { rows: 0, ..written }));
        Counts { written: files.collect(), made: self.counts.made }
    }
}

impl Counts {
    fn read_row(&mut self, body: &[u8]) -> Result<(), WireError> {
        let malformed = || WireError::Malformed(char::from(back::DATA_ROW));
        let mut fields = Fields::new(back::DATA_ROW, body);
        fields.u16()?;
        let mut text = || -> Result<&str, WireError> {
            fields.value()?.and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(malformed)
        };
        let (first, second, third) = (text()?, text()?, text()?);
        if first.as_bytes() == MADE {
            let name = |hex: &str| from_hex(hex).ok_or_else(malformed);
            self.made.insert((name(second)?, name(third)?));
            return Ok(());
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| malformed());
        let written = Written { rows: number(second)?, file: number(third)? as u32 };
        self.written.insert(number(first)? as u32, written);
        Ok(())
    }
}

/// A text in hexadecimal digits of its UTF-8.
fn from_hex(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    key::bytea_hex(text.as_bytes(), &mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

impl Counting {
    /// The tables that were made meanwhile, by others than the statement itself.
    fn made(&self) -> Vec<TableId> {
        let news = self.after.made.difference(&self.before.made);
        let others = news.filter(|(_, name)| self.makes.as_ref() != Some(name));
        others.map(|(schema, name)| TableId::of(schema, name)).collect()
    }

    /// The tables that are dirty, and whether some were emptied.
    fn dirty(&self) -> (Vec<TableId>, bool) {
        let (mut written, mut emptied) = (HashMap::<TableId, u64>::new(), HashSet::new());
        let mut deferred = false;
        for oid in self.before.written.keys().chain(self.after.written.keys()) {
            let Some(relation) = self.catalog.relations.get(oid) else { continue };
            let (before, after) = (self.of(&self.before, *oid), self.of(&self.after, *oid));
            if after.rows > before.rows {
                written.insert(relation.id, after.rows - before.rows);
                deferred |= relation.hazards.deferred;
            }
            if after.file != before.file || after.rows < before.rows {
                emptied.insert(relation.id);
            }
        }
        if self.empties {
            emptied.retain(|table| !self.own.contains(table));
        }
        // What such a trigger writes in the COMMIT nobody can count.
        if deferred {
            return (self.catalog.tables().map(|table| table.id).collect(), !emptied.is_empty());
        }
        let own: u64 = self.own.iter().filter_map(|table| written.get(table)).sum();
        if own == self.rows && !self.own.is_empty() {
            written.retain(|table, _| !self.own.contains(table));
        }
        // What foreign keys did is among it, and nobody knows that it was only they: where nothing else could write, nothing
        // is counted, and the payment finds their rows.
        let all: HashSet<TableId> = written.into_keys().chain(emptied.iter().copied()).collect();
        (all.into_iter().collect(), !emptied.is_empty())
    }

    /// What the server does not tell is as the catalog has it.
    fn of(&self, counts: &Counts, oid: u32) -> Written {
        let known = || Written { rows: 0, file: file_of(&self.catalog, oid) };
        counts.written.get(&oid).copied().unwrap_or_else(known)
    }
}

/// Rows that a statement with this tag says it wrote. That of a SELECT counts what it shows, whatever its WITH wrote.
fn rows_claimed(tag: &[u8]) -> Option<u64> {
    let mut words = std::str::from_utf8(tag).ok()?.trim_end_matches('\0').split(' ');
    let writes = matches!(words.next(), Some("INSERT" | "UPDATE" | "DELETE" | "MERGE"));
    words.next_back()?.parse().ok().filter(|_| writes)
}

fn file_of(catalog: &Catalog, oid: u32) -> u32 {
    catalog.files.get(&oid).copied().unwrap_or(0)
}

fn count_sql(catalog: &Catalog) -> &str {
    catalog.count_sql.get_or_init(|| query(catalog))
}

/// Rows written in this transaction, and the file, of every table that is mirrored; those left out of which there is
/// nothing to tell.
fn query(catalog: &Catalog) -> String {
    let (mut oids, mut files) = (String::new(), String::new());
    for table in catalog.tables() {
        let comma = if oids.is_empty() { "" } else { "," };
        let _ = write!(oids, "{comma}{}", table.oid);
        let _ = write!(files, "{comma}{}", file_of(catalog, table.oid));
    }
    format!(
        "SELECT t.o::pg_catalog.text, t.n::pg_catalog.text, t.f::pg_catalog.text FROM (SELECT o, k, \
         pg_catalog.pg_stat_get_xact_tuples_inserted(o) OPERATOR(pg_catalog.+) \
         pg_catalog.pg_stat_get_xact_tuples_updated(o) OPERATOR(pg_catalog.+) \
         pg_catalog.pg_stat_get_xact_tuples_deleted(o) AS n, \
         COALESCE(pg_catalog.pg_relation_filenode(o), '0'::pg_catalog.oid) AS f \
         FROM ROWS FROM (pg_catalog.unnest('{{{oids}}}'::pg_catalog.oid[]), \
         pg_catalog.unnest('{{{files}}}'::pg_catalog.oid[])) AS u (o, k)) AS t \
         WHERE t.n OPERATOR(pg_catalog.>) 0 OR t.f OPERATOR(pg_catalog.<>) t.k \
         UNION ALL SELECT '{CATALOGS}', s.n::pg_catalog.text, '0' FROM (SELECT {} AS n) AS s \
         WHERE s.n OPERATOR(pg_catalog.>) 0 UNION ALL {}",
        catalog_rows(),
        tables_made(&oids)
    )
}

/// Tables that the catalog does not have, but for those of extensions, where this transaction has made some: their names in
/// hexadecimal, for the client's encoding may not have them.
fn tables_made(known: &str) -> String {
    let name = |of: &str| format!("pg_catalog.encode(pg_catalog.convert_to({of}::pg_catalog.text, 'UTF8'), 'hex')");
    format!(
        "SELECT 'made', {}, {} FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n \
         ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE (SELECT \
         pg_catalog.pg_stat_get_xact_tuples_inserted('pg_catalog.pg_class'::pg_catalog.regclass) OPERATOR(pg_catalog.>) 0) \
         AND c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relpersistence OPERATOR(pg_catalog.<>) 't' \
         AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' \
         AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{{information_schema,tandem}}'::pg_catalog.name[]) \
         AND NOT EXISTS (SELECT FROM pg_catalog.unnest('{{{known}}}'::pg_catalog.oid[]) AS k (o) \
         WHERE k.o OPERATOR(pg_catalog.=) c.oid) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d \
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
         AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')",
        name("n.nspname"),
        name("c.relname")
    )
}

/// How many rows of the server's catalogs this transaction wrote that count.
fn catalog_rows() -> String {
    let rows = |how: &str, name: &str| {
        format!("pg_catalog.pg_stat_get_xact_tuples_{how}('pg_catalog.{name}'::pg_catalog.regclass)")
    };
    let sum = |all: Vec<String>| all.join(" OPERATOR(pg_catalog.+) ");
    let of_code = OF_CODE.iter().flat_map(|name| ["inserted", "updated", "deleted"].map(|how| rows(how, name)));
    let of_tables = sum(OF_TABLES.map(|name| rows("updated", name)).to_vec());
    // Of this transaction, or of a later one: its own subtransactions are.
    let is_young = |row: &str| {
        format!(
            "pg_catalog.age({row}.xmin) OPERATOR(pg_catalog.<=) \
             pg_catalog.age(pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid)"
        )
    };
    let (of_class, of_column) = (is_young("c"), is_young("a"));
    format!(
        "{} OPERATOR(pg_catalog.+) CASE WHEN ({of_tables}) OPERATOR(pg_catalog.>) 0 AND EXISTS (SELECT \
         FROM pg_catalog.pg_class AS c WHERE c.relpersistence OPERATOR(pg_catalog.<>) 't' AND ({of_class} \
         OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid \
         AND {of_column}))) THEN {of_tables} ELSE 0 END",
        sum(of_code.collect())
    )
}

#[cfg(test)]
mod tests {
    use super::{from_hex, rows_claimed};

    #[test]
    fn a_name_comes_in_hexadecimal() {
        for (hex, name) in [
            ("", Some("")),
            ("6f72646572", Some("order")),
            ("c3a4", Some("ä")),
            ("c3", None),
            ("6f7", None),
            ("6g", None),
        ] {
            assert_eq!(from_hex(hex).as_deref(), name, "{hex}");
        }
    }

    #[test]
    fn only_a_write_says_how_many_rows_it_wrote() {
        for (tag, rows) in [
            ("INSERT 0 5", Some(5)),
            ("UPDATE 2", Some(2)),
            ("DELETE 0", Some(0)),
            ("MERGE 7", Some(7)),
            ("SELECT 2", None),
            ("FETCH 2", None),
            ("CREATE TABLE", None),
            ("UPDATE", None),
            ("", None),
        ] {
            assert_eq!(rows_claimed(format!("{tag}\0").as_bytes()), rows, "{tag}");
        }
    }
}
