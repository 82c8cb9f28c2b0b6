//! `tandem check`: what stands in the way of a migration, before it begins.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Output};
use crate::check::{Finding, Report, Severity};
use crate::config::Config;
use crate::proxy;

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem check --config proxy.toml
  tandem check --ignore triggers,large_objects
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
}

pub(super) async fn run(command: Check, output: &Output) -> Result<(), Failure> {
    let config = Config::load(&command.config)?;
    let known = proxy::check_rules(&config);
    if let Some(name) = command.ignore.iter().find(|name| known.iter().all(|rule| rule.name != name.as_str())) {
        let names: Vec<_> = known.iter().map(|rule| rule.name).collect();
        return Err(Failure::Usage(format!("no finding is called `{name}`; there are: {}", names.join(", "))));
    }
    let Report { mut findings, unreachable } = proxy::check(&config).await;
    findings.retain(|finding| !command.ignore.iter().any(|name| name == finding.rule.name));
    findings
        .sort_by_cached_key(|found| (std::cmp::Reverse(found.rule.severity), found.rule.name, found.object.clone()));
    let bad = findings.iter().filter(|finding| finding.rule.severity > Severity::Note).count();
    let value = json!({
        "findings": findings.iter().map(shown).collect::<Vec<_>>(),
        "unreachable": unreachable,
        "ok": bad == 0 && unreachable.is_empty(),
    });
    output.print(&value, |_| text(&findings));
    match bad {
        _ if !unreachable.is_empty() => Err(Failure::Unreachable(unreachable.join("; "))),
        0 => Ok(()),
        _ => Err(Failure::Refused(format!("{bad} findings are worse than a note"))),
    }
}

fn shown(finding: &Finding) -> Value {
    json!({
        "name": finding.rule.name,
        "severity": finding.rule.severity,
        "side": finding.side.map(|side| side.as_str()),
        "object": finding.object,
        "advice": finding.rule.advice,
    })
}

/// By severity, then by rule: what it means is said once, then where. The findings are in that order.
fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing stands in the way".to_owned();
    }
    let mut rules: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        rules.entry((std::cmp::Reverse(finding.rule.severity), finding.rule.name)).or_default().push(finding);
    }
    let (mut text, mut last) = (String::new(), None);
    for ((severity, name), findings) in rules {
        if last.replace(severity) != Some(severity) {
            let heading = match severity.0 {
                Severity::Error => "ERRORS",
                Severity::Warning => "WARNINGS",
                Severity::Note => "NOTES",
            };
            let _ = writeln!(text, "{heading}");
        }
        let advice = findings.first().map_or("", |finding| finding.rule.advice);
        let _ = writeln!(text, "  {name}: {advice}");
        for finding in findings {
            let side = finding.side.map_or("here", |side| side.as_str());
            let _ = writeln!(text, "    {side:<7} {}", finding.object);
        }
    }
    text
}
