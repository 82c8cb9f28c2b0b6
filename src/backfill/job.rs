//! One walk over history as values: which tables, which pass, what is done, what is under way. Pure: no time of its own,
//! no IO; what is kept on disk is the value itself.
//!
//! ```text
//!             backfill                      verify, repair
//! Planning -> Copying -> CatchingUp -> Planning -> Verifying (forth, then back) -> Done
//! ```
//!
//! A unit counts as done when what became of it is on the secondary. A crash between the two does it again, which is
//! harmless: a chunk clears what it writes (promise 11).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::journal::Lsn;
use crate::record::TableId;

use super::request::{Compare, Conflict, Kind, Request};
use super::spans::Spans;
use super::work::{Chunk, Compares, Difference, Differs, Extent, Landed, Paid, Pass, Stage, Surveyed, Unread};
use crate::dice::Dice;

/// Where a job is; scripts wait for these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Asked for; the mirror has not looked at it yet.
    Initializing,
    /// Looking which tables there are and how large they are.
    Planning,
    /// Rows are copied.
    Copying,
    /// Everything is copied; the mirror pays what clients wrote meanwhile.
    CatchingUp,
    /// Rows are compared.
    Verifying,
    /// Held by an operator.
    Paused,
    /// It ended well; differences that were found are counted.
    Done,
    /// It ended, and something was left out: see why.
    Failed,
    /// An operator ended it.
    Cancelled,
}

impl State {
    /// All there are, in order.
    pub const ALL: [State; 9] = [
        State::Initializing,
        State::Planning,
        State::Copying,
        State::CatchingUp,
        State::Verifying,
        State::Paused,
        State::Done,
        State::Failed,
        State::Cancelled,
    ];

    /// The word in metrics; in answers it is the same, capitalized.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Initializing => "initializing",
            State::Planning => "planning",
            State::Copying => "copying",
            State::CatchingUp => "catching up",
            State::Verifying => "verifying",
            State::Paused => "paused",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// Nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }
}

/// Rows compared: `read = equal + missing + extra + different + skipped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows of the primary, and rows that only the secondary has.
    pub read: u64,
    /// The same on both sides.
    pub equal: u64,
    /// Only on the primary.
    pub missing: u64,
    /// Only on the secondary.
    pub extra: u64,
    /// On both sides, with other values.
    pub different: u64,
    /// Not compared: their table was left out on the way.
    pub skipped: u64,
    /// Of those that differed: made equal since, and compared again.
    pub repaired: u64,
}

impl Counts {
    /// Rows that differ still.
    pub fn differing(&self) -> u64 {
        (self.missing + self.extra + self.different).saturating_sub(self.repaired)
    }

    pub(super) fn add(&mut self, other: Counts) {
        self.read += other.read;
        self.equal += other.equal;
        self.missing += other.missing;
        self.extra += other.extra;
        self.different += other.different;
        self.skipped += other.skipped;
        self.repaired += other.repaired;
    }

    /// So many that were skipped, being too many, were seen since.
    fn seen(&mut self, seen: u64, landed: &Landed) {
        let seen = seen.min(self.skipped);
        self.skipped -= seen;
        let mut left = seen;
        for one in landed.differing.iter().take(usize::try_from(seen).unwrap_or(usize::MAX)) {
            match one.how {
                Differs::Missing => self.missing += 1,
                Differs::Extra => self.extra += 1,
                Differs::Different => self.different += 1,
            }
            left -= 1;
        }
        // The others were made equal by what clients wrote.
        self.equal += left;
    }

    /// `read = equal + missing + extra + different + skipped`, whichever side was read.
    fn of(pass: Pass, landed: &Landed) -> Counts {
        let count = |how| landed.differing.iter().filter(|one| one.how == how).count() as u64;
        let (missing, extra, different) = (count(Differs::Missing), count(Differs::Extra), count(Differs::Different));
        match pass {
            Pass::Copy => Counts::default(),
            // Where one look shows both sides, rows that only the secondary has are found on the way forth.
            Pass::Forth => {
                let (equal, skipped) = (landed.rows.saturating_sub(missing + different), landed.skipped + landed.crowd);
                let read = equal + missing + extra + different + skipped;
                Counts { read, equal, missing, extra, different, skipped, ..Counts::default() }
            }
            // Rows that both have were counted on the way forth.
            Pass::Back => Counts { read: extra, extra, ..Counts::default() },
        }
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) request: Request,
    pub(super) state: State,
    pub(super) paused: bool,
    pass: Pass,
    pub(super) tables: Vec<Walked>,
    /// What has to be paid before the next pass.
    until: Option<u64>,
    pub(super) why: Option<String>,
    pub(super) began_unix: u64,
    pub(super) ended_unix: Option<u64>,
    /// How often it was done before, of one that is done again and again.
    #[serde(default)]
    pub(super) round: u64,
    /// Nobody asked for it by name: it steps aside for who does, and lists nothing.
    #[serde(default)]
    pub(super) background: bool,
    /// What the secondary refused to make, for people; and everything else was made.
    #[serde(default)]
    unmade: Vec<String>,
    /// What it is not set up for: left out, and no failure.
    #[serde(default)]
    lacks: Vec<String>,
    #[serde(default)]
    made: bool,
}

/// One table of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Walked {
    pub(super) table: TableId,
    pub(super) name: String,
    labels: Vec<TableId>,
    /// Columns that are not compared.
    #[serde(default)]
    pub(super) not_compared: Vec<String>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) refused: Option<String>,
    /// It could not be walked over when it was looked at last: it is looked at once more before that is believed.
    #[serde(default)]
    pub(super) doubt: Option<Doubt>,
    /// How often it could not be read, in parts as small as there are.
    #[serde(default)]
    unreadable: u8,
    /// Where that was last: an extent, and the first unit.
    #[serde(default)]
    unread: Option<(usize, u64)>,
    /// It is not tried before.
    #[serde(skip)]
    aside: Option<Instant>,
    /// It was never looked at with success.
    #[serde(default)]
    is_unseen: bool,
    extents: Vec<Tract>,
    /// Of passes that are over, as the two below.
    copied_rows: u64,
    copied_bytes: u64,
    counts: Counts,
    /// Where the journal stood when the comparison began: marks above it are not answered by it.
    since: u64,
    /// An earlier round copied it: it is only compared.
    #[serde(default)]
    kept: bool,
    /// Units of a chunk; follows what chunks of this table cost.
    #[serde(skip)]
    step: u64,
}

/// Why a table may have to be left out. A schema change that clients made comes to the secondary later: until it is there, the
/// sides differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doubt {
    pub(super) why: String,
    /// What had been appended when it was seen last. Paid, it is looked at once more.
    until: u64,
    /// It was paid, and the look is due.
    is_ripe: bool,
    /// How often it was seen so.
    seen: u8,
}

/// One extent of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tract {
    extent: Extent,
    /// What was copied and found here in this pass: forgotten with it, if the extent is another one.
    #[serde(default)]
    copied: Copied,
    #[serde(default)]
    counts: Counts,
    done: Spans,
    /// Done, or under way, or to be done again.
    #[serde(skip)]
    taken: Spans,
    again: Vec<Again>,
    /// Units that were begun and not reported: something of them may have been done.
    #[serde(default)]
    begun: Spans,
    /// Only units below are given out. It is on the disk before, so that a later process knows which may have been.
    #[serde(default)]
    reserved: u64,
    /// Units that are not in the sample.
    #[serde(default)]
    left_out: u64,
}

/// Copied as history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copied {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Units that differed and were owed: to be compared again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Again {
    from: u64,
    to: u64,
    /// When everything below is paid.
    after: u64,
    tries: u8,
    differing: u64,
    /// Rows that differed besides, and were too many to be kept.
    #[serde(default)]
    crowd: u64,
    #[serde(skip)]
    taken: bool,
}

/// What is told of what was left out without harm to rows.
const LACKS: &str = "the target is not set up for all that the origin has";
/// Most refusals that are told.
const UNMADE_MAX: usize = 20;
/// How often a table must be found unfit, each time with all that was appended before paid. A column may be dropped right behind
/// its being added: then two looks find the same column amiss.
const DOUBTED: u8 = 4;
/// How often a table must be unreadable, each time at another state and behind another look at its schema.
const UNREADABLE: u8 = 3;
/// The same, where its server may only be short of something; and how long it is left alone, from the first time to the last.
const UNREADABLE_NOW: u8 = 12;
const UNREADABLE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often differences are owed before they are called lasting.
const TRIES: u8 = 3;
/// Units of a table's first chunk.
const FIRST_STEP: u64 = 64;
/// Most units of a chunk.
const MOST_STEP: u64 = 1 << 16;
/// As many chunks may be given out between two looks of the disk.
const RESERVED_STEPS: u64 = 16;

/// A part of the units, drawn.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ppm: u32,
    seed: u64,
}

/// Units that are drawn together, at least.
const SAMPLE_UNITS: u64 = 16;
/// Most draws for an extent: its spans are kept on disk.
const DRAWS_MAX: u64 = 4_096;

impl Sample {
    /// The units that are not drawn. Of each extent some are.
    fn leaves_out(self, extent: &Extent) -> Spans {
        let len = extent.units.div_ceil(DRAWS_MAX).max(SAMPLE_UNITS);
        let draws = extent.units.div_ceil(len);
        let mut dice = Dice(self.seed ^ extent.file);
        let sure = dice.below(draws.max(1));
        let mut spans = Spans::default();
        for n in 0..draws {
            if dice.below(1_000_000) >= u64::from(self.ppm) && n != sure {
                spans.add(n * len, ((n + 1) * len).min(extent.units));
            }
        }
        spans
    }
}

/// What the job asks for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Nothing: over, paused, or waiting for payments.
    Nothing,
    /// A survey of all tables.
    Survey,
    /// Somebody who takes chunks.
    Walk,
}

/// What a chunk that was done means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// It was not looked at before.
    pub(super) first: bool,
    /// The mirror shall copy what differs: [`Job::owed`] follows when that is owed.
    pub(super) owes: bool,
}

/// How large chunks may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// About as many rows.
    pub(super) rows: u64,
    /// About so long, in microseconds.
    pub(super) micros: u64,
}

impl Job {
    pub(super) fn new(number: u64, request: Request, now_unix: u64) -> Job {
        let pass = if request.kind == Kind::Backfill { Pass::Copy } else { Pass::Forth };
        Job {
            number,
            request,
            state: State::Initializing,
            paused: false,
            pass,
            tables: Vec::new(),
            until: None,
            why: None,
            began_unix: now_unix,
            ended_unix: None,
            round: 0,
            background: false,
            unmade: Vec::new(),
            lacks: Vec::new(),
            made: false,
        }
    }

    /// It was done so often before.
    pub(super) fn of_round(self, round: u64) -> Job {
        Job { round, ..self }
    }

    /// A repair of dirty tables, by their labels.
    pub(super) fn mending(number: u64, labels: Vec<u64>, now_unix: u64) -> Job {
        Job { background: true, ..Job::new(number, Request::new(Kind::Repair).of_dirty(labels), now_unix) }
    }

    /// What it was to mend, if it is [`Job::mending`].
    pub(super) fn mended(&self) -> Vec<u64> {
        match &self.request.labels {
            _ if !self.background => Vec::new(),
            labels if labels.is_empty() => vec![TableId::NONE.0],
            labels => labels.clone(),
        }
    }

    /// As it came from the disk: nothing is under way, and where everything lies is to be looked at.
    pub(super) fn resumed(mut self) -> Job {
        for tract in self.tables.iter_mut().flat_map(|table| &mut table.extents) {
            let unknown = tract.done.gaps(tract.reserved.min(tract.extent.units));
            tract.begun.add_all(&unknown);
        }
        self.recall();
        self.survey_again();
        self
    }

    /// What is to be made on the secondary before it goes on.
    pub(super) fn makes(&self) -> Option<Stage> {
        match self.state {
            _ if !self.request.provision || self.paused => None,
            State::Initializing | State::Planning if self.pass == Pass::Copy => Some(Stage::Tables),
            State::CatchingUp if !self.made => Some(Stage::Rest),
            _ => None,
        }
    }

    /// All of it was made but these.
    pub(super) fn made(&mut self, stage: Stage, unmade: Vec<String>, lacks: Vec<String>) {
        self.made = stage == Stage::Rest;
        for (all, more) in [(&mut self.unmade, unmade), (&mut self.lacks, lacks)] {
            for one in more {
                if all.len() < UNMADE_MAX && !all.contains(&one) {
                    all.push(one);
                }
            }
        }
    }

    /// What people are told.
    pub(super) fn shown(&self) -> State {
        if self.paused && !self.state.is_over() { State::Paused } else { self.state }
    }

    pub(super) fn wants(&self) -> Wants {
        match self.state {
            _ if self.paused => Wants::Nothing,
            State::Initializing | State::Planning => Wants::Survey,
            // Catching up, there is nothing to take, but payments to be noticed.
            State::Copying | State::CatchingUp | State::Verifying => Wants::Walk,
            _ => Wants::Nothing,
        }
    }

    /// Tables lack rows that it is still to copy.
    pub(super) fn is_copying(&self) -> bool {
        self.request.kind == Kind::Backfill && (self.round == 0 || self.tables.iter().any(|table| !table.kept))
    }

    /// Differences are to be mended.
    fn mends(&self) -> bool {
        match self.request.kind {
            // What the mirror must copy for a copy is owed in any case; what is found later may be newer.
            Kind::Backfill => self.pass == Pass::Copy || self.request.on_conflict != Conflict::Newer,
            Kind::Verify => false,
            Kind::Repair => !self.request.dry_run,
        }
    }

    /// What both sides have. The first survey of a job says which tables it is about; later ones only where they lie now.
    /// It began when the journal ended at the first position, and was over at the second. `copied`: of which history was copied.
    pub(super) fn surveyed(
        &mut self,
        found: Vec<Surveyed>,
        copied: impl Fn(TableId) -> bool,
        (began, at): (Lsn, Lsn),
        now: Instant,
    ) {
        if self.state.is_over() {
            return;
        }
        let copied = |one: &Surveyed| one.labels.iter().any(|label| copied(*label));
        if self.tables.is_empty() {
            self.choose(&found, copied);
        }
        let heeds_strangers = self.heeds_strangers();
        let sample = self.request.sample_ppm.map(|ppm| Sample { ppm, seed: self.number });
        for walked in &mut self.tables {
            let first = walked.extents.is_empty();
            match found.iter().find(|one| one.table == walked.table) {
                Some(Surveyed { refused: Some(why), .. }) => walked.doubt(why, at),
                Some(Surveyed { unread: Some(why), .. }) => walked.unseen(why, at, now),
                Some(one) => {
                    if std::mem::take(&mut walked.is_unseen) && heeds_strangers && one.occupied && !copied(one) {
                        walked.refused.get_or_insert_with(|| STRANGERS.to_owned());
                    }
                    walked.look(one, self.pass, sample);
                }
                None => walked.doubt("the table is gone", at),
            }
            // Later surveys do not move what is walked over: what was added to the table meanwhile is not looked at.
            if self.pass == Pass::Forth && first {
                walked.since = began.0;
            }
        }
        if !self.state.is_over() {
            self.state = if self.pass == Pass::Copy { State::Copying } else { State::Verifying };
        }
    }

    /// Rows of others are left alone, and their tables with them.
    fn heeds_strangers(&self) -> bool {
        self.request.kind == Kind::Backfill && self.request.on_conflict == Conflict::Error
    }

    fn choose(&mut self, found: &[Surveyed], copied: impl Fn(&Surveyed) -> bool) {
        let is_chosen =
            |one: &&Surveyed| self.request.names(&one.name, one.part_of.as_deref()) && self.request.labels(&one.labels);
        let chosen = found.iter().filter(is_chosen);
        let known = found.iter().flat_map(|one| [Some(&one.name), one.part_of.as_ref()]).flatten();
        if let Some(name) = self.request.unknown(known.map(String::as_str)) {
            self.state = State::Failed;
            self.why = Some(format!("there is no table {name}; names are qualified, as public.accounts or public.*"));
            return;
        }
        let walked = |one: &Surveyed| Walked { kept: self.round > 0 && copied(one), ..Walked::new(one) };
        self.tables = chosen.map(walked).collect();
        // Who asked for some, and gets none, is not to be told that all is well.
        if self.tables.is_empty() && !self.request.labels.is_empty() && !self.background {
            self.state = State::Failed;
            let named = !self.request.tables.is_empty() || !self.request.exclude.is_empty();
            let why = if named {
                "none of the tables that were named may differ"
            } else {
                "none of these tables is there any more"
            };
            self.why = Some(why.to_owned());
        }
    }

    /// The next chunk; `paid` is everything that is on the secondary.
    pub(super) fn take(&mut self, paid: &Paid) -> Option<Chunk> {
        let pass = self.pass;
        let walking = matches!(self.state, State::Copying | State::Verifying) && !self.paused;
        let (job, compares) = (self.number, self.compares());
        // What is compared needs what clients wrote to be there: a table that waits for its own sake holds up no other.
        let goes = |table: &&mut Walked| {
            walking
                && table.is_walked()
                && table.aside.is_none()
                && (pass == Pass::Copy || !paid.is_stuck(&table.labels))
        };
        let mut tables = self.tables.iter_mut().filter(goes);
        tables.find_map(|table| table.take(pass, paid.of(&table.labels))).map(|chunk| Chunk { job, compares, ..chunk })
    }

    fn compares(&self) -> Compares {
        let Request { compare, on_conflict, since_seconds, .. } = &self.request;
        let since = since_seconds.map(|seconds| self.began_unix.saturating_sub(seconds).saturating_mul(1_000_000));
        Compares {
            ttls: *compare != Compare::Values,
            writetimes: *compare == Compare::Writetimes,
            newer_stays: *on_conflict == Conflict::Newer,
            since: since.map(|since| i64::try_from(since).unwrap_or(i64::MAX)),
        }
    }

    /// The chunk was done.
    pub(super) fn landed(&mut self, chunk: &Chunk, landed: &Landed, sizes: Sizes) -> Seen {
        let mends = self.mends();
        self.of(chunk).map(|table| table.landed(chunk, landed, sizes, mends)).unwrap_or_default()
    }

    /// What was found in the chunk is owed and will be paid when everything below `after` is.
    pub(super) fn owed(&mut self, chunk: &Chunk, (differing, crowd): (u64, u64), after: Lsn) {
        let Some(tract) = self.of(chunk).and_then(|table| table.extents.get_mut(chunk.extent)) else { return };
        match tract.again.iter_mut().find(|again| (again.from, again.to) == (chunk.from, chunk.to)) {
            Some(again) => (again.after, again.taken) = (after.0, false),
            None => tract.again.push(Again {
                from: chunk.from,
                to: chunk.to,
                after: after.0,
                tries: 1,
                differing,
                crowd,
                taken: false,
            }),
        }
    }

    /// Rows of the chunk are refused: the rest of it is copied in smaller parts.
    pub(super) fn halve(&mut self, chunk: &Chunk) -> bool {
        let Some(table) = self.of(chunk) else { return false };
        let (len, tract) = (chunk.to - chunk.from, &mut table.extents[chunk.extent]);
        if len == 1 {
            return false;
        }
        tract.taken.remove(chunk.from, chunk.to);
        if chunk.pass == Pass::Copy {
            // Something of it was written, and what became of that nobody learned.
            tract.begun.add(chunk.from, chunk.to);
        }
        table.step = len / 2;
        true
    }

    /// The chunk cannot be read: in smaller parts it may, but for one of them. Then its table is left out, unless that is so for a
    /// moment only; the others go on meanwhile.
    pub(super) fn unreadable(&mut self, chunk: &Chunk, Unread { why, lasts }: Unread, now: Instant) {
        if !chunk.again && self.halve(chunk) {
            return;
        }
        let Some(table) = self.of(chunk) else { return };
        table.unread = Some((chunk.extent, chunk.from));
        table.unreadable(why, lasts, now);
        if table.refused.is_none() {
            self.survey_again();
        }
    }

    /// What was set aside until now may be taken.
    pub(super) fn wake(&mut self, now: Instant) {
        self.tables.iter_mut().for_each(|table| _ = table.aside.take_if(|until| *until <= now));
    }

    /// The chunk is as done as it can be without what the secondary refuses of it.
    pub(super) fn close(&mut self, chunk: &Chunk) {
        if let Some(table) = self.of(chunk) {
            table.extents[chunk.extent].done.add(chunk.from, chunk.to);
        }
    }

    /// It is not, after all.
    pub(super) fn open(&mut self, chunk: &Chunk) {
        if let Some(table) = self.of(chunk) {
            let tract = &mut table.extents[chunk.extent];
            tract.done.remove(chunk.from, chunk.to);
            tract.begun.add(chunk.from, chunk.to);
        }
    }

    /// Leave a table out.
    pub(super) fn refuse(&mut self, table: TableId, why: String) {
        self.tables.iter_mut().filter(|walked| walked.table == table).for_each(|walked| walked.refuse(why.clone()));
    }

    /// Look where everything lies now.
    pub(super) fn survey_again(&mut self) {
        if matches!(self.state, State::Copying | State::Verifying) {
            self.state = State::Planning;
        }
    }

    /// Nothing that was done since is known to have happened.
    pub(super) fn back_to(&mut self, tables: Vec<Walked>) {
        if tables.len() == self.tables.len() {
            self.tables = tables;
        }
    }

    /// What was done may be lost.
    pub(super) fn begin_anew(&mut self) {
        for table in &mut self.tables {
            table.extents.clear();
            (table.copied_rows, table.copied_bytes, table.counts) = (0, 0, Counts::default());
            (table.kept, table.doubt) = (false, None);
        }
        if self.request.kind == Kind::Backfill {
            self.pass = Pass::Copy;
        } else {
            self.pass = Pass::Forth;
        }
        self.state = State::Planning;
    }

    /// Nothing is under way any more: what was not reported is to be done.
    pub(super) fn recall(&mut self) {
        for tract in self.tables.iter_mut().flat_map(|table| &mut table.extents) {
            tract.recall();
        }
    }

    /// What may be given out from now on, if the disk knows of it. True: it is to be told.
    pub(super) fn reserve(&mut self) -> bool {
        let mut news = false;
        for table in &mut self.tables {
            let step = table.step;
            table.extents.iter_mut().for_each(|tract| news |= tract.reserve(step));
        }
        news
    }

    /// Go on to the next pass if this one is done. True: something changed.
    pub(super) fn advance(&mut self, appended: Lsn, paid: &Paid, now_unix: u64) -> bool {
        let before = self.state;
        let of_all =
            self.tables.iter().filter(|table| table.refused.is_none()).map(|table| paid.of(&table.labels)).min();
        let caught_up = self.until.is_none_or(|until| until <= of_all.unwrap_or(paid.of(&[])).0);
        match self.state {
            State::Copying if self.pass_done() => {
                self.state = State::CatchingUp;
                self.until = Some(appended.0);
            }
            State::CatchingUp if self.makes().is_none() && caught_up => {
                if self.request.verify {
                    self.turn(Pass::Forth)
                } else {
                    self.end(now_unix)
                }
            }
            State::Verifying if self.pass_done() => match self.pass {
                Pass::Forth => self.turn(Pass::Back),
                _ => self.end(now_unix),
            },
            State::Copying | State::Verifying => {
                let mut any = false;
                self.tables.iter_mut().for_each(|table| any |= table.ripen(paid.of(&table.labels)));
                if any {
                    self.survey_again();
                }
            }
            _ => {}
        }
        self.state != before
    }

    /// One of its tables waits for its own sake.
    pub(super) fn waits(&self, paid: &Paid) -> bool {
        self.tables.iter().any(|table| table.refused.is_none() && paid.is_stuck(&table.labels))
    }

    fn turn(&mut self, pass: Pass) {
        self.pass = pass;
        self.state = State::Planning;
        self.tables.iter_mut().for_each(Walked::turn);
    }

    fn pass_done(&self) -> bool {
        let done = |table: &Walked| table.doubt.is_none() && table.extents.iter().all(Tract::is_done);
        self.tables.iter().all(|table| table.refused.is_some() || done(table))
    }

    fn end(&mut self, now_unix: u64) {
        let left_out: Vec<_> = self.tables.iter().filter(|table| table.refused.is_some()).collect();
        self.state = State::Done;
        if let Some(first) = left_out.first() {
            let more = if left_out.len() > 1 { format!(" and {} more", left_out.len() - 1) } else { String::new() };
            self.state = State::Failed;
            self.why = Some(format!("{}{more} left out: {}", first.name, first.refused.as_deref().unwrap_or_default()));
        }
        if !self.unmade.is_empty() {
            self.state = State::Failed;
            self.why = Some(format!("the target refuses to make what it lacks: {}", self.unmade.join("; ")));
        }
        if !self.lacks.is_empty() {
            let lacks = format!("{LACKS}: {}", self.lacks.join("; "));
            self.why = Some(self.why.take().map_or_else(|| lacks.clone(), |why| format!("{why}; {lacks}")));
        }
        self.ended_unix = Some(now_unix);
    }

    pub(super) fn fail(&mut self, why: &str, now_unix: u64) {
        self.state = State::Failed;
        self.why = Some(why.to_owned());
        self.ended_unix = Some(now_unix);
    }

    pub(super) fn cancel(&mut self, now_unix: u64) {
        if !self.state.is_over() {
            self.state = State::Cancelled;
            self.ended_unix = Some(now_unix);
        }
    }

    /// Tables that this job found equal, no row skipped, every label of each, and since when nothing was missed; with [`TableId::NONE`], if
    /// that is so of all tables.
    pub(super) fn clean(&self) -> impl Iterator<Item = (TableId, Lsn)> {
        let walked = self.state == State::Done || self.state == State::Failed;
        let compared = walked && self.pass == Pass::Back && self.request.is_whole();
        let is_equal = |counts: &Counts| counts.differing() == 0 && counts.skipped == 0;
        let whole = |table: &Walked| table.is_walked() && table.not_compared.is_empty();
        let equal = move |table: &&Walked| compared && whole(table) && is_equal(&table.counts());
        let all = compared && self.request.is_of_all() && self.tables.iter().all(|table| equal(&table));
        let since = self.tables.iter().map(|table| Lsn(table.since)).min().filter(|_| all);
        let tables = self.tables.iter().filter(equal);
        let labels = tables.flat_map(|table| table.labels.iter().map(|label| (*label, Lsn(table.since))));
        labels.chain(since.map(|since| (TableId::NONE, since)))
    }

    /// Tables that this job compared from end to end, and how many of their rows differ still.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = (TableId, &str, u64)> {
        let ended = [State::Done, State::Failed].contains(&self.state) && self.pass == Pass::Back && self.pass_done();
        let whole = ended && self.request.is_whole();
        let compared = self.tables.iter().filter(move |table| whole && table.refused.is_none());
        compared.map(|table| (table.table, &*table.name, table.counts().differing()))
    }

    /// It copied or compared all tables that there were, and left none out.
    pub(super) fn has_seen_all(&self) -> bool {
        let looked = self.request.kind == Kind::Backfill || self.request.is_whole();
        self.state == State::Done && looked && self.request.is_of_all()
    }

    /// Tables of which rows are known to differ.
    pub(super) fn found(&self) -> impl Iterator<Item = (TableId, &str, u64)> {
        let differing = self.tables.iter().map(|table| (table.table, &*table.name, table.counts().differing()));
        differing.filter(|(.., rows)| *rows > 0)
    }

    /// Not all columns of the table are compared.
    pub(super) fn is_partial(&self, table: TableId) -> bool {
        self.tables.iter().any(|walked| walked.table == table && !walked.not_compared.is_empty())
    }

    /// A table's name, for people.
    pub(super) fn name(&self, table: TableId) -> &str {
        self.tables.iter().find(|walked| walked.table == table).map_or("", |walked| &walked.name)
    }

    /// Every label of a table.
    pub(super) fn labels(&self, table: TableId) -> impl Iterator<Item = TableId> {
        self.tables.iter().filter(move |walked| walked.table == table).flat_map(|walked| walked.labels.iter().copied())
    }

    pub(super) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.tables.iter().for_each(|table| sum.add(table.counts()));
        sum
    }

    fn of(&mut self, chunk: &Chunk) -> Option<&mut Walked> {
        if chunk.pass != self.pass {
            return None;
        }
        let same = |tract: &Tract| tract.extent.file == chunk.file && tract.extent.name == chunk.name;
        let table = self.tables.iter_mut().find(|walked| walked.table == chunk.table)?;
        table.extents.get(chunk.extent).is_some_and(same).then_some(table)
    }
}

const STRANGERS: &str = "the target has rows that tandem did not write, or had when it wrote there first: empty the table there \
    while nobody writes to it, or ask for --on-conflict overwrite";

impl Walked {
    fn new(found: &Surveyed) -> Walked {
        Walked {
            table: found.table,
            name: found.name.clone(),
            labels: found.labels.clone(),
            not_compared: found.not_compared.clone(),
            rows: found.rows,
            bytes: found.bytes,
            refused: None,
            doubt: None,
            unreadable: 0,
            unread: None,
            aside: None,
            is_unseen: true,
            extents: Vec::new(),
            copied_rows: 0,
            copied_bytes: 0,
            counts: Counts::default(),
            since: 0,
            kept: false,
            step: FIRST_STEP,
        }
    }

    /// Where its rows lie now. What is known of an extent that kept its file stays true.
    fn look(&mut self, found: &Surveyed, pass: Pass, sample: Option<Sample>) {
        let extents = match pass {
            Pass::Copy if self.kept => &Vec::new(),
            Pass::Copy | Pass::Forth => &found.primary,
            Pass::Back => &found.secondary,
        };
        let mut before = std::mem::take(&mut self.extents);
        self.extents = extents.iter().map(|extent| Tract::of(extent, &mut before, sample)).collect();
        self.labels = found.labels.clone();
        self.not_compared = found.not_compared.clone();
        self.doubt = None;
        if self.unread.is_none() {
            self.unreadable = 0;
        }
        if self.step == 0 {
            self.step = FIRST_STEP;
        }
    }

    /// It cannot be walked over, as far as can be seen. What was done of it stays done, should it turn out that it can.
    fn doubt(&mut self, why: &str, at: Lsn) {
        if self.refused.is_some() {
            return;
        }
        let first = Doubt { why: why.to_owned(), until: at.0, is_ripe: false, seen: 1 };
        self.doubt = match self.doubt.take() {
            Some(doubt) if doubt.why == why && !doubt.is_ripe => Some(doubt),
            Some(doubt) if doubt.why == why => Some(Doubt { seen: doubt.seen + 1, ..first }),
            _ => Some(first),
        };
        self.refused = self.doubt.take_if(|doubt| doubt.seen >= DOUBTED).map(|doubt| doubt.why);
    }

    /// It could not be looked at: that counts once behind each pause, and it is looked at again then.
    fn unseen(&mut self, why: &str, at: Lsn, now: Instant) {
        if self.refused.is_some() {
            return;
        }
        if self.aside.is_none() {
            self.unreadable(why.to_owned(), false, now);
        }
        // Without it a pass would be over that has not looked at it.
        self.doubt = Some(Doubt { why: why.to_owned(), until: at.0, is_ripe: false, seen: 0 });
    }

    /// It cannot be read: once too often, or it is left alone for a while, unless that `lasts`.
    fn unreadable(&mut self, why: String, lasts: bool, now: Instant) {
        self.unreadable += 1;
        if self.unreadable >= if lasts { UNREADABLE } else { UNREADABLE_NOW } {
            return self.refuse(why);
        }
        tracing::warn!(table = self.name, why, "history: a table cannot be read");
        if !lasts {
            let pause = UNREADABLE_PAUSES.0 * 2_u32.saturating_pow(u32::from(self.unreadable) - 1);
            self.aside = Some(now + pause.min(UNREADABLE_PAUSES.1));
        }
    }

    fn refuse(&mut self, why: String) {
        tracing::warn!(table = self.name, why, "history: a table is left out");
        self.refused = Some(why);
    }

    /// What is in doubt can be told now, if so much is paid, and it was left alone for long enough.
    fn ripen(&mut self, paid: Lsn) -> bool {
        let is_tried = self.refused.is_none() && self.aside.is_none();
        let doubt = self.doubt.as_mut().filter(|doubt| is_tried && doubt.until <= paid.0);
        doubt.map(|doubt| doubt.is_ripe = true).is_some()
    }

    /// Chunks of it may be taken.
    pub(super) fn is_walked(&self) -> bool {
        self.refused.is_none() && self.doubt.is_none()
    }

    /// The pass is over: the next one walks over it anew.
    fn turn(&mut self) {
        (self.counts, Copied { rows: self.copied_rows, bytes: self.copied_bytes }) = (self.counts(), self.copied());
        self.extents.clear();
    }

    pub(super) fn copied(&self) -> Copied {
        self.extents.iter().map(|tract| tract.copied).fold(
            Copied { rows: self.copied_rows, bytes: self.copied_bytes },
            |sum, copied| Copied { rows: sum.rows + copied.rows, bytes: sum.bytes + copied.bytes },
        )
    }

    pub(super) fn counts(&self) -> Counts {
        let mut sum = self.counts;
        self.extents.iter().for_each(|tract| sum.add(tract.counts));
        sum
    }

    fn take(&mut self, pass: Pass, paid: Lsn) -> Option<Chunk> {
        let (table, step) = (self.table, self.step.max(1));
        let mut tracts = self.extents.iter_mut().enumerate();
        tracts.find_map(|(extent, tract)| {
            let ((from, to), again) = tract.take(step, paid)?;
            let Extent { name, file, .. } = tract.extent.clone();
            let begun = tract.begun.meets(from, to);
            let (job, compares) = (0, Compares::default());
            Some(Chunk { job, pass, again, begun, table, extent, name, file, from, to, compares })
        })
    }

    fn landed(&mut self, chunk: &Chunk, landed: &Landed, sizes: Sizes, mends: bool) -> Seen {
        let tract = &mut self.extents[chunk.extent];
        let differing = landed.differing.len() as u64;
        let place =
            tract.again.iter().position(|again| again.taken && (again.from, again.to) == (chunk.from, chunk.to));
        let first = place.is_none();
        let owes = match place {
            None => {
                tract.counts.add(Counts::of(chunk.pass, landed));
                mends && differing + landed.crowd > 0
            }
            Some(at) => {
                let again = &mut tract.again[at];
                // Room was made for as many that were skipped.
                let seen = again.crowd.saturating_sub(landed.crowd);
                // What a copy left to the mirror was never counted.
                if chunk.pass != Pass::Copy {
                    tract.counts.seen(seen, landed);
                    tract.counts.repaired += again.differing.saturating_sub(differing.saturating_sub(seen));
                }
                again.differing = if seen > 0 { differing } else { again.differing.min(differing) };
                again.crowd = again.crowd.min(landed.crowd);
                again.tries = if seen > 0 { 1 } else { again.tries + 1 };
                let owes = differing + landed.crowd > 0 && again.tries <= TRIES;
                if !owes {
                    tract.again.remove(at);
                }
                owes
            }
        };
        if !owes {
            tract.done.add(chunk.from, chunk.to);
        }
        tract.begun.remove(chunk.from, chunk.to);
        if self.unread.is_some_and(|(extent, unit)| extent == chunk.extent && (chunk.from..chunk.to).contains(&unit)) {
            (self.unreadable, self.unread) = (0, None);
        }
        if chunk.pass == Pass::Copy && first {
            tract.copied.rows += landed.rows;
            tract.copied.bytes += landed.bytes;
        }
        self.pace(chunk.to - chunk.from, landed, sizes);
        Seen { first, owes }
    }

    /// Chunks as large as will take the time, and hold the rows, that they may.
    fn pace(&mut self, units: u64, landed: &Landed, sizes: Sizes) {
        let micros = (landed.took.as_micros() as u64).max(1);
        let by_time = units.saturating_mul(sizes.micros) / micros;
        let by_rows = units.saturating_mul(sizes.rows) / landed.rows.max(1);
        // Twice at most, for the next stretch may be denser.
        self.step = by_time.min(by_rows).min(self.step.saturating_mul(2)).clamp(1, MOST_STEP);
    }

    /// How much of it is done in this pass, in units.
    pub(super) fn progress(&self) -> (u64, u64) {
        let done = |tract: &Tract| tract.done.len().min(tract.extent.units) - tract.left_out;
        let all = |tract: &Tract| tract.extent.units - tract.left_out;
        (self.extents.iter().map(done).sum(), self.extents.iter().map(all).sum())
    }
}

impl Tract {
    fn of(extent: &Extent, before: &mut Vec<Tract>, sample: Option<Sample>) -> Tract {
        let same = |tract: &Tract| tract.extent.name == extent.name && tract.extent.file == extent.file;
        match before.iter().position(same) {
            Some(at) => before.swap_remove(at),
            None => {
                let done = sample.map(|sample| sample.leaves_out(extent)).unwrap_or_default();
                let (taken, left_out) = (done.clone(), done.len());
                Tract {
                    extent: extent.clone(),
                    copied: Copied::default(),
                    counts: Counts::default(),
                    done,
                    taken,
                    again: Vec::new(),
                    begun: Spans::default(),
                    reserved: 0,
                    left_out,
                }
            }
        }
    }

    /// Units to be worked on, and whether they are looked at again.
    fn take(&mut self, step: u64, paid: Lsn) -> Option<((u64, u64), bool)> {
        if let Some(again) = self.again.iter_mut().find(|again| !again.taken && again.after <= paid.0) {
            again.taken = true;
            return Some(((again.from, again.to), true));
        }
        let (from, to) = self.taken.gap(0, self.extent.units.min(self.reserved), step)?;
        self.taken.add(from, to);
        Some(((from, to), false))
    }

    fn recall(&mut self) {
        let given_out = std::mem::replace(&mut self.taken, self.done.clone());
        for again in &mut self.again {
            again.taken = false;
            self.taken.add(again.from, again.to);
        }
        // What was given out, and is neither done nor to be looked at again.
        let mut unreported = given_out;
        unreported.remove_all(&self.taken);
        self.begun.add_all(&unreported);
    }

    /// Let more units be given out, if less than half as many are left.
    fn reserve(&mut self, step: u64) -> bool {
        let ahead = RESERVED_STEPS * step.max(FIRST_STEP);
        let news = self.reserved < self.extent.units && self.reserved < self.taken.end() + ahead / 2;
        if news {
            self.reserved = self.taken.end() + ahead;
        }
        news
    }

    fn is_done(&self) -> bool {
        self.again.is_empty() && self.done.len() >= self.extent.units
    }
}

/// Differences as lines of JSON; the key's values are for who asks for them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The job's number.
    pub job: u64,
    /// The table.
    pub table: String,
    /// How the rows differ.
    pub how: Differs,
    /// The key, as an operator may see it.
    pub key: String,
}

impl Line {
    pub(super) fn of(job: u64, table: &str, difference: &Difference) -> Line {
        Line { job, table: table.to_owned(), how: difference.how, key: difference.shown.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(count: u64) -> Vec<Difference> {
        let one = |key: u64| {
            let key: Box<[u8]> = key.to_be_bytes().into();
            Difference { how: Differs::Missing, key, shown: String::new() }
        };
        (0..count).map(one).collect()
    }

    /// A table of one extent, the same on both sides.
    fn table(file: u64, units: u64) -> Surveyed {
        let extents = vec![Extent { name: "t".into(), file, units }];
        Surveyed {
            table: TableId(1),
            name: "t".into(),
            part_of: None,
            labels: vec![TableId(1)],
            rows: 1,
            bytes: 1,
            primary: extents.clone(),
            secondary: extents,
            occupied: true,
            refused: None,
            unread: None,
            not_compared: Vec::new(),
        }
    }

    fn refused(why: &str) -> Surveyed {
        Surveyed { refused: Some(why.to_owned()), ..table(1, 2) }
    }

    fn sizes() -> Sizes {
        Sizes { rows: 100, micros: 100 }
    }

    fn begun(kind: Kind, table: Surveyed) -> Job {
        let mut job = Job::new(1, Request::new(kind), 0);
        job.surveyed(vec![table], |_| true, (Lsn(0), Lsn(0)), Instant::now());
        job.reserve();
        job
    }

    /// Take what there is until it is over; every chunk is found equal, of as many rows as it has units.
    fn walked(job: &mut Job, table: &Surveyed) {
        for _ in 0..20 {
            while let Some(chunk) = job.take(&Lsn(9).into()) {
                let rows = if chunk.pass == Pass::Back { 0 } else { chunk.to - chunk.from };
                job.landed(&chunk, &Landed { rows, ..Landed::default() }, sizes());
            }
            job.advance(Lsn(9), &Lsn(9).into(), 0);
            if job.wants() == Wants::Survey {
                job.surveyed(vec![table.clone()], |_| true, (Lsn(9), Lsn(9)), Instant::now());
                job.reserve();
            }
        }
    }

    #[test]
    fn a_table_whose_schema_is_behind_on_one_side_is_left_out_only_if_it_stays_so() {
        let mut job = begun(Kind::Backfill, table(1, 200));
        let chunk = job.take(&Lsn(0).into()).expect("there is one");
        job.landed(&chunk, &Landed { rows: 64, ..Landed::default() }, sizes());
        job.survey_again();
        job.surveyed(vec![refused("no column n")], |_| true, (Lsn(5), Lsn(5)), Instant::now());
        assert_eq!(
            (job.take(&Lsn(4).into()), job.advance(Lsn(6), &Lsn(4).into(), 0)),
            (None, false),
            "it waits for the mirror"
        );
        assert!(job.advance(Lsn(6), &Lsn(5).into(), 0) && job.wants() == Wants::Survey);
        // Another change came behind the first.
        job.surveyed(vec![refused("no column m")], |_| true, (Lsn(7), Lsn(7)), Instant::now());
        assert!(!job.advance(Lsn(8), &Lsn(6).into(), 0) && job.advance(Lsn(8), &Lsn(7).into(), 0));
        job.surveyed(vec![table(1, 200)], |_| true, (Lsn(8), Lsn(8)), Instant::now());
        walked(&mut job, &table(1, 200));
        assert_eq!((job.state, job.tables[0].copied().rows), (State::Done, 200), "{:?}", job.why);
    }

    #[test]
    fn what_a_table_grew_by_since_the_first_look_is_not_called_equal() {
        let mut job = begun(Kind::Verify, table(1, 10));
        job.survey_again();
        job.surveyed(vec![table(1, 20)], |_| true, (Lsn(7), Lsn(8)), Instant::now());
        walked(&mut job, &table(1, 20));
        assert_eq!((job.state, job.tables[0].counts().read), (State::Done, 10));
        assert_eq!(job.clean().next(), Some((TableId(1), Lsn(0))), "marks of before the first look alone");
    }

    #[test]
    fn a_table_that_cannot_be_walked_over_is_left_out_once_all_is_paid() {
        for gone in [vec![refused("no key")], Vec::new()] {
            let mut job = begun(Kind::Backfill, table(1, 2));
            job.survey_again();
            for at in 5..5 + u64::from(DOUBTED) - 1 {
                job.surveyed(gone.clone(), |_| true, (Lsn(at), Lsn(at)), Instant::now());
                assert!(!job.advance(Lsn(at), &Lsn(at - 1).into(), 0) && job.advance(Lsn(at), &Lsn(at).into(), 0));
            }
            job.surveyed(gone, |_| true, (Lsn(9), Lsn(9)), Instant::now());
            walked(&mut job, &refused("no key"));
            assert_eq!(job.state, State::Failed);
            assert!(job.why.is_some_and(|why| why.contains("left out")));
        }
    }

    #[test]
    fn a_table_that_could_not_be_looked_at_is_looked_at_again_behind_a_pause() {
        let unread = || Surveyed { unread: Some("replicas are away".to_owned()), occupied: false, ..table(1, 2) };
        let mut now = Instant::now();
        let mut job = begun(Kind::Backfill, unread());
        let survey = |job: &mut Job, found: Surveyed, now| {
            job.surveyed(vec![found], |_| false, (Lsn(5), Lsn(5)), now);
            job.reserve();
        };
        // Other tables have everything surveyed, and all is paid: it counts for nothing before its pause is over.
        for _ in 0..10 {
            assert_eq!((job.take(&Lsn(9).into()), job.advance(Lsn(9), &Lsn(9).into(), 0)), (None, false));
            job.wake(now);
            job.survey_again();
            survey(&mut job, unread(), now);
        }
        let mut looks = 1;
        while job.tables[0].refused.is_none() && looks < 100 {
            now += UNREADABLE_PAUSES.1;
            job.wake(now);
            assert!(job.advance(Lsn(9), &Lsn(9).into(), 0) && job.wants() == Wants::Survey, "{looks}");
            survey(&mut job, unread(), now);
            looks += 1;
        }
        assert_eq!(looks, UNREADABLE_NOW);
        // Found well behind a pause that is not over, and then not again: no pass ends without it.
        let mut job = begun(Kind::Verify, unread());
        survey(&mut job, table(1, 2), now);
        assert!(job.tables[0].doubt.is_none() && job.tables[0].aside.is_some());
        survey(&mut job, unread(), now);
        assert!(job.tables[0].doubt.is_some());
    }

    #[test]
    fn whose_rows_a_table_has_is_asked_when_it_can_be_looked_at() {
        for (first, occupied) in [(None, true), (Some("replicas are away".to_owned()), true), (None, false)] {
            let unread = Surveyed { unread: first.clone(), occupied: first.is_none() && occupied, ..table(1, 2) };
            let mut job = Job::new(1, Request::new(Kind::Backfill), 0);
            for found in [unread, Surveyed { occupied, ..table(1, 2) }] {
                job.surveyed(vec![found], |_| false, (Lsn(5), Lsn(5)), Instant::now());
            }
            assert_eq!(job.tables[0].refused.as_deref(), occupied.then_some(STRANGERS), "{first:?}");
        }
    }

    #[test]
    fn a_job_of_tables_that_are_gone_does_not_say_that_all_is_well() {
        let request = Request { labels: vec![7], ..Request::new(Kind::Repair) };
        let mut job = Job::new(1, request, 0);
        job.surveyed(vec![table(1, 2)], |_| true, (Lsn(0), Lsn(0)), Instant::now());
        assert_eq!(job.state, State::Failed);
        assert!(job.why.is_some_and(|why| why.contains("any more")));
    }

    #[test]
    fn what_the_target_is_not_set_up_for_is_told_and_only_what_it_refuses_is_a_failure() {
        let told = |one: &str| vec![one.to_owned()];
        for (unmade, state) in [(Vec::new(), State::Done), (told("an index"), State::Failed)] {
            let mut job = begun(Kind::Backfill, table(1, 2));
            job.made(Stage::Rest, unmade.clone(), told("a view"));
            job.made(Stage::Rest, unmade.clone(), told("a view"));
            walked(&mut job, &table(1, 2));
            let why = job.why.unwrap_or_default();
            assert_eq!((job.state, why.matches("a view").count()), (state, 1), "{why}");
            assert!(unmade.iter().all(|one| why.contains(one)), "{why}");
        }
    }

    #[test]
    fn what_was_found_in_an_extent_is_forgotten_with_it() {
        let mut job = begun(Kind::Repair, table(1, 64));
        let chunk = job.take(&Lsn(0).into()).expect("there is one");
        assert!(job.landed(&chunk, &Landed { rows: 64, differing: differences(3), ..Landed::default() }, sizes()).owes);
        job.owed(&chunk, (3, 0), Lsn(5));
        assert_eq!(job.counts().differing(), 3);
        job.survey_again();
        walked(&mut job, &table(2, 64));
        let expected = Counts { read: 64, equal: 64, ..Counts::default() };
        assert_eq!((job.state, job.counts()), (State::Done, expected));
    }

    #[test]
    fn what_differs_and_is_too_much_to_be_kept_at_once_is_mended_in_turns() {
        let mut job = begun(Kind::Repair, Surveyed { secondary: Vec::new(), ..table(1, 1) });
        let sizes = sizes();
        // Of 500 rows, 10 are equal; 100 are kept at once.
        for crowd in [390, 290, 190, 90] {
            let chunk = job.take(&Lsn(1).into()).expect("it goes on");
            let landed = Landed { rows: 110, differing: differences(100), crowd, ..Landed::default() };
            assert!(job.landed(&chunk, &landed, sizes).owes);
            job.owed(&chunk, (100, crowd), Lsn(1));
        }
        for (left, owes) in [(90, true), (0, false)] {
            let chunk = job.take(&Lsn(1).into()).expect("it goes on");
            let landed = Landed { rows: 500, differing: differences(left), ..Landed::default() };
            assert_eq!(job.landed(&chunk, &landed, sizes).owes, owes);
            job.owed(&chunk, (left, 0), Lsn(1));
        }
        let expected = Counts { read: 500, equal: 10, missing: 490, repaired: 490, ..Counts::default() };
        assert_eq!(job.counts(), expected);
    }

    #[test]
    fn a_sample_is_about_as_large_as_asked_and_of_every_extent() {
        for (units, ppm) in
            [(1, 1), (15, 10_000), (16, 10_000), (100_000, 10_000), (10_000_000, 500_000), (77, 1_000_000)]
        {
            for seed in 0..20 {
                let extent = Extent { name: "t".into(), file: seed, units };
                let left_out = Sample { ppm, seed }.leaves_out(&extent).len();
                let (looked_at, asked) = (units - left_out, units as f64 * f64::from(ppm) / 1e6);
                let spare = (units.div_ceil(DRAWS_MAX).max(SAMPLE_UNITS) as f64 * 20.0).max(asked * 0.2);
                assert!(looked_at > 0, "{units} {ppm}: nothing is looked at");
                assert!((looked_at as f64 - asked).abs() <= spare, "{units} {ppm}: {looked_at} for {asked}");
            }
        }
    }
}
