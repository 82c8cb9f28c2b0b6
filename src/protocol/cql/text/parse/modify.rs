//! `INSERT`, `UPDATE`, `DELETE` and batches of them.

use super::super::expr::{Expr, Literal, Value};
use super::super::statement::{
    Assignment, Batch, BatchKind, Json, Modification, Name, Operation, Unknown, Using, Verb,
};
use super::super::token::{Kind, Span};
use super::Cursor;

impl Cursor<'_> {
    pub(super) fn modification(&mut self) -> Result<Modification, Unknown> {
        let start = self.offset();
        let mut modification = match self.keyword_here().as_str() {
            "insert" => self.insert()?,
            "update" => self.update()?,
            "delete" => self.delete()?,
            _ => return self.stuck("INSERT, UPDATE or DELETE"),
        };
        modification.span = self.since(start);
        Ok(modification)
    }

    pub(super) fn batch(&mut self) -> Result<Batch, Unknown> {
        self.expect("begin")?;
        let kind = match () {
            () if self.take("unlogged") => BatchKind::Unlogged,
            () if self.take("counter") => BatchKind::Counter,
            () => BatchKind::Logged,
        };
        self.expect("batch")?;
        let using = self.using()?;
        let mut statements = Vec::new();
        while !self.is(0, "apply") {
            statements.push(self.modification()?);
            let _ = self.take(";");
        }
        self.advance();
        self.expect("batch")?;
        Ok(Batch { kind, using, statements })
    }

    fn insert(&mut self) -> Result<Modification, Unknown> {
        self.advance();
        self.expect("into")?;
        let table = (self.offset(), self.qualified_name()?);
        let (assignments, json) =
            if self.take("json") { (Vec::new(), Some(self.json()?)) } else { (self.columns_and_values()?, None) };
        let start = self.offset();
        let condition = self.not_exists();
        let condition_span = condition.is_some().then(|| self.since(start));
        let using_at = self.behind();
        let using = self.using()?;
        let insert = modification(Verb::Insert, table, using_at, using);
        Ok(Modification { assignments, json, condition, condition_span, ..insert })
    }

    fn columns_and_values(&mut self) -> Result<Vec<Assignment>, Unknown> {
        let columns = self.names_in_parentheses()?;
        self.expect("values")?;
        self.expect("(")?;
        let values = self.listed(Self::term)?;
        self.expect(")")?;
        if columns.len() != values.len() {
            return self.stuck("as many values as columns");
        }
        let pairs = columns.into_iter().zip(values);
        Ok(pairs.map(|(column, value)| Assignment { column, operation: Operation::Set(value) }).collect())
    }

    fn json(&mut self) -> Result<Json, Unknown> {
        let start = self.offset();
        let value = match self.take_kind(Kind::String) {
            Some(_) => Value::Literal(Literal::String),
            None => Value::Marker(self.marker()?.map_or_else(|| self.stuck("a document or a bind marker"), Ok)?),
        };
        let document = Expr { span: self.since(start), value };
        let default_unset = self.take_all(&["default", "unset"]);
        let _ = !default_unset && self.take_all(&["default", "null"]);
        Ok(Json { document, default_unset })
    }

    fn update(&mut self) -> Result<Modification, Unknown> {
        self.advance();
        let table = (self.offset(), self.qualified_name()?);
        let using_at = self.behind();
        let using = self.using()?;
        self.expect("set")?;
        let assignments = self.listed(Self::assignment)?;
        Ok(Modification { assignments, ..self.which_rows(modification(Verb::Update, table, using_at, using))? })
    }

    fn delete(&mut self) -> Result<Modification, Unknown> {
        self.advance();
        let assignments = if self.is(0, "from") { Vec::new() } else { self.listed(Self::deletion)? };
        self.expect("from")?;
        let table = (self.offset(), self.qualified_name()?);
        let using_at = self.behind();
        let using = self.using()?;
        Ok(Modification { assignments, ..self.which_rows(modification(Verb::Delete, table, using_at, using))? })
    }

    /// `WHERE ..`, and `IF ..` if it is there.
    fn which_rows(&mut self, of: Modification) -> Result<Modification, Unknown> {
        self.expect("where")?;
        let relations = self.relations()?;
        let start = self.offset();
        let condition = self.condition()?;
        let condition_span = condition.is_some().then(|| self.since(start));
        Ok(Modification { relations, condition, condition_span, ..of })
    }

    /// `USING ..`, if it is there. The last of two of a kind counts, as in the server.
    fn using(&mut self) -> Result<Using, Unknown> {
        let start = self.offset();
        let mut using = Using::default();
        if !self.take("using") {
            return Ok(using);
        }
        loop {
            match () {
                () if self.take("timestamp") => using.timestamp = Some(self.integer_or_marker()?),
                () if self.take("ttl") => using.ttl = Some(self.integer_or_marker()?),
                () => return self.stuck("TIMESTAMP or TTL"),
            }
            if !self.take("and") {
                using.span = Some(self.since(start));
                return Ok(using);
            }
        }
    }

    fn deletion(&mut self) -> Result<Assignment, Unknown> {
        let column = self.name()?;
        let operation = if self.take("[") {
            let at = self.term()?;
            self.expect("]")?;
            Operation::DeleteElement(at)
        } else if self.take(".") {
            Operation::DeleteField(self.name()?)
        } else {
            Operation::Delete
        };
        Ok(Assignment { column, operation })
    }

    fn assignment(&mut self) -> Result<Assignment, Unknown> {
        let column = self.name()?;
        let operation = self.operation(&column)?;
        Ok(Assignment { column, operation })
    }

    fn operation(&mut self, column: &str) -> Result<Operation, Unknown> {
        match () {
            () if self.take("=") => self.new_value(column),
            () if self.take("+=") => Ok(Operation::Add(self.term()?)),
            () if self.take("-=") => Ok(Operation::Subtract(self.term()?)),
            () if self.take("[") => {
                let at = self.term()?;
                self.expect("]")?;
                self.expect("=")?;
                Ok(Operation::SetElement(at, self.term()?))
            }
            () if self.take(".") => {
                let field = self.name()?;
                self.expect("=")?;
                Ok(Operation::SetField(field, self.term()?))
            }
            () => self.stuck("an assignment"),
        }
    }

    /// `x`, `x + c`, `c + x`, `c - x`, `c -1`.
    fn new_value(&mut self, column: &str) -> Result<Operation, Unknown> {
        let of_column = self.is_name(0)
            && (self.is(1, "+") || self.is(1, "-") || self.peek(1).is_some_and(|next| next.kind == Kind::Integer));
        if of_column {
            return self.changed_column(column);
        }
        let value = self.term()?;
        if !self.take("+") {
            return Ok(Operation::Set(value));
        }
        self.same_column(column)?;
        Ok(Operation::Prepend(value))
    }

    fn changed_column(&mut self, column: &str) -> Result<Operation, Unknown> {
        self.same_column(column)?;
        match () {
            () if self.take("+") => Ok(Operation::Add(self.term()?)),
            () if self.take("-") => Ok(Operation::Subtract(self.term()?)),
            () => Ok(Operation::Add(self.integer_or_marker()?)),
        }
    }

    /// `X = Y + 1` is refused by the server too.
    fn same_column(&mut self, column: &str) -> Result<(), Unknown> {
        let at = self.offset();
        if self.name()? == column { Ok(()) } else { Err(Unknown { at, expected: "the column that is assigned" }) }
    }
}

fn modification(verb: Verb, (table_at, table): (usize, Name), using_at: usize, using: Using) -> Modification {
    Modification {
        verb,
        span: Span::default(),
        table,
        table_at,
        using_at,
        using,
        assignments: Vec::new(),
        json: None,
        relations: Vec::new(),
        condition: None,
        condition_span: None,
    }
}
