//! The control state: which side answers clients, and whether a walk is under way. What is true after a crash is what is
//! written here.
//!
//! A [`Store`] keeps one value and replaces it if it is still the one that was read (compare and swap). The answer may
//! be lost: a replacement that failed may have been made, and may even be made later, when a slow disk or network
//! delivers it. [`Known`] is how the switch uses a store, and has one rule for all of that: what is in doubt is loaded
//! *and written once more*. Only the success of that second write is knowledge. It moves the revision, so that whatever
//! was under way can no longer land, and it is durable, which what was merely read need not be: the value that a dead
//! process left may be seen before its directory entry is on the disk.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::mirror::durable::{self, Durable};
use crate::record::Side;

use super::gate::Route;

/// What decides after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Counts the flips, from 1.
    pub epoch: u64,
    /// The side that answers clients.
    pub primary: Side,
    /// Position in the journal of the last flip: what is below is on both sides, from here on the other side is owed.
    pub since: u64,
    /// A walk began, and nobody said that it is over.
    pub walk: Option<Walk>,
}

/// A walk under way. It has not reached its flip: that clears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// The side that shall answer clients.
    pub to: Side,
}

impl Default for Control {
    /// Before the first switch.
    fn default() -> Control {
        Control { epoch: 1, primary: Side::Origin, since: 0, walk: None }
    }
}

impl Control {
    /// What units run on.
    pub fn route(&self, mirror: bool) -> Route {
        Route { primary: self.primary, mirror, epoch: self.epoch }
    }

    /// A walk to the other side is under way.
    pub(super) fn walking(self) -> Control {
        Control { walk: Some(Walk { to: self.primary.other() }), ..self }
    }

    /// The walk is over, and nothing came of it.
    pub(super) fn cleared(self) -> Control {
        Control { walk: None, ..self }
    }

    /// The walk is over, and the other side answers from this position on.
    pub(super) fn flipped(self, since: u64) -> Control {
        Control { epoch: self.epoch + 1, primary: self.primary.other(), since, walk: None }
    }
}

/// Says which value was read. Every replacement moves it, also one by the same value; none comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// Why the control state was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("the control state cannot be read: {0}")]
    Unreadable(String),
    /// It was not written, and will not be.
    #[error("the control state was not written: {0}")]
    NotWritten(String),
    /// It may have been written, or be written yet.
    #[error("nobody knows whether the control state was written: {0}")]
    InDoubt(String),
    /// Another revision was there; nothing was written.
    #[error("the control state changed meanwhile")]
    Conflict,
    /// Another process changed it.
    #[error(
        "another process changed the control state: epoch {epoch}, primary {primary}; one tandem at a time may use it"
    )]
    Foreign {
        /// The epoch found.
        epoch: u64,
        /// The primary found.
        primary: Side,
    },
}

/// Where the control state lives. A store that was never written holds the default at the revision 0.
pub trait Store: Send + Sync {
    /// The value, and which it is.
    fn load(&self) -> impl Future<Output = Result<(Revision, Control), Error>> + Send;

    /// Make `control` the value, durably, if the revision is still `expected`; the revision that it got. Not cancel
    /// safe: dropped, it is in doubt.
    fn replace(&self, expected: Revision, control: Control) -> impl Future<Output = Result<Revision, Error>> + Send;
}

/// The control state as this process knows it. One owner.
pub struct Known<S> {
    store: S,
    revision: Revision,
    control: Control,
    /// A replacement that nobody knows to have been made or not.
    doubt: Option<Control>,
}

/// What an earlier process left, for one that switches nothing. It is written once more, as by [`Known::recover`]: what is only
/// read may not be durable, and clients are about to rely on it. Where it cannot be written it is relied on all the same: that is the
/// way out when the disk is full. What was never written is left so.
///
/// # Errors
/// It cannot be read, or another process changes it.
pub async fn settled(store: impl Store) -> Result<Control, Error> {
    let (revision, control) = store.load().await?;
    if revision == Revision::default() {
        return Ok(control);
    }
    match store.replace(revision, control).await {
        Err(error @ (Error::NotWritten(_) | Error::InDoubt(_))) => {
            let then = "a power loss now may bring back the side that answered before";
            tracing::error!(%error, primary = %control.primary, "{then}");
            Ok(control)
        }
        replaced => replaced.map(|_| control),
    }
}

impl<S: Store> Known<S> {
    /// What an earlier process left. Whatever it had under way cannot land any more when this resolves.
    pub async fn recover(store: S) -> Result<Known<S>, Error> {
        let (revision, control) = store.load().await?;
        let revision = store.replace(revision, control).await?;
        Ok(Known { store, revision, control, doubt: None })
    }

    /// What was true when it was known last.
    pub fn control(&self) -> Control {
        self.control
    }

    /// Make this the control state. After [`Error::NotWritten`] it is not; after any other error [`Known::confirm`]
    /// tells. Cancelled, it is in doubt too.
    pub async fn replace(&mut self, control: Control) -> Result<(), Error> {
        if self.doubt.is_some() {
            self.confirm().await?;
        }
        self.doubt = Some(control);
        let replaced = self.store.replace(self.revision, control).await;
        if let Err(Error::NotWritten(_)) = replaced {
            self.doubt = None;
        }
        self.know(replaced?, control);
        Ok(())
    }

    /// Learn what is there, and that it stays. Cancel safe.
    pub async fn confirm(&mut self) -> Result<Control, Error> {
        let (revision, control) = self.store.load().await?;
        if control != self.control && Some(control) != self.doubt {
            return Err(Error::Foreign { epoch: control.epoch, primary: control.primary });
        }
        let revision = self.store.replace(revision, control).await?;
        self.know(revision, control);
        Ok(control)
    }

    fn know(&mut self, revision: Revision, control: Control) {
        (self.revision, self.control, self.doubt) = (revision, control, None);
    }
}

/// The file's name in the data directory; `control` is the journal's.
const FILE: &str = "switch-control";

/// A file `control` in the data directory. The directory's lock keeps other processes away (see the journal), and one
/// thing at a time is done to the file: what was begun and then dropped is over before the next begins.
#[derive(Clone)]
pub struct InFile {
    file: Durable,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Stored {
    revision: Revision,
    control: Control,
}

impl InFile {
    /// In this directory, which exists.
    pub fn in_dir(dir: &Path) -> InFile {
        InFile { file: Durable::in_dir(dir, FILE), turn: Arc::default() }
    }

    /// Where in the journal the last flip was; `None`: nothing was ever written.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn since(&self) -> Result<Option<u64>, Error> {
        let (revision, control) = self.load().await?;
        Ok((revision != Revision::default()).then_some(control.since))
    }

    /// Do it where blocking harms nobody. The turn goes along: dropping the future ends the waiting, not the doing.
    async fn aside<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Durable) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let turn = self.turn.clone().lock_owned().await;
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&file)
        });
        done.await.unwrap_or_else(|ended| Err(Error::InDoubt(ended.to_string())))
    }
}

impl Store for InFile {
    async fn load(&self) -> Result<(Revision, Control), Error> {
        let stored = self.aside(read).await?;
        Ok((stored.revision, stored.control))
    }

    async fn replace(&self, expected: Revision, control: Control) -> Result<Revision, Error> {
        self.aside(move |file| swap(file, expected, control)).await
    }
}

fn read(file: &Durable) -> Result<Stored, Error> {
    let stored = file.load().map_err(|error| match error {
        durable::Error::Damaged { path, why } => Error::Unreadable(damaged(&path, &why)),
        error => Error::Unreadable(error.to_string()),
    })?;
    Ok(stored.unwrap_or_default())
}

/// Without it clients are sent to the origin, which may have been left long ago.
fn damaged(path: &Path, why: &str) -> String {
    format!(
        "{} is damaged ({why}). It says which side answers clients: without it, that is the origin. The log of the last start \
         says which side was primary. If it was the target, exchange [origin] and [target] in proxy.toml; then begin with an \
         empty journal.dir, and verify and repair every table",
        path.display()
    )
}

fn swap(file: &Durable, expected: Revision, control: Control) -> Result<Revision, Error> {
    if read(file).map_err(|error| Error::NotWritten(error.to_string()))?.revision != expected {
        return Err(Error::Conflict);
    }
    let revision = Revision(expected.0 + 1);
    let Err(error) = file.save(&Stored { revision, control }) else { return Ok(revision) };
    // The new file is seen only when the rename was made; what failed then is making that durable.
    match read(file) {
        Ok(stored) if stored.revision == expected => Err(Error::NotWritten(error.to_string())),
        _ => Err(Error::InDoubt(error.to_string())),
    }
}

/// In memory: outlives its owner, not the process. Clones share it. For tests, and for a proxy that mirrors nothing.
#[derive(Clone, Default)]
pub struct InMemory {
    stored: Arc<Mutex<Stored>>,
}

impl Store for InMemory {
    async fn load(&self) -> Result<(Revision, Control), Error> {
        let stored = *self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((stored.revision, stored.control))
    }

    async fn replace(&self, expected: Revision, control: Control) -> Result<Revision, Error> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.revision != expected {
            return Err(Error::Conflict);
        }
        *stored = Stored { revision: Revision(expected.0 + 1), control };
        Ok(stored.revision)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// The contract, for each implementation: something that opens the same store again and again.
    async fn contract<S: Store>(open: impl Fn() -> S) {
        let fresh = open();
        assert_eq!(fresh.load().await, Ok((Revision(0), Control::default())), "never written, it holds the default");

        let walking = Control::default().walking();
        let first = fresh.replace(Revision(0), walking).await.expect("written");
        assert_eq!(open().load().await, Ok((first, walking)), "what was written is read by the next");

        let stale = open().replace(Revision(0), Control::default()).await;
        assert_eq!(stale, Err(Error::Conflict), "an old revision replaces nothing");
        assert_eq!(open().load().await, Ok((first, walking)));

        let second = open().replace(first, walking).await.expect("written");
        assert!(second > first, "the same value is a new revision");
        assert_eq!(fresh.replace(first, Control::default()).await, Err(Error::Conflict));
        let third = fresh.replace(second, walking.flipped(700)).await.expect("written");
        assert_eq!(open().load().await, Ok((third, walking.flipped(700))));

        let (one, other) = (fresh.replace(third, walking), fresh.replace(third, Control::default()));
        let both = futures_util::future::join(one, other).await;
        assert!(matches!(both, (Ok(_), Err(Error::Conflict)) | (Err(Error::Conflict), Ok(_))), "one wins: {both:?}");

        let (revision, _) = fresh.load().await.expect("readable");
        // Polled once: perhaps it is under way, perhaps it was never begun.
        let dropped = fresh.replace(revision, walking.flipped(900)).now_or_never();
        let (after, control) = fresh.load().await.expect("readable");
        assert_eq!(fresh.load().await, Ok((after, control)), "what is read stays, whatever was dropped before");
        assert!(after > revision || dropped.is_none());
    }

    #[tokio::test]
    async fn a_store_in_memory_keeps_the_contract() {
        let store = InMemory::default();
        contract(|| store.clone()).await;
    }

    #[tokio::test]
    async fn a_store_in_a_file_keeps_the_contract() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = InFile::in_dir(dir.path());
        contract(|| store.clone()).await;
        let again = InFile::in_dir(dir.path());
        assert_eq!(again.load().await, store.load().await);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_says_that_it_was_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = InFile::in_dir(dir.path());
        let revision = store.replace(Revision(0), Control::default()).await.expect("written");
        // In the way of the temporary file, for root too.
        std::fs::create_dir(dir.path().join(format!("{FILE}.new"))).expect("made");
        let refused = store.replace(revision, Control::default().walking()).await;
        assert!(matches!(refused, Err(Error::NotWritten(_))), "{refused:?}");
        assert_eq!(store.load().await, Ok((revision, Control::default())));
    }

    #[tokio::test]
    async fn a_damaged_file_is_no_control_state() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join(FILE), b"half").expect("written");
        let recovered = Known::recover(InFile::in_dir(dir.path())).await;
        let Err(Error::Unreadable(why)) = recovered.map(|known| known.control()) else { panic!("it was read") };
        assert!(why.contains("exchange [origin] and [target]"), "who removes it is sent to the origin: {why}");
    }

    /// What becomes of the next replacement.
    #[derive(Clone, Copy)]
    enum Fault {
        /// It is not made, and nobody says so.
        Before,
        /// It is made, and nobody says so.
        After,
        /// It is made only when somebody calls [`Faulty::deliver`].
        Late,
    }

    #[derive(Clone, Default)]
    struct Faulty {
        store: InMemory,
        fault: Arc<Mutex<Option<Fault>>>,
        late: Arc<Mutex<Option<(Revision, Control)>>>,
    }

    impl Faulty {
        fn next(&self, fault: Fault) {
            *self.fault.lock().expect("no test panics with it") = Some(fault);
        }

        async fn deliver(&self) -> Result<Revision, Error> {
            let late = self.late.lock().expect("no test panics with it").take();
            let (revision, control) = late.expect("one was late");
            self.store.replace(revision, control).await
        }
    }

    impl Store for Faulty {
        async fn load(&self) -> Result<(Revision, Control), Error> {
            self.store.load().await
        }

        async fn replace(&self, expected: Revision, control: Control) -> Result<Revision, Error> {
            let fault = self.fault.lock().expect("no test panics with it").take();
            match fault {
                None => return self.store.replace(expected, control).await,
                Some(Fault::Before) => {}
                Some(Fault::After) => drop(self.store.replace(expected, control).await),
                Some(Fault::Late) => {
                    *self.late.lock().expect("no test panics with it") = Some((expected, control));
                }
            }
            Err(Error::InDoubt("no answer".to_owned()))
        }
    }

    async fn doubtful(fault: Fault) -> (Faulty, Known<Faulty>) {
        let store = Faulty::default();
        let mut known = Known::recover(store.clone()).await.expect("readable");
        store.next(fault);
        let flip = known.control().flipped(700);
        assert!(matches!(known.replace(flip).await, Err(Error::InDoubt(_))));
        assert_eq!(known.control(), Control::default(), "in doubt, what was known stays known");
        (store, known)
    }

    #[tokio::test]
    async fn a_lost_answer_is_known_after_it_was_looked_at() {
        let (_, mut known) = doubtful(Fault::Before).await;
        assert_eq!(known.confirm().await, Ok(Control::default()));
        let (_, mut known) = doubtful(Fault::After).await;
        assert_eq!(known.confirm().await, Ok(Control::default().flipped(700)));
    }

    #[tokio::test]
    async fn a_replacement_that_is_late_cannot_land_after_somebody_looked() {
        let (store, mut known) = doubtful(Fault::Late).await;
        assert_eq!(known.confirm().await, Ok(Control::default()));
        assert_eq!(store.deliver().await, Err(Error::Conflict));

        let (store, _) = doubtful(Fault::Late).await;
        let next = Known::recover(store.clone()).await.expect("readable");
        assert_eq!(store.deliver().await, Err(Error::Conflict), "nor into the next process");
        assert_eq!(next.control(), Control::default());
    }

    #[tokio::test]
    async fn without_a_mirror_what_is_late_cannot_land_either_and_a_disk_that_is_full_is_no_obstacle() {
        let (store, mut known) = doubtful(Fault::Late).await;
        assert_eq!(settled(store.clone()).await, Ok(Control::default()));
        assert_eq!(store.deliver().await, Err(Error::Conflict));
        let flipped = Control::default().flipped(700);
        known.confirm().await.expect("nobody else is there");
        known.replace(flipped).await.expect("written");
        store.next(Fault::Before);
        assert_eq!(settled(store).await, Ok(flipped));

        let fresh = InMemory::default();
        assert_eq!(settled(fresh.clone()).await, Ok(Control::default()));
        assert_eq!(fresh.load().await.map(|(revision, _)| revision), Ok(Revision(0)), "nothing was there");
    }

    #[tokio::test]
    async fn the_next_replacement_looks_first() {
        let (_, mut known) = doubtful(Fault::After).await;
        known.replace(Control::default().flipped(700).walking()).await.expect("written");
        assert_eq!(known.control().epoch, 2);
    }

    #[tokio::test]
    async fn looking_may_fail_too_and_is_no_knowledge_then() {
        let (store, mut known) = doubtful(Fault::After).await;
        store.next(Fault::Before);
        assert!(known.confirm().await.is_err());
        assert_eq!(known.control(), Control::default());
        assert_eq!(known.confirm().await, Ok(Control::default().flipped(700)));
    }

    #[tokio::test]
    async fn what_another_process_wrote_is_not_taken_for_ours() {
        let (store, mut known) = doubtful(Fault::Before).await;
        let (revision, _) = store.load().await.expect("readable");
        store.replace(revision, Control { epoch: 9, ..Control::default() }).await.expect("written");
        assert_eq!(known.confirm().await, Err(Error::Foreign { epoch: 9, primary: Side::Origin }));
    }
}
