//! Making on the secondary what it lacks: keyspaces, types and tables before the copy, indexes and materialized views behind it.
//!
//! Both schemas are read whole and compared; what an earlier attempt made, or somebody by hand, is left alone. Options that
//! the secondary's version does not know are left out. A view that the secondary makes for nobody
//! is named with its statement, and is no failure: all rows are there without it. Not made: functions, aggregates, triggers,
//! column masks, roles and grants, and tables of the old storage format, which are named.

use std::collections::BTreeSet;

use super::making::{Missing, VIEW};
use super::{of_primary, of_secondary};
use crate::backfill::Request;
use crate::backfill::work::Stage;
use crate::mirror::replay::history::{Error, Provisioned};
use crate::protocol::cql::applier::Sides;
use crate::protocol::cql::applier::trouble::Trouble;
use crate::protocol::cql::client::Client;
use crate::protocol::cql::definitions::load;
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Parameters;

/// What a server says that makes no views for anybody, as versions from 4.0 on do unless they are told otherwise.
const NO_VIEWS: &str = "views are disabled";
/// What is to be done about it, before the statement.
const ENABLE: &str = "set materialized_views_enabled: true in cassandra.yaml there, restart, and run";

/// What could not be made, for people.
pub(super) async fn provision(sides: &Sides, request: &Request, stage: Stage) -> Result<Provisioned, Error> {
    let here = load(&sides.to_primary).await.map_err(of_primary)?;
    let there = load(&sides.to_secondary).await.map_err(of_secondary)?;
    let replication = request.replication.as_deref();
    let missing = here.unmade(&there, |name| request.names(name, None), stage, replication);
    if missing.is_empty() {
        return Ok(Provisioned::default());
    }
    let provisioned = make(&sides.to_secondary, missing).await?;
    sides.secondary.agreed().await.map_err(of_secondary)?;
    sides.secondary.refresh().await;
    Ok(provisioned)
}

/// What cannot be made takes with it what would be in it.
async fn make(client: &Client, missing: Vec<Missing>) -> Result<Provisioned, Error> {
    let (mut made, mut without) = (Provisioned::default(), BTreeSet::new());
    for Missing { what, keyspace, text } in missing {
        if without.contains(&keyspace) {
            continue;
        }
        let Err(why) = make_one(client, &text).await? else {
            // Of a keyspace it is worth knowing where its replicas are.
            tracing::info!(
                what,
                text = text.ok().filter(|_| what.starts_with("keyspace")),
                "history: made on the target"
            );
            continue;
        };
        if what.starts_with("keyspace") {
            without.insert(keyspace);
        }
        match text {
            Ok(text) if what.starts_with(VIEW) && why.contains(NO_VIEWS) => {
                tracing::warn!(what, text, "history: the target makes no materialized views");
                made.lacks.push(format!("{what}: {ENABLE}: {text}"));
            }
            _ => made.unmade.push(format!("{what}: {why}")),
        }
    }
    Ok(made)
}

/// Made, or why it will never be.
async fn make_one(client: &Client, text: &Result<String, String>) -> Result<Result<(), String>, Error> {
    let text = match text {
        Ok(text) => text,
        Err(why) => return Ok(Err(why.clone())),
    };
    match client.query(text, &Parameters::new(Consistency::One)).await {
        Ok(_) => Ok(Ok(())),
        Err(error) => match Trouble::of_secondary(&error) {
            Trouble::Reject(why) | Trouble::Listed(why) => Ok(Err(why)),
            Trouble::Retry(_) | Trouble::Away(_) | Trouble::Lost(_) => Err(of_secondary(error)),
        },
    }
}
