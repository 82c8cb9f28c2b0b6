//! Shadow reads on PostgreSQL.
//!
//! ```text
//!  session: a SELECT that the data decides (analysis/read.rs) --> its bytes and the client's answer are kept
//!  here:    the secondary's plan of it (checked.rs) --> the same bytes, in a READ ONLY transaction --> compare.rs
//!           a difference --> twins: both sides at one state, the primary twice --> in flight, noise, or real
//! ```
//!
//! The secondary is asked as the client is known there, or by tandem's own role with SET ROLE, on connections that began
//! with the client's start-up parameters; what the session set since is set again in the same transaction, which is
//! rolled back. So nothing is left on a connection, and it can be used for the next read of the same kind of client.
//!
//! Settings can be missed (a trigger may set some). That costs a look at the twins and never an alarm: both of them are
//! asked in the same way, and only what differs between them is a difference. Nor is it a sign that they are alike: where
//! nobody wrote, and the primary shows the client something else than us, nothing was compared.

mod answer;
mod asked;
mod backends;
mod checked;
mod compare;
mod leeway;
pub(super) mod link;
mod normal;
mod role;
mod told;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::config;
use crate::mirror::Twins;
use crate::record::{Side, TableId};
use crate::shadow::{self, Causal, Difference, Rechecked, Repeated, Skip, Verdict};

use super::lexer::hash;
use super::shared::Shared;
use super::{scope::Scope, servers::Servers};

use answer::Answer;
pub(super) use asked::{Asked, Asker, Form};
pub(super) use backends::Backends;
use checked::Plans;
use compare::{Compared, Question, compare};
use link::{Failed, Link, Pool};
use told::Told;

/// How long a loan of twins is waited for.
const LOAN_MAX: Duration = Duration::from_secs(5);

/// Asks the secondary what clients asked the primary, and compares.
pub struct Repeater {
    shared: Arc<Shared>,
    pool: Pool,
    plans: Plans,
    twins: Twins,
    /// With the origin as the primary, and with the target.
    scopes: [Scope; 2],
    config: config::Shadow,
}

impl Repeater {
    pub(super) fn new(shared: Arc<Shared>, servers: Arc<Servers>, twins: Twins, config: &config::Config) -> Repeater {
        let shadow = config.shadow.clone();
        Repeater {
            pool: Pool::new(servers, shared.clone(), shadow.workers),
            plans: Plans::default(),
            scopes: [Side::Origin, Side::Target].map(|primary| Scope::of(config, primary)),
            shared,
            twins,
            config: shadow,
        }
    }

    /// Ask the secondary.
    async fn ask_once(&self, asked: &Asked, side: Side) -> Result<(Answer, Duration), Skip> {
        let limit = self.config.timeout;
        let place = asked.planned_on(side);
        let known = self.plans.look_up(place, self.shared.catalog.now().epoch);
        known.transpose()?;
        let scope = &self.scopes[usize::from(side == Side::Origin)];
        self.is_alike(asked, scope)?;
        let mut link = self.pool.link(side, &asked.asker).await.map_err(Failed::of_secondary)?;
        link.begin(asked, limit).await.map_err(Failed::of_secondary)?;
        if known.is_none() {
            match link.explain(asked).await.map_err(Failed::of_secondary)? {
                Some(plan) => {
                    let bounds = (scope, self.config.max_cost);
                    self.plans.check((place, asked), &plan, &self.shared.catalog.now(), bounds)?;
                }
                // It has no plan: what is wrong with it, its answer says.
                None => link.begin_again(asked, limit).await.map_err(Failed::of_secondary)?,
            }
        }
        let said = link.ask(asked, self.config.max_answer.bytes()).await.map_err(Failed::of_secondary)?;
        self.pool.give_back(link).await;
        Ok(said)
    }

    /// The secondary knows the tables by the same names, and has all of their rows.
    fn is_alike(&self, asked: &Asked, scope: &Scope) -> Result<(), Skip> {
        if scope.is_plain() {
            return Ok(());
        }
        let catalog = self.shared.catalog.now();
        let mut tables = asked.read.tables.iter().filter_map(|&table| catalog.relation(table));
        if tables.all(|table| scope.is_alike(&table.shown())) { Ok(()) } else { Err(Skip::NotMirrored) }
    }

    async fn compare_once(&self, asked: &Asked, causal: &Causal) -> Result<Repeated, Skip> {
        let primary = Answer::read(asked.answer.clone()).map_err(|_| Skip::Unsupported)?;
        comparable(&primary, Failed::of_primary)?;
        if primary.suspended {
            return Err(Skip::RowLimit);
        }
        let (secondary, latency) = self.ask_once(asked, causal.secondary()).await?;
        comparable(&secondary, Failed::of_secondary)?;
        let verdict = match self.compared((asked, causal), &primary, &secondary) {
            Ok(None) => Verdict::Match,
            Ok(Some(difference)) => Verdict::Differs(difference),
            Err(why) => Verdict::Skipped(why),
        };
        Ok(Repeated { latency, verdict })
    }

    /// `None`: they are alike.
    fn compared(
        &self,
        (asked, causal): (&Asked, &Causal),
        primary: &Answer,
        secondary: &Answer,
    ) -> Result<Option<Difference>, Skip> {
        let catalog = self.shared.catalog.now();
        let settings = self.shared.shadow.settings();
        let ignore = settings.as_ref().map(|settings| &settings.ignore);
        let told = Told::new(&asked.read, primary, &catalog, ignore);
        let leeway = self.plans.leeway(asked.planned_on(causal.secondary()));
        let question =
            Question { read: &asked.read, leeway, ignored: &told.ignored, looks: &told.looks, key: &told.key };
        match compare(&question, primary, secondary) {
            Compared::Equal => Ok(None),
            Compared::Ties => Err(Skip::Ties),
            Compared::Differs(found) => Ok(Some(told.difference(&found, primary, secondary))),
        }
    }

    /// Both sides at one state.
    async fn on_twins(&self, asked: &Asked, causal: &Causal) -> Result<Rechecked, Skip> {
        let (mut here, mut there) = self.twins_of(asked, causal).await?.ok_or(Skip::Moving)?;
        let bytes = self.config.max_answer.bytes();
        let (first, second) = tokio::join!(here.ask(asked, bytes), there.ask(asked, bytes));
        let (first, second) = (first.map_err(Failed::of_primary)?.0, second.map_err(Failed::of_secondary)?.0);
        comparable(&first, Failed::of_primary)?;
        comparable(&second, Failed::of_secondary)?;
        if !is_told_alike(asked, &first) {
            // Both may be alike, and nothing was compared.
            return Err(if here.has_role() { Skip::NotAllowed } else { Skip::Unsupported });
        }
        let Some(difference) = self.compared((asked, causal), &first, &second)? else {
            self.pool.give_back(here).await;
            self.pool.give_back(there).await;
            let misled = causal.is_quiet() && !self.is_what_was_told((asked, causal), &first);
            return if misled { Err(Skip::Unsupported) } else { Ok(Rechecked::InFlight) };
        };
        // What was emptied since shows neither side's state, whoever emptied it: clients, or a payment.
        if second.error.is_none() && there.is_rewritten().await.map_err(Failed::of_secondary)? {
            return Ok(Rechecked::Moved);
        }
        self.pool.give_back(there).await;
        // An error ended the transaction, and with it the state: it does not come by chance.
        if first.error.is_none() {
            let again = here.ask(asked, bytes).await.map_err(Failed::of_primary)?.0;
            if !matches!(self.compared((asked, causal), &first, &again), Ok(None)) {
                return Ok(Rechecked::Noise);
            }
            if here.is_rewritten().await.map_err(Failed::of_primary)? {
                return Ok(Rechecked::Moved);
            }
        }
        self.pool.give_back(here).await;
        Ok(Rechecked::Persists(difference))
    }

    /// The primary gives us what it gave to the client. Where it does not, and nobody wrote, we do not ask as the client did, and
    /// that both sides are alike then says nothing of what he would see.
    fn is_what_was_told(&self, (asked, causal): (&Asked, &Causal), now: &Answer) -> bool {
        let Ok(mut told) = Answer::read(asked.answer.clone()) else { return false };
        // Who prepared a statement knows its columns from before.
        told.columns = told.columns.or_else(|| now.columns.clone());
        !matches!(self.compared((asked, causal), &told, now), Ok(Some(_)))
    }

    /// A connection to each side, both inside transactions that see the same state; `None`: it was lent too late.
    async fn twins_of(&self, asked: &Asked, causal: &Causal) -> Result<Option<(Link, Link)>, Skip> {
        let here = self.pool.link(causal.primary(), &asked.asker);
        let there = self.pool.link(causal.secondary(), &asked.asker);
        let (here, there) = tokio::join!(here, there);
        let (mut here, mut there) = (here.map_err(Failed::of_primary)?, there.map_err(Failed::of_secondary)?);
        let Ok(Some(loan)) = timeout(LOAN_MAX.min(self.config.wait), self.twins.borrow()).await else {
            return Ok(None);
        };
        let opened = tokio::join!(here.open_at(&loan.primary), there.open_at(&loan.secondary));
        // From here on the mirror goes on.
        drop(loan);
        if opened.0.is_err() || opened.1.is_err() {
            return Ok(None);
        }
        let limit = self.config.timeout;
        let (one, other) = tokio::join!(here.set(asked, limit), there.set(asked, limit));
        one.map_err(Failed::of_primary)?;
        other.map_err(Failed::of_secondary)?;
        Ok(Some((here, there)))
    }
}

impl shadow::Repeater for Repeater {
    type Read = Asked;

    async fn repeat(&self, read: &Asked, causal: &Causal) -> Repeated {
        let began = Instant::now();
        let compared = self.compare_once(read, causal).await;
        compared.unwrap_or_else(|why| Repeated { latency: began.elapsed(), verdict: Verdict::Skipped(why) })
    }

    async fn recheck(&self, read: &Asked, causal: &Causal) -> Rechecked {
        match self.on_twins(read, causal).await {
            Ok(rechecked) => rechecked,
            // There were no twins this time.
            Err(Skip::Moving) => Rechecked::Moved,
            Err(why) => Rechecked::Skipped(why),
        }
    }

    fn question(&self, read: &Asked) -> u64 {
        read.question()
    }

    fn shown_by(&self, tables: &[TableId]) -> Vec<TableId> {
        self.shared.catalog.now().shown_by(tables)
    }

    fn asker(&self, read: &Asked) -> u64 {
        hash(read.asker.user.as_bytes())
    }
}

/// The primary refuses us what it gave to the client, gives what it refused, or for another reason: we were not asking as the
/// client does, or its schema is another by now.
fn is_told_alike(asked: &Asked, now: &Answer) -> bool {
    let told = Answer::read(asked.answer.clone());
    let class = |answer: &Answer| answer.error.as_deref().map(|code| compare::class(code).to_owned());
    told.is_ok_and(|told| class(&told) == class(now))
}

/// An error that says something of the moment, and nothing of the data, is no answer.
fn comparable(answer: &Answer, of_side: fn(Failed) -> Skip) -> Result<(), Skip> {
    match answer.error.as_deref().and_then(Failed::of_code) {
        Some(failed) => Err(of_side(failed)),
        None => Ok(()),
    }
}
