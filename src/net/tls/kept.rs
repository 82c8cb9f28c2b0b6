//! What is made of files, and made again when one of them changes: certificates are renewed while tandem runs.
//!
//! Looked at when it is needed. What cannot be made, of files of which only some are new yet, say, leaves what there was.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Error;

/// It, and how to make it.
pub(super) struct Kept<T> {
    files: Vec<PathBuf>,
    /// For what is made of other files, too, which nobody names.
    lasts: Option<Duration>,
    make: Box<dyn Fn() -> Result<T, Error> + Send + Sync>,
    made: Mutex<Made<T>>,
}

struct Made<T> {
    what: Arc<T>,
    /// The files as they were when it was made, or could not be made again.
    of: Vec<Stamp>,
    at: Instant,
    /// It could not be made again.
    is_old: bool,
}

/// What is another after every change of a file: its number, its length, when it was changed, when its data were. `None`: it cannot
/// be looked at.
type Stamp = Option<[i64; 6]>;

/// After so long that which could not be read is tried again: what was in the way may have passed, and no file says so.
const AGAIN: Duration = Duration::from_secs(10);

impl<T> Kept<T> {
    /// Make it for the first time.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn new(
        files: Vec<PathBuf>,
        lasts: Option<Duration>,
        make: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Kept<T>, Error> {
        // Before they are read: what changes meanwhile is read again.
        let of = stamps(&files);
        let made = Made { what: Arc::new(make()?), of, at: Instant::now(), is_old: false };
        Ok(Kept { files, lasts, make: Box::new(make), made: Mutex::new(made) })
    }

    /// As the files are now.
    pub(super) fn now(&self) -> Arc<T> {
        // Nothing in there panics half-way.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let of = stamps(&self.files);
        let is_over = |lasts| made.at.elapsed() >= lasts;
        if made.of != of || self.lasts.is_some_and(is_over) || (made.is_old && is_over(AGAIN)) {
            // Each time, it would be said every few seconds for as long as it lasts.
            let is_told = made.is_old && made.of == of;
            (made.of, made.at) = (of, Instant::now());
            match (self.make)() {
                Ok(what) => (made.what, made.is_old) = (Arc::new(what), false),
                Err(error) => {
                    made.is_old = true;
                    if !is_told {
                        tracing::warn!(%error, "TLS goes on with the certificates that were read before");
                    }
                }
            }
        }
        made.what.clone()
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    let told = fs::metadata(file).ok()?;
    let numbers = [told.ino().cast_signed(), told.len().cast_signed()];
    Some([numbers[0], numbers[1], told.ctime(), told.ctime_nsec(), told.mtime(), told.mtime_nsec()])
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn number(file: &Path) -> Result<u32, Error> {
        let text = fs::read_to_string(file).map_err(|error| Error(error.to_string()))?;
        text.parse().map_err(|_| Error("no number".to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_read_is_tried_again_although_no_file_changes() {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

        let folder = tempfile::tempdir().expect("a folder");
        let (file, made) = (folder.path().join("number"), Arc::new(AtomicU32::new(0)));
        fs::write(&file, "1").expect("written");
        let (count, read) = (made.clone(), file.clone());
        let kept = Kept::new(vec![file.clone()], None, move || match count.fetch_add(1, Relaxed) {
            // As where files run out.
            1 => Err(Error("too many open files".to_owned())),
            _ => number(&read),
        });
        let kept = kept.expect("made");
        fs::write(&file, "22").expect("written");
        assert_eq!(*kept.now(), 1);
        assert_eq!((*kept.now(), made.load(Relaxed)), (1, 2), "not each time");
        advance(AGAIN).await;
        assert_eq!(*kept.now(), 22);
        assert_eq!((*kept.now(), made.load(Relaxed)), (22, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_made_again_when_a_file_changes_and_stays_when_that_cannot_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("number");
        let put = |text: &str| {
            // As those do it that renew certificates: at once.
            fs::write(folder.path().join("next"), text).expect("written");
            fs::rename(folder.path().join("next"), &file).expect("renamed");
        };
        let kept = |lasts| {
            let file = file.clone();
            Kept::new(vec![file.clone()], lasts, move || number(&file))
        };
        assert!(kept(None).is_err());
        put("1");
        let (kept, renewed) = (kept(None).expect("made"), kept(Some(Duration::from_secs(60))).expect("made"));
        let (first, same) = (kept.now(), kept.now());
        assert!(Arc::ptr_eq(&first, &same));
        put("2");
        assert_eq!(*kept.now(), 2);
        put("two");
        assert_eq!(*kept.now(), 2);
        fs::remove_file(&file).expect("removed");
        assert_eq!(*kept.now(), 2);
        put("3");
        assert_eq!((*kept.now(), *first), (3, 1));
        let before = renewed.now();
        advance(Duration::from_secs(61)).await;
        assert!(Arc::ptr_eq(&kept.now(), &kept.now()));
        assert!(!Arc::ptr_eq(&before, &renewed.now()));
    }
}
