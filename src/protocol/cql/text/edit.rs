//! Changing a text in places, everything else byte for byte as the client wrote it.

use super::statement::{ColumnDrop, Statement};
use super::token::Span;

/// One change: what is in `span` gives way to `text`. An empty span inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub span: Span,
    /// What instead.
    pub text: String,
}

/// `text` with all `edits`, which do not overlap, made; in any order.
pub fn apply(text: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut out = Vec::with_capacity(text.len() + edits.iter().map(|edit| edit.text.len()).sum::<usize>());
    let mut copied = 0;
    for edit in edits {
        out.extend_from_slice(Span { start: copied, end: edit.span.start }.of(text));
        out.extend_from_slice(edit.text.as_bytes());
        copied = edit.span.end;
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

/// A column drop at a given time, in microseconds: the other side's drop carries the time that the first recorded, so
/// that values written after a column was added again survive whatever arrives late (CQL-CORNERS C10).
pub fn drop_at(drop: &ColumnDrop, micros: i64) -> Edit {
    match drop.using {
        Some(span) => Edit { span, text: format!("USING TIMESTAMP {micros}") },
        None => Edit { span: at(drop.using_at), text: format!(" USING TIMESTAMP {micros}") },
    }
}

/// The tables that modifications name without a keyspace, with this one: for a statement that goes elsewhere than where it
/// was prepared. Types and functions in it are of its table's keyspace, as they were.
pub fn qualified(statement: &Statement, keyspace: &str) -> Vec<Edit> {
    let text = format!("{}.", quoted(keyspace));
    let bare = statement.modifications().iter().filter(|one| one.table.keyspace.is_none());
    bare.map(|one| Edit { span: at(one.table_at), text: text.clone() }).collect()
}

/// A name as a text must have it, whatever it is.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn at(place: usize) -> Span {
    Span { start: place, end: place }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::statement::Body;
    use super::*;

    fn dropped(text: &str) -> ColumnDrop {
        match parse(text.as_bytes()).body {
            Body::Schema(schema) => schema.drop.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_drop_gets_the_time_it_is_given() {
        for (text, expected) in [
            ("ALTER TABLE t DROP c;", "ALTER TABLE t DROP c USING TIMESTAMP 7;"),
            ("ALTER TABLE t DROP (c, \"D\") -- x\n", "ALTER TABLE t DROP (c, \"D\") USING TIMESTAMP 7 -- x\n"),
            ("ALTER TABLE t DROP c using timestamp 5", "ALTER TABLE t DROP c USING TIMESTAMP 7"),
        ] {
            let edited = apply(text.as_bytes(), vec![drop_at(&dropped(text), 7)]);
            assert_eq!(String::from_utf8(edited).unwrap(), expected);
        }
    }

    #[test]
    fn tables_without_a_keyspace_get_the_one_that_they_are_given() {
        for (text, expected) in [
            ("INSERT INTO t (k) VALUES (1)", "INSERT INTO \"My\"\"own\".t (k) VALUES (1)"),
            ("UPDATE /* x */ \"T\" SET v = 1 WHERE k = 1", "UPDATE /* x */ \"My\"\"own\".\"T\" SET v = 1 WHERE k = 1"),
            ("DELETE v FROM t WHERE k = 1", "DELETE v FROM \"My\"\"own\".t WHERE k = 1"),
            ("DELETE FROM other . t WHERE k = 1", "DELETE FROM other . t WHERE k = 1"),
            (
                "BEGIN BATCH DELETE FROM a.t WHERE k = 1; DELETE FROM t WHERE k = 1 APPLY BATCH",
                "BEGIN BATCH DELETE FROM a.t WHERE k = 1; DELETE FROM \"My\"\"own\".t WHERE k = 1 APPLY BATCH",
            ),
        ] {
            let edited = apply(text.as_bytes(), qualified(&parse(text.as_bytes()), "My\"own"));
            assert_eq!(String::from_utf8(edited).unwrap(), expected);
        }
    }

    #[test]
    fn edits_leave_everything_else_alone() {
        let edit = |start, end, text: &str| Edit { span: Span { start, end }, text: text.into() };
        assert_eq!(apply(b"abcdef", vec![edit(4, 5, "X"), edit(0, 1, ""), edit(2, 2, "--")]), b"b--cdXf");
        assert_eq!(apply(b"ab", vec![]), b"ab");
    }
}
