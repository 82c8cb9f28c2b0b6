//! A table of statements and what they are understood as, written back in one plain form.

use proptest::prelude::*;

use super::super::expr::{Expr, Value};
use super::super::statement::*;
use super::cursor::TOKENS_MAX;
use super::parse;

#[test]
fn a_text_of_more_tokens_than_are_understood_is_not() {
    let list = |values: usize| format!("INSERT INTO t (k, v) VALUES (1, [{}])", vec!["1"; values].join(","));
    let fits = (TOKENS_MAX - "INSERT INTO t ( k , v ) VALUES ( 1 , [ ] )".split(' ').count()) / 2;
    assert!(matches!(parse(list(fits).as_bytes()).body, Body::Modify(_)));
    assert_eq!(read(&list(fits + 2)), "unknown at 0: fewer words");
    // It would be understood as another statement if it were cut there.
    let several = format!("DELETE FROM t WHERE k = 1 {}", ";".repeat(TOKENS_MAX));
    assert_eq!(read(&several), "unknown at 0: fewer words");
}

/// A statement's facts in one line: markers are `?n`, names as they are meant.
fn read(text: &str) -> String {
    let statement = parse(text.as_bytes());
    let out = Plain(text);
    match &statement.body {
        Body::Select(select) => out.select(select),
        Body::Modify(one) => out.modification(one),
        Body::Batch(batch) => {
            let all: Vec<String> = batch.statements.iter().map(|one| out.modification(one)).collect();
            format!("{:?} batch{} [{}]", batch.kind, out.using(&batch.using), all.join("; "))
        }
        Body::Truncate(name) => format!("truncate {}", named(name)),
        Body::Use(keyspace) => format!("use {keyspace}"),
        Body::Schema(schema) => definition(schema),
        Body::Unknown(unknown) => format!("unknown at {}: {}", unknown.at, unknown.expected),
        other => format!("{other:?}"),
    }
}

fn named(name: &Name) -> String {
    name.keyspace.as_ref().map_or(name.name.clone(), |keyspace| format!("{keyspace}.{}", name.name))
}

fn definition(schema: &Schema) -> String {
    let mut out = format!("{:?} {:?}", schema.action, schema.object);
    out.extend(schema.name.as_ref().map(|name| format!(" {}", named(name))));
    out.extend(schema.table.as_ref().map(|table| format!(" of {}", named(table))));
    out.extend(schema.tolerant.then_some(" tolerant"));
    out.extend(schema.drop.as_ref().map(|drop| format!(" drops {}", drop.columns.join(","))));
    out.extend((!schema.add.is_empty()).then(|| format!(" adds {}", schema.add.join(","))));
    out.extend(schema.renames.then_some(" renames"));
    out.extend(schema.is_of_options().then_some(" options"));
    out
}

struct Plain<'t>(&'t str);

impl Plain<'_> {
    fn text(&self, span: super::super::token::Span) -> String {
        String::from_utf8_lossy(span.of(self.0.as_bytes())).into_owned()
    }

    fn all(&self, items: &[Expr]) -> String {
        items.iter().map(|item| self.expr(item)).collect::<Vec<_>>().join(",")
    }

    fn expr(&self, expr: &Expr) -> String {
        let end = |end: &Option<Box<Expr>>| end.as_ref().map_or(String::new(), |end| self.expr(end));
        match &expr.value {
            Value::Literal(_) => self.text(expr.span),
            Value::Null => "null".into(),
            Value::Marker(number) => format!("?{number}"),
            Value::Column(name) => name.clone(),
            Value::Call(function, items) => {
                let keyspace = function.keyspace.as_ref().map_or(String::new(), |keyspace| format!("{keyspace}."));
                format!("{keyspace}{}({})", function.name, self.all(items))
            }
            Value::CountRows => "count(*)".into(),
            Value::CellMeta(word, inner) => format!("{word}({})", self.expr(inner)),
            Value::Cast(inner, to) => format!("cast({} as {})", self.expr(inner), self.text(*to)),
            Value::Hint(to, inner) => format!("({}){}", self.text(*to), self.expr(inner)),
            Value::Tuple(items) => format!("({})", self.all(items)),
            Value::List(items) => format!("[{}]", self.all(items)),
            Value::Set(items) => format!("{{{}}}", self.all(items)),
            Value::Map(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| format!("{}:{}", self.expr(key), self.expr(value)));
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
            }
            Value::Fields(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| format!(".{key}:{}", self.expr(value)));
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
            }
            Value::Field(inner, field) => format!("{}.{field}", self.expr(inner)),
            Value::Element(inner, at) => format!("{}[{}]", self.expr(inner), self.expr(at)),
            Value::Slice(inner, from, to) => format!("{}[{}..{}]", self.expr(inner), end(from), end(to)),
            Value::Arithmetic(items) => format!("<{}>", self.all(items)),
            Value::Negated(inner) => format!("-{}", self.expr(inner)),
        }
    }

    fn using(&self, using: &Using) -> String {
        let timestamp = using.timestamp.as_ref().map(|value| format!(" timestamp {}", self.expr(value)));
        let ttl = using.ttl.as_ref().map(|value| format!(" ttl {}", self.expr(value)));
        format!("{}{}", timestamp.unwrap_or_default(), ttl.unwrap_or_default())
    }

    fn relation(&self, relation: &Relation) -> String {
        let left = match &relation.left {
            Restricted::Column(name) => name.clone(),
            Restricted::Element(name, at) => format!("{name}[{}]", self.expr(at)),
            Restricted::Field(name, field) => format!("{name}.{field}"),
            Restricted::Columns(names) => format!("({})", names.join(",")),
            Restricted::Token(names) => format!("token({})", names.join(",")),
            Restricted::Index(name) => format!("expr({})", named(name)),
        };
        let right = match &relation.right {
            Operand::One(value) => self.expr(value),
            Operand::Many(values) => format!("({})", self.all(values)),
            Operand::Nothing => String::new(),
        };
        format!("{left} {:?} {right}", relation.operator)
    }

    fn relations(&self, word: &str, relations: &[Relation]) -> String {
        let all: Vec<String> = relations.iter().map(|relation| self.relation(relation)).collect();
        if all.is_empty() { String::new() } else { format!(" {word} {}", all.join(" & ")) }
    }

    fn assignment(&self, assignment: &Assignment) -> String {
        let column = &assignment.column;
        match &assignment.operation {
            Operation::Set(value) => format!("{column}={}", self.expr(value)),
            Operation::Add(value) => format!("{column}+={}", self.expr(value)),
            Operation::Prepend(value) => format!("{column}=+{}", self.expr(value)),
            Operation::Subtract(value) => format!("{column}-={}", self.expr(value)),
            Operation::SetElement(at, value) => format!("{column}[{}]={}", self.expr(at), self.expr(value)),
            Operation::SetField(field, value) => format!("{column}.{field}={}", self.expr(value)),
            Operation::Delete => format!("-{column}"),
            Operation::DeleteElement(at) => format!("-{column}[{}]", self.expr(at)),
            Operation::DeleteField(field) => format!("-{column}.{field}"),
        }
    }

    fn modification(&self, one: &Modification) -> String {
        let mut out = format!("{:?} {}{}", one.verb, named(&one.table), self.using(&one.using)).to_lowercase();
        for assignment in &one.assignments {
            out += &format!(" {}", self.assignment(assignment));
        }
        if let Some(json) = &one.json {
            out += &format!(" json {}{}", self.expr(&json.document), if json.default_unset { " unset" } else { "" });
        }
        out += &self.relations("where", &one.relations);
        out + &match &one.condition {
            Some(Condition::Columns(all)) => self.relations("if", all),
            Some(Condition::Exists) => " if exists".into(),
            Some(Condition::NotExists) => " if not exists".into(),
            None => String::new(),
        }
    }

    fn select(&self, select: &Select) -> String {
        let selectors = select.selectors.as_ref().map_or("*".into(), |all| {
            let one = |one: &Selector| {
                let alias = one.alias.as_ref().map_or(String::new(), |alias| format!(" as {alias}"));
                self.expr(&one.expr) + &alias
            };
            all.iter().map(one).collect::<Vec<_>>().join(",")
        });
        let mut out = String::from("select ");
        out.extend(select.json.then_some("json "));
        out.extend(select.distinct.then_some("distinct "));
        out += &format!("{selectors} from {}{}", named(&select.table), self.relations("where", &select.relations));
        if !select.groups.is_empty() {
            out += &format!(" group {}", self.all(&select.groups));
        }
        for order in &select.orders {
            out += &format!(" order {}{}", order.column, if order.descending { " desc" } else { "" });
            out.extend(order.nearest.as_ref().map(|vector| format!(" ann {}", self.expr(vector))));
        }
        out.extend(select.per_partition_limit.as_ref().map(|limit| format!(" per partition {}", self.expr(limit))));
        out.extend(select.limit.as_ref().map(|limit| format!(" limit {}", self.expr(limit))));
        out.extend(select.allow_filtering.then_some(" filtering"));
        out
    }
}

#[track_caller]
fn understood(table: &[(&str, &str)]) {
    for (text, facts) in table {
        assert_eq!(&read(text), facts, "{text}");
    }
}

#[test]
fn inserts_name_their_columns_and_values() {
    understood(&[
        ("INSERT INTO t (a, b) VALUES (1, 'x')", "insert t a=1 b='x'"),
        ("insert into KS.T(A,\"B\"\"c\")values(?,:Name);", "insert ks.t a=?0 B\"c=?1"),
        ("INSERT INTO \"Ks\".\"T\" (a) VALUES (null) IF NOT EXISTS", "insert ks.t a=null if not exists"),
        ("INSERT INTO t (a) VALUES (?) USING TTL ? AND TIMESTAMP :ts", "insert t timestamp ?2 ttl ?1 a=?0"),
        ("INSERT INTO t (a) VALUES (1) IF NOT EXISTS USING TTL 5", "insert t ttl 5 a=1 if not exists"),
        ("INSERT INTO t JSON '{\"a\":1}'", "insert t json '{\"a\":1}'"),
        ("INSERT INTO t JSON ? DEFAULT UNSET USING TIMESTAMP 4", "insert t timestamp 4 json ?0 unset"),
        ("INSERT INTO t JSON :doc DEFAULT NULL IF NOT EXISTS", "insert t json ?0 if not exists"),
        ("INSERT INTO json (json) VALUES (true)", "insert json json=true"),
        ("INSERT INTO t (k, \"\") VALUES (1, 2)", "insert t k=1 =2"),
        ("INSERT INTO t (a) VALUES ($$it's$$) -- why\n", "insert t a=$$it's$$"),
        ("INSERT INTO t (a, b) VALUES (1)", "unknown at 31: as many values as columns"),
    ]);
}

#[test]
fn terms_of_every_kind_are_understood() {
    understood(&[
        ("INSERT INTO t (a) VALUES ([1, ?, [2]])", "insert t a=[1,?0,[2]]"),
        ("INSERT INTO t (a) VALUES ({1, ?})", "insert t a={1,?0}"),
        ("INSERT INTO t (a) VALUES ({})", "insert t a={}"),
        ("INSERT INTO t (a) VALUES ({?:?, :a : :b})", "insert t a={?0:?1,?2:?3}"),
        ("INSERT INTO t (a) VALUES ({f: 1, \"G\": ?})", "insert t a={.f:1,.G:?0}"),
        ("INSERT INTO t (a) VALUES ((1, (?, 'x')))", "insert t a=(1,(?0,'x'))"),
        ("INSERT INTO t (a) VALUES ((int) ?)", "insert t a=(int)?0"),
        ("INSERT INTO t (a) VALUES ((map<text, frozen<list<int>>>) {})", "insert t a=(map<text, frozen<list<int>>>){}"),
        ("INSERT INTO t (a) VALUES ((vector<float, 3>) [1, 2, 3])", "insert t a=(vector<float, 3>)[1,2,3]"),
        ("INSERT INTO t (a) VALUES ((set<int>) {1})", "insert t a=(set<int>){1}"),
        ("INSERT INTO t (a) VALUES (CAST(? AS text))", "insert t a=cast(?0 as text)"),
        ("INSERT INTO t (a) VALUES (Now())", "insert t a=now()"),
        ("INSERT INTO t (a) VALUES (system.now())", "insert t a=system.now()"),
        ("INSERT INTO t (a) VALUES (\"Now\"())", "insert t a=Now()"),
        ("INSERT INTO t (a) VALUES (toTimestamp(now()) + 1h)", "insert t a=<totimestamp(now()),1h>"),
        ("INSERT INTO t (a) VALUES (-f(1) * (?) / 2 % 3)", "insert t a=<-f(1),(?0),2,3>"),
        ("INSERT INTO t (a) VALUES (-NaN)", "insert t a=-NaN"),
        ("INSERT INTO t (a) VALUES (-infinity)", "insert t a=-infinity"),
        ("INSERT INTO t (a) VALUES (0xCAFE)", "insert t a=0xCAFE"),
        ("INSERT INTO t (a) VALUES (token(1))", "insert t a=token(1)"),
        (
            "INSERT INTO t (a) VALUES (123e4567-e89b-12d3-a456-426655440000)",
            "insert t a=123e4567-e89b-12d3-a456-426655440000",
        ),
        ("INSERT INTO t (a) VALUES (b)", "unknown at 26: a value"),
        ("INSERT INTO t (a) VALUES ('never ends)", "unknown at 26: a value"),
    ]);
}

#[test]
fn updates_say_what_happens_to_a_column() {
    understood(&[
        ("UPDATE t SET a = 1, b=? WHERE k = ?", "update t a=1 b=?0 where k Eq ?1"),
        ("UPDATE t USING TTL ? SET a=? WHERE k=?", "update t ttl ?0 a=?1 where k Eq ?2"),
        ("UPDATE t SET c = c + 1 WHERE k=1", "update t c+=1 where k Eq 1"),
        ("UPDATE t SET c = c - ? WHERE k=1", "update t c-=?0 where k Eq 1"),
        ("UPDATE t SET c = c -1 WHERE k=1", "update t c+=-1 where k Eq 1"),
        ("UPDATE t SET c=c-1 WHERE k=1", "update t c+=-1 where k Eq 1"),
        ("UPDATE t SET c += 1, d -= ? WHERE k=1", "update t c+=1 d-=?0 where k Eq 1"),
        ("UPDATE t SET l = [1] + l WHERE k=1", "update t l=+[1] where k Eq 1"),
        ("UPDATE t SET l = ? + L WHERE k=1", "update t l=+?0 where k Eq 1"),
        ("UPDATE t SET l = f(?) + \"l\" WHERE k=1", "update t l=+f(?0) where k Eq 1"),
        ("UPDATE t SET a = f(1) + ks.g(2) WHERE k=1", "update t a=<f(1),ks.g(2)> where k Eq 1"),
        ("UPDATE t SET l[?] = ? WHERE k=1", "update t l[?0]=?1 where k Eq 1"),
        ("UPDATE t SET u.f = ? WHERE k=1", "update t u.f=?0 where k Eq 1"),
        ("UPDATE t SET m = m + {'a': ?} WHERE k=1", "update t m+={'a':?0} where k Eq 1"),
        ("UPDATE t SET c = d + 1 WHERE k=1", "unknown at 17: the column that is assigned"),
        ("UPDATE t SET c = 1", "unknown at 18: where"),
        ("UPDATE values SET key = 1 WHERE type = 2 IF ttl = 3", "update values key=1 where type Eq 2 if ttl Eq 3"),
    ]);
}

#[test]
fn conditions_make_it_conditional() {
    understood(&[
        ("UPDATE t SET a=1 WHERE k=1 IF EXISTS", "update t a=1 where k Eq 1 if exists"),
        ("UPDATE t SET a=1 WHERE k=1 IF exists = 2", "update t a=1 where k Eq 1 if exists Eq 2"),
        (
            "UPDATE t SET a=? WHERE k=? IF a = ? AND b != ? AND c < 3",
            "update t a=?0 where k Eq ?1 if a Eq ?2 & b NotEq ?3 & c Range 3",
        ),
        ("UPDATE t SET a=1 WHERE k=1 IF a IN (?, 2) AND b IN ?", "update t a=1 where k Eq 1 if a In (?0,2) & b In ?1"),
        (
            "UPDATE t SET a=1 WHERE k=1 IF m['a'] = ? AND u.f = ?",
            "update t a=1 where k Eq 1 if m['a'] Eq ?0 & u.f Eq ?1",
        ),
        ("DELETE FROM t WHERE k=1 IF EXISTS", "delete t where k Eq 1 if exists"),
        ("DELETE FROM t WHERE k=1 IF l CONTAINS ?", "delete t where k Eq 1 if l Contains ?0"),
    ]);
    assert!(
        parse(b"BEGIN BATCH INSERT INTO t(a) VALUES(1); DELETE FROM t WHERE a=1 IF EXISTS APPLY BATCH")
            .is_conditional()
    );
    assert!(!parse(b"CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)").is_conditional());
}

#[test]
fn deletes_say_what_they_take_away() {
    understood(&[
        ("DELETE FROM t WHERE k = ?", "delete t where k Eq ?0"),
        ("DELETE a, b[?], c.f FROM t USING TIMESTAMP ? WHERE k=1", "delete t timestamp ?1 -a -b[?0] -c.f where k Eq 1"),
        ("DELETE FROM t WHERE k IN (1, ?) AND c > ? AND c <= 3", "delete t where k In (1,?0) & c Range ?1 & c Range 3"),
        ("DELETE FROM t WHERE k=1 AND (a, b) = (?, 2)", "delete t where k Eq 1 & (a,b) Eq (?0,2)"),
    ]);
}

#[test]
fn relations_keep_where_their_values_come_from() {
    understood(&[
        ("SELECT * FROM t WHERE k IN ?", "select * from t where k In ?0"),
        ("SELECT * FROM t WHERE k IN :keys", "select * from t where k In ?0"),
        ("SELECT * FROM t WHERE k IN ()", "select * from t where k In ()"),
        ("SELECT * FROM t WHERE (a,b) IN ((1,?),(3,4))", "select * from t where (a,b) In ((1,?0),(3,4))"),
        ("SELECT * FROM t WHERE (a,b) IN (?, :x)", "select * from t where (a,b) In (?0,?1)"),
        ("SELECT * FROM t WHERE (a,b) IN ?", "select * from t where (a,b) In ?0"),
        ("SELECT * FROM t WHERE (a,b) IN ()", "select * from t where (a,b) In ()"),
        ("SELECT * FROM t WHERE (a,b) >= ? AND (a) < (1)", "select * from t where (a,b) Range ?0 & (a) Range (1)"),
        ("SELECT * FROM t WHERE token(a, B) > token(?, 2)", "select * from t where token(a,b) Range token(?0,2)"),
        ("SELECT * FROM t WHERE TOKEN(a) <= -9", "select * from t where token(a) Range -9"),
        ("SELECT * FROM t WHERE (k = 1) AND ((c < 2))", "select * from t where k Eq 1 & c Range 2"),
        (
            "SELECT * FROM t WHERE m CONTAINS KEY ? AND l CONTAINS 1 AND m['x'] = 2",
            "select * from t where m Contains ?0 & l Contains 1 & m['x'] Eq 2",
        ),
        ("SELECT * FROM t WHERE a LIKE '%x' AND b IS NOT NULL", "select * from t where a Other '%x' & b Other "),
        ("SELECT * FROM t WHERE expr(ks.idx, '..')", "select * from t where expr(ks.idx) Other '..'"),
        (
            "SELECT * FROM t WHERE a BETWEEN ? AND ? AND b NOT IN (1)",
            "select * from t where a Range (?0,?1) & b Other (1)",
        ),
    ]);
}

#[test]
fn selects_say_what_is_selected() {
    understood(&[
        ("SELECT a, \"B\" AS x, count(*) FROM ks.t", "select a,B as x,count(*) from ks.t"),
        ("SELECT DISTINCT a FROM t", "select distinct a from t"),
        ("SELECT distinct FROM t", "select distinct from t"),
        ("SELECT JSON a, b FROM t", "select json a,b from t"),
        ("SELECT JSON DISTINCT a FROM t", "select json distinct a from t"),
        ("SELECT json, json AS b FROM json", "select json,json as b from json"),
        ("SELECT json AS x FROM t", "select json as x from t"),
        ("SELECT JSON * FROM t", "select json * from t"),
        (
            "SELECT writetime(a), TTL(\"B\"), maxwritetime(m['k']), ttl FROM t",
            "select writetime(a),ttl(B),maxwritetime(m['k']),ttl from t",
        ),
        (
            "SELECT cast(a AS text), (int) b, (a, b), [a], {a}, {a: b} FROM t",
            "select cast(a as text),(int)b,(a,b),[a],{a},{a:b} from t",
        ),
        (
            "SELECT a.b.c, m['x'], l[1..2], l[..2], l[1..], f(a).b FROM t",
            "select a.b.c,m['x'],l[1..2],l[..2],l[1..],f(a).b from t",
        ),
        ("SELECT a + b * 2, -c FROM t", "select <a,<b,2>>,-c from t"),
        ("SELECT ks.f(a, ?), count(1), 'x' FROM t", "select ks.f(a,?0),count(1),'x' from t"),
        (
            "SELECT * FROM t WHERE k=? PER PARTITION LIMIT ? LIMIT ? ALLOW FILTERING",
            "select * from t where k Eq ?0 per partition ?1 limit ?2 filtering",
        ),
        (
            "SELECT * FROM t GROUP BY a, b ORDER BY c DESC, d ASC LIMIT 1",
            "select * from t group a,b order c desc order d limit 1",
        ),
        ("SELECT * FROM t ORDER BY v ANN OF ? LIMIT :n", "select * from t order v ann ?0 limit ?1"),
        ("SELECT * FROM select", "unknown at 14: a name"),
        ("SELECT * FROM t; SELECT * FROM t", "unknown at 17: the end of the statement"),
        ("SELECT * FROM t;;", "select * from t"),
    ]);
}

#[test]
fn batches_hold_their_statements() {
    understood(&[
        ("BEGIN BATCH APPLY BATCH", "Logged batch []"),
        (
            "BEGIN UNLOGGED BATCH USING TIMESTAMP ? INSERT INTO t (a) VALUES (?); UPDATE u SET b=? WHERE k=:x DELETE FROM v WHERE k=1; APPLY BATCH;",
            "Unlogged batch timestamp ?0 [insert t a=?1; update u b=?2 where k Eq ?3; delete v where k Eq 1]",
        ),
        ("begin counter batch update t set c=c+1 where k=1 apply batch", "Counter batch [update t c+=1 where k Eq 1]"),
        ("BEGIN BATCH SELECT * FROM t APPLY BATCH", "unknown at 12: INSERT, UPDATE or DELETE"),
        ("BEGIN BATCH DELETE FROM v WHERE k=1;; APPLY BATCH", "unknown at 36: INSERT, UPDATE or DELETE"),
    ]);
}

#[test]
fn schema_changes_name_their_object() {
    understood(&[
        ("CREATE KEYSPACE IF NOT EXISTS \"K\" WITH replication = {'class': 'x'}", "Create Keyspace K.K tolerant"),
        ("ALTER SCHEMA k WITH durable_writes = false", "Alter Keyspace k.k"),
        ("CREATE TABLE k.t (a int PRIMARY KEY, b text STATIC) WITH comment = 'c'", "Create Table k.t"),
        ("DROP COLUMNFAMILY IF EXISTS t", "Drop Table t tolerant"),
        ("ALTER TABLE k.t ADD b int", "Alter Table k.t adds b"),
        (
            "ALTER TABLE t ADD IF NOT EXISTS (b map<int, text> STATIC, \"C\" text MASKED WITH mask_inner(1, null), d 'x.Y')",
            "Alter Table t adds b,C,d",
        ),
        ("ALTER TABLE t ADD b frozen<tuple<int, int>>, c k.u;", "Alter Table t adds b,c"),
        ("ALTER TABLE t WITH compaction = {'class': 'x'}", "Alter Table t options"),
        ("ALTER TABLE t ALTER a MASKED WITH DEFAULT", "Alter Table t options"),
        ("ALTER TABLE k.t DROP b", "Alter Table k.t drops b"),
        ("ALTER TABLE IF EXISTS k.t DROP IF EXISTS (b, \"C\") USING TIMESTAMP 5", "Alter Table k.t tolerant drops b,C"),
        ("ALTER TABLE t DROP COMPACT STORAGE", "Alter Table t options"),
        ("ALTER TABLE t DROP compact", "Alter Table t drops compact"),
        ("ALTER TABLE t RENAME IF EXISTS a TO b", "Alter Table t renames"),
        ("CREATE INDEX ON k.t (a)", "Create Index of k.t"),
        ("CREATE CUSTOM INDEX IF NOT EXISTS i ON t (a) USING 'sai'", "Create Index i of t tolerant"),
        ("DROP INDEX k.i", "Drop Index k.i"),
        (
            "CREATE MATERIALIZED VIEW k.v AS SELECT a, b FROM k.t WHERE a IS NOT NULL PRIMARY KEY (a)",
            "Create View k.v of k.t",
        ),
        (
            "CREATE MATERIALIZED VIEW k.v AS SELECT * FROM t WHERE a IS NOT NULL PRIMARY KEY (a)",
            "Create View k.v of k.t",
        ),
        ("CREATE INDEX k.i ON t (a)", "Create Index k.i of k.t"),
        ("DROP MATERIALIZED VIEW v", "Drop View v"),
        ("CREATE TYPE k.u (a int)", "Create Type k.u"),
        (
            "CREATE OR REPLACE FUNCTION k.f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS $$ return a; $$",
            "Create Function k.f tolerant",
        ),
        ("DROP AGGREGATE IF EXISTS k.a (int)", "Drop Aggregate k.a tolerant"),
        ("CREATE TRIGGER tr ON k.t USING 'x.Y'", "Create Trigger tr of k.t"),
        ("DROP TRIGGER tr ON t", "Drop Trigger tr of t"),
        ("TRUNCATE k.t", "truncate k.t"),
        ("TRUNCATE TABLE \"T\"", "truncate T"),
        ("USE \"K\"", "use K"),
        ("USE K", "use k"),
    ]);
}

#[test]
fn who_may_do_what_is_told_apart() {
    understood(&[
        ("CREATE ROLE r WITH PASSWORD = 'x' AND LOGIN = true", "Access(CreateRole)"),
        ("CREATE USER IF NOT EXISTS u WITH PASSWORD 'x' SUPERUSER", "Access(CreateRole)"),
        ("ALTER ROLE r WITH OPTIONS = {'a': 1}", "Access(AlterRole)"),
        ("DROP USER u", "Access(DropRole)"),
        ("GRANT SELECT, MODIFY ON k.t TO r", "Access(Grant)"),
        ("GRANT a TO b", "Access(Grant)"),
        ("REVOKE ALL ON ALL KEYSPACES FROM r", "Access(Revoke)"),
        ("ADD IDENTITY 'x' TO ROLE 'r'", "Access(Identity)"),
        ("DROP IDENTITY 'x'", "Access(Identity)"),
        ("LIST ROLES OF r NORECURSIVE", "List"),
        ("LIST ALL PERMISSIONS OF r", "List"),
        ("DESCRIBE FULL SCHEMA", "Describe"),
        ("DESC k.t", "Describe"),
        ("GRANT a TO b; DROP ROLE c", "unknown at 14: the end of the statement"),
    ]);
}

#[test]
fn what_is_not_understood_is_a_write() {
    for text in ["", ";", "MERGE t", "SELECT", "\u{feff}SELECT * FROM t", "'SELECT'", "/* SELECT * FROM t"] {
        assert_eq!(parse(text.as_bytes()).class(), Class::Write, "{text}");
    }
    assert_eq!(parse(b"\xff\xfe").class(), Class::Write);
}

#[test]
fn blanks_and_comments_change_nothing() {
    let plain = read("UPDATE k.t SET c = c + ? WHERE p = :v IF EXISTS");
    let odd = "/* x */update\tk -- y\n. t//z\r\nset c/**/=c+?where p=:/**/ v if\nexists ; ";
    assert_eq!(read(odd), plain);
}

#[test]
fn using_clauses_are_found_in_the_text() {
    let text = b"UPDATE t  USING TTL 5 AND TIMESTAMP ?  SET a=1 WHERE k=1";
    let statement = parse(text);
    let using = statement.using().unwrap();
    assert_eq!(using.span.unwrap().of(text), b"USING TTL 5 AND TIMESTAMP ?");
    assert_eq!(using.ttl.as_ref().unwrap().span.of(text), b"5");
    assert_eq!(using.timestamp.as_ref().unwrap().marker(), Some(0));
}

#[test]
fn markers_and_calls_are_numbered_as_they_appear() {
    let text = b"UPDATE t USING TTL ? SET a=f(g(:x), ?), b={?:now()} WHERE (k)=(:x) AND c IN ? IF d=? ";
    let statement = parse(text);
    let names: Vec<Option<&str>> = statement.markers.iter().map(|marker| marker.name.as_deref()).collect();
    assert_eq!(names, [None, Some("x"), None, None, Some("x"), None, None]);
    let calls: Vec<&[u8]> = statement.calls.iter().map(|call| call.span.of(text)).collect();
    assert_eq!(calls, [&b"f(g(:x), ?)"[..], b"g(:x)", b"now()"]);
    assert_eq!(parse(b"SELECT JSON ? FROM t").markers.len(), 1);
    assert_eq!(parse(b"SELECT JSON - ? FROM t").markers.len(), 1);
}

#[test]
fn deep_nesting_is_refused_instead_of_overflowing() {
    for open in ["(", "[", "{", "-(", "(int)[", "f(", "{a:", "('x')["] {
        let text = format!("INSERT INTO t (a) VALUES ({}", open.repeat(100_000));
        assert_eq!(parse(text.as_bytes()).class(), Class::Write);
        let text = format!("SELECT {} FROM t", open.repeat(100_000));
        assert_eq!(parse(text.as_bytes()).class(), Class::Write);
    }
    let fields = format!("SELECT a{} FROM t", ".a".repeat(100_000));
    assert!(matches!(parse(fields.as_bytes()).body, Body::Unknown(_)));
    let types = format!("SELECT ({} FROM t", "list<".repeat(100_000));
    assert!(matches!(parse(types.as_bytes()).body, Body::Unknown(_)));
}

/// Words that make near-CQL often enough.
fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        "SELECT INSERT INTO UPDATE DELETE FROM BEGIN BATCH APPLY VALUES SET WHERE AND IF EXISTS NOT USING TTL TIMESTAMP \
         JSON DISTINCT IN token ( ) [ ] { } , ; : ? . .. = + - += < > * a b \"c\" 'x' 1 -1 1.5 now() cast AS int list < \
         null true ALTER TABLE DROP CREATE INDEX ON TRUNCATE USE GRANT LIMIT ORDER BY CONTAINS KEY DEFAULT UNSET"
            .split_whitespace()
            .collect::<Vec<_>>(),
    )
}

proptest! {
    #[test]
    fn any_words_are_read_without_a_panic(words in prop::collection::vec(word(), 0..40)) {
        let text = words.join(" ");
        let _ = read(&text);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&text);
    }

    #[test]
    fn a_cut_statement_is_read_without_a_panic(at in 0usize..400) {
        let text = "BEGIN BATCH USING TIMESTAMP ? INSERT INTO k.t (a, \"b\") VALUES ((int)?, {f: now()}) IF NOT EXISTS; \
                    UPDATE t SET l[?] = 'x', c = c - 1, u.f = $$y$$ WHERE (a, b) IN ((1, 2)) AND token(a) > -1; \
                    DELETE a[1], b.f FROM t WHERE a CONTAINS KEY 0xCA APPLY BATCH";
        let _ = read(&text[..at.min(text.len())]);
    }
}
