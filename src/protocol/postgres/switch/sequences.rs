//! Sequences: the mirror copies rows, so the numbers that `from` gave out must be given on `to` as well, before its
//! first client asks there.
//!
//! A sequence stands at a *position*: its last value, and whether that was given out. The numbers that a backend keeps
//! for itself (`CACHE`) lie behind the last value, so no backend needs to be asked. Positions are read after the drain,
//! when nobody asks for numbers, and never set back: an ascending sequence only goes up, a descending one only down.
//! One that cycles has no order, and is set as it is.
//!
//! A sequence that a column owns (serial, identity) meets the one that the same column owns on the other side, whatever
//! they are called; any other meets the one of its name. Where a column owns several, names come first, and what is left
//! on both sides meets only if it is one each: guessing could leave the one that is in use behind.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::check::Finding;
use crate::protocol::postgres::client::{self, Client, DataRow, Format, Param};
use crate::protocol::postgres::scope::Scope;
use crate::record::Side;

use super::{Error, array, rules};

/// Where a sequence stands. In the order of an ascending one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The last value.
    pub last: i64,
    /// It was given out; else it is the next one.
    pub called: bool,
}

/// One sequence of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    oid: u32,
    /// `schema.name`, for people.
    pub name: String,
    /// `schema.table.column` where a column owns it.
    pub owner: Option<String>,
    increment: i64,
    min: i64,
    max: i64,
    cycle: bool,
    may_set: bool,
    /// `None`: our role may not see it.
    pub position: Option<Position>,
}

impl Sequence {
    /// As far on as it will be when it was asked for so many times as many numbers as since `then`.
    pub fn ahead(&self, then: Option<&Sequence>, times: i64) -> Sequence {
        let (Some(now), Some(then)) = (self.position, then.and_then(|then| then.position)) else { return self.clone() };
        let given = now.last.saturating_sub(then.last);
        if self.cycle || given.signum() != self.increment.signum() {
            return self.clone();
        }
        let last = now.last.saturating_add(given.saturating_mul(times)).clamp(self.min, self.max);
        Sequence { position: Some(Position { last, called: true }), ..self.clone() }
    }
}

/// Every sequence that is not the system's or tandem's own.
///
/// `pg_sequence_last_value` shows no value that was not given out (`setval(.., false)`, `RESTART`, or none ever was);
/// that is in the sequence's own row, which no function of 14 to 17 shows. `ts_stat` is the one built-in function that
/// runs a query made at run time and needs no library: it costs 30 us, and is asked only then.
const READ: &str = "SELECT c.oid, pg_catalog.concat(n.nspname, '.', c.relname), o.name, q.seqincrement, q.seqmin, \
    q.seqmax, q.seqcycle, may.set, l.last, CASE WHEN l.last IS NULL AND may.see THEN (SELECT word FROM \
      pg_catalog.ts_stat('SELECT pg_catalog.array_to_tsvector(ARRAY[last_value::pg_catalog.text]) FROM ' \
        || c.oid::pg_catalog.regclass)) END \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_sequence q ON q.seqrelid = c.oid \
    LEFT JOIN LATERAL (SELECT pg_catalog.concat(tn.nspname, '.', t.relname, '.', a.attname) AS name \
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class t ON t.oid = d.refobjid \
      JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
      JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid \
      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') \
      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 LIMIT 1) o ON true, \
    LATERAL (SELECT u AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS see, \
      u AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
        AND pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') AS set \
      FROM pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') u) may, \
    LATERAL (SELECT CASE WHEN may.see THEN pg_catalog.pg_sequence_last_value(c.oid) END AS last) l \
    WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'tandem' AND n.nspname !~ '^pg_' ORDER BY 2";

/// The sequences of a side, in one round trip whatever their number. The statement stays prepared: asked once before
/// clients are held, it is planned then.
pub async fn read(conn: &mut Client) -> Result<Vec<Sequence>, client::Error> {
    conn.put_prepared(READ, &[], Format::Text);
    conn.put_sync();
    conn.send().await?;
    conn.rows().await?.iter().map(sequence).collect()
}

fn sequence(row: &DataRow) -> Result<Sequence, client::Error> {
    let position = |last: &str, at, called| {
        let last = last.parse().map_err(|_| client::Error::Value(at))?;
        Ok::<_, client::Error>(Position { last, called })
    };
    let given = row.text(8)?.map(|last| position(last, 8, true)).transpose()?;
    let next = row.text(9)?.map(|last| position(last, 9, false)).transpose()?;
    Ok(Sequence {
        oid: row.parse(0)?,
        name: row.string(1)?,
        owner: row.text(2)?.map(str::to_owned),
        increment: row.parse(3)?,
        min: row.parse(4)?,
        max: row.parse(5)?,
        cycle: row.bool(6)?,
        may_set: row.bool(7)?,
        position: given.or(next),
    })
}

/// Say in the words of `from` whom the sequences of `to` belong to: names of tables and columns may differ.
pub fn translate(to: &mut [Sequence], scope: &Scope) {
    for sequence in to {
        sequence.owner = sequence.owner.take().and_then(|owner| scope.column_here(&owner));
    }
}

/// A sequence of `to` that must be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    oid: u32,
    /// On `to`, for people.
    pub name: String,
    /// Where it stands.
    pub was: Position,
    /// Where it shall stand.
    pub shall: Position,
    order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Ascending = 1,
    Descending = -1,
    Cycle = 0,
}

/// Why a sequence cannot be brought to where it must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// `to` has none.
    Missing,
    /// Our role on `from` may not SELECT from it.
    Unseen,
    /// Our role on `to` may not SELECT from it and UPDATE it.
    Forbidden,
    /// It counts the other way on `to`, or the position is outside its limits there.
    Differs,
    /// Its column owns several, and their names do not say which one it meets.
    Ambiguous,
}

/// What must be done on `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What must be set.
    pub moves: Vec<Move>,
    /// What cannot be, by name on `from`.
    pub obstacles: Vec<(String, Obstacle)>,
}

/// Compare the sequences of both sides.
pub fn plan(from: &[Sequence], to: &[Sequence]) -> Plan {
    let mut plan = Plan::default();
    let meet = Meet { here: by_owner(from), there: by_owner(to), names: by_name(to) };
    for here in from {
        match meet.counterpart(here).and_then(|there| step(here, there)) {
            Ok(found) => plan.moves.extend(found),
            Err(obstacle) => plan.obstacles.push((here.name.clone(), obstacle)),
        }
    }
    plan
}

/// Which sequences of both sides meet.
struct Meet<'s> {
    here: HashMap<&'s str, Vec<&'s Sequence>>,
    there: HashMap<&'s str, Vec<&'s Sequence>>,
    names: HashMap<&'s str, &'s Sequence>,
}

fn by_owner(sequences: &[Sequence]) -> HashMap<&str, Vec<&Sequence>> {
    let mut owners: HashMap<_, Vec<_>> = HashMap::new();
    for sequence in sequences {
        if let Some(owner) = &sequence.owner {
            owners.entry(owner.as_str()).or_default().push(sequence);
        }
    }
    owners
}

fn by_name(sequences: &[Sequence]) -> HashMap<&str, &Sequence> {
    sequences.iter().map(|sequence| (sequence.name.as_str(), sequence)).collect()
}

impl<'s> Meet<'s> {
    fn counterpart(&self, here: &Sequence) -> Result<&'s Sequence, Obstacle> {
        let owned = |by: &HashMap<&'s str, Vec<&'s Sequence>>| {
            here.owner.as_deref().and_then(|owner| by.get(owner).cloned()).unwrap_or_default()
        };
        let (mut ours, mut theirs) = (owned(&self.here), owned(&self.there));
        if let Some(&there) = theirs.iter().find(|there| there.name == here.name) {
            return Ok(there);
        }
        let same = |one: &Sequence, all: &[&Sequence]| all.iter().any(|other| other.name == one.name);
        let all = theirs.clone();
        theirs.retain(|there| !same(there, &ours));
        ours.retain(|one| !same(one, &all));
        match (ours.len(), &theirs[..]) {
            (_, []) => self.names.get(here.name.as_str()).copied().ok_or(Obstacle::Missing),
            (1, &[there]) => Ok(there),
            _ => Err(Obstacle::Ambiguous),
        }
    }
}

fn step(here: &Sequence, there: &Sequence) -> Result<Option<Move>, Obstacle> {
    let shall = here.position.ok_or(Obstacle::Unseen)?;
    let was = there.position.ok_or(Obstacle::Forbidden)?;
    let order = match (here.cycle, here.increment > 0) {
        (true, _) => Order::Cycle,
        (false, true) => Order::Ascending,
        (false, false) => Order::Descending,
    };
    let behind = match order {
        Order::Ascending => was < shall,
        Order::Descending => was.last > shall.last || (was.last == shall.last && !was.called && shall.called),
        Order::Cycle => was != shall,
    };
    if (here.increment > 0) != (there.increment > 0) {
        return Err(Obstacle::Differs);
    }
    if !behind {
        return Ok(None);
    }
    if !(there.min..=there.max).contains(&shall.last) {
        return Err(Obstacle::Differs);
    }
    if !there.may_set {
        return Err(Obstacle::Forbidden);
    }
    Ok(Some(Move { oid: there.oid, name: there.name.clone(), was, shall, order }))
}

impl Plan {
    /// What stands in the way, for people.
    pub fn findings(&self, from: Side) -> Vec<Finding> {
        let found = |(name, obstacle): &(String, Obstacle)| {
            let (rule, side) = match obstacle {
                Obstacle::Missing => (rules::SEQUENCE_MISSING, from.other()),
                Obstacle::Unseen => (rules::SEQUENCE_UNREADABLE, from),
                Obstacle::Forbidden => (rules::MAY_NOT_SET_SEQUENCE, from.other()),
                Obstacle::Differs => (rules::SEQUENCE_DIFFERS, from.other()),
                Obstacle::Ambiguous => (rules::SEQUENCE_AMBIGUOUS, from.other()),
            };
            Finding { rule, side: Some(side), object: name.clone() }
        };
        self.obstacles.iter().map(found).collect()
    }
}

/// Somebody may have asked `to` for numbers since it was read.
const ADVANCE: &str = "SELECT pg_catalog.setval(u.o::pg_catalog.regclass, u.last, u.called) \
    FROM unnest($1::pg_catalog.oid[], $2::pg_catalog.int8[], $3::pg_catalog.bool[], $4::pg_catalog.int4[]) \
      u(o, last, called, way), \
    LATERAL (SELECT pg_catalog.pg_sequence_last_value(u.o) AS last) now \
    WHERE CASE u.way WHEN 1 THEN coalesce(now.last < u.last, true) WHEN -1 THEN coalesce(now.last > u.last, true) \
      ELSE true END";

/// Do what was planned, in one round trip; durable on `to` when it returns. How many were set.
///
/// # Errors
/// None was set durably: a privilege is missing, or a sequence is gone.
pub async fn advance(conn: &mut Client, plan: &Plan) -> Result<usize, Error> {
    if plan.moves.is_empty() {
        return Ok(0);
    }
    let moves = &plan.moves;
    let arrays = [
        array(moves.iter().map(|one| one.oid)),
        array(moves.iter().map(|one| one.shall.last)),
        array(moves.iter().map(|one| one.shall.called)),
        array(moves.iter().map(|one| one.order as i32)),
    ];
    let params = arrays.each_ref().map(|array| Param::text(array));
    Ok(conn.query(ADVANCE, &params, Format::Text).await?.len())
}

/// Numbers that nobody asked the lost primary for, most likely.
const LEAP: i64 = 1_000;
/// How long, of all that clients are held, rows may be asked for numbers that are known otherwise.
const LEAP_PATIENCE: Duration = Duration::from_secs(1);
/// And for those of which nothing else tells.
const ROWS_PATIENCE: Duration = Duration::from_secs(3);

/// Each sequence, and a question for the columns that take its numbers, if some are known: one owns the sequence, or its default
/// calls it.
const USERS: &str = "SELECT s.seqrelid, s.seqincrement, \
    (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('SELECT %s(%I)::pg_catalog.int8 FROM %I.%I', \
        CASE WHEN s.seqincrement > 0 THEN 'max' ELSE 'min' END, a.attname, n.nspname, c.relname), ' UNION ALL ') \
     FROM (SELECT d.refobjid AS rel, d.refobjsubid AS col FROM pg_catalog.pg_depend d \
           WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = s.seqrelid \
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 \
           UNION ALL SELECT f.adrelid, f.adnum FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid \
           WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refobjid = s.seqrelid \
             AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) u \
     JOIN pg_catalog.pg_class c ON c.oid = u.rel AND c.relkind IN ('r', 'p') JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = u.rel AND a.attnum = u.col \
       AND a.atttypid = ANY ('{int2,int4,int8,numeric}'::pg_catalog.regtype[])) \
    FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class k ON k.oid = s.seqrelid \
    JOIN pg_catalog.pg_namespace m ON m.oid = k.relnamespace WHERE m.nspname <> 'tandem' AND k.relpersistence <> 't'";

/// Sequences of `to`, by oid, that meet one of these, which are of `from` and whose position is known.
pub fn met(from: &[Sequence], to: &[Sequence]) -> HashSet<u32> {
    let meet = Meet { here: by_owner(from), there: by_owner(to), names: by_name(to) };
    let met = |here: &Sequence| meet.counterpart(here).ok().filter(|_| here.position.is_some());
    from.iter().filter_map(met).map(|there| there.oid).collect()
}

/// Sequences of `to` that nothing tells of: no column takes their numbers, and they are not among these.
pub async fn untold(conn: &mut Client, met: &HashSet<u32>, to: &[Sequence]) -> Result<Vec<String>, client::Error> {
    let mut told = met.clone();
    for row in conn.simple(USERS).await? {
        if row.text(2)?.is_some() {
            told.insert(row.parse(0)?);
        }
    }
    Ok(to.iter().filter(|one| !told.contains(&one.oid)).map(|one| one.name.clone()).collect())
}

/// Sequences of `to` that our role may not set.
pub fn forbidden(to: &[Sequence]) -> impl Iterator<Item = &str> {
    to.iter().filter(|one| !one.may_set).map(|one| one.name.as_str())
}

/// The other side is gone, and with it the positions of its sequences: go on well behind where they stand here, and the numbers
/// that rows here have. How many were set: one that our role may not set, or that refuses, is in nobody's way. Rows that were
/// lost may have had later numbers. Clients are held meanwhile: of those that were `met`, and so brought to where the other side
/// was seen, rows are asked for [`LEAP_PATIENCE`] at most, of all others for [`ROWS_PATIENCE`].
///
/// # Errors
/// The connection is gone.
pub async fn leap(conn: &mut Client, to: &[Sequence], met: &HashSet<u32>) -> Result<usize, Error> {
    let may_set: HashMap<u32, &str> =
        to.iter().filter(|one| one.may_set).map(|one| (one.oid, one.name.as_str())).collect();
    let (rows, mut set) = (conn.simple(USERS).await?, 0);
    let (mut of_met, mut of_others) = (LEAP_PATIENCE, ROWS_PATIENCE);
    for row in &rows {
        let (oid, increment): (u32, i64) = (row.parse(0)?, row.parse(1)?);
        let Some(&sequence) = may_set.get(&oid) else { continue };
        let (users, is_met) = (row.text(2)?, met.contains(&oid));
        let used = users.unwrap_or("SELECT NULL::pg_catalog.int8");
        let most = if increment > 0 { "max" } else { "min" };
        let used = format!("SELECT pg_catalog.{most}(u.used) FROM ({used}) u (used)");
        let (further, bound) = if increment > 0 { ("greatest", "least") } else { ("least", "greatest") };
        let limit = if increment > 0 { "seqmax" } else { "seqmin" };
        let leap = |used: &str| {
            format!(
                "SELECT pg_catalog.setval({oid}::pg_catalog.oid::pg_catalog.regclass, {bound}(s.{limit}, {further}(\
                 coalesce(pg_catalog.pg_sequence_last_value({oid}::pg_catalog.oid::pg_catalog.regclass), s.seqstart), ({used})) \
                 + {LEAP} * s.seqincrement), true) FROM pg_catalog.pg_sequence s WHERE s.seqrelid = {oid}"
            )
        };
        let (left, began) = (if is_met { &mut of_met } else { &mut of_others }, Instant::now());
        let mut done = in_time(conn, &leap(&used), *left).await?;
        *left = left.saturating_sub(began.elapsed());
        if let Err(why) = &done {
            if !is_met && users.is_some() {
                tracing::error!(sequence, why, "its rows do not tell their numbers: setval() it above them");
            }
            done = in_time(conn, &leap("NULL::pg_catalog.int8"), LEAP_PATIENCE).await?;
        }
        match done {
            Ok(()) => set += 1,
            Err(why) => tracing::error!(sequence, why, "it stays where it stands: setval() it"),
        }
    }
    Ok(set)
}

/// Why it is not done: that would take too long, or a privilege is missing. What is the greatest number in rows is one look into an
/// index, or all rows of a table that has none.
async fn in_time(conn: &mut Client, sql: &str, left: Duration) -> Result<Result<(), String>, client::Error> {
    let left = left.as_millis();
    if left == 0 {
        return Ok(Err("no time is left to ask".to_owned()));
    }
    match conn.simple(&format!("BEGIN; SET LOCAL statement_timeout = {left}; {sql}; COMMIT")).await {
        Ok(_) => Ok(Ok(())),
        Err(client::Error::Db(error)) => conn.simple("ROLLBACK").await.map(|_| Err(error.to_string())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(name: &str, increment: i64, last: i64, called: bool) -> Sequence {
        Sequence {
            oid: 1,
            name: name.to_owned(),
            owner: None,
            increment,
            min: i64::MIN,
            max: i64::MAX,
            cycle: false,
            may_set: true,
            position: Some(Position { last, called }),
        }
    }

    fn planned(here: Sequence, there: Sequence) -> Result<Option<Position>, Obstacle> {
        let plan = plan(&[here], &[there]);
        match plan.obstacles.first() {
            Some((_, obstacle)) => Err(*obstacle),
            None => Ok(plan.moves.first().map(|one| one.shall)),
        }
    }

    #[test]
    fn a_sequence_never_goes_back() {
        let at = |last, called| Ok(Some(Position { last, called }));
        let up = |last, called| sequence("public.s", 1, last, called);
        let down = |last, called| sequence("public.s", -1, last, called);
        assert_eq!(planned(up(7, true), up(5, true)), at(7, true));
        assert_eq!(planned(up(7, true), up(7, false)), at(7, true));
        assert_eq!(planned(up(7, false), up(7, true)), Ok(None));
        assert_eq!(planned(up(7, true), up(9, false)), Ok(None));
        assert_eq!(planned(down(-7, true), down(-5, true)), at(-7, true));
        assert_eq!(planned(down(-7, true), down(-7, false)), at(-7, true));
        assert_eq!(planned(down(-7, false), down(-7, true)), Ok(None));
        assert_eq!(planned(down(-7, true), down(-9, false)), Ok(None));
    }

    #[test]
    fn a_sequence_that_cycles_is_set_as_it_is() {
        let round = |last| Sequence { cycle: true, ..sequence("public.s", 1, last, true) };
        assert_eq!(planned(round(3), round(900)), Ok(Some(Position { last: 3, called: true })));
        assert_eq!(planned(round(3), round(3)), Ok(None));
    }

    #[test]
    fn what_a_column_owns_meets_what_the_column_owns_there() {
        let owned = |name| Sequence { owner: Some("public.t.id".into()), ..sequence(name, 1, 9, true) };
        let other = sequence("public.t_id_seq", 1, 1, true);
        let there =
            Sequence { oid: 2, position: Some(Position { last: 1, called: false }), ..owned("public.t_id_seq1") };
        let plan = plan(&[owned("public.t_id_seq")], &[other, there]);
        assert_eq!(
            plan.moves.iter().map(|one| (one.oid, one.name.as_str())).collect::<Vec<_>>(),
            [(2, "public.t_id_seq1")]
        );
    }

    #[test]
    fn of_several_that_a_column_owns_names_come_first_and_the_rest_meets_only_if_it_is_one_each() {
        let side = |names: &[&str], last: i64| -> Vec<Sequence> {
            let owned = |name: &&str| Sequence { owner: Some("public.t.id".into()), ..sequence(name, 1, last, true) };
            names.iter().map(owned).collect()
        };
        let met = |here: &[&str], there: &[&str]| {
            let plan = plan(&side(here, 9), &side(there, 1));
            let moves = plan.moves.into_iter().map(|one| one.name).collect::<Vec<_>>();
            (moves, plan.obstacles)
        };
        let none = || Vec::<(String, Obstacle)>::new();
        assert_eq!(met(&["a", "z"], &["a", "z"]), (vec!["a".to_owned(), "z".to_owned()], none()));
        assert_eq!(met(&["a"], &["a", "z"]), (vec!["a".to_owned()], none()));
        assert_eq!(met(&["a", "m"], &["a", "z"]), (vec!["a".to_owned(), "z".to_owned()], none()));
        assert_eq!(met(&["a", "z"], &["z"]), (vec!["z".to_owned()], vec![("a".to_owned(), Obstacle::Missing)]));
        assert_eq!(met(&["m"], &["a", "z"]), (vec![], vec![("m".to_owned(), Obstacle::Ambiguous)]));
        let both = ["a", "m"].map(|name| (name.to_owned(), Obstacle::Ambiguous)).to_vec();
        assert_eq!(met(&["a", "m"], &["z"]), (vec![], both));
    }

    #[test]
    fn what_cannot_be_set_is_an_obstacle_only_where_it_must_be() {
        let up = |last| sequence("public.s", 1, last, true);
        assert_eq!(planned(up(7), sequence("public.other", 1, 7, true)), Err(Obstacle::Missing));
        assert_eq!(planned(Sequence { position: None, ..up(7) }, up(7)), Err(Obstacle::Unseen));
        assert_eq!(planned(up(7), Sequence { position: None, ..up(7) }), Err(Obstacle::Forbidden));
        assert_eq!(planned(up(7), Sequence { may_set: false, ..up(5) }), Err(Obstacle::Forbidden));
        assert_eq!(planned(up(7), Sequence { may_set: false, ..up(7) }), Ok(None));
        assert_eq!(planned(up(7), Sequence { max: 6, ..up(5) }), Err(Obstacle::Differs));
        assert_eq!(planned(up(7), Sequence { increment: -1, ..up(5) }), Err(Obstacle::Differs));
    }

    #[test]
    fn what_is_kept_of_a_sequence_is_ahead_by_its_pace_and_within_its_limits() {
        let at = |increment, last| sequence("s", increment, last, true);
        let last = |one: Sequence| one.position.expect("it has one").last;
        assert_eq!(last(at(1, 50).ahead(None, 3)), 50);
        assert_eq!(last(at(1, 50).ahead(Some(&at(1, 40)), 3)), 80);
        assert_eq!(last(at(-1, -50).ahead(Some(&at(-1, -40)), 3)), -80);
        assert_eq!(last(at(1, 50).ahead(Some(&at(1, 60)), 3)), 50, "it was set back");
        assert_eq!(last(Sequence { max: 60, ..at(1, 50) }.ahead(Some(&at(1, 40)), 3)), 60);
        assert_eq!(last(Sequence { cycle: true, ..at(1, 50) }.ahead(Some(&at(1, 40)), 3)), 50);
    }
}
