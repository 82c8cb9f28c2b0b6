//! What clients meet of a schema beside the columns that are written: materialized views, indexes, user types, and the order
//! of rows in a partition. The mirror needs none of it; a client behind a switch does.

use std::collections::BTreeSet;

use super::{Defined, Definitions, Map, Name};

/// What clients would miss elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// There is no such materialized view.
    View,
    /// There is no index of it.
    Index,
    /// The type has other fields, or in another order.
    Type,
    /// Rows come in another order.
    Order,
}

impl Definitions {
    /// What this has and `there` has not, and how it is called.
    pub fn lacking(&self, there: &Definitions) -> Vec<(Lack, String)> {
        let views = self.views.keys().filter(|name| !there.views.contains_key(*name));
        let views = views.map(|name| (Lack::View, qualified(name)));
        let (indexed, indexed_there) = (self.indexed(), there.indexed());
        let indexes = indexed.difference(&indexed_there).filter(|(table, _)| there.tables.contains_key(*table));
        let indexes = indexes.map(|(table, of)| (Lack::Index, format!("{} ({of})", qualified(table))));
        // A type that is not there has no tables there either.
        let types = self.types.iter().filter_map(|(name, here)| {
            let there = there.types.get(name).filter(|there| *there != here)?;
            Some((Lack::Type, format!("{}: {} -> {}", qualified(name), fields(here), fields(there))))
        });
        let orders = self.ordered().filter_map(|(name, here)| {
            let there = there.tables.get(name).or_else(|| there.views.get(name).map(|view| &view.defined))?;
            let turned = here.clustering().eq(there.clustering()) && here.descending != there.descending;
            turned.then(|| (Lack::Order, format!("{}: {} -> {}", qualified(name), order(here), order(there))))
        });
        views.chain(indexes).chain(types).chain(orders).collect()
    }

    /// By table and what of it they are of: statements do not name indexes.
    fn indexed(&self) -> BTreeSet<(&Name, &str)> {
        let all = self.indexes.iter().map(|((table, name), index)| {
            let target = index.options.iter().find(|(option, _)| option == "target");
            (table, target.map_or(name.as_str(), |(_, of)| of.as_str()))
        });
        all.collect()
    }

    /// Tables and views: rows of both come in an order.
    fn ordered(&self) -> impl Iterator<Item = (&Name, &Defined)> {
        self.tables.iter().chain(self.views.iter().map(|(name, view)| (name, &view.defined)))
    }
}

impl Defined {
    fn clustering(&self) -> impl Iterator<Item = &str> {
        self.shape.clustering().map(|column| column.name.as_str())
    }
}

fn qualified((keyspace, name): &Name) -> String {
    format!("{keyspace}.{name}")
}

/// With their types, in the order of values.
fn fields(of: &Map) -> String {
    format!("({})", of.iter().map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>().join(", "))
}

/// As a statement has it.
fn order(of: &Defined) -> String {
    let way = |name: &str| if of.descending.contains(name) { "DESC" } else { "ASC" };
    format!("({})", of.clustering().map(|name| format!("{name} {}", way(name))).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::Index;
    use super::*;
    use crate::protocol::cql::text::schema::{Column, Table};

    fn name(of: &str) -> Name {
        ("shop".to_owned(), of.to_owned())
    }

    /// A table `shop.t` that is ordered so, indexed so, and a type of these fields.
    fn definitions(order: &[(&str, &str)], indexes: &[&str], fields: &[(&str, &str)]) -> Definitions {
        let column = |(at, (name, _)): (i32, &(&str, &str))| Column::described(name, "clustering", at, "int");
        let turned = order.iter().filter(|(_, way)| *way == "desc").map(|(name, _)| (*name).to_owned());
        let defined = Defined {
            shape: Table::new("shop", "t", (0..).zip(order).map(column).collect()),
            descending: turned.collect(),
            options: Vec::new(),
            is_compact: false,
        };
        let index = |of: &&str| {
            let options = vec![("target".to_owned(), (*of).to_owned())];
            ((name("t"), format!("t_{of}")), Index { kind: "COMPOSITES".to_owned(), options })
        };
        let fields = fields.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
        Definitions {
            tables: [(name("t"), defined)].into(),
            indexes: indexes.iter().map(index).collect(),
            types: [(name("place"), fields)].into(),
            ..Definitions::default()
        }
    }

    fn said(lack: Lack, what: &str) -> Vec<(Lack, String)> {
        vec![(lack, what.to_owned())]
    }

    #[test]
    fn rows_that_run_the_other_way_are_named_with_their_columns() {
        let here = definitions(&[("at", "desc"), ("n", "asc")], &[], &[]);
        assert_eq!(here.lacking(&here), []);
        let there = definitions(&[("at", "asc"), ("n", "asc")], &[], &[]);
        let expected = "shop.t: (at DESC, n ASC) -> (at ASC, n ASC)";
        assert_eq!(here.lacking(&there), said(Lack::Order, expected));
        // Another key is another table: that is found without us.
        assert_eq!(here.lacking(&definitions(&[("at", "asc")], &[], &[])), []);
    }

    #[test]
    fn an_index_is_known_by_what_it_is_of_and_missed_where_its_table_is() {
        let here = definitions(&[], &["email", "values(tags)"], &[]);
        assert_eq!(here.lacking(&definitions(&[], &["email", "values(tags)", "more"], &[])), []);
        let expected = said(Lack::Index, "shop.t (values(tags))");
        assert_eq!(here.lacking(&definitions(&[], &["email"], &[])), expected);
        assert_eq!(here.lacking(&Definitions::default()), []);
    }

    #[test]
    fn fields_that_change_places_are_another_type() {
        let here = definitions(&[], &[], &[("street", "text"), ("city", "text")]);
        let there = definitions(&[], &[], &[("city", "text"), ("street", "text")]);
        let expected = "shop.place: (street text, city text) -> (city text, street text)";
        assert_eq!(here.lacking(&there), said(Lack::Type, expected));
    }
}
