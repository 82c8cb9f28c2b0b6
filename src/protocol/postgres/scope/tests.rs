//! Words of one side for things of the other.

use super::*;
use crate::config::{Renames, TableMap};
use crate::protocol::postgres::analysis::schema::catalog;

/// From, to, columns, filter.
type Said<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

pub(super) fn scope(maps: &[Said<'_>], primary: Side) -> Scope {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let map = |(from, to, columns, filter): &Said<'_>| TableMap {
        from: (*from).to_owned(),
        to: text(to),
        columns: Renames(pairs(columns)),
        filter: text(filter),
    };
    let maps = Maps::new(&maps.iter().map(map).collect::<Vec<_>>());
    Scope { maps: Arc::new(maps), primary, ..Scope::default() }
}

#[test]
fn the_secondarys_catalog_is_told_in_the_primarys_words() {
    // What the hand-built schema calls public.pair, the origin calls old.both; it has a pair of its own, called so.
    let scope = scope(&[("old.both", "public.pair", &[("w", "v"), ("v", "b")], "")], Side::Origin);
    let mut there = catalog();
    scope.translate(&mut there);
    assert!(there.relation(TableId::of("public", "pair")).is_none());
    let pair = there.relation(TableId::of("old", "both")).expect("renamed");
    assert_eq!((pair.shown(), pair.sql()), ("old.both".to_owned(), "\"public\".\"pair\"".to_owned()));
    assert_eq!(pair.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["a", "v", "w"]);
    assert_eq!((pair.column_sql("w"), pair.column_sql("a")), ("\"v\"".to_owned(), "\"a\"".to_owned()));
    let acc = there.relation(TableId::of("public", "acc")).expect("as it was");
    assert!(acc.actual.is_none());
}

#[test]
fn a_column_of_the_secondary_that_has_a_renamed_ones_old_name_is_its_own() {
    let scope = scope(&[("public.pair", "", &[("v", "b")], "")], Side::Origin);
    let mut there = catalog();
    scope.translate(&mut there);
    let pair = there.relation(TableId::of("public", "pair")).expect("known");
    let names: Vec<_> = pair.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["a", "v", "v (its own)"]);
    assert_eq!(pair.column_sql("v (its own)"), "\"v\"");
}

#[test]
fn the_way_back_reads_names_the_other_way_round_and_no_filters() {
    let forth = scope(&[("old.users", "app.accounts", &[("mail", "email")], "a = 1")], Side::Origin);
    assert_eq!(forth.there("old.users").as_deref(), Some("app.accounts"));
    assert_eq!(forth.there("app.accounts").as_deref(), Some("app.accounts"), "a flaw, if there is one");
    assert_eq!((forth.renamed("old.users"), forth.rows("old.users")), (vec![("mail", "email")], Rows::Where("a = 1")));
    let back = forth.from(Side::Target);
    assert_eq!(back.there("app.accounts").as_deref(), Some("old.users"));
    assert_eq!(back.there("old.users"), None);
    assert_eq!((back.renamed("app.accounts"), back.rows("app.accounts")), (vec![("email", "mail")], Rows::NotBack));
    assert_eq!(forth.column_here("app.accounts.email").as_deref(), Some("old.users.mail"));
    assert_eq!(back.column_here("old.users.mail").as_deref(), Some("app.accounts.email"));
    assert_eq!((forth.column_here("old.users.mail"), back.column_here("x.y.z").as_deref()), (None, Some("x.y.z")));
    assert!(back.is_alike("x.y") && !back.is_alike("app.accounts") && !forth.is_alike("old.users"));
}

#[test]
fn what_is_included_and_not_excluded_is_ours_on_both_sides() {
    let mut scope = scope(&[("app.users", "new.accounts", &[], "")], Side::Origin);
    (scope.include, scope.exclude) = (vec!["app.*".to_owned()], vec!["app.log*".to_owned()]);
    let ours = |scope: &Scope, names: &[&str]| names.iter().map(|name| !scope.excludes(name)).collect::<Vec<_>>();
    assert_eq!(ours(&scope, &["app.users", "app.logs", "public.a"]), [true, false, false]);
    assert_eq!(ours(&scope.from(Side::Target), &["new.accounts", "app.t", "app.logs"]), [true, true, false]);
    let named = |own: &str, root: &str| Named { own: own.to_owned(), root: root.to_owned() };
    let mut tables: Vec<_> = ["app.users", "app.logs", "public.a"].map(|name| named(name, name)).into();
    // Patterns are of roots: what they say of a partition's name says nothing.
    tables.extend([named("app.logs_1", "app.users"), named("public.a_1", "app.users"), named("app.u_1", "app.logs")]);
    for (object, left_out) in [
        ("app.users.mail", false),
        ("public.a", true),
        ("public.a.id", true),
        ("public.a (fk)", true),
        ("public.ab", false),
        ("role app", false),
        ("app.logs_seq", true),
        ("app.logs_1", false),
        ("public.a_1.id", false),
        ("app.u_1 (fk)", true),
    ] {
        assert_eq!(scope.leaves_out(object, &tables), left_out, "{object}");
    }
}

#[test]
fn maps_that_contradict_the_tables_are_told() {
    let scope = scope(
        &[
            ("public.acc", "public.pair", &[("bal", "sum"), ("sum", "x")], "bol > 1"),
            ("public.none", "a.b", &[], ""),
            ("public.stamped", "", &[("at", "v")], ""),
            ("public.key*", "q.key*", &[], "x = (SELECT 1)"),
        ],
        Side::Origin,
    );
    let told: Vec<String> = scope.flaws(&catalog()).into_iter().map(|(map, why)| format!("{map}: {why}")).collect();
    for (map, why) in [
        ("public.acc", "no column sum"),
        ("public.acc", "no column bol"),
        ("public.acc", "target of public.pair as well"),
        ("public.none", "no such table"),
        ("public.stamped", "another column has that name"),
        ("public.key*", "subquery"),
    ] {
        assert!(told.iter().any(|told| told.starts_with(map) && told.contains(why)), "{map} {why} in {told:#?}");
    }
    assert_eq!(told.len(), 6, "{told:#?}");
}
