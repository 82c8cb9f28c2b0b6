//! What one side says of itself before a switch, beside what `tandem check` asks.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::protocol::postgres::check::OURS;
use crate::protocol::postgres::client::{Client, DataRow, Error, ServerConfig, TargetSession};

use super::barrier::{self, Standing};
use super::sequences::{self, Sequence};
use super::strangers::{self, Open, Session};
use super::triggers::{self, Trigger};

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) table: String,
    pub(super) unique: bool,
}

/// A check, foreign key or exclusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Constraint {
    pub(super) definition: String,
    /// The table that a foreign key refers to.
    pub(super) parent: Option<String>,
    /// Checked for all rows, and enforced.
    pub(super) valid: bool,
}

/// One side.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) database: String,
    /// Those with rows of their own, and partitioned ones.
    pub(super) tables: BTreeSet<String>,
    /// By definition: all but the name. Those of partitions follow their parents'.
    pub(super) indexes: BTreeMap<String, Index>,
    /// Indexes that were not built to their end.
    pub(super) invalid: BTreeSet<String>,
    /// By table and name.
    pub(super) constraints: BTreeMap<(String, String), Constraint>,
    /// Tables whose rows are hidden by policies, and whether from their owner too.
    pub(super) row_security: BTreeMap<String, bool>,
    /// By table and name: what it says.
    pub(super) policies: BTreeMap<(String, String), String>,
    pub(super) views: BTreeSet<String>,
    /// With the types of their arguments; none of an extension.
    pub(super) functions: BTreeSet<String>,
    /// Foreign keys whose triggers do not fire.
    pub(super) keys_off: BTreeSet<String>,
    pub(super) unlogged: BTreeSet<String>,
    /// Tables with rules that act.
    pub(super) ruled: BTreeSet<String>,
    /// Login roles of which sessions are read-only.
    pub(super) read_only_roles: Vec<String>,
    pub(super) sequences: Vec<Sequence>,
    pub(super) triggers: Vec<Trigger>,
    pub(super) barrier: Standing,
    pub(super) open: Open,
    pub(super) others: Vec<Session>,
    pub(super) tandems: Vec<String>,
    pub(super) may_see_stats: bool,
    pub(super) may_signal: bool,
    pub(super) replica: bool,
}

const TABLES: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {OURS}";

/// `CREATE [UNIQUE] INDEX name ON ..` without its name. With an empty search path every other name is qualified.
const INDEXES: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname), x.indisunique, \
    pg_catalog.concat(k.word, pg_catalog.substr(pg_catalog.pg_get_indexdef(i.oid), \
      pg_catalog.length('CREATE ' || k.word || ' ' || pg_catalog.quote_ident(i.relname)) + 1)) \
    FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, \
    LATERAL (SELECT CASE WHEN x.indisunique THEN 'UNIQUE INDEX' ELSE 'INDEX' END AS word) k \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition \
    AND x.indisvalid AND x.indisready AND {OURS}";

const INVALID: &str = "SELECT pg_catalog.concat(n.nspname, '.', i.relname) \
    FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relpersistence <> 't' AND NOT (x.indisvalid AND x.indisready) AND {OURS}";

/// Keys are looked at as indexes. `conenforced` came with 18, so it is asked as JSON.
const CONSTRAINTS: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname), o.conname, \
    pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(o.oid), '( NOT VALID| NOT ENFORCED)+$', ''), \
    o.convalidated AND coalesce(pg_catalog.to_jsonb(o) ->> 'conenforced', 'true') = 'true', \
    (SELECT pg_catalog.concat(pn.nspname, '.', p.relname) FROM pg_catalog.pg_class p \
      JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace WHERE o.contype = 'f' AND p.oid = o.confrelid) \
    FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE o.contype IN ('c', 'f', 'x') AND o.conparentid = 0 AND c.relkind IN ('r', 'p') \
    AND NOT c.relispartition AND {OURS}";

const ROW_SECURITY: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname), c.relforcerowsecurity \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND {OURS}";

const POLICIES: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname), o.polname, pg_catalog.concat_ws(' ', \
    o.polcmd, o.polpermissive, (SELECT pg_catalog.string_agg(r.name, ',' ORDER BY r.name) FROM (SELECT CASE u WHEN 0 \
      THEN 'public' ELSE pg_catalog.pg_get_userbyid(u)::pg_catalog.text END FROM pg_catalog.unnest(o.polroles) u) r (name)), \
    'USING ' || pg_catalog.pg_get_expr(o.polqual, c.oid), 'CHECK ' || pg_catalog.pg_get_expr(o.polwithcheck, c.oid)) \
    FROM pg_catalog.pg_policy o JOIN pg_catalog.pg_class c ON c.oid = o.polrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}";

const VIEWS: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {OURS} \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
      AND x.objid = c.oid AND x.deptype = 'e')";

const FUNCTIONS: &str = "SELECT p.oid::pg_catalog.regprocedure FROM pg_catalog.pg_proc p \
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE {OURS} \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
      AND x.objid = p.oid AND x.deptype = 'e')";

const KEYS_OFF: &str = "SELECT DISTINCT pg_catalog.concat(n.nspname, '.', c.relname, ' (', o.conname, ')') \
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_constraint o ON o.oid = t.tgconstraint \
    JOIN pg_catalog.pg_class c ON c.oid = o.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE o.contype = 'f' AND t.tgenabled IN ('D', 'R') AND {OURS}";

const UNLOGGED: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND {OURS}";

const RULED: &str = "SELECT DISTINCT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_catalog.pg_rewrite r \
    JOIN pg_catalog.pg_class c ON c.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND r.ev_enabled IN ('O', 'A') AND {OURS}";

/// Of this database, or of the role in all databases.
const READ_ONLY_ROLES: &str = "SELECT DISTINCT r.rolname FROM pg_catalog.pg_db_role_setting s \
    JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, LATERAL pg_catalog.unnest(s.setconfig) c \
    WHERE r.rolcanlogin AND c ~ '^default_transaction_read_only=(on|true|yes|1)$' AND s.setdatabase IN \
      (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))";

const RIGHTS: &str = "SELECT pg_catalog.current_database(), pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'), \
    pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')";

/// Ask a side. `ours` are the process ids of tandem's own connections and sessions there.
pub(super) async fn read(conn: &mut Client, ours: &HashSet<u32>) -> Result<Facts, Error> {
    let rows = conn.simple(RIGHTS).await?;
    let rights = rows.first().ok_or(Error::Value(0))?;
    Ok(Facts {
        database: rights.string(0)?,
        may_see_stats: rights.bool(1)?,
        may_signal: rights.bool(2)?,
        tables: names(conn, TABLES).await?,
        indexes: indexes(conn).await?,
        invalid: names(conn, INVALID).await?,
        constraints: constraints(conn).await?,
        row_security: row_security(conn).await?,
        policies: policies(conn).await?,
        views: names(conn, VIEWS).await?,
        functions: names(conn, FUNCTIONS).await?,
        keys_off: names(conn, KEYS_OFF).await?,
        unlogged: names(conn, UNLOGGED).await?,
        ruled: names(conn, RULED).await?,
        read_only_roles: names(conn, READ_ONLY_ROLES).await?.into_iter().collect(),
        sequences: sequences::read(conn).await?,
        triggers: triggers::read(conn).await?,
        barrier: barrier::look(conn).await?,
        open: strangers::open(conn, &HashSet::new()).await?,
        others: strangers::all(conn, ours).await?,
        tandems: strangers::tandems(conn).await?,
        replica: triggers::may_be_replica(conn).await?,
    })
}

async fn indexes(conn: &mut Client) -> Result<BTreeMap<String, Index>, Error> {
    let rows = conn.simple(&INDEXES.replace("{OURS}", OURS)).await?;
    let index = |row: &DataRow| Ok((row.string(2)?, Index { table: row.string(0)?, unique: row.bool(1)? }));
    rows.iter().map(index).collect()
}

async fn constraints(conn: &mut Client) -> Result<BTreeMap<(String, String), Constraint>, Error> {
    let rows = conn.simple(&CONSTRAINTS.replace("{OURS}", OURS)).await?;
    let constraint = |row: &DataRow| {
        let (parent, valid) = (row.text(4)?.map(str::to_owned), row.bool(3)?);
        let constraint = Constraint { definition: row.string(2)?, parent, valid };
        Ok(((row.string(0)?, row.string(1)?), constraint))
    };
    rows.iter().map(constraint).collect()
}

async fn row_security(conn: &mut Client) -> Result<BTreeMap<String, bool>, Error> {
    let rows = conn.simple(&ROW_SECURITY.replace("{OURS}", OURS)).await?;
    rows.iter().map(|row| Ok((row.string(0)?, row.bool(1)?))).collect()
}

async fn policies(conn: &mut Client) -> Result<BTreeMap<(String, String), String>, Error> {
    let rows = conn.simple(&POLICIES.replace("{OURS}", OURS)).await?;
    rows.iter().map(|row| Ok(((row.string(0)?, row.string(1)?), row.string(2)?))).collect()
}

async fn names(conn: &mut Client, sql: &str) -> Result<BTreeSet<String>, Error> {
    conn.simple(&sql.replace("{OURS}", OURS)).await?.iter().map(|row| row.string(0)).collect()
}

/// What a session that asks for nothing gets: the server's, the database's and our role's settings together.
pub(super) async fn is_read_only(server: &ServerConfig) -> Result<bool, Error> {
    let server = ServerConfig { target_session: TargetSession::Any, ..server.clone() };
    let mut conn = Client::connect(&server).await?;
    let rows = conn.simple("SHOW default_transaction_read_only").await?;
    conn.close().await;
    Ok(rows.first().ok_or(Error::Value(0))?.text(0)? == Some("on"))
}
