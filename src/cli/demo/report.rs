//! What the demo says in the end, and whether all is well.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use serde_json::Value;

use super::super::field;
use super::Found;
use super::act::Played;
use super::history::{Compared, Copied};
use super::load::Load;
use super::shadow::Shadowed;
use crate::config::Wire;

/// What happened; these names stay.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// What clients spoke.
    pub(super) wire: &'static str,
    /// How long the load ran.
    pub(super) seconds: u64,
    /// Writes that a client saw acknowledged.
    pub(super) writes_acked: u64,
    /// Rows of both sides that were looked at.
    pub(super) rows_compared: u64,
    /// Rows that only the origin has, and acknowledged writes that the target does not have.
    pub(super) lost: u64,
    /// Rows that only the target has.
    pub(super) extra: u64,
    /// Rows that differ.
    pub(super) mismatched: u64,
    /// Errors that clients saw, other than `reconnects`.
    pub(super) client_errors: u64,
    /// Connections lost in the second around a SIGKILL of tandem.
    pub(super) reconnects: u64,
    /// How far the target was behind at the worst moment.
    pub(super) lag_ms_max: u64,
    /// How long the target was away.
    pub(super) target_outage_s: f64,
    /// SIGKILLs of tandem.
    pub(super) kills: u64,
    /// Switches of the primary, to the target and back.
    pub(super) switches: u64,
    /// Switches that were begun and came to nothing; they were asked for again.
    pub(super) aborted: u64,
    /// How long 99 of 100 switches held clients at most, aborted ones among them.
    pub(super) hold_ms_p99: f64,
    /// How long the longest of them held clients.
    pub(super) hold_ms_max: f64,
    /// Reads that did not show what the same client had seen acknowledged.
    pub(super) stale_reads: u64,
    /// Connections lost, or refused, but for `reconnects`.
    pub(super) dropped_clients: u64,
    /// The copy of what was there before.
    pub(super) backfill: Copied,
    /// The comparisons after it and in the end, by tandem.
    pub(super) verify: Compared,
    /// Reads that were asked again on the other side.
    pub(super) shadow: Shadowed,
    /// Every switch happened.
    #[serde(skip)]
    pub(super) switched: bool,
    /// Nothing lost, nothing extra, nothing different, nothing stale, no client dropped or told of an error.
    pub(super) ok: bool,
    /// `ok` is false for one reason only: there was no switch. Left out where it is not so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) only_switch_missing: bool,
}

impl Report {
    pub(super) fn with(self, played: &Played) -> Report {
        Report {
            backfill: played.backfill.as_ref().map(|walked| walked.backfill()).unwrap_or_default(),
            verify: played.verify(),
            shadow: played.shadowed.with(self.shadow),
            kills: played.kills,
            target_outage_s: (played.outage.as_secs_f64() * 10.0).round() / 10.0,
            switches: played.switches.count(),
            aborted: played.switches.aborted(),
            hold_ms_p99: played.switches.held_ms(0.99),
            hold_ms_max: played.switches.held_ms(1.0),
            switched: played.switches.failed().is_none(),
            ..self
        }
    }

    /// A demo without writes or without switches proves nothing.
    pub(super) fn judged(self) -> Report {
        let differ = self.lost + self.extra + self.mismatched;
        let noticed = self.client_errors + self.stale_reads + self.dropped_clients;
        let played = self.writes_acked > 0 && self.rows_compared > 0;
        let copied = self.backfill.is_whole() && self.verify.is_equal();
        let well = differ + noticed == 0 && played && copied && self.shadow.is_well();
        let switched = self.switched && self.switches > 0;
        Report { ok: well && switched, only_switch_missing: well && !switched, ..self }
    }
}

/// What clients and comparisons saw.
pub(super) fn seen(wire: Wire, load: &Load, found: Found) -> Report {
    Report {
        wire: wire.as_str(),
        writes_acked: load.acked.load(Relaxed),
        rows_compared: found.rows,
        lost: found.lost,
        extra: found.extra,
        mismatched: found.mismatched,
        client_errors: load.errors.load(Relaxed),
        reconnects: load.reconnects.load(Relaxed),
        lag_ms_max: load.lag_ms_max.load(Relaxed),
        stale_reads: load.stale.load(Relaxed),
        dropped_clients: load.dropped.load(Relaxed),
        shadow: load.shadowed.shadowed(),
        ..Report::default()
    }
}

/// For people.
pub(super) fn screen(report: &Value) -> String {
    let number = |name: &str| field(report, &format!("/{name}"));
    let verdict = match (&report["ok"], &report["only_switch_missing"]) {
        (Value::Bool(true), _) => "OK: both sides are equal",
        (_, Value::Bool(true)) => "NOT OK: both sides are equal, but nothing was switched",
        _ => "NOT OK",
    };
    format!(
        "\n{verdict}\n\
         \n  history copied        {} rows in {} s\
         \n  verified by tandem    {} rows equal\
         \n  writes acknowledged   {} in {} s\
         \n  target away           {} s, worst lag {} ms\
         \n  tandem killed         {} times, clients reconnected {} times\
         \n  switched              {} times, {} aborted, clients held {} ms at most\
         \n  reads compared        {}, {} alike, {} false alarms, {} of {} planted found, {} mended\
         \n  stale / dropped       {} / {}\
         \n  errors seen           {}\
         \n  rows compared         {}\
         \n  lost / extra / differ {} / {} / {}\n",
        number("backfill/rows"),
        number("backfill/seconds"),
        number("verify/equal"),
        number("writes_acked"),
        number("seconds"),
        number("target_outage_s"),
        number("lag_ms_max"),
        number("kills"),
        number("reconnects"),
        number("switches"),
        number("aborted"),
        number("hold_ms_max"),
        number("shadow/compared"),
        number("shadow/matched"),
        number("shadow/false_alarms"),
        number("shadow/found"),
        number("shadow/planted"),
        number("shadow/repaired"),
        number("stale_reads"),
        number("dropped_clients"),
        number("client_errors"),
        number("rows_compared"),
        number("lost"),
        number("extra"),
        number("mismatched"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::State;

    fn report() -> Report {
        Report {
            wire: "postgres",
            seconds: 20,
            writes_acked: 1,
            rows_compared: 1,
            reconnects: 9,
            lag_ms_max: 5_000,
            target_outage_s: 5.0,
            kills: 2,
            switches: 5,
            hold_ms_p99: 30.0,
            hold_ms_max: 30.0,
            switched: true,
            backfill: Copied { state: State::Done, rows: 60_110, seconds: 1.5 },
            verify: Compared { state: State::Done, equal: 120_000, ..Compared::default() },
            shadow: Shadowed { compared: 9, matched: 8, planted: 1, found: 1, repaired: 1, ..Shadowed::default() },
            ..Report::default()
        }
    }

    #[test]
    fn it_is_ok_only_if_nothing_is_wrong() {
        assert!(report().judged().ok);
        for wrong in [
            Report { lost: 1, ..report() },
            Report { extra: 1, ..report() },
            Report { mismatched: 1, ..report() },
            Report { client_errors: 1, ..report() },
            Report { writes_acked: 0, ..report() },
            Report { rows_compared: 0, ..report() },
            Report { stale_reads: 1, ..report() },
            Report { dropped_clients: 1, ..report() },
            Report { switched: false, ..report() },
            Report { switches: 0, ..report() },
            Report { backfill: Copied { rows: 0, ..report().backfill }, ..report() },
            Report { backfill: Copied { state: State::Failed, ..report().backfill }, ..report() },
            Report { verify: Compared { missing: 1, ..report().verify }, ..report() },
            Report { verify: Compared { state: State::Failed, ..report().verify }, ..report() },
            Report { verify: Compared::default(), ..report() },
            Report { shadow: Shadowed::default(), ..report() },
            Report { shadow: Shadowed { matched: 0, ..report().shadow }, ..report() },
        ] {
            assert!(!wrong.judged().ok);
        }
    }

    #[test]
    fn a_missing_switch_is_told_from_what_else_may_be_wrong() {
        assert!(!report().judged().only_switch_missing);
        assert!(Report { switches: 0, ..report() }.judged().only_switch_missing);
        assert!(!Report { switches: 0, lost: 1, ..report() }.judged().only_switch_missing);
    }

    #[test]
    fn it_is_not_ok_without_history_or_its_comparison() {
        assert!(!Report { backfill: Copied::default(), ..report() }.judged().ok);
        assert!(!Report { verify: Compared::default(), ..report() }.judged().ok);
    }

    #[test]
    fn the_names_of_the_report_stay() {
        let value = serde_json::to_value(report()).expect("JSON");
        let names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        let stay = "aborted backfill client_errors dropped_clients extra hold_ms_max hold_ms_p99 kills lag_ms_max lost \
                    mismatched ok reconnects rows_compared seconds shadow stale_reads switches target_outage_s verify wire \
                    writes_acked";
        assert_eq!(names, stay.split_whitespace().collect::<Vec<_>>());
    }
}
