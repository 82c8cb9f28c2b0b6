//! `WHERE` and `IF`: relations.

use super::super::statement::{Condition, Operand, Operator, Relation, Restricted, Unknown};
use super::Cursor;

impl Cursor<'_> {
    /// `relationOrExpression AND ...`, behind `WHERE`.
    pub(super) fn relations(&mut self) -> Result<Vec<Relation>, Unknown> {
        self.conjunction(Self::where_relation)
    }

    /// `IF ...` of an `UPDATE` or `DELETE`, if it is there.
    pub(super) fn condition(&mut self) -> Result<Option<Condition>, Unknown> {
        if !self.take("if") {
            return Ok(None);
        }
        // `exists` is no reserved word: a column may be called so.
        if self.is(0, "exists") && !self.is_comparison(1) {
            self.advance();
            return Ok(Some(Condition::Exists));
        }
        Ok(Some(Condition::Columns(self.conjunction(Self::column_relation)?)))
    }

    /// `IF NOT EXISTS` of an `INSERT`, if it is there.
    pub(super) fn not_exists(&mut self) -> Option<Condition> {
        self.take_all(&["if", "not", "exists"]).then_some(Condition::NotExists)
    }

    fn conjunction(&mut self, one: impl Fn(&mut Self) -> Result<Relation, Unknown>) -> Result<Vec<Relation>, Unknown> {
        let mut all = vec![one(self)?];
        while self.take("and") {
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn where_relation(&mut self) -> Result<Relation, Unknown> {
        match () {
            () if self.is(0, "(") => self.parenthesised(),
            () if self.is(0, "token") && self.is(1, "(") => self.token_relation(),
            () if self.is(0, "expr") && self.is(1, "(") => self.index_expression(),
            () => self.column_relation(),
        }
    }

    /// `(a, b) ..`, or a relation in parentheses.
    fn parenthesised(&mut self) -> Result<Relation, Unknown> {
        if let Some(columns) = self.attempt(Self::names_in_parentheses) {
            return self.compared(Restricted::Columns(columns));
        }
        self.expect("(")?;
        let inner = self.nested(Self::where_relation)?;
        self.expect(")")?;
        Ok(inner)
    }

    fn token_relation(&mut self) -> Result<Relation, Unknown> {
        self.advance();
        let columns = self.names_in_parentheses()?;
        self.compared(Restricted::Token(columns))
    }

    fn index_expression(&mut self) -> Result<Relation, Unknown> {
        self.advance();
        self.expect("(")?;
        let left = Restricted::Index(self.qualified_name()?);
        self.expect(",")?;
        let right = Operand::One(self.term()?);
        self.expect(")")?;
        Ok(Relation { left, operator: Operator::Other, right })
    }

    fn column_relation(&mut self) -> Result<Relation, Unknown> {
        let column = self.name()?;
        let left = if self.take("[") {
            let element = self.term()?;
            self.expect("]")?;
            Restricted::Element(column, element)
        } else if self.take(".") {
            Restricted::Field(column, self.name()?)
        } else {
            Restricted::Column(column)
        };
        self.compared(left)
    }

    fn is_comparison(&self, ahead: usize) -> bool {
        ["=", "!=", "<", "<=", ">", ">=", "[", ".", "in", "contains", "like", "between", "not"]
            .iter()
            .any(|operator| self.is(ahead, operator))
    }

    /// The operator and what is behind it.
    fn compared(&mut self, left: Restricted) -> Result<Relation, Unknown> {
        let (operator, right) = self.comparison()?;
        Ok(Relation { left, operator, right })
    }

    fn comparison(&mut self) -> Result<(Operator, Operand), Unknown> {
        match () {
            () if self.take("=") => self.one(Operator::Eq),
            () if self.take("!=") => self.one(Operator::NotEq),
            () if ["<", "<=", ">", ">="].iter().any(|operator| self.take(operator)) => self.one(Operator::Range),
            () if self.take("in") => Ok((Operator::In, self.in_values()?)),
            () if self.take_all(&["not", "in"]) => Ok((Operator::Other, self.in_values()?)),
            () if self.take_all(&["contains", "key"]) => self.one(Operator::Contains),
            () if self.take("contains") => self.one(Operator::Contains),
            () if self.take_all(&["not", "contains", "key"]) => self.one(Operator::Other),
            () if self.take_all(&["not", "contains"]) => self.one(Operator::Other),
            () if self.take("like") => self.one(Operator::Other),
            () if self.take_all(&["is", "not", "null"]) => Ok((Operator::Other, Operand::Nothing)),
            () if self.take("between") => self.between(),
            () => self.stuck("a comparison"),
        }
    }

    fn one(&mut self, operator: Operator) -> Result<(Operator, Operand), Unknown> {
        Ok((operator, Operand::One(self.term()?)))
    }

    fn between(&mut self) -> Result<(Operator, Operand), Unknown> {
        let from = self.term()?;
        self.expect("and")?;
        Ok((Operator::Range, Operand::Many(vec![from, self.term()?])))
    }

    /// `?`, `:name`, `()`, `(x, y)`.
    fn in_values(&mut self) -> Result<Operand, Unknown> {
        if !self.is(0, "(") {
            return Ok(Operand::One(self.term()?));
        }
        self.advance();
        if self.take(")") {
            return Ok(Operand::Many(Vec::new()));
        }
        let values = self.listed(Self::term)?;
        self.expect(")")?;
        Ok(Operand::Many(values))
    }
}
