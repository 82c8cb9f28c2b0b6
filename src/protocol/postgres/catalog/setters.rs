//! Which code of the user's may set something for its session, told from its source: it says so itself, or calls what may.
//!
//! Sources are large and change rarely: they are read when their print has changed, and gone through beside everything else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::protocol::postgres::client::{Client, DataRow, Error};

use super::load::ask;
use super::routine::could_set;

/// By name, in whatever schema.
#[derive(Debug, Default)]
pub struct Setters {
    print: String,
    names: HashSet<String>,
}

/// Changes with every change of one of them.
const PRINT: &str = "WITH {HOT} SELECT pg_catalog.concat(pg_catalog.count(*), ' ', \
    pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(p.oid, ' ', p.xmin), 0))) \
    FROM pg_catalog.pg_proc p JOIN hot USING (oid)";

/// Of an aggregate the names of what it calls. Code in C is believed to set nothing: there is much of it in extensions, and
/// what it sets all the same the twins tell. Of other languages nobody here can read the source.
const BODIES: &str = "WITH {HOT} SELECT p.proname, CASE WHEN p.prokind = 'a' THEN (SELECT pg_catalog.concat_ws(' ', \
      a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggmfinalfn) FROM pg_catalog.pg_aggregate a WHERE a.aggfnoid = p.oid) \
    WHEN l.lanname IN ('c', 'internal') THEN '' \
    WHEN l.lanname IN ('sql', 'plpgsql') THEN coalesce(nullif(p.prosrc, ''), pg_catalog.pg_get_function_sqlbody(p.oid)) END \
    FROM pg_catalog.pg_proc p JOIN hot USING (oid) JOIN pg_catalog.pg_language l ON l.oid = p.prolang";

impl Setters {
    /// Those of this server; `before`: as they were.
    ///
    /// # Errors
    /// The server's. Not cancel safe.
    pub async fn load(conn: &mut Client, before: Option<&Arc<Setters>>) -> Result<Arc<Setters>, Error> {
        let print = ask(conn, PRINT).await?.first().ok_or(Error::Value(0))?.string(0)?;
        if let Some(before) = before.filter(|before| before.print == print) {
            return Ok(before.clone());
        }
        let rows = ask(conn, BODIES).await?;
        let body = |row: &DataRow| Ok((row.string(0)?, row.text(1)?.map(str::to_owned)));
        let bodies = rows.iter().map(body).collect::<Result<Vec<Body>, Error>>()?;
        let told = tokio::task::spawn_blocking(move || Setters { print, names: closure(&bodies) }).await;
        told.map(Arc::new).map_err(|error| Error::Config(error.to_string()))
    }

    /// Only these.
    #[cfg(test)]
    pub(crate) fn of(names: &[&str]) -> Arc<Setters> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(Setters { print: String::new(), names })
    }

    /// One of this name is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// They were not loaded.
    pub fn is_unknown(&self) -> bool {
        self.print.is_empty() && self.names.is_empty()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Name and source, if it can be read.
type Body = (String, Option<String>);

/// Those that may set something themselves, and all that call one.
fn closure(bodies: &[Body]) -> HashSet<String> {
    let known: HashSet<&str> = bodies.iter().map(|(name, _)| name.as_str()).collect();
    let mut callers: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut open = Vec::new();
    for (name, source) in bodies {
        let mut calls = |word: &str| {
            if let Some(called) = known.get(word) {
                callers.entry(called).or_default().push(name);
            }
            false
        };
        if source.as_ref().is_none_or(|source| could_set(source, &mut calls)) {
            open.push(name.as_str());
        }
    }
    let mut names = HashSet::new();
    while let Some(name) = open.pop() {
        if names.insert(name.to_owned()) {
            open.extend(callers.get(name).into_iter().flatten());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::testing::Server;

    #[tokio::test]
    async fn functions_that_may_set_something_are_found_whatever_calls_them() {
        for server in Server::all() {
            let schema = "CREATE FUNCTION sets(text) RETURNS text LANGUAGE sql AS $$SELECT set_config('app.tenant', $1, false)$$; \
                CREATE FUNCTION calls(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN public.sets($1); END'; \
                CREATE FUNCTION adds(int, text) RETURNS int LANGUAGE sql AS $$SELECT $1 + length(calls($2))$$; \
                CREATE AGGREGATE adding(text) (SFUNC = adds, STYPE = int, INITCOND = '0'); \
                CREATE FUNCTION parsed() RETURNS text LANGUAGE sql RETURN sets('red'); \
                CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int); CREATE TABLE t (v int); \
                CREATE FUNCTION quick(int, int) RETURNS int LANGUAGE internal AS 'int4pl'; \
                CREATE FUNCTION writes() RETURNS void LANGUAGE plpgsql AS 'BEGIN UPDATE t SET v = 1; END'";
            let mut conn = Client::connect(&server.config()).await.expect("connects");
            conn.simple(schema).await.expect("a schema");
            let setters = Setters::load(&mut conn, None).await.expect("loads");
            let mut found: Vec<&str> = setters.names.iter().map(String::as_str).collect();
            found.sort_unstable();
            assert_eq!(found, ["adding", "adds", "calls", "parsed", "sets"]);
            let same = Setters::load(&mut conn, Some(&setters)).await.expect("loads");
            assert!(Arc::ptr_eq(&same, &setters), "nothing has changed");
            conn.simple("CREATE OR REPLACE FUNCTION writes() RETURNS void LANGUAGE plpgsql AS 'BEGIN RESET ALL; END'")
                .await
                .expect("replaced");
            let others = Setters::load(&mut conn, Some(&setters)).await.expect("loads");
            assert!(others.contains("writes") && !setters.contains("writes"));
        }
    }
}
