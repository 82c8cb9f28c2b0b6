//! Where a hidden RETURNING would fail in this session though the client's own statement works: its role may write a
//! table and not read it (42501), or a temporary table bears the name and has other columns (42703).
//!
//! And where the keys in a text are not those of the rows that it writes: a temporary table or view bears the name, or a view of
//! another schema, which the session's path finds first.
//!
//! The server is asked by a hidden query before the first statement that could meet this, and again after whatever may
//! have changed the answer. Such a statement goes as it came, and what it wrote is counted.
//!
//! A schema change of a temporary table is nobody's business but the session's: repeated on the secondary, it would change, or
//! drop, the table that has this name for everybody.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::protocol::postgres::catalog::{Catalog, Kind, Relation};
use crate::protocol::postgres::plan::{Action, Counted, Ddl, Evident, Fetch, Meant, Script, Statement};
use crate::protocol::postgres::wire::{Fields, WireError, back};
use crate::record::TableId;

use super::counting::runs_user_code;
use super::expect::View;
use super::{Out, Session, Wait, asked_of};

const NAME: &[u8] = b"tandem names";

/// What the session's names and rights are worth.
#[derive(Default)]
pub(super) struct Names {
    /// As of this epoch of the catalog.
    epoch: u64,
    /// Asked inside a transaction, whose end may undo it.
    scoped: bool,
    /// Something ran since that may have made a temporary table.
    aged: bool,
    /// Tables that its role may not read.
    closed: HashSet<TableId>,
    /// Names of its temporary tables, and of what is like a table.
    temporary: HashSet<String>,
    /// Of the tables that share their name with a view or foreign table, those that the name alone means.
    visible: HashSet<TableId>,
}

/// Whose table a schema change is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Everybodys,
    /// A temporary one of the session.
    Sessions,
    /// Of both, or nobody knows.
    Unknown,
}

impl Session {
    /// `true`: the server was asked, or something must be waited for; the message comes again.
    pub(super) fn ask_names(&mut self, script: &Script, out: &mut Out<'_>) -> bool {
        if !script.statements.iter().any(|statement| self.is_doubtful(statement)) {
            return false;
        }
        let catalog = self.shared.catalog.now().clone();
        let is_either = script.statements.iter().any(is_either);
        let is_fresh = |names: &Names| names.epoch == catalog.epoch && !(is_either && names.aged);
        !self.names.as_ref().is_some_and(is_fresh) && self.ask_names_now(&catalog, out)
    }

    /// The same before a prepared statement runs once more: a temporary name may be there since it was prepared.
    pub(super) fn ask_names_again(&mut self, script: &Script, out: &mut Out<'_>) -> bool {
        let is_meant = |statement: &Statement| match statement.action {
            Action::Evident(_) => self.odd_names || is_either(statement),
            _ => false,
        };
        script.statements.iter().any(is_meant) && self.ask_names(script, out)
    }

    /// The same before a schema change that may be of a temporary table.
    pub(super) fn ask_temporary(&mut self, statements: &[Statement], out: &mut Out<'_>) -> bool {
        let is_doubtful = |statement: &Statement| match &statement.action {
            Action::Ddl(ddl) => !ddl.temporary && !ddl.bare.is_empty(),
            _ => false,
        };
        if !self.may_have_temporary || !statements.iter().any(is_doubtful) {
            return false;
        }
        let catalog = self.shared.catalog.now().clone();
        let fresh = self.names.as_ref().is_some_and(|names| names.epoch == catalog.epoch && !names.aged);
        !fresh && self.ask_names_now(&catalog, out)
    }

    fn ask_names_now(&mut self, catalog: &Catalog, out: &mut Out<'_>) -> bool {
        if self.unanswered {
            return false;
        }
        if !self.can_ask_first() {
            let pipelined = !self.skipping && self.status != b'E';
            if pipelined {
                self.wait = Wait::Answers;
            }
            return pipelined;
        }
        let scoped = self.in_block || self.open_started;
        self.names = Some(Names { epoch: catalog.epoch, scoped, ..Names::default() });
        self.ask_first(NAME, query(catalog, self.client_utf8).as_bytes(), View::Names, out);
        true
    }

    /// Whose table a schema change is of.
    pub(super) fn whose(&self, ddl: &Ddl) -> Whose {
        if ddl.bare.is_empty() || !self.may_have_temporary {
            return Whose::Everybodys;
        }
        let Some(names) = self.names.as_ref().filter(|names| !names.aged) else { return Whose::Unknown };
        match ddl.bare.iter().filter(|name| names.temporary.contains(*name)).count() {
            0 => Whose::Everybodys,
            all if all == ddl.bare.len() && !ddl.has_qualified => Whose::Sessions,
            _ => Whose::Unknown,
        }
    }

    /// A row of the answer.
    pub(super) fn names_row(&mut self, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields::new(back::DATA_ROW, body);
        fields.u16()?;
        let (kind, name) = (fields.value()?, fields.value()?);
        let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
        let Some(names) = &mut self.names else { return Ok(()) };
        let label = name.parse().map(TableId);
        match (kind, label) {
            (Some(b"t"), _) => drop(names.temporary.insert(name)),
            (Some(b"s"), Ok(label)) => drop(names.visible.insert(label)),
            (_, Ok(label)) => drop(names.closed.insert(label)),
            _ => {}
        }
        Ok(())
    }

    /// Names may mean something else now, and the role may be another.
    pub(super) fn names_may_differ(&mut self) {
        self.names = None;
        self.odd_names = true;
        self.may_have_temporary = true;
    }

    /// The user's code ran, and may have made a temporary table.
    pub(super) fn temporary_may_differ(&mut self) {
        self.may_have_temporary = true;
        if let Some(names) = &mut self.names {
            names.aged = true;
        }
    }

    /// A transaction ended.
    pub(super) fn names_end(&mut self) {
        self.names.take_if(|names| names.scoped);
    }

    /// The script as it is in this session: with nothing in it that would fail because tandem asks, and a FETCH counted
    /// where it may write.
    pub(super) fn askable(&self, script: Arc<Script>) -> Arc<Script> {
        let company = Company::of(&script);
        let fails = |statement: &Statement| self.is_doubtful(statement) && self.would_fail(statement, company);
        let opens = |action: &Action| matches!(action, Action::Cursor(_)) || runs_user_code(action);
        let hot = self.hot_cursor || script.statements.iter().any(|one| opens(&one.action));
        let fetches = |statement: &Statement| hot && matches!(statement.action, Action::Fetch(_));
        if !script.statements.iter().any(|statement| fails(statement) || fetches(statement)) {
            return script;
        }
        let plain = |statement: &Statement| match &statement.action {
            Action::Asked(asked) if fails(statement) => {
                let known = counted(asked.counted.as_ref(), "a table that the client may not read");
                Statement { action: Action::Counted(known), ..statement.clone() }
            }
            Action::Evident(evident) if fails(statement) => match self.is_hidden(statement, company) {
                true => hidden(evident, statement),
                false => {
                    let action = Action::Evident(Evident { fallback: None, ..evident.clone() });
                    Statement { action, ..statement.clone() }
                }
            },
            Action::Fetch(fetch) if hot => {
                let counted = Some(Counted::because("FETCH from a cursor that may write"));
                Statement { action: Action::Fetch(Fetch { counted, ..fetch.clone() }), ..statement.clone() }
            }
            _ => statement.clone(),
        };
        Arc::new(Script { statements: script.statements.iter().map(plain).collect(), ..(*script).clone() })
    }

    /// A prepared script as it is in this session now, where a temporary table or view has come to bear a name in it, or the name
    /// means a view. `None`: as it was.
    pub(super) fn heeded(&self, script: &Script) -> Option<Arc<Script>> {
        if !self.odd_names && !script.statements.iter().any(is_either) {
            return None;
        }
        let company = Company::of(script);
        let is_hidden = |statement: &Statement| match &statement.action {
            Action::Evident(evident) if is_either(statement) && !self.writes_own(evident) => true,
            _ => self.odd_names && self.is_hidden(statement, company),
        };
        if !script.statements.iter().any(is_hidden) {
            return None;
        }
        let heeded = |statement: &Statement| match &statement.action {
            Action::Evident(evident) if is_hidden(statement) => hidden(evident, statement),
            _ => statement.clone(),
        };
        Some(Arc::new(Script { statements: script.statements.iter().map(heeded).collect(), ..script.clone() }))
    }

    fn is_doubtful(&self, statement: &Statement) -> bool {
        let named = self.odd_names && matches!(statement.action, Action::Evident(_) | Action::Execute { .. });
        named || is_either(statement) || asked_of(statement).is_some_and(|asked| asked.rights || self.odd_names)
    }

    /// What was answered is of use unless something in the same text may change it.
    fn would_fail(&self, statement: &Statement, company: Company) -> bool {
        let catalog = self.shared.catalog.now();
        let is_closed = |names: &Names| tables_of(statement).any(|table| names.is_closed(table, &catalog));
        let known = self.names.as_ref().filter(|_| !company.changes_names);
        self.is_hidden(statement, company) || known.is_none_or(is_closed)
    }

    /// A temporary table or view bears the name of what it writes, or may: the same text makes one, or nobody answered.
    fn is_hidden(&self, statement: &Statement, company: Company) -> bool {
        if self.unanswered && self.names.is_none() && self.is_doubtful(statement) {
            return true;
        }
        company.makes_temporary || self.hides(tables_of(statement))
    }

    /// The rows that it writes are of the tables of its keys, as far as is known.
    pub(super) fn writes_own(&self, evident: &Evident) -> bool {
        match &evident.meant {
            Meant::Tables => true,
            Meant::Either(tables) => self.names.as_ref().is_some_and(|names| {
                let is_fresh = names.epoch == self.shared.catalog.now().epoch && !names.aged;
                is_fresh && tables.iter().any(|table| names.visible.contains(table))
            }),
            Meant::Others => false,
        }
    }

    /// As far as is known.
    pub(super) fn hides(&self, mut tables: impl Iterator<Item = TableId>) -> bool {
        let Some(names) = self.names.as_ref().filter(|names| !names.temporary.is_empty()) else { return false };
        let catalog = self.shared.catalog.now();
        tables.any(|table| names.is_hidden(table, &catalog))
    }
}

/// What a script does to the names in any of its statements.
#[derive(Clone, Copy)]
struct Company {
    /// It may make a temporary table.
    makes_temporary: bool,
    /// Names may mean something else behind one of them.
    changes_names: bool,
}

impl Company {
    fn of(script: &Script) -> Company {
        let any = |is: fn(&Action) -> bool| script.statements.iter().any(|one| is(&one.action));
        let unread = any(|action| matches!(action, Action::Opaque(_)));
        Company {
            makes_temporary: unread || any(|action| matches!(action, Action::Ddl(ddl) if ddl.temporary)),
            changes_names: unread || any(Action::is_of_session),
        }
    }
}

/// Its name may mean a table, or something else that bears it.
fn is_either(statement: &Statement) -> bool {
    matches!(&statement.action, Action::Evident(Evident { meant: Meant::Either(_), .. }))
}

/// Its keys are owed, for it may write them all the same; what it writes instead, the server counts.
fn hidden(evident: &Evident, statement: &Statement) -> Statement {
    let counted = counted(evident.counted.as_ref(), "a temporary table or view bears the name");
    let meant = Meant::Others;
    let action = Action::Evident(Evident { fallback: None, counted: Some(counted), meant, ..evident.clone() });
    Statement { action, ..statement.clone() }
}

impl Names {
    fn is_closed(&self, table: TableId, catalog: &Catalog) -> bool {
        family(table, catalog).any(|(id, _)| self.closed.contains(&id))
    }

    fn is_hidden(&self, table: TableId, catalog: &Catalog) -> bool {
        family(table, catalog).any(|(_, name)| self.temporary.contains(name))
    }
}

/// Tables that the statement's keys may be of, or that a hidden RETURNING would read.
pub(super) fn tables_of(statement: &Statement) -> impl Iterator<Item = TableId> {
    let evident = match &statement.action {
        Action::Evident(evident) => evident.keys.as_slice(),
        _ => &[],
    };
    let evident = evident.iter().flat_map(|key| key.tables.iter().map(|table| table.id));
    asked_of(statement).into_iter().flat_map(|asked| asked.tables.iter().copied()).chain(evident)
}

/// The server counts its rows.
fn counted(known: Option<&Counted>, why: &str) -> Counted {
    let mut known = known.cloned().unwrap_or_default();
    if known.why.is_empty() {
        why.clone_into(&mut known.why);
    }
    known.alone = false;
    known
}

/// The table, and what it is a partition or child of: the statement may name any of them.
fn family(table: TableId, catalog: &Catalog) -> impl Iterator<Item = (TableId, &str)> {
    let mut open: Vec<u32> = catalog.by_id.get(&table).copied().into_iter().collect();
    std::iter::from_fn(move || {
        let relation = catalog.relations.get(&open.pop()?)?;
        open.extend(&relation.parents);
        Some((relation.id, relation.name.as_str()))
    })
}

/// Tables that somebody may write and not read, and that this role may not read, by label; temporary tables. By name:
/// a table may have been made anew since the catalog was loaded. And, of tables that share their name with something else, those
/// that the name alone means: by oid, for one that was made anew is none that we know.
fn query(catalog: &Catalog, utf8: bool) -> String {
    let mut sql = String::from(
        "SELECT 't', c.relname::pg_catalog.text FROM pg_catalog.pg_class AS c \
         WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r', 'p', 'v', 'S', 'i', 'I') \
         AND pg_catalog.pg_table_is_visible(c.oid)",
    );
    let sendable = |relation: &&Arc<Relation>| utf8 || relation.schema.is_ascii() && relation.name.is_ascii();
    let blind = catalog.relations.values().filter(|relation| relation.hazards.blind).filter(sendable);
    let rows: Vec<String> = blind
        .map(|relation| format!("('{}', {}, {})", relation.id.0, literal(&relation.schema), literal(&relation.name)))
        .collect();
    if !rows.is_empty() {
        let _ = write!(
            sql,
            " UNION ALL SELECT 'r', v.label FROM (VALUES {}) AS v (label, schema, name) \
             JOIN pg_catalog.pg_namespace AS n ON n.nspname OPERATOR(pg_catalog.=) v.schema::pg_catalog.name \
             JOIN pg_catalog.pg_class AS c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid \
             AND c.relname OPERATOR(pg_catalog.=) v.name::pg_catalog.name \
             WHERE NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')",
            rows.join(", ")
        );
    }
    let rows: Vec<String> = shared(catalog).map(|table| format!("('{}', {})", table.id.0, table.oid)).collect();
    if !rows.is_empty() {
        let _ = write!(
            sql,
            " UNION ALL SELECT 's', v.label FROM (VALUES {}) AS v (label, oid) \
             WHERE pg_catalog.pg_table_is_visible(v.oid::pg_catalog.oid)",
            rows.join(", ")
        );
    }
    sql
}

/// The tables that share their name with a view or foreign table.
fn shared(catalog: &Catalog) -> impl Iterator<Item = &Arc<Relation>> {
    let is_other = |relation: &&Arc<Relation>| matches!(relation.kind, Kind::View | Kind::Foreign);
    catalog.by_name.values().filter(|oids| oids.len() > 1).flat_map(move |oids| {
        let all: Vec<_> = oids.iter().filter_map(|oid| catalog.relations.get(oid)).collect();
        let (others, tables): (Vec<_>, Vec<_>) = all.into_iter().partition(is_other);
        if others.is_empty() { Vec::new() } else { tables }
    })
}

/// A string that reads the same whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
