//! What a log or a metric may say of a statement: its words without its data (promise 13).
//!
//! Literals and markers become `?`, runs of them one, comments and case go, and the length is bounded. What is not
//! understood could hold data anywhere (a quote in the wrong place turns a string inside out), so only the grammar's
//! own words are kept of it.

use super::keyword::is_keyword;
use super::statement::{Body, Statement};
use super::token::{Kind, Token, tokens};

/// The longest shape, in bytes, but for the dots that say it was cut.
pub const SHAPE_BYTES_MAX: usize = 300;

/// The shape of `text`, which `statement` was parsed from.
pub fn shape(text: &[u8], statement: &Statement) -> String {
    let mut out = Shape { words: String::new(), tail: Tail::Start };
    let understood = !matches!(statement.body, Body::Unknown(_));
    let mut blank = false;
    let mut named_marker = false;
    for token in tokens(text) {
        if token.kind.is_trivia() {
            blank = true;
            continue;
        }
        // The name behind the colon of a marker belongs to it.
        if std::mem::take(&mut named_marker) && matches!(token.kind, Kind::Word | Kind::QuotedName) {
            continue;
        }
        // Markers are in the order in which they stand.
        let is_marker =
            || statement.markers.binary_search_by_key(&token.span.start, |marker| marker.span.start).is_ok();
        named_marker = token.span.of(text) == b":" && is_marker();
        let word = if named_marker { None } else { spoken(token, text, understood) };
        out.say(word.as_deref(), std::mem::take(&mut blank));
        if out.words.len() > SHAPE_BYTES_MAX {
            return out.cut();
        }
    }
    out.words
}

/// What may be said of a token; `None` for data.
fn spoken(token: Token, text: &[u8], understood: bool) -> Option<String> {
    let bytes = token.span.of(text);
    let plain = || String::from_utf8_lossy(bytes).into_owned();
    match token.kind {
        Kind::Word if is_data_word(bytes) => None,
        Kind::Word if understood || is_keyword(bytes) => Some(plain().to_ascii_lowercase()),
        Kind::QuotedName if understood => Some(plain()),
        Kind::Symbol if bytes != b"?" => Some(plain()),
        _ => None,
    }
}

fn is_data_word(word: &[u8]) -> bool {
    ["true", "false", "nan", "infinity"].iter().any(|data| word.eq_ignore_ascii_case(data.as_bytes()))
}

/// A shape as it grows.
struct Shape {
    words: String,
    tail: Tail,
}

/// What it ends in, to fold `?, ?, ?` into one.
#[derive(PartialEq, Eq)]
enum Tail {
    Start,
    Data,
    /// A comma behind data, not written yet.
    DataComma,
    Word,
}

impl Shape {
    fn say(&mut self, word: Option<&str>, blank: bool) {
        match (&self.tail, word) {
            (Tail::Data, Some(",")) => self.tail = Tail::DataComma,
            (Tail::DataComma | Tail::Data, None) => self.tail = Tail::Data,
            (_, word) => {
                if self.tail == Tail::DataComma {
                    self.words.push(',');
                }
                if blank && self.tail != Tail::Start {
                    self.words.push(' ');
                }
                self.words.push_str(word.unwrap_or("?"));
                self.tail = if word.is_some() { Tail::Word } else { Tail::Data };
            }
        }
    }

    fn cut(mut self) -> String {
        self.words.truncate(self.words.floor_char_boundary(SHAPE_BYTES_MAX));
        self.words + "..."
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::parse;
    use super::*;

    fn shaped(text: &str) -> String {
        shape(text.as_bytes(), &parse(text.as_bytes()))
    }

    #[test]
    fn data_never_shows() {
        for (text, expected) in [
            ("INSERT INTO Ks.\"T\" (a, b) VALUES ('secret', -5)", "insert into ks.\"T\" (a, b) values (?)"),
            ("SELECT * FROM t WHERE k IN (1, 2, 3) AND a = :secret", "select * from t where k in (?) and a = ?"),
            (
                "UPDATE t SET m = {'a': 1, 'b': ?}, c = c-5 WHERE k=0xCAFE",
                "update t set m = {?: ?: ?}, c = c? where k=?",
            ),
            (
                "CREATE ROLE r WITH PASSWORD = 'secret' AND LOGIN = true",
                "create role r with password = ? and login = ?",
            ),
            ("CREATE USER u WITH PASSWORD $$secret$$", "create user u with password ?"),
            ("SELECT /* secret */ a FROM t -- secret\n", "select a from t"),
            ("INSERT INTO t JSON '{\"a\": \"secret\"}'", "insert into t json ?"),
            ("SELECT : \"Secret\" FROM t", "select ? from t"),
            ("UPDATE t SET a='it's my secret' WHERE k=1", "update ? set ?=?"),
            ("SELECT secret secret FROM \"secret", "select ? from ?"),
        ] {
            let shape = shaped(text);
            assert!(!shape.to_lowercase().contains("secret"), "{shape}");
            assert_eq!(shape, expected, "{text}");
        }
    }

    #[test]
    fn shapes_are_the_same_for_the_same_statement() {
        let one = shaped("SELECT a FROM t WHERE k IN (1,2)");
        assert_eq!(one, "select a from t where k in (?)");
        assert_eq!(shaped("select  A from T\nwhere k in (?)"), one);
        assert_eq!(shaped("select a from t where k in ('x', 5, 6, :n)"), one);
    }

    #[test]
    fn shapes_are_bounded() {
        let long = format!("SELECT {} FROM t", "é\"a\", ".repeat(1000));
        assert!(shaped(&long).len() <= SHAPE_BYTES_MAX + 3);
        let long = format!("SELECT \"{}\" FROM t", "é".repeat(1000));
        assert!(shaped(&long).len() <= SHAPE_BYTES_MAX + 3);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_bounded_shape(text in prop::collection::vec(any::<u8>(), 0..1000)) {
            prop_assert!(shape(&text, &parse(&text)).len() <= SHAPE_BYTES_MAX + 3);
        }
    }
}
