//! For each statement of a corpus, the plan in one line.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::super::catalog::{Catalog, Key, Relation};
use super::super::lexer::{Dialect, Tokens};
use super::super::plan::{Action, Asked, Counted, EvidentKey, Meant, Operand};
use super::schema::catalog;
use super::*;
use crate::record::TableId;

/// Names of labels, for people.
struct Describe<'a> {
    text: &'a str,
    tokens: &'a Tokens,
    names: HashMap<TableId, String>,
}

impl Describe<'_> {
    fn script(&self, script: &Script) -> String {
        script.statements.iter().map(|statement| self.action(&statement.action)).collect::<Vec<_>>().join(" | ")
    }

    fn action(&self, action: &Action) -> String {
        match action {
            Action::Evident(evident) => {
                let asks = evident.fallback.as_ref().map_or("", |_| " ?");
                let meant = match &evident.meant {
                    Meant::Tables => String::new(),
                    Meant::Either(tables) => format!(" or not {}", self.labels(tables)),
                    Meant::Others => " others".to_owned(),
                };
                format!("evident {}{}{asks}{meant}", self.keys(&evident.keys), self.counted(evident.counted.as_ref()))
            }
            Action::Asked(asked) => self.asked(asked),
            Action::Counted(counted) => format!("counted{}", self.counted(Some(counted))),
            Action::Fetch(_) => "fetch".to_owned(),
            Action::Cursor(counted) => format!("cursor{}", self.counted(Some(counted))),
            Action::Opaque(counted) => format!("opaque{}", self.counted(Some(counted))),
            Action::Truncate(truncate) => {
                format!("truncate {}{}", self.labels(&truncate.tables), self.counted(truncate.counted.as_ref()))
            }
            Action::CopyIn(copy) => {
                let tables: Vec<_> = copy.tables.iter().map(|table| table.name.as_str()).collect();
                let counted = self.counted(copy.counted.as_ref());
                format!("copy {} {:?} {:?}{counted}", tables.join(","), copy.key_at, copy.format)
            }
            Action::Prepare { name, types, inner } => {
                format!("prepare {name} {types:?}: {}", self.action(&inner.action))
            }
            Action::Execute { name, args } => {
                let args: Vec<_> =
                    args.iter().map(|arg| arg.as_ref().map_or("?".to_owned(), |arg| self.operand(arg))).collect();
                format!("execute {name}({})", args.join(", "))
            }
            Action::Ddl(ddl) => {
                let mut out = format!("ddl {:?} {}", ddl.tag, self.labels(&ddl.tables));
                if !ddl.rewritten.is_empty() {
                    let _ = write!(out, " rewritten={}", self.labels(&ddl.rewritten));
                }
                if !ddl.parted.is_empty() {
                    let _ = write!(out, " parted={}", self.labels(&ddl.parted));
                }
                if let Some((_, name)) = &ddl.fills {
                    let _ = write!(out, " fills={name}");
                }
                out += if ddl.mirrorable { "" } else { " kept" };
                out += if ddl.temporary { " temporary" } else { "" };
                out += if ddl.commits { " commits" } else { "" };
                out + &self.counted(ddl.counted.as_ref())
            }
            Action::PrepareTransaction { gid } => format!("prepare transaction {}", self.token(*gid)),
            Action::FinishPrepared { gid } => format!("finish {}", self.token(*gid)),
            Action::Savepoint(one) => format!("savepoint {:?} {}", one.verb, one.name).to_lowercase(),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn asked(&self, asked: &Asked) -> String {
        let mut out = format!("asked [{}] {}", asked.suffix.trim(), self.labels(&asked.tables));
        for (set, word) in [(asked.moved, " moved"), (asked.rekeys, " rekeys"), (asked.shown, " shown")] {
            out += if set { word } else { "" };
        }
        if !asked.also.is_empty() {
            let _ = write!(out, " also {}", self.keys(&asked.also));
        }
        out + &self.counted(asked.counted.as_ref())
    }

    fn keys(&self, keys: &[EvidentKey]) -> String {
        let each = keys.iter().map(|key| {
            let tables: Vec<_> = key.tables.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect();
            let tables = tables.join(",").replace("public.", "");
            let values: Vec<_> = key.columns.iter().map(|operand| self.operand(operand)).collect();
            format!("{tables}({}){}", values.join(","), if key.moved { "!" } else { "" })
        });
        each.collect::<Vec<_>>().join(" ")
    }

    fn operand(&self, operand: &Operand) -> String {
        let cast = |cast: &u32| if *cast == 0 { String::new() } else { format!("::{cast}") };
        match operand {
            Operand::Literal { token, negative, cast: to } => {
                format!("{}{}{}", if *negative { "-" } else { "" }, self.token(*token), cast(to))
            }
            Operand::Param { index, sole, cast: to } => {
                format!("${}{}{}", index + 1, if *sole { "" } else { "*" }, cast(to))
            }
            Operand::Elements { index, sole, cast: to } => {
                format!("each ${}{}{}", index + 1, if *sole { "" } else { "*" }, cast(to))
            }
            Operand::Bool(value) => value.to_string(),
            Operand::Null => "null".to_owned(),
        }
    }

    fn token(&self, at: usize) -> &str {
        let token = self.tokens.get(at).expect("a token of the text");
        &self.text[token.start as usize..token.end as usize]
    }

    fn labels(&self, ids: &[TableId]) -> String {
        let mut names: Vec<_> = ids.iter().map(|id| self.names.get(id).map_or("?", |name| name.as_str())).collect();
        names.sort_unstable();
        format!("{{{}}}", names.join(","))
    }

    fn counted(&self, counted: Option<&Counted>) -> String {
        counted.map_or(String::new(), |counted| {
            let dirty = if counted.dirty.is_empty() {
                String::new()
            } else {
                format!(" dirty={}", self.labels(&counted.dirty))
            };
            let alone = if counted.alone { " alone" } else { "" };
            format!(" counted<{}>{dirty}{alone}", counted.why)
        })
    }
}

fn plan_on(catalog: &Catalog, text: &str) -> String {
    let mut tokens = Tokens::default();
    tokens.lex(text.as_bytes(), Dialect::default());
    let script = analyze(text.as_bytes(), &tokens, catalog);
    let names = catalog.relations.values().map(|relation| (relation.id, relation.name.clone())).collect();
    Describe { text, tokens: &tokens, names }.script(&script)
}

fn check(catalog: &Catalog, corpus: &str) {
    let mut wrong = String::new();
    for entry in corpus.split("\n\n").map(str::trim).filter(|entry| !entry.is_empty()) {
        let (text, expected) = entry.rsplit_once("\n=> ").unwrap_or((entry, "(nothing)"));
        let plan = plan_on(catalog, text.trim());
        if plan != expected.trim() {
            let _ = write!(wrong, "{text}\n=> {plan}\n\n");
        }
    }
    assert!(wrong.is_empty(), "plans that differ from the corpus, as they are:\n\n{wrong}");
}

#[test]
fn every_statement_of_the_corpus_has_its_plan() {
    check(&catalog(), include_str!("corpus.txt"));
}

#[test]
fn a_server_of_18_is_asked_for_old_and_new_keys() {
    let catalog = Catalog { version: 180_000, ..catalog() };
    check(&catalog, include_str!("corpus_18.txt"));
}

#[test]
fn event_triggers_are_counted_behind_every_schema_change_that_they_fire_for() {
    let event_triggers = [("noted", "ddl_command_end"), ("seen", "login")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let mut watched = Catalog { event_triggers: event_triggers.into(), ..catalog() };
    let counted = "counted<event trigger noted>";
    for text in [
        "alter table acc add column x int",
        "drop table acc",
        "comment on table acc is 'x'",
        "grant select on acc to public",
        "create table fresh (id int primary key)",
        "create table fresh as select 1",
        "select 1 as one into fresh",
        "create temp table mine (id int)",
        "create temp view mine as select 1",
        "drop table pg_temp.mine",
        "create index concurrently on acc (bal)",
        "refresh materialized view v",
    ] {
        let plan = plan_on(&watched, text);
        assert!(plan.starts_with("ddl") && plan.ends_with(counted), "{text}: {plan}");
    }
    for text in ["create role r", "create event trigger e on sql_drop execute function f()", "create database d"] {
        let plan = plan_on(&watched, text);
        assert!(plan.starts_with("ddl") && !plan.contains("counted"), "{text}: {plan}");
    }
    assert_eq!(plan_on(&watched, "insert into acc (id) values (1)"), "evident acc(1) ?");
    assert_eq!(plan_on(&watched, "reindex table acc"), "commits");
    watched.version = 170_000;
    assert_eq!(plan_on(&watched, "reindex table acc"), "opaque counted<REINDEX>");
    watched.event_triggers.remove("noted");
    for unwatched in [&watched, &catalog()] {
        let plan = plan_on(unwatched, "alter table acc add column x int");
        assert!(!plan.contains("counted"), "{plan}");
    }
    let made = "create event trigger e on ddl_command_end execute function f(); alter table acc add column x int";
    let plan = plan_on(&catalog(), made);
    assert!(plan.ends_with("counted<an event trigger of the same transaction>"), "{plan}");
}

#[test]
fn depth_does_not_end_the_process() {
    let catalog = catalog();
    for (open, middle, close, count) in [
        ("1+", "1", "", 50_000),
        ("(", "1", ")", 50_000),
        ("not ", "true", "", 50_000),
        ("-", "1", "", 9_000),
        ("(select ", "1", ")", 5_000),
        ("case when true then ", "1", " end", 5_000),
        ("'a'||", "'b'", "", 4_000),
    ] {
        let text = format!("select {}{middle}{}", open.repeat(count), close.repeat(count));
        let plan = plan_on(&catalog, &text);
        assert!(plan.starts_with("pass") || plan.starts_with("opaque"), "{open}: {plan}");
    }
}

#[test]
fn a_statement_is_understood_however_deep_its_tree_is() {
    let catalog = catalog();
    let joins: String = (1..100).map(|at| format!(" join acc a{at} on a{at}.id = a.id")).collect();
    for text in [
        format!("select {}1 from acc", "bal+".repeat(60)),
        format!("select {}1 from acc", "bal+".repeat(400)),
        ["select id from acc"; 200].join(" union all "),
        format!("select {}1{}", "(select ".repeat(100), ")".repeat(100)),
        format!("select 1 from acc a{joins}"),
    ] {
        assert_eq!(plan_on(&catalog, &text), "pass", "{} bytes: {}", text.len(), &text[..40]);
    }
    let update = format!("update acc set note = {}'x' where id = 1", "note||".repeat(60));
    assert_eq!(plan_on(&catalog, &update), plan_on(&catalog, "update acc set note = note||'x' where id = 1"));
    assert!(plan_on(&catalog, &update).starts_with("evident acc(1)"), "{}", plan_on(&catalog, &update));
}

fn change(catalog: &mut Catalog, oid: u32, change: impl FnOnce(&mut Relation)) {
    change(Arc::make_mut(catalog.relations.get_mut(&oid).expect("a table of the schema")));
}

#[test]
fn a_key_that_is_generated_follows_every_other_column() {
    let mut catalog = catalog();
    change(&mut catalog, 1, |acc| acc.columns[0].generated = true);
    let asked = "asked [RETURNING \"acc\".tableoid::pg_catalog.text, \"acc\".\"id\"::pg_catalog.text] {acc} moved";
    assert_eq!(plan_on(&catalog, "update acc set note = 'x' where id = 1"), format!("{asked} also acc(1)!"));
    for unknown in [
        "update acc set note = 'x'",
        "insert into acc (note) values ('x') on conflict (id) do update set note = 'y'",
        "merge into acc using pair on acc.id = pair.a when matched then update set note = 'x'",
    ] {
        let catalog = Catalog { version: 170_000, ..catalog.clone() };
        assert!(plan_on(&catalog, unknown).ends_with("dirty={acc}"), "{unknown}: {}", plan_on(&catalog, unknown));
    }
    catalog.version = 180_000;
    let merge = "merge into acc using pair on acc.id = pair.a when matched then update set note = 'x'";
    assert!(plan_on(&catalog, merge).ends_with("moved rekeys"), "{}", plan_on(&catalog, merge));
}

#[test]
fn rows_that_refer_to_a_generated_column_are_looked_at() {
    let mut catalog = catalog();
    change(&mut catalog, 1, |acc| acc.columns[1].generated = true);
    Arc::make_mut(&mut catalog.foreign_keys[0]).parent_columns = vec![1];
    assert_eq!(plan_on(&catalog, "update acc set note = 'x' where id = 1"), "evident acc(1)! ?");
}

#[test]
fn a_merge_that_may_move_a_row_to_another_partition_asks_for_both_keys() {
    let merge = "merge into part using pair on part.id = pair.a when matched then update set v = 'x'";
    for (version, plan) in [(170_000, "dirty={part_1,part_2} alone"), (180_000, "moved rekeys")] {
        let mut catalog = Catalog { version, ..catalog() };
        change(&mut catalog, 10, |root| root.key = None);
        assert!(plan_on(&catalog, merge).ends_with(plan), "{}", plan_on(&catalog, merge));
    }
}

/// PostgreSQL deletes it in its leaf and inserts it into the other one.
#[test]
fn a_row_that_goes_to_another_partition_may_get_a_key_from_a_trigger_there() {
    let moves = "update part set day = 3 where id = 1 and day = 2";
    let new = "asked [RETURNING \"part\".tableoid::pg_catalog.text, \"part\".\"id\"::pg_catalog.text, \
               \"part\".\"day\"::pg_catalog.text] {part_1,part_2} moved also part_1,part_2(1,2)!";
    for (version, plan) in [(150_000, new), (180_000, "moved rekeys")] {
        let mut catalog = Catalog { version, ..catalog() };
        for leaf in [11, 12] {
            change(&mut catalog, leaf, |leaf| leaf.hazards.before_insert = true);
        }
        assert!(plan_on(&catalog, moves).ends_with(plan), "{}", plan_on(&catalog, moves));
        let stays = "update part set v = 'x' where id = 1 and day = 2";
        assert_eq!(plan_on(&catalog, stays), "evident part_1,part_2(1,2) ?");
    }
    // Its leaves have keys without the column that says where a row is.
    let mut catalog = catalog();
    change(&mut catalog, 10, |root| root.key = None);
    for (leaf, id) in [(11, 0), (12, 1)] {
        change(&mut catalog, leaf, |leaf| leaf.key = Some(Key::new("leaf_pkey".to_owned(), vec![id], &leaf.columns)));
    }
    let moves = "update part set day = 3 where id = 1";
    assert_eq!(plan_on(&catalog, moves), "evident part_1,part_2(1)!");
    change(&mut catalog, 12, |leaf| leaf.hazards.before_insert = true);
    assert!(plan_on(&catalog, moves).contains("asked"), "{}", plan_on(&catalog, moves));
}

#[test]
fn a_key_that_each_session_writes_in_another_way_is_not_asked_for() {
    let mut catalog = catalog();
    // An array of dates.
    let key = |acc: &mut Relation, base: u32, varies: bool| {
        (acc.columns[0].base_oid, acc.columns[0].text_varies) = (base, varies);
    };
    change(&mut catalog, 1, |acc| key(acc, 1182, true));
    let update = "update acc set note = 'x' where bal = 1";
    let dirty = "counted counted<keys that cannot be asked for on public.acc> dirty={acc} alone";
    assert_eq!(plan_on(&catalog, update), dirty);
    change(&mut catalog, 1, |acc| key(acc, 1007, false));
    assert!(plan_on(&catalog, update).contains("convert_to(\"acc\".\"id\"::pg_catalog.text, 'UTF8')"));
    // The server sends a range of dates as bytes, and an enum's label without a cast that may be the user's.
    change(&mut catalog, 1, |acc| key(acc, 3912, true));
    assert!(plan_on(&catalog, update).contains("pg_catalog.range_send(\"acc\".\"id\")"));
    change(&mut catalog, 1, |acc| {
        key(acc, 16_500, false);
        acc.columns[0].typtype = b'e';
    });
    assert!(plan_on(&catalog, update).contains("textin(pg_catalog.enum_out(\"acc\".\"id\"))"));
}

/// Its partitions bear neither, and what a statement that names the root meets is the root's.
#[test]
fn a_partitioned_table_with_policies_or_rules_is_not_asked() {
    for (secured, why) in [(true, "row security on public.part"), (false, "rules on public.part")] {
        let mut catalog = Catalog { version: 180_000, ..catalog() };
        change(&mut catalog, 10, |root| {
            (root.hazards.row_security, root.hazards.rules) = (secured, !secured);
        });
        for text in ["update part set v = 'x'", "delete from part where v = 'x'", "insert into part (v) values ('x')"] {
            let plan = plan_on(&catalog, text);
            let counted = if secured { why } else { "rule on public.part" };
            assert!(plan.starts_with(&format!("counted counted<{counted}> dirty={{part_1,part_2}}")), "{plan}");
        }
        let merge = "merge into part using pair on part.id = pair.a when matched then delete";
        assert!(plan_on(&catalog, merge).contains(" dirty={part_1,part_2}"), "{}", plan_on(&catalog, merge));
        let named = "update part set v = 'x' where id = 1 and day = 2";
        assert!(plan_on(&catalog, named).starts_with("evident part_1,part_2(1,2)"), "{}", plan_on(&catalog, named));
        assert!(!plan_on(&catalog, named).contains('?'), "it has no question to fall back on");
    }
}

#[test]
fn rows_of_a_write_are_its_own_where_its_name_means_its_table() {
    let insert = "insert into acc (id) values (1)";
    let mut catalog = catalog();
    assert_eq!(plan_on(&catalog, insert), "evident acc(1) ?");
    change(&mut catalog, 31, |view| (view.schema, view.name) = ("api".to_owned(), "acc".to_owned()));
    catalog.by_name.entry("acc".to_owned()).or_default().push(31);
    assert_eq!(plan_on(&catalog, insert), "evident acc(1) counted<view api.acc> or not {acc}");
    assert_eq!(plan_on(&catalog, "insert into public.acc (id) values (1)"), "evident acc(1) ?");
    let with = format!("with w as ({insert}) insert into pair values (1, 'x', 2)");
    assert!(plan_on(&catalog, &with).ends_with(" others"), "{}", plan_on(&catalog, &with));
    change(&mut catalog, 6, |ruled| ruled.hazards.instead_of = true);
    assert!(plan_on(&catalog, "insert into ruled values (1, 2)").ends_with(" others"));
}

/// A view may bear the name of a table, and has no `tableoid`.
#[test]
fn a_merge_into_what_may_be_a_view_is_not_asked() {
    let mut catalog = Catalog { version: 180_000, ..catalog() };
    catalog.by_name.entry("acc".to_owned()).or_default().push(31);
    change(&mut catalog, 31, |view| (view.schema, view.name) = ("api".to_owned(), "acc".to_owned()));
    for name in ["acc", "public.acc"] {
        let merge = format!("merge into {name} t using pair on t.id = pair.a when matched then update set note = 'x'");
        let plan = plan_on(&catalog, &merge);
        assert_eq!(plan.starts_with("asked"), name == "public.acc", "{plan}");
    }
}

#[test]
fn what_refers_to_a_partitioned_table_is_emptied_with_its_partitions() {
    let mut catalog = catalog();
    Arc::make_mut(&mut catalog.foreign_keys[0]).parent = 10;
    assert_eq!(plan_on(&catalog, "truncate part_1 cascade"), "truncate {part_1,ref}");
    assert_eq!(plan_on(&catalog, "truncate part_1"), "truncate {part_1}");
}

#[test]
fn a_unique_index_by_another_collation_may_conflict_with_another_key() {
    let mut catalog = catalog();
    let upsert = "insert into acc (id, bal) values (1, 2) on conflict (id) do update set bal = 3";
    assert_eq!(plan_on(&catalog, upsert), "evident acc(1) ?");
    change(&mut catalog, 1, |acc| acc.hazards.loose = true);
    assert!(plan_on(&catalog, upsert).starts_with("asked"), "{}", plan_on(&catalog, upsert));
    assert_eq!(plan_on(&catalog, "insert into acc (id) values (1) on conflict do nothing"), "evident acc(1) ?");
}

#[test]
fn what_refers_to_a_partitioned_table_is_looked_at_with_its_partitions() {
    let mut catalog = Catalog { version: 170_000, ..catalog() };
    let reference = Arc::make_mut(&mut catalog.foreign_keys[0]);
    (reference.parent, reference.parent_columns) = (10, vec![2]);
    for table in ["part", "part_1"] {
        let plan = plan_on(&catalog, &format!("update {table} set v = 'x' where id = 1 and day = 2"));
        assert!(plan.contains("(1,2)!"), "{plan}");
        let merge = format!("merge into {table} t using pair on t.id = pair.a when matched then update set v = 'x'");
        let plan = plan_on(&catalog, &merge);
        assert!(plan.ends_with(" moved"), "{plan}");
    }
    let plan = plan_on(&catalog, "update part_1 set v = 'x' where id = 1 and day = 2");
    assert_eq!(plan, "evident part_1(1,2)! ?");
}

#[test]
fn a_text_full_of_parameters_is_read_once() {
    use std::fmt::Write as _;
    let mut text = String::from("insert into acc (id, bal) values ($1, $2)");
    for row in 1..32_767 {
        let _ = write!(text, ", (${}, ${})", row * 2 + 1, row * 2 + 2);
    }
    text += "; delete from acc where id = $1";
    let mut tokens = Tokens::default();
    tokens.lex(text.as_bytes(), Dialect::default());
    let script = analyze(text.as_bytes(), &tokens, &catalog());
    let [Action::Evident(rows), Action::Evident(gone)] = [0, 1].map(|at| &script.statements[at].action) else {
        panic!("both are evident");
    };
    let sole = |key: &EvidentKey| matches!(key.columns[0], Operand::Param { sole: true, .. });
    assert!(rows.keys.len() == 32_767 && rows.keys.iter().all(sole) && gone.keys.iter().all(sole));
}

#[test]
fn a_list_that_is_too_long_pins_nothing() {
    let list = vec!["1"; 5000].join(", ");
    for long in [format!("a in ({list})"), format!("a = any(array[{list}])")] {
        let pinned = plan_on(&catalog(), &format!("delete from pair where {long} and (a, b) = (1, 'x')"));
        assert_eq!(pinned, "evident pair(1,'x')! ?");
        let open = plan_on(&catalog(), &format!("delete from pair where {long} and b = 'x'"));
        assert!(open.starts_with("asked"), "{open}");
    }
}

/// The same text with other literals of the same kinds.
fn other_literals(text: &str, tokens: &Tokens) -> String {
    let mut out = String::new();
    let mut end = 0;
    for token in tokens.list() {
        let (start, stop) = (token.start as usize, token.end as usize);
        out += &text[end..start];
        out += match token.kind {
            Kind::Int => "42",
            Kind::Float => "4.25",
            Kind::String => "'other ''text'''",
            Kind::Dollar => "$q$other$q$",
            _ => &text[start..stop],
        };
        end = stop;
    }
    out + &text[end..]
}

#[test]
fn texts_of_one_shape_have_one_plan() {
    let catalog = catalog();
    let entries = include_str!("corpus.txt").split("\n\n").filter_map(|entry| entry.rsplit_once("\n=> "));
    let (mut tokens, mut again) = (Tokens::default(), Tokens::default());
    for (text, _) in entries {
        tokens.lex(text.as_bytes(), Dialect::default());
        let script = analyze(text.as_bytes(), &tokens, &catalog);
        if script.exact {
            continue;
        }
        let other = other_literals(text, &tokens);
        again.lex(other.as_bytes(), Dialect::default());
        assert_eq!(tokens.shape(), again.shape(), "{text}");
        let other_script = analyze(other.as_bytes(), &again, &catalog);
        assert_eq!(format!("{script:?}"), format!("{other_script:?}"), "{text}\n{other}");
    }
}

#[test]
fn what_a_schema_change_finds_by_a_bare_name_is_known() {
    let catalog = catalog();
    for (sql, bare, has_qualified) in [
        ("drop table a, \"B\", s.c", &["a", "B"][..], true),
        ("drop trigger t on a", &["a"], false),
        ("drop function f(int)", &[], false),
        ("alter table a add column b int", &["a"], false),
        ("alter table s.p attach partition a for values in (1)", &["a"], true),
        ("alter table a rename b to c", &["a"], false),
        ("alter table a set schema s", &["a"], false),
        ("alter schema a rename to b", &[], false),
        ("create index on a (b)", &["a"], false),
        ("create trigger t after insert on a for each row execute function f()", &["a"], false),
        ("comment on column a.b is 'c'", &["a"], false),
        ("comment on table s.a is 'c'", &[], true),
        ("grant select on a, s.b to c", &["a"], true),
        ("create table a (b int)", &[], false),
    ] {
        let mut tokens = Tokens::default();
        tokens.lex(sql.as_bytes(), Dialect::default());
        let script = analyze(sql.as_bytes(), &tokens, &catalog);
        let Some(Action::Ddl(ddl)) = script.statements.first().map(|statement| &statement.action) else {
            panic!("{sql} is a schema change");
        };
        assert_eq!(
            (&ddl.bare[..], ddl.has_qualified),
            (&bare.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..], has_qualified),
            "{sql}"
        );
    }
}

proptest::proptest! {
    /// The fuzz target of the same name, on texts that look like SQL.
    #[test]
    fn any_text_gets_a_plan_within_its_tokens(picks in proptest::collection::vec(0..WORDS.len(), 0..25), raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
        let catalog = catalog();
        let mut text = picks.iter().map(|&at| WORDS[at]).collect::<Vec<_>>().join(" ").into_bytes();
        for dialect in [Dialect::default(), Dialect { encoding: super::super::lexer::Encoding::Safe, standard_strings: false }] {
            let mut tokens = Tokens::default();
            tokens.lex(&text, dialect);
            let script = analyze(&text, &tokens, &catalog);
            proptest::prop_assert!(script.statements.iter().all(|statement| statement.tokens.end <= tokens.list().len()));
            text.extend_from_slice(&raw);
        }
    }
}

const WORDS: &[&str] = &[
    "select",
    "insert into",
    "update",
    "delete from",
    "acc",
    "part",
    "set",
    "where",
    "id",
    "=",
    "1",
    "'x'",
    "$1",
    "(",
    ")",
    ",",
    "values",
    "returning",
    "*",
    "with w as (",
    "on conflict",
    "do nothing",
    "do update set",
    "from",
    "and",
    "in",
    "copy",
    "stdin",
    "truncate",
    "drop table",
    "begin",
    ";",
    "-",
    "::int",
    "prepare p as",
    "execute p",
    "as",
    "null",
    "merge into",
    "using",
    "on",
    "when matched then",
    "alter table",
    "add column",
    "explain analyze",
    "\"q\"",
    "pair",
    "any",
    "array[]",
    "(a,b)",
    "(1,'x')",
    "a",
    "é",
];
