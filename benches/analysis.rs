//! What a statement costs before it is forwarded: lexing, the plan from the cache, and the parse of a shape seen for
//! the first time. The statements are pgbench's.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tandem::protocol::postgres::analysis::analyze;
use tandem::protocol::postgres::cache::PlanCache;
use tandem::protocol::postgres::catalog::{Catalog, Column, Hazards, Key, Kind, Relation};
use tandem::protocol::postgres::evident::{NoParams, Source};
use tandem::protocol::postgres::lexer::{Dialect, Tokens};
use tandem::protocol::postgres::plan::Action;
use tandem::record::{RecordBuf, TableId};

const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 123456;";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + -4711 WHERE aid = 123456;";

fn catalog() -> Catalog {
    let column = |name: &str, attnum| Column {
        name: name.to_owned(),
        attnum,
        type_oid: 23,
        base_oid: 23,
        type_sql: "pg_catalog.int4".to_owned(),
        typmod: -1,
        typtype: b'b',
        collation: String::new(),
        deterministic: true,
        generated: false,
        identity: 0,
        not_null: attnum == 1,
        has_default: false,
        binary_safe: true,
        text_varies: false,
    };
    let columns = vec![column("aid", 1), column("bid", 2), column("abalance", 3)];
    let relation = Relation {
        oid: 1,
        id: TableId::of("public", "pgbench_accounts"),
        schema: "public".to_owned(),
        name: "pgbench_accounts".to_owned(),
        kind: Kind::Table,
        unlogged: false,
        key: Some(Key::new("pgbench_accounts_pkey".to_owned(), vec![0], &columns)),
        columns,
        parents: Vec::new(),
        children: Vec::new(),
        hazards: Hazards::default(),
        reads: Vec::new(),
        rows: 0.0,
        actual: None,
    };
    Catalog {
        version: 180_000,
        by_name: [(relation.name.clone(), vec![1])].into(),
        by_id: [(relation.id, 1)].into(),
        relations: [(1, Arc::new(relation))].into(),
        utf8: true,
        ..Catalog::default()
    }
}

fn statements(c: &mut Criterion) {
    let catalog = catalog();
    let cache = PlanCache::new(1000);
    let mut tokens = Tokens::default();
    for (name, text) in [("select", SELECT), ("update", UPDATE), ("commit", "COMMIT")] {
        let text = text.as_bytes();
        c.bench_function(&format!("lex {name}"), |b| b.iter(|| tokens.lex(black_box(text), Dialect::default())));
        c.bench_function(&format!("lex and find the plan of {name}"), |b| {
            b.iter(|| {
                tokens.lex(black_box(text), Dialect::default());
                cache.plan(text, &tokens, &catalog)
            });
        });
        c.bench_function(&format!("parse and plan {name}"), |b| b.iter(|| analyze(text, &tokens, &catalog)));
    }
    let text = UPDATE.as_bytes();
    tokens.lex(text, Dialect::default());
    let script = cache.plan(text, &tokens, &catalog);
    let Some(Action::Evident(evident)) = script.statements.first().map(|statement| &statement.action) else { return };
    let mut record = RecordBuf::default();
    c.bench_function("read the key of update", |b| {
        b.iter(|| {
            record.clear();
            let source = Source { text, tokens: &tokens, utf8: true };
            evident.keys(source, &NoParams, &mut record)
        });
    });
}

criterion_group!(benches, statements);
criterion_main!(benches);
