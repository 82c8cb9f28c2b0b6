//! MERGE: always asked (17 and later return its rows), else dirty.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{CmdType, MergeStmt, MergeWhenClause};

use super::super::catalog::{Events, Kind, Relation};
use super::Scope;
use super::ask::Question;
use super::reach::MADE;
use super::target::{Named, TEMPORARY, Target, holders, labels};
use super::write::{Outcome, assigned, assigns_key, assigns_referenced, changes_leaf};

impl Scope<'_> {
    pub(super) fn merge(&mut self, merge: &MergeStmt) -> Outcome {
        let Some(name) = merge.relation.as_ref() else { return Outcome::counted("a MERGE without target") };
        let outcome = match Target::of(self.catalog, name) {
            Target::Temporary => Outcome::counted(TEMPORARY),
            Target::System => Outcome::counted("a system catalog is written"),
            Target::Unknown => Outcome::counted(format!("unknown table {}", name.relname)),
            Target::Known(named) if named.tables.iter().any(|table| self.is_altered(table)) => Outcome::counted(MADE),
            Target::Known(named) => self.merged(merge, &named),
        };
        self.with(merge.with_clause.as_ref(), outcome)
    }

    fn merged(&self, merge: &MergeStmt, named: &Named) -> Outcome {
        let Some(name) = merge.relation.as_ref() else { return Outcome::default() };
        let all: Vec<_> = named.tables.iter().flat_map(|table| holders(self.catalog, table, name.inh)).collect();
        let clauses: Vec<&MergeWhenClause> = merge
            .merge_when_clauses
            .iter()
            .filter_map(|node| match node.node.as_ref() {
                Some(NodeEnum::MergeWhenClause(clause)) => Some(&**clause),
                _ => None,
            })
            .collect();
        let does = |command| clauses.iter().any(|clause| clause.command_type == command as i32);
        let deletes = does(CmdType::CmdDelete);
        let events = Events::INSERT.only_if(does(CmdType::CmdInsert))
            | Events::UPDATE.only_if(does(CmdType::CmdUpdate))
            | Events::DELETE.only_if(deletes);
        let updates = clauses.iter().filter(|clause| clause.command_type == CmdType::CmdUpdate as i32);
        let set: Vec<&str> = updates.flat_map(|clause| assigned(&clause.target_list)).collect();
        // Before 18 a re-keyed row's old key is not returned.
        let moves = |table: &Arc<Relation>| table.kind == Kind::Partitioned && changes_leaf(&set, table);
        let rekeys = named.tables.iter().any(moves)
            || all.iter().any(|table| table.key.is_none() || table.hazards.before_update || assigns_key(&set, table));
        let referenced = |tables: &[Arc<Relation>]| assigns_referenced(self.catalog, &set, tables);
        let moved = deletes || rekeys || referenced(&all) || referenced(&named.tables);
        let question = Question { name, returning: merge.returning_clause.as_ref(), rekeys, moved };
        // A view of that name has no tableoid.
        let can = self.catalog.version >= 170_000 && (!rekeys || self.returns_old()) && named.are_tables();
        let mut outcome = match can.then(|| question.suffix(self, &named.tables, &all)).flatten() {
            Some(asked) => Outcome::asked(asked),
            None => Outcome::dirty(labels(&all), "MERGE whose rows cannot be asked for"),
        };
        if !named.behind.is_empty() {
            outcome.merge(Outcome::dirty(labels(&named.behind), "MERGE through a view"));
        }
        outcome.behind(self.catalog, named, events, moved)
    }
}
