//! Which database a side is.

use super::client::{self, Client};
use super::copier::LOCK_CLASS;
use crate::record::TableId;

/// Held shared on a side for as long as it is asked whether the other one has it too: an applier's locks are in nobody's way.
const LOCK_ASKED: i32 = 3;

/// Both sides are one database, under two names.
pub(super) const ONE_DATABASE: &str = "[origin] and [target] are one and the same database under two names: what is mirrored would delete clients' writes there";

/// Both connections are to one database, which `there` has locked by this number: `here` sees the lock. It tells a copy of a database,
/// down to its files, from the database itself, and every role may look.
pub(super) async fn are_one(here: &mut Client, there: &mut Client, lock: i32) -> Result<bool, client::Error> {
    let rows = there.simple("SELECT pg_catalog.pg_backend_pid()").await?;
    let pid: i32 = rows.first().ok_or(client::Error::Value(0))?.parse(0)?;
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database \
         WHERE l.locktype = 'advisory' AND l.granted AND l.pid = {pid} AND l.classid = {LOCK_CLASS} AND l.objid = {lock} \
         AND l.objsubid = 2 AND d.datname = pg_catalog.current_database())"
    );
    here.simple(&sql).await?.first().ok_or(client::Error::Value(0))?.bool(0)
}

/// The same of connections that have locked nothing.
pub(super) async fn are_found_one(here: &mut Client, there: &mut Client) -> Result<bool, client::Error> {
    let lock = format!("SELECT pg_catalog.pg_try_advisory_lock_shared({LOCK_CLASS}, {LOCK_ASKED})");
    there.simple(&lock).await?;
    are_one(here, there, LOCK_ASKED).await
}

/// Names the database: the same for whoever took its place with a copy of its files.
pub(super) async fn of(conn: &mut Client) -> Result<u64, client::Error> {
    let sql = "SELECT pg_catalog.concat_ws('/', s.system_identifier, d.oid) \
        FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let named = conn.simple(sql).await?.first().ok_or(client::Error::Value(0))?.string(0)?;
    Ok(TableId::of("database", &named).0.max(1))
}

#[cfg(test)]
mod tests {
    use super::super::copier::{Options, PgCopier};
    use super::super::testing::Server;
    use super::*;
    use crate::mirror::state::copier::{Copier, Error};

    #[tokio::test]
    async fn a_database_is_told_from_another_one_of_its_server_and_of_another() {
        let server = Server::any();
        let connect = async |config| Client::connect(&config).await.expect("it is there");
        let mut here = connect(server.config()).await;
        here.simple("CREATE DATABASE other").await.expect("it is ours");
        let mut there = connect(server.config()).await;
        assert!(are_found_one(&mut here, &mut there).await.expect("both answer"));
        let mut other = server.config();
        other.database = "other".into();
        assert!(!are_found_one(&mut here, &mut connect(other).await).await.expect("both answer"));
        let another = Server::any();
        assert!(!are_found_one(&mut here, &mut connect(another.config()).await).await.expect("both answer"));
    }

    #[tokio::test]
    async fn a_mirror_whose_sides_became_one_pays_nothing() {
        let (server, other) = (Server::any(), Server::any());
        let copier = |to: &Server| PgCopier::new(server.config(), to.config(), Options::default());
        copier(&other).open().await.expect("they are two");
        let refused = copier(&server).open().await;
        assert!(matches!(refused, Err(Error::OneDatabase(_))), "{refused:?}");
    }
}
