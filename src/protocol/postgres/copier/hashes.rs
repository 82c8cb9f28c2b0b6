//! A row as one number, by the server's own hash functions.
//!
//! The number of a row is that of its key, combined with that of each other column. A column's number is seeded with the
//! key's and with the column's place, so that neither two columns of a row nor two rows can have each other's values
//! unseen. (The server's hash of a whole record is linear in those of its columns: a sum of such would not see the latter.)
//!
//! The functions are those by which tables are partitioned, on disk: they yield the same on every version. Where a type's
//! own function takes two different values for one (`1.0` and `1.00`, `0` and `-0`), or where it hashes what means something
//! on one server alone (the oid of an enum's value), the text of the value is hashed, on connections that all write it alike.

use crate::protocol::postgres::catalog::Column;
use crate::protocol::postgres::key::oid;

/// The rows of a query, one number each.
pub(super) struct Hashed {
    /// What the query selects of each row.
    pub(super) selected: String,
    /// The row's number, where the query is called `q`.
    pub(super) number: String,
}

/// Of rows that are told apart by `key` (not NULL) and have `others` too: columns, each as the query can name it, or texts.
pub(super) fn hashed(key: &[(Option<&Column>, String)], others: &[(Option<&Column>, String)]) -> Hashed {
    let chained = |seed: String, (column, name): &(Option<&Column>, String)| hash(*column, name, &seed);
    let mut selected = vec![format!("{} AS k", key.iter().fold("0".to_owned(), chained))];
    let mut number = "q.k".to_owned();
    for (place, (column, name)) in (1..).zip(others) {
        selected.push(format!("{name} AS c{place}"));
        let value = hash(*column, &format!("q.c{place}"), &format!("q.k OPERATOR(pg_catalog.#) {place}"));
        // Any number of its own will do: whatever else may be there is told from it by chance alone.
        number += &format!(" OPERATOR(pg_catalog.#) coalesce({value}, pg_catalog.hashint8extended(q.k, {place}))");
    }
    Hashed { selected: selected.join(", "), number }
}

/// The hash of a value with this seed; NULL for NULL.
fn hash(column: Option<&Column>, value: &str, seed: &str) -> String {
    let function = match column.map_or(oid::TEXT, |column| column.base_oid) {
        oid::INT2 => "hashint2extended",
        oid::INT4 => "hashint4extended",
        oid::INT8 => "hashint8extended",
        oid::UUID => "uuid_hash_extended",
        oid::BOOL => return format!("pg_catalog.hashint4extended({value}::pg_catalog.int4, {seed})"),
        // In UTC, as our connections are set, one is the other.
        oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            return format!("pg_catalog.timestamp_hash_extended({value}::pg_catalog.timestamp, {seed})");
        }
        // Its cast to text would drop the blanks at its end.
        oid::BPCHAR => return text(&format!("pg_catalog.textin(pg_catalog.bpcharout({value}))"), seed),
        _ => return text(&format!("{value}::pg_catalog.text"), seed),
    };
    format!("pg_catalog.{function}({value}, {seed})")
}

/// By its bytes, whatever collation it has.
fn text(value: &str, seed: &str) -> String {
    format!("pg_catalog.hashtextextended({value} COLLATE pg_catalog.\"C\", {seed})")
}
