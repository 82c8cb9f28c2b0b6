//! Both sides row by row, by connections of their own: tandem has no part in it, and is not even running.
//!
//! Values are compared as bytes, so lists in their order; times of writing to the microsecond, ends of life to the second,
//! give or take one. All rows are read as of one second, the same for both sides.

use std::collections::{BTreeMap, HashMap};

use super::super::ledger::{Ledger, Sum};
use super::super::progress::Progress;
use super::super::{Failure, Found};
use super::line::{self, LEVEL};
use super::load::elements;
use super::schema::{Columns, TABLES, Table};
use crate::protocol::cql::client::Client;
use crate::protocol::cql::stamps::now_micros;
use crate::protocol::cql::wire::request::Parameters;
use crate::protocol::cql::wire::response::Row;
use crate::protocol::cql::wire::types::Type;
use crate::protocol::cql::wire::value::Datum;

/// Rows of a page.
const PAGE: i32 = 1_000;
/// Seconds that ends of life may differ by.
const SLACK: i32 = 1;

/// A value and its times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cell {
    value: Option<Vec<u8>>,
    /// When it was written, in microseconds.
    written: Option<i64>,
    /// Seconds left. `None`: for ever.
    left: Option<i32>,
}

impl Cell {
    /// Not there, or no more in a moment.
    fn is_ending(&self) -> bool {
        self.value.is_none() || self.left.is_some_and(|left| left <= SLACK)
    }
}

/// How two rows differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Differs {
    OnlyOrigin,
    OnlyTarget,
    Value,
    Written,
    Left,
}

impl Differs {
    fn describe(self) -> &'static str {
        match self {
            Differs::OnlyOrigin => "only on the origin",
            Differs::OnlyTarget => "only on the target",
            Differs::Value => "with other values",
            Differs::Written => "with other writetimes",
            Differs::Left => "with other TTLs",
        }
    }
}

/// A table of one side: what its cells are, and them by their keys.
#[derive(Default)]
struct Side {
    kinds: Vec<Type>,
    /// Each key with its name for people.
    rows: HashMap<Vec<u8>, (String, Vec<Cell>)>,
}

/// Compare all tables. What differs is told, with an example.
pub(super) async fn sides(origin: &Client, target: &Client, progress: &Progress) -> Result<Found, Failure> {
    let now = i32::try_from(now_micros() / 1_000_000).unwrap_or(i32::MAX);
    let mut found = Found::default();
    for columns in TABLES {
        let (mut left, right) = (rows(origin, columns, now).await?, rows(target, columns, now).await?);
        let mut told: BTreeMap<Differs, (u64, String)> = BTreeMap::new();
        let mut note = |how, example: &dyn Fn() -> String| {
            told.entry(how).or_insert_with(|| (0, example())).0 += 1;
        };
        for (key, (name, target)) in right.rows {
            found.rows += 1;
            let Some((_, origin)) = left.rows.remove(&key) else {
                if !is_ending(&target) {
                    found.extra += 1;
                    note(Differs::OnlyTarget, &|| name.clone());
                }
                continue;
            };
            if let Some((how, at)) = differs(&origin, &target) {
                found.mismatched += 1;
                let kind = left.kinds.get(columns.key.len() + at);
                note(how, &|| format!("{name}: {}", describe(columns, kind, at, [&origin[at], &target[at]])));
            }
        }
        for (name, origin) in left.rows.into_values() {
            found.rows += 1;
            if !is_ending(&origin) {
                found.lost += 1;
                note(Differs::OnlyOrigin, &|| name.clone());
            }
        }
        for (how, (rows, example)) in told {
            progress.tell(&format!("{}: {rows} rows {}, such as {example}", columns.table, how.describe()));
        }
    }
    Ok(found)
}

/// The cell that differs most, if any does, and where it is.
fn differs(origin: &[Cell], target: &[Cell]) -> Option<(Differs, usize)> {
    let cells = origin.iter().zip(target).enumerate();
    cells.filter_map(|(at, (origin, target))| Some((cell_differs(origin, target)?, at))).min()
}

/// A column on both sides, for people.
fn describe(columns: &Columns, kind: Option<&Type>, at: usize, cells: [&Cell; 2]) -> String {
    let column = columns.timed.iter().chain(columns.untimed).nth(at).copied().unwrap_or_default();
    let [origin, target] = cells.map(|cell| {
        let value = kind.map(|kind| Datum::decode(kind, cell.value.as_deref()));
        let value: String = value.map(|value| format!("{value:?}")).unwrap_or_default().chars().take(300).collect();
        format!("{value} written {:?}, {:?} s left", cell.written, cell.left)
    });
    format!("{column} is {origin} on the origin, {target} on the target")
}

/// A row of which all ends in a moment; without any value it lasts as long as its key.
fn is_ending(cells: &[Cell]) -> bool {
    cells.iter().any(|cell| cell.value.is_some()) && cells.iter().all(Cell::is_ending)
}

fn cell_differs(origin: &Cell, target: &Cell) -> Option<Differs> {
    if origin.value.is_some() != target.value.is_some() && origin.is_ending() && target.is_ending() {
        return None;
    }
    if origin.value != target.value {
        return Some(Differs::Value);
    }
    if origin.written != target.written {
        return Some(Differs::Written);
    }
    let same = match (origin.left, target.left) {
        (Some(origin), Some(target)) => origin.abs_diff(target) <= SLACK.cast_unsigned(),
        (origin, target) => origin == target,
    };
    (!same).then_some(Differs::Left)
}

/// All rows of a table by their keys, each with its name for people.
async fn rows(client: &Client, columns: &Columns, now: i32) -> Result<Side, Failure> {
    let times = |function: &'static str| columns.timed.iter().map(move |column| format!("{function}({column})"));
    let plain = [columns.key, columns.timed, columns.untimed].concat();
    let selected: Vec<String> =
        plain.into_iter().map(str::to_owned).chain(times("writetime")).chain(times("ttl")).collect();
    let text = format!("SELECT {} FROM zdmapp.{}", selected.join(", "), columns.table);
    let mut side = Side::default();
    let mut state: Option<Vec<u8>> = None;
    loop {
        let parameters = Parameters {
            page_size: Some(PAGE),
            paging_state: state.as_deref(),
            now_in_seconds: Some(now),
            ..Parameters::new(LEVEL)
        };
        let page = client.query(&text, &parameters).await?;
        side.kinds = page.rows()?.metadata.columns.iter().flat_map(|all| all.iter().map(|one| one.kind())).collect();
        for row in page.rows()?.iter() {
            let row = row?;
            side.rows.insert(key(columns, &row), (name(columns, &side.kinds, &row), cells(columns, &row)));
        }
        state = page.paging_state().map(<[u8]>::to_vec);
        if state.is_none() {
            return Ok(side);
        }
    }
}

fn key(columns: &Columns, row: &Row<'_>) -> Vec<u8> {
    let mut key = Vec::new();
    for cell in row.iter().take(columns.key.len()).map(Option::unwrap_or_default) {
        key.extend_from_slice(&(cell.len() as u64).to_be_bytes());
        key.extend_from_slice(cell);
    }
    key
}

/// The demo's own keys are no secret.
fn name(columns: &Columns, kinds: &[Type], row: &Row<'_>) -> String {
    let parts = row.iter().zip(kinds).take(columns.key.len()).map(|(cell, kind)| match Datum::decode(kind, cell) {
        Ok(Datum::Varchar(text)) => text,
        Ok(Datum::Uuid(id)) => line::uuid_text(&id),
        Ok(Datum::Int(n)) => n.to_string(),
        Ok(Datum::Timestamp(at)) => at.to_string(),
        other => format!("{other:?}"),
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn cells(columns: &Columns, row: &Row<'_>) -> Vec<Cell> {
    let all: Vec<Option<&[u8]>> = row.iter().skip(columns.key.len()).collect();
    let (timed, values) = (columns.timed.len(), columns.timed.len() + columns.untimed.len());
    let cell = |at: usize| all.get(at).copied().flatten();
    let times = |at: usize| match at < timed {
        true => (line::bigint(cell(values + at)), int(cell(values + timed + at))),
        false => (None, None),
    };
    let of = |at: usize| {
        let (written, left) = times(at);
        Cell { value: cell(at).map(<[u8]>::to_vec), written, left }
    };
    (0..values).map(of).collect()
}

fn int(cell: Option<&[u8]>) -> Option<i32> {
    Some(i32::from_be_bytes(cell?.try_into().ok()?))
}

/// How many acknowledged writes the node does not have.
pub(super) async fn missing(client: &Client, ledgers: &[&Ledger<Table>], progress: &Progress) -> Result<u64, Failure> {
    let (rows, sums) = known(client).await?;
    let mut missing = [0, 0, 0];
    for ledger in ledgers {
        for (table, key) in ledger.wrong(&rows) {
            progress.tell(&format!("{table:?} {key} is not as client {} was told", ledger.client));
            missing[0] += 1;
        }
        missing[1] += ledger.missing_history(statuses(client, ledger.client).await?);
    }
    let mut added: HashMap<&(Table, String), Sum> = HashMap::new();
    for (place, sum) in ledgers.iter().flat_map(|ledger| ledger.sums()) {
        let all = added.entry(place).or_default();
        *all = all.plus(sum);
    }
    let wrong = added.iter().filter(|(place, sum)| !sum.allows(sums.get(**place).copied().unwrap_or(0)));
    missing[2] = wrong.count() as u64;
    if missing != [0, 0, 0] {
        let [rows, statuses, sums] = missing;
        progress.tell(&format!(
            "of what clients were told, the target does not have: {rows} rows, {statuses} statuses, {sums} sums"
        ));
    }
    Ok(missing.iter().sum())
}

/// What ledgers know of, as it is: versions of rows and elements of lists; counters and contests.
async fn known(client: &Client) -> Result<(HashMap<(Table, String), u64>, HashMap<(Table, String), i64>), Failure> {
    let (mut rows, mut sums) = (HashMap::new(), HashMap::new());
    for table in Table::OWNED {
        let (name, key) = table.names();
        for (key, cells) in all(client, &format!("SELECT {key}, version FROM zdmapp.{name}")).await? {
            if let Some(version) = cells.first().and_then(|cell| line::bigint(cell.as_deref())) {
                sums.insert((Table::Contests, key.clone()), version);
                rows.insert((table, key), version.cast_unsigned());
            }
        }
    }
    for (list, cells) in all(client, "SELECT id, trail FROM zdmapp.profiles").await? {
        let trail = cells.first().and_then(|cell| cell.as_deref().map(elements)).unwrap_or_default();
        rows.extend(trail.into_iter().map(|element| ((Table::Trails, format!("{list}/{element}")), 1)));
    }
    for (page, cells) in all(client, "SELECT page, n, m FROM zdmapp.clicks").await? {
        for (column, cell) in ["n", "m"].into_iter().zip(&cells) {
            sums.insert((Table::Clicks, format!("{page}/{column}")), line::bigint(cell.as_deref()).unwrap_or(0));
        }
    }
    Ok((rows, sums))
}

/// All rows, by their first column as ledgers write it.
async fn all(client: &Client, text: &str) -> Result<Vec<(String, Vec<Option<Vec<u8>>>)>, Failure> {
    let mut all = Vec::new();
    for page in client.pages(text, &Parameters { page_size: Some(PAGE), ..Parameters::new(LEVEL) }).await? {
        let rows = page.rows()?;
        let kind = rows.metadata.columns.and_then(|columns| columns.iter().next()).map(|column| column.kind());
        let kind = kind.into_iter().collect::<Vec<_>>();
        let columns = Columns { table: "", key: &[""], timed: &[], untimed: &[] };
        for row in rows.iter() {
            let row = row?;
            all.push((name(&columns, &kind, &row), row.iter().skip(1).map(|cell| cell.map(<[u8]>::to_vec)).collect()));
        }
    }
    Ok(all)
}

/// The sequence numbers of a client's statuses, in order.
async fn statuses(client: &Client, number: u32) -> Result<Vec<u32>, Failure> {
    let text = format!("SELECT version, at FROM zdmapp.user_status WHERE user = 'client {number}' ORDER BY at ASC");
    let rows = all(client, &text).await?;
    Ok(rows.iter().filter_map(|(_, cells)| super::load::seq(line::bigint(cells.first()?.as_deref())?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(value: u8, written: i64, left: Option<i32>) -> Cell {
        Cell { value: Some(vec![value]), written: Some(written), left }
    }

    #[test]
    fn cells_are_equal_with_their_times() {
        let one = cell(1, 100, Some(50));
        assert_eq!(cell_differs(&one, &cell(1, 100, Some(51))), None);
        assert_eq!(cell_differs(&one, &cell(1, 100, Some(52))), Some(Differs::Left));
        assert_eq!(cell_differs(&one, &cell(1, 100, None)), Some(Differs::Left));
        assert_eq!(cell_differs(&one, &cell(1, 101, Some(50))), Some(Differs::Written));
        assert_eq!(cell_differs(&one, &cell(2, 100, Some(50))), Some(Differs::Value));
        assert_eq!(cell_differs(&one, &Cell::default()), Some(Differs::Value));
    }

    #[test]
    fn what_ends_in_a_moment_may_be_gone_on_one_side() {
        let (ending, lasting) = ([cell(1, 100, Some(1))], [cell(1, 100, Some(2))]);
        assert_eq!(cell_differs(&ending[0], &Cell::default()), None);
        assert!(is_ending(&ending) && !is_ending(&lasting) && !is_ending(&[Cell::default()]));
        assert_eq!(differs(&[lasting[0].clone(), Cell::default()], &[lasting[0].clone(), ending[0].clone()]), None);
        assert_eq!(differs(&[ending[0].clone()], &[cell(2, 100, Some(1))]), Some((Differs::Value, 0)));
    }
}
