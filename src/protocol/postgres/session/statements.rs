//! Prepared statements and portals of a session, as the server will have them when it has done what was sent. What it
//! skips because of an error is undone here, newest first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::postgres::catalog::FIRST_NORMAL_OID;
use crate::protocol::postgres::key::oid;
use crate::protocol::postgres::plan::{Action, Script, Statement};

/// How the values of a statement come, in ascending order of what that asks of types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bound {
    /// None came.
    #[default]
    Never,
    /// As text.
    Text,
    /// Some in binary.
    Binary,
}

/// A statement that was parsed, by Parse.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// Its plan; at most one statement in it.
    pub(super) script: Arc<Script>,
    /// The client's text; empty when the plan needs none of it.
    pub(super) text: Bytes,
    /// Parameter types as the client declared them.
    pub(super) types: Arc<[u32]>,
    /// The same as its server has them, as far as that is known: it keeps what it found when it was parsed, whatever becomes of
    /// the columns. 0: not known.
    pub(super) told: Arc<[u32]>,
    /// The epoch of the catalog under which it was parsed.
    pub(super) parsed: u64,
    /// Its server had the columns of that catalog then: no transaction of its own had changed any.
    pub(super) is_inferred: bool,
    /// How values were bound to it until now.
    pub(super) bound: Bound,
    /// The text that the server has carries the RETURNING of this plan, which may be older than `script`.
    pub(super) asked: Option<Arc<Script>>,
    /// The server's text asks for the wrong key, or for none: a statement that asks rightly is bound in its place.
    pub(super) twin: bool,
    /// Tells it from others of its name.
    pub(super) serial: u64,
}

impl Prepared {
    /// The server has described its parameters.
    pub(super) fn is_told(&mut self, described: impl Iterator<Item = u32>) {
        let declared = |at: usize| self.types.get(at).copied().filter(|&oid| !is_open(oid));
        self.told = described.enumerate().map(|(at, oid)| declared(at).unwrap_or(oid)).collect();
    }

    /// It is planned anew in that epoch, in which its columns may have other types: parameters whose types nobody told have those
    /// that the plan of its Parse says, and so have those of the user's types, which may be domains, and are read as what these
    /// are made of.
    pub(super) fn infer(&mut self, epoch: u64) {
        if self.is_old() || epoch == self.parsed || !self.is_inferred {
            return;
        }
        let Some(Action::Evident(evident)) = self.script.statements.first().map(|statement| &statement.action) else {
            return;
        };
        let mut told = self.told.to_vec();
        for (index, of) in evident.inferred() {
            let index = usize::from(index);
            let is_declared = self.types.get(index).is_some_and(|&oid| !is_open(oid));
            if told.len() <= index {
                told.resize(index + 1, 0);
            }
            if !is_declared && (is_open(told[index]) || told[index] >= FIRST_NORMAL_OID) {
                told[index] = of;
            }
        }
        self.told = told.into();
    }

    /// Its columns may have other types than when it was parsed.
    pub(super) fn is_old(&self) -> bool {
        self.script.epoch != self.parsed
    }

    /// The type by which the value of a parameter is read; 0: the column's own.
    pub(super) fn read_as(&self, index: usize) -> u32 {
        let (declared, told) = (&self.types, &self.told);
        let [declared, told] = [declared, told].map(|types| types.get(index).copied().unwrap_or(0));
        match told {
            _ if !is_open(declared) => declared,
            0 | oid::UNKNOWN | FIRST_NORMAL_OID.. => {
                if self.is_old() {
                    UNREAD
                } else {
                    0
                }
            }
            told => told,
        }
    }

    /// Would the server read its parameters otherwise, were it parsed in that epoch? Nobody knows what types they have.
    pub(super) fn is_lost(&self, epoch: u64) -> bool {
        let params = self.script.statements.first().map_or(0, |statement| usize::from(statement.params));
        let is_known = |at: usize| self.told.get(at).is_some_and(|&oid| !is_open(oid));
        epoch != self.parsed && !(0..params).all(is_known)
    }

    /// The types to parse it by on another server, whose columns may have others. What is bound as text means what they take it
    /// for; what is bound in binary, or may be, is made for those of here.
    pub(super) fn elsewhere(&self, bound: Bound) -> Vec<u32> {
        if bound == Bound::Text { self.types.to_vec() } else { self.portable() }
    }

    /// Those of here, as far as they are the same on another server, as the built-in ones are.
    fn portable(&self) -> Vec<u32> {
        let declared = |at: usize| self.types.get(at).copied().unwrap_or(0);
        let told = self.told.iter().enumerate();
        told.map(|(at, &oid)| if is_open(declared(at)) && oid >= FIRST_NORMAL_OID { 0 } else { oid }).collect()
    }

    /// The text that the server has carries the RETURNING that the plan wants.
    pub(super) fn carries(&self) -> bool {
        self.asked.is_some() && !self.twin
    }
}

/// Does the text name no table but the one that it writes to? Then no other's columns give its parameters their types. Words are
/// taken for more than they are: the answer errs to the safe side.
pub(super) fn names_one_table(text: &[u8]) -> bool {
    let mut words = text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').filter(|word| !word.is_empty());
    let is = |word: &[u8], others: &[&str]| others.iter().any(|other| word.eq_ignore_ascii_case(other.as_bytes()));
    let Some(first) = words.next().filter(|first| is(first, &["insert", "update", "delete"])) else { return false };
    let froms = usize::from(is(first, &["delete"]));
    let words: Vec<&[u8]> = words.collect();
    let others = words.iter().filter(|word| is(word, &["from"])).count() > froms;
    !others && !words.iter().any(|word| is(word, &["select", "table", "using", "with"]))
}

/// No type by which anything is read.
const UNREAD: u32 = u32::MAX;

/// The server infers it.
fn is_open(oid: u32) -> bool {
    matches!(oid, 0 | oid::UNKNOWN)
}

/// A statement prepared by SQL.
#[derive(Clone, Debug)]
pub(super) struct SqlPrepared {
    pub(super) inner: Arc<Statement>,
    pub(super) types: Vec<u32>,
    pub(super) text: Bytes,
    /// Tells it from others of its name.
    pub(super) serial: u64,
}

/// A portal: what it will do when executed.
#[derive(Clone, Debug)]
pub(super) struct Portal {
    /// `None`: of a statement that we do not know.
    pub(super) statement: Option<Prepared>,
    /// Its hidden columns come in binary.
    pub(super) binary: bool,
    /// Runs with our RETURNING.
    pub(super) asked: bool,
}

/// What a name meant before a message changed it, should the server skip that message.
#[derive(Debug, Default)]
pub(super) enum Undo {
    /// The message changed nothing.
    #[default]
    Nothing,
    /// A statement's name.
    Statement(Bytes, Option<Prepared>),
    /// A portal's name.
    Portal(Bytes, Option<Portal>),
}

impl Undo {
    pub(super) fn is_of_same_name(&self, other: &Undo) -> bool {
        match (self, other) {
            (Undo::Statement(one, _), Undo::Statement(other, _)) | (Undo::Portal(one, _), Undo::Portal(other, _)) => {
                one == other
            }
            _ => false,
        }
    }
}

/// All of a session's statements and portals. The unnamed ones have places of their own: no hash on the hot path.
#[derive(Default)]
pub(super) struct Statements {
    unnamed: Option<Prepared>,
    named: HashMap<Bytes, Prepared>,
    sql: HashMap<String, SqlPrepared>,
    unnamed_portal: Option<Portal>,
    portals: HashMap<Bytes, Portal>,
    serial: u64,
}

impl Statements {
    /// Each statement has its own.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Those with a name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Bytes, &Prepared)> {
        self.named.iter()
    }

    /// Those of SQL.
    pub(super) fn all_sql(&self) -> impl Iterator<Item = (&String, &SqlPrepared)> {
        self.sql.iter()
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Prepared> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// Does the server have a statement of this name, by Parse or by PREPARE? They share one name space.
    pub(super) fn is_taken(&self, name: &[u8]) -> bool {
        self.get(name).is_some() || std::str::from_utf8(name).is_ok_and(|name| self.sql.contains_key(name))
    }

    fn get_mut(&mut self, name: &[u8]) -> Option<&mut Prepared> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }

    /// The server has described the parameters of this one, if its name still means it.
    pub(super) fn told(&mut self, name: &[u8], serial: u64, described: impl Iterator<Item = u32>) {
        if let Some(statement) = self.get_mut(name).filter(|statement| statement.serial == serial) {
            statement.is_told(described);
        }
    }

    /// Values are bound to this one so.
    pub(super) fn bound(&mut self, name: &[u8], bound: Bound) {
        if let Some(statement) = self.get_mut(name) {
            statement.bound = statement.bound.max(bound);
        }
    }

    /// All were parsed anew by another server, under a catalog of this epoch.
    pub(super) fn moved(&mut self, epoch: u64) {
        for statement in self.named.values_mut().chain(&mut self.unnamed) {
            statement.told = statement.elsewhere(statement.bound).into();
            (statement.parsed, statement.is_inferred) = (epoch, true);
        }
    }

    pub(super) fn put(&mut self, name: &[u8], statement: Prepared) -> Undo {
        if name.is_empty() {
            return Undo::Statement(Bytes::new(), self.unnamed.replace(statement));
        }
        let name = Bytes::copy_from_slice(name);
        Undo::Statement(name.clone(), self.named.insert(name, statement))
    }

    /// The unnamed statement goes: by Close, or because a simple Query drops it.
    pub(super) fn remove_unnamed(&mut self) -> Undo {
        match self.unnamed.take() {
            None => Undo::Nothing,
            was => Undo::Statement(Bytes::new(), was),
        }
    }

    /// The server skipped the message.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Statement(name, was) if name.is_empty() => self.unnamed = was,
            Undo::Portal(name, was) if name.is_empty() => self.unnamed_portal = was,
            Undo::Statement(name, was) => restore(&mut self.named, name, was),
            Undo::Portal(name, was) => restore(&mut self.portals, name, was),
        }
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.named.remove(name);
            if let Ok(name) = std::str::from_utf8(name) {
                self.sql.remove(name);
            }
        }
    }

    pub(super) fn sql(&self, name: &str) -> Option<&SqlPrepared> {
        self.sql.get(name)
    }

    pub(super) fn put_sql(&mut self, name: String, statement: SqlPrepared) {
        self.sql.insert(name, statement);
    }

    /// DEALLOCATE reaches statements of both kinds; `None` = all.
    pub(super) fn deallocate(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                self.sql.remove(name);
                self.named.remove(name.as_bytes());
            }
            None => {
                self.sql.clear();
                self.named.clear();
            }
        }
    }

    pub(super) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() { self.unnamed_portal.as_ref() } else { self.portals.get(name) }
    }

    pub(super) fn put_portal(&mut self, name: &[u8], portal: Portal) -> Undo {
        if name.is_empty() {
            return Undo::Portal(Bytes::new(), self.unnamed_portal.replace(portal));
        }
        let name = Bytes::copy_from_slice(name);
        Undo::Portal(name.clone(), self.portals.insert(name, portal))
    }

    pub(super) fn close_portal(&mut self, name: &[u8]) -> Undo {
        match self.portals.remove_entry(name) {
            None => Undo::Nothing,
            Some((name, was)) => Undo::Portal(name, Some(was)),
        }
    }

    /// Portals do not outlive their transaction (SQL cursors WITH HOLD only read).
    pub(super) fn transaction_over(&mut self) {
        if !self.portals.is_empty() {
            self.portals.clear();
        }
    }
}

fn restore<T>(of: &mut HashMap<Bytes, T>, name: Bytes, was: Option<T>) {
    match was {
        Some(was) => of.insert(name, was),
        None => of.remove(&name),
    };
}

#[cfg(test)]
mod tests {
    use super::names_one_table;

    #[test]
    fn only_a_text_that_surely_names_no_other_table_does_not() {
        for (text, alone) in [
            ("UPDATE acc SET bal = $2 WHERE id = $1", true),
            ("delete from acc where id = $1", true),
            ("INSERT INTO acc VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", true),
            ("UPDATE acc SET bal = $2 FROM other WHERE acc.id = other.id AND other.n = $1", false),
            ("DELETE FROM acc USING other WHERE acc.id = other.id AND other.n = $1", false),
            ("DELETE FROM acc WHERE id = (SELECT id FROM other WHERE n = $1)", false),
            ("WITH w AS (SELECT 1) DELETE FROM acc", false),
            ("", false),
        ] {
            assert_eq!(names_one_table(text.as_bytes()), alone, "{text}");
        }
    }
}
