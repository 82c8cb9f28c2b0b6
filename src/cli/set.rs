//! `tandem set`.

use std::fmt::Write;

use clap::Args;
use serde_json::{Map, Value};

use super::{Admin, Failure, Output, field};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem set                                  show what can be changed
  tandem set log.level=debug
  tandem set mirror.ddl=refuse mirror.truncate=refuse
  tandem set shadow.sample=1%                 repeat one read in a hundred on the other side

A change lasts until tandem is restarted; then proxy.toml counts again.";

#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    admin: Admin,
    /// What to change; all of them are, or none. Without any, settings are shown.
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    changes: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE, such as log.level=debug")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

pub(super) async fn run(command: Set, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    let settings = if command.changes.is_empty() {
        client.get("/v1/settings").await?
    } else {
        let changes: Map<String, Value> = command.changes.into_iter().map(|(key, value)| (key, value.into())).collect();
        client.patch("/v1/settings", &changes.into()).await?
    };
    output.print(&settings, lines);
    Ok(())
}

fn lines(settings: &Value) -> String {
    let mut out = String::new();
    for (name, value) in settings.as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name} = {}", field(value, ""));
    }
    out
}
