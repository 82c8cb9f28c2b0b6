//! `tandem check`: what stands in the way of a migration, before it begins.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Admin, Failure, Output, findings};
use crate::check::{Report, Severity};
use crate::config::Config;
use crate::cutover::report::Finding;
use crate::{proxy, shadow};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem check --config proxy.toml
  tandem check --ignore triggers,large_objects
  tandem check --before-switch                also what shadow reads of the running tandem say
  tandem check --json | jq -r '.findings[] | select(.severity == \"error\") | .object'

Changes nothing on either side. Exit codes: 0 nothing worse than notes, 1 findings, 2 usage or configuration,
3 a side could not be reached.";

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration.
    #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
    config: PathBuf,
    /// Names of findings that are no surprise.
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    ignore: Vec<String>,
    /// Ask the running tandem, too, whether reads on the other side speak for a switch.
    #[arg(long)]
    before_switch: bool,
    #[command(flatten)]
    admin: Admin,
}

pub(super) async fn run(command: Check, output: &Output) -> Result<(), Failure> {
    let config = Config::load(&command.config)?;
    let known = [proxy::check_rules(&config), shadow::RULES.to_vec()].concat();
    if let Some(name) = command.ignore.iter().find(|name| known.iter().all(|rule| rule.name != name.as_str())) {
        let names: Vec<_> = known.iter().map(|rule| rule.name).collect();
        return Err(Failure::Usage(format!("no finding is called `{name}`; there are: {}", names.join(", "))));
    }
    let Report { mut findings, unreachable } = proxy::check(&config).await;
    findings.retain(|finding| !command.ignore.iter().any(|name| name == finding.rule.name));
    let mut bad = findings.iter().filter(|finding| finding.rule.severity > Severity::Note).count();
    let mut findings: Vec<_> = findings.iter().map(Finding::from).collect();
    let reads = if command.before_switch { Some(reads(&command.admin).await?) } else { None };
    if let Some(report) = &reads {
        let found = report.findings.iter().filter(|finding| !command.ignore.contains(&finding.name));
        let before = findings.len();
        findings.extend(found.cloned());
        // None of them is a note.
        bad += findings.len() - before;
    }
    findings::sort(&mut findings);
    let value = json!({
        "findings": findings,
        "unreachable": unreachable,
        "ok": bad == 0 && unreachable.is_empty(),
        "shadow": reads.as_ref().map(|report| &report.summary),
    });
    output.print(&value, |_| {
        let found = match findings.as_slice() {
            [] => "nothing stands in the way".to_owned(),
            findings => findings::text(findings),
        };
        match &reads {
            Some(report) => format!("{}\n\nreads on the other side: {}", found.trim_end(), report.words()),
            None => found,
        }
    });
    match bad {
        _ if !unreachable.is_empty() => Err(Failure::Unreachable(unreachable.join("; "))),
        0 => Ok(()),
        _ => Err(Failure::Refused(format!("{bad} findings are worse than a note"))),
    }
}

/// What reads on the other side say.
async fn reads(admin: &Admin) -> Result<shadow::Report, Failure> {
    let report = admin.client()?.get("/v1/shadow").await?;
    serde_json::from_value(report).map_err(|error| Failure::Unreachable(format!("/v1/shadow: {error}")))
}
