//! Lightweight transactions through tandem, among plain writes: both sides have the same cells with the same times, also of
//! what was deleted and shows nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tandem::dice::Dice;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Ask, Cql, Dial, LOGGED, Member};
use crate::support::line::Line;
use crate::support::tandem::Tandem;
use crate::support::until;

const SCHEMA: &str =
    "CREATE TABLE decided (k int, c int, s int static, v int, w text, m map<int, int>, PRIMARY KEY (k, c))";
const CELLS: &str = "SELECT k, c, s, v, w, m, writetime(s), writetime(v), writetime(w) FROM decided";

fn micros() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()).expect("63 bits")
}

fn through(tandem: &Tandem, keyspace: &str) -> Cql {
    let dial = Dial { version: 5, keyspace: Some(keyspace.to_owned()), ..Dial::default() };
    Cql::dial(tandem.address(), &dial).expect("a login")
}

/// Conditional and plain writes of a few rows. `style`: no timestamp, the client's, or one of a clock that is late.
fn writes(mut cql: Cql, style: u64, seed: u64, (applied, done): (&AtomicUsize, &AtomicBool)) {
    let mut dice = Dice(seed);
    let mut turn = 0;
    while !done.load(SeqCst) {
        turn += 1;
        let (k, c, n) = (dice.below(4), dice.below(3), seed * 100_000 + turn);
        let row = format!("WHERE k = {k} AND c = {c}");
        let at = match style {
            0 => None,
            1 => Some(micros()),
            _ => Some(micros() - 30_000),
        };
        let ask = Ask { at, ..Ask::default() };
        let text = match dice.below(14) {
            0 => format!("INSERT INTO decided (k, c, v, w) VALUES ({k}, {c}, {n}, 'i{n}') IF NOT EXISTS"),
            1 => format!("INSERT INTO decided (k, c, v) VALUES ({k}, {c}, {n}) IF NOT EXISTS USING TTL 5000"),
            2 | 3 => format!("DELETE FROM decided {row} IF EXISTS"),
            4 => format!("DELETE v, m FROM decided {row} IF EXISTS"),
            5 => format!("UPDATE decided SET v = {n}, w = null {row} IF EXISTS"),
            6 => format!("UPDATE decided SET m = {{1: {n}}}, w = 'u{n}' {row} IF v != {n}"),
            7 => format!("UPDATE decided SET s = {n} WHERE k = {k} IF s != {n}"),
            8 => format!(
                "BEGIN BATCH DELETE FROM decided WHERE k = {k}; \
                 INSERT INTO decided (k, c, v) VALUES ({k}, {c}, {n}) IF NOT EXISTS; \
                 UPDATE decided SET w = 'b{n}' WHERE k = {k} AND c = 1; APPLY BATCH"
            ),
            9 => {
                let members = [
                    Member::Text(
                        "UPDATE decided SET v = ? WHERE k = ? AND c = ? IF EXISTS",
                        &[n as i32, k as i32, c as i32].map(Into::into),
                    ),
                    Member::Text("DELETE FROM decided WHERE k = ? AND c > ?", &[k as i32, 1].map(Into::into)),
                    Member::Text("DELETE w FROM decided WHERE k = ? AND c = ?", &[k as i32, c as i32].map(Into::into)),
                ];
                applied.fetch_add(usize::from(cql.batch(LOGGED, &members, &ask).expect("an answer").applied()), SeqCst);
                continue;
            }
            10 => format!("DELETE FROM decided {row}"),
            11 => format!("INSERT INTO decided (k, c, v) VALUES ({k}, {c}, {n})"),
            _ => format!("UPDATE decided SET v = {n}, w = 'p{n}', m[{c}] = {n} {row}"),
        };
        let answer = cql.query(&text, &ask).unwrap_or_else(|failure| panic!("{text}: {failure:?}"));
        if text.contains(" IF ") {
            applied.fetch_add(usize::from(answer.applied()), SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_and_plain_writes_of_many_clients_end_with_the_same_cells_and_times() {
    let nodes = pair_with("decided");
    nodes.iter().for_each(|node| Cql::of(node, "decided").define(SCHEMA));
    let line = Line::to(nodes[1].address());
    let tandem = Tandem::start_cql(nodes[0].address(), line.address, "").await;
    let (applied, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (1..=6)
        .map(|seed| {
            let (cql, applied, done) = (through(&tandem, "decided"), applied.clone(), done.clone());
            thread::spawn(move || writes(cql, seed % 3, seed, (&applied, &done)))
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        line.cut();
        tokio::time::sleep(Duration::from_millis(700)).await;
        line.mend();
    }
    // As long as it takes on a machine that does much else.
    let enough = until(async || (applied.load(SeqCst) > 100).then_some(())).await;
    done.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    tandem.settled().await;
    let [old, new] = nodes.map(|node| Cql::of(node, "decided").rows(CELLS).into_iter().collect::<BTreeSet<_>>());
    assert_eq!(old.difference(&new).collect::<Vec<_>>(), new.difference(&old).collect::<Vec<_>>(), "{}", tandem.log());
    assert!(enough.is_some() && !old.is_empty(), "{applied:?} applied prove little");
    let unread = tandem.metrics().await;
    let unread: Vec<&str> = unread.lines().filter(|line| line.starts_with("tandem_ballots_unread_total")).collect();
    eprintln!("{applied:?} applied, {} rows, {unread:?}", old.len());
    assert_eq!(unread, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_conditional_delete_deleted_stays_deleted_whatever_is_replayed_behind_it() {
    let nodes = pair_with("undone");
    nodes.iter().for_each(|node| Cql::of(node, "undone").define(SCHEMA));
    let line = Line::to(nodes[1].address());
    let tandem = Tandem::start_cql(nodes[0].address(), line.address, "").await;
    let mut cql = through(&tandem, "undone");
    line.cut();
    let before = micros() - 1_000_000;
    for k in 0..50 {
        cql.run(&format!("INSERT INTO decided (k, c, v) VALUES ({k}, 1, 1)"));
        assert!(cql.run(&format!("DELETE FROM decided WHERE k = {k} AND c = 1 IF EXISTS")).applied());
        // Late, and dead on the primary.
        cql.run_at(&format!("INSERT INTO decided (k, c, v) VALUES ({k}, 1, 2)"), before + k);
        cql.run_at(&format!("UPDATE decided SET s = 3 WHERE k = {k}"), before + k);
    }
    line.mend();
    tandem.settled().await;
    let [old, new] = nodes.map(|node| Cql::of(node, "undone").rows(CELLS));
    assert_eq!(old, new);
    // And what comes later meets on both sides what was deleted.
    for node in nodes {
        let mut cql = Cql::of(node, "undone");
        (0..50)
            .for_each(|k| drop(cql.run_at(&format!("UPDATE decided SET v = 9 WHERE k = {k} AND c = 1"), before + 50)));
        assert!(cql.rows("SELECT v FROM decided WHERE v = 9 ALLOW FILTERING").is_empty());
    }
}

/// Both sides have a table of the same name, and each an id of its own for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_was_seen_before_a_switch_has_its_ballots_read_where_it_was_decided() {
    let nodes = pair_with("moved");
    nodes.iter().for_each(|node| Cql::of(node, "moved").define(SCHEMA));
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let mut cql = through(&tandem, "moved");
    for (turn, side) in [None, Some("target"), Some("origin")].into_iter().enumerate() {
        if let Some(side) = side {
            tandem.switch_to(side).await;
        }
        // As drivers do when a server does not know a statement any more.
        let text = "UPDATE decided SET v = ? WHERE k = 1 AND c = 1 IF v != ?";
        let prepared = cql.prepare(text, None).expect("prepared");
        for v in 0..5 {
            let value = || (10 * turn as i32 + v).into();
            let values = [value(), value()];
            let ask = Ask { values: &values, ..Ask::default() };
            let answer = cql.execute(&prepared.id, &prepared.metadata_id, &ask).expect("an answer");
            assert!(answer.applied());
        }
    }
    tandem.settled().await;
    let [old, new] = nodes.map(|node| Cql::of(node, "moved").rows(CELLS));
    assert_eq!(old, new);
    assert!(!tandem.metrics().await.contains("tandem_ballots_unread_total"), "{}", tandem.metrics().await);
}

/// How the server makes bytes of such a literal tandem does not know: which partition that is it cannot tell.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_between_conditional_and_plain_writes_whose_partition_only_the_server_can_tell() {
    let nodes = pair_with("untold");
    for node in nodes {
        Cql::of(node, "untold").define("CREATE TABLE times (at timestamp PRIMARY KEY, v int)");
    }
    let tandem = Tandem::start_cql(nodes[0].address(), nodes[1].address(), "").await;
    let mut cql = through(&tandem, "untold");
    let [as_text, as_number] = ["'2026-01-01 00:00:00+0000'", "1767225600000"];
    let mut lost = Vec::new();
    for turn in 0..200 {
        let [plain, conditional] = if turn % 2 == 0 { [as_text, as_number] } else { [as_number, as_text] };
        let [before, after] = [2 * turn + 1, 2 * turn + 2];
        cql.run(&format!("INSERT INTO times (at, v) VALUES ({plain}, {before})"));
        let update = format!("UPDATE times SET v = {after} WHERE at = {conditional} IF v = {before}");
        let applied = cql.run(&update).applied();
        if !applied || cql.rows("SELECT v FROM times") != [after.to_string()] {
            lost.push(turn);
        }
    }
    assert_eq!(lost, [0; 0]);
}
