//! Types that somebody made: which there are, and what their values are made of.
//!
//! A value goes from side to side as text, and a name and an oid say little of what takes it: an enum that lacks a label
//! refuses rows, fields of a composite have no names in the text and may change places, and what a domain checks is its
//! own. Types of extensions are what the extension's version is.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::{Finding, Rule};
use crate::protocol::postgres::client::{Client, DataRow, Error};
use crate::record::Side;

use super::facts::OURS;
use super::{on, rules};

/// By qualified name.
pub(super) type Types = BTreeMap<String, Type>;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    oid: u32,
    made_of: MadeOf,
}

/// What its values are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum MadeOf {
    /// Labels, as they sort.
    Labels(Vec<String>),
    /// Fields with their types, in the order of values.
    Fields(Vec<String>),
    /// A domain: the type below, `NOT NULL`, checks.
    Domain(BTreeSet<String>),
    /// A range of this.
    Range(Vec<String>),
    /// Nothing that a catalog tells.
    Itself,
}

// Row types of tables and arrays follow what they are made of; a domain's NOT NULL is a constraint too from 17 on.
const TYPES: &str = "SELECT pg_catalog.concat(n.nspname, '.', t.typname), t.oid, \
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_type'::pg_catalog.regclass \
      AND x.objid = t.oid AND x.deptype = 'e') THEN '' ELSE t.typtype::pg_catalog.text END, \
    coalesce(CASE t.typtype \
      WHEN 'e' THEN (SELECT pg_catalog.json_agg(e.enumlabel ORDER BY e.enumsortorder) \
        FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) \
      WHEN 'c' THEN (SELECT pg_catalog.json_agg(pg_catalog.concat(a.attname, ' ', \
          pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum) \
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) \
      WHEN 'd' THEN (SELECT pg_catalog.json_agg(d.says) FROM ( \
          SELECT pg_catalog.format_type(t.typbasetype, t.typtypmod) UNION ALL SELECT 'NOT NULL' WHERE t.typnotnull \
          UNION ALL SELECT pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(o.oid), ' NOT VALID$', '') \
            FROM pg_catalog.pg_constraint o WHERE o.contypid = t.oid AND o.contype = 'c') d (says)) \
      WHEN 'r' THEN (SELECT pg_catalog.json_build_array(pg_catalog.format_type(r.rngsubtype, NULL)) \
        FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) END, '[]') \
    FROM pg_catalog.pg_type t \
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid \
    WHERE t.oid >= 16384 AND t.typtype <> 'p' AND coalesce(c.relkind, 'c') = 'c' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid) \
    AND {OURS}";

/// Ask a side, with an empty search path.
pub(super) async fn read(conn: &mut Client) -> Result<Types, Error> {
    conn.simple(&TYPES.replace("{OURS}", OURS)).await?.iter().map(|row| Ok((row.string(0)?, of(row)?))).collect()
}

fn of(row: &DataRow) -> Result<Type, Error> {
    let parts: Vec<String> = serde_json::from_str(&row.string(3)?).map_err(|_| Error::Value(3))?;
    let made_of = match row.string(2)?.as_str() {
        "e" => MadeOf::Labels(parts),
        "c" => MadeOf::Fields(parts),
        "d" => MadeOf::Domain(parts.into_iter().collect()),
        "r" => MadeOf::Range(parts),
        _ => MadeOf::Itself,
    };
    Ok(Type { oid: row.parse(1)?, made_of })
}

pub(super) fn together(origin: &Types, target: &Types, found: &mut Vec<Finding>) {
    for (name, here) in origin {
        let Some(there) = target.get(name) else {
            found.push(on(Side::Target, rules::TYPE_MISSING, name));
            continue;
        };
        if here.oid != there.oid {
            found.push(on(Side::Target, rules::TYPE_OID_DIFFERS, name));
        }
        let told = |(rule, how)| on(Side::Target, rule, format!("{name}: {how}"));
        found.extend(differs(&here.made_of, &there.made_of).map(told));
    }
}

/// What values of `here` meet `there`, if it is not what they know.
fn differs(here: &MadeOf, there: &MadeOf) -> Option<(&'static Rule, String)> {
    match (here, there) {
        (here, there) if here == there => None,
        (MadeOf::Labels(here), MadeOf::Labels(there)) => labels(here, there),
        (MadeOf::Domain(here), MadeOf::Domain(there)) => {
            let (only_here, only_there) = (listed(here.difference(there)), listed(there.difference(here)));
            Some((rules::DOMAIN_DIFFERS, format!("{only_here} -> {only_there}")))
        }
        (MadeOf::Fields(here), MadeOf::Fields(there)) | (MadeOf::Range(here), MadeOf::Range(there)) => {
            Some((rules::TYPE_DIFFERS, format!("{} -> {}", listed(here), listed(there))))
        }
        _ => Some((rules::TYPE_DIFFERS, "another kind of type".to_owned())),
    }
}

/// The other side may have more of them, anywhere: those of this one must be there, and sort as they do here.
fn labels(here: &[String], there: &[String]) -> Option<(&'static Rule, String)> {
    let known: BTreeSet<&String> = there.iter().collect();
    let missing: Vec<&String> = here.iter().filter(|label| !known.contains(label)).collect();
    if !missing.is_empty() {
        return Some((rules::TYPE_DIFFERS, format!("lacks {}", listed(missing))));
    }
    let ours: BTreeSet<&String> = here.iter().collect();
    let same = there.iter().filter(|label| ours.contains(label)).eq(here);
    (!same).then(|| (rules::ENUM_ORDER_DIFFERS, format!("{} -> {}", listed(here), listed(there))))
}

/// The first of them in brackets: there may be thousands.
fn listed<'a>(all: impl IntoIterator<Item = &'a String>) -> String {
    let mut all = all.into_iter();
    let mut named: Vec<&str> = all.by_ref().take(NAMED_MAX).map(String::as_str).collect();
    named.extend(all.next().map(|_| ".."));
    format!("({})", named.join(", "))
}

/// More parts of a type are not named.
const NAMED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(all: &[&str]) -> Vec<String> {
        all.iter().map(|&one| one.to_owned()).collect()
    }

    fn found(here: MadeOf, there: MadeOf) -> Option<(&'static str, String)> {
        differs(&here, &there).map(|(rule, how)| (rule.name, how))
    }

    #[test]
    fn an_enum_of_the_other_side_may_have_more_labels_but_no_other_order() {
        let labels = |all: &[&str]| MadeOf::Labels(owned(all));
        for there in [&["a", "b"][..], &["a", "b", "c"], &["a", "z", "b"]] {
            assert_eq!(found(labels(&["a", "b"]), labels(there)), None);
        }
        let said = |rule, how: &str| Some((rule, how.to_owned()));
        assert_eq!(found(labels(&["a", "b"]), labels(&["b"])), said("type_differs", "lacks (a)"));
        assert_eq!(found(labels(&["a", "b"]), labels(&["b", "a"])), said("enum_order_differs", "(a, b) -> (b, a)"));
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let lacks = found(MadeOf::Labels(many), labels(&[]));
        assert_eq!(lacks, said("type_differs", "lacks (0, 1, 2, 3, 4, 5, 6, 7, ..)"));
    }

    #[test]
    fn fields_that_change_places_are_another_type() {
        let fields = |all: &[&str]| MadeOf::Fields(owned(all));
        let swapped = found(fields(&["a integer", "b integer"]), fields(&["b integer", "a integer"]));
        let expected = "(a integer, b integer) -> (b integer, a integer)";
        assert_eq!(swapped, Some(("type_differs", expected.to_owned())));
        assert_eq!(found(fields(&["a integer"]), fields(&["a integer"])), None);
        assert!(found(fields(&["a integer"]), MadeOf::Labels(owned(&["a"]))).is_some());
    }

    #[test]
    fn of_domains_only_what_differs_is_told() {
        let domain = |all: &[&str]| MadeOf::Domain(owned(all).into_iter().collect());
        let stricter = found(domain(&["integer"]), domain(&["integer", "NOT NULL", "CHECK ((VALUE > 0))"]));
        assert_eq!(stricter, Some(("domain_differs", "() -> (CHECK ((VALUE > 0)), NOT NULL)".to_owned())));
    }
}
