//! `SELECT`.

use super::super::expr::Expr;
use super::super::statement::{Order, Select, Selector, Unknown};
use super::Cursor;

/// What stands between `SELECT` and `FROM`.
struct Clause {
    json: bool,
    distinct: bool,
    selectors: Option<Vec<Selector>>,
}

impl Cursor<'_> {
    pub(super) fn select(&mut self) -> Result<Select, Unknown> {
        self.expect("select")?;
        let Clause { json, distinct, selectors } = self.json_clause()?;
        self.expect("from")?;
        let table = self.qualified_name()?;
        let relations = if self.take("where") { self.relations()? } else { Vec::new() };
        let groups = if self.take_all(&["group", "by"]) { self.listed(Self::selectable)? } else { Vec::new() };
        let orders = if self.take_all(&["order", "by"]) { self.listed(Self::order)? } else { Vec::new() };
        let per_partition_limit = self.limit(&["per", "partition", "limit"])?;
        let limit = self.limit(&["limit"])?;
        let allow_filtering = self.take_all(&["allow", "filtering"]);
        Ok(Select {
            json,
            distinct,
            selectors,
            table,
            relations,
            groups,
            orders,
            per_partition_limit,
            limit,
            allow_filtering,
        })
    }

    /// `json` and `distinct` may be columns: they are keywords where selectors follow.
    fn json_clause(&mut self) -> Result<Clause, Unknown> {
        let json = self.attempt(|cursor| {
            cursor.expect("json")?;
            cursor.distinct_clause().and_then(|clause| cursor.before_from(clause))
        });
        match json {
            Some(clause) => Ok(Clause { json: true, ..clause }),
            None => self.distinct_clause(),
        }
    }

    fn distinct_clause(&mut self) -> Result<Clause, Unknown> {
        let distinct = self.attempt(|cursor| {
            cursor.expect("distinct")?;
            cursor.selectors().and_then(|selectors| cursor.before_from(selectors))
        });
        match distinct {
            Some(selectors) => Ok(Clause { json: false, distinct: true, selectors }),
            None => Ok(Clause { json: false, distinct: false, selectors: self.selectors()? }),
        }
    }

    fn before_from<T>(&self, clause: T) -> Result<T, Unknown> {
        if self.is(0, "from") { Ok(clause) } else { self.stuck("FROM") }
    }

    /// `None` is all of them.
    fn selectors(&mut self) -> Result<Option<Vec<Selector>>, Unknown> {
        if self.take("*") { Ok(None) } else { Ok(Some(self.listed(Self::selector)?)) }
    }

    fn selector(&mut self) -> Result<Selector, Unknown> {
        let expr = self.selectable()?;
        let alias = if self.take("as") { Some(self.name()?) } else { None };
        Ok(Selector { expr, alias })
    }

    fn order(&mut self) -> Result<Order, Unknown> {
        let column = self.name()?;
        let nearest = if self.take_all(&["ann", "of"]) { Some(self.term()?) } else { None };
        let descending = self.take("desc");
        let _ = !descending && self.take("asc");
        Ok(Order { column, nearest, descending })
    }

    fn limit(&mut self, words: &[&str]) -> Result<Option<Expr>, Unknown> {
        if self.take_all(words) { Ok(Some(self.integer_or_marker()?)) } else { Ok(None) }
    }
}
