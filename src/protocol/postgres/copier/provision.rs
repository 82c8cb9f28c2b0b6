//! Making the tables that the secondary lacks, from the primary's catalog: PostgreSQL itself spells most of each definition.
//!
//! Each list is one query that names objects and says how each is made. It is asked of both sides, and what only the
//! primary has is made: whatever an earlier attempt made, or somebody by hand, is left alone. Before the copy: schemas,
//! types, sequences, tables, partitions and the keys that the mirror needs. After it, when all rows are there: the other
//! constraints and indexes, built beside the mirror (`CONCURRENTLY`, `NOT VALID` and then `VALIDATE`) so that payments go
//! on; what the primary has not validated stays so. Tables that shall be called otherwise there (see
//! [`crate::protocol::postgres::scope`]) are made under that name, columns get theirs when all that names them is made.
//! Functions, triggers, views, rules, policies, comments and rights are not made: a switch names what differs.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::backfill::Request;
use crate::backfill::work::Stage;
use crate::mirror::state::copier::Error;
use crate::protocol::postgres::catalog::{Catalog, load};
use crate::protocol::postgres::client::{self, CancelToken, Client, DataRow, ServerConfig};
use crate::protocol::postgres::scope::{Scope, topmost};

use super::link::{self, Link, SETTINGS, on_primary, on_secondary};

/// How long the mirror waits for what is being built before it goes on with its own work.
const LOOK: Duration = Duration::from_millis(5);
/// What is built waits for transactions that are under way; payments are short ones.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '60s'";

/// A list: names of objects, the table that each belongs to and what that is a part of, in the end (or nothing), and the
/// statement that makes it.
struct List(&'static str);

/// In this order.
const TABLES: &[List] = &[
    List(
        "SELECT pg_catalog.quote_ident(n.nspname), '', '', 'CREATE SCHEMA ' || pg_catalog.quote_ident(n.nspname) \
         FROM pg_catalog.pg_namespace n WHERE (n.oid >= 16384 OR n.nspname = 'public') AND n.nspname !~ '^pg_' \
         AND n.nspname <> 'tandem' AND {MEMBER:pg_namespace:n.oid} ORDER BY n.oid",
    ),
    List(
        "SELECT DISTINCT pg_catalog.quote_ident(s.name), '', '', 'CREATE SCHEMA ' || pg_catalog.quote_ident(s.name) \
         FROM (SELECT m.schema AS name FROM mapped m UNION SELECT n.nspname FROM pg_catalog.pg_namespace n, side \
           WHERE side.every) s",
    ),
    List(
        "SELECT {NAME:t.typname}, '', '', CASE t.typtype \
           WHEN 'e' THEN 'CREATE TYPE ' || {NAME:t.typname} || ' AS ENUM (' || coalesce((SELECT pg_catalog.string_agg( \
             pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e \
             WHERE e.enumtypid = t.oid), '') || ')' \
           WHEN 'r' THEN 'CREATE TYPE ' || {NAME:t.typname} || ' AS RANGE (' || (SELECT pg_catalog.concat_ws(', ', \
               'SUBTYPE = ' || pg_catalog.format_type(g.rngsubtype, NULL), \
               'SUBTYPE_OPCLASS = ' || (SELECT pg_catalog.quote_ident(kn.nspname) || '.' || pg_catalog.quote_ident(k.opcname) \
                 FROM pg_catalog.pg_opclass k JOIN pg_catalog.pg_namespace kn ON kn.oid = k.opcnamespace \
                 WHERE k.oid = g.rngsubopc AND NOT k.opcdefault), \
               'COLLATION = ' || (SELECT pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname) \
                 FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace \
                 JOIN pg_catalog.pg_type y ON y.oid = g.rngsubtype WHERE l.oid = g.rngcollation AND l.oid <> y.typcollation), \
               CASE WHEN g.rngcanonical::pg_catalog.oid <> 0 THEN 'CANONICAL = ' || g.rngcanonical::pg_catalog.text END, \
               CASE WHEN g.rngsubdiff::pg_catalog.oid <> 0 THEN 'SUBTYPE_DIFF = ' || g.rngsubdiff::pg_catalog.text END, \
               'MULTIRANGE_TYPE_NAME = ' || (SELECT pg_catalog.quote_ident(mn.nspname) || '.' || pg_catalog.quote_ident(m.typname) \
                 FROM pg_catalog.pg_type m JOIN pg_catalog.pg_namespace mn ON mn.oid = m.typnamespace \
                 WHERE m.oid = g.rngmultitypid)) \
             FROM pg_catalog.pg_range g WHERE g.rngtypid = t.oid) || ')' \
           WHEN 'd' THEN 'CREATE DOMAIN ' || {NAME:t.typname} || ' AS ' || \
             pg_catalog.format_type(t.typbasetype, t.typtypmod) || {COLLATE:t.typcollation:t.typbasetype} || \
             coalesce(' DEFAULT ' || \
               pg_catalog.pg_get_expr(t.typdefaultbin, 'pg_catalog.pg_type'::pg_catalog.regclass), '') || \
             CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END || coalesce((SELECT pg_catalog.string_agg( \
             ' CONSTRAINT ' || pg_catalog.quote_ident(o.conname) || ' ' || pg_catalog.pg_get_constraintdef(o.oid), '' \
             ORDER BY o.oid) FROM pg_catalog.pg_constraint o WHERE o.contypid = t.oid AND o.contype = 'c' AND o.convalidated), '') \
           ELSE 'CREATE TYPE ' || {NAME:t.typname} || ' AS (' || coalesce((SELECT pg_catalog.string_agg( \
             pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod) || \
             {COLLATE:a.attcollation:a.atttypid}, ', ' \
             ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 \
             AND NOT a.attisdropped), '') || ')' END \
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
         LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid WHERE t.typtype IN ('e', 'd', 'c', 'r') \
         AND coalesce(c.relkind, 'c') = 'c' AND {THEIRS:t.oid} AND {MEMBER:pg_type:t.oid} ORDER BY t.oid",
    ),
    List(
        "SELECT {NAME:c.relname}, '', '', 'CREATE SEQUENCE ' || {NAME:c.relname} || ' AS ' || \
           pg_catalog.format_type(s.seqtypid, NULL) || {SEQUENCE} \
         FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't' AND {THEIRS:c.oid} \
         AND {MEMBER:pg_class:c.oid} AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
           WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'i') \
         ORDER BY c.oid",
    ),
    // A partition's identity is its root's, from 17 on by itself. What others hand down to a table it gets from them, or it
    // would keep it when they lose it; where they are not there, it is made alone.
    List(
        "SELECT {RELATION:c}, {OF:c}, \
           'CREATE ' || CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END || 'TABLE ' || {RELATION:c} || \
           ' (' || pg_catalog.concat_ws(', ', (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' || \
             pg_catalog.format_type(a.atttypid, a.atttypmod) || {COLLATE:a.attcollation:a.atttypid} || \
             CASE WHEN a.attgenerated <> '' THEN ' GENERATED ALWAYS AS (' || \
                 pg_catalog.pg_get_expr(f.adbin, f.adrelid) || CASE a.attgenerated WHEN 's' THEN ') STORED' ELSE ')' END \
               WHEN a.attidentity <> '' AND NOT c.relispartition THEN {IDENTITY} \
               WHEN f.adbin IS NOT NULL THEN ' DEFAULT ' || pg_catalog.pg_get_expr(f.adbin, f.adrelid) ELSE '' END || \
             CASE WHEN {NOTNULL} THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum) \
             {COLUMN:c} AND (v.alone OR a.attislocal)), \
           (SELECT pg_catalog.string_agg('CONSTRAINT ' || pg_catalog.quote_ident(o.conname) || ' ' || \
             pg_catalog.pg_get_constraintdef(o.oid), ', ' ORDER BY o.oid) FROM pg_catalog.pg_constraint o \
             WHERE o.conrelid = c.oid AND o.contype = 'c' AND o.convalidated AND (v.alone OR o.conislocal))) || ')' || \
           CASE c.relkind WHEN 'p' THEN ' PARTITION BY ' || pg_catalog.pg_get_partkeydef(c.oid) ELSE '' END || \
           CASE WHEN v.alone THEN '' ELSE ' INHERITS (' || (SELECT pg_catalog.string_agg({TABLE:t}, ', ' ORDER BY i.inhseqno) \
               FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class t ON t.oid = i.inhparent \
               JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace WHERE i.inhrelid = c.oid) || ')' || \
             coalesce((SELECT pg_catalog.string_agg(CASE WHEN {NOTNULL} AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i \
                 JOIN pg_catalog.pg_attribute p ON p.attrelid = i.inhparent AND p.attname = a.attname AND p.attnotnull \
                 WHERE i.inhrelid = c.oid) THEN w.alter || 'SET NOT NULL' ELSE '' END || \
               CASE WHEN a.attidentity <> '' THEN w.alter || 'DROP DEFAULT' || w.alter || 'ADD' || {IDENTITY} \
                 ELSE w.alter || coalesce('SET DEFAULT ' || pg_catalog.pg_get_expr(f.adbin, f.adrelid), 'DROP DEFAULT') END, \
               '' ORDER BY a.attnum) {COLUMN:c} AND NOT a.attislocal AND a.attgenerated = ''), '') END \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN (VALUES (false), (true)) v (alone) \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {THEIRS:c.oid} AND {MEMBER:pg_class:c.oid} \
         AND (v.alone OR {HEIR:c}) ORDER BY {DEPTH:c}, c.oid, v.alone",
    ),
    List(
        "SELECT {NAME:c.relname} || ' of ' || {TABLE:t}, {OF:t}, \
           'ALTER SEQUENCE ' || {NAME:c.relname} || ' OWNED BY ' || {TABLE:t} || '.' || pg_catalog.quote_ident(a.attname) \
         FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S' \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_class t ON t.oid = d.refobjid \
         JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid \
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'a' AND {THEIRS:c.oid} \
         AND coalesce((SELECT m.schema FROM mapped m WHERE m.oid = t.oid), tn.nspname) = n.nspname",
    ),
    List(
        "SELECT {RELATION:c} || ' in ' || {TABLE:t}, {OF:c}, \
           CASE WHEN c.relispartition THEN 'ALTER TABLE ' || {TABLE:t} || ' ATTACH PARTITION ' || {RELATION:c} || \
             ' ' || pg_catalog.pg_get_expr(c.relpartbound, c.oid) \
           ELSE 'ALTER TABLE ' || {RELATION:c} || ' INHERIT ' || {TABLE:t} END \
         FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p') \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_class t ON t.oid = i.inhparent \
         JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace WHERE {THEIRS:c.oid} ORDER BY i.inhrelid, i.inhseqno",
    ),
    List("{CONSTRAINTS} AND (o.contype = 'p' OR o.contype = 'u' AND {KEYED:t}) ORDER BY o.oid"),
    List(
        "SELECT {INDEX:c}, {OF:t}, {DEFINITION:c} {INDEXES} \
         AND i.indisunique AND {KEYED:t}",
    ),
    // Definitions speak of columns by the names that they have here. So where some shall have another one, everything is
    // made before they get it.
    List("{CONSTRAINTS} AND o.contype IN ('u', 'x') AND {RENAMED:t} ORDER BY o.oid"),
    List("SELECT {INDEX:c}, {OF:t}, {DEFINITION:c} {INDEXES} AND {RENAMED:t}"),
    List(
        "SELECT {TABLE:t} || '.' || pg_catalog.quote_ident(coalesce(r.name, a.attname)), \
           {OF:t}, 'ALTER TABLE ' || {TABLE:t} || ' RENAME COLUMN ' || \
           pg_catalog.quote_ident(a.attname) || ' TO ' || pg_catalog.quote_ident(r.name) \
         FROM side, pg_catalog.pg_class t JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN renamed r ON r.oid = t.oid AND r.attnum = a.attnum \
         WHERE t.relkind IN ('r', 'p') AND t.oid >= 16384 AND (side.every OR r.name IS NOT NULL AND NOT t.relispartition)",
    ),
];

/// When all rows are there.
const REST: &[List] = &[
    List("{CONSTRAINTS} AND o.contype IN ('u', 'x') ORDER BY o.oid"),
    // What the primary has not checked for the rows that are there, rows that are there need not hold.
    List(
        "{CONSTRAINTS} AND o.contype IN ('c', 'n') AND ((SELECT every FROM side) OR o.conislocal AND NOT o.convalidated) \
         ORDER BY o.oid",
    ),
    // The same of domains.
    List(
        "SELECT pg_catalog.quote_ident(o.conname) || ' on ' || {NAME:t.typname}, '', '', 'ALTER DOMAIN ' || {NAME:t.typname} || \
           ' ADD CONSTRAINT ' || pg_catalog.quote_ident(o.conname) || ' ' || pg_catalog.pg_get_constraintdef(o.oid) \
         FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_type t ON t.oid = o.contypid \
         JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE o.contype = 'c' AND {THEIRS:t.oid} \
         AND {MEMBER:pg_type:t.oid} AND ((SELECT every FROM side) OR NOT o.convalidated) ORDER BY o.oid",
    ),
    List(
        "SELECT {INDEX:c}, {OF:t}, CASE t.relkind WHEN 'p' THEN {DEFINITION:c} \
           ELSE pg_catalog.regexp_replace({DEFINITION:c}, '^CREATE (UNIQUE )?INDEX ', \
             'CREATE \\1INDEX CONCURRENTLY ') END {INDEXES}",
    ),
    List(
        "{ADDED} || {REFERENCE:o} || CASE WHEN {PLAIN} AND o.convalidated THEN ' NOT VALID' ELSE '' END \
           {FOREIGN} ORDER BY o.oid",
    ),
    List(
        "SELECT pg_catalog.quote_ident(o.conname) || ' valid on ' || {TABLE:t}, {OF:t}, \
           'ALTER TABLE ' || {TABLE:t} || ' VALIDATE CONSTRAINT ' || pg_catalog.quote_ident(o.conname) \
           {FOREIGN} AND {PLAIN} AND o.convalidated ORDER BY o.oid",
    ),
];

/// What the lists abbreviate. `n` is the object's schema, `tn` that of the table `t`.
const WORDS: &[(&str, &str)] = &[
    (
        "{CONSTRAINTS}",
        "{ADDED} || pg_catalog.pg_get_constraintdef(o.oid) FROM pg_catalog.pg_constraint o \
         JOIN pg_catalog.pg_class t ON t.oid = o.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
         CROSS JOIN LATERAL (SELECT n.nspname) tn WHERE o.conparentid = 0 AND {THEIRS:t.oid}",
    ),
    // Without what the constraint says.
    (
        "{ADDED}",
        "SELECT pg_catalog.quote_ident(o.conname) || ' on ' || {TABLE:t}, {OF:t}, \
           'ALTER TABLE ' || {TABLE:t} || ' ADD CONSTRAINT ' || pg_catalog.quote_ident(o.conname) || ' '",
    ),
    (
        "{INDEXES}",
        "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_class t ON t.oid = i.indrelid \
         JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace WHERE t.relkind IN ('r', 'p') \
         AND t.relpersistence <> 't' AND {THEIRS:t.oid} AND {MEMBER:pg_class:t.oid} \
         AND i.indisvalid AND ((SELECT every FROM side) OR i.indisready) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conindid = c.oid AND o.contype IN ('p', 'u', 'x')) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid)",
    ),
    (
        "{FOREIGN}",
        "FROM pg_catalog.pg_constraint o JOIN pg_catalog.pg_class t ON t.oid = o.conrelid \
         JOIN pg_catalog.pg_class p ON p.oid = o.confrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
         JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace \
         CROSS JOIN LATERAL (SELECT n.nspname) tn WHERE o.contype = 'f' AND o.conparentid = 0 AND {THEIRS:t.oid}",
    ),
    // The first part of it names tables and columns, the rest does not.
    (
        "{REFERENCE:o}",
        "(SELECT CASE WHEN pg_catalog.starts_with(d.whole, d.here) \
           THEN d.there || pg_catalog.substr(d.whole, pg_catalog.length(d.here) + 1) ELSE d.whole END \
         FROM (SELECT pg_catalog.pg_get_constraintdef(o.oid) AS whole, \
           'FOREIGN KEY (' || own.here || ') REFERENCES ' || o.confrelid::pg_catalog.regclass || '(' || theirs.here || ')' AS here, \
           'FOREIGN KEY (' || own.there || ') REFERENCES ' || {PARENT:p} || '(' || theirs.there || ')' AS there \
           FROM {COLUMNS:conrelid:conkey} own, {COLUMNS:confrelid:confkey} theirs) d)",
    ),
    ("{PARENT:p}", "{CALLED:p:pn}"),
    // An index is in its table's schema.
    (
        "{INDEX:c}",
        "pg_catalog.quote_ident(coalesce((SELECT m.schema FROM mapped m WHERE m.oid = t.oid), tn.nspname)) || '.' || \
         pg_catalog.quote_ident(c.relname)",
    ),
    (
        "{DEFINITION:c}",
        "pg_catalog.replace(pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(c.oid), ' ON ONLY ', ' ON '), \
           ' ON ' || pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.relname) || ' USING ', \
           ' ON ' || {TABLE:t} || ' USING ')",
    ),
    ("{RENAMED:t}", "((SELECT every FROM side) OR EXISTS (SELECT FROM renamed r WHERE r.oid = t.oid))"),
    ("{PLAIN}", "(t.relkind = 'r' AND p.relkind = 'r')"),
    // Its columns, each with how it is altered.
    (
        "{COLUMN:c}",
        "FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = c.oid AND f.adnum = a.attnum \
         CROSS JOIN LATERAL (SELECT '; ALTER TABLE ONLY ' || {RELATION:c} || ' ALTER COLUMN ' || \
           pg_catalog.quote_ident(a.attname) || ' ' AS alter) w \
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped",
    ),
    (
        "{NOTNULL}",
        "a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conrelid = c.oid \
           AND o.contype = 'n' AND NOT o.convalidated AND o.conkey = ARRAY[a.attnum])",
    ),
    (
        "{IDENTITY}",
        "' GENERATED ' || CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END || ' AS IDENTITY' || \
           coalesce((SELECT ' (SEQUENCE NAME ' || pg_catalog.quote_ident(coalesce( \
             (SELECT m.schema FROM mapped m WHERE m.oid = c.oid), sn.nspname)) || '.' || \
             pg_catalog.quote_ident(sc.relname) || {SEQUENCE} || ')' FROM pg_catalog.pg_depend d \
             JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid JOIN pg_catalog.pg_class sc ON sc.oid = d.objid \
             JOIN pg_catalog.pg_namespace sn ON sn.oid = sc.relnamespace \
             WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = c.oid \
             AND d.refobjsubid = a.attnum AND d.deptype = 'i'), '')",
    ),
    // It has something that is not its own.
    (
        "{HEIR:c}",
        "(NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) \
         AND (EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
             AND NOT a.attisdropped AND NOT a.attislocal) \
           OR EXISTS (SELECT FROM pg_catalog.pg_constraint o WHERE o.conrelid = c.oid AND o.contype = 'c' \
             AND NOT o.conislocal)))",
    ),
    // What is above comes first.
    (
        "{DEPTH:c}",
        "(WITH RECURSIVE above (oid, depth) AS (SELECT c.oid, 0 UNION SELECT i.inhparent, above.depth + 1 \
           FROM above JOIN pg_catalog.pg_inherits i ON i.inhrelid = above.oid) SELECT pg_catalog.max(depth) FROM above)",
    ),
    (
        "{SEQUENCE}",
        "' INCREMENT BY ' || s.seqincrement || ' MINVALUE ' || s.seqmin || ' MAXVALUE ' || s.seqmax || \
         ' START WITH ' || s.seqstart || ' CACHE ' || s.seqcache || CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END",
    ),
    ("{KEYED:t}", "NOT EXISTS (SELECT FROM pg_catalog.pg_index k WHERE k.indrelid = t.oid AND k.indisprimary)"),
    ("{TABLE:t}", "{CALLED:t:tn}"),
    ("{RELATION:c}", "{CALLED:c:n}"),
];

/// What takes a word: `{NAME:c.relname}`, `{OF:c}`, `{THEIRS:c.oid}`, `{MEMBER:pg_class:c.oid}`, `{CALLED:t:tn}`,
/// `{COLLATE:a.attcollation:a.atttypid}`, `{COLUMNS:conrelid:conkey}`.
fn sql(list: &List, names: &str) -> String {
    let mut sql = list.0.to_owned();
    for (word, meaning) in WORDS {
        sql = sql.replace(word, meaning);
    }
    while let Some((before, rest)) = sql.split_once('{') {
        let Some((word, after)) = rest.split_once('}') else { break };
        let meaning = match word.split(':').collect::<Vec<_>>()[..] {
            ["NAME", name] => format!("pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident({name})"),
            // By their names here: the table, and the root of its partitions, by which they go.
            ["OF", table] => {
                let name = |of: &str, oid: &str| {
                    format!(
                        "(SELECT pg_catalog.concat({of}n.nspname, '.', {of}.relname) FROM pg_catalog.pg_class {of} \
                         JOIN pg_catalog.pg_namespace {of}n ON {of}n.oid = {of}.relnamespace WHERE {of}.oid = {oid})"
                    )
                };
                let root = format!("coalesce(pg_catalog.pg_partition_root({table}.oid), {table}.oid)");
                format!("{}, {}", name("own", &format!("{table}.oid")), name("root", &root))
            }
            ["THEIRS", oid] => {
                format!("{oid} >= 16384 AND n.nspname NOT IN ('tandem', 'information_schema') AND n.nspname !~ '^pg_'")
            }
            ["MEMBER", class, oid] => format!(
                "NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.{class}'\
                 ::pg_catalog.regclass AND x.objid = {oid} AND x.deptype = 'e')"
            ),
            // What a table is called there: as the maps say, or as here.
            ["CALLED", relation, schema] => format!(
                "coalesce((SELECT pg_catalog.quote_ident(m.schema) || '.' || pg_catalog.quote_ident(m.name) FROM mapped m \
                   WHERE m.oid = {relation}.oid), \
                 pg_catalog.quote_ident({schema}.nspname) || '.' || pg_catalog.quote_ident({relation}.relname))"
            ),
            // What the type itself does not bring.
            ["COLLATE", collation, of] => format!(
                "coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(ln.nspname) || '.' || pg_catalog.quote_ident(l.collname) \
                 FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace \
                 JOIN pg_catalog.pg_type y ON y.oid = {of} WHERE l.oid = {collation} AND l.oid <> y.typcollation), '')"
            ),
            // Columns of a constraint: by the names that they have here, and by those that they shall have.
            ["COLUMNS", relation, numbers] => format!(
                "(SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY u.n) AS here, \
                   pg_catalog.string_agg(pg_catalog.quote_ident(coalesce(r.name, a.attname)), ', ' ORDER BY u.n) AS there \
                 FROM pg_catalog.unnest(o.{numbers}) WITH ORDINALITY u (attnum, n) \
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = o.{relation} AND a.attnum = u.attnum \
                 LEFT JOIN renamed r ON r.oid = a.attrelid AND r.attnum = a.attnum)"
            ),
            _ => String::new(),
        };
        sql = format!("{before}{meaning}{after}");
    }
    format!("{names} {sql}")
}

/// What the lists know of table maps, as the beginning of a statement: `mapped`, tables by what they shall be called;
/// `renamed`, columns; and whether the side is asked for everything that it has.
fn names(scope: &Scope, catalog: Option<&Catalog>) -> String {
    let (mut mapped, mut renamed) = (Vec::new(), Vec::new());
    for relation in catalog.into_iter().flat_map(|catalog| catalog.relations.values()) {
        let (own, there) = (relation.shown(), scope.there(&relation.shown()));
        if let Some((schema, name)) =
            there.as_ref().filter(|there| **there != own).and_then(|name| name.split_once('.'))
        {
            mapped.push(format!("({}, {}, {})", relation.oid, literal(schema), literal(name)));
        }
        // Columns of a partition are its root's.
        let root = catalog.map(|catalog| topmost(catalog, relation).shown()).unwrap_or_default();
        for (here, there) in scope.renamed(&root) {
            let column = relation.columns.iter().find(|column| column.name == here);
            renamed.extend(column.map(|one| format!("({}, {}, {})", relation.oid, one.attnum, literal(there))));
        }
    }
    let table = |name: &str, columns: &str, types: [&str; 3], rows: Vec<String>| {
        let rows = std::iter::once("(NULL, NULL, NULL)".to_owned()).chain(rows).collect::<Vec<_>>().join(", ");
        let [a, b, c] = types;
        format!(
            "{name} ({columns}) AS (SELECT a::pg_catalog.{a}, b::pg_catalog.{b}, c::pg_catalog.{c} \
             FROM (VALUES {rows}) v (a, b, c) WHERE a IS NOT NULL)"
        )
    };
    format!(
        "WITH {}, {}, side (every) AS (SELECT {})",
        table("mapped", "oid, schema, name", ["oid", "text", "text"], mapped),
        table("renamed", "oid, attnum, name", ["oid", "int2", "text"], renamed),
        catalog.is_none()
    )
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An object that the secondary lacks.
struct Lacking {
    name: String,
    /// How it is made, in one of several ways: the next one where what one speaks of is not there.
    ways: Vec<String>,
}

/// An object of a list.
struct Listed {
    name: String,
    table: String,
    root: String,
    sql: String,
}

async fn listed(conn: &mut Client, list: &List, names: &str) -> Result<Vec<Listed>, client::Error> {
    let listed = |row: &DataRow| {
        // What a side is only asked for because it has it needs no statement.
        let sql = row.text(3)?.unwrap_or_default().to_owned();
        Ok(Listed { name: row.string(0)?, table: row.string(1)?, root: row.string(2)?, sql })
    };
    conn.simple(&sql(list, names)).await?.iter().map(listed).collect()
}

/// What of the list only the primary has, of tables that are asked for.
async fn lacking(list: &List, link: &mut Link, asked: &Asked<'_>) -> Result<Vec<Lacking>, Error> {
    let there = listed(&mut link.secondary, list, &names(&asked.scope, None)).await.map_err(on_secondary)?;
    let there: BTreeSet<String> = there.into_iter().map(|one| one.name).collect();
    let here = listed(&mut link.primary, list, &asked.names).await.map_err(on_primary)?;
    let is_asked = |one: &Listed| (one.table.is_empty() || asked.means(one)) && !there.contains(&one.name);
    let mut lacking: Vec<Lacking> = Vec::new();
    for Listed { name, sql, .. } in here.into_iter().filter(is_asked) {
        match lacking.last_mut() {
            Some(last) if last.name == name => last.ways.push(sql),
            _ => lacking.push(Lacking { name, ways: vec![sql] }),
        }
    }
    Ok(lacking)
}

/// What is asked for.
struct Asked<'r> {
    request: &'r Request,
    scope: Scope,
    /// What the primary's tables shall be called, see [`names`].
    names: String,
}

impl Asked<'_> {
    async fn new<'r>(link: &mut Link, request: &'r Request) -> Result<Asked<'r>, Error> {
        let scope = link.options.scope.clone();
        let catalog = match scope.is_plain() {
            true => Catalog::default(),
            false => load(&mut link.primary).await.map_err(|error| Error::Primary(error.to_string()))?,
        };
        let names = names(&scope, Some(&catalog));
        Ok(Asked { request, scope, names })
    }

    /// A partition is needed wherever its root is.
    fn means(&self, one: &Listed) -> bool {
        let is_named = self.request.names(&one.root, None) || self.request.names(&one.table, Some(&one.root));
        is_named && !self.scope.excludes(&one.root)
    }
}

/// Why something could not be made.
struct Unmade {
    text: String,
    /// Others have it locked.
    is_locked: bool,
}

/// Make it; why not, if the server refuses.
async fn make(conn: &mut Client, lacking: &Lacking) -> Result<Option<Unmade>, client::Error> {
    let Lacking { name, ways } = lacking;
    let mut refused = None;
    for sql in ways {
        match conn.simple(sql).await {
            Ok(_) => {
                tracing::info!(name, "made on the secondary");
                return Ok(None);
            }
            Err(client::Error::Db(error)) => {
                let is_absent = ABSENT.contains(&error.code.as_str());
                refused = Some(error);
                if !is_absent {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused.map(|error| {
        tracing::warn!(name, %error, "the secondary refuses to make this");
        Unmade { is_locked: error.code == "55P03", text: format!("{name}: {error}") }
    }))
}

/// There is no such table, or no such schema.
const ABSENT: &[&str] = &["42P01", "3F000"];

/// What is being built, beside the mirror.
pub(super) struct Building {
    /// For whom. The one who asks now may be another one: what this one waited for was cancelled.
    request: Request,
    stage: Stage,
    /// Names of what could not be.
    work: Pin<Box<dyn Future<Output = Result<Vec<String>, client::Error>> + Send>>,
    /// Its connection, once it has one and while it is at work.
    conn: Arc<OnceLock<CancelToken>>,
}

impl Building {
    /// Nobody waits for it any more, and another one is about to be built.
    async fn abandon(mut self) {
        self.work = std::future::pending().boxed();
        cancel(std::mem::take(&mut self.conn)).await;
    }

    /// It is built.
    fn ended(mut self) {
        self.conn = Arc::default();
    }
}

/// The server would go on with what it is told last, and hold on to its name and its lock.
impl Drop for Building {
    fn drop(&mut self) {
        let conn = std::mem::take(&mut self.conn);
        if conn.get().is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel(conn));
        }
    }
}

async fn cancel(conn: Arc<OnceLock<CancelToken>>) {
    let Some(conn) = conn.get() else { return };
    if let Err(error) = conn.cancel().await {
        tracing::warn!(%error, "what is built on the secondary for a backfill that was cancelled could not be stopped");
    }
}

/// Make what is lacking of this stage. `None`: it is being built, ask again.
pub(super) async fn provision(
    link: &mut Link,
    building: &mut Option<Building>,
    secondary: &ServerConfig,
    (request, stage): (&Request, Stage),
) -> Result<Option<Vec<String>>, Error> {
    if let Some(others) = building.take_if(|building| (&building.request, building.stage) != (request, stage)) {
        link.schema_stale = true;
        others.abandon().await;
    }
    if let Some(ours) = building {
        let Ok(built) = timeout(LOOK, ours.work.as_mut()).await else { return Ok(None) };
        building.take().into_iter().for_each(Building::ended);
        link.schema_stale = true;
        return built.map(Some).map_err(on_secondary);
    }
    let asked = Asked::new(link, request).await?;
    match stage {
        Stage::Tables => tables(link, &asked).await.map(Some),
        Stage::Rest => {
            let mut lists = Vec::new();
            for list in REST {
                lists.push(lacking(list, link, &asked).await?);
            }
            let all = lists.into_iter().flatten().collect();
            let conn = Arc::default();
            let work = build(secondary.clone(), link.path(), all, Arc::clone(&conn)).boxed();
            *building = Some(Building { request: request.clone(), stage, work, conn });
            Ok(None)
        }
    }
}

async fn tables(link: &mut Link, asked: &Asked<'_>) -> Result<Vec<String>, Error> {
    let mut refused = Vec::new();
    for list in TABLES {
        for one in lacking(list, link, asked).await? {
            let unmade = make(&mut link.secondary, &one).await.map_err(on_secondary)?;
            refused.extend(unmade.map(|unmade| unmade.text));
        }
    }
    link.schema_stale = true;
    Ok(refused)
}

/// One after the other, on a connection of its own. It writes no rows, so a successor of the mirror need not wait for it.
async fn build(
    secondary: ServerConfig,
    path: String,
    all: Vec<Lacking>,
    connected: Arc<OnceLock<CancelToken>>,
) -> Result<Vec<String>, client::Error> {
    let mut refused = Vec::new();
    if all.is_empty() {
        return Ok(refused);
    }
    let mut conn = link::connect(&secondary).await?;
    let _ = connected.set(conn.cancel_token());
    conn.simple(SETTINGS).await?;
    conn.simple(LOCK_TIMEOUT).await?;
    // Definitions leave out the schemas that are in the path of who asked for them.
    conn.simple(&format!("SET search_path = {path}")).await?;
    for one in all {
        for left in (0..TRIES).rev() {
            clear(&mut conn, &one).await?;
            match make(&mut conn, &one).await? {
                // Somebody has it locked, or is in a transaction that the build must wait for.
                Some(why) if left > 0 && why.is_locked => {}
                why => {
                    refused.extend(why.map(|why| why.text));
                    break;
                }
            }
        }
    }
    conn.close().await;
    Ok(refused)
}

/// How often something is made that finds its table locked.
const TRIES: u32 = 5;

/// An index that an earlier build left unfinished has its name, and serves nobody. One that is being built is left alone.
async fn clear(conn: &mut Client, lacking: &Lacking) -> Result<(), client::Error> {
    if !lacking.ways.iter().any(|sql| sql.contains(" INDEX CONCURRENTLY ")) {
        return Ok(());
    }
    let name = &lacking.name;
    let unfinished = format!(
        "SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         WHERE c.oid = pg_catalog.to_regclass({}) AND c.relkind = 'i' AND NOT i.indisvalid \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)",
        literal(name)
    );
    if conn.simple(&unfinished).await?.is_empty() {
        return Ok(());
    }
    match conn.simple(&format!("DROP INDEX CONCURRENTLY IF EXISTS {name}")).await {
        Ok(_) => tracing::info!(name, "an index that was never finished is made anew on the secondary"),
        // Whoever makes it is told why it cannot be made.
        Err(client::Error::Db(error)) => tracing::warn!(name, %error, "an unfinished index cannot be dropped"),
        Err(error) => return Err(error),
    }
    Ok(())
}
