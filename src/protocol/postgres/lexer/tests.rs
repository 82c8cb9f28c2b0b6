use super::*;
use proptest::prelude::*;

fn lex(text: &str) -> Tokens {
    let mut tokens = Tokens::default();
    tokens.lex(text.as_bytes(), Dialect::default());
    tokens
}

fn cut(text: &str) -> Vec<(Kind, &str)> {
    let tokens = lex(text);
    assert_ne!(tokens.reading(), Reading::Unreadable, "{text}");
    tokens.list().iter().map(|token| (token.kind, &text[token.start as usize..token.end as usize])).collect()
}

#[test]
fn each_token_is_what_the_grammar_calls_it() {
    use Kind::*;
    for (text, expected) in [
        ("select 1", vec![(Ident, "select"), (Int, "1")]),
        ("2147483647 2147483648 00", vec![(Int, "2147483647"), (Float, "2147483648"), (Int, "00")]),
        (
            "1.5e-3 .5 1. 1..2",
            vec![(Float, "1.5e-3"), (Float, ".5"), (Float, "1."), (Int, "1"), (Op, ".."), (Int, "2")],
        ),
        ("'a''b' E'\\'' B'1' X'f'", vec![(String, "'a''b'"), (Escaped, "E'\\''"), (Bit, "B'1'"), (Hex, "X'f'")]),
        ("N'x'", vec![(National, "N"), (String, "'x'")]),
        ("'a' -- c\n 'b' 'c'", vec![(String, "'a' -- c\n 'b'"), (String, "'c'")]),
        ("$$a$b$$ $t$ $$ $t$ $12", vec![(Dollar, "$$a$b$$"), (Dollar, "$t$ $$ $t$"), (Param, "$12")]),
        ("a$1 \"q\"\"q\"", vec![(Ident, "a$1"), (Quoted, "\"q\"\"q\"")]),
        ("a=-1", vec![(Ident, "a"), (Op, "="), (Op, "-"), (Int, "1")]),
        ("a@-1", vec![(Ident, "a"), (Op, "@-"), (Int, "1")]),
        ("a*/*x*/b", vec![(Ident, "a"), (Op, "*"), (Ident, "b")]),
        ("a<--x\n1", vec![(Ident, "a"), (Op, "<"), (Int, "1")]),
        ("/* a /* b */ c */ x::y:=z", vec![(Ident, "x"), (Op, "::"), (Ident, "y"), (Op, ":="), (Ident, "z")]),
        (
            "a[1:2].b",
            vec![(Ident, "a"), (Op, "["), (Int, "1"), (Op, ":"), (Int, "2"), (Op, "]"), (Op, "."), (Ident, "b")],
        ),
    ] {
        assert_eq!(cut(text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_read_says_so() {
    for text in ["'a", "\"a", "/* x", "$a$ x", "E'\\", "\\", "\0", "select $", "{"] {
        assert_eq!(lex(text).reading(), Reading::Unreadable, "{text:?}");
    }
    for text in ["0x1f", "1_000", "123abc", "U&'a'", "u&\"a\"", "a\x0bb", "$1a"] {
        assert_eq!(lex(text).reading(), Reading::ByText, "{text:?}");
    }
}

#[test]
fn an_operator_as_long_as_nobody_has_is_not_read() {
    assert_eq!(cut(&"@".repeat(63)).len(), 1);
    for (piece, times) in [("@", 64), ("+", 100_000), ("=/**/", 100_000), ("@-", 100_000), ("+ ", 100_000)] {
        let is_read = piece == "+ ";
        assert_eq!(lex(&piece.repeat(times)).reading() != Reading::Unreadable, is_read, "{piece} {times} times");
    }
}

#[test]
fn a_backslash_without_standard_strings_is_not_read() {
    let mut tokens = Tokens::default();
    let old = Dialect { standard_strings: false, ..Dialect::default() };
    tokens.lex(b"select 'a\\'", old);
    assert_eq!(tokens.reading(), Reading::Unreadable);
    tokens.lex(b"select 'a'", old);
    assert_eq!(tokens.reading(), Reading::Plain);
    assert_eq!(tokens.list()[1].kind, Kind::String);
}

#[test]
fn an_encoding_that_hides_quotes_is_read_only_as_ascii() {
    let mut tokens = Tokens::default();
    let sjis = Dialect { encoding: Encoding::named("sjis"), ..Dialect::default() };
    tokens.lex(b"select 'a\x95\x5c'", sjis);
    assert_eq!(tokens.reading(), Reading::Unreadable);
    tokens.lex(b"select 'a'", sjis);
    assert_eq!(tokens.reading(), Reading::Plain);
}

#[test]
fn the_shape_forgets_literals_case_and_blanks_and_nothing_else() {
    let same = |a: &str, b: &str| lex(a).shape() == lex(b).shape();
    assert!(same("SELECT * FROM t WHERE a = 1", "select*from T /* x */ where a=22"));
    assert!(same("select 'a'", "select 'it''s'"));
    assert!(!same("select 1", "select 1.0"));
    assert!(!same("select 1", "select 3000000000"));
    assert!(!same("select $1", "select $2"));
    assert!(!same("select \"A\"", "select \"a\""));
    assert!(!same("select \"a\"", "select a"));
    assert!(!same("select 'a'", "select E'a'"));
    assert!(!same("select ab", "select a b"));
}

/// PostgreSQL's own scanner, comments left out.
fn reference(text: &str) -> Option<Vec<(u32, u32)>> {
    use pg_query::protobuf::Token as T;
    let comment = |token: i32| token == T::SqlComment as i32 || token == T::CComment as i32;
    let tokens = pg_query::scan(text).ok()?.tokens;
    Some(tokens.iter().filter(|t| !comment(t.token)).map(|t| (t.start as u32, t.end as u32)).collect())
}

fn agrees(text: &str) -> Result<(), String> {
    let tokens = lex(text);
    if tokens.reading() != Reading::Plain {
        return Ok(());
    }
    let ours: Vec<_> = tokens.list().iter().map(|t| (t.start, t.end)).collect();
    match reference(text) {
        Some(theirs) if theirs == ours => Ok(()),
        Some(theirs) => Err(format!("{text:?}: {ours:?}, PostgreSQL: {theirs:?}")),
        // Contents that we do not judge (escapes, bits) are errors there.
        None => Ok(()),
    }
}

#[test]
fn tokens_stand_where_postgresql_puts_them() {
    for text in [
        "select a+-1, b - -2, c @> '{}', d->>'x', e #>> '{a}' from t where x <> 1 and y != 2 and z => 3",
        "insert into \"T\" values (1, 'a' \n 'b', $1, null) -- end",
        "select 1.e5, 1e, .1e+5",
        "a||b !=- c <=- d <=-- x\n e",
        "select $q$ it's $q$, U&\"d\\0061t\", E'\\n', x'ff', b'01', n'q'",
        "select /*a/*b*/*/ 1",
    ] {
        agrees(text).expect("agrees");
    }
}

const PIECES: &[&str] = &[
    "select",
    "'a'",
    "''",
    "E'\\'x'",
    "\"q\"",
    "$1",
    "$$x$$",
    "$t$y$t$",
    "1",
    "99999999999",
    "1.5",
    ".5",
    "1e5",
    " ",
    "\n",
    "--c\n",
    "/*c*/",
    "+",
    "-",
    "*",
    "/",
    "<",
    ">",
    "=",
    "~",
    "!",
    "@",
    "#",
    "^",
    "&",
    "|",
    "`",
    "?",
    "%",
    "(",
    ")",
    "[",
    "]",
    ",",
    ";",
    ":",
    ".",
    "a",
    "é",
    "n'x'",
    "b'0'",
    "e",
    "x",
];

proptest! {
    #[test]
    fn any_bytes_are_cut_without_panic_and_in_order(bytes in proptest::collection::vec(any::<u8>(), 0..200), off in any::<bool>()) {
        let mut tokens = Tokens::default();
        tokens.lex(&bytes, Dialect { standard_strings: !off, encoding: Encoding::Safe });
        let mut end = 0;
        for token in tokens.list() {
            prop_assert!(token.start >= end && token.end > token.start && token.end as usize <= bytes.len());
            end = token.end;
        }
    }

    #[test]
    fn tokens_agree_with_postgresql_on_any_mix(picks in proptest::collection::vec(0..PIECES.len(), 0..30)) {
        let text: std::string::String = picks.iter().map(|&at| PIECES[at]).collect();
        prop_assert_eq!(agrees(&text), Ok(()));
    }

    #[test]
    fn tokens_with_blanks_between_are_the_same_tokens(picks in proptest::collection::vec(0..PIECES.len(), 0..30)) {
        let text: std::string::String = picks.iter().map(|&at| PIECES[at]).collect();
        let tokens = lex(&text);
        // `N` and its string belong together.
        if tokens.reading() != Reading::Plain || tokens.list().iter().any(|t| t.kind == Kind::National) {
            return Ok(());
        }
        let spaced: Vec<_> = tokens.list().iter().map(|t| &text[t.start as usize..t.end as usize]).collect();
        let spaced = spaced.join(" ");
        let again = lex(&spaced);
        prop_assert_eq!(again.shape(), tokens.shape());
    }
}
