//! `'now'`: wherever a server wants a timestamp it reads this text, in any case, as the millisecond in which it executes the
//! statement. (Source: Cassandra's `TimestampSerializer.dateStringToTimestamp`; documents of JSON go the same way.)
//!
//! Where a column of that type is given or compared with the constant itself, both sides are given one millisecond in its
//! place. In a collection, a user type, an argument or a document nothing says here whether it is a time: what such a
//! statement writes is mirrored by state.

use super::expr::{Expr, Literal};
use super::schema::{Source, Table};
use super::statement::{Condition, Modification, Operand, Operation, Restricted, Statement};
use super::token::{Kind, Span, tokens, unquoted};

const NOW: &str = "now";

/// Whether a constant of `text` is this one.
pub fn says_now(text: &[u8]) -> bool {
    text.windows(NOW.len()).any(|word| word.eq_ignore_ascii_case(NOW.as_bytes())) && constants(text).next().is_some()
}

fn constants(text: &[u8]) -> impl Iterator<Item = Span> {
    tokens(text).filter(|token| token.kind == Kind::String && is_now(text, token.span)).map(|token| token.span)
}

fn is_now(text: &[u8], constant: Span) -> bool {
    unquoted(constant.of(text)).eq_ignore_ascii_case(NOW)
}

/// The constants in a modification of `table` that are times for certain.
pub fn times(text: &[u8], modification: &Modification, table: &Table) -> Vec<Span> {
    let is_time = |name: &str| table.column(name).is_some_and(|column| column.cql_type == "timestamp");
    let set = modification.assignments.iter().filter_map(|one| match &one.operation {
        Operation::Set(value) if is_time(&one.column) => Some(value),
        _ => None,
    });
    let conditions = match &modification.condition {
        Some(Condition::Columns(all)) => all.as_slice(),
        _ => &[],
    };
    let related = modification.relations.iter().chain(conditions).filter(|relation| match &relation.left {
        Restricted::Column(name) => is_time(name),
        _ => false,
    });
    let compared = related.flat_map(|relation| match &relation.right {
        Operand::One(value) => std::slice::from_ref(value),
        Operand::Many(values) => values,
        Operand::Nothing => &[],
    });
    let constant = |value: &Expr| match value.source() {
        Source::Literal(Literal::String, span) => Some(span).filter(|span| is_now(text, *span)),
        _ => None,
    };
    set.chain(compared).filter_map(constant).collect()
}

/// Whether a modification has more such constants than these `times`, where one may be a time.
pub fn is_doubtful(
    text: &[u8],
    statement: &Statement,
    modification: &Modification,
    table: &Table,
    times: &[Span],
) -> bool {
    let all = constants(modification.span.of(text)).count();
    // What a function takes its column does not say.
    all > times.len() && (!statement.calls.is_empty() || table.may_hold_timestamps())
}

/// Whether documents of JSON are in what this statement writes.
pub fn has_documents(statement: &Statement) -> bool {
    statement.modifications().iter().any(|one| one.json.is_some())
        || statement.calls.iter().any(|call| matches!(call.function.name.as_str(), "fromjson" | "from_json"))
}

/// Whether a document, or a text with one in it, may have it for a value.
pub fn may_be_in(document: &[u8]) -> bool {
    document.windows(NOW.len() + 2).any(|word| word.eq_ignore_ascii_case(b"\"now\""))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::schema::Column;
    use super::*;

    fn table() -> Table {
        let columns = [
            ("k", "partition_key", "int"),
            ("at", "clustering", "timestamp"),
            ("v", "regular", "text"),
            ("seen", "regular", "timestamp"),
            ("all", "regular", "list<timestamp>"),
        ];
        Table::new("shop", "t", columns.map(|(name, kind, of)| Column::described(name, kind, 0, of)).to_vec())
    }

    #[test]
    fn a_constant_is_a_time_where_a_column_of_times_is_given_or_compared_with_it() {
        for (text, count, doubtful) in [
            ("INSERT INTO t (k, at, seen) VALUES (1, 'now', 'NOW')", 2, false),
            ("INSERT INTO t (k, at, seen) VALUES (1, (timestamp)'Now', $$now$$)", 2, false),
            ("INSERT INTO t (k, at) VALUES (1, '2026-01-01')", 0, false),
            ("UPDATE t SET seen = 'now' WHERE k = 1 AND at IN ('now', 5) IF seen < 'now'", 3, false),
            ("DELETE FROM t WHERE k = 1 AND at < 'now'", 1, false),
            ("UPDATE t SET v = 'now' WHERE k = 1 AND at = 5", 0, true),
            ("UPDATE t SET all = all + ['now'], seen = 'now' WHERE k = 1 AND at = 5", 1, true),
            ("DELETE FROM t WHERE k = 1 AND (at) > ('now')", 0, true),
        ] {
            let statement = parse(text.as_bytes());
            let (table, modification) = (table(), &statement.modifications()[0]);
            let times = times(text.as_bytes(), modification, &table);
            assert_eq!(times.len(), count, "{text}");
            assert!(times.iter().all(|span| is_now(text.as_bytes(), *span)), "{text}");
            assert_eq!(is_doubtful(text.as_bytes(), &statement, modification, &table, &times), doubtful, "{text}");
            assert_eq!(says_now(text.as_bytes()), count > 0 || doubtful, "{text}");
        }
    }

    #[test]
    fn what_is_no_constant_or_meets_no_time_is_left_alone() {
        assert!(!says_now(b"INSERT INTO now (k, at) VALUES (now(), 'nowhere')"));
        let columns = [("k", "partition_key", "int"), ("v", "regular", "map<text, frozen<list<int>>>")];
        let plain = Table::new("k", "t", columns.map(|(name, kind, of)| Column::described(name, kind, 0, of)).to_vec());
        for (text, doubtful) in
            [("UPDATE t SET v = {'now': []} WHERE k = 1", false), ("UPDATE t SET v = f('now') WHERE k = 1", true)]
        {
            let statement = parse(text.as_bytes());
            let modification = &statement.modifications()[0];
            assert_eq!(is_doubtful(text.as_bytes(), &statement, modification, &plain, &[]), doubtful, "{text}");
        }
    }

    #[test]
    fn documents_are_told() {
        for (text, expected) in [
            ("INSERT INTO t JSON ?", true),
            ("INSERT INTO t (k, at) VALUES (1, fromJson(?))", true),
            ("INSERT INTO t (k, at) VALUES (1, from_json('\"now\"'))", true),
            ("INSERT INTO t (k, at) VALUES (1, ?)", false),
        ] {
            assert_eq!(has_documents(&parse(text.as_bytes())), expected, "{text}");
        }
        assert!(may_be_in(b"{\"at\": \"Now\"}") && !may_be_in(b"{\"at\": \"nowhere\"}"));
    }
}
