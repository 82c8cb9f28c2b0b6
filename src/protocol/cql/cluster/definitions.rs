//! What clients meet of a schema beside the columns that are written: materialized views, indexes, user types, and the order
//! of rows in a partition. The mirror needs none of it; a client behind a switch does.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::cql::client::{Client, Error};
use crate::protocol::cql::tables::is_own;

use super::fields::Fields;
use super::schema::each;

const VIEWS: &str = "SELECT keyspace_name, view_name FROM system_schema.views";
const INDEXES: &str = "SELECT keyspace_name, table_name, index_name, options FROM system_schema.indexes";
const TYPES: &str = "SELECT keyspace_name, type_name, field_names, field_types FROM system_schema.types";
const ORDERS: &str =
    "SELECT keyspace_name, table_name, column_name, position, clustering_order FROM system_schema.columns";

/// Of one cluster, without what is its own. Names are qualified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definitions {
    views: BTreeSet<String>,
    /// By table and what of it they are of: statements do not name indexes.
    indexes: BTreeSet<(String, String)>,
    /// Fields with their types, in the order of values.
    types: BTreeMap<String, Vec<String>>,
    /// Of tables and views: clustering columns by position, and which way they run.
    orders: BTreeMap<String, BTreeMap<i32, (String, String)>>,
}

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
        let views = self.views.difference(&there.views).map(|view| (Lack::View, view.clone()));
        let indexes = self.indexes.difference(&there.indexes).filter(|(table, _)| there.orders.contains_key(table));
        let indexes = indexes.map(|(table, of)| (Lack::Index, format!("{table} ({of})")));
        // A type that is not there has no tables there either.
        let types = self.types.iter().filter_map(|(name, here)| {
            let there = there.types.get(name).filter(|there| *there != here)?;
            Some((Lack::Type, format!("{name}: ({}) -> ({})", here.join(", "), there.join(", "))))
        });
        let orders = self.orders.iter().filter_map(|(name, here)| {
            let there = there.orders.get(name).filter(|there| *there != here && names(there).eq(names(here)))?;
            Some((Lack::Order, format!("{name}: {} -> {}", shown(here), shown(there))))
        });
        views.chain(indexes).chain(types).chain(orders).collect()
    }
}

fn names(order: &BTreeMap<i32, (String, String)>) -> impl Iterator<Item = &String> {
    order.values().map(|(name, _)| name)
}

/// As a statement has it.
fn shown(order: &BTreeMap<i32, (String, String)>) -> String {
    let columns = order.values().map(|(name, way)| format!("{name} {}", way.to_uppercase()));
    format!("({})", columns.collect::<Vec<_>>().join(", "))
}

pub(super) async fn load(client: &Client) -> Result<Definitions, Error> {
    let mut all = Definitions::default();
    each(client, VIEWS, |row| all.views.extend(named(row, "view_name"))).await?;
    each(client, INDEXES, |row| {
        let target = row.pairs("options").into_iter().find(|(name, _)| *name == "target");
        let of = target.map(|(_, of)| of).or_else(|| row.text("index_name"));
        all.indexes.extend(named(row, "table_name").zip(of.map(str::to_owned)));
    })
    .await?;
    each(client, TYPES, |row| {
        let fields = row.texts("field_names").into_iter().zip(row.texts("field_types"));
        let fields = fields.map(|(name, of)| format!("{name} {of}")).collect();
        all.types.extend(named(row, "type_name").map(|name| (name, fields)));
    })
    .await?;
    each(client, ORDERS, |row| {
        let Some(table) = named(row, "table_name") else { return };
        let order = all.orders.entry(table).or_default();
        let way = row.text("clustering_order").filter(|way| *way != "none");
        if let (Some(way), Some(name), Some(position)) = (way, row.text("column_name"), row.int("position")) {
            order.insert(position, (name.to_owned(), way.to_owned()));
        }
    })
    .await?;
    Ok(all)
}

/// Qualified, if it is clients'.
fn named(row: &Fields<'_, '_>, column: &str) -> Option<String> {
    let keyspace = row.text("keyspace_name").filter(|keyspace| !is_own(keyspace))?;
    Some(format!("{keyspace}.{}", row.text(column)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table `shop.t` that is ordered so, indexed so, and a type of these fields.
    fn definitions(order: &[(&str, &str)], indexes: &[&str], fields: &[&str]) -> Definitions {
        let order = order.iter().map(|(name, way)| ((*name).to_owned(), (*way).to_owned()));
        Definitions {
            views: BTreeSet::new(),
            indexes: indexes.iter().map(|of| ("shop.t".to_owned(), (*of).to_owned())).collect(),
            types: [("shop.place".to_owned(), fields.iter().map(|&one| one.to_owned()).collect())].into(),
            orders: [("shop.t".to_owned(), (0..).zip(order).collect())].into(),
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
        let here = definitions(&[], &[], &["street text", "city text"]);
        let there = definitions(&[], &[], &["city text", "street text"]);
        let expected = "shop.place: (street text, city text) -> (city text, street text)";
        assert_eq!(here.lacking(&there), said(Lack::Type, expected));
    }
}
