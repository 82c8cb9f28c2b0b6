//! Terms and selectors: `term`, `unaliasedSelector` and what they are made of.

use super::super::expr::{Expr, Function, Literal, Value};
use super::super::statement::Unknown;
use super::super::token::{Kind, Span};
use super::Cursor;

/// Whether bare names are columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Grammar {
    Term,
    Selector,
}

use Grammar::{Selector, Term};

/// Functions that the grammar itself knows, and that ask about a cell.
const CELL_META: [&str; 3] = ["writetime", "maxwritetime", "ttl"];

impl Cursor<'_> {
    /// `term`.
    pub(super) fn term(&mut self) -> Result<Expr, Unknown> {
        self.sum(Term)
    }

    /// `unaliasedSelector`.
    pub(super) fn selectable(&mut self) -> Result<Expr, Unknown> {
        self.sum(Selector)
    }

    /// `intValue`: a number or a marker.
    pub(super) fn integer_or_marker(&mut self) -> Result<Expr, Unknown> {
        let start = self.offset();
        let value = match self.take_kind(Kind::Integer) {
            Some(_) => Value::Literal(Literal::Integer),
            None => Value::Marker(self.marker()?.map_or_else(|| self.stuck("a number or a bind marker"), Ok)?),
        };
        Ok(Expr { span: self.since(start), value })
    }

    fn sum(&mut self, grammar: Grammar) -> Result<Expr, Unknown> {
        self.nested(|cursor| cursor.joined(&["+", "-"], grammar, |cursor| cursor.product(grammar)))
    }

    fn product(&mut self, grammar: Grammar) -> Result<Expr, Unknown> {
        self.joined(&["*", "/", "%"], grammar, |cursor| cursor.signed(grammar))
    }

    fn joined(
        &mut self,
        operators: &[&str],
        grammar: Grammar,
        one: impl Fn(&mut Self) -> Result<Expr, Unknown>,
    ) -> Result<Expr, Unknown> {
        let start = self.offset();
        let first = one(self)?;
        let mut more = Vec::new();
        while operators.iter().any(|operator| self.is(0, operator)) && !self.ends_in_column(grammar) {
            self.advance();
            more.push(one(self)?);
        }
        if more.is_empty() {
            return Ok(first);
        }
        more.insert(0, first);
        Ok(Expr { span: self.since(start), value: Value::Arithmetic(more) })
    }

    /// `x + c`, where `c` is the column that is assigned: the `+` is not the term's.
    fn ends_in_column(&self, grammar: Grammar) -> bool {
        grammar == Term && self.is(0, "+") && self.is_name(1) && !self.is(2, "(") && !self.is(2, ".")
    }

    fn signed(&mut self, grammar: Grammar) -> Result<Expr, Unknown> {
        let start = self.offset();
        if !self.take("-") {
            return self.modified(grammar);
        }
        if let Some(literal) = self.not_a_number() {
            return Ok(Expr { span: self.since(start), value: literal });
        }
        let inner = self.nested(|cursor| match grammar {
            Term => cursor.simple(grammar),
            Selector => cursor.signed(grammar),
        })?;
        Ok(Expr { span: self.since(start), value: Value::Negated(Box::new(inner)) })
    }

    /// A value, and in a selector what is picked from it: `x.field[1]`.
    fn modified(&mut self, grammar: Grammar) -> Result<Expr, Unknown> {
        let start = self.offset();
        let mut expr = self.simple(grammar)?;
        // Each step makes the tree one level deeper; dropping and walking it recurse.
        let mut steps = 0;
        while grammar == Selector && (self.is(0, ".") || self.is(0, "[")) {
            steps += 1;
            if steps > 16 {
                return self.stuck("fewer fields of fields");
            }
            let value = if self.take(".") {
                Value::Field(Box::new(expr), self.name()?)
            } else {
                self.advance();
                self.subscript(Box::new(expr))?
            };
            expr = Expr { span: self.since(start), value };
        }
        Ok(expr)
    }

    /// `1]`, `1..]`, `1..2]`, `..2]`.
    fn subscript(&mut self, of: Box<Expr>) -> Result<Value, Unknown> {
        let from = if self.is(0, "..") { None } else { Some(Box::new(self.term()?)) };
        let value = match (from, self.take("..")) {
            (Some(at), false) => Value::Element(of, at),
            (from, _) => {
                let to = if self.is(0, "]") { None } else { Some(Box::new(self.term()?)) };
                Value::Slice(of, from, to)
            }
        };
        self.expect("]")?;
        Ok(value)
    }

    fn simple(&mut self, grammar: Grammar) -> Result<Expr, Unknown> {
        let start = self.offset();
        let value = self.nested(|cursor| cursor.simple_value(grammar))?;
        Ok(Expr { span: self.since(start), value })
    }

    fn simple_value(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        if let Some(literal) = self.constant() {
            return Ok(literal);
        }
        if let Some(marker) = self.marker()? {
            return Ok(Value::Marker(marker));
        }
        match () {
            () if self.is(0, "(") => self.parenthesis(grammar),
            () if self.take("[") => Ok(Value::List(self.items(grammar, "]")?)),
            () if self.take("{") => self.braces(grammar),
            () if self.is_call() => self.call(grammar),
            () if grammar == Selector => Ok(Value::Column(self.name()?)),
            () => self.stuck("a value"),
        }
    }

    /// `constant`, and `null`.
    fn constant(&mut self) -> Option<Value> {
        let literal = match self.peek(0)?.kind {
            Kind::String => Literal::String,
            Kind::Integer => Literal::Integer,
            Kind::Float => Literal::Float,
            Kind::Duration => Literal::Duration,
            Kind::Uuid => Literal::Uuid,
            Kind::Hex => Literal::Hex,
            Kind::Word => return self.constant_word(),
            _ => return None,
        };
        self.advance();
        Some(Value::Literal(literal))
    }

    fn constant_word(&mut self) -> Option<Value> {
        if self.take("null") {
            return Some(Value::Null);
        }
        if self.take("true") || self.take("false") {
            return Some(Value::Literal(Literal::Boolean));
        }
        self.not_a_number()
    }

    fn not_a_number(&mut self) -> Option<Value> {
        (self.take("nan") || self.take("infinity")).then_some(Value::Literal(Literal::Float))
    }

    /// `(type) x`, or a tuple.
    fn parenthesis(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        if let Some(hint) = self.attempt(|cursor| cursor.hint(grammar)) {
            return Ok(hint);
        }
        self.expect("(")?;
        let items = self.items(grammar, ")")?;
        if items.is_empty() { self.stuck("a value") } else { Ok(Value::Tuple(items)) }
    }

    fn hint(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        self.expect("(")?;
        let hint = self.data_type()?;
        self.expect(")")?;
        Ok(Value::Hint(hint, Box::new(self.simple(grammar)?)))
    }

    /// Up to `close`, which is taken; none is fine too.
    fn items(&mut self, grammar: Grammar, close: &'static str) -> Result<Vec<Expr>, Unknown> {
        if self.take(close) {
            return Ok(Vec::new());
        }
        let items = self.listed(|cursor| cursor.sum(grammar))?;
        self.expect(close)?;
        Ok(items)
    }

    /// A set, a map or a user type, behind the `{`.
    fn braces(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        if self.take("}") {
            return Ok(Value::Set(Vec::new()));
        }
        if grammar == Term && self.is_name(0) && self.is(1, ":") {
            let fields = self.listed(|cursor| {
                let field = cursor.name()?;
                cursor.expect(":")?;
                Ok((field, cursor.term()?))
            })?;
            self.expect("}")?;
            return Ok(Value::Fields(fields));
        }
        let first = self.sum(grammar)?;
        let value = if self.take(":") { self.map(grammar, first)? } else { self.set(grammar, first)? };
        self.expect("}")?;
        Ok(value)
    }

    fn map(&mut self, grammar: Grammar, key: Expr) -> Result<Value, Unknown> {
        let mut pairs = vec![(key, self.sum(grammar)?)];
        while self.take(",") {
            let key = self.sum(grammar)?;
            self.expect(":")?;
            pairs.push((key, self.sum(grammar)?));
        }
        Ok(Value::Map(pairs))
    }

    fn set(&mut self, grammar: Grammar, first: Expr) -> Result<Value, Unknown> {
        let mut items = vec![first];
        while self.take(",") {
            items.push(self.sum(grammar)?);
        }
        Ok(Value::Set(items))
    }

    /// `f(`, or `keyspace.f(`. `token` is reserved, but may be called.
    fn is_call(&self) -> bool {
        let callable = |ahead| self.is_name(ahead) || self.is(ahead, "token");
        callable(0) && self.is(1, "(") || self.is_name(0) && self.is(1, ".") && callable(2) && self.is(3, "(")
    }

    fn call(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        if self.is(0, "cast") && self.is(1, "(") {
            return self.cast(grammar);
        }
        if grammar == Selector {
            if self.take_all(&["count", "(", "*", ")"]) {
                return Ok(Value::CountRows);
            }
            if let Some(word) = CELL_META.into_iter().find(|word| self.is(0, word) && self.is(1, "(")) {
                return self.cell_meta(word);
            }
        }
        self.function_call(grammar)
    }

    fn cast(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        self.advance();
        self.expect("(")?;
        let value = match grammar {
            Term => self.simple(grammar)?,
            Selector => self.sum(grammar)?,
        };
        self.expect("as")?;
        let to = self.data_type()?;
        self.expect(")")?;
        Ok(Value::Cast(Box::new(value), to))
    }

    fn cell_meta(&mut self, word: &'static str) -> Result<Value, Unknown> {
        self.advance();
        self.expect("(")?;
        let of = self.modified(Selector)?;
        self.expect(")")?;
        Ok(Value::CellMeta(word, Box::new(of)))
    }

    fn function_call(&mut self, grammar: Grammar) -> Result<Value, Unknown> {
        let start = self.offset();
        let keyspace = if self.is(1, ".") { Some(self.name()?) } else { None };
        let _ = self.take(".");
        let name_start = self.offset();
        let name = self.word_as_name();
        let name_span = self.since(name_start);
        self.expect("(")?;
        let arguments = self.items(grammar, ")")?;
        let function = Function { keyspace, name };
        self.called(self.since(start), name_span, function.clone(), arguments.len());
        Ok(Value::Call(function, arguments))
    }

    /// `comparatorType`: the text of a type.
    pub(super) fn data_type(&mut self) -> Result<Span, Unknown> {
        let start = self.offset();
        self.nested(Self::type_name)?;
        Ok(self.since(start))
    }

    fn type_name(&mut self) -> Result<(), Unknown> {
        if self.take_kind(Kind::String).is_some() {
            return Ok(());
        }
        // `set` is reserved, and a type.
        let named = self.take("set") || self.attempt(Self::qualified_name).is_some();
        match (named, self.take("<")) {
            (false, _) => self.stuck("a type"),
            (true, false) => Ok(()),
            (true, true) => {
                self.listed(|cursor| match cursor.take_kind(Kind::Integer) {
                    Some(_) => Ok(Span::default()), // `vector<float, 3>`.
                    None => cursor.data_type(),
                })?;
                self.expect(">")
            }
        }
    }
}
