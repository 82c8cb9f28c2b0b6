//! What drivers ask of `system.local`, `system.peers` and `system.peers_v2`, answered from rows that the proxy has.
//!
//! A [`Plan`] is made of a `SELECT` once: result columns named as the server would name them, markers with their types,
//! or the server's own words of refusal (tried on 4.1.9 and 5.0.5, which agree). It runs over given rows with given
//! values. What needs more than columns, counts, equality and limits is [`Verdict::Elsewhere`].
//!
//! Independent of the wire: types are their `[option]` bytes, values their bytes.

use super::edit;
use super::expr::{Expr, Value};
use super::literal::{NoBytes, encode};
use super::parse::parse;
use super::partition::listed;
use super::schema::Source;
use super::statement::{Body, Operand, Operator, Relation, Restricted, Select, Selector, Statement};

mod json;

/// The tables that a proxy answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SystemTable {
    /// `system.local`.
    Local,
    /// `system.peers`.
    Peers,
    /// `system.peers_v2`.
    PeersV2,
}

impl SystemTable {
    /// The table that a statement selects from in a session of this keyspace, if it is one of these.
    pub fn of(statement: &Statement, session: Option<&str>) -> Option<SystemTable> {
        let Body::Select(select) = &statement.body else { return None };
        let table = Self::named(&select.table.name)?;
        (select.table.keyspace_or(session)? == "system").then_some(table)
    }

    fn named(name: &str) -> Option<SystemTable> {
        [SystemTable::Local, SystemTable::Peers, SystemTable::PeersV2].into_iter().find(|table| table.name() == name)
    }

    /// Its name in the keyspace `system`.
    pub fn name(self) -> &'static str {
        match self {
            SystemTable::Local => "local",
            SystemTable::Peers => "peers",
            SystemTable::PeersV2 => "peers_v2",
        }
    }

    fn partition_key(self) -> &'static str {
        match self {
            SystemTable::Local => "key",
            SystemTable::Peers | SystemTable::PeersV2 => "peer",
        }
    }

    fn clustering(self) -> Option<&'static str> {
        matches!(self, SystemTable::PeersV2).then_some("peer_port")
    }
}

/// A column, of a table or of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Its name.
    pub name: String,
    /// Its type: an `[option]` of the native protocol.
    pub type_option: Vec<u8>,
}

impl ColumnSpec {
    /// A column of this name and type.
    pub fn new(name: impl Into<String>, type_option: &[u8]) -> ColumnSpec {
        ColumnSpec { name: name.into(), type_option: type_option.to_vec() }
    }
}

/// A value: bytes or null.
pub type Cell = Option<Vec<u8>>;

/// A value that a client bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound<'v> {
    /// Bytes.
    Value(&'v [u8]),
    /// Null.
    Null,
    /// Left unset.
    Unset,
}

/// What can be done about a `SELECT`.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It can be answered here.
    Answer(Plan),
    /// The server would refuse it: the text of its `Invalid` error.
    Refused(String),
    /// It cannot be answered here.
    Elsewhere(Elsewhere),
}

/// Why a `SELECT` cannot be answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Whether its answer shows columns of the table: a server's own answer would then tell of nodes behind the
    /// proxy. `SELECT now() FROM system.local` does not, and may be asked of any.
    pub reads_columns: bool,
}

/// `[option]`s of the types that results and markers have.
const BIGINT: &[u8] = &[0x00, 0x02];
const INT: &[u8] = &[0x00, 0x09];
const VARCHAR: &[u8] = &[0x00, 0x0D];
const LIST: [u8; 2] = [0x00, 0x20];

const FILTERING: &str = "Cannot execute this query as it might involve data filtering and thus may have unpredictable \
                         performance. If you want to execute this query despite the performance unpredictability, use \
                         ALLOW FILTERING";

/// How to answer a `SELECT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The result's columns.
    pub columns: Vec<ColumnSpec>,
    /// The bind markers in order. All belong to the table.
    pub markers: Vec<ColumnSpec>,
    /// Marker numbers that make the partition key, as `PREPARED` lists them.
    pub pk_indexes: Vec<usize>,
    table: SystemTable,
    picks: Vec<Pick>,
    json: bool,
    distinct: bool,
    filters: Vec<Filter>,
    descending: Option<bool>,
    limit: Option<Given>,
    per_partition_limit: Option<Given>,
    places: Places,
}

/// Where a table has what it is ordered and grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    partition: usize,
    clustering: Option<usize>,
}

/// What a result column shows, and under which name JSON has it.
#[derive(Clone, Debug, PartialEq)]
struct Pick {
    spec: ColumnSpec,
    of: Shown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Column(usize),
    Count,
}

/// A column and the values that it may have.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    column: usize,
    name: String,
    among: Among,
}

#[derive(Clone, Debug, PartialEq)]
enum Among {
    These(Vec<Given>),
    /// The marker of this number is bound to a list.
    List(usize),
}

/// A value, or where it will come from.
#[derive(Clone, Debug, PartialEq)]
enum Given {
    Bytes(Vec<u8>),
    Marker(usize),
    /// It can be prepared, and is refused with these words when it is executed.
    Null(String),
}

/// Why there is no plan.
enum Stop {
    Refused(String),
    Elsewhere,
}

impl From<String> for Stop {
    fn from(words: String) -> Stop {
        Stop::Refused(words)
    }
}

/// How to answer `statement`, a `SELECT` of `text` from `table`, whose columns are `columns` in the order of
/// `SELECT *`.
pub fn plan(text: &[u8], statement: &Statement, table: SystemTable, columns: &[ColumnSpec]) -> Verdict {
    let Body::Select(select) = &statement.body else {
        return Verdict::Elsewhere(Elsewhere { reads_columns: true });
    };
    match (Planner { text, statement, select, table, columns }).plan() {
        Ok(plan) => Verdict::Answer(plan),
        Err(Stop::Refused(words)) => Verdict::Refused(words),
        Err(Stop::Elsewhere) => Verdict::Elsewhere(Elsewhere { reads_columns: reads_columns(select) }),
    }
}

/// Whether the answer depends on what a column holds, the key aside, which is no secret in `WHERE key = 'local'`.
fn reads_columns(select: &Select) -> bool {
    let mut reads = select.selectors.is_none() || !select.groups.is_empty();
    let mut look = |expr: &Expr| reads |= matches!(expr.value, Value::Column(_) | Value::CountRows);
    select.selectors.iter().flatten().for_each(|selector| selector.expr.walk(&mut look));
    let by_key = |relation: &Relation| matches!(&relation.left, Restricted::Column(name) if name == "key");
    reads || select.table.name != "local" || !select.relations.iter().all(by_key)
}

struct Planner<'a> {
    text: &'a [u8],
    statement: &'a Statement,
    select: &'a Select,
    table: SystemTable,
    columns: &'a [ColumnSpec],
}

impl Planner<'_> {
    /// Checks come in the server's order, so that of two errors the same one is told.
    fn plan(&self) -> Result<Plan, Stop> {
        let select = self.select;
        let filters = self.filters()?;
        self.check_filtering(&filters)?;
        let picks = self.picks()?;
        self.check_distinct(&picks)?;
        let descending = self.order(&filters)?;
        let counts = picks.iter().any(|pick| pick.of == Shown::Count);
        if !select.groups.is_empty() || select.per_partition_limit.is_some() && (counts || select.distinct) {
            return Err(Stop::Elsewhere);
        }
        let (limit, per_partition_limit) = (self.limit(&select.limit)?, self.limit(&select.per_partition_limit)?);
        let markers = self.markers(&filters)?;
        let clustering = self.table.clustering().map(|name| self.column(name)).transpose()?;
        let places = Places { partition: self.column(self.table.partition_key())?, clustering };
        Ok(Plan {
            columns: if select.json { vec![ColumnSpec::new("[json]", VARCHAR)] } else { specs(&picks) },
            pk_indexes: pk_indexes(&filters, places),
            markers,
            table: self.table,
            picks,
            json: select.json,
            distinct: select.distinct,
            filters,
            descending,
            limit,
            per_partition_limit,
            places,
        })
    }

    fn column(&self, name: &str) -> Result<usize, Stop> {
        let known = self.columns.iter().position(|column| column.name == name);
        known.ok_or_else(|| {
            Stop::Refused(format!("Undefined column name {} in table system.{}", quoted(name), self.table.name()))
        })
    }

    fn filters(&self) -> Result<Vec<Filter>, Stop> {
        let filters: Vec<Filter> =
            self.select.relations.iter().map(|relation| self.filter(relation)).collect::<Result<_, _>>()?;
        for (index, filter) in filters.iter().enumerate() {
            if filters.iter().take(index).any(|earlier| earlier.column == filter.column) {
                let words = "cannot be restricted by more than one relation if it includes an Equal";
                return Err(Stop::Refused(format!("{} {words}", filter.name)));
            }
        }
        Ok(filters)
    }

    fn filter(&self, relation: &Relation) -> Result<Filter, Stop> {
        let Restricted::Column(name) = &relation.left else { return Err(Stop::Elsewhere) };
        let column = self.column(name)?;
        let given = |value: &Expr| self.given(value, &self.columns[column]);
        let among = match (relation.operator, &relation.right) {
            (Operator::Eq, Operand::One(value)) => Among::These(vec![given(value)?]),
            (Operator::In, _) if !self.is_key(name) => return Err(Stop::Elsewhere),
            (Operator::In, Operand::Many(values)) => Among::These(values.iter().map(given).collect::<Result<_, _>>()?),
            (Operator::In, Operand::One(list)) => Among::List(list.marker().ok_or(Stop::Elsewhere)?),
            _ => return Err(Stop::Elsewhere),
        };
        Ok(Filter { column, name: name.clone(), among })
    }

    fn is_key(&self, name: &str) -> bool {
        name == self.table.partition_key() || Some(name) == self.table.clustering()
    }

    fn given(&self, value: &Expr, column: &ColumnSpec) -> Result<Given, Stop> {
        let cql_type = native_name(&column.type_option).ok_or(Stop::Elsewhere)?;
        match value.source() {
            Source::Marker(number) => Ok(Given::Marker(number)),
            Source::Literal(literal, span) => {
                let written = span.of(self.text);
                encode(literal, written, cql_type).map(Given::Bytes).map_err(|why| {
                    let constant = super::token::unquoted(written);
                    let (kind, name) = (literal.server_name(), &column.name);
                    match why {
                        NoBytes::Kind => {
                            let of_type = format!("for \"{name}\" of type {cql_type}");
                            Stop::Refused(format!("Invalid {kind} constant ({constant}) {of_type}"))
                        }
                        NoBytes::Value if cql_type == "inet" => {
                            Stop::Refused(format!("Unable to make inet address from '{constant}'"))
                        }
                        NoBytes::Value | NoBytes::Unread => Stop::Elsewhere,
                    }
                })
            }
            Source::Null if self.is_key(&column.name) => Ok(Given::Null(null_key(&column.name))),
            Source::Null => Ok(Given::Null(format!("Unsupported null value for column {}", column.name))),
            Source::Computed(_) => Err(Stop::Elsewhere),
        }
    }

    fn picks(&self) -> Result<Vec<Pick>, Stop> {
        let Some(selectors) = &self.select.selectors else {
            return Ok(self.columns.iter().enumerate().map(|(place, column)| pick(column.clone(), place)).collect());
        };
        selectors.iter().map(|selector| self.pick(selector)).collect()
    }

    fn pick(&self, Selector { expr, alias }: &Selector) -> Result<Pick, Stop> {
        let named = |own: &str| alias.clone().unwrap_or_else(|| own.to_owned());
        match &expr.value {
            Value::Column(name) => {
                let place = self.column(name)?;
                Ok(pick(ColumnSpec::new(named(name), &self.columns[place].type_option), place))
            }
            value if is_count(value) => Ok(Pick { spec: ColumnSpec::new(named("count"), BIGINT), of: Shown::Count }),
            _ => {
                self.check_columns_of(expr)?;
                Err(Stop::Elsewhere)
            }
        }
    }

    /// An unknown column is refused wherever it stands.
    fn check_columns_of(&self, expr: &Expr) -> Result<(), Stop> {
        let mut names = Vec::new();
        expr.walk(&mut |part| names.extend(part.column()));
        names.into_iter().try_for_each(|name| self.column(name).map(drop))
    }

    fn check_distinct(&self, picks: &[Pick]) -> Result<(), Stop> {
        if !self.select.distinct {
            return Ok(());
        }
        let key = self.table.partition_key();
        let shown = |pick: &Pick| match pick.of {
            Shown::Column(place) => self.columns.get(place).map(|column| column.name.as_str()),
            Shown::Count => None,
        };
        let words = "SELECT DISTINCT queries must";
        if let Some(other) = picks.iter().filter_map(shown).find(|name| *name != key) {
            let words = format!("{words} only request partition key columns and/or static columns (not {other})");
            return Err(Stop::Refused(words));
        }
        if !picks.iter().filter_map(shown).any(|name| name == key) {
            return Err(Stop::Refused(format!("{words} request all the partition key columns (missing {key})")));
        }
        let by_key = self
            .select
            .relations
            .iter()
            .all(|relation| matches!(&relation.left, Restricted::Column(name) if name == key));
        if by_key { Ok(()) } else { Err(Stop::Elsewhere) }
    }

    fn check_filtering(&self, filters: &[Filter]) -> Result<(), Stop> {
        let names: Vec<&str> = filters.iter().map(|filter| filter.name.as_str()).collect();
        let by_key = names.contains(&self.table.partition_key());
        let keys_only = names.iter().all(|name| self.is_key(name));
        if names.is_empty() || by_key && keys_only || self.select.allow_filtering {
            return Ok(());
        }
        Err(Stop::Refused(FILTERING.to_owned()))
    }

    /// Whether rows come in descending order of their clustering column, if any order is asked for.
    fn order(&self, filters: &[Filter]) -> Result<Option<bool>, Stop> {
        let Some(order) = self.select.orders.first() else { return Ok(None) };
        self.column(&order.column)?;
        if order.nearest.is_some() || self.select.orders.len() > 1 {
            return Err(Stop::Elsewhere);
        }
        if !filters.iter().any(|filter| filter.name == self.table.partition_key()) {
            let words = "ORDER BY is only supported when the partition key is restricted by an EQ or an IN.";
            return Err(Stop::Refused(words.to_owned()));
        }
        if Some(order.column.as_str()) != self.table.clustering() {
            let words = "Order by is currently only supported on the clustered columns of the PRIMARY KEY, got";
            return Err(Stop::Refused(format!("{words} {}", order.column)));
        }
        Ok(Some(order.descending))
    }

    fn limit(&self, limit: &Option<Expr>) -> Result<Option<Given>, Stop> {
        let Some(limit) = limit else { return Ok(None) };
        Ok(Some(self.given(limit, &ColumnSpec::new("[limit]", INT))?))
    }

    /// Names and types of all markers; those in selectors would have led elsewhere.
    fn markers(&self, filters: &[Filter]) -> Result<Vec<ColumnSpec>, Stop> {
        let mut specs: Vec<Option<ColumnSpec>> = vec![None; self.statement.markers.len()];
        let mut note = |number: usize, spec: ColumnSpec| {
            if let Some(slot) = specs.get_mut(number) {
                *slot = Some(spec);
            }
        };
        for filter in filters {
            let column = &self.columns[filter.column];
            match &filter.among {
                Among::List(number) => {
                    let list = [LIST.as_slice(), &column.type_option].concat();
                    note(*number, ColumnSpec::new(format!("in({})", column.name), &list));
                }
                Among::These(values) => values.iter().for_each(|value| {
                    if let Given::Marker(number) = value {
                        note(*number, column.clone());
                    }
                }),
            }
        }
        let limits = [(&self.select.limit, "[limit]"), (&self.select.per_partition_limit, "[per_partition_limit]")];
        for (limit, name) in limits {
            if let Some(number) = limit.as_ref().and_then(Expr::marker) {
                note(number, ColumnSpec::new(name, INT));
            }
        }
        let own = self.statement.markers.iter().map(|marker| marker.name.clone());
        let named = specs.into_iter().zip(own).map(|(spec, own)| {
            let spec = spec?;
            Some(ColumnSpec { name: own.unwrap_or(spec.name), ..spec })
        });
        named.collect::<Option<_>>().ok_or(Stop::Elsewhere)
    }
}

fn pick(spec: ColumnSpec, place: usize) -> Pick {
    Pick { spec, of: Shown::Column(place) }
}

fn specs(picks: &[Pick]) -> Vec<ColumnSpec> {
    picks.iter().map(|pick| pick.spec.clone()).collect()
}

/// `count(*)`, `count(1)`.
fn is_count(value: &Value) -> bool {
    match value {
        Value::CountRows => true,
        Value::Call(function, arguments) => {
            let counted = arguments.first().is_some_and(|one| matches!(one.value, Value::Literal(_)));
            function.name == "count" && arguments.len() == 1 && counted
        }
        _ => false,
    }
}

fn pk_indexes(filters: &[Filter], places: Places) -> Vec<usize> {
    let marker = |value: &Given| match value {
        Given::Marker(number) => Some(*number),
        Given::Bytes(_) | Given::Null(_) => None,
    };
    let of_key = filters.iter().filter(|filter| filter.column == places.partition);
    let direct = of_key.flat_map(|filter| match &filter.among {
        Among::These(values) => values.iter().filter_map(marker).collect(),
        Among::List(_) => Vec::new(),
    });
    direct.last().into_iter().collect()
}

/// As errors write a name.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
    if plain { name.to_owned() } else { edit::quoted(name) }
}

fn null_key(name: &str) -> String {
    format!("Invalid null value in condition for column {name}")
}

/// The names of the types that literals are read for, by the ids of `[option]` (native protocol, section 4.2.5.2).
fn native_name(type_option: &[u8]) -> Option<&'static str> {
    match type_option {
        [0x00, 0x01] => Some("ascii"),
        [0x00, 0x02] => Some("bigint"),
        [0x00, 0x03] => Some("blob"),
        [0x00, 0x04] => Some("boolean"),
        [0x00, 0x09] => Some("int"),
        [0x00, 0x0C] => Some("uuid"),
        [0x00, 0x0D] => Some("text"),
        [0x00, 0x0F] => Some("timeuuid"),
        [0x00, 0x10] => Some("inet"),
        _ => None,
    }
}

impl Plan {
    /// The table it reads.
    pub fn table(&self) -> SystemTable {
        self.table
    }

    /// What the server warns of with the answer, since v4.
    pub fn warning(&self) -> Option<&'static str> {
        let by_key = self.filters.iter().find(|filter| filter.column == self.places.partition);
        match by_key.map(|filter| &filter.among) {
            _ if !self.counts() => None,
            None => Some("Aggregation query used without partition key"),
            Some(Among::These(values)) if values.len() == 1 => None,
            Some(_) => Some("Aggregation query used on multiple partition keys (IN restriction)"),
        }
    }

    fn counts(&self) -> bool {
        self.picks.iter().any(|pick| pick.of == Shown::Count)
    }

    /// The answer over `rows`, whose cells are in the order of the table's columns, with these values for the markers;
    /// or the text of the server's `Invalid` error.
    pub fn run(&self, rows: &[Vec<Cell>], bound: &[Bound<'_>]) -> Result<Vec<Vec<Cell>>, String> {
        if bound.len() < self.markers.len() {
            return Err("Invalid amount of bind variables".to_owned());
        }
        let limit = self.limited(&self.limit, "LIMIT", bound)?;
        let per_partition = self.limited(&self.per_partition_limit, "PER PARTITION LIMIT", bound)?;
        let mut found = self.found(rows, bound)?;
        self.sort(&mut found);
        self.thin(&mut found, per_partition);
        let mut shown = if self.counts() {
            vec![self.counted(&found)]
        } else {
            found.iter().map(|row| self.shown(row, 0)).collect()
        };
        shown.truncate(limit);
        Ok(shown)
    }

    fn found<'r>(&self, rows: &'r [Vec<Cell>], bound: &[Bound<'_>]) -> Result<Vec<&'r Vec<Cell>>, String> {
        let mut found: Vec<&Vec<Cell>> = rows.iter().collect();
        for filter in &self.filters {
            let wanted = self.wanted(filter, bound)?;
            found.retain(|row| {
                row.get(filter.column).and_then(Option::as_ref).is_some_and(|cell| wanted.contains(cell))
            });
        }
        Ok(found)
    }

    fn wanted(&self, filter: &Filter, bound: &[Bound<'_>]) -> Result<Vec<Vec<u8>>, String> {
        let value = |number: usize| match bound.get(number) {
            Some(Bound::Value(bytes)) => Ok(*bytes),
            Some(Bound::Unset) => Err(format!("Invalid unset value for column {}", filter.name)),
            Some(Bound::Null) | None => Err(null_key(&filter.name)),
        };
        match &filter.among {
            Among::List(number) => listed(value(*number)?).ok_or_else(|| "Not enough bytes to read a list".to_owned()),
            Among::These(values) => values
                .iter()
                .map(|given| match given {
                    Given::Bytes(bytes) => Ok(bytes.clone()),
                    Given::Marker(number) => value(*number).map(<[u8]>::to_vec),
                    Given::Null(words) => Err(words.clone()),
                })
                .collect(),
        }
    }

    fn limited(&self, limit: &Option<Given>, words: &str, bound: &[Bound<'_>]) -> Result<usize, String> {
        let bytes: &[u8] = match limit {
            None => return Ok(usize::MAX),
            Some(Given::Bytes(bytes)) => bytes,
            Some(Given::Null(_)) => return Err("Invalid null value of limit".to_owned()),
            Some(Given::Marker(number)) => match bound.get(*number) {
                Some(Bound::Value(bytes)) => bytes,
                Some(Bound::Unset) => return Ok(usize::MAX),
                Some(Bound::Null) | None => return Err("Invalid null value of limit".to_owned()),
            },
        };
        let value = bytes.try_into().map(i32::from_be_bytes).map_err(|_| "Invalid limit value".to_owned())?;
        match usize::try_from(value) {
            Ok(rows @ 1..) => Ok(rows),
            _ => Err(format!("{words} must be strictly positive")),
        }
    }

    fn sort(&self, found: &mut [&Vec<Cell>]) {
        let (Some(descending), Some(place)) = (self.descending, self.places.clustering) else { return };
        let port = |row: &&Vec<Cell>| {
            let bytes = row.get(place).and_then(Option::as_deref).unwrap_or_default();
            bytes.try_into().map(i32::from_be_bytes).unwrap_or_default()
        };
        found.sort_by_key(port);
        if descending {
            found.reverse();
        }
    }

    /// Keeps so many rows of a partition; one for `DISTINCT`.
    fn thin(&self, found: &mut Vec<&Vec<Cell>>, per_partition: usize) {
        let kept = if self.distinct { 1 } else { per_partition };
        let mut seen: Vec<(Cell, usize)> = Vec::new();
        found.retain(|row| {
            let key = row.get(self.places.partition).cloned().flatten();
            let place = seen.iter().position(|(one, _)| *one == key).unwrap_or_else(|| {
                seen.push((key, 0));
                seen.len() - 1
            });
            seen[place].1 += 1;
            seen[place].1 <= kept
        });
    }

    /// One row, whatever was found; columns beside a count show the first.
    fn counted(&self, found: &[&Vec<Cell>]) -> Vec<Cell> {
        let none = Vec::new();
        self.shown(found.first().copied().unwrap_or(&none), found.len())
    }

    fn shown(&self, row: &[Cell], count: usize) -> Vec<Cell> {
        let count = i64::try_from(count).unwrap_or(i64::MAX).to_be_bytes().to_vec();
        let cell = |pick: &Pick| match pick.of {
            Shown::Column(place) => row.get(place).cloned().flatten(),
            Shown::Count => Some(count.clone()),
        };
        let cells: Vec<Cell> = self.picks.iter().map(cell).collect();
        if !self.json {
            return cells;
        }
        let members = self.picks.iter().map(|pick| &pick.spec).zip(&cells);
        vec![Some(json::object(members).into_bytes())]
    }
}

/// A plan of a text, for callers that have not parsed it.
pub fn plan_text(
    text: &[u8],
    session: Option<&str>,
    columns: impl Fn(SystemTable) -> Vec<ColumnSpec>,
) -> Option<Verdict> {
    let statement = parse(text);
    let table = SystemTable::of(&statement, session)?;
    Some(plan(text, &statement, table, &columns(table)))
}

#[cfg(test)]
mod tests;
