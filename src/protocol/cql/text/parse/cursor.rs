//! The reader of tokens that all of the grammar is written with.

use super::super::expr::Function;
use super::super::keyword::is_reserved;
use super::super::statement::{Body, Call, Marker, Name, Statement, Unknown};
use super::super::token::{self, Kind, Span, Token, unquoted};

/// How deep values may nest. Cassandra's own parser gives up some hundreds of levels down; nobody writes ten.
const DEPTH_MAX: usize = 64;
/// How many tokens are understood. What they become takes a hundred bytes each, and a frame may have a hundred million.
pub(super) const TOKENS_MAX: usize = 1 << 19;

/// Where the parser is in a text, and what it gathered.
pub(super) struct Cursor<'t> {
    text: &'t [u8],
    /// Without blanks and comments.
    tokens: Vec<Token>,
    /// There are more.
    is_cut: bool,
    at: usize,
    depth: usize,
    markers: Vec<Marker>,
    calls: Vec<Call>,
}

/// A place to go back to.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    depth: usize,
    markers: usize,
    calls: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(text: &'t [u8]) -> Cursor<'t> {
        let mut all = token::tokens(text).filter(|token| !token.kind.is_trivia());
        let tokens = all.by_ref().take(TOKENS_MAX).collect();
        let is_cut = all.next().is_some();
        Cursor { text, tokens, is_cut, at: 0, depth: 0, markers: Vec::new(), calls: Vec::new() }
    }

    pub(super) fn finish(mut self, body: Body) -> Statement {
        self.calls.sort_by_key(|call| (call.span.start, std::cmp::Reverse(call.span.end)));
        Statement { body, markers: self.markers, calls: self.calls }
    }

    pub(super) fn peek(&self, ahead: usize) -> Option<Token> {
        self.tokens.get(self.at + ahead).copied()
    }

    fn bytes(&self, ahead: usize) -> &'t [u8] {
        self.peek(ahead).map_or(b"", |token| token.span.of(self.text))
    }

    /// The text is longer than is understood.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Where the next token starts.
    pub(super) fn offset(&self) -> usize {
        self.peek(0).map_or(self.text.len(), |token| token.span.start)
    }

    /// Where the last token ended.
    pub(super) fn behind(&self) -> usize {
        self.at.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(0, |token| token.span.end)
    }

    /// From `start` to the end of the last token.
    pub(super) fn since(&self, start: usize) -> Span {
        Span { start, end: self.behind().max(start) }
    }

    pub(super) fn stuck<T>(&self, expected: &'static str) -> Result<T, Unknown> {
        Err(Unknown { at: self.offset(), expected })
    }

    /// Whether the token `ahead` is this keyword or symbol. A quoted name is never a keyword.
    pub(super) fn is(&self, ahead: usize, wanted: &str) -> bool {
        let words = self.peek(ahead).is_some_and(|token| matches!(token.kind, Kind::Word | Kind::Symbol));
        words && self.bytes(ahead).eq_ignore_ascii_case(wanted.as_bytes())
    }

    /// The next word in lower case; empty if what is next is none.
    pub(super) fn keyword_here(&self) -> String {
        match self.peek(0) {
            Some(Token { kind: Kind::Word, .. }) => String::from_utf8_lossy(self.bytes(0)).to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    pub(super) fn take(&mut self, wanted: &str) -> bool {
        let found = self.is(0, wanted);
        self.at += usize::from(found);
        found
    }

    /// All of `wanted` in a row, or nothing.
    pub(super) fn take_all(&mut self, wanted: &[&str]) -> bool {
        let found = wanted.iter().enumerate().all(|(ahead, word)| self.is(ahead, word));
        self.at += if found { wanted.len() } else { 0 };
        found
    }

    pub(super) fn expect(&mut self, wanted: &'static str) -> Result<(), Unknown> {
        if self.take(wanted) { Ok(()) } else { self.stuck(wanted) }
    }

    pub(super) fn take_kind(&mut self, kind: Kind) -> Option<Token> {
        let token = self.peek(0).filter(|token| token.kind == kind)?;
        self.at += 1;
        Some(token)
    }

    /// Whether the token `ahead` may be a name.
    pub(super) fn is_name(&self, ahead: usize) -> bool {
        match self.peek(ahead).map(|token| token.kind) {
            Some(Kind::QuotedName) => true,
            Some(Kind::Word) => !is_reserved(self.bytes(ahead)),
            _ => false,
        }
    }

    /// A name by CQL's case rules: lower case, unless it is quoted.
    pub(super) fn name(&mut self) -> Result<String, Unknown> {
        if self.is_name(0) { Ok(self.word_as_name()) } else { self.stuck("a name") }
    }

    /// The next token as a name, reserved or not.
    pub(super) fn word_as_name(&mut self) -> String {
        let bytes = self.bytes(0);
        self.at += 1;
        match bytes.first() {
            Some(b'"') => unquoted(bytes),
            _ => String::from_utf8_lossy(bytes).to_ascii_lowercase(),
        }
    }

    /// `[keyspace.]name`.
    pub(super) fn qualified_name(&mut self) -> Result<Name, Unknown> {
        let first = self.name()?;
        if !self.take(".") {
            return Ok(Name { keyspace: None, name: first });
        }
        Ok(Name { keyspace: Some(first), name: self.name()? })
    }

    /// `one, two, three`.
    pub(super) fn listed<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Unknown>,
    ) -> Result<Vec<T>, Unknown> {
        let mut all = vec![one(self)?];
        while self.take(",") {
            all.push(one(self)?);
        }
        Ok(all)
    }

    /// `(name, name)`.
    pub(super) fn names_in_parentheses(&mut self) -> Result<Vec<String>, Unknown> {
        self.expect("(")?;
        let names = self.listed(Self::name)?;
        self.expect(")")?;
        Ok(names)
    }

    /// The marker that is next, if one is: `?` or `:name`. Numbered as it is met.
    pub(super) fn marker(&mut self) -> Result<Option<usize>, Unknown> {
        let start = self.offset();
        let name = match () {
            () if self.take("?") => None,
            () if self.take(":") => Some(self.name()?),
            () => return Ok(None),
        };
        self.markers.push(Marker { span: self.since(start), name });
        Ok(Some(self.markers.len() - 1))
    }

    pub(super) fn called(&mut self, span: Span, name_span: Span, function: Function, arguments: usize) {
        self.calls.push(Call { span, name_span, function, arguments });
    }

    /// Parses one way, and goes back if that leads nowhere.
    pub(super) fn attempt<T>(&mut self, way: impl FnOnce(&mut Self) -> Result<T, Unknown>) -> Option<T> {
        let place = self.place();
        let result = way(self).ok();
        if result.is_none() {
            self.go_back(place);
        }
        result
    }

    fn place(&self) -> Place {
        Place { at: self.at, depth: self.depth, markers: self.markers.len(), calls: self.calls.len() }
    }

    fn go_back(&mut self, place: Place) {
        self.at = place.at;
        self.depth = place.depth;
        self.markers.truncate(place.markers);
        self.calls.truncate(place.calls);
    }

    /// One level deeper: what recursion passes through.
    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Unknown>) -> Result<T, Unknown> {
        if self.depth >= DEPTH_MAX {
            return self.stuck("values nested less deeply");
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Skips what is of no interest, up to a `;`.
    pub(super) fn rest_is<T>(&mut self, value: T) -> T {
        while !self.is_at_end() && !self.is(0, ";") {
            self.at += 1;
        }
        value
    }
}
