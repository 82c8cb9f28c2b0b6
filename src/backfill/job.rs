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

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::journal::Lsn;
use crate::record::TableId;

use super::counts::Counts;
use super::request::{Compare, Conflict, Kind, Request};
use super::tract::{Again, Sample, Tract};
use super::walked::{Seen, Sizes, Walked};
use super::work::{Chunk, Compares, Difference, Differs, Landed, Paid, Pass, Stage, Surveyed, Unread};

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

/// What is told of what was left out without harm to rows.
const LACKS: &str = "the target is not set up for all that the origin has";
/// Most refusals that are told.
const UNMADE_MAX: usize = 20;

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
        let goes = |table: &&mut Walked| walking && table.is_walked() && table.aside.is_none();
        let mut tables = self.tables.iter_mut().filter(goes);
        tables.find_map(|table| table.take(pass, paid)).map(|chunk| Chunk { job, compares, ..chunk })
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

    /// Nothing of the chunk can be done for now: its table is left alone for a while, which says nothing against it, and the
    /// others go on.
    pub(super) fn waits_with(&mut self, chunk: &Chunk, why: String, now: Instant) {
        if let Some(table) = self.of(chunk) {
            table.waits(why, now);
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

    /// The highest position of the journal that it remembers.
    pub(super) fn reached(&self) -> Lsn {
        let of_table = |table: &Walked| {
            let again = table.extents.iter().flat_map(|tract| &tract.again).map(|again| again.after);
            again.chain(table.doubt.as_ref().map(|doubt| doubt.until)).fold(table.since, u64::max)
        };
        Lsn(self.tables.iter().map(of_table).chain(self.until).max().unwrap_or(0))
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

    /// Not all columns of the table are compared, or not all of its rows.
    pub(super) fn is_partial(&self, table: TableId) -> bool {
        let is_partial = |walked: &Walked| !walked.not_compared.is_empty() || walked.counts().skipped > 0;
        self.tables.iter().any(|walked| walked.table == table && is_partial(walked))
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
mod tests;
