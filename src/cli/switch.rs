//! `tandem switch`: asks the running tandem to walk, watches it, and says how it went.
//!
//! The walk is the server's: whether this command lives or dies changes nothing but what somebody reads. Ctrl-C asks the
//! server to abort, and waits for its answer, because only it knows whether the flip came first.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::{Admin, Failure, Output, findings, shadow};
use crate::admin::client::{self, Client};
use crate::check::Severity;
use crate::config::{MAX_HOLD, value::Setting};
use crate::cutover::report::{End, Ended, Finding, Phase, Report, Request};
use crate::record::Side;

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem switch target --dry-run              what stands in the way? No client notices it
  tandem switch target                        the target answers clients, the origin follows
  tandem switch target --max-hold 2s --yes    hold clients no longer than 2 s; do not ask
  tandem switch target --ignore NAME,..       findings that are no reason to refuse
  tandem switch status                        where a switch is, and how the last one ended
  tandem switch abort                         back to as it was, as long as it has not flipped
  tandem switch origin                        the way back: the same walk the other way
  tandem switch target --force                the origin is gone for good: go on without it

Clients are held while the other side catches up, and never longer than --max-hold: past it the
switch ends by itself, and they go on as before. Ctrl-C aborts. Their connections stay.
docs/switch.md walks through the night and says what each finding means.

Exit codes: 0 switched, or a dry run found nothing; 1 refused or aborted, and all is as before, or
a dry run found warnings that are not ignored; 2 usage; 3 tandem could not be reached, so that
`tandem switch status` has to tell.";

/// How often a walk is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a tandem that stopped answering may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Switch {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The target shall answer clients; the origin follows.
    #[command(after_help = EXAMPLES)]
    Target(Walk),
    /// The origin shall answer clients again; the target follows.
    #[command(after_help = EXAMPLES)]
    Origin(Walk),
    /// Where a switch is, and how the last one ended.
    Status(Admin),
    /// End the switch that is under way, before its flip.
    Abort(Admin),
}

#[derive(Debug, Args)]
struct Walk {
    /// Look for what stands in the way, and touch no client and no row.
    #[arg(long)]
    dry_run: bool,
    /// Hold clients no longer than this; unset, cutover.max_hold.
    #[arg(long, value_name = "DURATION", value_parser = hold)]
    max_hold: Option<Duration>,
    /// Names of findings that are no reason to refuse.
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    ignore: Vec<String>,
    /// The old primary is gone for good: switch without it. Lists what is lost with it, and asks.
    #[arg(long)]
    force: bool,
    /// With --force: so many keys may be lost; nobody is asked then.
    #[arg(long, value_name = "KEYS", requires = "force")]
    lose: Option<u64>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    admin: Admin,
}

fn hold(text: &str) -> Result<Duration, String> {
    let hold = Duration::from_text(text).ok_or_else(|| format!("it must be {}", Duration::EXPECTS))?;
    let within = (MAX_HOLD.0..=MAX_HOLD.1).contains(&hold);
    within.then_some(hold).ok_or_else(|| "it must be between 100ms and 60s".to_owned())
}

pub(super) async fn run(command: Switch, output: &Output) -> Result<(), Failure> {
    match command.action {
        Action::Target(walk) => switch(Side::Target, walk, output).await,
        Action::Origin(walk) => switch(Side::Origin, walk, output).await,
        Action::Status(admin) => {
            let report = report(&admin.client()?).await?;
            output.print(&json(&report), |_| standing(&report));
            Ok(())
        }
        Action::Abort(admin) => abort(&admin.client()?, output).await,
    }
}

async fn switch(to: Side, walk: Walk, output: &Output) -> Result<(), Failure> {
    let client = walk.admin.client()?;
    let before = report(&client).await?;
    let force = if walk.force { Some(may_lose(to, &walk, &client, output).await?) } else { None };
    let question = format!("clients will be held for a moment, and then {to} answers them: go on?");
    if !walk.dry_run && !walk.yes && !walk.force && before.primary != to && !output.confirm(&question) {
        return Err(Failure::Refused("nothing was done".to_owned()));
    }
    let request = Request {
        to,
        dry_run: walk.dry_run,
        max_hold_ms: walk.max_hold.map(|hold| hold.as_millis() as u64),
        ignore: walk.ignore,
        force,
    };
    // From here on Ctrl-C is ours.
    let interrupts = interrupts();
    let begun: Report = match client.post("/v1/switch", &json(&request)).await {
        Err(error @ client::Error::Unreachable { .. }) => begun_unheard(&client, &before, to, &error).await?,
        answer => parse(answer?)?,
    };
    let ended = match Watch::new(&client, output, &begun).until_over(interrupts).await? {
        Over::Ended(ended) => *ended,
        Over::Flipped(report) => {
            output.print(&json(&report), |_| flipped(&report));
            return Ok(());
        }
    };
    let reads = if walk.dry_run { shadow::words(&client).await } else { None };
    output.print(&json(&ended), |_| match &reads {
        Some(reads) => format!("{}\n{reads}", result(&ended).trim_end()),
        None => result(&ended),
    });
    verdict(&ended)
}

/// The walk of a request whose answer was lost on its way, told from outside.
async fn begun_unheard(client: &Client, before: &Report, to: Side, error: &client::Error) -> Result<Report, Failure> {
    let report = look(client).await?;
    let last = report.last.as_ref().filter(|last| last.number == report.number);
    if report.number > before.number && report.to.or(last.map(|last| last.request.to)) == Some(to) {
        return Ok(Report { primary: before.primary, epoch: before.epoch, ..report });
    }
    Err(Failure::Unreachable(format!(
        "{error}. Whether the switch began is not known: `tandem switch status` tells, `tandem switch abort` ends it"
    )))
}

/// How many keys may be lost with the old primary: what was given, or what somebody types who has seen the list.
async fn may_lose(to: Side, walk: &Walk, client: &Client, output: &Output) -> Result<u64, Failure> {
    if let Some(lose) = walk.lose {
        return Ok(lose);
    }
    let request = Request { to, dry_run: true, max_hold_ms: None, ignore: Vec::new(), force: Some(0) };
    let begun: Report = parse(client.post("/v1/switch", &json(&request)).await?)?;
    let ended = Watch::new(client, output, &begun).until_ended(interrupts()).await?;
    let more = ended.findings.iter().find(|finding| finding.name == "more_keys_lost");
    if more.is_none() && ended.end == End::Refused && !walk.dry_run {
        output.tell(&findings::text(&ended.findings));
        return Err(Failure::Refused("the switch is refused, with and without --force: see above".to_owned()));
    }
    let owed = more.and_then(|more| more.object.split(' ').next()?.parse().ok()).unwrap_or(0);
    if walk.dry_run {
        return Ok(owed);
    }
    output.tell(&findings::text(&ended.findings));
    let words = format!("lose {owed} keys");
    let from = to.other();
    let question = format!("{from} is given up for good, and with it what is above. Type \"{words}\" to go on: ");
    let typed = tokio::select! {
        typed = output.typed(&question) => typed,
        // Whoever watched the walk has caught it: it no longer ends the process.
        _ = tokio::signal::ctrl_c() => None,
    };
    if typed.as_deref() == Some(&*words) {
        return Ok(owed);
    }
    Err(Failure::Refused(format!("nothing was done; --lose {owed} says it without being asked")))
}

async fn abort(client: &Client, output: &Output) -> Result<(), Failure> {
    let asked: Report = parse(client.post("/v1/switch/abort", &Value::Null).await?)?;
    let ended = Watch::new(client, output, &asked).until_ended(interrupts()).await?;
    output.print(&json(&ended), |_| result(&ended));
    match ended.end {
        End::Aborted | End::Refused => Ok(()),
        End::Switched | End::Ready => Err(Failure::Refused("too late: it had ended by itself".to_owned())),
    }
}

/// Each Ctrl-C. Once asked for, it no longer ends the process; where it cannot be caught, it goes on to.
fn interrupts() -> impl Stream<Item = ()> + Unpin {
    let caught = signal(SignalKind::interrupt()).ok();
    stream::iter(caught).flat_map(|signal| {
        Box::pin(stream::unfold(signal, |mut signal| async move { signal.recv().await.map(|()| ((), signal)) }))
    })
}

/// What became of a walk.
#[derive(Debug)]
enum Over {
    Ended(Box<Ended>),
    /// The process that walked is gone behind its flip: this says its successor.
    Flipped(Box<Report>),
}

/// One walk, seen from outside.
struct Watch<'a> {
    client: &'a Client,
    output: &'a Output,
    /// The walk's number.
    number: u64,
    /// Who answered clients before it, and since which epoch.
    before: (Side, u64),
    phase: Phase,
    since: Instant,
    /// It was asked to abort.
    aborted: bool,
}

impl<'a> Watch<'a> {
    fn new(client: &'a Client, output: &'a Output, begun: &Report) -> Watch<'a> {
        let before = (begun.primary, begun.epoch);
        Watch {
            client,
            output,
            number: begun.number,
            before,
            phase: Phase::Steady,
            since: Instant::now(),
            aborted: false,
        }
    }

    /// Of a walk that nobody lets flip.
    async fn until_ended(self, interrupts: impl Stream<Item = ()> + Unpin) -> Result<Ended, Failure> {
        match self.until_over(interrupts).await? {
            Over::Ended(ended) => Ok(*ended),
            Over::Flipped(report) => Err(Failure::Refused(flipped(&report))),
        }
    }

    async fn until_over(mut self, mut interrupts: impl Stream<Item = ()> + Unpin) -> Result<Over, Failure> {
        loop {
            let report = tokio::select! {
                report = look(self.client) => report?,
                Some(()) = interrupts.next() => {
                    self.interrupted().await?;
                    continue;
                }
            };
            let last = report.last.as_ref().map_or(0, |last| last.number);
            if let Some(ended) = report.last.clone().filter(|_| last == self.number) {
                // What follows the end (the old primary is told, or what was done is undone) needs no watching.
                self.output.hint("");
                return Ok(Over::Ended(Box::new(ended)));
            }
            if report.number < self.number {
                let (primary, epoch) = self.before;
                let has_flipped = report.primary != primary && report.epoch > epoch;
                return if has_flipped { Ok(Over::Flipped(Box::new(report))) } else { Err(restarted(&report)) };
            }
            if last > self.number {
                return Err(Failure::Refused(format!(
                    "another switch was asked for since, and how this one ended is not known any more: {} answers clients \
                     (epoch {}); see `tandem switch status`",
                    report.primary, report.epoch
                )));
            }
            self.show(report.phase);
            tokio::select! {
                Some(()) = interrupts.next() => self.interrupted().await?,
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Where somebody watches a terminal, a line that counts; else a line for each phase.
    fn show(&mut self, phase: Phase) {
        let line = format!("{:<10} {}", phase.as_str(), about(phase));
        if std::mem::replace(&mut self.phase, phase) != phase {
            self.since = Instant::now();
            self.output.tell(&line);
        }
        self.output.hint(&format!("  {} {:.1} s", phase.as_str(), self.since.elapsed().as_secs_f64()));
    }

    /// The first Ctrl-C asks the server, the second leaves it alone.
    async fn interrupted(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.aborted, true) {
            let left = "left while the switch goes on: `tandem switch status` says how it ends";
            return Err(Failure::Refused(left.to_owned()));
        }
        match self.client.post("/v1/switch/abort", &Value::Null).await {
            Ok(_) => self.output.tell("asked tandem to abort; waiting for what it says"),
            Err(error) => self.output.tell(&format!("{error}; waiting for the end")),
        }
        Ok(())
    }
}

/// The report; a tandem that does not answer gets some time to come back.
async fn look(client: &Client) -> Result<Report, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.get("/v1/switch").await {
            Err(client::Error::Unreachable { .. }) if Instant::now() < deadline => sleep(LOOK).await,
            Err(error @ client::Error::Unreachable { .. }) => {
                return Err(Failure::Unreachable(format!(
                    "{error}; what the switch made durable decides when tandem starts again: see `tandem switch status`"
                )));
            }
            answer => return parse(answer?),
        }
    }
}

/// The process that walked is gone, and what it made durable is that it switched.
fn flipped(report: &Report) -> String {
    format!("switched: {} answers clients (epoch {}); tandem was started again meanwhile", report.primary, report.epoch)
}

/// The process that walked is gone; its successor has undone the walk.
fn restarted(report: &Report) -> Failure {
    Failure::Refused(format!(
        "tandem was started again during the switch: {} answers clients now (epoch {}); see `tandem switch status`",
        report.primary, report.epoch
    ))
}

async fn report(client: &Client) -> Result<Report, Failure> {
    parse(client.get("/v1/switch").await?)
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::Refused(format!("the answer is of another version of tandem: {error}")))
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("our own types are JSON")
}

/// What a phase does, for who waits for it.
fn about(phase: Phase) -> &'static str {
    match phase {
        Phase::Steady => "no switch is under way",
        Phase::Preparing => "looking for what stands in the way; clients go on",
        Phase::Draining => "clients are held; transactions end",
        Phase::Applying => "clients are held; the other side catches up",
        Phase::Verifying => "clients are held; the newest rows are compared",
        Phase::Readying => "clients are held; sequences and the way back are made ready",
        Phase::Flipping => "clients are held; the switch is made durable",
        Phase::Settling => "clients run on the new primary; the old one is told",
        Phase::Undoing => "clients run as before; what was prepared is undone",
    }
}

/// `tandem switch status`.
fn standing(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<10} {}", "primary", report.primary);
    let _ = writeln!(out, "{:<10} {}", "epoch", report.epoch);
    let to = report.to.map(|to| format!(", to {to}")).unwrap_or_default();
    let _ = writeln!(out, "{:<10} {}{to}: {}", "phase", report.phase.as_str(), about(report.phase));
    if let Some(ended) = &report.last {
        let _ = write!(out, "\nthe last switch:\n{}", result(ended));
        // Who asked for it may have been told, and their terminal be gone.
        if let Some(why) = &ended.why {
            let _ = writeln!(out, "why: {why}");
        }
    }
    out
}

/// How a walk went: findings, phases with their times, and the end.
fn result(ended: &Ended) -> String {
    let is_ignored = |finding: &Finding| ended.request.ignore.contains(&finding.name);
    let (ignored, mut found): (Vec<_>, Vec<_>) = ended.findings.iter().cloned().partition(is_ignored);
    findings::sort(&mut found);
    let mut out = findings::text(&found);
    let ignored: BTreeSet<String> = ignored.into_iter().map(|finding| finding.name).collect();
    for name in ignored {
        let _ = writeln!(out, "ignored: {name}");
    }
    for (phase, us) in &ended.took_us {
        let _ = writeln!(out, "{:<10} {}", phase.as_str(), time(*us));
    }
    for hindrance in &ended.hindrances {
        let _ = writeln!(out, "in the way: {hindrance}");
    }
    let _ = writeln!(out, "{}", last_line(ended));
    out
}

fn last_line(ended: &Ended) -> String {
    let Ended { request: Request { to, .. }, held_us, compared, .. } = ended;
    let from = to.other();
    match ended.end {
        End::Switched => {
            format!(
                "switched: {to} answers clients, {from} follows; held for {}, {compared} rows compared",
                time(*held_us)
            )
        }
        End::Ready if warnings(ended) > 0 => format!("no error stops {to} from taking over: read the warnings"),
        End::Ready => format!("ready: nothing stops {to} from taking over"),
        End::Refused => format!("refused: {from} answers clients as before; nobody was held"),
        End::Aborted => format!("aborted: {from} answers clients as before; held for {}", time(*held_us)),
    }
}

/// What nobody has decided on. They do not stop a switch, and may still mean that rows are missing.
fn warnings(ended: &Ended) -> usize {
    let is_open = |finding: &&Finding| {
        finding.severity == Severity::Warning.as_str() && !ended.request.ignore.contains(&finding.name)
    };
    ended.findings.iter().filter(is_open).count()
}

/// Exit code and the reason, for who reads only the last line.
fn verdict(ended: &Ended) -> Result<(), Failure> {
    let next = match ended.end {
        End::Ready if warnings(ended) > 0 => {
            let why = format!("warnings: {}; mend them, or --ignore them by name: see docs/switch.md", warnings(ended));
            return Err(Failure::Refused(why));
        }
        End::Switched | End::Ready => return Ok(()),
        End::Refused => "mend what is above, or --ignore it by name",
        End::Aborted if !ended.hindrances.is_empty() => "end what is in the way, or give it more time with --max-hold",
        End::Aborted => "all is as before",
    };
    let why = ended.why.as_deref().unwrap_or("findings refuse the switch");
    Err(Failure::Refused(format!("{why}; {next}: see docs/switch.md")))
}

/// Microseconds for people.
fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::run_switch;

    fn ended(end: End) -> Ended {
        Ended {
            number: 1,
            request: Request { to: Side::Target, dry_run: false, max_hold_ms: None, ignore: Vec::new(), force: None },
            end,
            why: None,
            phase: Phase::Draining,
            held_us: 31_500,
            took_us: vec![(Phase::Preparing, 1_250_000), (Phase::Draining, 1_234)],
            compared: 12,
            findings: Vec::new(),
            hindrances: Vec::new(),
        }
    }

    #[test]
    fn a_result_has_a_line_for_each_phase_and_the_held_time() {
        let expected = "preparing  1.25 s\ndraining   1.2 ms\n\
                        switched: target answers clients, origin follows; held for 31 ms, 12 rows compared\n";
        assert_eq!(result(&ended(End::Switched)), expected);
    }

    #[test]
    fn what_would_not_end_is_named_with_what_to_do() {
        let hindrances = vec!["a transaction of pid 7, 12 s old".to_owned()];
        let aborted = Ended { hindrances, why: Some("units did not end".to_owned()), ..ended(End::Aborted) };
        assert!(result(&aborted).contains("in the way: a transaction of pid 7, 12 s old\naborted: origin answers"));
        let said = verdict(&aborted).expect_err("it did not switch").to_string();
        assert!(said.contains("units did not end; end what is in the way, or give it more time"), "{said}");
    }

    #[test]
    fn what_was_ignored_is_named_and_not_explained_again() {
        let finding = |object: &str| Finding {
            name: "strange".to_owned(),
            severity: "error".to_owned(),
            side: None,
            object: object.to_owned(),
            advice: "look at it".to_owned(),
        };
        let mut ended = Ended { findings: vec![finding("a"), finding("b")], ..ended(End::Ready) };
        assert!(result(&ended).starts_with("ERRORS\n  strange: look at it\n"));
        ended.request.ignore = vec!["strange".to_owned()];
        assert!(result(&ended).starts_with("ignored: strange\npreparing"));
    }

    #[test]
    fn only_a_switch_and_a_clean_dry_run_end_with_zero() {
        assert!(verdict(&ended(End::Switched)).is_ok() && verdict(&ended(End::Ready)).is_ok());
        let finding = |severity: &str| {
            let (name, object, advice) = ("history_unknown".to_owned(), "t".to_owned(), "verify".to_owned());
            Finding { name, severity: severity.to_owned(), side: None, object, advice }
        };
        let mut warned = Ended { findings: vec![finding("warning")], ..ended(End::Ready) };
        assert!(result(&warned).ends_with("no error stops target from taking over: read the warnings\n"));
        assert_eq!(verdict(&warned).map_err(|failure| failure.code()), Err(1));
        warned.request.ignore = vec!["history_unknown".to_owned()];
        assert!(verdict(&warned).is_ok(), "somebody decided on it");
        assert!(verdict(&Ended { findings: vec![finding("note")], ..ended(End::Ready) }).is_ok());
        assert!(verdict(&Ended { findings: vec![finding("warning")], ..ended(End::Switched) }).is_ok());
        assert_eq!(verdict(&ended(End::Refused)).map_err(|failure| failure.code()), Err(1));
        assert_eq!(verdict(&ended(End::Aborted)).map_err(|failure| failure.code()), Err(1));
    }

    fn request(to: Side) -> Value {
        json(&Request { to, dry_run: false, max_hold_ms: None, ignore: Vec::new(), force: None })
    }

    /// A walk to the target that waits for its mirror.
    async fn begun(client: &Client) -> Report {
        parse(client.post("/v1/switch", &request(Side::Target)).await.expect("begun")).expect("a report")
    }

    #[tokio::test]
    async fn a_walk_is_watched_until_clients_know_their_side() {
        let (running, pay) = run_switch(None).await;
        let (client, output) = (Client::new(&running.url, None).expect("a URL"), Output::new(true));
        let begun = begun(&client).await;
        pay.notify_one();
        let ended = Watch::new(&client, &output, &begun).until_ended(stream::pending()).await.expect("it ends");
        assert_eq!((ended.end, ended.compared), (End::Switched, 3));
    }

    #[tokio::test]
    async fn ctrl_c_asks_the_server_to_abort_and_waits_for_its_word() {
        let (running, _) = run_switch(None).await;
        let (client, output) = (Client::new(&running.url, None).expect("a URL"), Output::new(true));
        let begun = begun(&client).await;
        let interrupts = stream::iter([()]);
        let ended = Watch::new(&client, &output, &begun).until_ended(interrupts).await.expect("it ends");
        assert_eq!((ended.end, ended.why.as_deref()), (End::Aborted, Some("called off by an operator")));
    }

    #[tokio::test]
    async fn a_second_ctrl_c_leaves_the_switch_alone() {
        let (running, _) = run_switch(None).await;
        let (client, output) = (Client::new(&running.url, None).expect("a URL"), Output::new(true));
        let watch = Watch { aborted: true, ..Watch::new(&client, &output, &begun(&client).await) };
        let left = watch.until_ended(stream::iter([()])).await.expect_err("nobody waits for it");
        assert!(left.to_string().starts_with("left while the switch goes on"), "{left}");
    }

    #[tokio::test]
    async fn a_tandem_that_was_started_again_says_who_answers_now() {
        let (running, _) = run_switch(None).await;
        let (client, output) = (Client::new(&running.url, None).expect("a URL"), Output::new(true));
        // What the process before answered.
        let begun = Report { number: 5, ..begun(&client).await };
        let ended = Watch::new(&client, &output, &begun).until_ended(stream::pending()).await;
        let why = ended.expect_err("its end is not known").to_string();
        assert!(why.contains("started again") && why.contains("origin answers clients now (epoch 1)"), "{why}");
    }

    #[tokio::test]
    async fn a_tandem_that_was_started_again_behind_its_flip_has_switched() {
        let (running, _) = run_switch(None).await;
        let (client, output) = (Client::new(&running.url, None).expect("a URL"), Output::new(true));
        let begun = Report { number: 5, primary: Side::Target, epoch: 0, ..begun(&client).await };
        let over = Watch::new(&client, &output, &begun).until_over(stream::pending()).await.expect("it is known");
        let Over::Flipped(report) = over else { panic!("{over:?}") };
        assert_eq!((report.primary, report.epoch), (Side::Origin, 1));
        assert!(flipped(&report).starts_with("switched: origin answers clients (epoch 1)"));
    }

    #[tokio::test]
    async fn a_watcher_that_missed_the_end_of_its_walk_leaves_when_another_has_ended() {
        let (running, pay) = run_switch(None).await;
        let (client, output) = (Client::new(&running.url, None).expect("a URL"), Output::new(true));
        let begun = begun(&client).await;
        pay.notify_one();
        let watch = Watch { number: 0, ..Watch::new(&client, &output, &begun) };
        let left = watch.until_over(stream::pending()).await.expect_err("walk 1 ended, not walk 0");
        assert!(left.to_string().starts_with("another switch was asked for since"), "{left}");
    }

    #[tokio::test]
    async fn a_switch_whose_answer_was_lost_is_found_and_one_that_never_came_is_said_to() {
        let (running, pay) = run_switch(None).await;
        let client = Client::new(&running.url, None).expect("a URL");
        let lost = client::Error::Unreachable { at: "here".to_owned(), why: "cut".to_owned() };
        let before = report(&client).await.expect("it answers");
        let said = begun_unheard(&client, &before, Side::Target, &lost).await.expect_err("none began");
        assert!(said.code() == 3 && said.to_string().contains("`tandem switch status` tells"), "{said}");
        let number = begun(&client).await.number;
        let found = begun_unheard(&client, &before, Side::Target, &lost).await.expect("it is under way");
        assert_eq!((found.number, found.primary), (number, before.primary));
        pay.notify_one();
    }

    #[test]
    fn a_hold_has_bounds() {
        assert_eq!(hold("2s"), Ok(Duration::from_secs(2)));
        for bad in ["", "5", "99ms", "61s"] {
            assert!(hold(bad).is_err(), "{bad}");
        }
    }
}
