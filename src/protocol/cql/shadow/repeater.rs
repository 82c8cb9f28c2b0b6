//! The core's questions, answered: a read is repeated on the secondary and compared; one that differs is asked again, of the
//! primary, of the secondary, and of the primary once more ([`compare::settle`]). All three are asked as of one second, so
//! that what expires does so on both sides at once. Rows that are being written are looked at cell by cell ([`cells`](super::cells)).

use std::sync::Arc;

use crate::config;
use crate::protocol::cql::client::{Answer, Error as ClientError};
use crate::protocol::cql::cluster::Cluster;
use crate::protocol::cql::place::{Place, hash_of};
use crate::protocol::cql::session::assigned::Assigned;
use crate::protocol::cql::setup::Sides;
use crate::protocol::cql::tables::Tables;
use crate::protocol::cql::text::schema::{Column, Role};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::{Parameters, Values};
use crate::protocol::cql::wire::response::code;
use crate::protocol::cql::wire::types::Type;
use crate::record::Side;
use crate::shadow::{self, Causal, Difference, Handle, How, Rechecked, Repeated, Skip, Verdict};

use super::ask::{Line, Told, repeated, sure};
use super::cells::{Judged, Looked, Looks, Question, Seen};
use super::compare::{self, Compared, Deviation, Settled, Sheet, Terms, compare};
use super::read::{Read, Said, said, second};
use super::reading::{Field, Form, Reading, Unfit};
use super::shown;

/// Answers are bounded by `shadow.max_answer` while they are compressed; decompressed, by this many times as much.
const INFLATED: usize = 16;
/// Rows in dispute that are looked at cell by cell; the others come another time.
const CLOSER_MAX: usize = 8;

/// Repeats reads, and compares.
pub struct Repeater {
    sides: Sides,
    lines: [Line; 2],
    level: Option<config::Consistency>,
    answer_bytes_max: usize,
    settings: Handle<Read>,
}

impl Repeater {
    /// Between these sides. `settings` tells which columns are not compared.
    pub fn new(sides: &Sides, config: &config::Shadow, settings: Handle<Read>) -> Repeater {
        let line = |side| Line::new(side, sides.clone(), config.timeout);
        Repeater {
            sides: sides.clone(),
            lines: [line(Side::Origin), line(Side::Target)],
            level: config.consistency,
            answer_bytes_max: config.max_answer.bytes().saturating_mul(INFLATED),
            settings,
        }
    }

    async fn ask(&self, side: Side, read: &Read, asked: &Parameters<'_>, at: (Consistency, i32)) -> Told {
        self.line(side).ask(read, asked, at.0, at.1).await
    }

    /// Both clusters, the primary first.
    fn clusters(&self, causal: &Causal) -> Result<(Arc<Cluster>, Arc<Cluster>), Skip> {
        let primary = self.sides.get(causal.primary()).ok_or(Skip::PrimaryFailed)?;
        Ok((primary, self.sides.get(causal.secondary()).ok_or(Skip::SecondaryFailed)?))
    }

    async fn repeat_once(&self, read: &Read, causal: &Causal) -> Result<Repeated, Skip> {
        let (primary, secondary) = self.clusters(causal)?;
        let tables = primary.tables();
        let asked = read.parameters().map_err(|_| Skip::Unsupported)?;
        let case = Case::of(read, &tables, &asked, &self.settings)?;
        let opened = read.opened(self.answer_bytes_max).map_err(|_| Skip::AnswerTooLarge)?;
        let ours = match opened.said() {
            Said::Failed(_) => return Err(Skip::PrimaryFailed),
            Said::Other => return Err(Skip::Unsupported),
            ours => ours,
        };
        let level = repeated(asked.consistency, self.level);
        let told = self.ask(causal.secondary(), read, &asked, (level, read.second)).await;
        let theirs = said(&told.answer)?;
        let others = Others { tables: &secondary.tables(), alike: alike_rings(&primary, &secondary) };
        let verdict = match case.verdict(&ours, &theirs, &others) {
            Ok(None) => Verdict::Match,
            Ok(Some(difference)) => Verdict::Differs(difference),
            Err(why) => Verdict::Skipped(why),
        };
        Ok(Repeated { latency: told.took, verdict })
    }

    async fn recheck_once(&self, read: &Read, causal: &Causal) -> Result<Rechecked, Skip> {
        let (primary, secondary) = self.clusters(causal)?;
        let tables = primary.tables();
        let asked = read.parameters().map_err(|_| Skip::Unsupported)?;
        let case = Case::of(read, &tables, &asked, &self.settings)?;
        let at = (sure(self.level), second());
        let written = causal.position();
        let before = self.ask(causal.primary(), read, &asked, at).await.answer;
        causal.reach().await?;
        let theirs = self.ask(causal.secondary(), read, &asked, at).await.answer;
        let after = self.ask(causal.primary(), read, &asked, at).await.answer;
        let is_quiet = causal.position() == written;
        let others = Others { tables: &secondary.tables(), alike: alike_rings(&primary, &secondary) };
        let ours = (&of_primary(&before)?, &of_primary(&after)?);
        let decided = case.decide(ours, &said(&theirs)?, &others, is_quiet)?;
        match (&decided, ours, said(&theirs)?) {
            (Rechecked::Moved | Rechecked::Again(_), (Said::Rows(before), Said::Rows(after)), Said::Rows(theirs))
                if !is_quiet =>
            {
                let [before, after, theirs] = [case.sheet(before)?, case.sheet(after)?, case.sheet(&theirs)?];
                Ok(self.closer(&case, [&before, &after, &theirs], causal, at).await?.unwrap_or(decided))
            }
            _ => Ok(decided),
        }
    }

    /// Rows in dispute, while somebody writes: looked at cell by cell. `None`: that says no more than is known.
    async fn closer(
        &self,
        case: &Case<'_>,
        [before, after, theirs]: [&Sheet<'_>; 3],
        causal: &Causal,
        at: (Consistency, i32),
    ) -> Result<Option<Rechecked>, Skip> {
        let ground = Ground::of(case, theirs);
        let disputed = ground.with(|terms| compare::disputed(terms, (before, after), theirs));
        let kinds = compare::kinds(before, theirs);
        let Some(question) = ground.question(&disputed, &kinds) else { return Ok(None) };
        let places: Option<Vec<Place>> = disputed.iter().take(CLOSER_MAX).map(|row| ground.row(row)).collect();
        let Some(places) = places.filter(|places| !places.is_empty()) else { return Ok(None) };
        let ours_at = (causal.primary(), Skip::PrimaryFailed);
        let theirs_at = (causal.secondary(), Skip::SecondaryFailed);
        let early = self.look(theirs_at, &question, &places, at).await?;
        let before = self.look(ours_at, &question, &places, at).await?;
        causal.reach().await?;
        let late = self.look(theirs_at, &question, &places, at).await?;
        let after = self.look(ours_at, &question, &places, at).await?;
        let looks = early.into_iter().zip(before).zip(late.into_iter().zip(after));
        let judged =
            looks.map(|((early, before), (theirs, after))| question.judge(&Looks { early, before, theirs, after }));
        Ok(Some(ground.judged(&disputed, judged.collect(), theirs)))
    }

    /// These rows on a side, and what to say if it does not answer.
    async fn look(
        &self,
        (side, failed): (Side, Skip),
        question: &Question<'_>,
        places: &[Place],
        at: (Consistency, i32),
    ) -> Result<Vec<Seen>, Skip> {
        let mut rows = Vec::with_capacity(places.len());
        for place in places {
            let answer = self.line(side).look(&question.text, &Question::values(place), at).await;
            rows.push(answer.and_then(|answer| question.seen(&answer)).map_err(|_| failed)?);
        }
        Ok(rows)
    }

    fn line(&self, side: Side) -> &Line {
        &self.lines[side.index()]
    }
}

impl shadow::Repeater for Repeater {
    type Read = Read;

    async fn repeat(&self, read: &Read, causal: &Causal) -> Repeated {
        let skipped = |why| Repeated { latency: std::time::Duration::ZERO, verdict: Verdict::Skipped(why) };
        self.repeat_once(read, causal).await.unwrap_or_else(skipped)
    }

    async fn recheck(&self, read: &Read, causal: &Causal) -> Rechecked {
        self.recheck_once(read, causal).await.unwrap_or_else(Rechecked::Skipped)
    }

    fn question(&self, read: &Read) -> u64 {
        read.question()
    }

    /// tandem asks as itself, whoever asked.
    fn asker(&self, _: &Read) -> u64 {
        0
    }
}

/// Tokens are in the same order on both.
fn alike_rings(primary: &Cluster, secondary: &Cluster) -> bool {
    primary.facts().partitioner == secondary.facts().partitioner
}

fn of_primary(answer: &Result<Answer, ClientError>) -> Result<Said<'_>, Skip> {
    match said(answer) {
        Ok(Said::Failed(_)) | Err(_) => Err(Skip::PrimaryFailed),
        said => said,
    }
}

/// What the secondary is like.
struct Others<'o> {
    tables: &'o Tables,
    /// Its tokens are in the primary's order.
    alike: bool,
}

/// A read whose answers are compared.
struct Case<'r> {
    reading: Reading<'r>,
    read: &'r Read,
    values: Values<'r>,
    limit: Option<usize>,
    settings: &'r Handle<Read>,
}

impl<'r> Case<'r> {
    fn of(
        read: &'r Read,
        tables: &Tables,
        asked: &Parameters<'r>,
        settings: &'r Handle<Read>,
    ) -> Result<Case<'r>, Skip> {
        let reading = Reading::of(&read.known, tables)?;
        let values = asked.values.unwrap_or(Values::Given(&[]));
        let limit = reading.limit(|number| Assigned::new(&read.known.statement, values).bytes(number));
        Ok(Case { reading, read, values, limit, settings })
    }

    /// How one answer of each side compare: `None` if they are alike.
    fn verdict(&self, ours: &Said<'_>, theirs: &Said<'_>, others: &Others<'_>) -> Result<Option<Difference>, Skip> {
        match (ours, theirs) {
            (_, Said::Failed(code)) => Err(failed(*code)),
            (Said::Refused(ours), Said::Refused(theirs)) if ours == theirs => Ok(None),
            (Said::Refused(_), _) | (_, Said::Refused(_)) => Ok(Some(self.other_error())),
            (Said::Rows(ours), Said::Rows(theirs)) => {
                let (ours, theirs) = (self.sheet(ours)?, self.sheet(theirs)?);
                let ground = Ground::of(self, &theirs);
                let differing = ground.types_in_schema(&ours, others.tables);
                let compared = match differing.is_empty() {
                    true => ground.with(|terms| compare(terms, &ours, &theirs)),
                    false => Compared::Types(differing),
                };
                ground.told(compared, &theirs, others)
            }
            _ => Err(Skip::Unsupported),
        }
    }

    /// What the primary's answers before and after the secondary's say of it. `is_quiet`: nothing was written meanwhile.
    fn decide(
        &self,
        (before, after): (&Said<'_>, &Said<'_>),
        theirs: &Said<'_>,
        others: &Others<'_>,
        is_quiet: bool,
    ) -> Result<Rechecked, Skip> {
        let moved = if is_quiet { Rechecked::Noise } else { Rechecked::Moved };
        let (Said::Rows(ours), Said::Rows(last), Said::Rows(theirs)) = (before, after, theirs) else {
            let [first, last] = [before, after].map(|ours| self.verdict(ours, theirs, others));
            return Ok(match (first?, last?) {
                (None, _) | (_, None) => Rechecked::InFlight,
                (Some(_), Some(found)) if is_same_kind(before, after) => Rechecked::Again(found),
                _ => moved,
            });
        };
        let (ours, last, theirs) = (self.sheet(ours)?, self.sheet(last)?, self.sheet(theirs)?);
        let ground = Ground::of(self, &theirs);
        match ground.with(|terms| compare::settle(terms, (&ours, &last), &theirs)) {
            Settled::Alike => Ok(Rechecked::InFlight),
            Settled::Moving => Ok(moved),
            Settled::Differs(found) => {
                Ok(ground.told(found, &theirs, others)?.map_or(Rechecked::InFlight, Rechecked::Again))
            }
        }
    }

    fn sheet<'a>(&self, rows: &crate::protocol::cql::wire::response::Rows<'a>) -> Result<Sheet<'a>, Skip> {
        Sheet::of(rows, self.limit).map_err(|_| Skip::Unsupported)
    }

    fn name(&self) -> String {
        let shape = &self.reading.table.shape;
        format!("{}.{}", shape.keyspace, shape.name)
    }

    /// Not of rows: nothing that the mirror could mend.
    fn of_statement(&self, how: How, columns: Vec<String>) -> Difference {
        let name = self.name();
        Difference { how, table: None, name, key_hash: None, columns, keys: Vec::new(), shown: None }
    }

    fn other_error(&self) -> Difference {
        self.of_statement(How::OtherError, Vec::new())
    }

    /// Where a row is.
    fn place(&self, fields: &[Field], cells: &[Option<&[u8]>]) -> Option<Place> {
        let assigned = Assigned::new(&self.read.known.statement, self.values);
        self.reading.place(fields, cells, |number| assigned.bytes(number))
    }
}

/// Both primary's answers are rows, or both the same refusal.
fn is_same_kind(before: &Said<'_>, after: &Said<'_>) -> bool {
    match (before, after) {
        (Said::Rows(_), Said::Rows(_)) => true,
        (Said::Refused(before), Said::Refused(after)) => before == after,
        _ => false,
    }
}

/// Why a server did not execute what it executes at other times.
fn failed(code: u32) -> Skip {
    match code {
        code::UNAUTHORIZED => Skip::NotAllowed,
        code::READ_TIMEOUT => Skip::Timeout,
        _ => Skip::SecondaryFailed,
    }
}

impl From<Unfit> for Skip {
    fn from(unfit: Unfit) -> Skip {
        match unfit {
            Unfit::NotMirrored => Skip::NotMirrored,
            Unfit::Volatile => Skip::Volatile,
            Unfit::NotComparable => Skip::Unsupported,
        }
    }
}

/// Of one place its own; `None`: not all of them can be told.
fn hash_of_places(places: &[Option<Place>]) -> Option<u64> {
    let hash = |place: &Option<Place>| place.as_ref().map(|at| hash_of(at.partition.iter().chain(&at.clustering)));
    let mut hashes: Vec<u64> = places.iter().map(hash).collect::<Option<_>>()?;
    hashes.sort_unstable();
    hashes.dedup();
    match &hashes[..] {
        [] => None,
        [one] => Some(*one),
        several => Some(hash_of(several.iter().map(|hash| hash.to_be_bytes()))),
    }
}

/// What answers with these columns are compared by.
struct Ground<'c, 'r> {
    case: &'c Case<'r>,
    fields: Vec<Field>,
    ignored: Vec<bool>,
    identity: Option<Vec<usize>>,
}

impl<'c, 'r> Ground<'c, 'r> {
    fn of(case: &'c Case<'r>, theirs: &Sheet<'_>) -> Ground<'c, 'r> {
        let names = theirs.names();
        let fields = case.reading.fields(&names);
        let settings = case.settings.settings();
        let shape = &case.reading.table.shape;
        let is_ignored = |(field, shown): (&Field, &&str)| {
            let column = field.column.as_deref().unwrap_or(shown);
            let named = [format!("{}.{}.{column}", shape.keyspace, shape.name), format!("{}.{column}", shape.name)];
            settings.as_ref().is_some_and(|settings| named.iter().any(|name| settings.ignore.has(name)))
        };
        let ignored = fields.iter().zip(&names).map(is_ignored).collect();
        let identity = case.reading.identity(&fields);
        Ground { case, fields, ignored, identity }
    }

    fn with<T>(&self, work: impl FnOnce(&Terms<'_>) -> T) -> T {
        work(&Terms {
            fields: &self.fields,
            ignored: &self.ignored,
            identity: self.identity.as_deref(),
            is_ordered: self.case.reading.is_ordered(),
        })
    }

    /// Columns that have other types on both sides, where the primary's answer does not tell its own.
    fn types_in_schema(&self, ours: &Sheet<'_>, tables: &Tables) -> Vec<String> {
        let shape = &self.case.reading.table.shape;
        let Some(other) = tables.table(&shape.keyspace, &shape.name).filter(|_| ours.names().is_empty()) else {
            return Vec::new();
        };
        let shown = self.fields.iter().filter_map(|field| field.column.as_deref());
        let differs = |name: &&str| {
            let (here, there) = (shape.column(name), other.shape.column(name));
            here.zip(there).is_some_and(|(here, there)| here.cql_type != there.cql_type)
        };
        shown.filter(differs).map(str::to_owned).collect()
    }

    /// What was found, in the core's words.
    fn told(
        &self,
        compared: Compared<'_>,
        theirs: &Sheet<'_>,
        others: &Others<'_>,
    ) -> Result<Option<Difference>, Skip> {
        match compared {
            Compared::Alike => Ok(None),
            Compared::Undecided => Err(Skip::RowLimit),
            Compared::Types(columns) => Ok(Some(self.case.of_statement(How::OtherType, columns))),
            Compared::Order => Ok(Some(self.case.of_statement(How::OtherOrder, Vec::new()))),
            // Which rows come first is another question on each side.
            Compared::Rows(_) if theirs.goes_on() && !others.alike && !self.case.reading.is_ordered() => {
                Err(Skip::RowLimit)
            }
            Compared::Rows(rows) => Ok(Some(self.of_rows(&rows, theirs))),
        }
    }

    fn of_rows(&self, rows: &[Deviation<'_>], theirs: &Sheet<'_>) -> Difference {
        let how = rows.first().map_or(How::OtherValue, |first| match (first.ours, first.theirs) {
            (Some(_), None) => How::MissingRow,
            (None, Some(_)) => How::ExtraRow,
            _ => How::OtherValue,
        });
        let names = theirs.names();
        let named = |at: &usize| names.get(*at).map(|name| (*name).to_owned());
        let mut columns: Vec<String> = rows.iter().flat_map(|row| &row.columns).filter_map(named).collect();
        columns.sort_unstable();
        columns.dedup();
        let places: Vec<Option<Place>> = rows.iter().map(|row| self.place(row)).collect();
        let key = |place: &Option<Place>| Some(place.as_ref()?.encode()?.to_vec().into_boxed_slice());
        let mut keys: Vec<Box<[u8]>> = places.iter().map(key).collect::<Option<_>>().unwrap_or_default();
        keys.sort_unstable();
        keys.dedup();
        let first = places.iter().flatten().next();
        Difference {
            how,
            table: Some(self.case.reading.table.label),
            name: self.case.name(),
            key_hash: hash_of_places(&places),
            columns,
            keys,
            shown: rows.first().map(|row| Box::new(shown::rows(row, first, theirs, &self.case.reading.table.shape))),
        }
    }

    /// What to ask of the rows in dispute. `None`: what differs is not what a cell holds.
    fn question<'k>(&'k self, disputed: &[Deviation<'_>], kinds: &[(&'k Type, &'k Type)]) -> Option<Question<'k>> {
        let shape = &self.case.reading.table.shape;
        let is_key = |column: &Column| matches!(column.role, Role::Partition(_) | Role::Clustering(_));
        let column = |at: usize| {
            let field = self.fields.get(at).filter(|field| field.form == Form::Exact && !self.ignored[at])?;
            shape.column(field.column.as_deref()?)
        };
        if disputed.iter().flat_map(|row| &row.columns).any(|at| column(*at).is_none_or(is_key)) {
            return None;
        }
        let looked = |(at, kinds): (usize, &(&'k Type, &'k Type))| {
            let column = column(at).filter(|column| !is_key(column))?;
            Some(Looked { column, kinds: *kinds })
        };
        Some(Question::of(shape, kinds.iter().enumerate().filter_map(looked).collect()))
    }

    /// What the looks at the rows in dispute say of the read.
    fn judged(&self, disputed: &[Deviation<'_>], judged: Vec<Judged>, theirs: &Sheet<'_>) -> Rechecked {
        let (mut rows, mut first) = (Vec::new(), None);
        let all_alike = judged.len() == disputed.len() && judged.iter().all(|judged| *judged == Judged::Alike);
        for (row, judged) in disputed.iter().zip(judged) {
            if let Judged::Differs(how, columns) = judged {
                rows.push(row.clone());
                first.get_or_insert((how, columns));
            }
        }
        match first {
            Some((how, columns)) => Rechecked::Again(Difference { how, columns, ..self.of_rows(&rows, theirs) }),
            None if all_alike => Rechecked::InFlight,
            None => Rechecked::Moved,
        }
    }

    /// Where a row is; `None`: the answer does not tell all of its key.
    fn row(&self, row: &Deviation<'_>) -> Option<Place> {
        let clustering = self.case.reading.table.shape.clustering().count();
        self.place(row).filter(|place| place.clustering.len() == clustering)
    }

    fn place(&self, row: &Deviation<'_>) -> Option<Place> {
        let cells: Vec<Option<&[u8]>> = row.ours.or(row.theirs)?.iter().collect();
        self.case.place(&self.fields, &cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::place::Extent;

    #[test]
    fn rows_have_another_hash_with_each_row_that_is_among_them() {
        let place =
            |value: u8| Some(Place { extent: Extent::Row, partition: vec![vec![1]], clustering: vec![vec![value]] });
        assert_eq!(hash_of_places(&[place(1)]), Some(hash_of([[1], [1]])));
        assert!(hash_of_places(&[place(1), place(2)]) != hash_of_places(&[place(1), place(3)]));
        assert_eq!(hash_of_places(&[place(1), place(2)]), hash_of_places(&[place(2), place(1)]));
        assert_eq!((hash_of_places(&[place(1), None]), hash_of_places(&[])), (None, None));
    }
}
