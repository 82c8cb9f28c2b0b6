//! What clients may do, on both sides: the mirror carries rows, and no grants. A role that may read a table on the origin
//! and not on the target is refused from the switch on, whatever else is alike.
//!
//! Access lists are read, one row for each object and grantee, and roles with whom they have the privileges of; to ask
//! `has_table_privilege` of each role and table would take a million calls where these take some thousand rows. Only what
//! both sides have is compared, and only what statements need: the rights to make, to refer and to own are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::check::Finding;
use crate::protocol::postgres::client::{Client, DataRow, Error};
use crate::record::Side;

use super::facts::OURS;
use super::{on, rules};

/// Of one side.
#[derive(Debug, Default)]
pub(super) struct Privileges {
    objects: BTreeMap<Object, Grants>,
    roles: BTreeMap<String, Role>,
}

/// What is granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    kind: Kind,
    name: String,
    /// The table of a column.
    table: Option<String>,
}

/// What can be granted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Database,
    Schema,
    /// A view too.
    Table,
    Column,
    Sequence,
    Function,
}

/// By grantee.
type Grants = HashMap<String, Set>;

/// Privileges, bits of [`NAMES`].
type Set = u16;

const NAMES: [&str; 9] =
    ["CONNECT", "TEMPORARY", "USAGE", "SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "EXECUTE"];
const TEMPORARY: Set = 1 << 1;
const CONNECT: Set = 1;
const USAGE: Set = 1 << 2;
const SELECT: Set = 1 << 3;
const INSERT: Set = 1 << 4;
const UPDATE: Set = 1 << 5;
const DELETE: Set = 1 << 6;
const TRUNCATE: Set = 1 << 7;
const EXECUTE: Set = 1 << 8;

/// The grantee that everybody is; no role has an empty name.
const PUBLIC: &str = "";

/// Who may log in, or be set by somebody who may.
#[derive(Debug)]
struct Role {
    /// Its clients matter.
    of_clients: bool,
    superuser: bool,
    /// Roles whose privileges it has without setting them.
    has: Vec<String>,
}

// The names of databases differ, so ours has none. Partitions need no right of their own. Only the `pg_` roles of which somebody is a member matter.
const OBJECTS: &str = "SELECT o.kind, o.name, o.of, coalesce(r.rolname, ''), \
    pg_catalog.string_agg(DISTINCT x.privilege_type, ',') FROM ( \
      SELECT 'd', '', '', coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)) \
        FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database() \
      UNION ALL SELECT 'n', n.nspname, '', coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)) \
        FROM pg_catalog.pg_namespace n WHERE {OURS} \
      UNION ALL SELECT k.kind, pg_catalog.concat(n.nspname, '.', c.relname), '', \
          coalesce(c.relacl, pg_catalog.acldefault(k.kind::\"char\", c.relowner)) \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, \
        LATERAL (SELECT CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END) k (kind) \
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' AND NOT c.relispartition AND {OURS} \
      UNION ALL SELECT 'c', pg_catalog.concat(n.nspname, '.', c.relname, '.', a.attname), \
          pg_catalog.concat(n.nspname, '.', c.relname), a.attacl \
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND c.relpersistence <> 't' AND NOT c.relispartition AND {OURS} \
      UNION ALL SELECT 'f', p.oid::pg_catalog.regprocedure::pg_catalog.text, '', \
          coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) \
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE {OURS} \
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = p.oid AND x.deptype = 'e' \
          AND x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)) o (kind, name, of, acl) \
    LEFT JOIN LATERAL pg_catalog.aclexplode(o.acl) x ON true LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee \
    GROUP BY 1, 2, 3, 4";

// Tandem's own role needs other rights on each side, and they are looked at by themselves. A role that somebody may set
// and does not inherit from is a client's as well.
const ROLES: &str = "SELECT r.rolname, r.rolsuper, r.rolname <> CURRENT_USER AND (r.rolcanlogin OR EXISTS ( \
      SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles l ON l.oid = m.member WHERE m.roleid = r.oid \
      AND NOT l.rolsuper AND NOT pg_catalog.pg_has_role(m.member, r.oid, 'USAGE'))), \
    CASE WHEN NOT r.rolsuper THEN (SELECT pg_catalog.json_agg(g.rolname) FROM pg_catalog.pg_roles g \
      WHERE g.oid <> r.oid AND (g.rolname = 'pg_database_owner' \
        OR g.oid IN (SELECT roleid FROM pg_catalog.pg_auth_members)) \
      AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE')) END FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_'";

/// Ask a side, with an empty search path.
pub(super) async fn read(conn: &mut Client) -> Result<Privileges, Error> {
    let mut privileges = Privileges::default();
    for row in conn.simple(&OBJECTS.replace("{OURS}", OURS)).await? {
        let granted = row.text(4)?.unwrap_or_default().split(',');
        let granted = granted.filter_map(|name| NAMES.iter().position(|known| *known == name));
        let set = granted.fold(0, |set, bit| set | 1 << bit);
        privileges.objects.entry(object(&row)?).or_default().insert(row.string(3)?, set);
    }
    for row in conn.simple(ROLES).await? {
        let has = row.text(3)?.map_or(Ok(Vec::new()), serde_json::from_str).map_err(|_| Error::Value(3))?;
        let role = Role { superuser: row.bool(1)?, of_clients: row.bool(2)?, has };
        privileges.roles.insert(row.string(0)?, role);
    }
    Ok(privileges)
}

fn object(row: &DataRow) -> Result<Object, Error> {
    let kind = match row.text(0)? {
        Some("d") => Kind::Database,
        Some("n") => Kind::Schema,
        Some("c") => Kind::Column,
        Some("s") => Kind::Sequence,
        Some("f") => Kind::Function,
        _ => Kind::Table,
    };
    let table = (kind == Kind::Column).then(|| row.string(2)).transpose()?;
    Ok(Object { kind, name: row.string(1)?, table })
}

/// What roles that both sides have may do on the origin alone. Of tables that are `left_out` nothing is said.
pub(super) fn together(
    origin: &Privileges,
    target: &Privileges,
    left_out: impl Fn(&str) -> bool,
    found: &mut Vec<Finding>,
) {
    let pairs: Vec<Pair<'_>> = origin.objects.iter().filter_map(|one| Pair::of(one, target, &left_out)).collect();
    let mut granted: HashMap<&str, Vec<(usize, Set)>> = HashMap::new();
    for (at, pair) in pairs.iter().enumerate() {
        for (grantee, set) in pair.here {
            // What everybody may on both sides is not looked at for each.
            let set = if grantee == PUBLIC { set & !pair.there([PUBLIC].into_iter()) } else { *set };
            granted.entry(grantee).or_default().extend((set != 0).then_some((at, set)));
        }
    }
    for (name, role) in origin.roles.iter().filter(|(_, role)| role.of_clients) {
        let Some(there) = target.roles.get(name).filter(|there| !there.superuser) else { continue };
        let mut may: Vec<Set> = pairs.iter().map(|pair| role.by_itself(pair.object.kind)).collect();
        for (at, set) in role.grantees(name).filter_map(|one| granted.get(one)).flatten() {
            may[*at] |= set;
        }
        let missing = pairs.iter().zip(may).filter(|(_, set)| *set != 0).map(|(pair, set)| {
            let held = pair.there(there.grantees(name)) | there.by_itself(pair.object.kind);
            (pair.object, set & !held)
        });
        let told = told(missing.filter(|(_, set)| *set != 0));
        found.extend((!told.is_empty()).then(|| on(Side::Target, rules::PRIVILEGE_MISSING, format!("{name}: {told}"))));
    }
}

/// An object that both sides have.
struct Pair<'a> {
    object: &'a Object,
    here: &'a Grants,
    there: Option<&'a Grants>,
    /// Of a column: a privilege on its table is one on it.
    of_table: Option<&'a Grants>,
}

impl<'a> Pair<'a> {
    fn of(
        (object, here): (&'a Object, &'a Grants),
        target: &'a Privileges,
        left_out: impl Fn(&str) -> bool,
    ) -> Option<Pair<'a>> {
        let there = target.objects.get(object);
        let table = object.table.as_deref().or((object.kind == Kind::Table).then_some(&object.name));
        let of_table = object.table.as_deref().and_then(|table| target.objects.get(&Object::table(table)));
        let is_there = there.is_some() || of_table.is_some();
        let is_ours = table.is_none_or(|table| !left_out(table));
        (is_there && is_ours).then_some(Pair { object, here, there, of_table })
    }

    /// What these may with it on the target.
    fn there<'g>(&self, grantees: impl Iterator<Item = &'g str>) -> Set {
        let lists = || self.there.into_iter().chain(self.of_table);
        grantees.flat_map(|one| lists().filter_map(move |list| list.get(one))).fold(0, |all, set| all | set)
    }
}

impl Role {
    fn grantees<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        [name, PUBLIC].into_iter().chain(self.has.iter().map(String::as_str))
    }

    /// As a superuser, or as a member of what may read or write all.
    fn by_itself(&self, kind: Kind) -> Set {
        if self.superuser {
            return kind.all();
        }
        let is = |name: &str| self.has.iter().any(|one| one == name);
        let (reads, writes) = (is("pg_read_all_data"), is("pg_write_all_data"));
        match kind {
            Kind::Schema if reads || writes => USAGE,
            Kind::Table | Kind::Sequence => {
                (if reads { SELECT } else { 0 } | if writes { INSERT | UPDATE | DELETE } else { 0 }) & kind.all()
            }
            _ => 0,
        }
    }
}

impl Object {
    fn table(name: &str) -> Object {
        Object { kind: Kind::Table, name: name.to_owned(), table: None }
    }
}

impl Kind {
    /// What a superuser may. What it may with a column it may with the table.
    fn all(self) -> Set {
        match self {
            Kind::Database => CONNECT | TEMPORARY,
            Kind::Schema => USAGE,
            Kind::Table => SELECT | INSERT | UPDATE | DELETE | TRUNCATE,
            Kind::Column => 0,
            Kind::Sequence => SELECT | UPDATE | USAGE,
            Kind::Function => EXECUTE,
        }
    }

    fn word(self, many: bool) -> &'static str {
        match (self, many) {
            (Kind::Database, _) => "the database",
            (Kind::Schema, false) => "schema",
            (Kind::Schema, true) => "schemas",
            (Kind::Table, false) => "table",
            (Kind::Table, true) => "tables",
            (Kind::Column, false) => "column",
            (Kind::Column, true) => "columns",
            (Kind::Sequence, false) => "sequence",
            (Kind::Sequence, true) => "sequences",
            (Kind::Function, false) => "function",
            (Kind::Function, true) => "functions",
        }
    }
}

/// More objects of a kind are counted, not named: a finding of a role fits a few lines.
const NAMED_MAX: usize = 3;

/// In words: objects of which the same is missing together.
fn told<'a>(missing: impl Iterator<Item = (&'a Object, Set)>) -> String {
    let mut alike: BTreeMap<(Kind, Set), BTreeSet<&str>> = BTreeMap::new();
    for (object, set) in missing {
        alike.entry((object.kind, set)).or_default().insert(&object.name);
    }
    let parts = alike.into_iter().map(|((kind, set), names)| {
        let bits = (0..NAMES.len()).filter(|bit| set & 1 << bit != 0);
        let privileges = bits.map(|bit| NAMES[bit]).collect::<Vec<_>>().join(", ");
        let named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        let more = match names.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{privileges} on {} {named}{more}", kind.word(names.len() > 1)).trim_end().to_owned()
    });
    parts.collect::<Vec<_>>().join("; ")
}
