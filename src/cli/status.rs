//! `tandem status`.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Admin, Failure, Output, field};

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem status
  tandem status --watch                       again every second, until Ctrl-C
  tandem --json status | jq .journal";

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    admin: Admin,
    /// Show it again every second.
    #[arg(long, short)]
    watch: bool,
}

pub(super) async fn run(command: Status, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    if !command.watch {
        output.print(&client.get("/v1/status").await?, screen);
        return Ok(());
    }
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        output.repaint(&client.get("/v1/status").await?, screen);
    }
}

/// The lines of the screen: a name and pointers into the status.
const LINES: &[(&str, &[(&str, &str)])] = &[
    ("tandem", &[("/version", ""), ("/readiness", ""), ("/uptime_s", " s")]),
    ("wire", &[("/wire", ""), ("/phase", "")]),
    ("primary", &[("/primary", ""), ("/epoch", " (epoch)")]),
    ("switch", &[("/switch/phase", ""), ("/switch/to", " comes"), ("/switch/last", " (the last one)")]),
    ("units", &[("/units_inside", " inside"), ("/units_held", " held")]),
    (
        "journal",
        &[
            ("/journal/appended", " appended"),
            ("/journal/durable", " durable"),
            ("/journal/bytes", " bytes on disk"),
            ("/journal/limit_bytes", " at most"),
            ("/journal/broken", " (BROKEN)"),
        ],
    ),
    ("mirror", &[("/mirror/phase", ""), ("/mirror/applied", " applied")]),
    ("lag", &[("/mirror/lag_seconds", " s"), ("/mirror/lag_records", " units"), ("/mirror/lag_keys", " keys")]),
    ("paid", &[("/mirror/payments", " payments"), ("/mirror/paid_rows", " rows")]),
    ("shadow", &[("/shadow/verdict", ""), ("/shadow/compared", " compared"), ("/shadow/mismatches", " differ")]),
    ("set aside", &[("/mirror/parked", " parked"), ("/mirror/dirty", " dirty tables")]),
    ("last error", &[("/mirror/error", "")]),
];

fn screen(status: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, shown: &str| {
        let _ = writeln!(out, "{name:14} {shown}");
    };
    for (name, parts) in LINES {
        let known = parts.iter().filter(|(pointer, _)| status.pointer(pointer).is_some_and(|value| !value.is_null()));
        let known: Vec<String> = known.map(|(pointer, unit)| format!("{}{unit}", field(status, pointer))).collect();
        line(name, &if known.is_empty() { "-".to_owned() } else { known.join(", ") });
        if *name == "primary" {
            SIDES.iter().for_each(|side| line(side, &answers(&status["sides"][side])));
        }
    }
    if status["journal"]["full"] == true {
        let waiting = match status["journal"]["waiting"].as_u64() {
            Some(waiting) if waiting > 0 => format!("{waiting} records wait for room"),
            _ => "what is written becomes dirty, or waits (journal.on_full)".to_owned(),
        };
        line("journal FULL", &waiting);
    }
    for (table, why) in status["mirror"]["held"].as_object().into_iter().flatten() {
        line("waiting", &format!("{table}: {}", why.as_str().unwrap_or_default()));
    }
    out
}

const SIDES: [&str; 2] = ["origin", "target"];

/// Whether a side answers.
fn answers(side: &Value) -> String {
    match (side["answers"].as_bool(), side["latency_ms"].as_f64(), side["error"].as_str()) {
        (Some(true), Some(ms), _) => format!("answers in {ms:.1} ms"),
        (Some(true), None, _) => "answers".to_owned(),
        (Some(false), _, why) => format!("DOES NOT ANSWER: {}", why.unwrap_or_default()),
        (None, ..) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_work_is_shown_with_its_reason() {
        let shown = screen(&json!({
            "sides": {"origin": {"answers": true, "latency_ms": 0.42}, "target": {"answers": false, "error": "refused"}},
            "journal": {"broken": "no space left", "full": true, "waiting": 3},
            "mirror": {"held": {"shop.t": "column v does not exist"}},
        }));
        let lines = "origin         answers in 0.4 ms\ntarget         DOES NOT ANSWER: refused\n";
        assert!(shown.contains(lines) && shown.contains("no space left (BROKEN)\n"), "{shown}");
        assert!(shown.contains("journal FULL   3 records wait for room\n"), "{shown}");
        assert!(shown.ends_with("waiting        shop.t: column v does not exist\n"), "{shown}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let switch = json!({"phase": "draining", "to": "target", "last": null});
        let shown = screen(&json!({"primary": "origin", "epoch": 1, "switch": switch}));
        assert!(shown.contains("primary        origin, 1 (epoch)\norigin         -\ntarget         -\n"), "{shown}");
        assert!(shown.contains("switch         draining, target comes\n"), "{shown}");
        assert!(shown.contains("journal        -\n"), "{shown}");
    }
}
