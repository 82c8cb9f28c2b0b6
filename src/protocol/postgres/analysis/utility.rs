//! Everything that is not a query: transactions, PREPARE and EXECUTE, settings, schema changes.
//!
//! Every utility statement of the grammar is named here. One that is not is opaque.

use std::collections::HashSet;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AlterTableCmd, AlterTableStmt, AlterTableType, CallStmt, ColumnDef, ConstrType, CreateTableAsStmt, DiscardMode,
    DoStmt, DropBehavior, DropStmt, ExecuteStmt, ExplainStmt, IntoClause, Node, ObjectType, PrepareStmt, RangeVar,
    TransactionStmt, TransactionStmtKind as T, TruncateStmt, TypeName, VariableSetKind, VariableSetStmt,
};

use super::super::catalog::{ForeignKey, Relation, routine};
use super::super::plan::{Action, Code, Counted, Ddl, Fetch, Savepoint, SavepointVerb, Statement, Truncate};
use super::super::schema_change::is_setting;
use super::super::scope::topmost;
use super::Scope;
use super::operand::string;
use super::reach::{MADE, Reach};
use super::target::{Target, labels, named, with_children, with_roots};
use crate::record::TableId;

/// Settings by which names, rights or triggers change for the session.
const SESSION_SETTINGS: &[&str] =
    &["search_path", "role", "session_authorization", "session_replication_role", "row_security"];

impl Scope<'_> {
    pub(super) fn utility(&mut self, node: &NodeEnum) -> Action {
        use NodeEnum as N;
        match node {
            N::TransactionStmt(transaction) => self.transaction(transaction),
            N::PrepareStmt(prepare) => self.prepare(prepare),
            N::ExecuteStmt(execute) => self.execute(execute),
            N::DeallocateStmt(deallocate) => {
                Action::Deallocate { name: (!deallocate.isall).then(|| deallocate.name.clone()) }
            }
            N::DeclareCursorStmt(declare) => self.declare(declare.options, declare.query.as_deref()),
            N::ExplainStmt(explain) => self.explain(explain),
            N::TruncateStmt(truncate) => self.truncate(truncate),
            N::VariableSetStmt(set) => variable(set),
            N::DiscardStmt(discard) => match DiscardMode::try_from(discard.target) {
                Ok(DiscardMode::DiscardAll) => Action::Deallocate { name: None },
                Ok(DiscardMode::DiscardTemp) => Action::Session,
                _ => Action::Pass,
            },

            // Nothing that is mirrored changes, and nothing commits.
            N::VariableShowStmt(_)
            | N::ClosePortalStmt(_)
            | N::ListenStmt(_)
            | N::UnlistenStmt(_)
            | N::NotifyStmt(_)
            | N::LockStmt(_)
            | N::ConstraintsSetStmt(_)
            | N::CheckPointStmt(_) => Action::Pass,

            N::FetchStmt(fetch) => {
                let (cursor, is_move) = (fetch.portalname.clone(), fetch.ismove);
                Action::Fetch(Fetch { cursor, is_move, counted: None })
            }

            // May write anything, or commit by itself.
            N::CallStmt(call) => self.call(call),
            N::DoStmt(block) => self.block(block),
            N::LoadStmt(_) => opaque("LOAD"),
            N::VacuumStmt(vacuum) if vacuum.is_vacuumcmd => Action::Commits,
            N::VacuumStmt(_) => Action::Pass,
            N::ClusterStmt(_) => Action::Commits,
            // Event triggers fire for it from 17 on.
            N::ReindexStmt(_) if self.catalog.version >= 170_000 && self.watched().is_some() => opaque("REINDEX"),
            N::ReindexStmt(_) => Action::Commits,

            other => self.schema_change(other),
        }
    }

    fn call(&self, call: &CallStmt) -> Action {
        let name = call.funccall.as_deref().and_then(|call| call.funcname.last()).and_then(string);
        let calm = name.is_some_and(|name| self.catalog.calm_procedures.contains(name));
        if calm { counted("CALL") } else { opaque("CALL") }
    }

    fn block(&mut self, block: &DoStmt) -> Action {
        self.exact = true;
        let calm = block.args.iter().all(|node| match node.node.as_ref() {
            Some(NodeEnum::DefElem(option)) => {
                match (option.defname.as_str(), option.arg.as_deref().and_then(string)) {
                    ("as", Some(source)) => !routine::could_end(source),
                    ("language", Some(language)) => language == "plpgsql",
                    _ => false,
                }
            }
            _ => false,
        });
        if calm { counted("DO") } else { opaque("DO") }
    }

    fn transaction(&self, transaction: &TransactionStmt) -> Action {
        let chain = transaction.chain;
        let gid = self.string_token(self.span.start);
        match (T::try_from(transaction.kind), gid) {
            (Ok(T::TransStmtBegin | T::TransStmtStart), _) => Action::Begin,
            (Ok(T::TransStmtCommit), _) => Action::Commit { chain },
            (Ok(T::TransStmtRollback), _) => Action::Rollback { chain },
            (Ok(T::TransStmtSavepoint), _) => savepoint(SavepointVerb::Set, transaction),
            (Ok(T::TransStmtRelease), _) => savepoint(SavepointVerb::Release, transaction),
            (Ok(T::TransStmtRollbackTo), _) => savepoint(SavepointVerb::RollbackTo, transaction),
            (Ok(T::TransStmtPrepare), Some(gid)) => Action::PrepareTransaction { gid },
            (Ok(T::TransStmtCommitPrepared | T::TransStmtRollbackPrepared), Some(gid)) => {
                Action::FinishPrepared { gid }
            }
            _ => opaque("a transaction statement that the proxy does not know"),
        }
    }

    fn prepare(&mut self, prepare: &PrepareStmt) -> Action {
        let Some(node) = prepare.query.as_deref().and_then(|query| query.node.as_ref()) else {
            return opaque("PREPARE of nothing");
        };
        let types: Vec<u32> = prepare
            .argtypes
            .iter()
            .map(|node| match node.node.as_ref() {
                Some(NodeEnum::TypeName(name)) => self.type_oid(name),
                _ => super::operand::OTHER_TYPE,
            })
            .collect();
        // The inner statement begins behind `PREPARE name [(types)] AS`.
        let list = self.tokens.list();
        let behind_as = (self.span.start + 2..self.span.end)
            .find(|&at| list.get(at).is_some_and(|token| token.text(self.text).eq_ignore_ascii_case(b"as")));
        let outer = self.span.clone();
        self.look_at(behind_as.map_or(outer.end, |at| at + 1)..outer.end);
        let action = self.action(node);
        let traces = self.traces(node, &action);
        let (tokens, params) = (self.span.clone(), self.params());
        let inner = Arc::new(Statement { tokens, params, read: None, of_block: false, traces, action });
        self.look_at(outer);
        Action::Prepare { name: prepare.name.clone(), types, inner }
    }

    fn execute(&self, execute: &ExecuteStmt) -> Action {
        if let Some(why) = Reach::named(self).why() {
            return opaque(&why); // An argument calls it.
        }
        let args = execute.params.iter().map(|param| self.operand(param)).collect();
        Action::Execute { name: execute.name.clone(), args }
    }

    /// A cursor runs when it is fetched from, and is counted there; or at COMMIT where it is WITH HOLD, and nobody can
    /// count: every table may have been written.
    fn declare(&mut self, options: i32, query: Option<&Node>) -> Action {
        const HOLD: i32 = 0x0020; // CURSOR_OPT_HOLD of parsenodes.h.
        let Some(NodeEnum::SelectStmt(select)) = query.and_then(|query| query.node.as_ref()) else {
            return opaque("a cursor over a utility");
        };
        match self.select(select) {
            Action::Counted(counted) if options & HOLD != 0 => {
                let mut dirty: Vec<_> = self.catalog.tables().map(|table| table.id).collect();
                dirty.sort();
                Action::Counted(Counted { dirty, alone: true, ..counted })
            }
            Action::Counted(counted) => Action::Cursor(counted),
            action => action,
        }
    }

    /// EXPLAIN ANALYZE executes; its rows are a plan, so nothing can be asked.
    fn explain(&mut self, explain: &ExplainStmt) -> Action {
        let analyze = explain.options.iter().any(|node| match node.node.as_ref() {
            Some(NodeEnum::DefElem(option)) => option.defname == "analyze",
            _ => false,
        });
        let Some(node) = explain.query.as_deref().and_then(|query| query.node.as_ref()) else {
            return Action::Pass;
        };
        if !analyze {
            return Action::Pass;
        }
        match (node, self.outcome(node)) {
            (_, Some(outcome)) => outcome.without_answer().finish(Reach::of(self)),
            (NodeEnum::SelectStmt(select), None) => self.select(select),
            _ => opaque("EXPLAIN ANALYZE of a utility"),
        }
    }

    fn truncate(&self, truncate: &TruncateStmt) -> Action {
        let mut tables: Vec<Arc<Relation>> = Vec::new();
        let names = truncate.relations.iter().filter_map(range_var);
        for name in names {
            match Target::of(self.catalog, name) {
                Target::Temporary => {}
                Target::System => return opaque("a system catalog is truncated"),
                Target::Unknown => return opaque(&format!("TRUNCATE of unknown table {}", name.relname)),
                Target::Known(named) => {
                    for table in &named.tables {
                        let below = if name.inh { with_children(self.catalog, table) } else { vec![table.clone()] };
                        tables.extend(below);
                    }
                }
            }
        }
        if truncate.behavior == DropBehavior::DropCascade as i32 {
            self.referencing(&mut tables);
        }
        if tables.is_empty() {
            return Action::Pass;
        }
        let trigger = tables.iter().find(|table| table.hazards.triggers || self.made.alters(table));
        let why = trigger.map(|table| format!("trigger on {}.{}", table.schema, table.name));
        let counted = why.map(Counted::because);
        Action::Truncate(Truncate { tables: labels(&tables), counted })
    }

    /// Add what refers to the tables, and what refers to that.
    fn referencing(&self, tables: &mut Vec<Arc<Relation>>) {
        let mut seen: HashSet<u32> = tables.iter().map(|table| table.oid).collect();
        let mut at = 0;
        while let Some(part) = tables.get(at).cloned() {
            // What refers to a partitioned table refers to each of its partitions.
            let parents = with_roots(self.catalog, &part);
            let refers = |reference: &&Arc<ForeignKey>| parents.iter().any(|one| one.oid == reference.parent);
            let children = self.catalog.foreign_keys.iter().filter(refers);
            for child in children.filter_map(|reference| self.catalog.relations.get(&reference.child)) {
                let below = with_children(self.catalog, child);
                tables.extend(below.into_iter().filter(|part| seen.insert(part.oid)));
            }
            at += 1;
        }
    }

    fn create_as(&mut self, create: &CreateTableAsStmt) -> Action {
        let Some(into) = create.into.as_ref() else { return opaque("CREATE TABLE AS") };
        if create.objtype == ObjectType::ObjectMatview as i32 {
            let counted = Reach::of(self).why().filter(|_| create.into.as_ref().is_some_and(|into| !into.skip_data));
            let counted = counted.map(Counted::because);
            return Action::Ddl(Ddl { mirrorable: true, counted, ..tagged("CREATE MATERIALIZED VIEW") });
        }
        let (reach, writes) = match create.query.as_deref().and_then(|query| query.node.as_ref()) {
            Some(NodeEnum::ExecuteStmt(_)) => (Reach::User("CREATE TABLE AS EXECUTE".to_owned()), false),
            Some(NodeEnum::SelectStmt(select)) => {
                (Reach::named(self), self.with_writes(select.with_clause.as_ref()).is_some())
            }
            _ => (Reach::named(self), false),
        };
        self.filled("CREATE TABLE AS", into, reach, writes)
    }

    /// A table made with rows in it. `writes`: by a query with a WITH that writes.
    pub(super) fn filled(&self, tag: &str, into: &IntoClause, reach: Reach, writes: bool) -> Action {
        let Some(name) = into.rel.as_ref() else { return opaque(tag) };
        let why = reach.why().or_else(|| writes.then(|| format!("{tag} of a WITH that writes")));
        // What runs on both sides would write on both sides, and not the same.
        let mirrorable = why.is_none();
        let why = why.or_else(|| self.made.any().then(|| MADE.to_owned()));
        let counted = why.map(Counted::because);
        if is_temporary(name) {
            let made = |counted| Action::Ddl(Ddl { temporary: true, counted: Some(counted), ..tagged(tag) });
            return counted.map_or(Action::Session, made);
        }
        let schema = Some(name.schemaname.clone()).filter(|schema| !schema.is_empty());
        let rewritten = schema.iter().map(|schema| TableId::of(schema, &name.relname)).collect();
        let fills = (!into.skip_data).then(|| (schema, name.relname.clone()));
        Action::Ddl(Ddl { rewritten, fills, mirrorable, counted, ..tagged(tag) })
    }

    fn schema_change(&mut self, node: &NodeEnum) -> Action {
        let action = self.changed(node);
        let code = self.code(node);
        match if is_shared(node) { action } else { self.under_watch(action) } {
            Action::Ddl(ddl) => {
                let (bare, qualified): (Vec<_>, Vec<_>) = meant(node).into_iter().partition(|name| name.len() == 1);
                let bare = bare.into_iter().flatten().map(str::to_owned).collect();
                Action::Ddl(Ddl { code, bare, has_qualified: !qualified.is_empty(), ..ddl })
            }
            Action::Session if code == Code::Lasting => {
                Action::Ddl(Ddl { temporary: true, code, ..tagged("CREATE TEMP VIEW") })
            }
            other => other,
        }
    }

    /// A schema change, and what event triggers may write behind it, whatever it is of.
    pub(super) fn under_watch(&self, action: Action) -> Action {
        let Some(why) = self.watched() else { return action };
        let counted = Some(Counted::because(why));
        match action {
            Action::Ddl(ddl) => Action::Ddl(Ddl { counted: ddl.counted.or(counted), ..ddl }),
            Action::Session => {
                Action::Ddl(Ddl { temporary: true, counted, ..tagged("a schema change of temporary objects") })
            }
            other => other,
        }
    }

    /// Why hidden writes must be counted behind any schema change.
    fn watched(&self) -> Option<String> {
        let known = self.catalog.schema_trigger().map(|name| format!("event trigger {name}"));
        known.or_else(|| self.made.watches().then(|| "an event trigger of the same transaction".to_owned()))
    }

    /// What later statements may run because of it. What they name is looked up by name in every schema.
    fn code(&self, node: &NodeEnum) -> Code {
        use NodeEnum as N;
        match node {
            N::CreateFunctionStmt(_) | N::AlterFunctionStmt(_) => Code::Function,
            N::CreateTrigStmt(_) | N::RuleStmt(_) | N::CreatePolicyStmt(_) | N::AlterPolicyStmt(_) => Code::Behind,
            N::CreateEventTrigStmt(_) | N::AlterEventTrigStmt(_) => Code::Watching,
            N::ViewStmt(view) if view.view.as_ref().is_some_and(is_temporary) => {
                if Reach::of(self).why().is_some() {
                    Code::Lasting
                } else {
                    Code::None
                }
            }
            N::ViewStmt(_)
            | N::DefineStmt(_)
            | N::CreateDomainStmt(_)
            | N::AlterDomainStmt(_)
            | N::CreateCastStmt(_)
            | N::CreateTransformStmt(_)
            | N::CreateOpClassStmt(_)
            | N::CreateOpFamilyStmt(_)
            | N::AlterOpFamilyStmt(_)
            | N::AlterOperatorStmt(_)
            | N::CreateSchemaStmt(_) => Code::Used,
            N::RenameStmt(rename) => match ObjectType::try_from(rename.rename_type) {
                Ok(ObjectType::ObjectColumn | ObjectType::ObjectTabconstraint | ObjectType::ObjectIndex) => Code::None,
                _ => Code::Used,
            },
            N::AlterTableStmt(alter) => {
                let behind = alter.cmds.iter().filter_map(command).any(alters_writes);
                let joins = alter.cmds.iter().filter_map(command).any(|command| partition(command).is_some());
                match () {
                    () if behind => Code::Behind,
                    () if joins || Reach::named(self).why().is_some() => Code::Used,
                    () => Code::None,
                }
            }
            N::CreateStmt(_) | N::IndexStmt(_) if Reach::named(self).why().is_some() => Code::Used,
            _ => Code::None,
        }
    }

    fn changed(&mut self, node: &NodeEnum) -> Action {
        use NodeEnum as N;
        let on = |name: Option<&RangeVar>| name.map(|name| self.concerned(name)).unwrap_or_default();
        let mirrored = |tag: &str, tables: Vec<Arc<Relation>>| {
            Action::Ddl(Ddl { tables: labels(&tables), mirrorable: true, ..tagged(tag) })
        };
        let plain = |tag: &str| mirrored(tag, Vec::new());
        let kept = |tag: &str, commits: bool| Action::Ddl(Ddl { commits, ..tagged(tag) });
        match node {
            N::CreateTableAsStmt(create) => self.create_as(create),
            N::CreateStmt(create) if create.relation.as_ref().is_some_and(is_temporary) => Action::Session,
            N::CreateStmt(create) => {
                let parents: Vec<_> = create.inh_relations.iter().filter_map(range_var).collect();
                let parents = parents.into_iter().flat_map(|name| self.concerned(name)).collect();
                match created(mirrored("CREATE TABLE", parents), create.relation.as_ref()) {
                    Action::Ddl(ddl) => Action::Ddl(Ddl { unless_there: create.if_not_exists, ..ddl }),
                    other => other,
                }
            }
            N::AlterTableStmt(alter) => self.alter_table(alter),
            N::DropStmt(drop) => self.drop(drop),
            N::RenameStmt(rename) => mirrored("ALTER .. RENAME", on(rename.relation.as_ref())),
            N::AlterObjectSchemaStmt(alter) => mirrored("ALTER .. SET SCHEMA", on(alter.relation.as_ref())),
            N::IndexStmt(index) => {
                let tables = labels(&on(index.relation.as_ref()));
                let commits = index.concurrent;
                Action::Ddl(Ddl { tables, mirrorable: true, commits, ..tagged("CREATE INDEX") })
            }
            N::CreateTrigStmt(trigger) => mirrored("CREATE TRIGGER", on(trigger.relation.as_ref())),
            N::RuleStmt(rule) => mirrored("CREATE RULE", on(rule.relation.as_ref())),
            N::CreatePolicyStmt(policy) => mirrored("CREATE POLICY", on(policy.table.as_ref())),
            N::AlterPolicyStmt(policy) => mirrored("ALTER POLICY", on(policy.table.as_ref())),
            N::ViewStmt(view) if view.view.as_ref().is_some_and(is_temporary) => Action::Session,
            N::ViewStmt(_) => plain("CREATE VIEW"),
            N::RefreshMatViewStmt(refresh) => {
                let views = on(refresh.relation.as_ref());
                let calls = views.iter().find(|view| view.hazards.user_functions).filter(|_| !refresh.skip_data);
                let why = calls.map(|view| format!("a function that {}.{} calls", view.schema, view.name));
                let counted = why.map(Counted::because);
                Action::Ddl(Ddl { mirrorable: true, counted, ..tagged("REFRESH MATERIALIZED VIEW") })
            }
            N::CreateSeqStmt(create) if create.sequence.as_ref().is_some_and(is_temporary) => Action::Session,
            N::CreateSeqStmt(_) => plain("CREATE SEQUENCE"),
            N::AlterSeqStmt(_) => plain("ALTER SEQUENCE"),
            // Values stored by a type's rules are what they were; an enum that gains a label needs it on both sides.
            N::AlterEnumStmt(_) => plain("ALTER TYPE"),
            N::AlterTypeStmt(_) => plain("ALTER TYPE"),
            N::AlterDomainStmt(_) => plain("ALTER DOMAIN"),
            N::CreateDomainStmt(_) => plain("CREATE DOMAIN"),
            N::CreateEnumStmt(_) | N::CreateRangeStmt(_) | N::CompositeTypeStmt(_) => plain("CREATE TYPE"),
            N::DefineStmt(_) => plain("CREATE AGGREGATE, OPERATOR, TYPE, ..."),
            N::CreateFunctionStmt(_) => plain("CREATE FUNCTION"),
            N::AlterFunctionStmt(_) => plain("ALTER FUNCTION"),
            N::CreateCastStmt(_) => plain("CREATE CAST"),
            N::CreateConversionStmt(_) => plain("CREATE CONVERSION"),
            N::CreateTransformStmt(_) => plain("CREATE TRANSFORM"),
            N::CreateOpClassStmt(_) | N::CreateOpFamilyStmt(_) => plain("CREATE OPERATOR CLASS"),
            N::AlterOpFamilyStmt(_) | N::AlterOperatorStmt(_) => plain("ALTER OPERATOR"),
            N::CreateStatsStmt(_) => plain("CREATE STATISTICS"),
            N::AlterStatsStmt(_) => plain("ALTER STATISTICS"),
            N::AlterCollationStmt(_) => plain("ALTER COLLATION"),
            N::AlterTsdictionaryStmt(_) | N::AlterTsconfigurationStmt(_) => plain("ALTER TEXT SEARCH"),
            N::AlterObjectDependsStmt(alter) => mirrored("ALTER .. DEPENDS", on(alter.relation.as_ref())),
            N::AlterOwnerStmt(_) => plain("ALTER .. OWNER"),
            N::CommentStmt(_) => plain("COMMENT"),
            N::SecLabelStmt(_) => plain("SECURITY LABEL"),
            N::GrantStmt(_) => plain("GRANT"),
            N::AlterDefaultPrivilegesStmt(_) => plain("ALTER DEFAULT PRIVILEGES"),
            N::CreateSchemaStmt(_) => {
                Action::Ddl(Ddl { mirrorable: true, makes_schema: true, ..tagged("CREATE SCHEMA") })
            }

            // May run a script, or concerns more than rows: not repeated by the mirror.
            N::CreateExtensionStmt(_) => opaque("CREATE EXTENSION"),
            N::AlterExtensionStmt(_) | N::AlterExtensionContentsStmt(_) => opaque("ALTER EXTENSION"),
            N::CreatePlangStmt(_) => kept("CREATE LANGUAGE", false),
            N::CreateAmStmt(_) => kept("CREATE ACCESS METHOD", false),
            N::CreateEventTrigStmt(_) | N::AlterEventTrigStmt(_) => kept("EVENT TRIGGER", false),
            N::CreateFdwStmt(_) | N::AlterFdwStmt(_) => kept("FOREIGN DATA WRAPPER", false),
            N::CreateForeignServerStmt(_) | N::AlterForeignServerStmt(_) => kept("SERVER", false),
            N::CreateForeignTableStmt(_) | N::ImportForeignSchemaStmt(_) => kept("FOREIGN TABLE", false),
            N::CreateUserMappingStmt(_) | N::AlterUserMappingStmt(_) | N::DropUserMappingStmt(_) => {
                kept("USER MAPPING", false)
            }
            N::CreatePublicationStmt(_) | N::AlterPublicationStmt(_) => kept("PUBLICATION", false),
            N::CreateSubscriptionStmt(_) | N::AlterSubscriptionStmt(_) | N::DropSubscriptionStmt(_) => {
                kept("SUBSCRIPTION", true)
            }
            N::CreateRoleStmt(_) | N::AlterRoleStmt(_) | N::AlterRoleSetStmt(_) | N::DropRoleStmt(_) => {
                kept("ROLE", false)
            }
            N::GrantRoleStmt(_) => kept("GRANT ROLE", false),
            N::ReassignOwnedStmt(_) => kept("REASSIGN OWNED", false),
            N::DropOwnedStmt(_) => opaque("DROP OWNED"),
            N::CreatedbStmt(_) | N::DropdbStmt(_) => kept("DATABASE", true),
            N::AlterDatabaseStmt(_) | N::AlterDatabaseSetStmt(_) | N::AlterDatabaseRefreshCollStmt(_) => {
                kept("ALTER DATABASE", true)
            }
            N::CreateTableSpaceStmt(_) | N::DropTableSpaceStmt(_) | N::AlterTableSpaceOptionsStmt(_) => {
                kept("TABLESPACE", true)
            }
            N::AlterTableMoveAllStmt(_) => kept("ALTER .. SET TABLESPACE", false),
            N::AlterSystemStmt(_) => kept("ALTER SYSTEM", true),
            _ => opaque("a statement that the proxy does not know"),
        }
    }

    /// The tables a schema change concerns, children included.
    fn concerned(&self, name: &RangeVar) -> Vec<Arc<Relation>> {
        let schema = Some(name.schemaname.as_str()).filter(|schema| !schema.is_empty());
        let found = named(self.catalog, schema, &name.relname);
        found.iter().flat_map(|relation| with_children(self.catalog, relation)).collect()
    }

    fn alter_table(&self, alter: &AlterTableStmt) -> Action {
        let Some(name) = alter.relation.as_ref() else { return opaque("ALTER TABLE") };
        if is_temporary(name) {
            return Action::Session;
        }
        let mut tables = self.concerned(name);
        let user = Reach::named(self).why();
        let commands: Vec<_> = alter.cmds.iter().filter_map(command).collect();
        // PostgreSQL takes it alone.
        if let ([command], 1) = (&commands[..], alter.cmds.len())
            && let Some(part) = partition(command).filter(|_| moves_partition(command))
        {
            return self.moved_partition(name, command, part);
        }
        for other in commands.iter().filter_map(|command| partition(command)) {
            tables.extend(self.concerned(other));
        }
        let anew = commands.iter().filter(|command| !self.is_added_already(command, &tables));
        let rewrites = anew.into_iter().any(|command| self.rewrites(command, user.is_some()));
        let named = user.filter(|_| commands.iter().any(|command| evaluates(command)));
        let counted = named.or_else(|| {
            let calls = tables.iter().find(|table| table.hazards.user_functions)?;
            let runs = commands.iter().any(|command| evaluates_anew(command));
            runs.then(|| format!("a function that a constraint or column of {}.{} calls", calls.schema, calls.name))
        });
        let ids = labels(&tables);
        Action::Ddl(Ddl {
            rewritten: if rewrites { ids.clone() } else { Vec::new() },
            tables: ids,
            mirrorable: commands.len() == alter.cmds.len() && !commands.iter().any(|command| stays(command)),
            commits: commands.iter().any(|command| detaches_concurrently(command)),
            // It is repeated all the same: what it calls may write on both sides then, and not the same, but those tables are
            // counted, and mended behind it. Without it no row of its own table would arrive.
            counted: counted.map(Counted::because),
            ..tagged("ALTER TABLE")
        })
    }

    /// Rows come to a partitioned table, or leave it, and none of its other rows change.
    fn moved_partition(&self, name: &RangeVar, command: &AlterTableCmd, part: &RangeVar) -> Action {
        let schema = Some(name.schemaname.as_str()).filter(|schema| !schema.is_empty());
        let (trees, parts) = (named(self.catalog, schema, &name.relname), self.concerned(part));
        let leaves = kind(command) != AlterTableType::AtAttachPartition;
        let roots = trees.iter().filter(|_| leaves).map(|tree| topmost(self.catalog, tree));
        Action::Ddl(Ddl {
            tables: labels(&parts),
            rewritten: labels(&parts),
            parted: labels(&roots.collect::<Vec<_>>()),
            mirrorable: true,
            commits: detaches_concurrently(command),
            ..tagged("ALTER TABLE")
        })
    }

    /// Rows may be rewritten, or get values that each server computes for itself.
    fn rewrites(&self, command: &AlterTableCmd, user: bool) -> bool {
        match kind(command) {
            AlterTableType::AtAlterColumnType
            | AlterTableType::AtSetLogged
            | AlterTableType::AtSetUnLogged
            | AlterTableType::AtSetAccessMethod
            | AlterTableType::AtSetExpression
            | AlterTableType::AtAddInherit
            | AlterTableType::AtDropInherit => true,
            AlterTableType::AtAddColumn => user || !self.plain_column(command),
            _ => false,
        }
    }

    /// `ADD COLUMN IF NOT EXISTS` of a column that all these tables have: what applications run at each start.
    fn is_added_already(&self, command: &AlterTableCmd, tables: &[Arc<Relation>]) -> bool {
        let adds = kind(command) == AlterTableType::AtAddColumn && command.missing_ok;
        let Some(NodeEnum::ColumnDef(column)) = command.def.as_deref().and_then(|def| def.node.as_ref()) else {
            return false;
        };
        let has = |table: &Arc<Relation>| {
            !self.is_altered(table) && table.columns.iter().any(|one| one.name == column.colname)
        };
        adds && !tables.is_empty() && tables.iter().all(has)
    }

    /// A new column whose value in old rows is NULL or a constant. The type of `serial` is none, and a domain that the
    /// catalog does not know may have a default.
    fn plain_column(&self, command: &AlterTableCmd) -> bool {
        let Some(NodeEnum::ColumnDef(column)) = command.def.as_deref().and_then(|def| def.node.as_ref()) else {
            return false;
        };
        let name = column.type_name.as_ref().and_then(|name: &TypeName| name.names.last()).and_then(string);
        name.is_some_and(|name| {
            let is_plain = self.catalog.plain_types.contains(name) && !is_serial(name);
            is_plain && keeps_plain(column, self.catalog.timed_types.contains(name))
        })
    }

    fn drop(&self, drop: &DropStmt) -> Action {
        let tables: Vec<Arc<Relation>> = match ObjectType::try_from(drop.remove_type) {
            Ok(ObjectType::ObjectTable) => {
                let names: Vec<Vec<&str>> = drop.objects.iter().map(parts).collect();
                if names.iter().all(|name| matches!(name.as_slice(), ["pg_temp", _])) {
                    return Action::Session;
                }
                names.iter().flat_map(|name| self.named_parts(name)).collect()
            }
            Ok(ObjectType::ObjectSchema) => {
                let schemas: Vec<&str> = drop.objects.iter().filter_map(string).collect();
                let all = self.catalog.relations.values();
                all.filter(|relation| schemas.contains(&relation.schema.as_str())).cloned().collect()
            }
            Ok(ObjectType::ObjectTrigger | ObjectType::ObjectRule | ObjectType::ObjectPolicy) => {
                let names = drop.objects.iter().map(parts);
                names
                    .flat_map(|name| name.split_last().map(|(_, on)| self.named_parts(on)).unwrap_or_default())
                    .collect()
            }
            _ => Vec::new(),
        };
        let commits = drop.concurrent;
        // Repeated, it would be refused for the name that nobody else has, and taken for done.
        let mirrorable = !drop.objects.iter().map(parts).any(|name| matches!(name.as_slice(), ["pg_temp", _]));
        let parted = if drops_tables(drop) { labels(&self.left(&tables)) } else { Vec::new() };
        let drops = drops_tables(drop);
        Action::Ddl(Ddl { tables: labels(&tables), parted, mirrorable, drops, commits, ..tagged("DROP") })
    }

    /// What these are partitions of, and stays.
    fn left(&self, tables: &[Arc<Relation>]) -> Vec<Arc<Relation>> {
        let goes = |root: &Arc<Relation>| tables.iter().any(|table| table.oid == root.oid);
        tables.iter().map(|table| topmost(self.catalog, table)).filter(|root| !goes(root)).collect()
    }

    fn named_parts(&self, name: &[&str]) -> Vec<Arc<Relation>> {
        let found = match name {
            [.., schema, table] => named(self.catalog, Some(schema), table),
            [table] => named(self.catalog, None, table),
            [] => Vec::new(),
        };
        found.iter().flat_map(|relation| with_children(self.catalog, relation)).collect()
    }
}

fn counted(why: &str) -> Action {
    Action::Counted(Counted::because(why))
}

fn opaque(why: &str) -> Action {
    Action::Opaque(Counted::because(why))
}

fn savepoint(verb: SavepointVerb, transaction: &TransactionStmt) -> Action {
    Action::Savepoint(Savepoint { verb, name: transaction.savepoint_name.clone() })
}

fn tagged(tag: &str) -> Ddl {
    Ddl { tag: tag.to_owned(), ..Ddl::default() }
}

fn is_temporary(name: &RangeVar) -> bool {
    name.relpersistence == "t" || name.schemaname == "pg_temp"
}

fn range_var(node: &Node) -> Option<&RangeVar> {
    match node.node.as_ref()? {
        NodeEnum::RangeVar(name) => Some(name),
        _ => None,
    }
}

/// Tables, and what is like them, that a schema change finds by name: schema, if it is said, and name.
fn meant(node: &NodeEnum) -> Vec<Vec<&str>> {
    use NodeEnum as N;
    match node {
        N::AlterTableStmt(alter) => {
            let others = alter.cmds.iter().filter_map(command).filter_map(partition);
            alter.relation.iter().chain(others).map(name_of).collect()
        }
        N::RenameStmt(rename) => rename.relation.iter().map(name_of).collect(),
        N::AlterObjectSchemaStmt(alter) => alter.relation.iter().map(name_of).collect(),
        N::AlterObjectDependsStmt(alter) => alter.relation.iter().map(name_of).collect(),
        N::IndexStmt(index) => index.relation.iter().map(name_of).collect(),
        N::CreateTrigStmt(trigger) => trigger.relation.iter().map(name_of).collect(),
        N::RuleStmt(rule) => rule.relation.iter().map(name_of).collect(),
        N::CreatePolicyStmt(policy) => policy.table.iter().map(name_of).collect(),
        N::AlterPolicyStmt(policy) => policy.table.iter().map(name_of).collect(),
        N::AlterSeqStmt(alter) => alter.sequence.iter().map(name_of).collect(),
        N::CreateStatsStmt(create) => create.relations.iter().filter_map(range_var).map(name_of).collect(),
        N::GrantStmt(grant) => grant.objects.iter().filter_map(range_var).map(name_of).collect(),
        N::DropStmt(drop) => {
            drop.objects.iter().filter_map(|object| object_of(drop.remove_type, parts(object))).collect()
        }
        N::CommentStmt(comment) => {
            let object = comment.object.as_deref().map(parts);
            object.and_then(|object| object_of(comment.objtype, object)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn name_of(name: &RangeVar) -> Vec<&str> {
    [&*name.schemaname, &*name.relname].into_iter().filter(|part| !part.is_empty()).collect()
}

/// The table that an object of this kind is, or is of.
fn object_of(kind: i32, mut name: Vec<&str>) -> Option<Vec<&str>> {
    use ObjectType as O;
    match ObjectType::try_from(kind).ok()? {
        O::ObjectTable | O::ObjectView | O::ObjectSequence | O::ObjectIndex => Some(name),
        O::ObjectColumn | O::ObjectTabconstraint | O::ObjectTrigger | O::ObjectRule | O::ObjectPolicy => {
            name.pop();
            Some(name)
        }
        _ => None,
    }
}

/// The parts of a qualified name in DROP.
fn parts(node: &Node) -> Vec<&str> {
    match node.node.as_ref() {
        Some(NodeEnum::List(list)) => list.items.iter().filter_map(string).collect(),
        _ => Vec::new(),
    }
}

/// Of the cluster, or an event trigger itself: for these none fires (`EventTriggerSupportsObjectType` of its source).
fn is_shared(node: &NodeEnum) -> bool {
    use NodeEnum as N;
    matches!(
        node,
        N::CreateEventTrigStmt(_)
            | N::AlterEventTrigStmt(_)
            | N::CreateRoleStmt(_)
            | N::AlterRoleStmt(_)
            | N::AlterRoleSetStmt(_)
            | N::DropRoleStmt(_)
            | N::GrantRoleStmt(_)
            | N::CreatedbStmt(_)
            | N::DropdbStmt(_)
            | N::AlterDatabaseStmt(_)
            | N::AlterDatabaseSetStmt(_)
            | N::AlterDatabaseRefreshCollStmt(_)
            | N::CreateTableSpaceStmt(_)
            | N::DropTableSpaceStmt(_)
            | N::AlterTableSpaceOptionsStmt(_)
            | N::AlterSystemStmt(_)
    )
}

/// Does PostgreSQL take it as meant only inside a transaction block, also one that a Query of several statements is?
/// `RequireTransactionBlock` and `WarnNoTransactionBlock` of its source.
pub(super) fn is_of_block(node: &NodeEnum) -> bool {
    match node {
        NodeEnum::LockStmt(_) | NodeEnum::DeclareCursorStmt(_) | NodeEnum::ConstraintsSetStmt(_) => true,
        NodeEnum::VariableSetStmt(set) => set.is_local || set.name.to_ascii_lowercase().starts_with("transaction"),
        _ => false,
    }
}

fn variable(set: &VariableSetStmt) -> Action {
    let all = set.kind == VariableSetKind::VarResetAll as i32;
    let name = set.name.to_ascii_lowercase();
    match () {
        () if all || SESSION_SETTINGS.contains(&name.as_str()) => Action::Session,
        () if is_setting(&name) => Action::Setting,
        () => Action::Pass,
    }
}

fn command(node: &Node) -> Option<&AlterTableCmd> {
    match node.node.as_ref()? {
        NodeEnum::AlterTableCmd(command) => Some(command),
        _ => None,
    }
}

fn kind(command: &AlterTableCmd) -> AlterTableType {
    AlterTableType::try_from(command.subtype).unwrap_or(AlterTableType::Undefined)
}

/// Runs what it says itself over rows that are there.
fn evaluates(command: &AlterTableCmd) -> bool {
    use AlterTableType as A;
    matches!(kind(command), A::AtAddColumn | A::AtAddConstraint) || evaluates_anew(command)
}

/// Runs what the table says over rows that are there: constraints, generated columns, indexes.
fn evaluates_anew(command: &AlterTableCmd) -> bool {
    use AlterTableType as A;
    matches!(kind(command), A::AtAlterColumnType | A::AtValidateConstraint | A::AtSetExpression)
}

fn drops_tables(drop: &DropStmt) -> bool {
    matches!(ObjectType::try_from(drop.remove_type), Ok(ObjectType::ObjectTable | ObjectType::ObjectSchema))
}

fn moves_partition(command: &AlterTableCmd) -> bool {
    use AlterTableType as A;
    matches!(kind(command), A::AtAttachPartition | A::AtDetachPartition | A::AtDetachPartitionFinalize)
}

/// The table that is attached or detached, or the new parent.
fn partition(command: &AlterTableCmd) -> Option<&RangeVar> {
    match command.def.as_deref()?.node.as_ref()? {
        NodeEnum::PartitionCmd(partition) => partition.name.as_ref(),
        NodeEnum::RangeVar(name) => Some(name),
        _ => None,
    }
}

fn detaches_concurrently(command: &AlterTableCmd) -> bool {
    matches!(
        command.def.as_deref().and_then(|def| def.node.as_ref()),
        Some(NodeEnum::PartitionCmd(partition)) if partition.concurrent
    )
}

/// What is said of a new column beside its type leaves its value in old rows NULL or a constant. `timed`: its type reads
/// `now` or `today` in a literal as the clock says.
fn keeps_plain(column: &ColumnDef, timed: bool) -> bool {
    column.constraints.iter().all(|node| match node.node.as_ref() {
        Some(NodeEnum::Constraint(constraint)) => match ConstrType::try_from(constraint.contype) {
            Ok(ConstrType::ConstrIdentity | ConstrType::ConstrGenerated) => false,
            Ok(ConstrType::ConstrDefault) => {
                constraint.raw_expr.as_deref().is_some_and(|value| is_constant(value, timed))
            }
            _ => true,
        },
        _ => false,
    })
}

fn is_serial(name: &str) -> bool {
    name.contains("serial")
}

/// Not `'now'::timestamptz`: a cast may read the clock.
fn is_constant(node: &Node, timed: bool) -> bool {
    matches!(node.node.as_ref(), Some(NodeEnum::AConst(constant)) if constant.isnull || !timed)
}

/// Lets something run behind writes to the table, or hides rows.
fn alters_writes(command: &AlterTableCmd) -> bool {
    use AlterTableType as A;
    matches!(
        kind(command),
        A::AtEnableTrig
            | A::AtEnableAlwaysTrig
            | A::AtEnableReplicaTrig
            | A::AtEnableTrigAll
            | A::AtEnableTrigUser
            | A::AtEnableRule
            | A::AtEnableAlwaysRule
            | A::AtEnableReplicaRule
            | A::AtEnableRowSecurity
            | A::AtForceRowSecurity
    )
}

/// Concerns where a server keeps its files, or what fires on the secondary.
fn stays(command: &AlterTableCmd) -> bool {
    matches!(
        kind(command),
        AlterTableType::AtSetTableSpace
            | AlterTableType::AtEnableAlwaysTrig
            | AlterTableType::AtEnableReplicaTrig
            | AlterTableType::AtEnableAlwaysRule
            | AlterTableType::AtEnableReplicaRule
    )
}

/// What the transaction that creates a table writes into it is not in any catalog yet.
fn created(action: Action, name: Option<&RangeVar>) -> Action {
    match (action, name) {
        (Action::Ddl(ddl), Some(name)) => {
            let schema = Some(name.schemaname.clone()).filter(|schema| !schema.is_empty());
            Action::Ddl(Ddl { fills: Some((schema, name.relname.clone())), ..ddl })
        }
        (other, _) => other,
    }
}
