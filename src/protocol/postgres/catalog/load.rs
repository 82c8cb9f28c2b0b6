//! Reads a [`Catalog`] from a server's `pg_catalog`, versions 14 to 18, in a dozen queries of one snapshot.
//!
//! Object ids below 16384 (`FirstNormalObjectId`, `access/transam.h`) belong to PostgreSQL itself; everything from
//! there on was made by somebody and is looked at with suspicion: a function of theirs may write.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::postgres::client::{Client, DataRow, Error};
use crate::record::TableId;

use super::{Act, Catalog, Column, Events, ForeignKey, Hazards, Key, Kind, Relation, routine};

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connection, or the server refused a query.
    #[error("reading the catalog: {0}")]
    Client(#[from] Error),
    /// Two tables share a label. It takes 2^32 tables for a fair chance of it; renaming one mends it.
    #[error("tables {0} and {1} share one label: rename one of them")]
    Collision(String, String),
    /// Older than what was tried.
    #[error("the server's version is {0}; tandem reads catalogs from 140000 on")]
    Version(u32),
}

/// Load the schema that the connection's database has now. Inside a transaction, the one that its snapshot sees; else
/// in a transaction of its own. The schema `tandem` is the mirror's own and left out. [`Catalog::epoch`] stays 0: it
/// belongs to whoever keeps the catalog.
///
/// # Errors
/// See [`LoadError`]. A transaction of its own is ended either way. Not cancel safe.
pub async fn load(conn: &mut Client) -> Result<Catalog, LoadError> {
    if conn.status() != b'I' {
        return read(conn).await;
    }
    conn.simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''").await?;
    let catalog = read(conn).await;
    conn.simple("COMMIT").await?;
    catalog
}

async fn read(conn: &mut Client) -> Result<Catalog, LoadError> {
    let server = conn.simple(SERVER).await?;
    let row = server.first().ok_or(Error::Value(0))?;
    let mut catalog = Catalog { version: row.parse(0)?, utf8: row.bool(1)?, ..Catalog::default() };
    if catalog.version < 140_000 {
        return Err(LoadError::Version(catalog.version));
    }
    let types = types(conn).await?;
    let (mut relations, files) = relations(conn).await?;
    catalog.files = files;
    columns(conn, &types, &mut relations).await?;
    keys(conn, &mut relations).await?;
    parents(conn, &mut relations).await?;
    catalog.foreign_keys = foreign_keys(conn, &relations).await?;
    catalog.user_functions = names(conn, FUNCTIONS).await?;
    catalog.user_operators = names(conn, OPERATORS).await?;
    catalog.calm_procedures = calm_procedures(conn).await?;
    catalog.unsteady = unsteady(conn).await?;
    catalog.user_types =
        types.by_oid.values().filter(|ty| ty.oid >= FIRST_NORMAL_OID && ty.hot).map(|ty| ty.name.clone()).collect();
    hazards(conn, &types, &catalog, &mut relations).await?;
    catalog.event_triggers = event_triggers(conn, &catalog, &relations).await?;
    let mut catalog = index(catalog, relations)?;
    catalog.plain_types = types.plain(&catalog);
    catalog.timed_types = types.timed();
    Ok(catalog)
}

fn index(mut catalog: Catalog, relations: HashMap<u32, Relation>) -> Result<Catalog, LoadError> {
    for (oid, relation) in relations {
        if let Some(other) = catalog.by_id.insert(relation.id, oid) {
            return Err(LoadError::Collision(relation.sql(), catalog.relations[&other].sql()));
        }
        catalog.by_name.entry(relation.name.clone()).or_default().push(oid);
        catalog.relations.insert(oid, Arc::new(relation));
    }
    catalog.by_name.values_mut().for_each(|oids| oids.sort_unstable());
    Ok(catalog)
}

/// Objects below are PostgreSQL's own, and have the same oid on every server of a version.
pub(in crate::protocol::postgres) const FIRST_NORMAL_OID: u32 = 16384;

const SERVER: &str = "SELECT pg_catalog.current_setting('server_version_num'), \
    pg_catalog.pg_encoding_to_char(encoding) = 'UTF8' FROM pg_catalog.pg_database \
    WHERE datname = pg_catalog.current_database()";

/// Functions that may write: everybody's, except those of extensions that compute ([`COMPUTES`]). Names count: citext has a
/// `replace` of its own, in SQL, and PostGIS a `st_astext`.
const HOT: &str = "hot AS (SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.oid >= 16384 \
    AND p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype) \
    AND NOT ({COMPUTES}))";

/// Functions of extensions that write nothing themselves, for a row of `pg_proc p`: immutable ones in SQL; in C those that are
/// not volatile, which is to promise it (CREATE FUNCTION, "volatility"), and volatile ones of [`COMPUTERS`]. Nobody can read
/// what others do: Apache AGE's `cypher` and orafce's `dbms_sql` write.
const COMPUTES: &str = "p.prolang IN (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'sql')) AND EXISTS ( \
      SELECT FROM pg_catalog.pg_depend m JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid \
      WHERE m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND m.objid = p.oid AND m.deptype = 'e' \
      AND m.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND e.extname NOT IN ({WRITERS}) \
      AND (p.provolatile = 'i' OR p.prolang = (SELECT oid FROM pg_catalog.pg_language WHERE lanname = 'c') \
        AND (p.provolatile = 's' OR e.extname IN ({COMPUTERS}))))";

/// Extensions whose functions write, or run SQL text that they are given, whatever they say of themselves.
const WRITERS: &str = "'citus', 'dblink', 'lo', 'pglogical', 'tablefunc', 'timescaledb', 'xml2'";

/// Extensions whose volatile functions in C make a value, show or set something of the server or session, and write no row.
const COMPUTERS: &str = "'address_standardizer', 'amcheck', 'fuzzystrmatch', 'hll', 'hypopg', 'isn', 'pageinspect', \
    'pg_buffercache', 'pg_freespacemap', 'pg_hint_plan', 'pg_prewarm', 'pg_qualstats', 'pg_stat_kcache', \
    'pg_stat_monitor', 'pg_stat_statements', 'pg_trgm', 'pg_uuidv7', 'pg_visibility', 'pg_wait_sampling', \
    'pg_walinspect', 'pgaudit', 'pgcrypto', 'pgrowlocks', 'pgstattuple', 'postgis', 'postgis_raster', \
    'postgis_sfcgal', 'sslinfo', 'tsm_system_rows', 'tsm_system_time', 'uuid-ossp'";

/// The extensions with functions in C that may write.
const UNCERTAIN: &str = "WITH {HOT} SELECT DISTINCT e.extname FROM hot JOIN pg_catalog.pg_proc p USING (oid) \
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname = 'c' \
    JOIN pg_catalog.pg_depend m ON m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND m.objid = p.oid \
      AND m.deptype = 'e' AND m.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass \
    JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid";

/// The extensions whose functions in C are counted, for nobody can read what they write.
///
/// # Errors
/// The server's, or the connection's.
pub async fn uncertain_extensions(conn: &mut Client) -> Result<HashSet<String>, Error> {
    names(conn, UNCERTAIN).await
}

const FUNCTIONS: &str = "WITH {HOT} SELECT DISTINCT proname FROM pg_catalog.pg_proc JOIN hot USING (oid)";

const OPERATORS: &str = "WITH {HOT} SELECT DISTINCT oprname FROM pg_catalog.pg_operator o JOIN hot ON hot.oid = o.oprcode \
    WHERE o.oid >= 16384";

/// SQL procedures, and those with SET or SECURITY DEFINER, are refused transaction control (CREATE PROCEDURE, "Notes");
/// of other languages than PL/pgSQL nobody here can read the source.
const PROCEDURES: &str = "SELECT p.proname, l.lanname = 'sql' OR p.proconfig IS NOT NULL OR p.prosecdef, \
    CASE WHEN l.lanname = 'plpgsql' THEN p.prosrc END \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE p.prokind = 'p'";

async fn calm_procedures(conn: &mut Client) -> Result<HashSet<String>, Error> {
    let (mut calm, mut hot) = (HashSet::new(), HashSet::new());
    for row in ask(conn, PROCEDURES).await? {
        let is_calm = row.bool(1)? || row.text(2)?.is_some_and(|source| !routine::could_end(source));
        if is_calm { &mut calm } else { &mut hot }.insert(row.string(0)?);
    }
    calm.retain(|name| !hot.contains(name));
    Ok(calm)
}

/// Of an extension's functions the stable ones are believed to depend on data and settings only.
const UNSTEADY: &str = "SELECT DISTINCT proname, provolatile = 'v' FROM pg_catalog.pg_proc \
    WHERE provolatile = 'v' OR provolatile = 's' AND oid < 16384";

async fn unsteady(conn: &mut Client) -> Result<HashSet<String>, Error> {
    let mut names = HashSet::new();
    for row in ask(conn, UNSTEADY).await? {
        let name = row.string(0)?;
        if row.bool(1)? || !routine::depends_on_settings(&name) {
            names.insert(name);
        }
    }
    Ok(names)
}

pub(super) async fn ask(conn: &mut Client, sql: &str) -> Result<Vec<DataRow>, Error> {
    let sql = sql.replace("{HOT}", HOT).replace("{COMPUTES}", COMPUTES);
    let sql = sql.replace("{WRITERS}", WRITERS).replace("{COMPUTERS}", COMPUTERS);
    conn.simple(&sql.replace("{RELATIONS}", RELATIONS)).await
}

async fn names(conn: &mut Client, sql: &str) -> Result<HashSet<String>, Error> {
    ask(conn, sql).await?.iter().map(|row| row.string(0)).collect()
}

/// The relations that a catalog holds.
const RELATIONS: &str = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tandem') \
    AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)' \
    AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'";

/// By oid; and the files of tables.
async fn relations(conn: &mut Client) -> Result<(HashMap<u32, Relation>, HashMap<u32, u32>), Error> {
    // Nothing that opens a table: a load must not wait for the transaction that waits for it.
    let sql = "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence = 'u', c.relrowsecurity, c.reltuples, \
        c.relfilenode FROM {RELATIONS}";
    let (mut relations, mut files) = (HashMap::new(), HashMap::new());
    for row in ask(conn, sql).await? {
        let (oid, relation) = relation(&row)?;
        if relation.kind == Kind::Table {
            files.insert(oid, row.parse(7)?);
        }
        relations.insert(oid, relation);
    }
    Ok((relations, files))
}

fn relation(row: &DataRow) -> Result<(u32, Relation), Error> {
    let (schema, name) = (row.string(1)?, row.string(2)?);
    let kind = match row.text(3)? {
        Some("r") => Kind::Table,
        Some("p") => Kind::Partitioned,
        Some("v") => Kind::View,
        Some("m") => Kind::Materialized,
        _ => Kind::Foreign,
    };
    let oid = row.parse(0)?;
    let relation = Relation {
        oid,
        id: TableId::of(&schema, &name),
        schema,
        name,
        kind,
        unlogged: row.bool(4)?,
        columns: Vec::new(),
        key: None,
        parents: Vec::new(),
        children: Vec::new(),
        hazards: Hazards { row_security: row.bool(5)?, ..Hazards::default() },
        reads: Vec::new(),
        rows: row.parse(6)?,
        actual: None,
    };
    Ok((oid, relation))
}

// DEFAULT_COLLATION_OID is 100: catalog/pg_collation.dat.
async fn columns(conn: &mut Client, types: &Types, relations: &mut HashMap<u32, Relation>) -> Result<(), Error> {
    let sql = "SELECT a.attrelid, a.attname, a.attnum, a.atttypid, a.atttypmod, coalesce(l.collisdeterministic, true), \
        a.attgenerated <> '', a.attidentity, a.attnotnull, a.atthasdef, \
        coalesce(CASE WHEN l.oid <> 100 THEN pg_catalog.concat(s.nspname, '.', l.collname) END, '') FROM {RELATIONS} \
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        LEFT JOIN (pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace s ON s.oid = l.collnamespace) \
        ON l.oid = a.attcollation ORDER BY a.attrelid, a.attnum";
    for row in ask(conn, sql).await? {
        if let Some(relation) = relations.get_mut(&row.parse(0)?) {
            relation.columns.push(column(&row, types)?);
        }
    }
    Ok(())
}

fn column(row: &DataRow, types: &Types) -> Result<Column, Error> {
    let type_oid = row.parse(3)?;
    let ty = types.by_oid.get(&type_oid).ok_or(Error::Value(3))?;
    let (base_oid, domain_typmod) = types.base(type_oid);
    let typmod = row.parse(4)?;
    Ok(Column {
        name: row.string(1)?,
        attnum: row.parse(2)?,
        type_oid,
        base_oid,
        type_sql: ty.sql.clone(),
        typmod: if typmod == -1 { domain_typmod } else { typmod },
        typtype: ty.typtype,
        collation: row.string(10)?,
        deterministic: row.bool(5)?,
        generated: row.bool(6)?,
        identity: row.text(7)?.and_then(|text| text.bytes().next()).unwrap_or(0),
        not_null: row.bool(8)?,
        has_default: row.bool(9)?,
        binary_safe: types.binary_safe(type_oid, 0),
        text_varies: types.varying.contains(&type_oid),
    })
}

// Indexes come best first: the primary key, the replica identity, then by width and name, so that every load and
// every process chooses the same one. A NOT NULL that is NOT VALID (18) leaves NULLs among the rows that were there.
async fn keys(conn: &mut Client, relations: &mut HashMap<u32, Relation>) -> Result<(), Error> {
    // An index may compare by another collation than its column, or by an operator class of somebody's.
    let sql = "SELECT c.oid, x.relname, i.indkey, i.indnkeyatts, EXISTS (SELECT FROM pg_catalog.pg_collation l \
          WHERE l.oid = ANY (i.indcollation) AND NOT l.collisdeterministic) \
        OR EXISTS (SELECT FROM pg_catalog.pg_opclass o \
          WHERE o.oid = ANY (i.indclass) AND o.oid >= 16384 AND NOT o.opcdefault) FROM {RELATIONS} \
        JOIN pg_catalog.pg_index i ON i.indrelid = c.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid \
        WHERE i.indisunique AND i.indisvalid AND i.indisready AND i.indislive AND i.indimmediate \
        AND NOT i.indisexclusion AND i.indpred IS NULL AND i.indexprs IS NULL \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conrelid = c.oid AND o.contype = 'n' \
          AND NOT o.convalidated AND o.conkey[1] = ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1])) \
        ORDER BY c.oid, i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname";
    for row in ask(conn, sql).await? {
        let Some(relation) = relations.get_mut(&row.parse(0)?) else { continue };
        relation.hazards.loose |= row.bool(4)?;
        if relation.key.is_some() {
            continue;
        }
        let attnums = row.string(2)?;
        let columns = positions(relation, attnums.split(' ').take(row.parse(3)?));
        if columns.iter().all(|&at| relation.columns[at].not_null) && columns.len() == row.parse::<usize>(3)? {
            relation.key = Some(Key::new(row.string(1)?, columns, &relation.columns));
        }
    }
    Ok(())
}

fn positions<'a>(relation: &Relation, attnums: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let position = |text: &str| {
        let attnum: i16 = text.parse().ok()?;
        relation.columns.iter().position(|column| column.attnum == attnum)
    };
    attnums.filter_map(position).collect()
}

async fn parents(conn: &mut Client, relations: &mut HashMap<u32, Relation>) -> Result<(), Error> {
    let sql = "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits ORDER BY inhrelid, inhseqno";
    for row in ask(conn, sql).await? {
        let (child, parent) = (row.parse(0)?, row.parse(1)?);
        if !relations.contains_key(&child) || !relations.contains_key(&parent) {
            continue;
        }
        relations.entry(child).and_modify(|relation| relation.parents.push(parent));
        relations.entry(parent).and_modify(|relation| relation.children.push(child));
    }
    Ok(())
}

/// Of the catalog foreign keys and names are known.
async fn hazards(
    conn: &mut Client,
    types: &Types,
    catalog: &Catalog,
    relations: &mut HashMap<u32, Relation>,
) -> Result<(), Error> {
    reads(conn, relations).await?;
    called(conn, relations).await?;
    blind(conn, relations).await?;
    for relation in relations.values_mut() {
        let hot = |column: &Column| types.by_oid.get(&column.type_oid).is_some_and(|ty| ty.hot);
        relation.hazards.user_functions |= relation.columns.iter().any(hot);
    }
    spread(relations);
    triggers_and_rules(conn, catalog, relations).await?;
    spread(relations);
    Ok(())
}

// Bits of tgtype: catalog/pg_trigger.h.
const ROW: i32 = 1;
const BEFORE: i32 = 2;
const INSERT: i32 = 4;
const DELETE: i32 = 8;
const UPDATE: i32 = 16;
const INSTEAD: i32 = 64;

async fn triggers_and_rules(
    conn: &mut Client,
    catalog: &Catalog,
    relations: &mut HashMap<u32, Relation>,
) -> Result<(), Error> {
    // Origin and always fire in a client's session; replica and disabled do not. 14 calls a partition's copy of a user's
    // trigger internal; triggers of constraints run code of the server's own. What is known of three in C is said as they would be written
    // in PL/pgSQL.
    let sql = "SELECT tgrelid, tgtype, CASE WHEN l.lanname = 'plpgsql' THEN p.prosrc \
          WHEN p.proname = 'suppress_redundant_updates_trigger' AND l.lanname = 'internal' THEN 'BEGIN RETURN NEW; END' \
          WHEN p.proname IN ('tsvector_update_trigger', 'tsvector_update_trigger_column') AND l.lanname = 'internal' \
            OR p.proname = 'moddatetime' AND l.lanname = 'c' \
          THEN 'BEGIN NEW.\"' || pg_catalog.split_part(pg_catalog.encode(tgargs, 'escape'), '\\000', 1) || '\" := 1; RETURN NEW; END' END, \
        EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass \
          AND d.objid = t.oid AND d.refobjid >= 16384 AND d.refobjid <> tgfoid AND d.refclassid \
          IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass)), \
        tgdeferrable FROM pg_catalog.pg_trigger t \
        JOIN pg_catalog.pg_proc p ON p.oid = tgfoid JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
        WHERE (NOT tgisinternal OR l.lanname <> 'internal') AND tgenabled IN ('O', 'A')";
    let reads = relations.values().any(reading_calls);
    for row in ask(conn, sql).await? {
        let oid = row.parse(0)?;
        let referenced = referenced(oid, catalog, relations);
        let Some(relation) = relations.get_mut(&oid) else { continue };
        let bits: i32 = row.parse(1)?;
        let key: Vec<&str> = relation.key_columns().map(|column| column.name.as_str()).collect();
        // A key that is generated follows whatever the trigger sets.
        let generated = relation.key_columns().any(|column| column.generated);
        let keeps = !generated && row.text(2)?.is_some_and(|source| routine::keeps(source, &key));
        let sets = bits & (ROW | BEFORE) == ROW | BEFORE;
        let before = sets && !keeps;
        let referenced: Vec<&str> = referenced.iter().map(String::as_str).collect();
        let passed_on = |source: &str| sets && !referenced.is_empty() && !routine::keeps(source, &referenced);
        let calm = |source: &str| is_calm(source, catalog, reads) && !passed_on(source);
        relation.hazards.triggers = true;
        // Its WHEN may call, too.
        if row.bool(3)? || !row.text(2)?.is_some_and(calm) {
            relation.hazards.fires |= Events::INSERT.only_if(bits & INSERT != 0)
                | Events::UPDATE.only_if(bits & UPDATE != 0)
                | Events::DELETE.only_if(bits & DELETE != 0);
            relation.hazards.deferred |= row.bool(4)?;
        }
        relation.hazards.before_insert |= before && bits & INSERT != 0;
        relation.hazards.before_update |= before && bits & UPDATE != 0;
        relation.hazards.instead_of |= bits & INSTEAD != 0;
    }
    let sql = "SELECT ev_class, is_instead FROM pg_catalog.pg_rewrite \
        WHERE rulename <> '_RETURN' AND ev_enabled IN ('O', 'A')";
    for row in ask(conn, sql).await? {
        let Some(relation) = relations.get_mut(&row.parse(0)?) else { continue };
        relation.hazards.rules = true;
        relation.hazards.instead_of |= row.bool(1)?;
    }
    Ok(())
}

/// See [`Catalog::event_triggers`].
async fn event_triggers(
    conn: &mut Client,
    catalog: &Catalog,
    relations: &HashMap<u32, Relation>,
) -> Result<BTreeMap<String, String>, Error> {
    let sql = "SELECT e.evtname, e.evtevent, CASE l.lanname WHEN 'plpgsql' THEN p.prosrc END \
        FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid \
        JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE e.evtenabled IN ('O', 'A') AND NOT ({COMPUTES})";
    let reads = relations.values().any(reading_calls);
    let mut found = BTreeMap::new();
    for row in ask(conn, sql).await? {
        if !row.text(2)?.is_some_and(|source| is_calm(source, catalog, reads)) {
            found.insert(row.string(0)?, row.string(1)?);
        }
    }
    Ok(found)
}

/// A table's defaults and checks do not run when it is read; its policies do.
fn reading_calls(relation: &Relation) -> bool {
    relation.hazards.user_functions && (relation.kind == Kind::View || relation.hazards.row_security)
}

fn is_calm(source: &str, catalog: &Catalog, reads: bool) -> bool {
    let hot = |word: &str| catalog.user_functions.contains(word) || catalog.user_types.contains(word);
    routine::is_calm(source, hot, reads)
        && !catalog.user_operators.iter().any(|symbol| source.contains(symbol.as_str()))
}

/// The columns of a table, and of what it is part of, whose changes foreign keys pass on.
fn referenced(oid: u32, catalog: &Catalog, relations: &HashMap<u32, Relation>) -> Vec<String> {
    let (mut open, mut names) = (vec![oid], Vec::new());
    while let Some(relation) = open.pop().and_then(|oid| relations.get(&oid)) {
        let keys = catalog.foreign_keys.iter().filter(|key| key.parent == relation.oid && key.on_update != Act::None);
        names.extend(keys.flat_map(|key| &key.parent_columns).map(|&at| relation.columns[at].name.clone()));
        open.extend(&relation.parents);
    }
    names
}

async fn reads(conn: &mut Client, relations: &mut HashMap<u32, Relation>) -> Result<(), Error> {
    let sql = "SELECT DISTINCT w.ev_class, d.refobjid FROM pg_catalog.pg_depend d \
        JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN' \
        WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.ev_class ORDER BY 1, 2";
    for row in ask(conn, sql).await? {
        let read = row.parse(1)?;
        relations.entry(row.parse(0)?).and_modify(|relation| relation.reads.push(read));
    }
    Ok(())
}

/// What calls a function that may write, itself or through an operator: defaults and generated columns, check
/// constraints, policies, index expressions, view bodies.
async fn called(conn: &mut Client, relations: &mut HashMap<u32, Relation>) -> Result<(), Error> {
    let sql = "WITH {HOT} SELECT DISTINCT \
        coalesce(ad.adrelid, nullif(co.conrelid, 0), po.polrelid, ix.indrelid, rw.ev_class) FROM ({CALLS}) d \
        LEFT JOIN pg_catalog.pg_attrdef ad ON d.class = 'pg_attrdef' AND ad.oid = d.objid \
        LEFT JOIN pg_catalog.pg_constraint co ON d.class = 'pg_constraint' AND co.oid = d.objid \
        LEFT JOIN pg_catalog.pg_policy po ON d.class = 'pg_policy' AND po.oid = d.objid \
        LEFT JOIN pg_catalog.pg_index ix ON d.class = 'pg_class' AND ix.indexrelid = d.objid \
        LEFT JOIN pg_catalog.pg_rewrite rw ON d.class = 'pg_rewrite' AND rw.oid = d.objid AND rw.rulename = '_RETURN'";
    for row in ask(conn, &sql.replace("{CALLS}", CALLS)).await? {
        if row.get(0)?.is_some() {
            relations.entry(row.parse(0)?).and_modify(|relation| relation.hazards.user_functions = true);
        }
    }
    Ok(())
}

/// Objects that depend on a hot function, and the catalog (`class`) they are in.
const CALLS: &str = "SELECT k.relname AS class, d.objid FROM pg_catalog.pg_depend d \
    JOIN pg_catalog.pg_class k ON k.oid = d.classid \
    WHERE (d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid IN (SELECT oid FROM hot)) \
    OR (d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND d.refobjid IN \
      (SELECT o.oid FROM pg_catalog.pg_operator o JOIN hot ON hot.oid = o.oprcode))";

/// Tables that a grantee may write without SELECT on all of them, which RETURNING needs; every table where somebody is a
/// member of `pg_write_all_data`. Rights that roles inherit from each other can only be more.
async fn blind(conn: &mut Client, relations: &mut HashMap<u32, Relation>) -> Result<(), Error> {
    let sql = "SELECT c.oid FROM {RELATIONS} AND c.relkind IN ('r', 'p') AND (EXISTS ( \
        SELECT FROM (SELECT grantee FROM pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) \
            WHERE privilege_type IN ('INSERT', 'UPDATE', 'DELETE') \
          UNION ALL SELECT x.grantee FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x \
            WHERE a.attrelid = c.oid AND x.privilege_type IN ('INSERT', 'UPDATE')) w \
        WHERE NOT EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) r \
          WHERE r.privilege_type = 'SELECT' AND r.grantee IN (0, w.grantee))) \
      OR EXISTS (SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid \
        WHERE g.rolname = 'pg_write_all_data'))";
    for row in ask(conn, sql).await? {
        relations.entry(row.parse(0)?).and_modify(|relation| relation.hazards.blind = true);
    }
    Ok(())
}

/// A view runs what the views it reads run; a statement on a parent meets what its children have.
fn spread(relations: &mut HashMap<u32, Relation>) {
    loop {
        let grown: Vec<(u32, Hazards)> = relations
            .values()
            .map(|relation| (relation.oid, inherited(relation, relations)))
            .filter(|(oid, hazards)| relations[oid].hazards != *hazards)
            .collect();
        if grown.is_empty() {
            return;
        }
        for (oid, hazards) in grown {
            relations.entry(oid).and_modify(|relation| relation.hazards = hazards);
        }
    }
}

fn inherited(relation: &Relation, all: &HashMap<u32, Relation>) -> Hazards {
    let mut hazards = relation.hazards;
    for child in relation.children.iter().filter_map(|oid| all.get(oid)) {
        hazards.before_insert |= child.hazards.before_insert;
        hazards.before_update |= child.hazards.before_update;
        hazards.triggers |= child.hazards.triggers;
        hazards.fires |= child.hazards.fires;
        hazards.rules |= child.hazards.rules;
        hazards.user_functions |= child.hazards.user_functions;
    }
    for parent in relation.parents.iter().filter_map(|oid| all.get(oid)) {
        hazards.blind |= parent.hazards.blind;
    }
    for read in relation.reads.iter().filter_map(|oid| all.get(oid)) {
        hazards.user_functions |= reading_calls(read);
    }
    hazards
}

// A constraint of a partition that came with its parent's has conparentid: the parent's says it all.
async fn foreign_keys(conn: &mut Client, relations: &HashMap<u32, Relation>) -> Result<Vec<Arc<ForeignKey>>, Error> {
    let sql = "SELECT conname, conrelid, confrelid, pg_catalog.array_to_string(conkey, ' '), \
        pg_catalog.array_to_string(confkey, ' '), confdeltype, confupdtype, condeferrable \
        FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0 ORDER BY conrelid, conname";
    let mut found = Vec::new();
    for row in ask(conn, sql).await? {
        let (child, parent) = (row.parse(1)?, row.parse(2)?);
        let (Some(child_table), Some(parent_table)) = (relations.get(&child), relations.get(&parent)) else { continue };
        found.push(Arc::new(ForeignKey {
            name: row.string(0)?,
            child,
            parent,
            child_columns: positions(child_table, row.string(3)?.split(' ')),
            parent_columns: positions(parent_table, row.string(4)?.split(' ')),
            on_delete: act(&row, 5)?,
            on_update: act(&row, 6)?,
            deferrable: row.bool(7)?,
        }));
    }
    Ok(found)
}

// Letters of confdeltype: catalog/pg_constraint.h and nodes/parsenodes.h.
fn act(row: &DataRow, at: usize) -> Result<Act, Error> {
    Ok(match row.text(at)? {
        Some("c") => Act::Cascade,
        Some("n") => Act::SetNull,
        Some("d") => Act::SetDefault,
        _ => Act::None,
    })
}

struct Type {
    oid: u32,
    name: String,
    sql: String,
    typtype: u8,
    /// A domain's base type.
    base: u32,
    typmod: i32,
    /// An array's element type.
    element: u32,
    /// A range's subtype, or a multirange's range.
    range: u32,
    /// A composite's attributes.
    attributes: Vec<u32>,
    /// Send and receive functions exist and are PostgreSQL's own.
    portable: bool,
    /// Reading a value of it may run a user function, or a default of its own does.
    hot: bool,
    /// A domain with a default.
    fills: bool,
}

struct Types {
    by_oid: HashMap<u32, Type>,
    /// Those that are or hold a type whose text is a matter of settings.
    varying: HashSet<u32>,
}

async fn types(conn: &mut Client) -> Result<Types, Error> {
    let sql = "WITH {HOT} SELECT t.oid, t.typname, pg_catalog.quote_ident(n.nspname) || '.' || \
        pg_catalog.quote_ident(t.typname), t.typtype, t.typbasetype, t.typtypmod, \
        CASE WHEN t.typlen = -1 AND t.typcategory = 'A' THEN t.typelem ELSE 0 END, \
        coalesce(r.rngsubtype, m.rngtypid, 0), \
        coalesce((SELECT pg_catalog.string_agg(a.atttypid::pg_catalog.text, ' ') FROM pg_catalog.pg_attribute a \
          WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), ''), \
        s.oid IS NOT NULL AND t.typreceive <> 0 AND (t.oid < 16384 OR s.prolang = 12 OR t.typtype <> 'b') \
          AND t.typname !~ '^reg', \
        t.typinput IN (SELECT oid FROM hot) OR EXISTS (SELECT FROM pg_catalog.pg_cast k \
          WHERE (k.casttarget = t.oid OR k.castsource = t.oid) AND k.castfunc IN (SELECT oid FROM hot)) \
        OR EXISTS (SELECT FROM ({CALLS}) d WHERE d.class = 'pg_type' AND d.objid = t.oid) \
        OR EXISTS (SELECT FROM pg_catalog.pg_constraint o JOIN ({CALLS}) d ON d.class = 'pg_constraint' \
          AND d.objid = o.oid WHERE o.contypid = t.oid), \
        t.typtype = 'd' AND t.typdefault IS NOT NULL \
        FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
        LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid LEFT JOIN pg_catalog.pg_range m ON m.rngmultitypid = t.oid \
        LEFT JOIN pg_catalog.pg_proc s ON s.oid = t.typsend";
    let rows = ask(conn, &sql.replace("{CALLS}", CALLS)).await?;
    let mut types = Types { by_oid: rows.iter().map(read_type).collect::<Result<_, _>>()?, varying: HashSet::new() };
    types.spread();
    types.varying = types.holding([&TIMES[..], &SET].concat());
    Ok(types)
}

fn read_type(row: &DataRow) -> Result<(u32, Type), Error> {
    let oid = row.parse(0)?;
    let attributes = row.string(8)?;
    let read = Type {
        oid,
        name: row.string(1)?,
        sql: row.string(2)?,
        typtype: row.text(3)?.and_then(|text| text.bytes().next()).unwrap_or(b'b'),
        base: row.parse(4)?,
        typmod: row.parse(5)?,
        element: row.parse(6)?,
        range: row.parse(7)?,
        attributes: attributes.split(' ').filter_map(|oid| oid.parse().ok()).collect(),
        portable: row.bool(9)?,
        hot: row.bool(10)?,
        fills: row.bool(11)?,
    };
    Ok((oid, read))
}

/// date, time, timestamp, timestamptz, interval, timetz: catalog/pg_type.dat.
const TIMES: [u32; 6] = [1082, 1083, 1114, 1184, 1186, 1266];

/// Beside them, whose text depends on settings: bytea, float4, float8, money; regproc and its kin, by the search path.
const SET: [u32; 15] = [17, 700, 701, 790, 24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

impl Types {
    /// A domain's base type and modifier, through domains over domains.
    fn base(&self, oid: u32) -> (u32, i32) {
        let (mut at, mut typmod) = (oid, -1);
        while let Some(ty) = self.by_oid.get(&at).filter(|ty| ty.typtype == b'd') {
            typmod = if typmod == -1 { ty.typmod } else { typmod };
            at = ty.base;
        }
        (at, typmod)
    }

    /// See [`Catalog::plain_types`].
    fn plain(&self, catalog: &Catalog) -> HashSet<String> {
        let filling: HashSet<&str> = self.by_oid.values().filter(|ty| ty.fills).map(|ty| ty.name.as_str()).collect();
        let of_table = |ty: &Type| ty.typtype == b'c' && catalog.by_name.contains_key(&ty.name);
        let plain =
            self.by_oid.values().filter(|ty| !filling.contains(ty.name.as_str()) && ty.element == 0 && !of_table(ty));
        plain.map(|ty| ty.name.clone()).collect()
    }

    /// See [`Catalog::timed_types`].
    fn timed(&self) -> HashSet<String> {
        let timed = self.holding(TIMES.into());
        self.by_oid.values().filter(|ty| timed.contains(&ty.oid)).map(|ty| ty.name.clone()).collect()
    }

    /// These types, and all that hold values of one.
    fn holding(&self, types: Vec<u32>) -> HashSet<u32> {
        let mut all: HashSet<u32> = types.into_iter().collect();
        loop {
            let holds = |ty: &&Type| !all.contains(&ty.oid) && ty.parts().any(|oid| all.contains(&oid));
            let grown: Vec<u32> = self.by_oid.values().filter(holds).map(|ty| ty.oid).collect();
            if grown.is_empty() {
                return all;
            }
            all.extend(grown);
        }
    }

    /// Whether the binary form means the same on another server. `array_send` and `record_send` write the oids of
    /// what is inside; `regclass` and kin *are* oids; an extension's own format may differ between its versions.
    fn binary_safe(&self, oid: u32, depth: usize) -> bool {
        let Some(ty) = self.by_oid.get(&oid) else { return false };
        if !ty.portable || depth > 16 {
            return false;
        }
        let inside = |oid: u32| oid < FIRST_NORMAL_OID && self.binary_safe(oid, depth + 1);
        match ty.typtype {
            b'd' => self.binary_safe(ty.base, depth + 1),
            b'c' => ty.attributes.iter().all(|&oid| inside(oid)),
            b'r' | b'm' => self.binary_safe(ty.range, depth + 1),
            _ if ty.element != 0 => inside(ty.element),
            _ => true,
        }
    }

    fn spread(&mut self) {
        loop {
            let heats = |ty: &Type| !ty.hot && ty.parts().any(|oid| self.by_oid.get(&oid).is_some_and(|part| part.hot));
            let grown: Vec<u32> = self.by_oid.values().filter(|ty| heats(ty)).map(|ty| ty.oid).collect();
            if grown.is_empty() {
                return;
            }
            for oid in grown {
                self.by_oid.entry(oid).and_modify(|ty| ty.hot = true);
            }
        }
    }
}

impl Type {
    fn parts(&self) -> impl Iterator<Item = u32> {
        [self.base, self.element, self.range].into_iter().chain(self.attributes.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::testing::Server;

    async fn loaded(server: &Server, sql: &str) -> Catalog {
        let mut conn = Client::connect(&server.config()).await.expect("connects");
        conn.simple(sql).await.expect("a schema");
        load(&mut conn).await.expect("a catalog")
    }

    fn table<'a>(catalog: &'a Catalog, name: &str) -> &'a Relation {
        &catalog.relations[&catalog.by_name[name][0]]
    }

    #[tokio::test]
    async fn columns_and_types_are_as_declared() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a'); CREATE DOMAIN d AS varchar(7); CREATE DOMAIN dd AS d; \
                 CREATE TYPE pair AS (a int4, b text); CREATE DOMAIN birth AS date; CREATE TYPE births AS (of birth); CREATE TYPE odd AS (m app.mood); \
                 CREATE DOMAIN app.uid AS uuid DEFAULT gen_random_uuid(); CREATE DOMAIN app.name AS text DEFAULT 'x'; \
                 CREATE TABLE t (gone int, id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m app.mood, dom dd, n numeric(10,2), \
                   ms app.mood[], ns int4[], p pair, o odd, r int4range, c regclass, span births[], \
                   g int8 GENERATED ALWAYS AS (id * 2) STORED, x text NOT NULL DEFAULT 'q'); \
                 ALTER TABLE t DROP COLUMN gone",
            )
            .await;
            for (name, plain) in [
                ("uuid", true),
                ("mood", true),
                ("dd", true),
                ("pair", true),
                ("uid", false),
                ("name", false),
                ("t", false),
            ] {
                assert_eq!(catalog.plain_types.contains(name), plain, "{name}");
            }
            for (name, timed) in [
                ("timestamptz", true),
                ("tstzrange", true),
                ("birth", true),
                ("births", true),
                ("text", false),
                ("pair", false),
                ("int4range", false),
            ] {
                assert_eq!(catalog.timed_types.contains(name), timed, "{name}");
            }
            let t = table(&catalog, "t");
            assert_eq!(t.id, TableId::of("public", "t"));
            assert_eq!(t.columns[t.key.as_ref().expect("a key").columns[0]].name, "id");
            let column = |name: &str| t.columns.iter().find(|column| column.name == name).expect(name);
            assert_eq!((column("id").identity, column("id").attnum), (b'a', 2));
            assert_eq!(column("m").type_sql, "app.mood");
            assert_eq!((column("dom").base_oid, column("dom").typmod), (1043, 11));
            assert!(column("g").generated && column("x").deterministic && column("x").has_default);
            for (name, varies) in
                [("ns", false), ("p", false), ("c", true), ("id", false), ("span", true), ("m", false)]
            {
                assert_eq!(column(name).text_varies, varies, "{name}");
            }
            for (name, safe) in [
                ("m", true),
                ("ms", false),
                ("ns", true),
                ("p", true),
                ("o", false),
                ("r", true),
                ("c", false),
                ("n", true),
            ] {
                assert_eq!(column(name).binary_safe, safe, "{name}");
            }
        }
    }

    /// Names count: `replace` is everybody's.
    #[tokio::test]
    async fn what_extensions_compute_in_sql_is_not_hot() {
        let sql = "CREATE EXTENSION citext; CREATE FUNCTION mine(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; \
                   CREATE FUNCTION strpos(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1'";
        let hot = loaded(&Server::any(), sql).await.user_functions;
        assert!(hot.contains("mine") && hot.contains("strpos"), "{hot:?}");
        assert!(!hot.contains("replace") && !hot.contains("split_part"), "{hot:?}");
    }

    #[tokio::test]
    async fn what_a_volatile_function_in_c_does_nobody_knows_but_of_few_extensions() {
        for server in Server::all() {
            let own = |name: &str, how: &str| {
                format!(
                    "CREATE FUNCTION {name}(citext) RETURNS int {how} LANGUAGE c AS '$libdir/citext', 'citext_hash'; \
                     ALTER EXTENSION citext ADD FUNCTION {name}(citext);"
                )
            };
            let (volatile, stable) = (own("cypher", "VOLATILE"), own("looks_up", "STABLE"));
            let sql = format!("CREATE EXTENSION citext; CREATE EXTENSION pg_trgm; {stable}");
            let hot = loaded(&server, &sql).await.user_functions;
            let mut conn = Client::connect(&server.config()).await.expect("connects");
            assert_eq!(uncertain_extensions(&mut conn).await.expect("asked"), HashSet::new());
            assert!(!hot.contains("looks_up") && !hot.contains("set_limit") && !hot.contains("citext_hash"), "{hot:?}");
            assert!(loaded(&server, &volatile).await.user_functions.contains("cypher"));
            assert_eq!(uncertain_extensions(&mut conn).await.expect("asked"), ["citext".to_owned()].into());
        }
    }

    #[tokio::test]
    async fn a_collation_that_takes_different_bytes_for_equal_is_seen() {
        for server in Server::all() {
            let mut conn = Client::connect(&server.config()).await.expect("connects");
            let icu = "CREATE COLLATION ci (provider = icu, locale = 'und', deterministic = false)";
            match conn.simple(icu).await {
                // A server that was built without ICU has no such collations.
                Err(error) if error.code() == Some("0A000") => continue,
                other => other.expect("a collation"),
            };
            let sql = "CREATE TABLE t (a text COLLATE ci, b text); CREATE TABLE u (a text PRIMARY KEY, b text UNIQUE); \
                CREATE TABLE loose (a text PRIMARY KEY); CREATE UNIQUE INDEX ON loose (a COLLATE ci)";
            let catalog = loaded(&server, sql).await;
            assert!(!table(&catalog, "u").hazards.loose && table(&catalog, "loose").hazards.loose);
            let t = table(&catalog, "t");
            assert!(!t.columns[0].deterministic && t.columns[1].deterministic);
            assert_eq!((&*t.columns[0].collation, &*t.columns[1].collation), ("public.ci", ""));
        }
    }

    #[tokio::test]
    async fn the_key_is_unique_immediate_total_and_not_null() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE TABLE none (a int, b int NOT NULL, UNIQUE (a)); CREATE UNIQUE INDEX ON none (b) WHERE b > 1; \
                 CREATE UNIQUE INDEX ON none ((b + 1)); ALTER TABLE none ADD UNIQUE (b) DEFERRABLE; \
                 CREATE TABLE one (a int NOT NULL, b int NOT NULL, c int); CREATE UNIQUE INDEX one_ba ON one (b, a) INCLUDE (c); \
                 CREATE TABLE ident (a int NOT NULL UNIQUE, b int NOT NULL, c int NOT NULL); \
                 CREATE UNIQUE INDEX ident_i ON ident (b, c); ALTER TABLE ident REPLICA IDENTITY USING INDEX ident_i",
            )
            .await;
            assert!(table(&catalog, "none").key.is_none());
            let one = table(&catalog, "one");
            assert_eq!(one.key_columns().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
            assert_eq!(table(&catalog, "ident").key.as_ref().expect("a key").name, "ident_i");
        }
    }

    #[tokio::test]
    async fn a_column_that_may_hold_nulls_from_before_its_not_null_is_no_key() {
        for server in Server::all() {
            let schema = "CREATE TABLE t (k int UNIQUE, j int NOT NULL UNIQUE); INSERT INTO t VALUES (NULL, 1); \
                CREATE TABLE only_k (k int UNIQUE, v int); INSERT INTO only_k VALUES (NULL, 1)";
            let catalog = loaded(&server, schema).await;
            assert!(table(&catalog, "t").key.is_some() && table(&catalog, "only_k").key.is_none());
            if catalog.version < 180_000 {
                continue;
            }
            let late = "ALTER TABLE t ADD NOT NULL k NOT VALID; ALTER TABLE only_k ADD NOT NULL k NOT VALID";
            let catalog = loaded(&server, late).await;
            let key = table(&catalog, "t").key_columns().map(|column| column.name.as_str()).collect::<Vec<_>>();
            assert_eq!(key, ["j"]);
            assert!(table(&catalog, "only_k").key.is_none());
            let proven = "DELETE FROM only_k; ALTER TABLE only_k VALIDATE CONSTRAINT only_k_k_not_null";
            assert!(table(&loaded(&server, proven).await, "only_k").key.is_some());
        }
    }

    #[tokio::test]
    async fn what_may_run_behind_a_statement_is_found() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
                 CREATE FUNCTION \"PlaceOrder\"(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
                 CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a = 3; RETURN NEW; END'; \
                 CREATE FUNCTION calm() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v = 3; RETURN NEW; END'; \
                 CREATE TABLE touched (a int PRIMARY KEY, v int); \
                 CREATE TRIGGER touch BEFORE UPDATE ON touched FOR EACH ROW EXECUTE FUNCTION calm(); \
                 CREATE TABLE made (v int, a int GENERATED ALWAYS AS (v + 1) STORED PRIMARY KEY); \
                 CREATE TRIGGER touch BEFORE UPDATE ON made FOR EACH ROW EXECUTE FUNCTION calm(); \
                 CREATE TABLE plain (a int PRIMARY KEY, u uuid DEFAULT gen_random_uuid()); CREATE TABLE dflt (a int DEFAULT f()); \
                 CREATE TABLE chk (a int CHECK (a > f())); CREATE TABLE bi (a int PRIMARY KEY); \
                 CREATE TRIGGER bi BEFORE INSERT ON bi FOR EACH ROW EXECUTE FUNCTION trg(); \
                 CREATE TABLE off (a int); CREATE TRIGGER off AFTER INSERT ON off FOR EACH ROW EXECUTE FUNCTION trg(); \
                 ALTER TABLE off DISABLE TRIGGER off; CREATE VIEW v1 AS SELECT a, f() FROM plain; CREATE VIEW v2 AS SELECT a FROM v1; \
                 CREATE VIEW v3 AS SELECT a FROM plain; CREATE TABLE ruled (a int); CREATE RULE r AS ON INSERT TO ruled DO ALSO NOTIFY x; \
                 CREATE TABLE part (a int) PARTITION BY LIST (a); CREATE TABLE leaf PARTITION OF part (CHECK (f() = 1)) FOR VALUES IN (1); \
                 CREATE TABLE rls (a int); ALTER TABLE rls ENABLE ROW LEVEL SECURITY; \
                 CREATE DOMAIN dom AS int CHECK (VALUE > f()); CREATE TABLE domt (a dom[]); \
                 CREATE DOMAIN filled AS int DEFAULT f(); CREATE TABLE fillt (a int PRIMARY KEY, v filled); CREATE OPERATOR ### (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int)",
            )
            .await;
            let hazards = |name: &str| table(&catalog, name).hazards;
            assert_eq!(hazards("plain"), Hazards::default());
            for name in ["dflt", "chk", "v1", "v2", "part", "leaf", "domt", "fillt"] {
                assert!(hazards(name).user_functions, "{name}");
            }
            assert!(!hazards("v3").user_functions);
            assert_eq!((hazards("bi").fires, hazards("touched").fires), (Events::default(), Events::default()));
            assert!(hazards("bi").triggers && hazards("bi").before_insert && !hazards("bi").before_update);
            assert!(hazards("touched").triggers && !hazards("touched").before_update);
            assert!(hazards("made").before_update, "its key follows the column that the trigger sets");
            assert!(!hazards("off").triggers && hazards("ruled").rules && hazards("rls").row_security);
            assert!(catalog.user_functions.contains("f") && !catalog.user_functions.contains("trg"));
            for names in [&catalog.user_functions, &catalog.unsteady] {
                assert!(names.contains("PlaceOrder") && !names.contains("placeorder"));
            }
            assert!(catalog.user_types.contains("dom") && !catalog.user_operators.contains("###"));
            assert_eq!(table(&catalog, "v2").reads, [table(&catalog, "v1").oid]);
            assert_eq!(table(&catalog, "leaf").parents, [table(&catalog, "part").oid]);
        }
    }

    #[tokio::test]
    async fn on_what_triggers_may_write_is_seen() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE TABLE t (a int PRIMARY KEY, v int UNIQUE); CREATE TABLE log (a int); \
                 CREATE TABLE c (a int PRIMARY KEY, v int REFERENCES t (v) ON UPDATE CASCADE); \
                 CREATE FUNCTION writes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (1); RETURN NULL; END'; \
                 CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM count(NEW) FROM log; RETURN NULL; END'; \
                 CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v = 3; RETURN NEW; END'; \
                 CREATE TRIGGER w AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION writes(); \
                 CREATE TRIGGER l AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION looks(); \
                 CREATE TRIGGER s BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION sets(); \
                 CREATE TRIGGER s BEFORE UPDATE ON c FOR EACH ROW EXECUTE FUNCTION sets(); \
                 CREATE CONSTRAINT TRIGGER w AFTER INSERT ON c DEFERRABLE FOR EACH ROW EXECUTE FUNCTION writes()",
            )
            .await;
            let fires = |name: &str| (table(&catalog, name).hazards.fires, table(&catalog, name).hazards.deferred);
            assert_eq!(fires("t"), (Events::DELETE | Events::UPDATE, false), "others refer to what is set");
            assert_eq!(fires("c"), (Events::INSERT, true));
            let catalog = loaded(
                &server,
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW v AS SELECT f() AS a; \
                 CREATE TABLE w (a int PRIMARY KEY); \
                 CREATE TRIGGER s BEFORE UPDATE ON w FOR EACH ROW WHEN (f() = 1) EXECUTE FUNCTION sets()",
            )
            .await;
            let fires = |name: &str| table(&catalog, name).hazards.fires;
            assert_eq!(fires("t"), Events::ALL, "a view that calls could be read");
            assert_eq!(fires("w"), Events::UPDATE, "its condition calls");
        }
    }

    #[tokio::test]
    async fn event_triggers_that_may_write_are_seen() {
        for server in Server::all() {
            let body = |source: &str| format!("RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN {source} END'");
            let (writes, tells) = (body("INSERT INTO log VALUES (tg_tag);"), body("NOTIFY news;"));
            let catalog = loaded(
                &server,
                &format!(
                    "CREATE TABLE log (tag text); CREATE FUNCTION writes() {writes}; CREATE FUNCTION tells() {tells}; \
                     CREATE EVENT TRIGGER tells ON ddl_command_end EXECUTE FUNCTION tells(); \
                     CREATE EVENT TRIGGER off ON sql_drop EXECUTE FUNCTION writes(); ALTER EVENT TRIGGER off DISABLE"
                ),
            )
            .await;
            assert_eq!(catalog.schema_trigger(), None);
            let catalog = loaded(
                &server,
                "CREATE EVENT TRIGGER notes ON ddl_command_end WHEN TAG IN ('DROP VIEW') EXECUTE FUNCTION writes()",
            )
            .await;
            assert_eq!((catalog.schema_trigger(), catalog.login_triggers().count()), (Some("notes"), 0));
            if catalog.version < 170_000 {
                continue;
            }
            let login = "DROP EVENT TRIGGER notes; CREATE EVENT TRIGGER seen ON login EXECUTE FUNCTION writes()";
            let catalog = loaded(&server, login).await;
            assert_eq!((catalog.schema_trigger(), catalog.login_triggers().next()), (None, Some("seen")));
        }
    }

    #[tokio::test]
    async fn a_table_that_somebody_may_write_and_not_read_is_seen() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE ROLE reader; CREATE ROLE writer; CREATE TABLE own (a int PRIMARY KEY); CREATE TABLE given (a int PRIMARY KEY); \
                 GRANT SELECT, INSERT ON given TO reader; GRANT SELECT ON given TO PUBLIC; GRANT INSERT ON given TO writer; \
                 CREATE TABLE log (a int PRIMARY KEY); GRANT INSERT ON log TO writer; \
                 CREATE TABLE col (a int PRIMARY KEY); GRANT INSERT (a), SELECT (a) ON col TO writer; \
                 CREATE TABLE root (a int PRIMARY KEY) PARTITION BY LIST (a); CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1); \
                 GRANT INSERT ON root TO writer",
            )
            .await;
            let blind = |name: &str| table(&catalog, name).hazards.blind;
            assert!(!blind("own") && !blind("given"));
            assert!(blind("log") && blind("col") && blind("root") && blind("leaf"));
        }
    }

    #[tokio::test]
    async fn procedures_that_cannot_end_their_transaction_are_told_from_those_that_could() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE SCHEMA s; CREATE PROCEDURE calm() LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''1''; END'; \
                 CREATE PROCEDURE undoes() LANGUAGE plpgsql AS 'BEGIN ROLLBACK; END'; \
                 CREATE PROCEDURE hot() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; \
                 CREATE PROCEDURE two() LANGUAGE plpgsql AS 'BEGIN END'; \
                 CREATE PROCEDURE s.two() LANGUAGE plpgsql AS 'BEGIN CALL hot(); END'; \
                 CREATE PROCEDURE inside() LANGUAGE sql AS 'SELECT 1'; \
                 CREATE PROCEDURE bound() LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN COMMIT; END'",
            )
            .await;
            let calm: std::collections::BTreeSet<_> = catalog.calm_procedures.iter().map(String::as_str).collect();
            assert_eq!(calm, ["bound", "calm", "inside"].into());
        }
    }

    #[tokio::test]
    async fn foreign_keys_name_columns_and_actions() {
        for server in Server::all() {
            let catalog = loaded(
                &server,
                "CREATE TABLE p (x int, a int, b int, PRIMARY KEY (a, b)); CREATE TABLE c (id int PRIMARY KEY, b int, a int, \
                 FOREIGN KEY (a, b) REFERENCES p ON DELETE CASCADE ON UPDATE SET NULL DEFERRABLE)",
            )
            .await;
            let [fk] = &catalog.foreign_keys[..] else { panic!("one foreign key") };
            assert_eq!((&fk.child_columns[..], &fk.parent_columns[..]), (&[2, 1][..], &[1, 2][..]));
            assert_eq!((fk.on_delete, fk.on_update, fk.deferrable), (Act::Cascade, Act::SetNull, true));
        }
    }
}
