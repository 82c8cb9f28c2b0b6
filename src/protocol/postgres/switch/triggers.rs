//! User triggers: on the primary each as its owner set it, on the secondary silent, because what they did on the primary
//! is mirrored like any other write.
//!
//! Where the mirror's role may set `session_replication_role = replica`, ordinary triggers do not fire on mirrored rows,
//! and nothing is done to them. Where it may not, those that would fire are disabled on the secondary ([`still`]) and
//! given back when it becomes the primary ([`wake`]): by name, each with the state that it had. `ENABLE TRIGGER USER`
//! would make `ALWAYS`, `REPLICA` and disabled triggers ordinary ones (POSTGRES-CORNERS 23), and visits tables without
//! any; each of these visits waits for an autovacuum of the table.
//!
//! The states are kept in `tandem.trigger` on that side, written in the transaction that disables: there is a row for
//! every trigger that tandem has silenced, and for no other. A trigger that an operator disabled on the target before
//! the first switch has none; then the trigger of the same name on the old primary says what it shall be.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::protocol::postgres::catalog::quote;
use crate::protocol::postgres::client::{self, Client, DataRow, Format};

use super::{Bounds, Error, SCHEMA, literal};

/// When a trigger fires: `pg_trigger.tgenabled` (documentation, "pg_trigger").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `O`: but for sessions in the role `replica`.
    Origin,
    /// `D`: never.
    Disabled,
    /// `R`: for sessions in the role `replica` only.
    Replica,
    /// `A`: always.
    Always,
}

impl State {
    fn of(letter: &str) -> Option<State> {
        match letter {
            "O" => Some(State::Origin),
            "D" => Some(State::Disabled),
            "R" => Some(State::Replica),
            "A" => Some(State::Always),
            _ => None,
        }
    }

    fn letter(self) -> char {
        match self {
            State::Origin => 'O',
            State::Disabled => 'D',
            State::Replica => 'R',
            State::Always => 'A',
        }
    }

    /// The words of `ALTER TABLE`.
    fn sql(self) -> &'static str {
        match self {
            State::Origin => "ENABLE TRIGGER",
            State::Disabled => "DISABLE TRIGGER",
            State::Replica => "ENABLE REPLICA TRIGGER",
            State::Always => "ENABLE ALWAYS TRIGGER",
        }
    }

    /// It fires on what an ordinary session writes.
    pub(super) fn fires(self) -> bool {
        matches!(self, State::Origin | State::Always)
    }
}

/// What names a trigger on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Of the table.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The trigger.
    pub trigger: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.trigger, self.table())
    }
}

impl Name {
    /// The table's, for people.
    pub(super) fn table(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    fn table_sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.table))
    }
}

/// One user trigger of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Its name.
    pub name: Name,
    /// What it is now.
    pub state: State,
    /// What it was before tandem silenced it.
    pub saved: Option<State>,
    /// Our role may change it: it is a member of the table's owner.
    pub may_alter: bool,
}

impl Trigger {
    /// What it is to its owner.
    pub fn meant(&self) -> State {
        self.saved.unwrap_or(self.state)
    }
}

// Those of views (INSTEAD OF) and of foreign tables meet no mirrored row. A partition's copy of a user trigger is called
// internal by 14, as those of keys are by all.
const READ: &str = "SELECT n.nspname, c.relname, t.tgname, t.tgenabled, pg_catalog.pg_has_role(c.relowner, 'USAGE') \
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') \
    AND (NOT t.tgisinternal OR (t.tgparentid <> 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o \
      WHERE o.oid = t.tgconstraint AND o.contype <> 't'))) \
    AND n.nspname <> 'tandem' AND n.nspname !~ '^pg_' ORDER BY 1, 2, 3";

const KEPT: &str = "SELECT pg_catalog.to_regclass('tandem.trigger') IS NOT NULL";

const SAVED: &str = "SELECT schema_name, table_name, trigger_name, state FROM tandem.trigger";

const STORE: &str = "CREATE TABLE IF NOT EXISTS tandem.trigger (schema_name text, table_name text, trigger_name text, \
    state \"char\" NOT NULL, PRIMARY KEY (schema_name, table_name, trigger_name))";

/// The user triggers of a side. One round trip, a second one where tandem has silenced some.
pub async fn read(conn: &mut Client) -> Result<Vec<Trigger>, client::Error> {
    conn.put_statement(READ, &[], Format::Text);
    conn.put_sync();
    conn.put_statement(KEPT, &[], Format::Text);
    conn.put_sync();
    conn.send().await?;
    let rows = conn.rows().await?;
    let kept = conn.rows().await?.first().ok_or(client::Error::Value(0))?.bool(0)?;
    let saved = if kept { saved(conn).await? } else { HashMap::new() };
    rows.iter().map(|row| trigger(row, &saved)).collect()
}

async fn saved(conn: &mut Client) -> Result<HashMap<Name, State>, client::Error> {
    conn.simple(SAVED).await?.iter().map(|row| Ok((name(row)?, state(row)?))).collect()
}

fn name(row: &DataRow) -> Result<Name, client::Error> {
    Ok(Name { schema: row.string(0)?, table: row.string(1)?, trigger: row.string(2)? })
}

fn state(row: &DataRow) -> Result<State, client::Error> {
    row.text(3)?.and_then(State::of).ok_or(client::Error::Value(3))
}

fn trigger(row: &DataRow, saved: &HashMap<Name, State>) -> Result<Trigger, client::Error> {
    let name = name(row)?;
    let saved = saved.get(&name).copied();
    Ok(Trigger { name, state: state(row)?, saved, may_alter: row.bool(4)? })
}

/// What ordinary sessions of this role would be after it is asked: may it set `session_replication_role`? Tried, because
/// there is no way to ask before 15.
pub async fn may_be_replica(conn: &mut Client) -> Result<bool, client::Error> {
    let tried = conn.simple("BEGIN; SET LOCAL session_replication_role = replica; ROLLBACK").await;
    match tried {
        Ok(_) => Ok(true),
        Err(client::Error::Db(_)) => conn.simple("ROLLBACK").await.map(|_| false),
        Err(error) => Err(error),
    }
}

/// A change of some triggers' states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Change {
    alter: Vec<(Name, State)>,
    /// What the changed ones were, to be kept.
    save: Vec<(Name, State)>,
    /// Nothing is kept any more.
    forget: bool,
}

/// Silence the user triggers of a side that is the secondary of a mirror that may not be `replica`. How many were
/// changed.
///
/// # Errors
/// None was changed: a table is not ours to alter, or was locked for longer than [`Bounds::lock`].
pub async fn still(conn: &mut Client, bounds: Bounds) -> Result<usize, Error> {
    let change = silence(&read(conn).await?);
    apply(conn, &change, bounds).await
}

/// As [`still`], of a secondary whose triggers a walk that ended may have woken. Those that are not ours to alter it cannot have
/// woken: they are as they were before it. Names of those that fire.
///
/// # Errors
/// None was changed: a table was locked for longer than [`Bounds::lock`].
pub async fn still_again(conn: &mut Client, bounds: Bounds) -> Result<Vec<Name>, Error> {
    let (ours, others): (Vec<_>, Vec<_>) = read(conn).await?.into_iter().partition(|trigger| trigger.may_alter);
    apply(conn, &silence(&ours), bounds).await?;
    Ok(others.into_iter().filter(|trigger| trigger.state.fires()).map(|trigger| trigger.name).collect())
}

/// Triggers of an old primary, silenced in a transaction that is still open: the locks are had and nothing can refuse any
/// more, but until [`Held::commit`] they are as they were. Dropped, the server rolls it back: a switch that ends before
/// its flip lets no client write past a silent trigger.
#[derive(Debug)]
pub struct Held {
    conn: Client,
    open: bool,
}

/// As [`still`], but not yet true. The connection is silent until the commit, for less than the server's patience with
/// idle transactions (10 s by [`super::connect`]).
///
/// # Errors
/// As [`still`].
pub async fn hold_still(mut conn: Client, bounds: Bounds) -> Result<Held, Error> {
    let change = silence(&read(&mut conn).await?);
    let open = begin(&mut conn, &change, bounds).await?;
    Ok(Held { conn, open })
}

impl Held {
    /// The flip is durable: they are silent when this returns, and the mirror may write. The connection comes back.
    ///
    /// # Errors
    /// Nobody knows whether they are: [`still`] says so, or makes it so.
    pub async fn commit(mut self) -> Result<Client, Error> {
        if self.open {
            self.conn.simple("COMMIT").await?;
        }
        Ok(self.conn)
    }
}

fn silence(triggers: &[Trigger]) -> Change {
    let firing = triggers.iter().filter(|trigger| trigger.state.fires());
    let save: Vec<_> = firing.map(|trigger| (trigger.name.clone(), trigger.state)).collect();
    let alter = save.iter().map(|(name, _)| (name.clone(), State::Disabled)).collect();
    Change { alter, save, forget: false }
}

/// Give the triggers of a side back: it becomes, or stays, the primary. `others` are those of the other side, asked
/// where tandem remembers nothing, unless the mirror's role may be `replica` here (`replica`): then nobody had a reason
/// to disable them. How many were changed.
///
/// # Errors
/// None was changed: a table is not ours to alter, or was locked for longer than [`Bounds::lock`].
pub async fn wake(conn: &mut Client, replica: bool, others: &[Trigger], bounds: Bounds) -> Result<usize, Error> {
    let change = restore(&read(conn).await?, replica, others);
    apply(conn, &change, bounds).await
}

/// What [`wake`] makes of each trigger.
pub(super) fn after_wake<'t>(
    triggers: &'t [Trigger],
    replica: bool,
    others: &[Trigger],
) -> impl Iterator<Item = (&'t Name, State)> {
    let others = if replica { &[] } else { others };
    let others: HashMap<Name, State> = others.iter().map(|other| (other.name.clone(), other.meant())).collect();
    triggers.iter().map(move |trigger| {
        let state = match (trigger.saved, trigger.state) {
            (Some(saved), _) => saved,
            (None, State::Disabled) => others.get(&trigger.name).copied().unwrap_or(State::Disabled),
            (None, state) => state,
        };
        (&trigger.name, state)
    })
}

fn restore(triggers: &[Trigger], replica: bool, others: &[Trigger]) -> Change {
    let shall = triggers.iter().zip(after_wake(triggers, replica, others));
    let changed = shall.filter(|(trigger, (_, shall))| trigger.state != *shall);
    Change {
        alter: changed.map(|(_, (name, shall))| (name.clone(), shall)).collect(),
        save: Vec::new(),
        forget: triggers.iter().any(|trigger| trigger.saved.is_some()),
    }
}

async fn apply(conn: &mut Client, change: &Change, bounds: Bounds) -> Result<usize, Error> {
    if begin(conn, change, bounds).await? {
        conn.simple("COMMIT").await?;
    }
    Ok(change.alter.len())
}

/// True: it is done in a transaction that is open. Refused, there is none.
async fn begin(conn: &mut Client, change: &Change, bounds: Bounds) -> Result<bool, Error> {
    if change.alter.is_empty() && !change.forget {
        return Ok(false);
    }
    let begun = conn.simple(&format!("BEGIN; {}", change.statements(bounds).join("; "))).await;
    if let Err(client::Error::Db(_)) = &begun {
        conn.simple("ROLLBACK").await?;
    }
    Ok(begun.map(|_| true)?)
}

impl Change {
    /// All locks are taken by one statement, so that one bound holds for all of them.
    fn statements(&self, bounds: Bounds) -> Vec<String> {
        let mut statements = vec![
            format!("SET LOCAL lock_timeout = {}", bounds.lock.as_millis().max(1)),
            format!("SET LOCAL statement_timeout = {}", bounds.statement.min(bounds.lock).as_millis().max(1)),
        ];
        statements.extend(self.lock());
        statements.extend(self.keep());
        // ONLY: each partition's copy of a trigger has a state of its own, and is listed by itself.
        let alter = |(name, state): &(Name, State)| {
            format!("ALTER TABLE ONLY {} {} {}", name.table_sql(), state.sql(), quote(&name.trigger))
        };
        statements.extend(self.alter.iter().map(alter));
        if self.forget {
            statements.push("DELETE FROM tandem.trigger".to_owned());
        }
        statements
    }

    /// What `ALTER TABLE .. TRIGGER` takes anyway, in one order everywhere.
    fn lock(&self) -> Option<String> {
        let mut tables: Vec<_> = self.alter.iter().map(|(name, _)| format!("ONLY {}", name.table_sql())).collect();
        tables.sort_unstable();
        tables.dedup();
        let list = tables.join(", ");
        (!tables.is_empty()).then(|| format!("LOCK TABLE {list} IN SHARE ROW EXCLUSIVE MODE"))
    }

    fn keep(&self) -> Vec<String> {
        if self.save.is_empty() {
            return Vec::new();
        }
        let mut insert =
            String::from("INSERT INTO tandem.trigger (schema_name, table_name, trigger_name, state) VALUES ");
        for (at, (name, state)) in self.save.iter().enumerate() {
            let [schema, table, trigger] = [&name.schema, &name.table, &name.trigger].map(|text| literal(text));
            let comma = if at > 0 { ", " } else { "" };
            let state = state.letter();
            write!(insert, "{comma}({schema}, {table}, {trigger}, '{state}')").expect("a string takes everything");
        }
        // A row for a trigger that fires is a leftover: somebody enabled it since.
        insert.push_str(" ON CONFLICT (schema_name, table_name, trigger_name) DO UPDATE SET state = excluded.state");
        vec![SCHEMA.to_owned(), STORE.to_owned(), insert]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(name: &str, state: State, saved: Option<State>) -> Trigger {
        let name = Name { schema: "public".into(), table: "t".into(), trigger: name.into() };
        Trigger { name, state, saved, may_alter: true }
    }

    fn altered(change: &Change) -> Vec<(&str, State)> {
        change.alter.iter().map(|(name, state)| (name.trigger.as_str(), *state)).collect()
    }

    #[test]
    fn only_what_would_fire_is_silenced_and_kept_as_it_was() {
        let triggers = [
            trigger("a", State::Always, None),
            trigger("d", State::Disabled, None),
            trigger("o", State::Origin, None),
            trigger("r", State::Replica, None),
            trigger("s", State::Disabled, Some(State::Origin)),
        ];
        let change = silence(&triggers);
        assert_eq!(altered(&change), [("a", State::Disabled), ("o", State::Disabled)]);
        assert_eq!(change.save.iter().map(|(_, state)| *state).collect::<Vec<_>>(), [State::Always, State::Origin]);
        assert!(!change.forget);
    }

    #[test]
    fn what_was_kept_is_given_back_and_what_an_operator_disabled_is_as_on_the_other_side() {
        let here = [
            trigger("kept", State::Disabled, Some(State::Always)),
            trigger("by_hand", State::Disabled, None),
            trigger("unknown", State::Disabled, None),
            trigger("left", State::Replica, None),
        ];
        let there = [
            trigger("kept", State::Origin, None),
            trigger("by_hand", State::Disabled, Some(State::Origin)),
            trigger("left", State::Origin, None),
        ];
        let change = restore(&here, false, &there);
        assert_eq!(altered(&change), [("kept", State::Always), ("by_hand", State::Origin)]);
        assert!(change.forget);
        assert_eq!(altered(&restore(&here[1..], false, &[])), []);
        assert!(!restore(&here[1..], false, &[]).forget);
    }

    #[test]
    fn names_are_quoted_as_sql_reads_them() {
        let name = Name { schema: "a\"b".into(), table: "o'clock".into(), trigger: "x y".into() };
        let change =
            Change { alter: vec![(name.clone(), State::Disabled)], save: vec![(name, State::Origin)], forget: false };
        let sql = change.statements(Bounds::default()).join("; ");
        assert!(sql.contains(r#"ALTER TABLE ONLY "a""b"."o'clock" DISABLE TRIGGER "x y""#), "{sql}");
        assert!(sql.contains(r#"('a"b', 'o''clock', 'x y', 'O')"#), "{sql}");
    }
}
