//! Why a payment's attempt ended, told from what a side said: whose trouble it is, one table's, a lock's or a server's.

use crate::mirror::state::copier::{self, Waiting};
use crate::protocol::postgres::catalog::LoadError;
use crate::protocol::postgres::client::{self, DbError};
use crate::record::TableId;

use super::link::{on_primary, on_secondary};
use super::schema::{At, Schema};

/// The SQLSTATE of a lock that was not waited for any longer.
pub(super) const LOCKED: &str = "55P03";

/// Why an attempt ended.
pub(super) enum Trouble {
    /// The primary's connection, or its server.
    Primary(client::Error),
    /// The secondary's connection, or its server.
    Secondary(client::Error),
    /// The secondary refuses what was written to this table.
    Table(TableId, Box<DbError>),
    /// The secondary misses something while this table is written: not the schema that was read, or its own code does not find
    /// what it names.
    Missing(TableId, Box<DbError>),
    /// The primary refuses to read this table; S is gone with it.
    Unreadable(TableId, String),
    /// The primary cannot read keys of this table: they were written under another one. S is gone with it.
    Unfit(TableId, String),
    /// Not the schema that was read.
    Stale(String),
    /// Somebody has locked one of these tables, or rows of it.
    Locked(At, Vec<TableId>, String),
    /// Somebody has locked on the secondary what a schema change of this table, if of any, wants.
    Behind(TableId, String),
}

impl Trouble {
    pub(super) fn reading(at: At, table: TableId, error: client::Error) -> Trouble {
        match at {
            At::Primary => Trouble::reading_primary(table, error),
            // Only the closure reads there: as with the primary, the table is left out and S taken anew.
            At::Secondary => match Trouble::writing(table, error) {
                Trouble::Table(table, error) => Trouble::Unreadable(table, error.to_string()),
                Trouble::Missing(_, error) => Trouble::Stale(error.to_string()),
                trouble => trouble,
            },
        }
    }

    pub(super) fn reading_primary(table: TableId, error: client::Error) -> Trouble {
        match error {
            client::Error::Db(error) => match error.code.as_str() {
                LOCKED => Trouble::Locked(At::Primary, vec![table], error.to_string()),
                "42P01" | "42703" | "42704" | "3F000" | "40001" | "57014" => Trouble::Stale(error.to_string()),
                // Values that are none: of the wrong length they are called a broken protocol.
                code if code.starts_with("22") || code == "08P01" => Trouble::Unfit(table, error.to_string()),
                code if is_damage(code) => Trouble::Unreadable(table, error.to_string()),
                code if !about_the_statement(code) => Trouble::Primary(client::Error::Db(error)),
                _ => Trouble::Unreadable(table, error.to_string()),
            },
            error => Trouble::Primary(error),
        }
    }

    pub(super) fn writing(table: TableId, error: client::Error) -> Trouble {
        match error {
            client::Error::Db(error) => match error.code.as_str() {
                LOCKED => Trouble::Locked(At::Secondary, vec![table], error.to_string()),
                "42P01" | "42703" => Trouble::Missing(table, error),
                code if of_the_table(code) => Trouble::Table(table, error),
                _ => Trouble::Secondary(client::Error::Db(error)),
            },
            error => Trouble::Secondary(error),
        }
    }

    /// What the engine is told, and whether the connections are still good.
    pub(super) fn told(self, schema: &Schema) -> (copier::Error, bool) {
        match self {
            Trouble::Behind(table, change) => {
                let name = if table == TableId::NONE { change.clone() } else { schema.name(table) };
                let why = format!("{change} waits for a lock on the secondary, and all other tables wait for it");
                (copier::Error::Waits(Waiting { name, why, owed: Vec::new(), along: Vec::new() }), true)
            }
            Trouble::Primary(error) => (on_primary(error), false),
            Trouble::Secondary(error) => (on_secondary(error), false),
            Trouble::Table(_, error) => (copier::Error::Secondary(error.to_string()), false),
            Trouble::Missing(_, error) => (copier::Error::Stale(error.to_string()), true),
            Trouble::Unreadable(_, why) | Trouble::Unfit(_, why) | Trouble::Stale(why) | Trouble::Locked(_, _, why) => {
                (copier::Error::Stale(why), true)
            }
        }
    }
}

/// The SQLSTATE speaks of the statement and its rows (data, constraints, types, privileges), not of the server's state.
pub(super) fn about_the_statement(code: &str) -> bool {
    let classes = ["0A", "21", "22", "23", "42", "44", "P0", "54", "27", "38", "39", "2F"];
    // A table that a publication holds, without a replica identity, takes no DELETE (`CheckCmdReplicaIdentity`).
    code == "55000" || classes.iter().any(|class| code.starts_with(class))
}

/// Met while a table is read or written, the SQLSTATE speaks of a file or an index of it that is damaged or gone, or of a row that
/// is: `XX000` is also what extensions raise who think of no other (PostGIS does).
pub(super) fn is_damage(code: &str) -> bool {
    ["XX000", "XX001", "XX002", "58P01", "58030"].contains(&code)
}

/// Met while a table of the secondary is written, the SQLSTATE speaks of that table alone: besides the statement and its rows of
/// damage, or of a server that a foreign table of its triggers is on.
pub(super) fn of_the_table(code: &str) -> bool {
    about_the_statement(code) || is_damage(code) || code.starts_with("HV")
}

pub(super) fn loading(error: LoadError, side: fn(client::Error) -> Trouble) -> Trouble {
    match error {
        // Functions of the catalog answer for now: what is gone since the snapshot has no name and no privileges.
        LoadError::Client(client::Error::Value(_)) => Trouble::Stale("the schema changed while it was read".into()),
        LoadError::Client(error) => unlocked(error, side),
        other => side(client::Error::Config(other.to_string())),
    }
}

/// Who looks at a table that somebody has locked (VACUUM FULL, a long ALTER TABLE) looks again; the connection is as good as
/// before.
pub(super) fn unlocked(error: client::Error, side: fn(client::Error) -> Trouble) -> Trouble {
    if error.code() == Some(LOCKED) { Trouble::Stale(error.to_string()) } else { side(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_of_one_table_is_that_table_s_alone() {
        let trouble = |code: &str| {
            let error = DbError { code: code.into(), ..DbError::default() };
            Trouble::writing(TableId(1), client::Error::Db(Box::new(error)))
        };
        for code in ["XX000", "XX001", "XX002", "58P01", "58030", "HV00N", "23505"] {
            assert!(matches!(trouble(code), Trouble::Table(TableId(1), _)), "{code}");
        }
        for code in ["53100", "57P01", "58000", "40001"] {
            assert!(matches!(trouble(code), Trouble::Secondary(_)), "{code}");
        }
    }

    #[test]
    fn what_cannot_be_read_of_one_table_is_that_table_s_alone() {
        let trouble = |code: &str| {
            let error = DbError { code: code.into(), ..DbError::default() };
            Trouble::reading_primary(TableId(1), client::Error::Db(Box::new(error)))
        };
        for code in ["XX000", "XX001", "XX002", "58P01", "58030", "42501"] {
            assert!(matches!(trouble(code), Trouble::Unreadable(TableId(1), _)), "{code}");
        }
        for code in ["53100", "57P01", "58000"] {
            assert!(matches!(trouble(code), Trouble::Primary(_)), "{code}");
        }
    }
}
