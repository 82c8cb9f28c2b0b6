//! Names of custom settings (`app.tenant`, the idiom of row security): no view of the server lists them, so a session is
//! asked for each that anybody is known to use.
//!
//! They come from what clients say (`SET a.b`, `set_config('a.b', ..)`) and from what the server's own code says: functions,
//! policies, defaults, views, settings of roles. What is only handed to a function may be such a name or just a value with a
//! dot in it. It is kept as well, but only what code sets by a name that it is handed depends on it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::postgres::client::{Client, Error};

/// More names than this, of either kind, are not kept.
const NAMES_MAX: usize = 2_000;
/// The longest identifier is 63 bytes; a custom name has a few of them.
const NAME_BYTES_MAX: usize = 200;

/// Names of custom settings that sessions use: of all sessions, because a name costs one look-up and a missing one costs
/// a tenant its rows.
#[derive(Default)]
pub(crate) struct Customs(Mutex<Names>);

#[derive(Default)]
struct Names {
    known: Kept,
    guessed: Kept,
    /// Something sets by a name that is not in its text.
    indirect: bool,
}

/// No more than [`NAMES_MAX`].
#[derive(Default)]
struct Kept {
    names: BTreeSet<String>,
    /// Some were not kept.
    some_lost: bool,
}

impl Kept {
    fn keep(&mut self, name: String) {
        if self.names.len() < NAMES_MAX {
            self.names.insert(name);
        } else {
            self.some_lost |= !self.names.contains(&name);
        }
    }
}

impl Customs {
    /// Remember what is used as such a name; what does not look like one is none.
    pub(crate) fn note(&self, text: &[u8]) {
        if let Some(name) = custom(text) {
            self.names().known.keep(name);
        }
    }

    /// Remember what may be one.
    pub(crate) fn guess(&self, text: &[u8]) {
        if let Some(name) = custom(text) {
            self.names().guessed.keep(name);
        }
    }

    /// Something sets by a name that nobody can read: what was guessed matters.
    pub(crate) fn is_indirect(&self) {
        self.names().indirect = true;
    }

    /// Names that the code of this database uses; not cancel safe.
    pub(crate) async fn harvest(&self, server: &mut Client) -> Result<(), Error> {
        for row in server.simple(HARVEST).await? {
            match row.text(0)? {
                Some(name) => self.note(name.as_bytes()),
                None => self.is_indirect(),
            }
        }
        Ok(())
    }

    /// All of them, and whether some are missing.
    pub(super) fn array(&self) -> (String, bool) {
        let Names { known, guessed, indirect } = &*self.names();
        let all: Vec<&str> = known.names.union(&guessed.names).map(String::as_str).collect();
        (all.join(","), known.some_lost || guessed.some_lost && *indirect)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `class.name` in lower case, each part an identifier.
fn custom(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= NAME_BYTES_MAX)?;
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$')
    };
    (text.contains('.') && text.split('.').all(is_part)).then(|| text.to_ascii_lowercase())
}

/// One column: names in quotes or behind SET, of code that uses settings; where some of it sets by a name that it does not
/// spell, of all functions, and NULL. What is kept as a tree is spelled out only where it calls one of the functions: that
/// takes a lock of the table. What extensions call theirs not every session may set, and nobody keeps a tenant in it.
/// 2077 and 3294 are `current_setting`, 2078 is `set_config`, on every server.
const HARVEST: &str = "\
    WITH code AS MATERIALIZED (SELECT coalesce(nullif(p.prosrc, ''), pg_catalog.pg_get_function_sqlbody(p.oid)) AS text \
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
      WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal')), \
    indirect AS MATERIALIZED (SELECT FROM code WHERE text ~* 'set_config\\s*\\(\\s*[^''[:space:]]' \
      OR text ~* '''\\s*set\\s+(session\\s+)?[%'']' LIMIT 1), \
    texts AS (SELECT text FROM code WHERE text ~* 'set_config|current_setting|\\mset\\s+(session\\s+)?[a-z_]\\w*\\.' \
        OR EXISTS (SELECT FROM indirect) \
      UNION ALL SELECT pg_catalog.pg_get_expr(e, o.polrelid) FROM pg_catalog.pg_policy o, \
        LATERAL (VALUES (o.polqual), (o.polwithcheck)) v (e) WHERE e::pg_catalog.text ~ ':funcid (2077|3294|2078) ' \
      UNION ALL SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d \
        WHERE d.adbin::pg_catalog.text ~ ':funcid (2077|3294|2078) ' \
      UNION ALL SELECT pg_catalog.pg_get_viewdef(r.ev_class) FROM pg_catalog.pg_rewrite r \
        WHERE r.oid >= 16384 AND r.rulename = '_RETURN' AND r.ev_action::pg_catalog.text ~ ':funcid (2077|3294|2078) ') \
    SELECT m[1] FROM texts, LATERAL pg_catalog.regexp_matches(text, \
      '''([a-z_][a-z0-9_$]*(?:\\.[a-z_][a-z0-9_$]*)+)''', 'gi') m \
    UNION SELECT m[1] FROM texts, LATERAL pg_catalog.regexp_matches(text, \
      '\\mset\\s+(?:session\\s+|local\\s+)?([a-z_][a-z0-9_$]*(?:\\.[a-z_][a-z0-9_$]*)+)', 'gi') m \
    UNION SELECT name FROM (SELECT pg_catalog.split_part(c, '=', 1) FROM pg_catalog.pg_proc p, \
        LATERAL pg_catalog.unnest(p.proconfig) c WHERE p.oid >= 16384 \
      UNION SELECT pg_catalog.split_part(c, '=', 1) FROM pg_catalog.pg_db_role_setting s, \
        LATERAL pg_catalog.unnest(s.setconfig) c) k (name) \
      WHERE pg_catalog.split_part(name, '.', 1) NOT IN (SELECT extname FROM pg_catalog.pg_extension UNION \
        SELECT pg_catalog.split_part(s.name, '.', 1) FROM pg_catalog.pg_settings s UNION SELECT 'auto_explain') \
    UNION SELECT NULL FROM indirect";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_names_are_told_from_other_texts() {
        let customs = Customs::default();
        for text in ["app.tenant", "App.Tenant", "a.b.c", "7", "work_mem", "no.", "x@y.com", "a b.c", ".x"] {
            customs.note(text.as_bytes());
        }
        assert_eq!(customs.array(), ("a.b.c,app.tenant".to_owned(), false));
    }

    #[test]
    fn more_names_than_are_kept_are_missed_where_they_may_be_names_promise_12() {
        let customs = Customs::default();
        for n in 0..=NAMES_MAX {
            customs.guess(format!("john.doe{n}").as_bytes());
        }
        assert!(!customs.array().1, "nothing sets by a name that it is handed");
        customs.note(b"app.tenant");
        assert!(customs.array().0.contains("app.tenant"), "values leave room for names");
        customs.is_indirect();
        assert!(customs.array().1);
        let customs = Customs::default();
        (0..=NAMES_MAX).for_each(|n| customs.note(format!("app.n{n}").as_bytes()));
        customs.note(b"app.n0");
        assert!(customs.array().1);
    }
}
