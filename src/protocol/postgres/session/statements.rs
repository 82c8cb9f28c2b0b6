//! Prepared statements and portals of a session, as the server will have them when it has done what was sent. What it
//! skips because of an error is undone here, newest first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::postgres::plan::{Script, Statement};

/// A statement that was parsed, by Parse.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// Its plan; at most one statement in it.
    pub(super) script: Arc<Script>,
    /// The client's text; empty when the plan needs none of it.
    pub(super) text: Bytes,
    /// Parameter types as the client declared them.
    pub(super) types: Arc<[u32]>,
    /// The text that the server has carries the RETURNING of this plan, which may be older than `script`.
    pub(super) asked: Option<Arc<Script>>,
    /// The server's text asks for the wrong key, or for none: a statement that asks rightly is bound in its place.
    pub(super) twin: bool,
    /// Tells it from others of its name.
    pub(super) serial: u64,
}

impl Prepared {
    /// The text that the server has carries the RETURNING that the plan wants.
    pub(super) fn carries(&self) -> bool {
        self.asked.is_some() && !self.twin
    }
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
