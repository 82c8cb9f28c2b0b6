//! Clusters of two nodes, of which one hangs, dies or leaves, also around a switch: clients stay, those who come are taken to
//! the other, and nothing that was acknowledged is missing on either side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tandem::sandbox::cassandra::{Cluster, Node, Options, Stop};
use tokio::task::block_in_place;

use crate::journeys_cql::PATIENT;
use crate::support::cassandra::{cluster, make_keyspace, pair, versions};
use crate::support::cql::{ALL, Ask, Cql, Dial, Failure};
use crate::support::tandem::Tandem;

/// Both nodes have some of them.
const CLIENTS: i32 = 8;
/// Of each, in each phase.
const WRITES: i32 = 10;
const SCHEMA: [&str; 3] = [
    "CREATE TABLE plain (k int PRIMARY KEY, v int)",
    "CREATE TABLE counts (k int PRIMARY KEY, n counter)",
    "CREATE TABLE decided (k int PRIMARY KEY, v int)",
];
/// What a node that hangs, or is dead and not known to be, may cost a request: Unavailable, WriteTimeout, ReadTimeout,
/// WriteFailure. A driver tries again; on none of them does it drop the connection.
const PASSING: [i32; 4] = [0x1000, 0x1100, 0x1200, 0x1500];
const UNPREPARED: i32 = 0x2500;

fn dial(keyspace: &str, version: u8) -> Dial {
    Dial { version, keyspace: Some(keyspace.to_owned()), ..Dial::default() }
}

/// As a driver does: again, until it is answered. A lost connection, and an error that is not one of the right kind, panics.
fn until_answered(what: &str, mut attempt: impl FnMut() -> Result<(), Failure>) -> usize {
    for failed in 0..1_000 {
        match attempt() {
            Ok(()) => return failed,
            Err(failure) => assert!(PASSING.contains(&failure.code), "{what}: {failure:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{what}: nobody serves")
}

/// What each client writes and reads in a phase; how often it was told to try again.
fn write(cql: &mut Cql, number: i32, phase: i32) -> usize {
    let mut failed = 0;
    for turn in 0..WRITES {
        let k = (phase * CLIENTS + number) * WRITES + turn;
        let values = [k.into(), turn.into()];
        failed += until_answered(&format!("write {k}"), || insert(cql, &Ask { values: &values, ..Ask::default() }));
        let text = format!("SELECT v FROM plain WHERE k = {k}");
        failed += until_answered(&text, || cql.query(&text, &Ask::default()).map(drop));
    }
    failed
}

/// A node knows only what was prepared on it: whoever is taken to another prepares anew.
fn insert(cql: &mut Cql, ask: &Ask<'_>) -> Result<(), Failure> {
    let statement = cql.prepare("INSERT INTO plain (k, v) VALUES (?, ?)", None)?;
    match cql.execute(&statement.id, &statement.metadata_id, ask) {
        Err(failure) if failure.code == UNPREPARED => insert(cql, ask),
        answer => answer.map(drop),
    }
}

/// What needs both nodes.
fn decide(cql: &mut Cql, number: i32, phase: i32) {
    for turn in 0..WRITES {
        let k = (phase * CLIENTS + number) * WRITES + turn;
        assert!(cql.run(&format!("INSERT INTO decided (k, v) VALUES ({k}, {turn}) IF NOT EXISTS")).applied());
        cql.run(&format!("UPDATE counts SET n = n + {turn} WHERE k = {}", number % 3));
    }
}

fn each(clients: &mut [Cql], work: impl Fn(&mut Cql, i32) -> usize + Sync) -> usize {
    let work = &work;
    thread::scope(|scope| {
        let all: Vec<_> = clients.iter_mut().zip(0..).map(|(cql, n)| scope.spawn(move || work(cql, n))).collect();
        all.into_iter().map(|one| one.join().expect("no connection was lost")).sum()
    })
}

fn cells(node: &Node, keyspace: &str) -> Vec<Vec<String>> {
    let mut cql = Cql::of(node, keyspace);
    let asked =
        ["SELECT k, v, writetime(v) FROM plain", "SELECT k, n FROM counts", "SELECT k, v, writetime(v) FROM decided"];
    let ask = Ask { consistency: ALL, ..Ask::default() };
    asked
        .map(|text| {
            let mut rows = cql.query(text, &ask).expect("rows").rows().lines();
            rows.sort_unstable();
            rows
        })
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_or_dies_takes_no_client_with_it_while_another_serves() {
    let mut origin = cluster(&versions().0, 2, &Options::default());
    let target = pair()[1];
    make_keyspace(&origin.nodes[0], "failover", 2);
    make_keyspace(target, "failover", 1);
    for node in [&origin.nodes[0], target] {
        SCHEMA.into_iter().for_each(|text| Cql::of(node, "failover").define(text));
    }
    // Only one is named; the other is found.
    let tandem = Tandem::start_cql(origin.contact(), target.address(), "").await;
    let mut clients: Vec<Cql> = (0..CLIENTS)
        .map(|n| Cql::dial(tandem.address(), &dial("failover", 3 + (n % 3) as u8)).expect("a login"))
        .collect();
    let decided = |cql: &mut Cql, n, phase| {
        decide(cql, n, phase);
        write(cql, n, phase)
    };
    assert_eq!(each(&mut clients, |cql, n| decided(cql, n, 0)), 0, "{}", tandem.log());

    // The one that was named, with tandem's own connections to it.
    origin.nodes[0].freeze();
    // Those who come before it is known to hang are taken there first, in turn.
    let come = || Cql::dial(tandem.address(), &dial("failover", 4)).expect("who comes at once is taken to the other");
    let hung = thread::scope(|scope| {
        let come = scope.spawn(|| [come(), come()]);
        let hung = each(&mut clients, |cql, n| write(cql, n, 1));
        come.join().expect("each is let in");
        hung
    });
    let mut late = Cql::dial(tandem.address(), &dial("failover", 5)).expect("who comes now is taken to the other");
    write(&mut late, 0, 2);
    origin.nodes[0].thaw();
    origin.settle().expect("both are up");

    origin.nodes[1].stop(Stop::Kill).expect("it dies");
    let dead = each(&mut clients, |cql, n| write(cql, n, 3));
    let mut later = Cql::dial(tandem.address(), &dial("failover", 4)).expect("who comes now is taken to the other");
    write(&mut later, 0, 4);
    origin.nodes[1].start().expect("it comes back");
    origin.settle().expect("both are up");
    eprintln!("tried again: {hung} times while one hung, {dead} while one was dead");

    assert_eq!(each(&mut clients, |cql, n| decided(cql, n, 5)), 0, "{}", tandem.log());
    tandem.settled().await;
    let (there, here) = (cells(&origin.nodes[0], "failover"), cells(target, "failover"));
    assert_eq!(there, here, "{}", tandem.log());
    let written = (CLIENTS * 4 + 2) * WRITES;
    assert_eq!(here[0].len(), written as usize);
    assert!(!tandem.metrics().await.contains("tandem_ballots_unread_total"), "{}", tandem.metrics().await);
}

/// Clients that write, read what they wrote, and never stop by themselves.
struct Crowd {
    clients: Vec<Cql>,
    /// How many rows each has written.
    done: Vec<i32>,
}

impl Crowd {
    fn of(tandem: &Tandem, keyspace: &str) -> Crowd {
        let client = |n| Cql::dial(tandem.address(), &dial(keyspace, 3 + (n % 3) as u8)).expect("a login");
        Crowd { clients: (0..CLIENTS).map(client).collect(), done: vec![0; CLIENTS as usize] }
    }

    /// They go on while `what` is done, and each for a few rows at least. `unit` is one of a client's, with its number and that of the row.
    async fn meanwhile<T>(&mut self, unit: fn(&mut Cql, i32, i32), what: impl Future<Output = T>) -> T {
        let over = Arc::new(AtomicBool::new(false));
        let (mut clients, mut done, told) = (std::mem::take(&mut self.clients), self.done.clone(), over.clone());
        let working = tokio::task::spawn_blocking(move || {
            thread::scope(|scope| {
                for ((cql, count), number) in clients.iter_mut().zip(&mut done).zip(0..) {
                    let told = &told;
                    scope.spawn(move || {
                        let least = *count + WRITES;
                        while *count < least || !told.load(Ordering::Relaxed) {
                            unit(cql, number, *count);
                            *count += 1;
                            thread::sleep(Duration::from_millis(50));
                        }
                    });
                }
            });
            (clients, done)
        });
        let came = what.await;
        over.store(true, Ordering::Relaxed);
        (self.clients, self.done) = working.await.expect("no connection was lost");
        came
    }
}

/// A row of a client's own, which it finds again.
fn plain(cql: &mut Cql, number: i32, count: i32) {
    let k = count * CLIENTS + number;
    let values = [k.into(), count.into()];
    until_answered(&format!("write {k}"), || insert(cql, &Ask { values: &values, ..Ask::default() }));
    let text = format!("SELECT v FROM plain WHERE k = {k}");
    until_answered(&text, || cql.query(&text, &Ask::default()).map(drop));
}

/// What needs all nodes, too.
fn whole(cql: &mut Cql, number: i32, count: i32) {
    plain(cql, number, count);
    let k = count * CLIENTS + number;
    for text in [
        format!("INSERT INTO decided (k, v) VALUES ({k}, {count}) IF NOT EXISTS"),
        format!("UPDATE counts SET n = n + 1 WHERE k = {number}"),
    ] {
        // Not again: nobody knows what became of it, and both sides must agree on that too.
        if let Err(failure) = cql.query(&text, &Ask::default()) {
            assert!(PASSING.contains(&failure.code), "{text}: {failure:?}");
        }
    }
}

/// An old cluster of two nodes, a new one of three, which serves whole without one, and tandem, which is told of one node of each.
async fn clusters() -> ([Cluster; 2], Tandem) {
    let (old, new) = versions();
    let clusters = thread::scope(|scope| {
        let new = scope.spawn(move || cluster(&new, 3, &Options::default()));
        [cluster(&old, 2, &Options::default()), new.join().expect("a cluster")]
    });
    for cluster in &clusters {
        make_keyspace(&cluster.nodes[0], "failover", cluster.nodes.len());
        SCHEMA.into_iter().for_each(|text| Cql::of(&cluster.nodes[0], "failover").define(text));
    }
    let [origin, target] = clusters.each_ref().map(Cluster::contact);
    let tandem = Tandem::start_cql(origin, target, PATIENT).await;
    (clusters, tandem)
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_switched_there_and_back_while_a_node_is_dead_and_no_client_goes() {
    let ([origin, mut target], tandem) = clusters().await;
    let mut crowd = Crowd::of(&tandem, "failover");
    crowd.meanwhile(whole, tandem.switch_to("target")).await;
    crowd
        .meanwhile(whole, async {
            target.nodes[0].stop(Stop::Kill).expect("it dies");
            tandem.switch_to("origin").await;
        })
        .await;
    crowd.meanwhile(whole, async {}).await;
    target.nodes[0].start().expect("it comes back");
    target.settle().expect("all are up");
    crowd.meanwhile(whole, async {}).await;
    tandem.settled().await;
    let (there, here) = (cells(&origin.nodes[0], "failover"), cells(&target.nodes[0], "failover"));
    assert_eq!(there, here, "{}", tandem.log());
    assert_eq!(here[0].len(), crowd.done.iter().sum::<i32>() as usize);
}

/// The one that was named in the configuration, while clients work, half of them on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_its_cluster_for_good_and_no_client_goes_with_it() {
    const KEYSPACE: &str = "failover_left";
    let origin = cluster(&versions().0, 2, &Options { tools: true, ..Options::default() });
    let target = pair()[1];
    for node in [&origin.nodes[0], target] {
        make_keyspace(node, KEYSPACE, 1);
        SCHEMA.into_iter().for_each(|text| Cql::of(node, KEYSPACE).define(text));
    }
    let tandem = Tandem::start_cql(origin.contact(), target.address(), PATIENT).await;
    let mut crowd = Crowd::of(&tandem, KEYSPACE);
    crowd.meanwhile(plain, async {}).await;
    let left = crowd.meanwhile(plain, async { block_in_place(|| origin.nodes[0].decommission()) }).await;
    left.expect("it leaves");
    crowd.meanwhile(plain, async {}).await;
    let mut late = Cql::dial(tandem.address(), &dial(KEYSPACE, 5)).expect("who comes now is taken to the other");
    plain(&mut late, 0, 100_000);
    tandem.settled().await;
    let (there, here) = (cells(&origin.nodes[1], KEYSPACE), cells(target, KEYSPACE));
    assert_eq!(there, here, "{}", tandem.log());
    assert_eq!(here[0].len(), crowd.done.iter().sum::<i32>() as usize + 1);
}
