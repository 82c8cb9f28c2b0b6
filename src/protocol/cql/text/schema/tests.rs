//! Statements and a table: what is written, and how it is mirrored.

use super::super::parse::parse;
use super::*;

fn table(columns: &[(&str, &str, &str)]) -> Table {
    let mut positions = [0, 0];
    let described = columns.iter().map(|(name, kind, cql_type)| {
        let counted = match *kind {
            "partition_key" => Some(&mut positions[0]),
            "clustering" => Some(&mut positions[1]),
            _ => None,
        };
        let position = counted.map_or(-1, |next| std::mem::replace(next, *next + 1));
        Column::described(name, kind, position, cql_type)
    });
    Table::new("ks", "t", described.collect())
}

fn wide() -> Table {
    table(&[
        ("p", "partition_key", "int"),
        ("q", "partition_key", "text"),
        ("c", "clustering", "int"),
        ("d", "clustering", "int"),
        ("s", "static", "text"),
        ("sl", "static", "list<int>"),
        ("v", "regular", "text"),
        ("l", "regular", "list<text>"),
        ("fl", "regular", "frozen<list<text>>"),
        ("m", "regular", "map<text, int>"),
        ("u", "regular", "address"),
    ])
}

fn narrow() -> Table {
    table(&[("k", "partition_key", "int"), ("v", "regular", "text")])
}

fn counting() -> Table {
    table(&[("k", "partition_key", "int"), ("n", "regular", "counter")])
}

/// The effect in one line.
fn effect(text: &str, table: &Table) -> String {
    let statement = parse(text.as_bytes());
    let [modification] = statement.modifications() else { panic!("{text}: {:?}", statement.body) };
    let effect = Effect::of(modification, table);
    let source = |value: &Expr| match value.source() {
        Source::Marker(number) => format!("?{number}"),
        Source::Literal(_, span) => String::from_utf8_lossy(span.of(text.as_bytes())).into_owned(),
        Source::Null => "null".into(),
        Source::Computed(_) => "computed".into(),
    };
    let given = |given: &Given<'_>| match given {
        Given::One(value) => source(value),
        Given::AnyOf(values) => format!("any({})", values.iter().map(source).collect::<Vec<_>>().join(" ")),
        Given::AnyOfList(value) => format!("any({}...)", source(value)),
        Given::PartOf(value, part) => format!("{}.{part}", source(value)),
        Given::Several => "several".into(),
        Given::InDocument => "json".into(),
        Given::Open => "open".into(),
    };
    let all = |columns: &[Given<'_>]| columns.iter().map(given).collect::<Vec<_>>().join(",");
    let mut out =
        format!("[{}|{}] {:?} {:?}", all(&effect.key), all(&effect.clustering), effect.extent, effect.mirroring());
    out.extend(effect.is_pinned().then_some(" pinned"));
    out.extend(effect.statics.then_some(" statics"));
    out.extend(effect.conditional.then_some(" conditional"));
    out
}

#[test]
fn the_key_of_a_write_is_found() {
    for (text, expected) in [
        ("INSERT INTO t (p,q,c,d,v) VALUES (?, 'x', (int)?, 4, ?)", "[?0,'x'|?1,4] Cells Replay pinned"),
        ("INSERT INTO t (q,p,s) VALUES (now(), null, 'x')", "[null,computed|open,open] Statics Replay pinned statics"),
        ("INSERT INTO t (p,c,d) VALUES (1, 2, 3)", "[1,open|2,3] Cells Replay"),
        ("UPDATE t SET v=? WHERE p=? AND q=:q AND c=1 AND d=2", "[?1,?2|1,2] Cells Replay pinned"),
        (
            "UPDATE t SET v=? WHERE p IN (?, 5) AND q IN ? AND c=1 AND d IN (1,2)",
            "[any(?1 5),any(?2...)|1,any(1 2)] Cells Replay",
        ),
        ("UPDATE t SET s='x' WHERE p=1 AND q='a'", "[1,'a'|open,open] Statics Replay pinned statics"),
        ("UPDATE t SET v='x' WHERE p=1 AND q='a' AND (c,d)=(?,2)", "[1,'a'|?0,2] Cells Replay pinned"),
        ("UPDATE t SET v='x' WHERE p=1 AND q='a' AND (c,d)=?", "[1,'a'|?0.0,?0.1] Cells Replay pinned"),
        ("UPDATE t SET v='x' WHERE p=1 AND q='a' AND (c,d) IN ((1,2))", "[1,'a'|several,several] Cells Replay pinned"),
        (
            "UPDATE t SET z='x' WHERE p=1 AND q='a' AND c=1 AND d=1 IF EXISTS",
            "[1,'a'|1,1] Cells Replay pinned conditional",
        ),
    ] {
        assert_eq!(effect(text, &wide()), expected, "{text}");
    }
}

#[test]
fn deletes_reach_partitions_ranges_rows_or_cells() {
    for (text, extent) in [
        ("DELETE FROM t WHERE p=1 AND q=''", Extent::Partition),
        ("DELETE FROM t WHERE p=1 AND q='' AND c=1", Extent::Range),
        ("DELETE FROM t WHERE p=1 AND q='' AND c>1", Extent::Range),
        ("DELETE FROM t WHERE p=1 AND q='' AND (c,d)>(1,2)", Extent::Range),
        ("DELETE FROM t WHERE p=1 AND q='' AND c=1 AND d<1", Extent::Range),
        ("DELETE FROM t WHERE p=1 AND q='' AND c IN (1,2) AND d=2", Extent::Rows),
        ("DELETE FROM t WHERE p=1 AND q='' AND (c,d) IN ((1,2))", Extent::Rows),
        ("DELETE v FROM t WHERE p=1 AND q='' AND c=1 AND d=2", Extent::Cells),
        ("DELETE s FROM t WHERE p=1 AND q=''", Extent::Statics),
    ] {
        let statement = parse(text.as_bytes());
        assert_eq!(Effect::of(&statement.modifications()[0], &wide()).extent, extent, "{text}");
    }
    let statement = parse(b"DELETE FROM t WHERE k=1");
    assert_eq!(Effect::of(&statement.modifications()[0], &narrow()).extent, Extent::Partition);
}

#[test]
fn lists_decide_how_a_write_is_mirrored() {
    use Mirroring::*;
    for (assignment, mirroring) in [
        ("l=?", ReplayRising),
        ("l=['a']", ReplayRising),
        ("l=null", Replay),
        ("l=[]", Replay),
        ("l=l+?", ListState),
        ("l=?+l", ListState),
        ("l=l-?", ListState),
        ("l+=['a']", ListState),
        ("l[0]=?", ListState),
        ("v='x',l[0]=?", ListState),
        ("sl=sl+[1]", ListState),
        ("fl=?", Replay),
        ("m=m+{'a':1}", Replay),
        ("m['a']=?", Replay),
        ("u.street=?", Replay),
    ] {
        let text = format!("UPDATE t SET {assignment} WHERE p=1 AND q='' AND c=1 AND d=1");
        let statement = parse(text.as_bytes());
        assert_eq!(Effect::of(&statement.modifications()[0], &wide()).mirroring(), mirroring, "{text}");
    }
    for (text, mirroring) in [
        ("DELETE l FROM t WHERE p=1 AND q='' AND c=1 AND d=1", Replay),
        ("DELETE l[0] FROM t WHERE p=1 AND q='' AND c=1 AND d=1", ListState),
        ("INSERT INTO t (p,q,c,d,l) VALUES (1,'',1,1,?)", ReplayRising),
        ("INSERT INTO t JSON ?", ReplayRising),
    ] {
        let statement = parse(text.as_bytes());
        assert_eq!(Effect::of(&statement.modifications()[0], &wide()).mirroring(), mirroring, "{text}");
    }
}

#[test]
fn counters_are_mirrored_by_state_whatever_is_done_to_them() {
    for text in ["UPDATE t SET n=n+1 WHERE k=1", "UPDATE t SET n=n-1 WHERE k=1", "DELETE FROM t WHERE k=1"] {
        let statement = parse(text.as_bytes());
        let table = counting();
        assert_eq!(Effect::of(&statement.modifications()[0], &table).mirroring(), Mirroring::CounterState, "{text}");
    }
}

#[test]
fn json_inserts_take_their_key_from_the_document() {
    assert_eq!(effect("INSERT INTO t JSON ?", &narrow()), "[json|] Cells Replay pinned");
}

#[test]
fn types_say_what_a_column_is_made_of() {
    for (cql_type, cells) in [
        ("text", Cells::One),
        ("timestamp", Cells::One),
        ("frozen<list<int>>", Cells::One),
        ("tuple<int, list<int>>", Cells::One),
        ("vector<float, 3>", Cells::One),
        ("'org.apache.cassandra.db.marshal.DynamicCompositeType'", Cells::One),
        ("list<frozen<map<int, int>>>", Cells::List),
        ("set<int>", Cells::Elements),
        ("map<text, int>", Cells::Elements),
        ("\"Address\"", Cells::Elements),
        ("counter", Cells::Counter),
    ] {
        assert_eq!(Cells::of(cql_type), cells, "{cql_type}");
    }
}

#[test]
fn markers_of_the_partition_key_are_listed_in_its_order() {
    for (text, expected) in [
        ("INSERT INTO t (v,q,p,c,d) VALUES (?,?,?,?,?)", vec![2, 1]),
        ("INSERT INTO t (q,p,c,d) VALUES (?,1,?,?)", vec![]),
        ("SELECT * FROM t WHERE q=? AND p=?", vec![1, 0]),
        ("UPDATE t USING TTL ? SET v=? WHERE p=? AND q=? AND c=? AND d=?", vec![2, 3]),
        ("SELECT * FROM t WHERE q=? AND p IN ?", vec![]),
        ("SELECT * FROM t WHERE q=? AND p=(int)?", vec![1, 0]),
        ("SELECT * FROM t WHERE q=? AND p=-?", vec![]),
        ("DELETE FROM t WHERE q IN (?,?) AND p IN (?)", vec![2, 1]),
        ("BEGIN BATCH DELETE FROM t WHERE p=? AND q=?; DELETE FROM ks.t WHERE p=? AND q=? APPLY BATCH", vec![2, 3]),
        ("BEGIN BATCH DELETE FROM t WHERE p=? AND q=?; DELETE FROM u WHERE p=? AND q=? APPLY BATCH", vec![]),
    ] {
        assert_eq!(pk_indexes(&parse(text.as_bytes()), &wide()), expected, "{text}");
    }
}
