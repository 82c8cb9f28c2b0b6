//! What was read "at S" was there at S.
//!
//! Rows are read at S, the schema of now decides where: what rewrites, empties, drops, renames or detaches a table
//! after S shows nothing of it to S, and a payment would delete what it did not find. So every read is followed, while
//! the read's lock keeps others from changing the table, by a question: is it still the table whose catalog was read?
//! `pg_class` and the other catalogs answer for S; `pg_relation_filenode`, `to_regclass` and `pg_partition_tree` for
//! now.
//!
//! Then the lock is given back, before S is: the reads and their check stand behind a savepoint, and going back to it
//! frees their locks. A client's schema change waits for one such flight, and not for a payment of a million keys, nor
//! for a slow secondary, and nobody queues behind it. What was read before the change is right at S; what is read
//! after it meets its own check, and S is taken anew.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use crate::protocol::postgres::client::{self, Client, DataRow, Format, Param};

use super::schema::{PRINT, Pair};
use super::trouble::Trouble;

/// A question that was put, and what it must be answered.
pub(super) struct Check {
    tables: usize,
    roots: usize,
    /// The sum of the oids of partitioned tables and their partitions.
    partitions: u64,
}

/// The savepoint behind which everything is read: a part of the statement that begins S.
pub(super) const SAVEPOINT: &str = "SAVEPOINT tandem_read";

/// Put the question about tables that were read since the savepoint, the return to it, and the flight's Sync.
pub(super) fn put<'a>(conn: &mut Client, pairs: impl Iterator<Item = &'a Arc<Pair>>) -> Check {
    let mut check = Check { tables: 0, roots: 0, partitions: 0 };
    let [mut oids, mut prints, mut roots, mut names, mut trees] = [const { String::new() }; 5];
    for pair in pairs {
        let oid = pair.primary.oid;
        check.roots += 1;
        push(&mut roots, oid);
        push_quoted(&mut names, &pair.primary.sql());
        for (oid, print) in &pair.footprint.prints {
            check.tables += 1;
            push(&mut oids, oid);
            push_quoted(&mut prints, print);
        }
        if pair.footprint.partitioned {
            check.partitions += pair.footprint.prints.iter().map(|(oid, _)| u64::from(*oid)).sum::<u64>();
            push(&mut trees, oid);
        }
    }
    let arrays = [oids, prints, roots, names, trees].map(|values| format!("{{{values}}}"));
    // The trees are a table function of their own cost: most databases have none.
    let (sql, count) = if check.partitions > 0 { (&WITH_TREES, 5) } else { (&WITHOUT_TREES, 4) };
    let params: Vec<_> = arrays[..count].iter().map(|array| Param::text(array)).collect();
    conn.put_prepared(sql, &params, Format::Text);
    conn.put_prepared("ROLLBACK TO tandem_read", &[], Format::Text);
    conn.put_sync();
    check
}

impl Check {
    /// Read the answer, and all that is left of its flight's.
    pub(super) async fn read(&self, conn: &mut Client) -> Result<(), Trouble> {
        let row = conn.next_row_of_statement().await.map_err(refused)?;
        let row = row.ok_or(Trouble::Primary(client::Error::Value(0)))?;
        conn.finish().await.map_err(refused)?;
        if self.holds(&row).map_err(Trouble::Primary)? {
            return Ok(());
        }
        Err(Trouble::Stale("a table was rewritten, changed or moved".into()))
    }

    fn holds(&self, row: &DataRow) -> Result<bool, client::Error> {
        let partitions = if self.partitions > 0 { row.parse::<u64>(2)? } else { 0 };
        Ok((row.parse(0)?, row.parse(1)?, partitions) == (self.tables, self.roots, self.partitions))
    }
}

/// The columns of the answer that was read are those that had their names when the catalog was read: two may have swapped them,
/// and what the catalogs answer for S tells nothing of that.
pub(super) fn columns(conn: &Client, pair: &Pair) -> Result<(), Trouble> {
    let columns = conn.columns().map_err(Trouble::Primary)?;
    let is_known = |(at, (table, number)): (usize, &(u32, i16))| {
        let numbers = pair.footprint.numbers.get(table);
        numbers.and_then(|numbers| *numbers.get(at)?).is_none_or(|known| known == *number)
    };
    if columns.iter().enumerate().all(is_known) {
        return Ok(());
    }
    Err(Trouble::Stale("columns got other names".into()))
}

/// A schema change may have the server refuse the question itself: a partition that vanishes while it is looked at.
pub(super) fn refused(error: client::Error) -> Trouble {
    match error.code() {
        Some(code) if code.starts_with("42") || code == "55P03" || code == "XX000" => Trouble::Stale(error.to_string()),
        _ => Trouble::Primary(error),
    }
}

static WITHOUT_TREES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT (SELECT pg_catalog.count(*) FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.text[]) u(o, print) \
         JOIN pg_catalog.pg_class c ON c.oid = u.o \
         AND c.relfilenode = coalesce(pg_catalog.pg_relation_filenode(c.oid), 0) AND {PRINT} = u.print), \
         (SELECT pg_catalog.count(*) FROM unnest($3::pg_catalog.oid[], $4::pg_catalog.text[]) r(o, name) \
         WHERE pg_catalog.to_regclass(name) = o)"
    )
});

static WITH_TREES: LazyLock<String> = LazyLock::new(|| {
    let trees = "(SELECT coalesce(pg_catalog.sum(t.relid::pg_catalog.oid::pg_catalog.int8), 0) \
        FROM pg_catalog.unnest($5::pg_catalog.oid[]) r(o), pg_catalog.pg_partition_tree(o) t)";
    format!("{}, {trees}", *WITHOUT_TREES)
});

fn push(array: &mut String, value: impl std::fmt::Display) {
    if !array.is_empty() {
        array.push(',');
    }
    write!(array, "{value}").expect("a string takes everything");
}

/// An element of an array as text (documentation, "Array Input and Output Syntax").
fn push_quoted(array: &mut String, value: &str) {
    push(array, '"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            array.push('\\');
        }
        array.push(character);
    }
    array.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_elements_of_an_array() {
        let mut array = String::new();
        push_quoted(&mut array, r#""a"."b\c""#);
        push_quoted(&mut array, "d");
        assert_eq!(array, r#""\"a\".\"b\\c\"","d""#);
    }
}
