//! A hand-built schema with one table for every rule.

use std::sync::Arc;

use super::super::catalog::{Act, Catalog, Column, Events, ForeignKey, Hazards, Key, Kind as K, Relation, Setters};
use crate::record::TableId;

fn column(attnum: i16, spec: &str) -> Column {
    let (name, kind) = spec.split_once(' ').expect("name and type");
    let (type_oid, type_sql, typmod) = match kind.trim_end_matches('!') {
        "int2" => (21, "pg_catalog.int2", -1),
        "int4" => (23, "pg_catalog.int4", -1),
        "int8" => (20, "pg_catalog.int8", -1),
        "text" => (25, "pg_catalog.text", -1),
        "uuid" => (2950, "pg_catalog.uuid", -1),
        "bool" => (16, "pg_catalog.bool", -1),
        "numeric" => (1700, "pg_catalog.numeric", -1),
        "timestamptz" => (1184, "pg_catalog.timestamptz", -1),
        "varchar3" => (1043, "pg_catalog.varchar", 7),
        other => panic!("no type {other}"),
    };
    Column {
        name: name.to_owned(),
        attnum,
        type_oid,
        base_oid: type_oid,
        type_sql: type_sql.to_owned(),
        typmod,
        typtype: b'b',
        collation: String::new(),
        deterministic: true,
        generated: false,
        identity: 0,
        not_null: true,
        has_default: false,
        binary_safe: true,
        text_varies: false,
    }
}

struct Builder(Catalog);

impl Builder {
    fn table(&mut self, oid: u32, name: &str, columns: &[&str], key: &[usize]) -> &mut Relation {
        let (schema, name) = name.split_once('.').unwrap_or(("public", name));
        let columns: Vec<_> = columns.iter().zip(1..).map(|(spec, attnum)| column(attnum, spec)).collect();
        let relation = Relation {
            oid,
            id: TableId::of(schema, name),
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: K::Table,
            unlogged: false,
            key: (!key.is_empty()).then(|| Key::new(format!("{name}_pkey"), key.to_vec(), &columns)),
            columns,
            parents: Vec::new(),
            children: Vec::new(),
            hazards: Hazards::default(),
            reads: Vec::new(),
            rows: 0.0,
            actual: None,
        };
        self.0.by_name.entry(name.to_owned()).or_default().push(oid);
        self.0.by_id.insert(relation.id, oid);
        self.0.relations.insert(oid, Arc::new(relation));
        Arc::get_mut(self.0.relations.get_mut(&oid).expect("inserted above")).expect("not shared yet")
    }

    fn view(&mut self, oid: u32, name: &str, reads: &[u32]) -> &mut Relation {
        let view = self.table(oid, name, &["id int4", "v text"], &[]);
        view.kind = K::View;
        view.reads = reads.to_vec();
        view
    }
}

/// As long as a name can be.
pub(crate) const LONG_NAME: &str = "place_the_order_of_a_customer_and_note_it_in_the_ledger_of_a_ye";

/// Version 15; a test may set another.
pub(crate) fn catalog() -> Catalog {
    let mut b = Builder(Catalog { epoch: 7, version: 150_000, utf8: true, ..Catalog::default() });
    b.table(1, "acc", &["id int4", "bal int8", "note text"], &[0]);
    b.table(2, "pair", &["a int4", "b text", "v int4"], &[0, 1]);
    b.table(3, "keyless", &["v int4"], &[]);
    b.table(4, "stamped", &["at timestamptz", "v int4"], &[0]);
    b.table(5, "trig", &["id int4", "v int4"], &[0]).hazards =
        Hazards { before_insert: true, triggers: true, fires: Events::INSERT, ..Hazards::default() };
    b.table(8, "touched", &["id int4", "v int4"], &[0]).hazards =
        Hazards { before_update: true, triggers: true, fires: Events::UPDATE, ..Hazards::default() };
    b.table(6, "ruled", &["id int4", "v int4"], &[0]).hazards.rules = true;
    b.table(7, "tenants", &["id int4", "v int4"], &[0]).hazards.row_security = true;
    let root = b.table(10, "part", &["id int4", "day int4", "v text"], &[0, 1]);
    root.kind = K::Partitioned;
    root.children = vec![11, 12];
    b.table(11, "part_1", &["id int4", "day int4", "v text"], &[0, 1]).parents = vec![10];
    b.table(12, "part_2", &["day int4", "id int4", "v text"], &[1, 0]).parents = vec![10];
    b.table(13, "parent", &["id int4", "v text"], &[0]).children = vec![14];
    b.table(14, "child", &["id int4", "v text", "w text"], &[0]).parents = vec![13];
    b.table(20, "a.twin", &["id int4", "v text"], &[0]);
    b.table(21, "b.twin", &["id int4", "v text"], &[0]);
    b.table(22, "a.odd", &["id int4", "v text"], &[0]);
    b.table(23, "b.odd", &["k uuid", "id int4"], &[0]);
    b.table(24, "ref", &["id int4", "acc int4"], &[0]);
    b.table(25, "short", &["k varchar3", "v int4"], &[0]);
    b.table(26, "lord", &["id int4", "v int4"], &[0]);
    b.table(27, "vassal", &["id int4", "lord int4"], &[0]).hazards =
        Hazards { triggers: true, fires: Events::DELETE, ..Hazards::default() };
    b.view(30, "acc_view", &[1]);
    b.view(31, "trig_view", &[1]).hazards.instead_of = true;
    b.view(32, "bad_view", &[1]).hazards.user_functions = true;
    b.view(33, "deep_view", &[32]);
    b.table(34, "remote", &["id int4"], &[]).kind = K::Foreign;
    b.0.user_functions = ["write_it", "balance_of", "become", "PlaceOrder", LONG_NAME].map(str::to_owned).into();
    b.0.setters = Setters::of(&["become"]);
    b.0.calm_procedures = ["note_it"].map(str::to_owned).into();
    b.0.unsteady = [
        "now",
        "random",
        "current_setting",
        "clock_timestamp",
        "age",
        "gen_random_uuid",
        "version",
        "nextval",
        "setval",
        "lastval",
        "currval",
        "lo_get",
        "setseed",
        "txid_current",
        "PlaceOrder",
    ]
    .map(str::to_owned)
    .into();
    b.0.user_operators = ["@@@".to_owned()].into();
    b.0.user_types = ["posint".to_owned()].into();
    b.0.plain_types = ["int4", "timestamptz", "mood"].map(str::to_owned).into();
    b.0.timed_types = ["timestamptz"].map(str::to_owned).into();
    for (name, child, parent) in [("ref_acc_fkey", 24, 1), ("vassal_lord_fkey", 27, 26)] {
        b.0.foreign_keys.push(Arc::new(ForeignKey {
            name: name.to_owned(),
            child,
            parent,
            child_columns: vec![1],
            parent_columns: vec![0],
            on_delete: Act::Cascade,
            on_update: Act::None,
            deferrable: false,
        }));
    }
    b.0
}
