//! `CREATE`, `ALTER`, `DROP`: what of, and its name. Bodies are the server's business, but for column drops.

use super::super::statement::{Access, Action, Body, ColumnDrop, Name, Object, Schema, Unknown};
use super::super::token::Kind;
use super::Cursor;

impl Cursor<'_> {
    pub(super) fn definition(&mut self) -> Result<Body, Unknown> {
        let action = match self.keyword_here().as_str() {
            "create" => Action::Create,
            "alter" => Action::Alter,
            _ => Action::Drop,
        };
        self.advance();
        if let Some(access) = self.access(action) {
            return Ok(self.rest_is(Body::Access(access)));
        }
        let replace = self.take_all(&["or", "replace"]);
        let object = self.object()?;
        let tolerant = replace | self.tolerance();
        let (add, renames) = (Vec::new(), false);
        let schema = Schema { action, object, name: None, table: None, tolerant, drop: None, add, renames };
        let schema = self.defined(schema)?;
        Ok(self.rest_is(Body::Schema(schema)))
    }

    fn access(&mut self, action: Action) -> Option<Access> {
        match self.keyword_here().as_str() {
            "identity" => Some(Access::Identity),
            "role" | "user" => Some(match action {
                Action::Create => Access::CreateRole,
                Action::Alter => Access::AlterRole,
                Action::Drop => Access::DropRole,
            }),
            _ => None,
        }
    }

    fn object(&mut self) -> Result<Object, Unknown> {
        let _ = self.is(1, "index") && self.take("custom");
        let materialized = self.take("materialized");
        let object = match self.keyword_here().as_str() {
            "view" if materialized => Object::View,
            "keyspace" | "schema" => Object::Keyspace,
            "table" | "columnfamily" => Object::Table,
            "type" => Object::Type,
            "index" => Object::Index,
            "function" => Object::Function,
            "aggregate" => Object::Aggregate,
            "trigger" => Object::Trigger,
            _ => return self.stuck("what is created, altered or dropped"),
        };
        self.advance();
        Ok(object)
    }

    fn tolerance(&mut self) -> bool {
        self.take_all(&["if", "not", "exists"]) || self.take_all(&["if", "exists"])
    }

    /// The names behind the object, as each has its own.
    fn defined(&mut self, schema: Schema) -> Result<Schema, Unknown> {
        match (schema.object, schema.action) {
            (Object::Keyspace, _) => {
                let name = self.name()?;
                Ok(Schema { name: Some(Name { keyspace: Some(name.clone()), name }), ..schema })
            }
            (Object::Index, Action::Create) => {
                let name = if self.is(0, "on") { None } else { Some(self.qualified_name()?) };
                self.on_table(Schema { name, ..schema })
            }
            (Object::Trigger, _) => {
                let name = Some(self.qualified_name()?);
                self.on_table(Schema { name, ..schema })
            }
            (Object::View, Action::Create) => self.view(schema),
            (Object::Table, Action::Alter) => {
                let name = Some(self.qualified_name()?);
                let drop = self.column_drop()?;
                Ok(Schema { name, drop, add: self.column_add()?, renames: self.is(0, "rename"), ..schema })
            }
            _ => Ok(Schema { name: Some(self.qualified_name()?), ..schema }),
        }
    }

    fn on_table(&mut self, schema: Schema) -> Result<Schema, Unknown> {
        self.expect("on")?;
        self.of_table(schema)
    }

    /// Without a keyspace it is in that of the view or the index, if that says one. (Source: `prepare` of Cassandra's
    /// `CreateViewStatement` and `CreateIndexStatement`.)
    fn of_table(&mut self, schema: Schema) -> Result<Schema, Unknown> {
        let Name { keyspace, name } = self.qualified_name()?;
        let keyspace = keyspace.or_else(|| schema.name.as_ref()?.keyspace.clone());
        Ok(Schema { table: Some(Name { keyspace, name }), ..schema })
    }

    fn view(&mut self, schema: Schema) -> Result<Schema, Unknown> {
        let name = Some(self.qualified_name()?);
        while !self.is_at_end() && !self.is(0, "from") {
            self.advance();
        }
        self.expect("from")?;
        self.of_table(Schema { name, ..schema })
    }

    /// `ADD [IF NOT EXISTS] c int, d int STATIC`, or the columns in parentheses.
    fn column_add(&mut self) -> Result<Vec<String>, Unknown> {
        if !self.take("add") {
            return Ok(Vec::new());
        }
        let _ = self.take_all(&["if", "not", "exists"]);
        let _ = self.take("(");
        let mut columns = Vec::new();
        loop {
            columns.push(self.name()?);
            self.data_type()?;
            // `STATIC`, `MASKED WITH f(x, y)`: a comma in there is none between columns.
            let mut depth = 0_usize;
            while !self.is_at_end() && !(depth == 0 && (self.is(0, ",") || self.is(0, ")"))) {
                depth = if self.is(0, "(") { depth + 1 } else { depth.saturating_sub(usize::from(self.is(0, ")"))) };
                self.advance();
            }
            if !self.take(",") {
                return Ok(columns);
            }
        }
    }

    /// `DROP [IF EXISTS] c`, `DROP (c, d)`, each with `USING TIMESTAMP`; not `DROP COMPACT STORAGE`.
    fn column_drop(&mut self) -> Result<Option<ColumnDrop>, Unknown> {
        if !self.is(0, "drop") || self.is(1, "compact") && self.is(2, "storage") {
            return Ok(None);
        }
        self.advance();
        let _ = self.take_all(&["if", "exists"]);
        let columns = if self.is(0, "(") { self.names_in_parentheses()? } else { vec![self.name()?] };
        let (start, using_at) = (self.offset(), self.behind());
        let using = match self.take_all(&["using", "timestamp"]) {
            true if self.take_kind(Kind::Integer).is_none() => return self.stuck("a number"),
            true => Some(self.since(start)),
            false => None,
        };
        Ok(Some(ColumnDrop { columns, using, using_at }))
    }
}
