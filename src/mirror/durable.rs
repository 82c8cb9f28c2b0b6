//! A small file that is replaced whole: what the mirror must remember beside the journal.
//!
//! A value is written to a temporary file, synced, renamed over the old one, and the directory synced: after a crash
//! the old value or the new one is there, never a mixture. Layout: one line `tandem NAME VERSION CRC32\n`, then the value
//! as JSON, readable by a person in need, and by nobody else: keys are in it, so the file's mode is 0600 (promise 13).
//! Cost: the whole value on every save, so owners bound their size and save only what changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Serialize, de::DeserializeOwned};

const VERSION: u32 = 1;

/// Why a value could not be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not one of ours, was cut, or was edited.
    #[error("{path} is damaged ({why}); move it away to start without it, then verify the mirrored tables")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Where a value lives. Cheap to clone; clones of one in memory share it.
#[derive(Clone, Debug)]
pub struct Durable {
    name: &'static str,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Memory(Arc<Mutex<Memorized>>),
}

#[derive(Debug, Default)]
struct Memorized {
    bytes: Option<Vec<u8>>,
    #[cfg(test)]
    puts: usize,
}

impl Durable {
    /// In a directory, as `NAME`.
    pub fn in_dir(dir: &Path, name: &'static str) -> Durable {
        Durable { name, place: Place::File(dir.join(name)) }
    }

    /// In memory: outlives its owner, not the process. For tests, and for a mirror told to keep nothing.
    pub fn in_memory(name: &'static str) -> Durable {
        Durable { name, place: Place::Memory(Arc::default()) }
    }

    /// The value saved last; `None` when there is none.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.bytes()?.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// A value was saved at some time.
    pub fn exists(&self) -> Result<bool, Error> {
        Ok(self.bytes()?.is_some())
    }

    /// Durable when it returns. Blocks for two syncs.
    pub fn save<T: Serialize>(&self, value: &T) -> Result<(), Error> {
        self.put(self.encode(value)?)
    }

    /// [`Durable::save`], the syncs on a thread of their own. Cancelled, the value may be saved or not; one save at a
    /// time is the caller's affair.
    pub async fn save_aside<T: Serialize>(&self, value: &T) -> Result<(), Error> {
        self.save_then(value, |_| ()).await
    }

    /// [`Durable::save_aside`], and then tell whether it was saved, also where nobody waits for it any more: a turn that goes
    /// along is over when the file is written.
    pub async fn save_then<T: Serialize>(
        &self,
        value: &T,
        then: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), Error> {
        let bytes = match self.encode(value) {
            Ok(bytes) => bytes,
            Err(error) => {
                then(false);
                return Err(error);
            }
        };
        let file = self.clone();
        self.aside(move || {
            let saved = file.put(bytes);
            then(saved.is_ok());
            saved
        })
        .await
    }

    /// Run what blocks on the disk elsewhere. What blocks on none is run here, so that simulations stay in order.
    async fn aside(&self, save: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
        match &self.place {
            Place::Memory(_) => save(),
            Place::File(path) => match tokio::task::spawn_blocking(save).await {
                Ok(saved) => saved,
                Err(ended) => Err(Error::Io { path: path.clone(), source: io::Error::other(ended) }),
            },
        }
    }

    fn put(&self, bytes: Vec<u8>) -> Result<(), Error> {
        match &self.place {
            Place::File(path) => replace(path, &bytes).map_err(|source| Error::Io { path: path.clone(), source }),
            Place::Memory(cell) => {
                let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
                cell.bytes = Some(bytes);
                #[cfg(test)]
                {
                    cell.puts += 1;
                }
                Ok(())
            }
        }
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, Error> {
        match &self.place {
            Place::Memory(cell) => Ok(cell.lock().unwrap_or_else(PoisonError::into_inner).bytes.clone()),
            Place::File(path) => match fs::read(path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Io { path: path.clone(), source }),
            },
        }
    }

    /// How often a value in memory was replaced.
    #[cfg(test)]
    pub(crate) fn puts(&self) -> usize {
        match &self.place {
            Place::Memory(cell) => cell.lock().unwrap_or_else(PoisonError::into_inner).puts,
            Place::File(_) => 0,
        }
    }

    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, Error> {
        let body = serde_json::to_vec(value).map_err(|error| self.damaged(error.to_string()))?;
        let mut bytes = format!("tandem {} {VERSION} {:08x}\n", self.name, crc32fast::hash(&body)).into_bytes();
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Error> {
        let at = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| self.damaged("no first line"))?;
        let (head, body) = (&bytes[..at], &bytes[at + 1..]);
        let expected = format!("tandem {} {VERSION} {:08x}", self.name, crc32fast::hash(body));
        if head != expected.as_bytes() {
            return Err(self.damaged("name, version or checksum differ"));
        }
        serde_json::from_slice(body).map_err(|error| self.damaged(error.to_string()))
    }

    fn damaged(&self, why: impl Into<String>) -> Error {
        let path = match &self.place {
            Place::File(path) => path.clone(),
            Place::Memory(_) => PathBuf::from(self.name),
        };
        Error::Damaged { path, why: why.into() }
    }
}

/// A value that many look at and change, and its file. Looking never waits for the disk. Cheap to clone.
pub(crate) struct Ledger<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    file: Durable,
    memory: Mutex<Memory<T>>,
    /// The change up to which the file has everything. Locked while the file is written.
    saved: Mutex<u64>,
}

struct Memory<T> {
    value: T,
    /// How many changes were made that the file must say.
    changes: u64,
}

impl<T> Clone for Ledger<T> {
    fn clone(&self) -> Ledger<T> {
        Ledger { shared: self.shared.clone() }
    }
}

impl<T: Clone + Serialize + DeserializeOwned + Default + Send + 'static> Ledger<T> {
    /// What was saved last, or the default.
    pub(crate) fn open(file: Durable) -> Result<Ledger<T>, Error> {
        let memory = Mutex::new(Memory { value: file.load()?.unwrap_or_default(), changes: 0 });
        Ok(Ledger { shared: Arc::new(Shared { file, memory, saved: Mutex::new(0) }) })
    }

    /// Look at it.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.shared.memory().value)
    }

    /// Change it; `true` with the answer: the file must say so. It does after the next [`Ledger::saved`].
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> (bool, R)) -> R {
        let mut memory = self.shared.memory();
        let (news, answer) = change(&mut memory.value);
        memory.changes += u64::from(news);
        answer
    }

    /// Everything changed before is durable when it resolves; the syncs run on another thread.
    pub(crate) async fn saved(&self) -> Result<(), Error> {
        let shared = self.shared.clone();
        if shared.is_saved() { Ok(()) } else { self.shared.file.aside(move || shared.save()).await }
    }

    /// Everything changed before is durable. One that is being saved is not yet.
    pub(crate) fn is_saved(&self) -> bool {
        self.shared.is_saved()
    }

    /// [`Ledger::saved`] for who cannot wait otherwise: blocks for two syncs, where something changed.
    pub(crate) fn save(&self) -> Result<(), Error> {
        if self.shared.is_saved() { Ok(()) } else { self.shared.save() }
    }
}

impl<T: Clone + Serialize> Shared<T> {
    fn memory(&self) -> MutexGuard<'_, Memory<T>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A save under way is waited for by [`Shared::save`].
    fn is_saved(&self) -> bool {
        let saved = self.saved.try_lock().map(|saved| *saved);
        saved.is_ok_and(|saved| saved >= self.memory().changes)
    }

    fn save(&self) -> Result<(), Error> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let (changes, value) = {
            let memory = self.memory();
            (memory.changes, memory.value.clone())
        };
        if *saved < changes {
            self.file.save(&value)?;
            *saved = changes;
        }
        Ok(())
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // One that a crash left keeps the mode that it was made with.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself is durable only with the directory.
    File::open(dir)?.sync_all()
}

/// Keys are bytes; in JSON they are hex.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(key: &Option<Box<[u8]>>, out: S) -> Result<S::Ok, S::Error> {
        match key {
            None => out.serialize_none(),
            Some(key) => out.serialize_str(&show(key)),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<[u8]>>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| parse(&text).ok_or_else(|| D::Error::custom("a key is not hex"))).transpose()
    }

    /// Two digits a byte.
    pub(crate) fn show(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes, unless that is not what it is.
    pub(crate) fn parse(text: &str) -> Option<Box<[u8]>> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
        Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_back_and_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let durable = Durable::in_dir(dir.path(), "book");
        assert_eq!(durable.load::<Vec<u32>>().expect("absent"), None);
        durable.save(&vec![1, 2]).expect("saved");
        durable.save(&vec![3]).expect("saved");
        assert_eq!(durable.load::<Vec<u32>>().expect("there"), Some(vec![3]));
    }

    #[tokio::test]
    async fn a_ledger_is_saved_aside_and_again_after_a_failure() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let within = dir.path().join("within");
        let ledger: Ledger<Vec<u32>> = Ledger::open(Durable::in_dir(&within, "ledger")).expect("absent");
        ledger.change(|value| (true, value.push(1)));
        ledger.saved().await.expect_err("there is no directory");
        fs::create_dir(&within).expect("made");
        ledger.saved().await.expect("saved, though nothing changed since");
        ledger.change(|value| (false, value.push(2)));
        ledger.saved().await.expect("nothing to save");
        let reopened: Ledger<Vec<u32>> = Ledger::open(Durable::in_dir(&within, "ledger")).expect("there");
        assert_eq!(reopened.look(Vec::clone), [1]);
        assert_eq!(ledger.look(Vec::clone), [1, 2]);
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_the_damage_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let durable = Durable::in_dir(dir.path(), "book");
        durable.save(&vec![1, 2]).expect("saved");
        let path = dir.path().join("book");
        let good = fs::read(&path).expect("saved above");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert!(matches!(durable.load::<Vec<u32>>(), Err(Error::Damaged { .. })), "byte {at}");
            fs::write(&path, &good[..at]).expect("written");
            assert!(matches!(durable.load::<Vec<u32>>(), Err(Error::Damaged { .. })), "cut at {at}");
        }
    }

    #[test]
    fn a_saved_value_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let left = dir.path().join("book.new");
        fs::write(&left, b"half").expect("written");
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).expect("ours");
        Durable::in_dir(dir.path(), "book").save(&vec![1]).expect("saved");
        let mode = fs::metadata(dir.path().join("book")).expect("saved").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_temporary_file_left_by_a_crash_is_not_read() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let durable = Durable::in_dir(dir.path(), "book");
        durable.save(&vec![1]).expect("saved");
        fs::write(dir.path().join("book.new"), b"half").expect("written");
        assert_eq!(durable.load::<Vec<u32>>().expect("old value"), Some(vec![1]));
    }
}
