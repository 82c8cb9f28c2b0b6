//! What text and schema say of a read: whether its repeat must give the same answer, how each column of that answer is
//! compared, and what tells its rows apart.
//!
//! What each server evaluates by itself (`now()`), and what nobody here knows (a user's function), is not repeated. Nor is
//! `ANN OF`: each side has an index of its own, and an approximate one.

use std::sync::Arc;

use crate::protocol::cql::place::{Extent, Place};
use crate::protocol::cql::session::known::Known;
use crate::protocol::cql::tables::{Table, Tables, is_own};
use crate::protocol::cql::text::expr::{Expr, Value};
use crate::protocol::cql::text::partition;
use crate::protocol::cql::text::schema::{self, Cells, Column, Given, restricted};
use crate::protocol::cql::text::statement::{Body, Select};

/// Why a read is not repeated, or not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::cql) enum Unfit {
    /// It is no SELECT, or of no table that is mirrored.
    NotMirrored,
    /// Each server gives it another value.
    Volatile,
    /// What it asks for differs between sides that are equal.
    NotComparable,
}

/// How a column of an answer is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is stored.
    Exact,
    /// The server made it of what is stored: other versions may round numbers differently.
    Computed,
    /// What is left of a life in seconds.
    Ttl,
    /// Timestamps: those of a write that was repeated for a list are one step higher.
    Writetime,
    /// JSON.
    Document,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// The table's column, if that is what it shows.
    pub(super) column: Option<String>,
    pub(super) form: Form,
}

/// A read that can be repeated.
#[derive(Debug)]
pub(super) struct Reading<'k> {
    /// As the primary has it.
    pub(super) table: Arc<Table>,
    select: &'k Select,
    text: &'k [u8],
    /// One for each selector; `None` for `*`.
    fields: Option<Vec<Field>>,
    is_grouped: bool,
}

/// Whether the text of a statement can be repeated at all. Costs nothing: it was looked at when it was taken apart.
pub(in crate::protocol::cql) fn fitness(known: &Known) -> Result<&Select, Unfit> {
    let Body::Select(select) = &known.statement.body else { return Err(Unfit::NotMirrored) };
    let keyspace = select.table.keyspace_or(known.keyspace.as_deref());
    match keyspace {
        None => Err(Unfit::NotMirrored),
        Some(keyspace) if is_own(keyspace) => Err(Unfit::NotMirrored),
        Some(_) if known.is_volatile || known.is_doubtful || known.says_now => Err(Unfit::Volatile),
        Some(_) if select.orders.iter().any(|order| order.nearest.is_some()) => Err(Unfit::NotComparable),
        Some(_) => Ok(select),
    }
}

impl<'k> Reading<'k> {
    /// A read of a table of `tables`.
    pub(super) fn of(known: &'k Known, tables: &Tables) -> Result<Reading<'k>, Unfit> {
        let select = fitness(known)?;
        let keyspace = select.table.keyspace_or(known.keyspace.as_deref()).unwrap_or_default();
        // Views have no tables of their own: they follow theirs in their own time, on each side.
        let table = tables.table(keyspace, &select.table.name).ok_or(Unfit::NotMirrored)?;
        let field = |expr: &Expr| field(expr, &table.shape);
        let selectors = select.selectors.as_ref();
        let fields = selectors.map(|all| all.iter().map(|one| field(&one.expr)).collect::<Result<Vec<_>, _>>());
        let fields = fields.transpose()?;
        if select.json && fields.iter().flatten().any(|field| matches!(field.form, Form::Ttl | Form::Writetime)) {
            return Err(Unfit::NotComparable);
        }
        let aggregates = select.selectors.iter().flatten().any(|selector| has_aggregate(&selector.expr));
        let is_grouped = aggregates || !select.groups.is_empty();
        Ok(Reading { table: table.clone(), select, text: &known.text, fields, is_grouped })
    }

    /// What each of these columns of an answer shows.
    pub(super) fn fields(&self, names: &[&str]) -> Vec<Field> {
        if self.select.json {
            return vec![Field { column: None, form: Form::Document }];
        }
        let all = |name: &&str| Field { column: Some((*name).to_owned()), form: Form::Exact };
        self.fields.clone().unwrap_or_else(|| names.iter().map(all).collect())
    }

    /// Rows come in an order that is theirs: those of one partition.
    pub(super) fn is_ordered(&self) -> bool {
        self.is_grouped || self.table.shape.partition_key().all(|column| self.is_pinned(column))
    }

    /// Which columns of an answer tell its rows apart. `None`: nothing does.
    pub(super) fn identity(&self, fields: &[Field]) -> Option<Vec<usize>> {
        if self.is_grouped || self.select.json {
            return None;
        }
        let clustering = self.table.shape.clustering().filter(|_| !self.select.distinct);
        let open = self.table.shape.partition_key().chain(clustering).filter(|column| !self.is_pinned(column));
        open.map(|column| place_in(fields, &column.name)).collect()
    }

    /// Rows that it gives at most, if it says so and `bound` knows what is bound.
    pub(super) fn limit<'v>(&self, bound: impl Fn(usize) -> Option<&'v [u8]>) -> Option<usize> {
        let limit = self.select.limit.as_ref()?;
        match limit.marker() {
            Some(number) => usize::try_from(i32::from_be_bytes(bound(number)?.try_into().ok()?)).ok(),
            None => std::str::from_utf8(limit.span.of(self.text)).ok()?.parse().ok(),
        }
    }

    /// Where a row is: itself if its key is known, or else its partition. `cells` are the row's, as `fields` name them.
    pub(super) fn place<'v>(
        &self,
        fields: &[Field],
        cells: &[Option<&[u8]>],
        bound: impl Fn(usize) -> Option<&'v [u8]>,
    ) -> Option<Place> {
        let value = |column: &Column| match restricted(&self.select.relations, &column.name) {
            Given::One(value) => partition::bytes(self.text, value, column, &bound),
            _ => cells.get(place_in(fields, &column.name)?)?.map(<[u8]>::to_vec),
        };
        let partition = self.table.shape.partition_key().map(value).collect::<Option<Vec<_>>>()?;
        let clustering = self.table.shape.clustering().map(value).collect::<Option<Vec<_>>>().unwrap_or_default();
        Some(match clustering.is_empty() {
            true => Place::partition(partition),
            false => Place { extent: Extent::Row, partition, clustering },
        })
    }

    /// One value is given for this column of the key.
    fn is_pinned(&self, column: &Column) -> bool {
        restricted(&self.select.relations, &column.name).is_one()
    }
}

fn place_in(fields: &[Field], name: &str) -> Option<usize> {
    fields.iter().position(|field| field.form == Form::Exact && field.column.as_deref() == Some(name))
}

fn field(expr: &Expr, table: &schema::Table) -> Result<Field, Unfit> {
    let form = match &expr.value {
        Value::Column(name) => return Ok(Field { column: Some(name.clone()), form: Form::Exact }),
        Value::CellMeta("ttl", _) => Form::Ttl,
        Value::CellMeta(_, of) => writetime(of, table)?,
        // The greatest and the least are one of them.
        Value::Call(function, arguments) if matches!(function.name.as_str(), "max" | "min") => match &arguments[..] {
            [Expr { value: Value::CellMeta(word, of), .. }] if *word != "ttl" => writetime(of, table)?,
            _ => computed(expr)?,
        },
        _ => computed(expr)?,
    };
    Ok(Field { column: None, form })
}

/// Of a list or a counter each side has its own.
fn writetime(of: &Expr, table: &schema::Table) -> Result<Form, Unfit> {
    let mut own = false;
    of.walk(&mut |part| {
        let cells = part.column().and_then(|name| table.column(name)).map(|column| column.cells);
        own |= matches!(cells, Some(Cells::List | Cells::Counter));
    });
    if own { Err(Unfit::NotComparable) } else { Ok(Form::Writetime) }
}

/// What is made of times is off by more than they are.
fn computed(expr: &Expr) -> Result<Form, Unfit> {
    let mut of_times = false;
    expr.walk(&mut |part| of_times |= matches!(part.value, Value::CellMeta(..)));
    if of_times { Err(Unfit::NotComparable) } else { Ok(Form::Computed) }
}

fn has_aggregate(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |part| {
        found |= match &part.value {
            Value::CountRows => true,
            Value::Call(function, _) => matches!(function.name.as_str(), "count" | "min" | "max" | "avg" | "sum"),
            _ => false,
        };
    });
    found
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tables() -> Tables {
        let column = Column::described;
        let wide = vec![
            column("p", "partition_key", 0, "int"),
            column("q", "partition_key", 1, "text"),
            column("c", "clustering", 0, "int"),
            column("s", "static", -1, "text"),
            column("v", "regular", -1, "text"),
            column("l", "regular", -1, "list<int>"),
        ];
        let counts = vec![column("k", "partition_key", 0, "int"), column("n", "regular", -1, "counter")];
        let table = |name: &str, columns| Table::new(schema::Table::new("shop", name, columns), [0; 16], 864_000, 0);
        Tables::new([0; 16], [table("wide", wide), table("counts", counts)])
    }

    fn known(text: &str) -> Known {
        Known::new(Bytes::copy_from_slice(text.as_bytes()), Some(Arc::from("shop")))
    }

    #[test]
    fn what_equal_sides_answer_alike_is_repeated_and_nothing_else() {
        for (text, expected) in [
            ("SELECT * FROM wide", Ok(())),
            ("SELECT v AS x, ttl(v), writetime(v), max(writetime(v)) FROM shop.wide WHERE p = 1 AND q = 'a'", Ok(())),
            ("SELECT count(*), max(v), avg(p) FROM wide WHERE p = ? AND q = ? LIMIT 3", Ok(())),
            ("SELECT toTimestamp(t) FROM wide", Ok(())),
            ("SELECT n FROM counts WHERE k = 1", Ok(())),
            ("SELECT JSON * FROM wide", Ok(())),
            ("SELECT * FROM system.local", Err(Unfit::NotMirrored)),
            ("SELECT * FROM system_schema.tables", Err(Unfit::NotMirrored)),
            ("SELECT * FROM a_view", Err(Unfit::NotMirrored)),
            ("INSERT INTO wide (p) VALUES (1)", Err(Unfit::NotMirrored)),
            ("SELECT * FROM wide WHERE c > toTimestamp(now())", Err(Unfit::Volatile)),
            ("SELECT uuid() FROM wide", Err(Unfit::Volatile)),
            ("SELECT * FROM wide WHERE c < currentDate() ALLOW FILTERING", Err(Unfit::Volatile)),
            ("SELECT my_function(v) FROM wide", Err(Unfit::Volatile)),
            ("SELECT * FROM wide ORDER BY v ANN OF [1.0] LIMIT 3", Err(Unfit::NotComparable)),
            ("SELECT writetime(l) FROM wide", Err(Unfit::NotComparable)),
            ("SELECT writetime(n) FROM counts", Err(Unfit::NotComparable)),
            ("SELECT ttl(v) + 1 FROM wide", Err(Unfit::NotComparable)),
            ("SELECT JSON ttl(v) FROM wide", Err(Unfit::NotComparable)),
        ] {
            let known = known(text);
            assert_eq!(Reading::of(&known, &tables()).map(drop), expected, "{text}");
        }
    }

    #[test]
    fn rows_are_told_apart_by_what_is_not_pinned_of_their_key() {
        let names = ["p", "q", "c", "s", "v"];
        for (text, ordered, identity) in [
            ("SELECT * FROM wide", false, Some(vec![0, 1, 2])),
            ("SELECT * FROM wide WHERE p = 1 AND q = 'a'", true, Some(vec![2])),
            ("SELECT c, v FROM wide WHERE p = ? AND q = ?", true, Some(vec![0])),
            ("SELECT v FROM wide WHERE p = ? AND q = ? AND c = 2", true, Some(vec![])),
            ("SELECT v FROM wide WHERE p = ? AND q = ?", true, None),
            ("SELECT v, c FROM wide WHERE p IN (1, 2) AND q = 'a'", false, None),
            ("SELECT v, c AS d, p FROM wide WHERE p IN (1, 2) AND q = 'a'", false, Some(vec![2, 1])),
            ("SELECT DISTINCT p, q, s FROM wide", false, Some(vec![0, 1])),
            ("SELECT count(*) FROM wide", true, None),
            ("SELECT p, q, max(c) FROM wide GROUP BY p, q", true, None),
            ("SELECT JSON * FROM wide", false, None),
        ] {
            let known = known(text);
            let tables = tables();
            let reading = Reading::of(&known, &tables).expect(text);
            let fields = reading.fields(&names);
            assert_eq!((reading.is_ordered(), reading.identity(&fields)), (ordered, identity), "{text}");
        }
    }

    #[test]
    fn a_rows_place_is_made_of_what_is_asked_for_and_what_is_shown() {
        let known = known("SELECT v, c FROM wide WHERE p = ? AND q = 'a' LIMIT ?");
        let (tables, one, limit) = (tables(), 1_i32.to_be_bytes(), 20_i32.to_be_bytes());
        let reading = Reading::of(&known, &tables).expect("a read");
        let bound = |number: usize| [&one[..], &limit].get(number).copied();
        let fields = reading.fields(&[]);
        let place = reading.place(&fields, &[Some(b"x"), Some(b"row")], bound);
        let whole = Place::partition(vec![one.to_vec(), b"a".to_vec()]);
        let row = Place { extent: Extent::Row, clustering: vec![b"row".to_vec()], ..whole.clone() };
        assert_eq!(place, Some(row));
        assert_eq!(reading.place(&fields, &[], bound), Some(whole), "the row is not known");
        assert_eq!(reading.limit(bound), Some(20));
    }
}
