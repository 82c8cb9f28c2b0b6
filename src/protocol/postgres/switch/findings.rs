//! The conditions of a switch: what `tandem check` finds of this pair in the direction of the switch, and what matters
//! only now that clients are about to move. Nothing is changed on either side.
//!
//! What ends a switch is an error; each can be ignored by its name. A warning is worth a look, a note is good to know:
//! a clean pair of databases has neither errors nor warnings.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::check::{Finding, Report, Rule};
use crate::protocol::postgres::catalog::{Catalog, Column};
use crate::protocol::postgres::check;
use crate::protocol::postgres::client::ServerConfig;
use crate::protocol::postgres::scope::{self, Rows, Scope, roots};
use crate::record::Side;

use super::facts::{self, Facts};
use super::sequences;
use super::triggers::{self, State};
use super::{Bounds, Error, RULES, connect, rules};

/// Catalogs of many thousand tables are read in less.
const BOUNDS: Bounds = Bounds { lock: Duration::from_secs(2), statement: Duration::from_secs(30) };

/// Process ids of tandem's own connections and of its live sessions, as of when it is asked.
pub type Ours<'a> = &'a (dyn Fn() -> HashSet<u32> + Sync);

/// What shall be switched, and how.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The primary.
    pub from: Side,
    /// Which tables are mirrored from there, and as what.
    pub scope: &'a Scope,
    /// The primary's server.
    pub old: &'a ServerConfig,
    /// The other side's.
    pub new: &'a ServerConfig,
    /// On `old`.
    pub ours: Ours<'a>,
    /// How long clients may be held.
    pub max_hold: Duration,
    /// The old primary shall become read-only.
    pub barrier: bool,
    /// Strangers in the way shall be terminated.
    pub terminate: bool,
}

/// Look at both sides. One that cannot be asked is told; without it nothing can be compared.
pub async fn find(question: Question<'_>) -> Report {
    let mut report = Report::default();
    let (old, new) = tokio::join!(side(question.old, question.ours), side(question.new, &HashSet::new));
    let read_only = facts::is_read_only(question.new).await;
    let told = |side: Side, error: &dyn std::fmt::Display| format!("{side}: {error}");
    match (old, new, read_only) {
        (Ok(old), Ok(mut new), Ok(read_only)) => {
            question.scope.translate(&mut new.schema.catalog);
            sequences::translate(&mut new.switch.sequences, question.scope);
            report.findings = compare(question, &old, &new, read_only);
            let names = scope::names(&old.schema.catalog);
            report.findings.retain(|one| !question.scope.leaves_out(&one.object, &names));
        }
        (old, new, read_only) => {
            let (from, to) = (question.from, question.from.other());
            report.unreachable.extend(old.err().map(|error| told(from, &error)));
            let new = new.err().map(|error| told(to, &error));
            report.unreachable.extend(new.or_else(|| read_only.err().map(|error| told(to, &error))));
        }
    }
    report
}

/// What `tandem check` asks, and what we ask.
struct Known {
    schema: check::Facts,
    switch: Facts,
}

async fn side(server: &ServerConfig, ours: Ours<'_>) -> Result<Known, Error> {
    let schema = check::read(server).await.map_err(|error| Error::Refused(error.to_string()))?;
    let mut conn = connect(server, BOUNDS).await?;
    let mut switch = facts::read(&mut conn, &ours()).await?;
    conn.close().await;
    // Some may have come while we asked.
    let now = ours();
    switch.others.retain(|session| !now.contains(&session.pid));
    Ok(Known { schema, switch })
}

fn compare(question: Question<'_>, old: &Known, new: &Known, read_only: bool) -> Vec<Finding> {
    let mut found = Found { from: question.from, list: schemas(question, old, new) };
    mapped(question.scope, old, &mut found);
    defaults(&old.schema.catalog, &new.schema.catalog, &mut found);
    nulls(&old.schema.catalog, &new.schema.catalog, &mut found);
    let (old, new) = (&old.switch, &new.switch);
    found.list.extend(sequences::plan(&old.sequences, &new.sequences).findings(question.from));
    // What is called otherwise is a finding; that its indexes and triggers mean the same nobody can tell by their text.
    let (tables, scope) = (new.tables.iter(), question.scope);
    let there: HashSet<&String> = tables.filter(|name| scope.keeps_names(name)).collect();
    enforced(old, new, &there, &mut found);
    row_security(scope, old, new, &mut found);
    called(old, new, &mut found);
    switched_triggers(old, new, &there, &mut found);
    strangers(question, old, new, &mut found);
    rights(question, old, &mut found);
    sessions(old, new, read_only, &mut found);
    found.list.sort_by(|one, other| (one.rule.name, &one.object).cmp(&(other.rule.name, &other.object)));
    found.list.dedup();
    found.list
}

/// Findings, and how sides are called.
struct Found {
    from: Side,
    list: Vec<Finding>,
}

impl Found {
    fn on_old(&mut self, rule: &'static Rule, objects: impl IntoIterator<Item = impl Into<String>>) {
        self.on(self.from, rule, objects);
    }

    fn on_new(&mut self, rule: &'static Rule, objects: impl IntoIterator<Item = impl Into<String>>) {
        self.on(self.from.other(), rule, objects);
    }

    fn on(&mut self, side: Side, rule: &'static Rule, objects: impl IntoIterator<Item = impl Into<String>>) {
        let objects = objects.into_iter().map(Into::into);
        self.list.extend(objects.map(|object: String| Finding { rule, side: Some(side), object }));
    }
}

/// What check finds, in our words and weights: of its rules those that a switch has too.
fn schemas(question: Question<'_>, old: &Known, new: &Known) -> Vec<Finding> {
    let from = question.from;
    let barrier = old.switch.barrier.is_up() || new.switch.barrier.is_up();
    let found = check::differences(question.scope, &old.schema, &new.schema).into_iter().filter_map(|found| {
        let rule = RULES.iter().find(|rule| rule.name == found.rule.name)?;
        let side = if found.side == Some(Side::Origin) { from } else { from.other() };
        Some(Finding { rule, side: Some(side), object: found.object })
    });
    found.filter(|found| keep(found, barrier)).collect()
}

/// Sequences are compared by what owns them, unlogged tables on both sides, and the barrier is our own.
fn keep(found: &Finding, barrier: bool) -> bool {
    match found.rule.name {
        "sequence_missing" | "unlogged_table" => false,
        "role_setting_differs" => {
            !(barrier && found.object == "every role in this database: default_transaction_read_only")
        }
        _ => true,
    }
}

/// Tables that clients will not find as they know them.
fn mapped(scope: &Scope, old: &Known, found: &mut Found) {
    let named = roots(&old.schema.catalog).map(|one| (one.shown(), one));
    for (name, table) in named.filter(|(name, _)| !scope.excludes(name)) {
        let there = scope.there(&name).unwrap_or_default();
        let has = |name: &str| table.columns.iter().any(|column| column.name == name);
        let renamed = scope.renamed(&name).into_iter().filter(|(here, _)| has(here));
        let columns: Vec<String> = renamed.map(|(here, there)| format!("{here} is {there}")).collect();
        if there != name {
            found.on_new(rules::RENAMED_TABLE, [format!("{name} is {there}")]);
        }
        if !columns.is_empty() {
            found.on_new(rules::RENAMED_TABLE, [format!("{name}: {}", columns.join(", "))]);
        }
        if scope.rows(&name) != Rows::All {
            found.on_new(rules::FILTERED_TABLE, [name]);
        }
    }
}

/// Indexes and constraints: the new primary must hold what the old one held.
fn enforced(old: &Facts, new: &Facts, there: &HashSet<&String>, found: &mut Found) {
    let there = |table: &String| there.contains(table);
    for (definition, index) in old.indexes.iter().filter(|(_, index)| there(&index.table)) {
        let rule = if index.unique { rules::UNIQUE_MISSING } else { rules::INDEX_MISSING };
        found.on_new(rule, Some(definition).filter(|definition| !new.indexes.contains_key(*definition)));
    }
    found.on_new(rules::INDEX_INVALID, &new.invalid);
    for ((table, name), constraint) in old.constraints.iter().filter(|((table, _), _)| there(table)) {
        let object = format!("{table} ({name})");
        match same(new, table, name, constraint) {
            None => found.on_new(rules::CONSTRAINT_MISSING, [object]),
            Some(there) if constraint.valid && !there.valid => found.on_new(rules::CONSTRAINT_NOT_VALID, [object]),
            // Each version has its own words for an expression, but not for a foreign key.
            Some(other)
                if other.definition != constraint.definition && constraint.parent.as_ref().is_some_and(there) =>
            {
                found.on_new(rules::FOREIGN_KEY_DIFFERS, [object]);
            }
            Some(_) => (),
        }
    }
    found.on_new(rules::FOREIGN_KEY_OFF, new.keys_off.difference(&old.keys_off));
    found.on_new(rules::UNLOGGED_TABLE, new.unlogged.difference(&old.unlogged));
}

/// What clients leave out of an INSERT. Texts are not compared: sequences have other names there. Partitions have what
/// their root has, in some versions.
fn defaults(old: &Catalog, new: &Catalog, found: &mut Found) {
    for here in roots(old) {
        let Some(there) = new.relation(here.id) else { continue };
        let pairs = here.columns.iter().filter_map(|column| {
            let other = there.columns.iter().find(|other| other.name == column.name)?;
            Some((column, Filled::of(column), Filled::of(other)))
        });
        let wrong = pairs.filter(|(_, here, there)| !here.is_met_by(*there));
        let objects = wrong.map(|(column, ..)| format!("{}.{}", here.shown(), column.name));
        found.on_new(rules::COLUMN_DEFAULT_DIFFERS, objects);
    }
}

/// NULLs that the old primary refuses. The other way round `tandem check` finds it too.
fn nulls(old: &Catalog, new: &Catalog, found: &mut Found) {
    for here in roots(old) {
        let Some(there) = new.relation(here.id) else { continue };
        let takes = |name: &str| there.columns.iter().any(|other| other.name == name && !other.not_null);
        let lost = here.columns.iter().filter(|column| column.not_null && takes(&column.name));
        found.on_new(rules::NOT_NULL_DIFFERS, lost.map(|column| format!("{}.{}", here.shown(), column.name)));
    }
}

/// What fills a column of which a client says nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    Null,
    /// A default, or an identity that takes values as well.
    Default,
    /// GENERATED ALWAYS AS IDENTITY.
    Numbers,
    /// GENERATED ALWAYS AS (..).
    Generated,
}

impl Filled {
    fn of(column: &Column) -> Filled {
        match column {
            Column { generated: true, .. } => Filled::Generated,
            Column { identity: b'a', .. } => Filled::Numbers,
            Column { identity: b'd', .. } | Column { has_default: true, .. } => Filled::Default,
            _ => Filled::Null,
        }
    }

    /// What clients write as they do now is taken, and filled.
    fn is_met_by(self, there: Filled) -> bool {
        match self {
            Filled::Null => matches!(there, Filled::Null | Filled::Default),
            Filled::Default => there == Filled::Default,
            Filled::Numbers => matches!(there, Filled::Numbers | Filled::Default),
            Filled::Generated => there == Filled::Generated,
        }
    }
}

/// Who sees which rows. What policies of a table say that has other names there is not compared.
fn row_security(scope: &Scope, old: &Facts, new: &Facts, found: &mut Found) {
    for table in &old.tables {
        let Some(there) = scope.there(table).filter(|there| new.tables.contains(there)) else { continue };
        let hides = (old.row_security.get(table), new.row_security.get(&there));
        if hides.0 != hides.1 {
            found.on_new(rules::ROW_SECURITY_DIFFERS, [table.as_str()]);
        } else if hides.0.is_some() {
            let (here, there) = (policies(old, table), policies(new, &there));
            let names: BTreeSet<&str> = here.keys().chain(there.keys()).copied().collect();
            let differ = |name: &str| match (here.get(name), there.get(name)) {
                (Some(one), Some(other)) => scope.keeps_names(table) && one != other,
                _ => true,
            };
            let objects = names.into_iter().filter(|name| differ(name)).map(|name| format!("{table} ({name})"));
            found.on_new(rules::POLICY_DIFFERS, objects);
        }
    }
}

fn policies<'f>(side: &'f Facts, table: &str) -> BTreeMap<&'f str, &'f str> {
    let of_table = side.policies.iter().filter(|((of, _), _)| of == table);
    of_table.map(|((_, name), says)| (name.as_str(), says.as_str())).collect()
}

/// What clients name in statements, beside tables. A table serves for a view, and the other way round.
fn called(old: &Facts, new: &Facts, found: &mut Found) {
    let views = old.views.iter().filter(|name| !new.views.contains(*name) && !new.tables.contains(*name));
    found.on_new(rules::VIEW_MISSING, views);
    found.on_new(rules::FUNCTION_MISSING, old.functions.difference(&new.functions));
}

/// By name, or one that says the same.
fn same<'a>(side: &'a Facts, table: &str, name: &str, constraint: &facts::Constraint) -> Option<&'a facts::Constraint> {
    let says = |there: &&facts::Constraint| there.definition == constraint.definition;
    let named = side.constraints.get(&(table.to_owned(), name.to_owned()));
    let alike = || {
        let mut of_table = side.constraints.iter().filter(|((other, _), _)| other == table).map(|(_, there)| there);
        of_table.find(says)
    };
    named.filter(says).or_else(alike).or(named)
}

fn switched_triggers(old: &Facts, new: &Facts, there: &HashSet<&String>, found: &mut Found) {
    let becoming: HashMap<_, _> = triggers::after_wake(&new.triggers, new.replica, &old.triggers).collect();
    for trigger in old.triggers.iter().filter(|one| there.contains(&one.name.table())) {
        match becoming.get(&trigger.name) {
            None if trigger.meant() != State::Disabled => {
                found.on_new(rules::TRIGGER_MISSING, [trigger.name.to_string()])
            }
            Some(state) if *state != trigger.meant() => {
                found.on_new(rules::TRIGGER_DIFFERS, [trigger.name.to_string()])
            }
            _ => (),
        }
    }
    let stuck = new.triggers.iter().filter(|one| !one.may_alter && becoming.get(&one.name) != Some(&one.state));
    found.on_new(rules::MAY_NOT_SWITCH_TRIGGER, stuck.map(|one| one.name.to_string()));
    if old.replica {
        let acting = old.triggers.iter().filter(|one| matches!(one.state, State::Always | State::Replica));
        found.on_old(rules::TRIGGER_ON_MIRRORED_ROWS, acting.map(|one| one.name.to_string()));
    } else {
        let stuck = old.triggers.iter().filter(|one| !one.may_alter && one.state.fires());
        found.on_old(rules::MAY_NOT_SWITCH_TRIGGER, stuck.map(|one| one.name.to_string()));
        found.on_old(rules::RULES_ACT, &old.ruled);
    }
}

fn strangers(question: Question<'_>, old: &Facts, new: &Facts, found: &mut Found) {
    let long = old.open.sessions.iter().filter(|one| one.age.is_some_and(|age| age > question.max_hold));
    found.on_old(rules::LONG_TRANSACTION, long.map(|one| one.to_string()));
    let long = old.open.prepared.iter().filter(|one| one.age > question.max_hold);
    found.on_old(rules::PREPARED_TRANSACTION, long.map(|one| one.to_string()));
    found.on_old(rules::BYPASSING, old.others.iter().map(|one| one.to_string()));
    found.on_old(rules::ANOTHER_TANDEM, &old.tandems);
    found.on_new(rules::ANOTHER_TANDEM, new.tandems.iter().filter(|there| !old.tandems.contains(there)));
}

fn rights(question: Question<'_>, old: &Facts, found: &mut Found) {
    let wrong = [
        (!old.may_see_stats, rules::MAY_NOT_SEE_STATS),
        (question.terminate && !old.may_signal, rules::MAY_NOT_TERMINATE),
        (question.barrier && !old.barrier.may_change, rules::MAY_NOT_SET_READ_ONLY),
    ];
    for (_, rule) in wrong.into_iter().filter(|(wrong, _)| *wrong) {
        found.on_old(rule, [old.database.as_str()]);
    }
}

/// A barrier of ours is lifted by the switch, where it may.
fn sessions(old: &Facts, new: &Facts, read_only: bool, found: &mut Found) {
    let stays = if new.barrier.is_up() { !new.barrier.may_change } else { read_only };
    if stays {
        found.on_new(rules::READ_ONLY_BY_DEFAULT, [new.database.as_str()]);
    }
    // Those that are on both sides are meant to be.
    let roles = new.read_only_roles.iter().filter(|role| !old.read_only_roles.contains(role));
    found.on_new(rules::READ_ONLY_BY_DEFAULT, roles.map(|role| format!("role {role}")));
}
