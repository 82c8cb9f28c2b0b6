//! What a shadow read must know of a SELECT: whether it may be repeated, and what of its answer the data decides.
//!
//! Whether is read from tokens, as in [`super::reach`]: what is not in the text is not called. Views are not looked
//! into here: the plan that the secondary makes of the statement shows what is behind them, before it runs. What order
//! the answer has is read from the tree, and only where that is certain: otherwise the rows are taken as a set.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{AExprKind, BoolExprType, Node, RangeVar, SelectStmt, SetOperation, a_const::Val};

use super::super::catalog::{Catalog, FIRST_NORMAL_OID, Kind as RelationKind, Relation};
use super::super::lexer::{Kind, Token};
use super::super::plan::{Read, Sorted, Spoken, Unfit};
use super::Scope;
use super::operand::string;
use super::reach::name_of;
use super::target::named;

/// Words of SQL that are functions without parentheses (documentation, "Date/Time Functions", "Session Information"). Who the
/// current user is goes along with a read: `current_user` and `user` are none of them.
const VALUE_FUNCTIONS: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_schema",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
];

/// What policies ask for who it is: a session's own settings go along with a read, the server's do not.
const CURRENT_SETTING: &str = "current_setting";

/// Where a row lies and who wrote it (documentation, "System Columns"), and types that are oids, or made of transaction
/// ids: each server has its own.
const OF_ITS_SERVER: &[&str] = &[
    "cid",
    "cmax",
    "cmin",
    "ctid",
    "information_schema",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "tableoid",
    "tablesample",
    "tid",
    "txid_snapshot",
    "xid",
    "xid8",
    "xmax",
    "xmin",
];

/// Aggregates whose value depends on the order in which rows come: by their pieces, or by rounding.
const GATHERING: &[&str] = &[
    "array", // ARRAY(SELECT ..)
    "array_agg",
    "avg",
    "corr",
    "covar_pop",
    "covar_samp",
    "json_agg",
    "json_agg_strict",
    "json_array",
    "json_arrayagg",
    "json_object_agg",
    "json_object_agg_strict",
    "json_objectagg",
    "jsonb_agg",
    "jsonb_agg_strict",
    "regr_avgx",
    "regr_avgy",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
    "xmlagg",
];

/// Which row is meant by these the order decides.
const CHOOSING: &[&str] = &["any_value", "jsonb_object_agg", "jsonb_object_agg_strict", "jsonb_objectagg", "mode"];

/// Which of several equal values is meant by these nobody says.
const PICKING: &[&str] = &["max", "min"];

/// Types, beside those of users, with equal values that look different: intervals, `jsonb` and ranges with numbers of another
/// scale, rows of any of them, and their arrays.
const MANY_LOOKS: &[u32] = &[1186, 1187, 2249, 2287, 3802, 3807, 3906, 3907, 4532, 6151];

/// Types whose values are equal only when their texts are, once numbers are in normal form: what is sorted by another
/// type may have ties that look different.
const STRICT: &[u32] = &[16, 17, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950];

impl Scope<'_> {
    /// Of the statement at hand, which writes nothing.
    pub(super) fn read(&self, select: &SelectStmt) -> Read {
        let words = self.words();
        let only = self.only(select);
        let distinct_on = select.distinct_clause.first().is_some_and(|node| node.node.is_some());
        let limits = usize::from(limit(select)) + usize::from(select.limit_offset.is_some());
        let total = only.as_ref().is_some_and(|table| is_total(select, table));
        Read {
            unfit: words.unfit,
            loose: words.loose || words.limits > limits || words.distinct_on > usize::from(distinct_on),
            gathers: words.gathers,
            sort: if words.ties { Vec::new() } else { sorted(select, only.is_some()) },
            total,
            limited: limits > 0 || distinct_on,
            picks: words.picks,
            rowwise: only.is_some() && is_rowwise(select),
            only: only.map(|table| table.id),
            tables: words.tables.iter().map(|relation| relation.id).collect(),
            spoken: Spoken::default(),
        }
    }

    /// Its literals have a say in what is known of it: by their number they name columns of ORDER BY, and settings by name.
    pub(super) fn heeds_literals(&self, read: &Read) -> bool {
        let asks = |at: usize| self.is_word(at, CURRENT_SETTING) && self.is_op(at + 1, b"(");
        read.sort.iter().any(|by| matches!(by, Sorted::At(_))) || self.span.clone().any(asks)
    }

    fn words(&self) -> Words {
        let mut words = Words::default();
        for at in self.span.clone() {
            let Some(token) = self.tokens.get(at) else { break };
            let name = match token.kind {
                Kind::Ident | Kind::Quoted => name_of(&token, self.text),
                Kind::UnicodeQuoted => None,
                _ => continue,
            };
            let Some(name) = name else {
                words.unfit = Some(Unfit::NotRepeatable);
                continue;
            };
            self.word_read(at, &token, &name, &mut words);
        }
        words
    }

    fn word_read(&self, at: usize, token: &Token, name: &str, words: &mut Words) {
        let plain = token.kind == Kind::Ident;
        // `t.user` is a column, `pg_catalog.now(` a function.
        let qualified = at > self.span.start && self.is_op(at - 1, b".");
        if self.is_op(at + 1, b"(") {
            if self.catalog.unsteady.contains(name) && !(name == CURRENT_SETTING && self.asks_own_setting(at)) {
                words.unfit.get_or_insert(Unfit::Volatile);
            }
            words.gathers |= GATHERING.contains(&name);
            words.loose |= CHOOSING.contains(&name);
            words.picks |= PICKING.contains(&name);
        }
        if plain && !qualified {
            if VALUE_FUNCTIONS.contains(&name) {
                words.unfit.get_or_insert(Unfit::Volatile);
            }
            words.picks |= matches!(name, "distinct" | "group" | "union" | "intersect" | "except");
            match name {
                "limit" | "fetch" | "offset" => words.limits += 1,
                "over" => words.loose = true,
                "distinct" if self.is_word(at + 1, "on") => words.distinct_on += 1,
                "for" if ["update", "share", "no", "key"].iter().any(|next| self.is_word(at + 1, next)) => {
                    words.unfit = Some(Unfit::NotRepeatable);
                }
                _ => {}
            }
        }
        let of_its_server = OF_ITS_SERVER.binary_search(&name).is_ok();
        if of_its_server || name.starts_with("pg_") && name != "pg_catalog" {
            words.unfit = Some(Unfit::NotRepeatable);
        }
        words.reach(self.catalog, name);
    }

    /// `current_setting('app.tenant')`.
    fn asks_own_setting(&self, at: usize) -> bool {
        let name = self.tokens.get(at + 2).filter(|token| token.kind == Kind::String);
        let alone = self.is_op(at + 3, b")") || self.is_op(at + 3, b",");
        alone && name.is_some_and(|name| is_own_setting(&String::from_utf8_lossy(name.text(self.text))))
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        let token = self.tokens.get(at).filter(|token| token.kind == Kind::Ident);
        token.is_some_and(|token| token.text(self.text).eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The one table that a SELECT reads at its top, where its name can mean only one with a key of all its rows.
    fn only(&self, select: &SelectStmt) -> Option<Arc<Relation>> {
        let [from] = &select.from_clause[..] else { return None };
        let NodeEnum::RangeVar(name) = from.node.as_ref()? else { return None };
        if is_cte(select, name) {
            return None;
        }
        let schema = Some(name.schemaname.as_str()).filter(|schema| !schema.is_empty());
        let mut meant = named(self.catalog, schema, &name.relname);
        let table = meant.pop().filter(|_| meant.is_empty())?;
        let rows = matches!(table.kind, RelationKind::Table | RelationKind::Partitioned);
        // Children of a table may have rows of the same key.
        let whole = table.kind == RelationKind::Partitioned || table.children.is_empty() || !name.inh;
        (rows && whole).then_some(table)
    }
}

/// What the words of a statement say.
#[derive(Default)]
struct Words {
    unfit: Option<Unfit>,
    tables: Vec<Arc<Relation>>,
    limits: usize,
    distinct_on: usize,
    loose: bool,
    gathers: bool,
    picks: bool,
    /// Different texts may be equal to ORDER BY.
    ties: bool,
}

impl Words {
    /// A word that could name relations.
    fn reach(&mut self, catalog: &Catalog, name: &str) {
        for relation in catalog.by_name.get(name).into_iter().flatten().filter_map(|oid| catalog.relations.get(oid)) {
            if matches!(relation.kind, RelationKind::Foreign | RelationKind::Materialized) {
                self.unfit = Some(Unfit::NotRepeatable);
            }
            self.ties |= relation.columns.iter().any(|column| !column.deterministic);
            if !self.tables.iter().any(|known| known.id == relation.id) {
                self.tables.push(relation.clone());
            }
        }
    }
}

fn is_cte(select: &SelectStmt, name: &RangeVar) -> bool {
    let ctes = select.with_clause.iter().flat_map(|with| &with.ctes);
    let of_name =
        |node: &Node| matches!(&node.node, Some(NodeEnum::CommonTableExpr(cte)) if cte.ctename == name.relname);
    name.schemaname.is_empty() && ctes.into_iter().any(of_name)
}

/// LIMIT ALL and LIMIT NULL are none, but parse as one word each.
fn limit(select: &SelectStmt) -> bool {
    select.limit_count.is_some()
}

/// Columns of the answer by which it is ordered, up to the first that is none.
fn sorted(select: &SelectStmt, one_table: bool) -> Vec<Sorted> {
    select.sort_clause.iter().map_while(|node| by(sort_key(node)?, one_table)).collect()
}

fn sort_key(node: &Node) -> Option<&Node> {
    match node.node.as_ref()? {
        NodeEnum::SortBy(by) => by.node.as_deref(),
        _ => None,
    }
}

fn by(key: &Node, one_table: bool) -> Option<Sorted> {
    if let NodeEnum::AConst(constant) = key.node.as_ref()? {
        let Some(Val::Ival(number)) = &constant.val else { return None };
        return Some(Sorted::At(usize::try_from(number.ival).ok()?.checked_sub(1)?));
    }
    column(key, one_table).map(|name| Sorted::Named(name.to_owned()))
}

/// The column that an expression is; qualified ones where there is one table only.
fn column(node: &Node, one_table: bool) -> Option<&str> {
    let NodeEnum::ColumnRef(column) = node.node.as_ref()? else { return None };
    match &column.fields[..] {
        [name] => string(name),
        [_, name] if one_table => string(name),
        _ => None,
    }
}

/// Nothing in its targets makes several rows of one, or one of several.
fn is_rowwise(select: &SelectStmt) -> bool {
    let value = |target: &Node| match &target.node {
        Some(NodeEnum::ResTarget(target)) => target.val.as_deref().is_some_and(is_plain),
        _ => false,
    };
    select.group_clause.is_empty() && select.having_clause.is_none() && select.target_list.iter().all(value)
}

/// Columns, values, and operators between them: no function, and so none that returns a set.
fn is_plain(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::ColumnRef(_)) => true,
        Some(NodeEnum::AExpr(expr)) => {
            let mut sides = expr.lexpr.as_deref().into_iter().chain(expr.rexpr.as_deref());
            sides.all(is_plain)
        }
        _ => {
            is_value(node)
                || matches!(&node.node, Some(NodeEnum::TypeCast(cast)) if cast.arg.as_deref().is_some_and(is_plain))
        }
    }
}

/// Rows of one table, in an order that tells all of them apart, or at most one.
fn is_total(select: &SelectStmt, table: &Relation) -> bool {
    if table.key.is_none() || SetOperation::try_from(select.op) != Ok(SetOperation::SetopNone) {
        return false;
    }
    let plain = select.group_clause.is_empty() && select.distinct_clause.is_empty();
    let ordered: Vec<&str> = select.sort_clause.iter().filter_map(|node| column(sort_key(node)?, true)).collect();
    let mut pinned = Vec::new();
    select.where_clause.iter().for_each(|filter| pins(filter, &mut pinned));
    // A name in ORDER BY means the answer's column of that name first.
    let renamed = |name: &str| select.target_list.iter().any(|target| is_other(target, name));
    plain
        && table.key_columns().all(|column| {
            let name = column.name.as_str();
            pinned.contains(&name) || ordered.contains(&name) && !renamed(name) && STRICT.contains(&column.base_oid)
        })
}

/// A target that gives this name to something else than the column of the name.
fn is_other(target: &Node, name: &str) -> bool {
    let Some(NodeEnum::ResTarget(target)) = &target.node else { return true };
    target.name == name && target.val.as_deref().and_then(|value| column(value, true)) != Some(name)
}

/// Columns that a condition holds to one value.
fn pins<'a>(filter: &'a Node, found: &mut Vec<&'a str>) {
    match &filter.node {
        Some(NodeEnum::BoolExpr(expr)) if BoolExprType::try_from(expr.boolop) == Ok(BoolExprType::AndExpr) => {
            expr.args.iter().for_each(|arg| pins(arg, found));
        }
        Some(NodeEnum::AExpr(expr)) => {
            let equal = AExprKind::try_from(expr.kind) == Ok(AExprKind::AexprOp)
                && matches!(&expr.name[..], [name] if string(name) == Some("="));
            if let (true, Some(left), Some(right)) = (equal, expr.lexpr.as_deref(), expr.rexpr.as_deref()) {
                found.extend(column(left, true).filter(|_| is_value(right)));
                found.extend(column(right, true).filter(|_| is_value(left)));
            }
        }
        _ => {}
    }
}

fn is_value(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_)) => true,
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_value),
        _ => false,
    }
}

/// Values of this type that are equal have one text, once numbers are in normal form.
pub(in crate::protocol::postgres) fn is_strict(type_oid: u32) -> bool {
    STRICT.contains(&type_oid)
}

/// Values of this type may be equal and look different, collations apart.
pub(in crate::protocol::postgres) fn has_many_looks(type_oid: u32) -> bool {
    type_oid >= FIRST_NORMAL_OID || MANY_LOOKS.contains(&type_oid)
}

/// A name in quotes with a dot in it: no setting of the server (documentation, "Customized Options").
fn is_own_setting(quoted: &str) -> bool {
    let name = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    name.is_some_and(|name| name.contains('.') && !name.contains('\''))
}

/// What comes behind the function's name, as the server writes it: `('app.tenant'::text, true)`.
fn asks_own_setting(behind: &str) -> bool {
    let first = behind.strip_prefix('(').and_then(|args| args.split([',', ')']).next()).unwrap_or_default();
    is_own_setting(first.strip_suffix("::text").unwrap_or(first))
}

/// Such an aggregate; by its name in lower case, as all of these.
pub(in crate::protocol::postgres) fn is_gathering(function: &str) -> bool {
    GATHERING.contains(&function)
}

/// Such a function.
pub(in crate::protocol::postgres) fn is_choosing(function: &str) -> bool {
    CHOOSING.contains(&function)
}

/// Such an aggregate.
pub(in crate::protocol::postgres) fn is_picking(function: &str) -> bool {
    PICKING.contains(&function)
}

/// The words of a text of the server's (a plan's expressions), each with all that comes behind it.
pub(in crate::protocol::postgres) fn words(expression: &str) -> impl Iterator<Item = (&str, &str)> {
    let part = |char: char| char.is_alphanumeric() || char == '_';
    let mut rest = expression;
    std::iter::from_fn(move || {
        let word = &rest[rest.find(part)?..];
        let end = word.find(|char| !part(char)).unwrap_or(word.len());
        let (name, behind) = word.split_at(end);
        rest = behind;
        Some((name, behind))
    })
}

/// The names of functions in a text of the server's (a plan's expressions) that make an answer another at another time.
pub(in crate::protocol::postgres) fn is_unsteady(expression: &str, catalog: &Catalog) -> bool {
    let plain = words(expression).any(|(name, behind)| {
        let lower = name.to_ascii_lowercase();
        let called = behind.starts_with('(') && (catalog.unsteady.contains(name) || lower.starts_with("pg_"));
        let called = called && !(lower == CURRENT_SETTING && asks_own_setting(behind));
        // Deparsed in capitals, unlike columns of that name.
        let keyword = name != lower && VALUE_FUNCTIONS.contains(&lower.as_str());
        called || keyword
    });
    plain || quoted_calls(expression).any(|name| name.is_none_or(|name| catalog.unsteady.contains(name)))
}

/// The names of `"Name"(..)`; `None`: one with a quote in it.
fn quoted_calls(expression: &str) -> impl Iterator<Item = Option<&str>> {
    expression.match_indices("\"(").map(|(end, _)| {
        let (before, name) = expression[..end].rsplit_once('"')?;
        (!name.is_empty() && !before.ends_with('"')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::analysis::{analyze, schema::catalog};
    use crate::protocol::postgres::lexer::{Dialect, Tokens};

    fn read(text: &str) -> Option<Read> {
        let mut tokens = Tokens::default();
        tokens.lex(text.as_bytes(), Dialect::default());
        let script = analyze(text.as_bytes(), &tokens, &catalog());
        assert_eq!(script.statements.len(), 1, "{text}");
        script.statements[0].read.as_deref().cloned()
    }

    fn of(text: &str) -> Read {
        read(text).unwrap_or_else(|| panic!("no read: {text}"))
    }

    #[test]
    fn what_the_data_decides_may_be_repeated() {
        for text in [
            "select * from acc",
            "select a.bal, p.v from acc a join pair p on p.a = a.id where a.note = 'now'",
            "select count(*), max(bal) from acc where id in (1, 2)",
            "values (1, 2), (3, 4)",
            "table acc",
            "with x as (select id from acc) select * from x order by 1",
            "select to_char(at, 'YYYY'), at::date from stamped",
            "select t.user, t.current_date from acc t",
            "select pg_catalog.upper(note) from acc",
            "select substring(note from 1 for 3) from acc",
            "select * from acc_view",
            "select id from acc where note = current_user",
            "select user, current_setting('app.tenant'), current_setting('app.tenant', true)",
        ] {
            assert_eq!(of(text).unfit, None, "{text}");
        }
    }

    #[test]
    fn what_is_another_thing_at_another_time_is_not() {
        for text in [
            "select now()",
            "select pg_catalog.now()",
            "select id from acc where id > (select random() * 7)",
            "select current_timestamp",
            "select * from stamped where at < CURRENT_DATE",
            "select session_user",
            "select current_setting('server_version')",
            "select current_setting('app.' || note) from acc",
            "select current_setting(note) from acc",
            "with x as (select clock_timestamp() t) select t from x",
            "select age(at) from stamped",
            "select gen_random_uuid(), id from acc",
            "select version()",
        ] {
            assert_eq!(of(text).unfit, Some(Unfit::Volatile), "{text}");
        }
        for text in [
            "select * from acc for update",
            "select * from (select * from acc for no key update) x",
            "with x as (select * from acc for share skip locked) select * from x",
            "select pg_advisory_xact_lock(1)",
            "select pg_sleep(1)",
            "select * from pg_stat_activity",
            "select * from information_schema.tables",
            "select ctid, * from acc",
            "select xmin from acc",
            "select 'acc'::regclass",
            "select * from acc tablesample system (1)",
            "select * from remote",
            "select pg_is_in_recovery()",
        ] {
            assert_eq!(of(text).unfit, Some(Unfit::NotRepeatable), "{text}");
        }
        for text in [
            "select nextval('s')",
            "select setval('s', 1)",
            "select lastval()",
            "select currval('s')",
            "select lo_get(1)",
            "select setseed(0)",
            "select txid_current()",
        ] {
            assert!(read(text).is_none_or(|read| read.unfit.is_some()), "{text}");
        }
    }

    #[test]
    fn a_policy_that_asks_who_reads_is_steady() {
        let catalog = catalog();
        for filter in ["(tenant = CURRENT_USER)", "(tenant = current_setting('app.tenant'::text, true))"] {
            assert!(!is_unsteady(filter, &catalog), "{filter}");
        }
        for filter in [
            "(tenant = SESSION_USER)",
            "(at < now())",
            "(tenant = current_setting('port'::text))",
            "(tenant = current_setting(name))",
            "(tenant = current_setting(('app.'::text || name)))",
        ] {
            assert!(is_unsteady(filter, &catalog), "{filter}");
        }
    }

    #[test]
    fn what_may_write_or_set_is_no_read() {
        for text in [
            "select write_it()",
            "select set_config('a.b', 'c', false)",
            "select lo_unlink(1)",
            "insert into acc values (1, 2, 'x') returning id",
            "with x as (delete from acc where id = 1 returning *) select * from x",
            "select 1 into fresh",
            "select * from bad_view",
            "select dblink('', '')::text, write_it()",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn an_order_that_tells_all_rows_apart_is_total() {
        for text in [
            "select * from acc order by id limit 3",
            "select bal from acc order by bal desc, acc.id limit 3",
            "select note from acc where id = $1 limit 1",
            "select note from acc where id = 7::int4 and bal > 2",
            "select v from pair where b = $1 order by a offset 2",
            "select * from part order by day, id",
            "select id as key from acc order by id",
        ] {
            assert!(of(text).total, "{text}");
        }
        for text in [
            "select * from acc order by bal limit 3",
            "select * from acc limit 1",
            "select v from pair where a = 1 limit 1",
            "select * from parent order by id",
            "select * from twin order by id",
            "select * from acc a, pair order by id",
            "select bal as id from acc order by id",
            "select * from acc where id = 1 or bal = 2 limit 1",
            "select * from acc where id = bal limit 1",
            "select distinct id from acc order by id",
            "select id from acc union all select id from acc order by id",
            "select * from keyless order by v",
            "select * from pair order by lower(b), a",
        ] {
            assert!(!of(text).total, "{text}");
        }
    }

    #[test]
    fn what_an_order_would_have_to_decide_is_seen() {
        let limited = |text| of(text).limited;
        assert!(limited("select * from acc limit 1") && limited("select distinct on (bal) * from acc order by bal"));
        assert!(
            limited("select * from acc order by bal fetch first 2 rows with ties") && limited("table acc offset 1")
        );
        assert!(!limited("select * from acc order by bal") && !limited("select distinct bal from acc"));
        for text in [
            "select * from (select * from acc limit 3) x",
            "select id, row_number() over (order by bal) from acc",
            "select id in (select distinct on (v) a from pair) from acc",
            "select any_value(bal) from acc",
        ] {
            assert!(of(text).loose, "{text}");
        }
        for text in ["select * from acc order by id limit 3 offset 2", "select count(distinct bal) from acc"] {
            assert!(!of(text).loose, "{text}");
        }
        assert!(
            of("select bal, array_agg(id) from acc group by bal").gathers && !of("select max(id) from acc").gathers
        );
    }

    #[test]
    fn what_is_put_together_without_an_aggregate_is_seen() {
        for text in ["select array(select id from acc)", "select ARRAY (select id from acc), 1"] {
            assert!(of(text).gathers, "{text}");
        }
        assert!(!of("select array[id, bal] from acc").gathers);
    }

    #[test]
    fn one_of_several_equal_values_is_picked() {
        for text in [
            "select distinct note from acc",
            "select note, count(*) from acc group by note",
            "select note from acc union select b from pair",
            "select max(note) from acc",
            "select id from acc where note in (select min(b) from pair)",
        ] {
            assert!(of(text).picks, "{text}");
        }
        assert!(!of("select note from acc order by note").picks);
    }

    #[test]
    fn rows_that_are_rows_of_the_table_are_known() {
        for text in ["select * from acc limit 1", "select id, bal + 1, note::text, 7 from acc limit 1"] {
            assert!(of(text).rowwise, "{text}");
        }
        for text in [
            "select id, generate_series(1, 3) from acc limit 1",
            "select id, lower(note) from acc limit 1",
            "select id, (select 1) from acc limit 1",
            "select id from acc group by id limit 1",
            "select a.id from acc a, pair limit 1",
            "select count(*) from acc",
        ] {
            assert!(!of(text).rowwise, "{text}");
        }
    }

    #[test]
    fn an_order_is_known_by_columns_of_the_answer() {
        let named = |name: &str| Sorted::Named(name.to_owned());
        let sort = |text| of(text).sort;
        assert_eq!(sort("select * from acc order by bal desc, 2, lower(note), id"), [named("bal"), Sorted::At(1)]);
        assert_eq!(sort("select * from acc a order by a.note"), [named("note")]);
        assert_eq!(sort("select * from acc a, pair p order by a.note"), []);
        assert_eq!(sort("select * from acc"), []);
    }

    #[test]
    fn what_a_plan_shows_behind_views_is_seen() {
        let catalog = catalog();
        let quoted = ["\"PlaceOrder\"(1)", "app.\"PlaceOrder\"(1)", "\"a \"\"b\"(1)", "\"a\"\"\"(1)"];
        let plain = ["(v.at < now())", "CURRENT_DATE", "(random() * 3::double precision)", "pg_catalog.now()"];
        for text in plain.into_iter().chain(quoted) {
            assert!(is_unsteady(text, &catalog), "{text}");
        }
        for text in ["acc.now", "(lower(acc.note) = 'x'::text)", "acc.user", "\"current_date\"", "\"Max\"(1)", ""] {
            assert!(!is_unsteady(text, &catalog), "{text}");
        }
    }
}
