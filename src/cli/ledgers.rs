//! `tandem parked` and `tandem dirty`: what the mirror set aside, and what is to be done with it.

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Admin, Failure, Output, field};
use crate::admin::client::Client;

pub(super) const PARKED_EXAMPLES: &str = "\
Examples:
  tandem parked list                          which rows the secondary refuses, and why
  tandem parked show 00c0ffee00c0ffee         one of them with its key's values
  tandem parked retry 00c0ffee00c0ffee        copy the row as it is now
  tandem parked retry all
  tandem parked discard 00c0ffee00c0ffee      leave it: the sides may differ there";

pub(super) const DIRTY_EXAMPLES: &str = "\
Examples:
  tandem dirty list                           which tables may differ, and why
  tandem dirty repair public.accounts         copy the whole table again
  tandem dirty repair all";

#[derive(Debug, Args)]
pub(super) struct Parked {
    #[command(subcommand)]
    action: ParkedAction,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum ParkedAction {
    /// All parked keys, without their values.
    List,
    /// One parked key with its values.
    Show {
        /// As listed.
        id: String,
    },
    /// Copy the row again, as it is now.
    Retry {
        /// As listed, or `all`.
        id: String,
    },
    /// Forget it: nobody will mend that row.
    Discard {
        /// As listed, or `all`.
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Dirty {
    #[command(subcommand)]
    action: DirtyAction,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum DirtyAction {
    /// All dirty tables.
    List,
    /// Copy every row of a table again.
    Repair {
        /// As listed, or `all`.
        table: String,
    },
}

pub(super) async fn parked(command: Parked, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    match command.action {
        ParkedAction::List => {
            let list = client.get("/v1/parked").await?;
            output.print(&list, |list| lines(list, &["/id", "/table", "/attempts", "/why"], "nothing is parked"));
        }
        ParkedAction::Show { id } => {
            let list = client.get("/v1/parked?values=true").await?;
            let found = list.as_array().into_iter().flatten().find(|entry| entry["id"] == id.as_str());
            let found = found.ok_or_else(|| Failure::Refused(format!("no parked key has the id {id}")))?;
            output.print(found, fields);
        }
        ParkedAction::Retry { id } => all(&client, output, "/v1/parked", "id", "retry", &id).await?,
        ParkedAction::Discard { id } => all(&client, output, "/v1/parked", "id", "discard", &id).await?,
    }
    Ok(())
}

pub(super) async fn dirty(command: Dirty, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    match command.action {
        DirtyAction::List => {
            let list = client.get("/v1/dirty").await?;
            output.print(&list, |list| lines(list, &["/table", "/reasons"], "no table is dirty"));
        }
        DirtyAction::Repair { table } => all(&client, output, "/v1/dirty", "table", "repair", &table).await?,
    }
    Ok(())
}

/// Do it to one, or to all that are listed now.
async fn all(
    client: &Client,
    output: &Output,
    path: &str,
    name: &str,
    action: &str,
    which: &str,
) -> Result<(), Failure> {
    let mut names = vec![which.to_owned()];
    if which == "all" {
        let list = client.get(path).await?;
        names = list.as_array().into_iter().flatten().map(|entry| field(entry, &format!("/{name}"))).collect();
    }
    let mut done = Vec::new();
    for one in names {
        let mut answer = client.post(path, &json!({ "action": action, name: one })).await?;
        answer[name] = one.into();
        done.push(answer);
    }
    output.print(&done.into(), |done| {
        let count = done.as_array().map_or(0, Vec::len);
        let walks = |done: &Value| action == "repair" && done["settles_at"].is_null();
        match done.as_array().is_some_and(|done| done.iter().any(walks)) {
            true => format!("{action}: {count} asked for; `tandem repair status` shows the walk over them"),
            false => format!("{action}: {count} done; `tandem status` shows when the mirror has caught up"),
        }
    });
    Ok(())
}

fn lines(list: &Value, columns: &[&str], empty: &str) -> String {
    let mut out = String::new();
    for entry in list.as_array().into_iter().flatten() {
        let cells: Vec<String> = columns.iter().map(|column| field(entry, column)).collect();
        let _ = writeln!(out, "{}", cells.join("  "));
    }
    if out.is_empty() { empty.to_owned() } else { out }
}

fn fields(entry: &Value) -> String {
    let mut out = String::new();
    for (name, value) in entry.as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name:12} {}", field(value, ""));
    }
    out
}
