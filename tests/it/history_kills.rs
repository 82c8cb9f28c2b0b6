//! Rounds of a backfill that is struck: SIGKILL of tandem, of the target or of the origin, at random moments of all its
//! states, while clients insert, update, delete and re-key rows of the history that is copied. In the end the walk says
//! that it is done, its accounts close, both sides are equal by a comparison without tandem (so nothing that was deleted
//! is back), and clients find what they were told.
//!
//! `TANDEM_HISTORY_KILLS=20` plays more; where blows hit is printed.

use std::collections::BTreeMap;
use std::time::Duration;

use ::tandem::dice::Dice;
use ::tandem::sandbox::{Postgres, Stop};
use serde_json::{Value, json};

use crate::support::history::{self, Churn, HISTORY, ask, counts, ended};
use crate::support::load::{self, Load};
use crate::support::memory::Memory;
use crate::support::stage::Stage;
use crate::support::{rows, sql};

/// Clients of each kind.
const CLIENTS: u32 = 3;
/// Units that the clients with a memory do at least before and after the walk.
const UNITS: u64 = 40;
/// Blows of a round.
const BLOWS: u64 = 3;
/// How long a blow waits for its state before it strikes whatever there is.
const LOOKS: usize = 4_000;

/// Many small chunks, and a mirror that finds its servers again at once.
const CONFIG: &str = "[backfill]\nchunk_rows = 250\nhold = \"25ms\"\nrate = \"3MB\"\n[mirror]\nretry_max = \"200ms\"\n";

fn rounds(few: u64) -> u64 {
    std::env::var("TANDEM_HISTORY_KILLS").map_or(few, |kills| kills.parse().expect("TANDEM_HISTORY_KILLS is a number"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Tandem,
    Target,
    Origin,
}

impl Victim {
    /// Mostly tandem.
    fn of(round: u64) -> Victim {
        [Victim::Tandem, Victim::Target, Victim::Origin, Victim::Tandem][round as usize % 4]
    }

    fn server(self, stage: &mut Stage) -> Option<&mut Postgres> {
        match self {
            Victim::Tandem => None,
            Victim::Target => Some(&mut stage.target),
            Victim::Origin => Some(&mut stage.origin),
        }
    }
}

/// The walk, as a blow finds it.
async fn look(stage: &Stage) -> Value {
    stage.tandem.client().get("/v1/backfill").await.expect("it answers")
}

fn is_over(report: &Value) -> bool {
    ["Done", "Failed", "Cancelled"].iter().any(|state| report["state"] == *state)
}

/// Rounds on the same servers.
struct Game {
    stage: Stage,
    dice: Dice,
    told: Memory,
    hits: BTreeMap<(Victim, String), u64>,
}

impl Game {
    async fn new(seed: u64) -> Game {
        let stage = Stage::new(&format!("{}\n{}", history::SCHEMA, load::SCHEMA), CONFIG, &[]).await;
        sql(&stage.origin.url("postgres"), HISTORY).await;
        Game { stage, dice: Dice(seed), told: Memory::default(), hits: BTreeMap::new() }
    }

    async fn round(&mut self, number: u64) {
        let victim = Victim::of(number);
        self.lose_history(number).await;
        let load = Load::start(&self.stage.url(), 1 + number as u32 * CLIENTS, CLIENTS);
        let churn = Churn::begin(&self.stage, u64::from(CLIENTS), number);
        load.more(UNITS).await;
        ask(&self.stage, "backfill", json!({ "tables": tables(), "on_conflict": "overwrite" })).await;
        for _ in 0..BLOWS {
            self.strike(victim).await;
        }
        let report = ended(&self.stage, "backfill").await;
        load.more(UNITS).await;
        let changed = churn.end().await;
        let done = load.stop().await;
        eprintln!("{number}: {victim:?} {} statements on history; {}", changed, report["counts"]);
        assert_eq!((done.refused, done.stale), (Vec::new(), Vec::new()), "{}", self.stage.tandem.log());
        self.told.merge(done.memory);
        self.judge(&report).await;
    }

    /// The target begins with nothing, or with half of it, and some of that changed.
    async fn lose_history(&mut self, number: u64) {
        let all = tables().join(", ");
        let seed = self.dice.below(1_000);
        let script = if number == 0 || self.dice.below(2) == 0 {
            format!("TRUNCATE {all}")
        } else {
            format!(
                "SET session_replication_role = replica;
                DELETE FROM plain WHERE id % 2 = {};
                UPDATE plain SET v = 'vandal' WHERE id % 7 = 0;
                INSERT INTO plain SELECT -i FROM generate_series(1, 50) i;
                DELETE FROM parts WHERE id % 3 = 0;
                DELETE FROM parent WHERE id % 5 = {};
                DELETE FROM notes; DELETE FROM pairs",
                seed % 2,
                seed % 5,
            )
        };
        // Nobody writes now: what is lost was there.
        self.stage.tandem.settled().await;
        sql(&self.stage.target.url("postgres"), &script).await;
    }

    /// Wait for a random moment of the walk, and kill.
    async fn strike(&mut self, victim: Victim) {
        let wanted = ["Copying", "Copying", "Copying", "Verifying", "Verifying", "CatchingUp"];
        let wanted = wanted[self.dice.below(wanted.len() as u64) as usize];
        let share = self.dice.below(100) as f64 / 100.0;
        for _ in 0..LOOKS {
            let report = look(&self.stage).await;
            let there = report["state"] == wanted && report["done"].as_f64() >= Some(share);
            // A state that is behind it does not come again.
            let late = wanted == "Copying" && report["state"] == "Verifying";
            if there || late || is_over(&report) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_micros(self.dice.below(30_000))).await;
        let hit = look(&self.stage).await;
        let away = Duration::from_micros(self.dice.below(200_000));
        let stage = &mut self.stage;
        match victim.server(stage) {
            None => {
                stage.tandem.kill();
                stage.tandem.launch().await;
            }
            Some(server) => tokio::task::block_in_place(|| {
                server.stop(Stop::Kill).expect("it dies");
                std::thread::sleep(away);
                server.start().expect("it comes back");
            }),
        }
        let state = hit["state"].as_str().expect("a word").to_owned();
        *self.hits.entry((victim, state)).or_default() += 1;
    }

    async fn judge(&self, report: &Value) {
        let stage = &self.stage;
        let log = || stage.tandem.log();
        assert_eq!(report["state"], "Done", "{report:#}\n{}", log());
        let [read, equal, missing, extra, different, skipped] = counts(report);
        assert_eq!(read, equal + missing + extra + different + skipped, "{report:#}");
        assert_eq!(report["counts"]["repaired"], missing + extra + different, "{report:#}\n{}", log());
        stage.assert_equal(&tables().iter().map(String::as_str).collect::<Vec<_>>()).await;
        for (side, server) in [("origin", &stage.origin), ("target", &stage.target)] {
            self.told.assert_kept(side, &server.url("postgres"), load::OWNED).await;
        }
    }
}

/// Qualified.
fn tables() -> Vec<String> {
    history::TABLES.iter().chain(load::TABLES).map(|name| format!("public.{name}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_ends_equal_whoever_is_killed_whenever_promises_8_and_11() {
    let mut game = Game::new(1).await;
    for number in 0..rounds(3) {
        game.round(number).await;
    }
    for ((victim, state), count) in &game.hits {
        eprintln!("{victim:?} was killed in {state}: {count} times");
    }
    assert!(game.hits.keys().any(|(_, state)| state == "Copying"), "{:?}", game.hits);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_target_refuses_are_parked_once_whenever_tandem_is_killed() {
    let mut stage = Stage::new(history::SCHEMA, CONFIG, &[]).await;
    sql(&stage.origin.url("postgres"), HISTORY).await;
    let target = stage.target.url("postgres");
    sql(&target, "ALTER TABLE plain ADD CONSTRAINT picky CHECK (id % 4000 <> 77)").await;
    ask(&stage, "backfill", json!({ "tables": ["public.plain", "public.named"] })).await;
    let mut dice = Dice(2);
    for _ in 0..BLOWS {
        tokio::time::sleep(Duration::from_micros(dice.below(500_000))).await;
        stage.tandem.kill();
        stage.tandem.launch().await;
    }
    let report = ended(&stage, "backfill").await;
    let parked = stage.tandem.client().get("/v1/parked?values=true").await.expect("it answers");
    let keys = parked.as_array().expect("a list").iter().map(|one| one["key"].as_str().expect("shown"));
    let mut keys: Vec<u64> = keys.map(|key| key.parse().expect("a number")).collect();
    keys.sort_unstable();
    assert_eq!(keys, [77, 4_077, 8_077, 12_077, 16_077], "{parked:#}\n{}", stage.tandem.log());
    assert_eq!(counts(&report), [24_000, 23_995, 5, 0, 0, 0], "{report:#}\n{}", stage.tandem.log());
    assert_eq!(rows(&target, "SELECT count(*) FROM plain").await, ["19995"]);
    sql(&target, "ALTER TABLE plain DROP CONSTRAINT picky").await;
    for one in parked.as_array().expect("a list") {
        let request = json!({ "action": "retry", "id": one["id"] });
        stage.tandem.client().post("/v1/parked", &request).await.expect("taken");
    }
    stage.assert_equal(&["plain", "named"]).await;
}
