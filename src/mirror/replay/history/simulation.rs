//! The real walk, desk, engine and journal over a primary and a secondary in memory, under seeded schedules and paused
//! time. Clients write and delete by timestamps, and delete in a way that no read shows and only a settlement carries over;
//! a chunk is read, written, and reported at any distance from them; sides fail, before and after their effect; tandem dies
//! anywhere and starts again. In the end both sides are equal, nothing that was deleted is back, and a comparison under load
//! called nothing different that was not (promises 8 and 11). Workers in other processes copy too, are killed, frozen in the middle of a
//! chunk, and outlive tandem. Rules are bent on purpose, and each is caught.
//!
//! Paste a failing seed into [`SEED`] to run it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{By, Compared, Error, History, Suspect, Walker};
use crate::backfill::crew::message::{Copied, Doing, Done, Join, Pair, Seen, Task, Work};
use crate::backfill::crew::{Asked, BEAT, Crew, Lease};
use crate::backfill::lines::Lines;
use crate::backfill::work::{Chunk, Difference, Differs, Extent, Landed, Outcome, Surveyed, Unread};
use crate::backfill::{self, Conflict, Desk, Kind, Report, Request, State};
use crate::dice::Dice;
use crate::journal::storage::MemoryDisk;
use crate::journal::{self, Durability, Journal};
use crate::mirror::Handle;
use crate::mirror::durable::Durable;
use crate::mirror::replay::applier::{self, Applied, Applier, Job};
use crate::mirror::replay::engine::{Config, Engine, Paths};
use crate::record::{Backend, Item, Lane, Order, Reason, RecordBuf, Side, TableId};
use crate::seeds;

/// Paste a failing seed here: `Some(seed)`.
const SEED: Option<u64> = None;
const SEEDS: u64 = 60;

const TABLE: TableId = TableId(1);
/// Where there is another one, something is wrong with it.
const OTHER: TableId = TableId(2);
/// Of it cannot be read.
const UNREAD: u64 = 7;
/// A row is a unit.
const KEYS: u64 = 600;

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bend {
    Straight,
    /// A chunk does not learn what was settled while it was under way.
    Deaf,
    /// What differs is called different at the first look.
    Hasty,
    /// A copy is written with a time of its own, ahead of what clients write for a while.
    Restamps,
}

/// What is wrong with another table, if there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    None,
    /// The secondary refuses its schema changes.
    Refused,
    /// One unit of it cannot be read.
    Unread {
        lasts: bool,
    },
    /// The replicas of the secondary that it is on are away.
    Away,
    /// More of one unit differs than is kept at once, until it is looked at again.
    Crowded,
    /// Nothing any more.
    Well,
}

/// A timestamp, and a value or a tombstone.
type Cell = (u64, Option<u64>);
type Rows = BTreeMap<u64, Cell>;

struct World {
    dice: Dice,
    clock: u64,
    primary: Rows,
    secondary: Rows,
    faults: bool,
    bend: Bend,
    other: Other,
    /// Chunks that are being copied, and the places that were settled meanwhile.
    copies: BTreeMap<u64, (u64, u64, BTreeSet<u64>)>,
    settling: BTreeMap<u64, u64>,
    count: u64,
    copied: u64,
    /// Of the process that runs.
    crew: Option<Crew>,
    /// Chunks that workers did.
    lent: u64,
}

type Shared = Arc<Mutex<World>>;

fn world(shared: &Shared) -> MutexGuard<'_, World> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn roll(&mut self, n: u64) -> u64 {
        self.dice.below(n)
    }

    fn fails(&mut self, percent: u64) -> bool {
        self.faults && self.roll(100) < percent
    }

    fn stands_still(&mut self) -> bool {
        self.faults && self.roll(1_000) == 0
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// The newer wins; at one timestamp, the tombstone.
fn merge(rows: &mut Rows, key: u64, cell: Cell) {
    let held = rows.entry(key).or_insert(cell);
    if cell.0 > held.0 || cell.0 == held.0 && cell.1.is_none() {
        *held = cell;
    }
}

fn live(rows: &Rows, key: u64) -> Option<Cell> {
    rows.get(&key).copied().filter(|cell| cell.1.is_some())
}

struct Hands(Shared);

impl Hands {
    async fn delay(&self, ms: u64) {
        let ms = world(&self.0).roll(ms);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Both sides read one after the other; where only the secondary has a row, it goes, where nobody has it nothing is left.
    async fn settle(&self, key: u64) {
        let number = {
            let mut world = world(&self.0);
            world.count += 1;
            let number = world.count;
            world.settling.insert(number, key);
            number
        };
        let _settling = Settling(self, number, key);
        let theirs = live(&world(&self.0).secondary, key);
        self.delay(4).await;
        let ours = live(&world(&self.0).primary, key);
        self.delay(4).await;
        match (ours, theirs) {
            // What is in the way is outdone: it is nobody's, or the primary would show it too.
            (Some(ours), Some(theirs)) if ours.1 != theirs.1 && theirs.0 >= ours.0 => {
                merge(&mut world(&self.0).secondary, key, (theirs.0 + 1, ours.1));
            }
            (Some(cell), _) => merge(&mut world(&self.0).secondary, key, cell),
            // A settlement's delete leaves what the next compaction takes.
            (None, Some(_)) => drop(world(&self.0).secondary.remove(&key)),
            (None, None) => {}
        }
    }

    fn compare(&self, key: u64, theirs: Option<Cell>, ours: Option<Cell>) -> Option<Suspect> {
        let how = match (ours, theirs) {
            (None, None) => return None,
            (Some(ours), Some(theirs)) if ours.1 == theirs.1 => return None,
            (Some(_), None) => Differs::Missing,
            (None, Some(_)) => Differs::Extra,
            _ => Differs::Different,
        };
        let print = ours.map_or(0, |cell| cell.0) << 32 | theirs.map_or(0, |cell| cell.0);
        let difference = Difference { how, key: place(key), shown: key.to_string() };
        Some(Suspect { difference, print, is_dated: true, times: 1 })
    }
}

fn lend(chunk: &Chunk, by: By) -> Option<crate::backfill::crew::Loan> {
    let By::Worker(seat) = by else { return None };
    seat.lend(Task { doing: Doing::Copy, primary: Side::Origin, chunk: chunk.clone(), read: 0, schema: 0 })
}

/// However it ends.
struct Copying<'h>(&'h Hands, u64);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        world(&self.0.0).copies.remove(&self.1);
    }
}

/// However it ends.
struct Settling<'h>(&'h Hands, u64, u64);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let mut world = world(&self.0.0);
        world.settling.remove(&self.1);
        for (from, to, places) in world.copies.values_mut() {
            if (*from..*to).contains(&self.2) {
                places.insert(self.2);
            }
        }
    }
}

fn suspected(key: u64) -> Suspect {
    let difference = Difference { how: Differs::Extra, key: place(key), shown: key.to_string() };
    Suspect { difference, print: 0, is_dated: true, times: 1 }
}

fn place(key: u64) -> Box<[u8]> {
    key.to_be_bytes().into()
}

/// Its lowest bits are the lane's.
fn part(key: u64) -> u64 {
    (key + 1) << 2
}

fn key_of(place: &[u8]) -> u64 {
    place.try_into().map(u64::from_be_bytes).expect("a key of ours")
}

impl Hands {
    /// How many rows there are in a chunk of the other table, which nobody writes and both sides have.
    fn read_other(&self, chunk: &Chunk) -> Result<u64, Error> {
        match world(&self.0).other {
            Other::Unread { lasts } if (chunk.from..chunk.to).contains(&UNREAD) => {
                Err(Error::Unread(Unread { why: "too many tombstones".to_owned(), lasts }))
            }
            _ => Ok(chunk.to - chunk.from),
        }
    }

    /// What a worker does too, which may stand still for a while.
    async fn copy_rows(&self, chunk: &Chunk, lease: &Lease, frozen: Option<&AtomicBool>) -> Result<Landed, Error> {
        let mut landed = Landed::default();
        for key in chunk.from..chunk.to {
            let cell = live(&world(&self.0).primary, key);
            if world(&self.0).roll(6) == 0 {
                self.delay(80).await;
            }
            if let Some(frozen) = frozen.filter(|_| world(&self.0).stands_still()) {
                frozen.store(true, Relaxed);
                self.delay(25_000).await;
                frozen.store(false, Relaxed);
            }
            let Some((stamp, value)) = cell else { continue };
            let mut world = world(&self.0);
            if lease.left().is_none() {
                return Err(Error::Secondary("the lease is over".to_owned()));
            }
            let now = world.tick();
            let stamp = if world.bend == Bend::Restamps { now + 1_000 } else { stamp };
            merge(&mut world.secondary, key, (stamp, value));
            landed.rows += 1;
            world.copied += 1;
            if world.fails(1) {
                return Err(Error::Secondary("timeout".to_owned()));
            }
        }
        Ok(landed)
    }
}

impl Applier for Hands {
    async fn open(&self) -> Result<(), applier::Error> {
        Ok(())
    }

    async fn apply(&self, job: &Job) -> Applied {
        self.delay(30).await;
        if world(&self.0).fails(3) {
            return Applied::Retry("overloaded".to_owned());
        }
        for item in job.record.items() {
            match item {
                Item::Write { body, .. } => {
                    let words: Vec<u64> = body.chunks(8).map(key_of).collect();
                    let value = Some(words[2]).filter(|value| *value > 0);
                    merge(&mut world(&self.0).secondary, words[0], (words[1], value));
                }
                Item::Key { key, .. } => self.settle(key_of(key)).await,
                Item::Ddl(..) => return Applied::Reject("no such keyspace".to_owned()),
                Item::Touch { .. } => {}
                other => panic!("{other:?} is not simulated"),
            }
        }
        Applied::Done
    }
}

impl Walker for Hands {
    async fn survey(&self) -> Result<Vec<Surveyed>, Error> {
        let occupied = !world(&self.0).secondary.is_empty();
        let one = |(table, name): (TableId, &str)| Surveyed {
            table,
            name: name.to_owned(),
            part_of: None,
            labels: vec![table],
            rows: KEYS,
            bytes: KEYS,
            primary: vec![Extent { name: name.to_owned(), file: 1, units: KEYS }],
            secondary: Vec::new(),
            occupied,
            refused: None,
            unread: None,
            not_compared: Vec::new(),
        };
        // It comes first: what is behind it waits for it, if anything does.
        let other = Some((OTHER, "k.other")).filter(|_| world(&self.0).other != Other::None);
        Ok(other.into_iter().chain([(TABLE, "k.t")]).map(one).collect())
    }

    async fn copy(&self, chunk: &Chunk, by: By) -> Result<Outcome, Error> {
        if chunk.table == OTHER {
            if world(&self.0).other == Other::Away {
                self.delay(500).await;
                return Err(Error::Waits("UNAVAILABLE".to_owned()));
            }
            return self.read_other(chunk).map(|rows| Outcome::Done(Landed { rows, ..Landed::default() }));
        }
        let number = {
            let mut world = world(&self.0);
            world.count += 1;
            let number = world.count;
            world.copies.insert(number, (chunk.from, chunk.to, BTreeSet::new()));
            number
        };
        let _copying = Copying(self, number);
        let mut landed = match lend(chunk, by) {
            Some(loan) => {
                let Copied { rows, .. } = loan.copied().await?;
                Landed { rows, ..Landed::default() }
            }
            None => self.copy_rows(chunk, &Lease::endless(), None).await?,
        };
        let mut world = world(&self.0);
        let settling: Vec<u64> = world.settling.values().copied().collect();
        let (from, to, mut places) = world.copies.remove(&number).expect("begun above");
        places.extend(settling.into_iter().filter(|key| (from..to).contains(key)));
        if world.bend != Bend::Deaf {
            let owed = |key| Difference { how: Differs::Different, key: place(key), shown: key.to_string() };
            landed.differing.extend(places.into_iter().map(owed));
        }
        Ok(Outcome::Done(landed))
    }

    async fn compare(&self, chunk: &Chunk, _by: By) -> Result<Compared, Error> {
        if chunk.table == OTHER {
            let is_crowded = world(&self.0).other == Other::Crowded && (chunk.from..chunk.to).contains(&UNREAD);
            if is_crowded && chunk.again {
                world(&self.0).other = Other::Well;
            } else if is_crowded {
                return Ok(Compared { crowd: 1, ..Compared::default() });
            }
            // What the mirror still owes shows.
            let suspects =
                if world(&self.0).other == Other::Refused { vec![suspected(chunk.from)] } else { Vec::new() };
            return self.read_other(chunk).map(|rows| Compared { rows, suspects, ..Compared::default() });
        }
        let theirs = world(&self.0).secondary.clone();
        self.delay(10).await;
        let ours = world(&self.0).primary.clone();
        if world(&self.0).fails(3) {
            return Err(Error::Primary("timeout".to_owned()));
        }
        let keys = || chunk.from..chunk.to;
        let suspect = |key| Hands::compare(self, key, live(&theirs, key), live(&ours, key));
        Ok(Compared {
            rows: keys().filter(|key| live(&ours, *key).is_some()).count() as u64,
            suspects: keys().filter_map(suspect).collect(),
            ..Compared::default()
        })
    }

    fn linger(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn look(&self, _: &Chunk, suspects: &[Suspect]) -> Result<Vec<Option<Suspect>>, Error> {
        if world(&self.0).bend == Bend::Hasty {
            return Ok(suspects.iter().cloned().map(Some).collect());
        }
        let mut looks = Vec::new();
        for suspect in suspects {
            let key = key_of(&suspect.difference.key);
            let theirs = live(&world(&self.0).secondary, key);
            self.delay(3).await;
            let ours = live(&world(&self.0).primary, key);
            looks.push(Hands::compare(self, key, theirs, ours));
        }
        Ok(looks)
    }
}

/// A client: its writes are in the journal before they are done.
async fn client(shared: Shared, journal: Journal, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let (pause, key, what) = {
            let mut world = world(&shared);
            (world.roll(25), world.roll(KEYS), world.roll(4))
        };
        sleep(Duration::from_millis(pause)).await;
        let mut record = RecordBuf::default();
        let (stamp, value) = {
            let mut world = world(&shared);
            let stamp = world.tick();
            (stamp, if what == 0 { stamp } else { 0 })
        };
        match what {
            0 | 1 => {
                let body = [key, stamp, value].map(u64::to_be_bytes).concat();
                record.write(TABLE, Lane::beside(part(key)), &body);
            }
            _ => {
                record.key(TABLE, &place(key), true);
                record.touch(TABLE, Lane::new(Order::AtPlaces, part(key)));
            }
        }
        let Ok(ticket) = journal.begin(record.finish(Backend { id: 1, life: 1 })) else { continue };
        sleep(Duration::from_millis(pause / 3)).await;
        merge(&mut world(&shared).primary, key, (stamp, Some(value).filter(|value| *value > 0)));
        ticket.end(journal::Outcome::Committed);
    }
}

/// A worker in a process of its own: it goes on when tandem is killed, and is killed itself.
async fn worker(shared: Shared, number: u64) {
    loop {
        let crew = world(&shared).crew.clone();
        let seen = || Seen { cluster: "c".to_owned(), nodes: Vec::new() };
        let join = Join {
            name: format!("{number}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: 1,
            sides: Pair { origin: seen(), target: seen() },
        };
        if let Some((crew, joined)) = crew.and_then(|crew| Some((crew.clone(), crew.join(&join).ok()?))) {
            loop {
                let asked = Asked::now();
                let Ok(work) = crew.take(joined.worker).await else { break };
                if let Some(work) = work {
                    lent(&shared, &crew, joined.worker, work, asked).await;
                } else if !is_heard(&shared, &crew) {
                    break;
                }
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The process that it speaks to is the one that runs.
fn is_heard(shared: &Shared, crew: &Crew) -> bool {
    world(shared).crew.as_ref().is_some_and(|now| now.is_same(crew))
}

async fn lent(shared: &Shared, crew: &Crew, worker: u64, work: Work, asked: Asked) {
    let (hands, frozen) = (Hands(shared.clone()), AtomicBool::new(false));
    let lease = Lease::since(asked, Duration::from_millis(work.waited_ms));
    let says = async {
        loop {
            sleep(BEAT).await;
            let asked = Asked::now();
            if frozen.load(Relaxed) || !is_heard(shared, crew) {
                continue;
            }
            match crew.beat(worker, &[work.loan]) {
                Ok(held) if held.contains(&work.loan) => lease.goes_on(asked),
                _ => lease.end(),
            }
        }
    };
    let is_killed = world(shared).fails(5);
    let killed = is_killed.then(|| world(shared).roll(400));
    let killed = async {
        match killed {
            Some(ms) => sleep(Duration::from_millis(ms)).await,
            None => std::future::pending().await,
        }
    };
    let done = tokio::select! {
        copied = hands.copy_rows(&work.task.chunk, &lease, Some(&frozen)) => match copied {
            Ok(landed) => Done::Copied(Copied { rows: landed.rows, ..Copied::default() }),
            Err(error) => Done::Failed { why: error.to_string() },
        },
        () = says => return,
        () = killed => return,
    };
    if is_heard(shared, crew) && crew.put(worker, work.loan, done).is_ok() {
        world(shared).lent += 1;
    }
}

struct Process {
    handle: Handle,
    desk: Desk,
    journal: Journal,
    tasks: JoinSet<()>,
}

impl Process {
    fn start(shared: &Shared, disk: &MemoryDisk, paths: &Paths, file: &Durable) -> Process {
        let options = journal::Options { durability: Durability::Memory, ..journal::Options::default() };
        let (journal, _) = Journal::open_on(disk.storage(), options).expect("opens");
        let history = backfill::Options {
            chunk_rows: 60,
            hold: Duration::from_millis(200),
            part_of: Some(|place| Some(part(key_of(place)))),
            ..backfill::Options::default()
        };
        let desk = Desk::open(file.clone(), Lines::in_memory(1 << 20), history).expect("loads");
        desk.serves(Side::Origin);
        desk.crew().open(Box::new(|_| Ok(())));
        world(shared).crew = Some(desk.crew().clone());
        let config = Config {
            retry_min: Duration::from_millis(5),
            retry_max: Duration::from_millis(50),
            self_repair: true,
            ..Config::default()
        };
        let handle = paths.handle(&config, journal.clone(), desk.clone()).expect("loads");
        let hands = Arc::new(Hands(shared.clone()));
        let engine = Engine::succeed(&handle, config, hands.clone(), paths.book(), journal.trimmed()).expect("loads");
        let history = History::new(&handle, engine.book().clone(), hands);
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run(CancellationToken::new()));
        tasks.spawn(history.run(CancellationToken::new()));
        let syncs = journal.clone();
        tasks.spawn(async move {
            loop {
                syncs.sync_now();
                sleep(Duration::from_millis(3)).await;
            }
        });
        Process { handle, desk, journal, tasks }
    }

    /// What was under way is not.
    async fn kill(mut self, shared: &Shared) {
        world(shared).crew = None;
        self.tasks.shutdown().await;
        let mut world = world(shared);
        world.copies.clear();
        world.settling.clear();
    }

    /// No table is dirty, and everything is paid.
    async fn clean(&self) {
        for _ in 0..200_000 {
            if self.handle.dirty().is_empty() {
                return self.handle.settle(self.journal.appended()).await.expect("it runs");
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("dirty for ever: {:?} {:?}", self.desk.report(Kind::Repair), self.handle.status());
    }

    async fn ended(&self, kind: Kind) -> Report {
        for _ in 0..200_000 {
            let report = self.desk.report(kind).expect("asked for");
            if report.state.is_over() {
                return report;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("stuck: {:?} {:?}", self.desk.report(kind), self.handle.status());
    }
}

fn begun(seed: u64, bend: Bend, other: Other) -> Shared {
    let mut first = World {
        dice: Dice(seed),
        clock: 1,
        primary: Rows::new(),
        secondary: Rows::new(),
        faults: true,
        bend,
        other,
        copies: BTreeMap::new(),
        settling: BTreeMap::new(),
        count: 0,
        copied: 0,
        crew: None,
        lent: 0,
    };
    for key in 0..KEYS {
        if first.roll(3) > 0 {
            let stamp = first.tick();
            first.primary.insert(key, (stamp, Some(stamp)));
        }
    }
    Arc::new(Mutex::new(first))
}

/// Rows that were copied, and chunks that workers did.
async fn simulate(seed: u64, bend: Bend) -> (u64, u64) {
    let shared = begun(seed, bend, Other::None);
    let (disk, paths, file) = (MemoryDisk::default(), Paths::in_memory(), Durable::in_memory("history"));
    let mut process = Process::start(&shared, &disk, &paths, &file);
    let mut workers = JoinSet::new();
    // They take most of the time that this takes.
    let crowd = if bend == Bend::Straight && seed.is_multiple_of(2) { 2 } else { 0 };
    for number in 0..crowd {
        workers.spawn(worker(shared.clone(), number));
    }
    let request = Request { on_conflict: Conflict::Overwrite, verify: false, ..Request::new(Kind::Backfill) };
    process.desk.start(request).await.expect("idle");
    let lives = world(&shared).roll(4);
    for life in 0..=lives {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            clients.spawn(client(shared.clone(), process.journal.clone(), stop.clone()));
        }
        if life < lives {
            let ms = world(&shared).roll(600);
            sleep(Duration::from_millis(ms)).await;
        } else {
            process.ended(Kind::Backfill).await;
        }
        // A client's unit ends with the client here; what nobody knows of is another simulation's affair.
        stop.cancel();
        while clients.join_next().await.is_some() {}
        if life < lives {
            drop(disk.storage());
            process.kill(&shared).await;
            process = Process::start(&shared, &disk, &paths, &file);
        }
    }
    let report = process.desk.report(Kind::Backfill).expect("asked for");
    assert_eq!(report.state, State::Done, "{report:?}");
    process.handle.settle(process.journal.appended()).await.expect("it runs");
    equal(&shared);
    compared_under_load(&shared, &process).await;
    if bend == Bend::Straight {
        mended_without_being_asked(&shared, &process).await;
    }
    let done = {
        let world = world(&shared);
        (world.copied, world.lent)
    };
    process.kill(&shared).await;
    done
}

fn equal(shared: &Shared) {
    let world = world(shared);
    let shown = |rows: &Rows| -> Vec<(u64, Option<u64>)> {
        (0..KEYS).filter_map(|key| Some((key, live(rows, key)?.1))).collect()
    };
    assert_eq!(shown(&world.secondary), shown(&world.primary), "the sides differ: promise 11");
}

/// Equal sides are called equal while clients write, and rows that were planted are found.
async fn compared_under_load(shared: &Shared, process: &Process) {
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(client(shared.clone(), process.journal.clone(), stop.clone()));
    }
    process.desk.start(Request::new(Kind::Verify)).await.expect("idle");
    let report = process.ended(Kind::Verify).await;
    stop.cancel();
    while clients.join_next().await.is_some() {}
    let counts = report.counts;
    assert_eq!(counts.differing(), 0, "a row is called different: promise 8");
    assert_eq!(counts.read, counts.equal + counts.missing + counts.extra + counts.different + counts.skipped);
    process.handle.settle(process.journal.appended()).await.expect("it runs");
    let planted = plant(shared);
    process.desk.start(Request::new(Kind::Repair)).await.expect("idle");
    let report = process.ended(Kind::Repair).await;
    assert_eq!(
        (report.counts.extra + report.counts.different, report.counts.repaired),
        (1, 1),
        "{planted} is not found"
    );
    process.handle.settle(process.journal.appended()).await.expect("it runs");
}

/// A row that only the secondary has, or has so; its key.
fn plant(shared: &Shared) -> u64 {
    let mut world = world(shared);
    let stamp = world.tick();
    let key = world.roll(KEYS);
    world.secondary.insert(key, (stamp, Some(stamp)));
    key
}

/// A table that is dirty is walked over by itself, and so are all if any may be; who asks for something else goes first.
async fn mended_without_being_asked(shared: &Shared, process: &Process) {
    plant(shared);
    process.handle.mark_dirty(&[TABLE], Reason::Uncaptured).expect("memory takes it");
    process.clean().await;
    equal(shared);
    plant(shared);
    process.handle.mark_dirty(&[TableId::NONE], Reason::Uncaptured).expect("memory takes it");
    process.clean().await;
    equal(shared);
    plant(shared);
    process.handle.mark_dirty(&[TableId::NONE], Reason::Uncaptured).expect("memory takes it");
    process.handle.repair(TableId::NONE).expect("it is noted");
    while process.desk.report(Kind::Repair).is_none_or(|report| report.state != State::Verifying) {
        sleep(Duration::from_millis(1)).await;
    }
    process.desk.start(Request::new(Kind::Verify)).await.expect("a walk that nobody asked for steps aside");
    process.ended(Kind::Verify).await;
    assert!(process.handle.dirty().get(TableId::NONE).is_none() || process.desk.is_busy(), "it is forgotten");
    process.clean().await;
    equal(shared);
}

/// A process that copies while clients write, and has nothing to do yet.
fn beside(other: Other) -> (Shared, Process, JoinSet<()>) {
    let shared = begun(1, Bend::Straight, other);
    world(&shared).faults = false;
    let (disk, paths, file) = (MemoryDisk::default(), Paths::in_memory(), Durable::in_memory("history"));
    let process = Process::start(&shared, &disk, &paths, &file);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(client(shared.clone(), process.journal.clone(), CancellationToken::new()));
    }
    (shared, process, clients)
}

fn backfill(tables: &[&str]) -> Request {
    let tables = tables.iter().map(|&table| table.to_owned()).collect();
    Request { tables, on_conflict: Conflict::Overwrite, ..Request::new(Kind::Backfill) }
}

#[test]
fn a_table_that_waits_for_a_change_that_is_refused_holds_up_the_history_of_no_other() {
    seeds::paused(async {
        let (shared, process, mut clients) = beside(Other::Refused);
        let append = |record: &mut RecordBuf| {
            let ticket = process.journal.begin(record.finish(Backend { id: 1, life: 1 })).expect("there is room");
            ticket.end(journal::Outcome::Committed);
        };
        let mut change = RecordBuf::default();
        change.ddl(OTHER, b"TRUNCATE");
        append(&mut change);
        let mut behind = RecordBuf::default();
        behind.write(OTHER, Lane::beside(part(1)), &[1, 1, 1].map(u64::to_be_bytes).concat());
        append(&mut behind);
        // Far longer than the mirror may be behind.
        sleep(Duration::from_secs(60)).await;
        assert_eq!(process.handle.status().held.len(), 1);
        process.desk.start(backfill(&["k.t"])).await.expect("idle");
        let report = process.ended(Kind::Backfill).await;
        assert_eq!((report.state, report.counts.differing()), (State::Done, 0), "{report:?}");
        assert!(report.counts.equal > 100, "{report:?}");

        // Who asks for both is told what is in the way of one.
        process.desk.start(backfill(&[])).await.expect("idle");
        sleep(Duration::from_secs(60)).await;
        let report = process.desk.report(Kind::Backfill).expect("asked for");
        let why = report.why.as_deref().unwrap_or_default();
        assert!(!report.state.is_over() && why.contains("refuses: no such keyspace"), "{report:?}");
        let [other, table] = &report.tables[..] else { panic!("two tables") };
        assert_eq!((other.rows, table.rows > 100), (KEYS, true), "{report:?}");
        clients.shutdown().await;
        process.kill(&shared).await;
    });
}

#[test]
fn what_was_begun_of_a_table_that_waits_for_a_refused_change_holds_up_no_other_after_a_restart() {
    seeds::paused(async {
        let shared = begun(1, Bend::Straight, Other::Refused);
        world(&shared).faults = false;
        let (disk, paths, file) = (MemoryDisk::default(), Paths::in_memory(), Durable::in_memory("history"));
        let mut process = Process::start(&shared, &disk, &paths, &file);
        let mut change = RecordBuf::default();
        change.ddl(OTHER, b"TRUNCATE");
        let ticket = process.journal.begin(change.finish(Backend { id: 1, life: 1 })).expect("there is room");
        ticket.end(journal::Outcome::Committed);
        process.desk.start(backfill(&[])).await.expect("idle");
        sleep(Duration::from_millis(100)).await;
        process.kill(&shared).await;
        process = Process::start(&shared, &disk, &paths, &file);
        // Less than the mirror is given to catch up.
        sleep(Duration::from_secs(30)).await;
        let report = process.desk.report(Kind::Backfill).expect("asked for");
        let [other, table] = &report.tables[..] else { panic!("two tables") };
        assert!(!report.state.is_over() && other.done < 1.0 && table.done == 1.0, "{report:?}");
        process.kill(&shared).await;
    });
}

#[test]
fn what_the_comparison_behind_a_copy_could_not_keep_is_looked_at_again() {
    seeds::paused(async {
        let shared = begun(1, Bend::Straight, Other::Crowded);
        world(&shared).faults = false;
        let (disk, paths, file) = (MemoryDisk::default(), Paths::in_memory(), Durable::in_memory("history"));
        let mut process = Process::start(&shared, &disk, &paths, &file);
        process.desk.start(Request { verify: false, ..backfill(&[]) }).await.expect("idle");
        sleep(Duration::from_millis(100)).await;
        process.kill(&shared).await;
        process = Process::start(&shared, &disk, &paths, &file);
        let report = process.ended(Kind::Backfill).await;
        assert_eq!((report.state, world(&shared).other), (State::Done, Other::Well), "{report:?}");
        process.kill(&shared).await;
    });
}

#[test]
fn a_table_whose_replicas_are_away_holds_up_the_copy_of_no_other_and_is_copied_when_they_are_back() {
    seeds::paused(async {
        let (shared, process, mut clients) = beside(Other::Away);
        process.desk.start(backfill(&[])).await.expect("idle");
        sleep(Duration::from_secs(5)).await;
        clients.shutdown().await;
        // It would be left out behind less, if it could not be read.
        sleep(Duration::from_secs(3_600)).await;
        let report = process.desk.report(Kind::Backfill).expect("asked for");
        let [other, table] = &report.tables[..] else { panic!("two tables") };
        assert_eq!((other.done, table.done), (0.0, 1.0), "{report:?}");
        assert!(
            report.why.as_deref().is_some_and(|why| why.contains("k.other") && why.contains("UNAVAILABLE")),
            "{report:?}"
        );
        world(&shared).other = Other::Well;
        let report = process.ended(Kind::Backfill).await;
        assert_eq!((report.state, report.tables[0].rows), (State::Done, KEYS), "{report:?}");
        equal(&shared);
        process.kill(&shared).await;
    });
}

#[test]
fn a_table_that_cannot_be_read_is_left_out_by_name_and_the_others_are_copied() {
    for lasts in [true, false] {
        seeds::paused(async {
            let (shared, process, mut clients) = beside(Other::Unread { lasts });
            process.desk.start(backfill(&[])).await.expect("idle");
            if !lasts {
                // It is given minutes, and they would write all the while.
                sleep(Duration::from_secs(1)).await;
                clients.shutdown().await;
            }
            let report = process.ended(Kind::Backfill).await;
            let why = report.why.as_deref().unwrap_or_default();
            assert_eq!(report.state, State::Failed, "{report:?}");
            assert!(why.contains("k.other") && why.contains("too many tombstones"), "{report:?}");
            let [other, table] = &report.tables[..] else { panic!("two tables") };
            assert!((UNREAD..KEYS).contains(&other.rows), "all before it, if not all but it: {report:?}");
            assert_eq!((other.refused.is_some(), &table.refused), (true, &None), "{report:?}");
            clients.shutdown().await;
            process.handle.settle(process.journal.appended()).await.expect("it runs");
            equal(&shared);
            process.kill(&shared).await;
        });
    }
}

#[test]
fn what_is_newer_on_the_secondary_stays_whatever_the_copy_went_through() {
    seeds::paused(async {
        let shared = begun(1, Bend::Straight, Other::None);
        let newer = Some(7);
        {
            let mut world = world(&shared);
            world.faults = false;
            let ahead = world.clock + 1_000_000;
            world.secondary = (0..KEYS).map(|key| (key, (ahead, newer))).collect();
        }
        let (disk, paths, file) = (MemoryDisk::default(), Paths::in_memory(), Durable::in_memory("history"));
        let mut process = Process::start(&shared, &disk, &paths, &file);
        let request = Request { on_conflict: Conflict::Newer, verify: false, ..Request::new(Kind::Backfill) };
        process.desk.start(request).await.expect("idle");
        for _ in 0..2 {
            sleep(Duration::from_millis(200)).await;
            assert!(!world(&shared).copies.is_empty(), "something is under way");
            process.kill(&shared).await;
            process = Process::start(&shared, &disk, &paths, &file);
        }
        // A client's write that goes by state while its row is copied.
        sleep(Duration::from_millis(100)).await;
        let (from, to, _) = world(&shared).copies.values().next().cloned().expect("something is under way");
        let key = (from..to).find(|key| live(&world(&shared).primary, *key).is_some()).expect("most are there");
        let mut record = RecordBuf::default();
        record.key(TABLE, &place(key), true);
        record.touch(TABLE, Lane::new(Order::AtPlaces, part(key)));
        let ticket = process.journal.begin(record.finish(Backend { id: 1, life: 1 })).expect("there is room");
        ticket.end(journal::Outcome::Committed);
        let report = process.ended(Kind::Backfill).await;
        assert_eq!(report.state, State::Done, "{report:?}");
        process.handle.settle(process.journal.appended()).await.expect("it runs");
        let replaced: Vec<u64> =
            (0..KEYS).filter(|key| live(&world(&shared).secondary, *key).is_none_or(|cell| cell.1 != newer)).collect();
        assert_eq!(replaced, [key], "but for what a client wrote");
        process.kill(&shared).await;
    });
}

fn run(seed: u64, bend: Bend) -> (u64, u64) {
    seeds::paused(simulate(seed, bend))
}

#[test]
fn history_beside_a_replay_ends_equal_whatever_happens_on_the_way_promises_8_and_11() {
    let lent = Arc::new(AtomicU64::new(0));
    let copied = seeds::sum(SEED, SEEDS, |seed| {
        let (copied, by_workers) = run(seed, Bend::Straight);
        lent.fetch_add(by_workers, Relaxed);
        copied
    });
    let lent = lent.load(Relaxed);
    assert!(SEED.is_some() || copied > 10_000 && lent > 50, "only {copied} rows were copied, {lent} chunks by workers");
}

#[test]
fn every_bent_rule_is_caught() {
    for bend in [Bend::Deaf, Bend::Hasty, Bend::Restamps] {
        let caught = seeds::caught(400, |seed| run(seed, bend).0);
        assert!(caught, "{bend:?} is bent, and 400 seeds saw nothing");
    }
}
