//! CQL's lexical rules: a text as tokens that, put together again, are the text.
//!
//! The rules are those of `src/antlr/Lexer.g` of Apache Cassandra (4.1 and 5.0 agree on all that is said here). Bytes
//! that no rule covers are tokens too ([`Kind::Unknown`], [`Kind::Unfinished`]), so tokenizing never fails: judging a
//! text is the server's business, and a proxy that cannot read one says so in [`super::statement::Unknown`].
//!
//! One pass, no allocation: every byte is looked at a bounded number of times.

/// A range of bytes of a statement's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes it covers; empty if `text` is not the text it was made from.
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }

    /// From the start of this one to the end of `other`.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start, end: other.end }
    }
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Spaces, tabs, line ends.
    Blank,
    /// `-- ..`, `// ..` up to its line's end, `/* .. */`.
    Comment,
    /// A keyword or an unquoted name.
    Word,
    /// `"..."`.
    QuotedName,
    /// `'...'` or `$$...$$`.
    String,
    /// `-?[0-9]+`: the sign belongs to it, also right behind another value.
    Integer,
    /// `1.5`, `1.`, `1e-3`.
    Float,
    /// `1h30m`, `P1Y2M`, `PT1H`, `P0001-02-03T04:05:06`.
    Duration,
    /// `123e4567-e89b-12d3-a456-426655440000`.
    Uuid,
    /// `0x...`.
    Hex,
    /// An operator or punctuation: `(`, `+=`, `..`, `?`, ...
    Symbol,
    /// A literal, quoted name or comment that the text ends within.
    Unfinished,
    /// Bytes that no rule covers.
    Unknown,
}

impl Kind {
    /// Whether the grammar never sees it.
    pub fn is_trivia(self) -> bool {
        matches!(self, Kind::Blank | Kind::Comment)
    }

    /// Whether it is a constant that carries data (promise 13: never in a log).
    pub fn is_literal(self) -> bool {
        matches!(self, Kind::String | Kind::Integer | Kind::Float | Kind::Duration | Kind::Uuid | Kind::Hex)
    }
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub span: Span,
}

/// All tokens of `text` in order, blanks and comments included.
pub fn tokens(text: &[u8]) -> Tokens<'_> {
    Tokens { text, at: 0 }
}

/// See [`tokens`].
#[derive(Clone, Debug)]
pub struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let (kind, length) = first_token(rest);
        let start = self.at;
        self.at += length.max(1);
        Some(Token { kind, span: Span { start, end: self.at } })
    }
}

/// Kind and length of the token that `rest` begins with; `rest` is not empty.
fn first_token(rest: &[u8]) -> (Kind, usize) {
    match rest {
        [b' ' | b'\t' | b'\r' | b'\n', ..] => (Kind::Blank, run(rest, is_blank)),
        [b'-', b'-', ..] | [b'/', b'/', ..] => (Kind::Comment, line(rest)),
        [b'/', b'*', ..] => until(rest, b"*/", Kind::Comment),
        [b'$', b'$', ..] => until(rest, b"$$", Kind::String),
        [b'\'', ..] => quoted(rest, Kind::String),
        [b'"', ..] => quoted(rest, Kind::QuotedName),
        [b'-', b'0'..=b'9', ..] => number(rest, 1),
        [b'0'..=b'9', ..] => uuid(rest).unwrap_or_else(|| number(rest, 0)),
        [b'-', b'P', ..] => iso_duration(rest, 1).unwrap_or((Kind::Symbol, 1)),
        [b'a'..=b'z' | b'A'..=b'Z', ..] => uuid(rest).or_else(|| iso_duration(rest, 0)).unwrap_or_else(|| word(rest)),
        [b'+' | b'-' | b'<' | b'>' | b'!', b'=', ..] | [b'.', b'.', ..] => (Kind::Symbol, 2),
        [byte, ..] if b"()[]{}<>=+-*/%,.;:?".contains(byte) => (Kind::Symbol, 1),
        _ => (Kind::Unknown, run(rest, |byte| !byte.is_ascii()).max(1)),
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

/// How many bytes at the start of `rest` are of one class.
fn run(rest: &[u8], class: impl Fn(u8) -> bool) -> usize {
    rest.iter().take_while(|byte| class(**byte)).count()
}

fn at(rest: &[u8], index: usize) -> u8 {
    rest.get(index).copied().unwrap_or_default()
}

fn word(rest: &[u8]) -> (Kind, usize) {
    (Kind::Word, run(rest, is_word))
}

/// The line's end is part of the comment. Servers refuse a comment that the text ends in; nothing follows it anyway.
fn line(rest: &[u8]) -> usize {
    let body = run(rest, |byte| byte != b'\n' && byte != b'\r');
    (body + 1).min(rest.len())
}

/// From a two-byte opening to the first `close`, which does not nest.
fn until(rest: &[u8], close: &[u8; 2], kind: Kind) -> (Kind, usize) {
    let body = rest.get(2..).unwrap_or_default();
    match body.windows(2).position(|pair| pair == close) {
        Some(length) => (kind, length + 4),
        None => (Kind::Unfinished, rest.len()),
    }
}

/// A quote doubled inside is the quote itself.
fn quoted(rest: &[u8], kind: Kind) -> (Kind, usize) {
    let quote = at(rest, 0);
    let mut length = 1;
    loop {
        length += run(rest.get(length..).unwrap_or_default(), |byte| byte != quote);
        if length >= rest.len() {
            return (Kind::Unfinished, rest.len());
        }
        if at(rest, length + 1) != quote {
            return (kind, length + 1);
        }
        length += 2;
    }
}

/// Digits in groups of 8-4-4-4-12; tried before words and numbers, as it may look like the start of either.
fn uuid(rest: &[u8]) -> Option<(Kind, usize)> {
    let candidate = rest.get(..36)?;
    let shaped = candidate.iter().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    shaped.then_some((Kind::Uuid, 36))
}

/// An integer, float, duration or hex number whose digits start at `sign`.
fn number(rest: &[u8], sign: usize) -> (Kind, usize) {
    if sign == 0 && at(rest, 0) == b'0' && matches!(at(rest, 1), b'x' | b'X') {
        return (Kind::Hex, 2 + run(rest.get(2..).unwrap_or_default(), |byte| byte.is_ascii_hexdigit()));
    }
    let integer = sign + run(rest.get(sign..).unwrap_or_default(), is_digit);
    if let Some(length) = unit_duration(rest, sign) {
        return (Kind::Duration, length);
    }
    let fraction = match (at(rest, integer), at(rest, integer + 1)) {
        // `1..2` is a range of integers.
        (b'.', b'.') => return (Kind::Integer, integer),
        (b'.', _) => integer + 1 + run(rest.get(integer + 1..).unwrap_or_default(), is_digit),
        _ => integer,
    };
    let length = exponent(rest, fraction).unwrap_or(fraction);
    (if length == integer { Kind::Integer } else { Kind::Float }, length)
}

/// The end of an exponent that starts at `from`.
fn exponent(rest: &[u8], from: usize) -> Option<usize> {
    if !matches!(at(rest, from), b'e' | b'E') {
        return None;
    }
    let digits = from + 1 + usize::from(matches!(at(rest, from + 1), b'+' | b'-'));
    let length = run(rest.get(digits..).unwrap_or_default(), is_digit);
    (length > 0).then_some(digits + length)
}

/// `1h30m`: numbers with units, without blanks.
fn unit_duration(rest: &[u8], sign: usize) -> Option<usize> {
    let mut end = None;
    let mut from = sign;
    loop {
        let digits = run(rest.get(from..).unwrap_or_default(), is_digit);
        let unit = unit(rest.get(from + digits..).unwrap_or_default());
        if digits == 0 || unit == 0 {
            return end;
        }
        from += digits + unit;
        end = Some(from);
    }
}

/// The length of the longest unit of a duration; 0 for none.
fn unit(rest: &[u8]) -> usize {
    match rest {
        [0xC2, 0xB5, b's' | b'S', ..] => 3,
        [b'm' | b'M', b'o' | b'O' | b's' | b'S', ..] => 2,
        [b'u' | b'U' | b'n' | b'N', b's' | b'S', ..] => 2,
        [b'y' | b'w' | b'd' | b'h' | b'm' | b's', ..] | [b'Y' | b'W' | b'D' | b'H' | b'M' | b'S', ..] => 1,
        _ => 0,
    }
}

/// `P1Y2M3DT4H5M6S`, `P7W`, `P0001-02-03T04:05:06` after `sign` bytes; capitals only, and not the start of a name.
fn iso_duration(rest: &[u8], sign: usize) -> Option<(Kind, usize)> {
    if at(rest, sign) != b'P' {
        return None;
    }
    let body = rest.get(sign + 1..).unwrap_or_default();
    let length = calendar(body).or_else(|| designated(body))?;
    let end = sign + 1 + length;
    (!is_word(at(rest, end))).then_some((Kind::Duration, end))
}

/// `0001-02-03T04:05:06`.
fn calendar(body: &[u8]) -> Option<usize> {
    let pattern = b"dddd-dd-ddTdd:dd:dd";
    let candidate = body.get(..pattern.len())?;
    let same = |(byte, wanted): (&u8, &u8)| if *wanted == b'd' { is_digit(*byte) } else { byte == wanted };
    candidate.iter().zip(pattern).all(same).then_some(pattern.len())
}

/// `7W`, `1Y2M3D`, `T4H5M6S`, or days and times together.
fn designated(body: &[u8]) -> Option<usize> {
    let weeks = designators(body, b"W");
    if weeks > 0 {
        return Some(weeks);
    }
    let days = designators(body, b"YMD");
    let times = match at(body, days) {
        b'T' => designators(body.get(days + 1..).unwrap_or_default(), b"HMS"),
        _ => 0,
    };
    let length = if times > 0 { days + 1 + times } else { days };
    (length > 0).then_some(length)
}

/// The length of numbers that end in letters of `order`, in that order, each at most once.
fn designators(body: &[u8], order: &[u8]) -> usize {
    let mut length = 0;
    for letter in order {
        let digits = run(body.get(length..).unwrap_or_default(), is_digit);
        if digits > 0 && at(body, length + digits) == *letter {
            length += digits + 1;
        }
    }
    length
}

/// What a quoted name or a string means: without its quotes, doubled quotes single. Bytes that are no UTF-8 become
/// U+FFFD, as they do in the server.
pub fn unquoted(token: &[u8]) -> String {
    let (quote, inner) = match token {
        [b'$', b'$', inner @ .., b'$', b'$'] => return String::from_utf8_lossy(inner).into_owned(),
        [quote @ (b'\'' | b'"'), inner @ .., _] => (char::from(*quote), inner),
        other => return String::from_utf8_lossy(other).into_owned(),
    };
    let doubled = [quote, quote].iter().collect::<String>();
    String::from_utf8_lossy(inner).replace(&doubled, quote.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, &str)> {
        tokens(text.as_bytes())
            .filter(|token| token.kind != Kind::Blank)
            .map(|token| (token.kind, std::str::from_utf8(token.span.of(text.as_bytes())).unwrap()))
            .collect()
    }

    #[test]
    fn literals_are_whole_tokens() {
        use Kind::*;
        for (text, kind) in [
            ("'it''s'", String),
            ("$$it's $ x$$", String),
            ("\"a\"\"b\"", QuotedName),
            ("\"\"", QuotedName),
            ("-12", Integer),
            ("1.5", Float),
            ("1.", Float),
            ("-1e-3", Float),
            ("1E+3", Float),
            ("0xCAFE", Hex),
            ("0x", Hex),
            ("1h30m", Duration),
            ("-2mo3d", Duration),
            ("5µs", Duration),
            ("P1Y2M3DT4H5M6S", Duration),
            ("-PT1H", Duration),
            ("P3W", Duration),
            ("P0001-02-03T04:05:06", Duration),
            ("123e4567-e89b-12d3-a456-426655440000", Uuid),
            ("abcdef01-e89b-12d3-a456-426655440000", Uuid),
            ("P1Dx", Word),
            ("p1d", Word),
            ("abcdef01", Word),
            ("-- x\n", Comment),
            ("// x", Comment),
            ("/* ' \" */", Comment),
            ("'never ends", Unfinished),
            ("\"never ends\"\"", Unfinished),
            ("/* never ends", Unfinished),
            ("$$never ends$", Unfinished),
            ("é", Unknown),
        ] {
            assert_eq!(kinds(text), [(kind, text)], "{text}");
        }
    }

    #[test]
    fn a_minus_before_digits_belongs_to_the_number() {
        use Kind::*;
        assert_eq!(kinds("c=c-1"), [(Word, "c"), (Symbol, "="), (Word, "c"), (Integer, "-1")]);
        assert_eq!(kinds("c - 1"), [(Word, "c"), (Symbol, "-"), (Integer, "1")]);
        assert_eq!(kinds("c-=1"), [(Word, "c"), (Symbol, "-="), (Integer, "1")]);
        assert_eq!(kinds("a--1\nb"), [(Word, "a"), (Comment, "--1\n"), (Word, "b")]);
    }

    #[test]
    fn ranges_part_integers() {
        use Kind::*;
        assert_eq!(kinds("[1..2]"), [(Symbol, "["), (Integer, "1"), (Symbol, ".."), (Integer, "2"), (Symbol, "]")]);
    }

    #[test]
    fn quotes_are_undone() {
        assert_eq!(unquoted(b"'it''s'"), "it's");
        assert_eq!(unquoted(b"\"a\"\"b\""), "a\"b");
        assert_eq!(unquoted(b"$$it''s$$"), "it''s");
        assert_eq!(unquoted(b"\"\""), "");
    }

    proptest! {
        #[test]
        fn tokens_put_together_are_the_text(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let together: Vec<u8> = tokens(&text).flat_map(|token| token.span.of(&text).to_vec()).collect();
            prop_assert_eq!(together, text);
        }

        #[test]
        fn tokens_of_near_cql_put_together_are_the_text(text in "[a-cPTxe0-9 '\"$/*\\-.:?=+\nµ]{0,60}") {
            let together: Vec<u8> = tokens(text.as_bytes()).flat_map(|t| t.span.of(text.as_bytes()).to_vec()).collect();
            prop_assert_eq!(together, text.into_bytes());
        }
    }
}
