use super::super::analysis::analyze;
use super::super::analysis::schema::catalog;
use super::super::lexer::{Dialect, Tokens};
use super::super::plan::Action;
use super::*;
use crate::record::{Backend, Item, Record};
use proptest::prelude::*;

fn planned(copy: &str) -> CopyIn {
    let mut tokens = Tokens::default();
    tokens.lex(copy.as_bytes(), Dialect::default());
    let script = analyze(copy.as_bytes(), &tokens, &catalog());
    match script.statements.into_iter().next().map(|statement| statement.action) {
        Some(Action::CopyIn(copy)) => copy,
        other => panic!("not a COPY FROM STDIN: {other:?}"),
    }
}

/// The key columns of every row, joined; integers in decimal.
fn keys(copy: &str, data: &[u8], chunk: usize) -> Result<Vec<String>, NotEvident> {
    let mut stream = Reader::new(&planned(copy), Encoding::Utf8).expect("followed");
    let mut all = Vec::new();
    let mut emit = |key: &mut [u8]| {
        let columns = key::columns(key).map(|value| match <[u8; 4]>::try_from(value) {
            Ok(bytes) if bytes[0] == 0 => i32::from_be_bytes(bytes).to_string(),
            _ => String::from_utf8_lossy(value).into_owned(),
        });
        all.push(columns.collect::<Vec<_>>().join("/"));
    };
    for part in data.chunks(chunk.max(1)) {
        stream.feed(part, &mut emit)?;
    }
    stream.finish(&mut emit)?;
    Ok(all)
}

/// The same keys wherever the stream is cut.
fn check(copy: &str, data: &[u8], expected: &[&str]) {
    for chunk in 1..=data.len() {
        assert_eq!(keys(copy, data, chunk).as_deref(), Ok(expected.map_owned().as_slice()), "chunks of {chunk}");
    }
}

trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for [&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

#[test]
fn text_rows_give_their_keys() {
    let copy = "copy pair from stdin";
    check(copy, b"1\tx\t5\n2\ty\t6\n", &["1/x", "2/y"]);
    check(copy, b"1\tx\t5\r\n2\ty\t6\r\n", &["1/x", "2/y"]);
    check(copy, b"1\tx\t5\r2\ty\t6", &["1/x", "2/y"]);
    check(copy, b"1\ta\\tb\\nc\\\\d\t5\n", &["1/a\tb\nc\\d"]);
    check(copy, b"1\ta\\\nb\t5\n", &["1/a\nb"]);
    check(copy, b"1\tx\t5\n\\.\n2\ty\t6\n", &["1/x"]);
    check(copy, b"\\N\tx\t5\n1\t\\N\t6\n2\t\t7\n", &["2/"]);
    check("copy pair (v, b, a) from stdin (delimiter '|', header)", b"v|b|a\n5|x|1\n6|y\\|z|2\n", &["1/x", "2/y|z"]);
}

#[test]
fn csv_rows_give_their_keys() {
    let copy = "copy pair from stdin csv";
    check(copy, b"1,x,5\n2,\"y,\"\"z\"\"\",6\n", &["1/x", "2/y,\"z\""]);
    check(copy, b"1,\"a\nb\",5\r\n2,c\"d,\"e,6", &["1/a\nb", "2/cd,e"]);
    check(copy, b"1,,5\n2,\"\",6\n", &["2/"]);
    check("copy pair from stdin csv header escape '\\'", b"a,b,v\n1,\"x\\\"y\\z\",5\n", &["1/x\"y\\z"]);
    check(copy, b"1,x,5\n\\.\n", &["1/x"]);
}

#[test]
fn binary_rows_give_their_keys() {
    let mut data = [SIGNATURE, &[0; 4], &[0, 0, 0, 3], b"ext"].concat();
    data.extend_from_slice(&[0, 3, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff]);
    data.extend_from_slice(&[0, 3, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 9]);
    data.extend_from_slice(&[0xff, 0xff]);
    check("copy pair from stdin binary", &data, &["7/x", "8/"]);
}

#[test]
fn a_value_that_is_not_a_key_ends_the_reading() {
    for data in [&b"zz\tx\t1\n"[..], b"1.0\tx\t1\n", b"1\t\\x41\t1\n", b"1\t\xff\t1\n"] {
        assert_eq!(keys("copy pair from stdin", data, 100), Err(NotEvident), "{data:?}");
    }
    let long = [b"1\t", vec![b'x'; FIELD_MAX + 1].as_slice()].concat();
    assert_eq!(keys("copy pair from stdin", &long, 1000), Err(NotEvident));
}

/// The second byte of a character may be that of a backslash or of a bar: the server reads characters.
#[test]
fn what_a_character_may_hide_makes_its_table_dirty() {
    for (copy, row) in [
        ("copy pair (b, a, v) from stdin", &b"\x95\x5c\t5\t1\n"[..]),
        ("copy pair (b, a, v) from stdin csv delimiter '|'", b"\x83\x7c|5|1\n"),
    ] {
        let mut record = RecordBuf::default();
        let mut stream = CopyStream::new(&planned(copy), Encoding::named("SJIS"));
        stream.feed(b"x", &mut record);
        stream.feed(row, &mut record);
        stream.finish(&mut record);
        let record = Record::parse(record.finish(Backend { id: 0, life: 0 }).to_vec().into()).expect("made above");
        assert!(matches!(record.items().next(), Some(Item::Dirty(_, Reason::Uncaptured))), "{copy}");
        let mut plain = RecordBuf::default();
        CopyStream::new(&planned("copy pair from stdin"), Encoding::named("SJIS")).feed(b"1\tx\t5\n", &mut plain);
        assert_eq!(plain.len(), 1, "ASCII is what it looks like");
    }
}

#[test]
fn what_cannot_be_read_is_dirty_at_the_end_and_keys_before_it_stay() {
    let mut stream = CopyStream::new(&planned("copy pair from stdin"), Encoding::Utf8);
    let mut record = RecordBuf::default();
    stream.feed(b"1\tx\t5\nzz\ty\t6\n3\tz\t7\n", &mut record);
    assert_eq!(record.len(), 1);
    stream.finish(&mut record);
    assert_eq!(record.len(), 2);
    let mut whole = CopyStream::new(&planned("copy pair from stdin"), Encoding::Utf8);
    whole.feed(b"1\tx\t5\n2\ty\t6", &mut record);
    whole.finish(&mut record);
    assert_eq!(record.len(), 4);
}

proptest! {
    #[test]
    fn any_stream_is_read_without_panic_and_alike_in_any_chunks(
        data in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\t'), Just(b'"'), Just(b'\\'), Just(b','), Just(b'1')], 0..80),
        chunk in 1_usize..20,
    ) {
        for copy in ["copy pair from stdin", "copy pair from stdin csv", "copy pair from stdin binary"] {
            prop_assert_eq!(keys(copy, &data, chunk), keys(copy, &data, 1000));
        }
    }
}
