//! From text to [`Statement`]: the grammar of Apache Cassandra's `Parser.g` (4.1, 5.0 and what later versions added),
//! by recursive descent.
//!
//! Looser than the server where looseness costs nothing (it will refuse what it does not like), never looser where a
//! text could be understood as another statement than the server's.

mod cursor;
mod expr;
mod modify;
mod relation;
mod schema;
mod select;

use cursor::Cursor;

use super::statement::{Access, Body, Statement, Unknown};

/// What `text` says. Never fails, whatever the bytes: see [`Body::Unknown`].
pub fn parse(text: &[u8]) -> Statement {
    let mut cursor = Cursor::new(text);
    match cursor.whole() {
        Ok(body) => cursor.finish(body),
        Err(unknown) => Statement { body: Body::Unknown(unknown), markers: Vec::new(), calls: Vec::new() },
    }
}

impl Cursor<'_> {
    /// `query: cqlStatement (';')* EOF`.
    fn whole(&mut self) -> Result<Body, Unknown> {
        if self.is_cut() {
            return self.stuck("fewer words");
        }
        let body = self.statement()?;
        while self.take(";") {}
        if self.is_at_end() { Ok(body) } else { self.stuck("the end of the statement") }
    }

    fn statement(&mut self) -> Result<Body, Unknown> {
        match self.keyword_here().as_str() {
            "select" => Ok(Body::Select(self.select()?)),
            "insert" | "update" | "delete" => Ok(Body::Modify(self.modification()?)),
            "begin" => Ok(Body::Batch(self.batch()?)),
            "truncate" => self.truncate(),
            "use" => self.use_keyspace(),
            "create" | "alter" | "drop" => self.definition(),
            "grant" => Ok(self.rest_is(Body::Access(Access::Grant))),
            "revoke" => Ok(self.rest_is(Body::Access(Access::Revoke))),
            "add" => Ok(self.rest_is(Body::Access(Access::Identity))),
            "list" => Ok(self.rest_is(Body::List)),
            "describe" | "desc" => {
                let _ = self.take("describe") || self.take("desc");
                Ok(if self.take("cluster") { Body::DescribeCluster } else { self.rest_is(Body::Describe) })
            }
            _ => self.stuck("a statement's first word"),
        }
    }

    fn truncate(&mut self) -> Result<Body, Unknown> {
        self.expect("truncate")?;
        // `TABLE` is reserved: it cannot be the table's name.
        let _ = self.take("table") || self.take("columnfamily");
        Ok(Body::Truncate(self.qualified_name()?))
    }

    fn use_keyspace(&mut self) -> Result<Body, Unknown> {
        self.expect("use")?;
        Ok(Body::Use(self.name()?))
    }
}

#[cfg(test)]
mod tests;
