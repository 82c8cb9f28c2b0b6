//! `tandem shadow`: what reads on the other side say, and the differences that lasted.

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Admin, Failure, Output, field};
use crate::admin::client::Client;
use crate::shadow::{Answer, Counts, Report, Times};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem set shadow.sample=1%                 begin: one read in a hundred
  tandem shadow status                        verdict, counts, times of both sides, by statement
  tandem shadow mismatches                    differences that last, without values
  tandem shadow mismatches --values           with the rows' values
  tandem shadow clear 7                       forget one of them
  tandem shadow clear all
  tandem --json shadow status | jq .verdict

`status` exits with 1 while a difference lasts.";

#[derive(Debug, Args)]
pub(super) struct Shadow {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Verdict, counts, and times of both sides.
    Status,
    /// Differences that lasted.
    Mismatches {
        /// Show the rows' values, too.
        #[arg(long)]
        values: bool,
    },
    /// Forget a difference: somebody has seen it. One that is still there is found again.
    Clear {
        /// As listed, or `all`.
        id: String,
    },
}

pub(super) async fn run(command: Shadow, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    match command.action {
        Action::Status => {
            let value = client.get("/v1/shadow").await?;
            let report: Report = serde_json::from_value(value.clone())
                .map_err(|error| Failure::Unreachable(format!("/v1/shadow: {error}")))?;
            output.print(&value, |_| screen(&report));
            return match report.summary.verdict {
                Answer::NoGo => Err(Failure::Refused("reads are answered differently by the other side".to_owned())),
                Answer::Off | Answer::Unproven | Answer::Go => Ok(()),
            };
        }
        Action::Mismatches { values } => {
            let path = if values { "/v1/mismatches?values=true" } else { "/v1/mismatches" };
            output.print(&client.get(path).await?, mismatches);
        }
        Action::Clear { id } => {
            let path = match id.as_str() {
                "all" => "/v1/mismatches".to_owned(),
                id => format!("/v1/mismatches?id={}", number(id)?),
            };
            output.print(&client.delete(&path).await?, |done| format!("{} forgotten", field(done, "/cleared")));
        }
    }
    Ok(())
}

/// Go or no go, as a tandem that runs says it. `None`: it mirrors nothing, so there is no other side.
pub(super) async fn words(client: &Client) -> Option<String> {
    let report: Report = serde_json::from_value(client.get("/v1/shadow").await.ok()?).ok()?;
    Some(format!("reads on the other side: {}", report.words()))
}

fn number(id: &str) -> Result<u64, Failure> {
    id.parse().map_err(|_| Failure::Usage(format!("`{id}` is no number of a difference; `all` means all of them")))
}

fn screen(report: &Report) -> String {
    let (summary, counts) = (&report.summary, &report.summary.counts);
    let mut out = String::new();
    let _ = writeln!(out, "verdict        {}", report.words());
    let _ = writeln!(out, "sample         {} % of reads, {} queued", summary.sample * 100.0, summary.queued);
    let Counts { compared, matched, in_flight, noise, mismatched, .. } = counts;
    let _ = writeln!(
        out,
        "compared       {compared}: {matched} match, {in_flight} in flight, {noise} noise, {mismatched} mismatched"
    );
    let skips: Vec<String> = counts.skips.iter().map(|(why, count)| format!("{count} {why}")).collect();
    let _ = writeln!(out, "skipped        {}", if skips.is_empty() { "0".to_owned() } else { skips.join(", ") });
    let left = match summary.unfollowed {
        0 => String::new(),
        left => format!(", {left} of them not looked at again until a read shows them"),
    };
    let _ = writeln!(out, "differences    {} that last{left}", summary.mismatches);
    let _ = writeln!(out, "primary, ms    {}", times(counts.primary_ms));
    let _ = writeln!(out, "secondary, ms  {}", times(counts.secondary_ms));
    let _ = writeln!(out, "ratio          {}", times(counts.ratio));
    if !report.statements.is_empty() {
        let _ = writeln!(out, "\n  compared   alike %  skipped  p95 ms here  there  ratio  statement");
    }
    for shape in &report.statements {
        let Counts { compared, alike, skipped, primary_ms, secondary_ms, ratio, .. } = &shape.counts;
        let alike = alike.map_or("-".to_owned(), |alike| format!("{:.2}", alike * 100.0));
        let p95 = |times: &Option<Times>| times.map_or("-".to_owned(), |times| format!("{:.2}", times.p95));
        let (here, there, ratio) = (p95(primary_ms), p95(secondary_ms), p95(ratio));
        let statement = &shape.statement;
        let _ =
            writeln!(out, "{compared:>10}  {alike:>8}  {skipped:>7}  {here:>11}  {there:>5}  {ratio:>5}  {statement}");
    }
    out
}

fn times(times: Option<Times>) -> String {
    times.map_or("-".to_owned(), |Times { p50, p95, p99 }| format!("p50 {p50:.2}, p95 {p95:.2}, p99 {p99:.2}"))
}

fn mismatches(list: &Value) -> String {
    let mut out = String::new();
    for entry in list.as_array().into_iter().flatten() {
        let columns: Vec<&str> = entry["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let _ = writeln!(
            out,
            "{:>4}  {:<5} {:<12} {}  key {}  columns {}  seen {} times\n      {}",
            field(entry, "/id"),
            field(entry, "/state"),
            field(entry, "/how"),
            field(entry, "/table"),
            field(entry, "/key_hash"),
            if columns.is_empty() { "-".to_owned() } else { columns.join(",") },
            field(entry, "/count"),
            field(entry, "/statement"),
        );
        for (name, value) in entry["values"].as_object().into_iter().flatten() {
            let _ = writeln!(out, "      {name:<10} {}", field(value, ""));
        }
    }
    if out.is_empty() { "no difference was found that lasts".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_screen_says_verdict_counts_and_each_statement() {
        let times = json!({"p50": 1.0, "p95": 2.0, "p99": 3.0});
        let counts = json!({
            "compared": 4, "matched": 3, "in_flight": 1, "noise": 0, "mismatched": 0, "alike": 1.0, "skipped": 2,
            "skips": {"behind": 2}, "primary_ms": times, "secondary_ms": times, "ratio": times,
        });
        let mut report = counts.clone();
        let more = json!({"verdict": "go", "sample": 0.01, "queued": 0, "queued_bytes": 0, "mismatches": 3,
            "unfollowed": 1, "forgotten": 0, "findings": []});
        report.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let mut shape = counts;
        shape["statement"] = "select 1".into();
        shape["table"] = "t".into();
        report["statements"] = json!([shape]);
        let shown = screen(&serde_json::from_value(report).expect("a report"));
        assert!(shown.contains("differences    3 that last, 1 of them not looked at again"), "{shown}");
        assert!(shown.contains("verdict        GO"), "{shown}");
        assert!(shown.contains("compared       4: 3 match, 1 in flight, 0 noise, 0 mismatched"), "{shown}");
        assert!(shown.contains("skipped        2 behind"), "{shown}");
        assert!(shown.lines().last().is_some_and(|line| line.ends_with("2.00   2.00  select 1")), "{shown}");
    }

    #[test]
    fn differences_are_listed_with_values_only_where_they_came() {
        let mut entry = json!({"id": 7, "state": "open", "how": "missing_row", "table": "public.t", "key_hash": "00ff",
            "columns": ["a", "b"], "statement": "select 1", "count": 2});
        let shown = mismatches(&json!([entry]));
        assert!(
            shown.starts_with("   7  open  missing_row  public.t  key 00ff  columns a,b  seen 2 times\n"),
            "{shown}"
        );
        entry["values"] = json!({"key": "1", "primary": "x", "secondary": ""});
        assert!(mismatches(&json!([entry])).contains("primary    x"));
        assert!(mismatches(&json!([])).starts_with("no difference"));
    }

    #[test]
    fn only_a_number_or_all_is_cleared() {
        assert_eq!(number("7").ok(), Some(7));
        assert!(matches!(number("al"), Err(Failure::Usage(_))));
    }
}
