//! What one side says of itself: read once, compared later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::protocol::postgres::catalog::{self, Catalog};
use crate::protocol::postgres::client::{Client, Error, ServerConfig, Watch};

use super::privileges::{self, Privileges};
use super::types::{self, Types};

/// Names, and what they are compared by.
pub(super) type Named = BTreeMap<String, String>;

/// The versions that were tried, as `server_version_num`.
const VERSIONS: std::ops::Range<u32> = 140_000..190_000;

/// One database of one cluster.
#[derive(Debug, Default)]
pub(in crate::protocol::postgres) struct Facts {
    /// `server_version_num`.
    pub(super) version: u32,
    /// What names the cluster, and this start of it.
    pub(super) system_id: String,
    pub(super) started: String,
    pub(super) database: String,
    /// Our process as the server sees it is the one that it told us.
    pub(super) direct: bool,
    pub(in crate::protocol::postgres) catalog: Catalog,
    /// Of [`SETTINGS`].
    pub(super) settings: Named,
    /// Of [`MEANING`].
    pub(super) meaning: Named,
    /// Encoding and what text of the database sorts by: provider, locale, rules, version.
    pub(super) locale: Named,
    /// Deferrable keys: `table (constraint)`.
    pub(super) deferrable: BTreeSet<String>,
    pub(super) types: Types,
    pub(super) extensions: Named,
    /// Extensions whose functions in C may write.
    pub(super) uncertain: BTreeSet<String>,
    pub(super) sequences: Named,
    pub(super) collations: Named,
    pub(super) roles: Named,
    pub(super) role_settings: Named,
    pub(super) privileges: Privileges,
    pub(super) large_objects: bool,
    pub(super) rights: Rights,
}

/// What our role may do.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// Oids of tables.
    pub(super) read: BTreeSet<u32>,
    pub(super) write: BTreeSet<u32>,
    /// Policies hide rows.
    pub(super) hidden: BTreeSet<u32>,
    /// May make the schema `tandem`, or tables in it.
    pub(super) create: bool,
    pub(super) stats: bool,
    pub(super) replica: bool,
}

/// Why a side tells nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::protocol::postgres) enum Failed {
    #[error("{0}")]
    Client(#[from] Error),
    #[error("{0}")]
    Catalog(#[from] catalog::LoadError),
}

impl Facts {
    /// A version that was tried; of others nothing but the version is known.
    pub(super) fn is_known(&self) -> bool {
        VERSIONS.contains(&self.version)
    }
}

/// Neither the system's schemas nor tandem's own: for a row of `pg_namespace n`.
pub(in crate::protocol::postgres) const OURS: &str =
    "n.nspname NOT IN ('information_schema', 'tandem') AND n.nspname !~ '^pg_'";

const SERVER: &str = "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_database(), \
    pg_catalog.pg_postmaster_start_time(), (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
    pg_catalog.pg_backend_pid()";

/// The process of BackendKeyData is listed as ours. A pooler hands out numbers of its own.
const LISTED: &str =
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = {PID} AND usename = CURRENT_USER)";

const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('track_counts', \
    'idle_session_timeout', 'idle_in_transaction_session_timeout', 'max_prepared_transactions')";

// What statements mean and how long they may take, where a session says nothing of it: as the server is set. What is set for our
// role or this database is compared with the other roles'; `search_path` is what this connection began with.
const MEANING: &str = "SELECT name, CASE WHEN name = 'TimeZone' \
      AND reset_val IN ('UTC', 'Etc/UTC', 'UCT', 'Etc/UCT', 'Zulu', 'Etc/Zulu', 'Universal', 'Etc/Universal', 'GMT', 'Etc/GMT') \
    THEN 'UTC' ELSE reset_val END FROM pg_catalog.pg_settings WHERE name IN ('TimeZone', 'timezone_abbreviations', 'DateStyle', \
      'IntervalStyle', 'search_path', 'standard_conforming_strings', 'transform_null_equals', 'array_nulls', 'bytea_output', \
      'extra_float_digits', 'xmlbinary', 'xmloption', 'lc_monetary', 'lc_numeric', 'lc_time', 'default_text_search_config', \
      'default_transaction_isolation', 'default_transaction_deferrable', 'statement_timeout', 'lock_timeout', \
      'transaction_timeout', 'synchronous_commit', 'row_security') \
    AND source IN ('default', 'environment variable', 'configuration file', 'command line', 'global', 'override', 'session')";

// As JSON, because columns came with 15 and 16 and were renamed with 17. Before 15 every database's provider was libc; an
// ICU locale is written with hyphens since 16, and beside it libc's stands unused.
const LOCALE: &str = "SELECT l.name, l.value FROM pg_catalog.pg_database d, LATERAL pg_catalog.to_jsonb(d) j, \
    LATERAL (SELECT coalesce(j ->> 'datlocprovider', 'c')) p (provider), LATERAL (VALUES \
      ('encoding', pg_catalog.pg_encoding_to_char(d.encoding)::pg_catalog.text), ('provider', {PROVIDER}), \
      ('locale', {LOCALE:dat}), ('ctype', j ->> 'datctype'), ('rules', coalesce(j ->> 'daticurules', '')), \
      ('version', j ->> 'datcollversion')) l (name, value) \
    WHERE d.datname = pg_catalog.current_database() AND l.value IS NOT NULL";

const DEFERRABLE: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname, ' (', o.conname, ')'), '' \
    FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class c ON c.oid = o.conrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE o.contype IN ('p', 'u') AND o.condeferrable";

const EXTENSIONS: &str = "SELECT extname, extversion FROM pg_catalog.pg_extension";

const SEQUENCES: &str = "SELECT pg_catalog.concat(n.nspname, '.', c.relname), '' FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence <> 't' \
    AND n.nspname <> 'tandem'";

const COLLATIONS: &str = "SELECT pg_catalog.concat(n.nspname, '.', l.collname), \
    pg_catalog.concat_ws(' ', {PROVIDER}, {LOCALE:coll}, CASE p.provider WHEN 'c' THEN j ->> 'collctype' END, \
      l.collisdeterministic, j ->> 'collicurules', l.collversion) \
    FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace, \
    LATERAL pg_catalog.to_jsonb(l) j, LATERAL (SELECT l.collprovider::pg_catalog.text) p (provider) \
    WHERE l.oid >= 16384 AND n.nspname <> 'pg_catalog'";

const PROVIDER: &str =
    "CASE p.provider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE p.provider END";

/// What the provider sorts by: of a database (`dat`), or of a collation (`coll`).
const PROVIDED: &str = "CASE p.provider WHEN 'i' THEN pg_catalog.replace(coalesce(j ->> '{OF}locale', \
    j ->> '{OF}iculocale', j ->> '{OF}collate'), '_', '-') WHEN 'c' THEN j ->> '{OF}collate' ELSE j ->> '{OF}locale' END";

/// Locales are kept under other names in each version, and mean the same.
fn in_every_version(sql: &str) -> String {
    let provided = |of| PROVIDED.replace("{OF}", of);
    let sql = sql.replace("{PROVIDER}", PROVIDER);
    sql.replace("{LOCALE:dat}", &provided("dat")).replace("{LOCALE:coll}", &provided("coll"))
}

const ROLES: &str = "SELECT rolname, '' FROM pg_catalog.pg_roles WHERE rolcanlogin";

const ROLE_SETTINGS: &str = "SELECT pg_catalog.concat(CASE WHEN s.setrole = 0 THEN 'every role' ELSE 'role ' || \
    pg_catalog.pg_get_userbyid(s.setrole) END, CASE WHEN s.setdatabase = 0 THEN '' ELSE ' in this database' END, ': ', \
    pg_catalog.split_part(c, '=', 1)), c FROM pg_catalog.pg_db_role_setting s, LATERAL pg_catalog.unnest(s.setconfig) c \
    WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))";

const LARGE_OBJECTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)";

const TABLE_RIGHTS: &str = "SELECT c.oid, u AND pg_catalog.has_table_privilege(c.oid, 'SELECT'), \
    u AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'INSERT') \
    AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') AND pg_catalog.has_table_privilege(c.oid, 'DELETE'), \
    pg_catalog.row_security_active(c.oid) FROM pg_catalog.pg_class c, \
    LATERAL pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') u WHERE c.relkind IN ('r', 'p')";

const ROLE_RIGHTS: &str = "SELECT CASE WHEN pg_catalog.to_regnamespace('tandem') IS NULL \
    THEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') \
    ELSE pg_catalog.has_schema_privilege('tandem', 'CREATE') END, pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')";

/// A side that says nothing for so long, nor lets anybody in, is told as one that cannot be reached.
const HANGS: Duration = Duration::from_secs(30);

/// Ask a side everything.
pub(in crate::protocol::postgres) async fn read(server: &ServerConfig) -> Result<Facts, Failed> {
    let mut conn = Client::connect(&server.for_writing("tandem check")).await?;
    let watch = Watch::new(&conn, HANGS);
    let facts = tokio::select! {
        biased;
        facts = ask(&mut conn) => facts?,
        error = watch.hangs() => return Err(error.into()),
    };
    conn.close().await;
    Ok(facts)
}

async fn ask(conn: &mut Client) -> Result<Facts, Failed> {
    let mut facts = identity(conn).await?;
    if facts.is_known() {
        details(conn, &mut facts).await?;
    }
    Ok(facts)
}

async fn identity(conn: &mut Client) -> Result<Facts, Error> {
    let rows = conn.simple(SERVER).await?;
    let row = rows.first().ok_or(Error::Value(0))?;
    let pid: u32 = row.parse(4)?;
    let listed = LISTED.replace("{PID}", &conn.pid().to_string());
    Ok(Facts {
        version: row.parse(0)?,
        database: row.string(1)?,
        started: row.string(2)?,
        system_id: row.string(3)?,
        direct: pid == conn.pid() && yes(conn, &listed).await?,
        ..Facts::default()
    })
}

async fn details(conn: &mut Client, facts: &mut Facts) -> Result<(), Failed> {
    conn.simple("SET search_path = ''").await?;
    facts.catalog = catalog::load(conn).await?;
    facts.settings = named(conn, SETTINGS).await?;
    facts.meaning = named(conn, MEANING).await?;
    facts.locale = named(conn, &in_every_version(LOCALE)).await?;
    facts.deferrable = named(conn, DEFERRABLE).await?.into_keys().collect();
    facts.types = types::read(conn).await?;
    facts.extensions = named(conn, EXTENSIONS).await?;
    facts.uncertain = catalog::uncertain_extensions(conn).await?.into_iter().collect();
    facts.sequences = named(conn, SEQUENCES).await?;
    facts.collations = named(conn, &in_every_version(COLLATIONS)).await?;
    facts.roles = named(conn, ROLES).await?;
    facts.role_settings = named(conn, ROLE_SETTINGS).await?;
    facts.privileges = privileges::read(conn).await?;
    facts.large_objects = yes(conn, LARGE_OBJECTS).await?;
    facts.rights = rights(conn).await?;
    Ok(())
}

async fn rights(conn: &mut Client) -> Result<Rights, Error> {
    let mut rights = Rights::default();
    for row in conn.simple(TABLE_RIGHTS).await? {
        let oid = row.parse(0)?;
        for (at, set) in [(1, &mut rights.read), (2, &mut rights.write), (3, &mut rights.hidden)] {
            if row.bool(at)? {
                set.insert(oid);
            }
        }
    }
    let rows = conn.simple(ROLE_RIGHTS).await?;
    let row = rows.first().ok_or(Error::Value(0))?;
    (rights.create, rights.stats) = (row.bool(0)?, row.bool(1)?);
    // There is no way to ask before 15; it is tried, and ends with the transaction.
    rights.replica = match conn.simple("BEGIN; SET LOCAL session_replication_role = replica").await {
        Ok(_) => true,
        Err(Error::Db(_)) => false,
        Err(error) => return Err(error),
    };
    conn.simple("ROLLBACK").await?;
    Ok(rights)
}

async fn named(conn: &mut Client, sql: &str) -> Result<Named, Error> {
    conn.simple(sql).await?.iter().map(|row| Ok((row.string(0)?, row.string(1)?))).collect()
}

async fn yes(conn: &mut Client, sql: &str) -> Result<bool, Error> {
    conn.simple(sql).await?.first().ok_or(Error::Value(0))?.bool(0)
}
