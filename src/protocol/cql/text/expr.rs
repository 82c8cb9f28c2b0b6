//! Values as a statement writes them: literals, bind markers, calls and what is made of them.
//!
//! Terms and selectors share one type, as they share their grammar but for bare names: a name is a column in a
//! selector and nothing in a term.

use super::token::Span;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Its bytes in the text.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What an [`Expr`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A constant: its text is the expression's span.
    Literal(Literal),
    /// `null`.
    Null,
    /// A bind marker, by its number in order of appearance: Cassandra's own numbering, for named ones as well.
    Marker(usize),
    /// A column; in selectors only.
    Column(String),
    /// A function's call.
    Call(Function, Vec<Expr>),
    /// `count(*)`.
    CountRows,
    /// `writetime(c)`, `maxwritetime(c)`, `ttl(c)`: the word in lower case, and what it is asked of.
    CellMeta(&'static str, Box<Expr>),
    /// `CAST(x AS type)`: the value and the type's text.
    Cast(Box<Expr>, Span),
    /// `(type) x`: the type's text and the value.
    Hint(Span, Box<Expr>),
    /// `(a, b)`; in selectors also `(a)`.
    Tuple(Vec<Expr>),
    /// `[a, b]`.
    List(Vec<Expr>),
    /// `{a, b}`, and `{}`, which may also be an empty map.
    Set(Vec<Expr>),
    /// `{a: b}`.
    Map(Vec<(Expr, Expr)>),
    /// `{field: b}`.
    Fields(Vec<(String, Expr)>),
    /// `x.field`.
    Field(Box<Expr>, String),
    /// `x[a]`.
    Element(Box<Expr>, Box<Expr>),
    /// `x[a..b]`, either end optional.
    Slice(Box<Expr>, Option<Box<Expr>>, Option<Box<Expr>>),
    /// Operands that `+ - * / %` join, in order.
    Arithmetic(Vec<Expr>),
    /// `-x`, where `x` is no number.
    Negated(Box<Expr>),
}

/// The kind of a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Literal {
    /// `'...'`, `$$...$$`.
    String,
    /// `12`, `-12`.
    Integer,
    /// `1.5`, `NaN`, `-Infinity`.
    Float,
    /// `true`, `false`.
    Boolean,
    /// `1h30m`.
    Duration,
    /// A UUID, of any version.
    Uuid,
    /// `0x...`.
    Hex,
}

/// A function's name, case rules applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// The keyspace that the statement names, if it does.
    pub keyspace: Option<String>,
    /// Its own name.
    pub name: String,
}

impl Expr {
    /// The marker's number, if that is all there is.
    pub fn marker(&self) -> Option<usize> {
        match self.value {
            Value::Marker(number) => Some(number),
            _ => None,
        }
    }

    /// The column's name, if that is all there is.
    pub fn column(&self) -> Option<&str> {
        match &self.value {
            Value::Column(name) => Some(name),
            _ => None,
        }
    }

    /// Calls `visit` with this expression and all that are in it, outermost first.
    pub fn walk<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        visit(self);
        match &self.value {
            Value::Literal(_) | Value::Null | Value::Marker(_) | Value::Column(_) | Value::CountRows => {}
            Value::Call(_, items)
            | Value::Tuple(items)
            | Value::List(items)
            | Value::Set(items)
            | Value::Arithmetic(items) => items.iter().for_each(|item| item.walk(visit)),
            Value::CellMeta(_, inner)
            | Value::Cast(inner, _)
            | Value::Hint(_, inner)
            | Value::Field(inner, _)
            | Value::Negated(inner) => inner.walk(visit),
            Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
                key.walk(visit);
                value.walk(visit);
            }),
            Value::Fields(pairs) => pairs.iter().for_each(|(_, value)| value.walk(visit)),
            Value::Element(inner, at) => {
                inner.walk(visit);
                at.walk(visit);
            }
            Value::Slice(inner, from, to) => {
                inner.walk(visit);
                [from, to].into_iter().flatten().for_each(|end| end.walk(visit));
            }
        }
    }
}
