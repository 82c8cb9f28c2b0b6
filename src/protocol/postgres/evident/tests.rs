use super::super::analysis::analyze;
use super::super::analysis::schema::catalog;
use super::super::lexer::Dialect;
use super::super::plan::{Action, Script};
use super::*;
use crate::record::{Backend, Item, Record};

/// Parameters as a client binds them.
struct Bound<'a>(&'a [(u32, bool, Option<&'a [u8]>)]);

impl Params for Bound<'_> {
    fn get(&self, index: u16) -> Option<Param<'_>> {
        let (declared, binary, value) = *self.0.get(usize::from(index))?;
        Some(Param { declared, binary, value })
    }
}

fn planned(text: &str) -> (Tokens, Script) {
    let mut tokens = Tokens::default();
    tokens.lex(text.as_bytes(), Dialect::default());
    let script = analyze(text.as_bytes(), &tokens, &catalog());
    (tokens, script)
}

fn keys_of(mut record: RecordBuf) -> Vec<Vec<u8>> {
    let bytes = bytes::Bytes::copy_from_slice(record.finish(Backend { id: 1, life: 1 }));
    let record = Record::parse(bytes).expect("just built");
    let items: Vec<_> = record.items().collect();
    items
        .into_iter()
        .map(|item| match item {
            Item::Key { key, .. } => key::columns(key).collect::<Vec<_>>().concat(),
            other => panic!("not a key: {other:?}"),
        })
        .collect()
}

fn keys(text: &str, params: &impl Params) -> Result<Vec<Vec<u8>>, NotEvident> {
    let (tokens, script) = planned(text);
    let Action::Evident(evident) = &script.statements[0].action else { panic!("not evident: {text}") };
    let mut record = RecordBuf::default();
    evident.keys(Source { text: text.as_bytes(), tokens: &tokens, utf8: true }, params, &mut record)?;
    Ok(if record.is_empty() { Vec::new() } else { keys_of(record) })
}

fn four(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

#[test]
fn literals_become_the_stored_key() {
    for (value, expected) in [
        ("5", Ok(vec![four(5)])),
        ("-5", Ok(vec![four(-5)])),
        ("'007'", Ok(vec![four(7)])),
        ("E' 7\\n'", Ok(vec![four(7)])),
        ("$$7$$", Ok(vec![four(7)])),
        ("'1' \n '2'", Ok(vec![four(12)])),
        ("7::bigint", Ok(vec![four(7)])),
        ("'7'::int4", Ok(vec![four(7)])),
        ("int '7'", Ok(vec![four(7)])),
        ("null", Ok(vec![])),
        ("7.0", Err(NotEvident)),
        ("3000000000", Err(NotEvident)),
        ("'zz'", Err(NotEvident)),
        ("70000::int2", Err(NotEvident)),
        ("'7'::text", Err(NotEvident)),
        ("true", Err(NotEvident)),
        ("E'\\x37'", Err(NotEvident)),
        ("0x7", Err(NotEvident)),
        ("n'7'", Err(NotEvident)),
        ("b'1'", Err(NotEvident)),
    ] {
        let text = format!("insert into acc (id) values ({value})");
        let (tokens, script) = planned(&text);
        let read = match &script.statements[0].action {
            Action::Evident(_) => keys(&text, &NoParams),
            _ => Err(NotEvident), // Asked from the start.
        };
        assert_eq!(read, expected, "{value}: {tokens:?}");
    }
}

#[test]
fn text_keys_take_strings_only() {
    let key = |value: &str| keys(&format!("delete from pair where a = 1 and b = {value}"), &NoParams);
    let expected = |text: &str| Ok(vec![[&four(1)[..], text.as_bytes()].concat()]);
    assert_eq!(key("'it''s'"), expected("it's"));
    assert_eq!(key("E'a\\\\b\\'c'"), expected("a\\b'c"));
    assert_eq!(key("'ä'"), expected("ä"));
    assert_eq!(key("5"), Err(NotEvident));
    assert_eq!(key("E'\\u0061'"), Err(NotEvident));
}

#[test]
fn parameters_go_by_their_declared_type() {
    let update = "update acc set bal = 1 where id = $1";
    let one = |declared, binary, value: &'static [u8]| keys(update, &Bound(&[(declared, binary, Some(value))]));
    assert_eq!(one(0, false, b"7"), Ok(vec![four(7)]));
    assert_eq!(one(0, true, &[0, 0, 0, 7]), Ok(vec![four(7)]));
    assert_eq!(one(oid::INT8, true, &[0, 0, 0, 0, 0, 0, 0, 7]), Ok(vec![four(7)]));
    assert_eq!(one(oid::INT2, true, &[0, 7]), Ok(vec![four(7)]));
    assert_eq!(one(oid::INT8, true, &[0, 0, 0, 7]), Err(NotEvident));
    assert_eq!(one(oid::INT8, true, &[1, 0, 0, 0, 0, 0, 0, 7]), Err(NotEvident));
    assert_eq!(one(701, true, &[0; 8]), Err(NotEvident), "float8");
    assert_eq!(one(oid::NUMERIC, false, b"7"), Err(NotEvident));
    assert_eq!(keys(update, &Bound(&[(0, false, None)])), Ok(vec![]));
    assert_eq!(keys(update, &NoParams), Err(NotEvident));
}

#[test]
fn an_undeclared_parameter_used_twice_has_a_type_that_nobody_knows() {
    let text = "update acc set note = $1 where id = $1";
    assert_eq!(keys(text, &Bound(&[(0, false, Some(b"7"))])), Err(NotEvident));
    assert_eq!(keys(text, &Bound(&[(oid::INT4, false, Some(b"7"))])), Ok(vec![four(7)]));
}

#[test]
fn execute_takes_its_arguments_for_the_parameters() {
    let prepare = "prepare p(int) as update acc set bal = 1 where id = $1";
    let (inner_tokens, script) = planned(prepare);
    let Action::Prepare { types, inner, .. } = &script.statements[0].action else { panic!("not prepared") };
    let Action::Evident(evident) = &inner.action else { panic!("not evident") };
    for (execute, expected) in [
        ("execute p(7)", Ok(vec![four(7)])),
        ("execute p('007')", Ok(vec![four(7)])),
        ("execute p(1 + 1)", Err(NotEvident)),
        ("execute p(7.5)", Err(NotEvident)),
        ("execute p", Err(NotEvident)),
    ] {
        let (tokens, script) = planned(execute);
        let Action::Execute { args, .. } = &script.statements[0].action else { panic!("not executed") };
        let source = Source { text: execute.as_bytes(), tokens: &tokens, utf8: true };
        let mut record = RecordBuf::default();
        let read = evident.keys_executed(
            Source { text: prepare.as_bytes(), tokens: &inner_tokens, utf8: true },
            Arguments { source, args, types },
            &NoParams,
            &mut record,
        );
        assert_eq!(read.map(|()| keys_of(record)), expected, "{execute}");
    }
}

#[test]
fn combinations_of_arrays_are_owed_up_to_a_bound() {
    let array = |count: i32| (1..=count).map(|at| at.to_string()).collect::<Vec<_>>().join(",");
    let owed = |text: &str, (a, b): (i32, i32)| {
        let (a, b) = (format!("{{{}}}", array(a)), format!("{{{}}}", array(b)));
        keys(text, &Bound(&[(1007, false, Some(a.as_bytes())), (1009, false, Some(b.as_bytes()))])).map(|all| all.len())
    };
    let both = "delete from pair where a = any($1) and b = any($2)";
    assert_eq!(owed(both, (200, 300)), Ok(60_000));
    assert_eq!(owed(both, (300, 300)), Err(NotEvident));
    let rows = (1..=1000).map(|at| at.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(owed(&format!("delete from pair where a in ({rows}) and b = any($2)"), (1, 100)), Err(NotEvident));
}
