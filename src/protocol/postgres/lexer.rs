//! PostgreSQL's lexical rules, and the *shape* of a text.
//!
//! Every statement that passes is cut into tokens once. Tokens find the statement's plan in the cache (by shape: all
//! but the contents of literals) and are what a plan points into, so that literals are read off the text at hand. The
//! rules are those of `src/backend/parser/scan.l` of PostgreSQL 18; where older servers differ (numbers with
//! underscores, junk behind numbers, vertical tabs) the text is [`Reading::ByText`] and no value is taken from it.
//!
//! [`Tokens`] is reused: lexing allocates nothing once its buffers have grown.

/// How a session writes its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// `standard_conforming_strings`: a backslash in `'...'` is itself.
    pub standard_strings: bool,
    /// `client_encoding`.
    pub encoding: Encoding,
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect { standard_strings: true, encoding: Encoding::Utf8 }
    }
}

/// What a byte above 127 may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `UTF8`: text is what it looks like.
    Utf8,
    /// Every byte of a character above ASCII is above 127 (LATIN1, WIN1252, KOI8R, EUC_JP, ..): tokens are right,
    /// contents of literals are not UTF-8.
    Safe,
    /// A byte inside a character may look like a quote or a backslash (SJIS, BIG5, GBK, GB18030, UHC, JOHAB): only
    /// ASCII text is read.
    Unsafe,
}

impl Encoding {
    /// By the name that the server reports for `client_encoding`.
    pub fn named(name: &str) -> Encoding {
        match name.to_ascii_uppercase().as_str() {
            "UTF8" | "UNICODE" => Encoding::Utf8,
            "SJIS" | "SHIFT_JIS_2004" | "BIG5" | "GBK" | "GB18030" | "UHC" | "JOHAB" => Encoding::Unsafe,
            _ => Encoding::Safe,
        }
    }
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Keyword or identifier; the `n` of `N'..'` as well.
    Ident = 1,
    /// `"..."`.
    Quoted = 2,
    /// `U&"..."`.
    UnicodeQuoted = 3,
    /// A decimal integer that fits int4.
    Int = 4,
    /// Any other number.
    Float = 5,
    /// `'...'`, with its continuations.
    String = 6,
    /// `E'...'`.
    Escaped = 7,
    /// `$tag$...$tag$`.
    Dollar = 8,
    /// `B'...'`.
    Bit = 9,
    /// `X'...'`.
    Hex = 10,
    /// `U&'...'`.
    Unicode = 11,
    /// `$n`.
    Param = 12,
    /// An operator or punctuation.
    Op = 13,
    /// The `n` of `N'...'`.
    National = 14,
}

impl Kind {
    /// Its contents are not part of the shape.
    pub fn is_literal(self) -> bool {
        (Kind::Int as u8..=Kind::Unicode as u8).contains(&(self as u8))
    }
}

/// A token: its kind and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Token {
    /// Its bytes in the text it was cut from.
    pub fn text<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// How far the tokens can be trusted. Ordered from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// The shape decides how it parses.
    #[default]
    Plain,
    /// The tokens are right, but how it parses may depend on more than the shape: plans go by the whole text.
    ByText,
    /// Nothing can be said: unterminated, or an encoding whose bytes may lie. The server decides.
    Unreadable,
}

#[cfg(test)]
thread_local! {
    /// Bytes that were cut into tokens.
    pub(in crate::protocol::postgres) static LEXED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The tokens of one text.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    list: Vec<Token>,
    shape: Vec<u8>,
    hash: u64,
    reading: Reading,
    ascii: bool,
    utf8: bool,
}

impl Tokens {
    /// All of them.
    pub fn list(&self) -> &[Token] {
        &self.list
    }

    /// One of them.
    pub fn get(&self, at: usize) -> Option<Token> {
        self.list.get(at).copied()
    }

    /// Index of the token that starts at this byte.
    pub fn at(&self, byte: usize) -> Option<usize> {
        self.list.binary_search_by_key(&byte, |token| token.start as usize).ok()
    }

    /// Index of the first token that starts at or behind this byte.
    pub fn from(&self, byte: usize) -> usize {
        self.list.partition_point(|token| (token.start as usize) < byte)
    }

    /// Equal for texts that differ in nothing but whitespace, comments, the case of unquoted words and the contents of
    /// literals.
    pub fn shape(&self) -> &[u8] {
        &self.shape
    }

    /// Hash of the shape.
    pub fn shape_hash(&self) -> u64 {
        self.hash
    }

    /// How far they can be trusted.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Every byte of the text was ASCII.
    pub fn is_ascii(&self) -> bool {
        self.ascii
    }

    /// The text was written in UTF-8, by the session's `client_encoding`.
    pub fn utf8(&self) -> bool {
        self.utf8
    }

    /// How much memory it keeps.
    pub fn held(&self) -> usize {
        self.list.capacity() * size_of::<Token>() + self.shape.capacity()
    }

    /// Cut a text. What was in here is forgotten.
    pub fn lex(&mut self, text: &[u8], dialect: Dialect) {
        #[cfg(test)]
        LEXED.with(|lexed| lexed.set(lexed.get() + text.len()));
        self.list.clear();
        self.shape.clear();
        self.ascii = text.is_ascii();
        self.utf8 = dialect.encoding == Encoding::Utf8;
        self.reading = Reading::Plain;
        if text.len() >= u32::MAX as usize || (!self.ascii && dialect.encoding == Encoding::Unsafe) {
            self.reading = Reading::Unreadable;
        } else {
            let mut lexer = Lexer { text, at: 0, dialect, out: self };
            if lexer.run().is_none() {
                self.reading = Reading::Unreadable;
            }
        }
        self.hash = hash(&self.shape);
    }
}

/// Hash of bytes for [`Tokens::shape_hash`] and the plan cache: spread, not secret; keys are compared as well.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let seed = 0x243f_6a88_85a3_08d3 ^ bytes.len() as u64;
    words.iter().chain([&last]).fold(seed, |hash, word| fold(hash ^ u64::from_le_bytes(*word)))
}

fn fold(value: u64) -> u64 {
    let wide = u128::from(value ^ 0x1319_8a2e_0370_7344) * 0x9e37_79b9_7f4a_7c15;
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// An identifier of this length is cut by the server, an operator refused: NAMEDATALEN.
const NAME_MAX: usize = 64;

/// A run of operator characters of this length is not read. PostgreSQL's scanner, which is here as well, goes through the whole
/// run for each operator that it takes off its front.
const RUN_MAX: usize = 1024;

const IDENT_START: u8 = 1;
const IDENT_REST: u8 = 2;
const SPACE: u8 = 4;
const OPERATOR: u8 = 8;
const DIGIT: u8 = 16;
const SELF: u8 = 32;

/// What a byte may be part of: the character classes of scan.l.
const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut class = [0_u8; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphabetic() || b == b'_' || b >= 0x80 {
            class[byte] |= IDENT_START | IDENT_REST;
        }
        if b.is_ascii_digit() {
            class[byte] |= IDENT_REST | DIGIT;
        }
        if b == b'$' {
            class[byte] |= IDENT_REST;
        }
        if matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) {
            class[byte] |= SPACE;
        }
        if matches!(
            b,
            b'~' | b'!'
                | b'@'
                | b'#'
                | b'^'
                | b'&'
                | b'|'
                | b'`'
                | b'?'
                | b'+'
                | b'-'
                | b'*'
                | b'/'
                | b'%'
                | b'<'
                | b'>'
                | b'='
        ) {
            class[byte] |= OPERATOR;
        }
        if matches!(b, b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':') {
            class[byte] |= SELF;
        }
        byte += 1;
    }
    class
}

fn is(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    dialect: Dialect,
    out: &'a mut Tokens,
}

/// `None` from any step: the text cannot be read.
impl Lexer<'_> {
    fn run(&mut self) -> Option<()> {
        loop {
            self.blank()?;
            let Some(byte) = self.peek(0) else { return Some(()) };
            let start = self.at;
            if is(byte, IDENT_START) {
                self.word(start)?;
            } else if is(byte, DIGIT) || (byte == b'.' && self.peek(1).is_some_and(|b| is(b, DIGIT))) {
                self.number(start);
            } else if byte == b'\'' {
                self.quoted(start, start, if self.dialect.standard_strings { Kind::String } else { Kind::Escaped })?;
            } else if byte == b'"' {
                self.identifier(start, start, Kind::Quoted)?;
            } else if byte == b'$' {
                self.dollar(start)?;
            } else if is(byte, OPERATOR) {
                self.operator(start)?;
            } else if is(byte, SELF) {
                self.punctuation(start, byte);
            } else {
                return None;
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.out.list.push(Token { kind, start: start as u32, end: self.at as u32 });
        self.out.shape.push(kind as u8);
    }

    fn odd(&mut self) {
        self.out.reading = self.out.reading.max(Reading::ByText);
    }

    /// Whitespace and comments.
    fn blank(&mut self) -> Option<()> {
        loop {
            match self.peek(0) {
                Some(0x0b) => {
                    self.odd(); // Whitespace since 16, an error before.
                    self.at += 1;
                }
                Some(byte) if is(byte, SPACE) => self.at += 1,
                Some(b'-') if self.peek(1) == Some(b'-') => self.at = line_end(self.text, self.at),
                Some(b'/') if self.peek(1) == Some(b'*') => self.block_comment()?,
                _ => return Some(()),
            }
        }
    }

    fn block_comment(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0)?, self.peek(1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Some(());
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    fn word(&mut self, start: usize) -> Option<()> {
        match (self.text[start], self.peek(1), self.peek(2)) {
            (b'e' | b'E', Some(b'\''), _) => return self.quoted(start, start + 1, Kind::Escaped),
            (b'b' | b'B', Some(b'\''), _) => return self.quoted(start, start + 1, Kind::Bit),
            (b'x' | b'X', Some(b'\''), _) => return self.quoted(start, start + 1, Kind::Hex),
            (b'n' | b'N', Some(b'\''), _) => {
                self.at += 1;
                self.push(Kind::National, start);
                return Some(());
            }
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => {
                self.odd();
                return self.quoted(start, start + 2, Kind::Unicode);
            }
            (b'u' | b'U', Some(b'&'), Some(b'"')) => {
                self.odd();
                return self.identifier(start, start + 2, Kind::UnicodeQuoted);
            }
            _ => {}
        }
        let rest = &self.text[start..];
        let len = rest.iter().position(|&byte| !is(byte, IDENT_REST)).unwrap_or(rest.len());
        self.at = start + len;
        self.push(Kind::Ident, start);
        let word = &self.text[start..self.at];
        if len >= NAME_MAX || (self.dialect.encoding != Encoding::Utf8 && !word.is_ascii()) {
            self.odd(); // Truncated or folded by rules of the server's encoding.
        }
        let from = self.out.shape.len();
        self.out.shape.extend_from_slice(word);
        self.out.shape[from..].make_ascii_lowercase();
        Some(())
    }

    /// A string whose opening quote is at `open`, with everything that continues it on later lines.
    fn quoted(&mut self, start: usize, open: usize, kind: Kind) -> Option<()> {
        let foreign = kind == Kind::Escaped && open == start;
        let doubles = !matches!(kind, Kind::Bit | Kind::Hex);
        self.at = open + 1;
        loop {
            match self.peek(0)? {
                b'\'' if doubles && self.peek(1) == Some(b'\'') => self.at += 2,
                b'\'' => {
                    self.at += 1;
                    match continuation(self.text, self.at) {
                        Some(next) => self.at = next,
                        None => break,
                    }
                }
                // Only a server with standard_conforming_strings off reads it so; the grammar here does not.
                b'\\' if foreign => return None,
                b'\\' if kind == Kind::Escaped => {
                    self.peek(1)?;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
        self.push(if foreign { Kind::String } else { kind }, start);
        Some(())
    }

    /// A quoted identifier whose opening quote is at `open`.
    fn identifier(&mut self, start: usize, open: usize, kind: Kind) -> Option<()> {
        self.at = open + 1;
        loop {
            match self.peek(0)? {
                b'"' if self.peek(1) == Some(b'"') => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.push(kind, start);
        let word = &self.text[start..self.at];
        if word.len() >= 66 || (self.dialect.encoding != Encoding::Utf8 && !word.is_ascii()) {
            self.odd();
        }
        self.out.shape.extend_from_slice(word);
        Some(())
    }

    fn digits(&mut self) {
        while self.peek(0).is_some_and(|byte| is(byte, DIGIT)) {
            self.at += 1;
        }
    }

    fn number(&mut self, start: usize) {
        self.digits();
        let mut whole = true;
        // `1..2` is an integer and two dots.
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
            if self.peek(1 + sign).is_some_and(|byte| is(byte, DIGIT)) {
                whole = false;
                self.at += 1 + sign;
                self.digits();
            }
        }
        if self.peek(0).is_some_and(|byte| is(byte, IDENT_REST)) {
            return self.odd_number(start);
        }
        let small = whole && parse_i32(&self.text[start..self.at]);
        self.push(if small { Kind::Int } else { Kind::Float }, start);
    }

    /// `0x1f`, `1_000`, or junk that is an error in one version and another token in the next.
    fn odd_number(&mut self, start: usize) {
        self.odd();
        while self.peek(0).is_some_and(|byte| is(byte, IDENT_REST)) {
            self.at += 1;
        }
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            self.at += 1;
            while self.peek(0).is_some_and(|byte| is(byte, IDENT_REST)) {
                self.at += 1;
            }
        }
        self.push(Kind::Float, start);
    }

    fn dollar(&mut self, start: usize) -> Option<()> {
        if self.peek(1).is_some_and(|byte| is(byte, DIGIT)) {
            self.at += 1;
            self.digits();
            if self.peek(0).is_some_and(|byte| is(byte, IDENT_START)) {
                self.odd();
            }
            self.push(Kind::Param, start);
            self.out.shape.extend_from_slice(&self.text[start + 1..self.at]);
            return Some(());
        }
        let rest = &self.text[start + 1..];
        let len = rest.iter().position(|&byte| byte == b'$' || !is(byte, IDENT_REST))?;
        if rest[len] != b'$' {
            return None;
        }
        let tag = &self.text[start..start + len + 2];
        self.at = start + tag.len();
        loop {
            self.at += self.text[self.at..].iter().position(|&byte| byte == b'$')?;
            if self.text[self.at..].starts_with(tag) {
                self.at += tag.len();
                self.push(Kind::Dollar, start);
                return Some(());
            }
            self.at += 1;
        }
    }

    fn operator(&mut self, start: usize) -> Option<()> {
        let rest = &self.text[start..];
        let run = rest.iter().take(RUN_MAX).position(|&byte| !is(byte, OPERATOR));
        let run = run.or((rest.len() < RUN_MAX).then_some(rest.len()))?;
        // A comment inside ends it.
        let mut len = rest[..run].windows(2).position(|pair| pair == b"/*" || pair == b"--").unwrap_or(run);
        // SQL's own operators end before trailing signs, so that `a=-1` means what it says.
        let is_sign = |at: usize| matches!(rest[at], b'+' | b'-');
        if len > 1 && is_sign(len - 1) && !rest[..len - 1].iter().any(|byte| b"~!@#^&|`?%".contains(byte)) {
            while len > 1 && is_sign(len - 1) {
                len -= 1;
            }
        }
        if len >= NAME_MAX {
            return None; // An error.
        }
        self.at = start + len.max(1);
        self.push(Kind::Op, start);
        self.out.shape.extend_from_slice(&self.text[start..self.at]);
        Some(())
    }

    fn punctuation(&mut self, start: usize, byte: u8) {
        let double = matches!((byte, self.peek(1)), (b':', Some(b':' | b'=')) | (b'.', Some(b'.')));
        self.at += 1 + usize::from(double);
        self.push(Kind::Op, start);
        self.out.shape.extend_from_slice(&self.text[start..self.at]);
    }
}

/// A decimal integer that fits int4: what the grammar calls ICONST.
fn parse_i32(digits: &[u8]) -> bool {
    let mut value = 0_u64;
    for byte in digits {
        value = value * 10 + u64::from(byte - b'0');
        if value > i32::MAX as u64 {
            return false;
        }
    }
    true
}

fn line_end(text: &[u8], at: usize) -> usize {
    text[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r')).map_or(text.len(), |len| at + len)
}

/// Behind a closing quote: whitespace with a newline, then another quote, continues the string. Returns the position
/// behind that quote.
pub(crate) fn continuation(text: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match *text.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            byte if is(byte, SPACE) => at += 1,
            b'-' if text.get(at + 1) == Some(&b'-') => {
                at = line_end(text, at);
                text.get(at)?;
            }
            b'\'' if newline => return Some(at + 1),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
