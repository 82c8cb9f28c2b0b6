//! A disk in memory that can be killed, lose its power, fill up and fail, for seeded simulation.
//!
//! A [`MemoryDisk`] outlives the journals opened on it. [`MemoryDisk::storage`] begins a life: storages of earlier lives
//! fail from then on, as a killed process writes no more. [`MemoryDisk::power_loss`] keeps, of what was not synced, a
//! random subset of sectors, and of mapped files a random mixture of pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapRaw};

use super::{Blob, Storage};

const SECTOR: usize = 512;

/// The disk; clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Contents>>>,
    boot: u128,
    life: u64,
    /// Operations left until every further one fails with this error.
    fuse: Option<(u64, i32)>,
    /// Bytes that all files together may have.
    space: Option<u64>,
}

#[derive(Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors in which the two may differ.
    dirty: BTreeSet<usize>,
    map: Option<Arc<MmapRaw>>,
}

struct Life {
    disk: MemoryDisk,
    life: u64,
}

struct Open {
    life: Life,
    contents: Arc<Mutex<Contents>>,
}

impl MemoryDisk {
    /// The disk as a new process finds it; processes before it are dead.
    pub fn storage(&self) -> Arc<dyn Storage> {
        let mut state = self.lock();
        state.life += 1;
        state.fuse = None;
        state.files.values().for_each(|file| lock(file).detach());
        Arc::new(Life { disk: self.clone(), life: state.life })
    }

    /// The machine loses its power and starts again. The seed decides which unsynced bytes survive.
    pub fn power_loss(&self, seed: u64) {
        let mut random = random(seed);
        let mut state = self.lock();
        state.life += 1;
        state.boot += 1;
        state.files.values().for_each(|file| lock(file).lose(&mut random));
    }

    /// The kernel writes back some mapped pages, chosen by the seed.
    pub fn write_back(&self, seed: u64) {
        let mut random = random(seed);
        self.lock().files.values().for_each(|file| lock(file).write_back(&mut random));
    }

    /// After `operations` more, every write, sync and creation fails with this `errno`, in this life.
    pub fn fail_after(&self, operations: u64, errno: i32) {
        self.lock().fuse = Some((operations, errno));
    }

    /// Creating files beyond this many bytes in all fails for want of space; `None` lifts it.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.lock().space = bytes;
    }

    /// Change the bytes of a file behind the journal's back; false if there is no such file.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(file) = self.lock().files.get(name).cloned() else { return false };
        let mut contents = lock(&file);
        contents.detach();
        change(&mut contents.now);
        contents.synced = contents.now.clone();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|file| lock(file).now.len() as u64).sum()
    }
}

impl Life {
    /// Check that the process lives, and burn the fuse if the operation `costs`.
    fn enter(&self, costs: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.lock();
        if state.life != self.life {
            return Err(io::Error::other("this process was killed"));
        }
        if let (true, Some((left, errno))) = (costs, &mut state.fuse) {
            if *left == 0 {
                return Err(io::Error::from_raw_os_error(*errno));
            }
            *left -= 1;
        }
        Ok(state)
    }

    fn blob(&self, contents: Arc<Mutex<Contents>>) -> Arc<dyn Blob> {
        Arc::new(Open { life: Life { disk: self.disk.clone(), life: self.life }, contents })
    }
}

impl Storage for Life {
    fn place(&self) -> String {
        "memory".into()
    }

    fn boot(&self) -> u128 {
        self.disk.lock().boot
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.enter(false)?.files.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn Blob>> {
        let mut state = self.enter(true)?;
        let used = state.used();
        if state.space.is_some_and(|space| used + len > space) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let zeros = || vec![0; len as usize];
        let contents = Arc::new(Mutex::new(Contents { now: zeros(), synced: zeros(), ..Contents::default() }));
        state.files.insert(name.into(), contents.clone());
        Ok(self.blob(contents))
    }

    fn free_bytes(&self) -> Option<u64> {
        let state = self.disk.lock();
        state.space.map(|space| space.saturating_sub(state.used()))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Blob>> {
        let found = self.enter(false)?.files.get(name).cloned();
        found.map(|contents| self.blob(contents)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.enter(true)?.files.remove(name);
        Ok(())
    }

    fn map(&self, name: &str) -> io::Result<Arc<MmapRaw>> {
        let state = self.enter(true)?;
        let file = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        lock(file).attach()
    }
}

impl Blob for Open {
    fn size(&self) -> io::Result<u64> {
        drop(self.life.enter(false)?);
        Ok(lock(&self.contents).now.len() as u64)
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        drop(self.life.enter(false)?);
        let contents = lock(&self.contents);
        let at = at as usize;
        buf.copy_from_slice(contents.now.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        drop(self.life.enter(true)?);
        let mut contents = lock(&self.contents);
        let at = at as usize;
        let end = at + bytes.len();
        contents.now.get_mut(at..end).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        contents.dirty.extend(at / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.life.enter(true)?);
        lock(&self.contents).keep(|_| true);
        Ok(())
    }
}

impl Contents {
    /// Make the chosen dirty sectors durable.
    fn keep(&mut self, mut choose: impl FnMut(usize) -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.now.len());
            if choose(sector) {
                self.synced[range.clone()].copy_from_slice(&self.now[range]);
            }
        }
    }

    fn lose(&mut self, random: &mut impl FnMut() -> u64) {
        self.write_back(random);
        self.map = None;
        // Sometimes all, sometimes nothing, mostly a mixture.
        let luck = random() % 5;
        self.keep(|_| random() % 4 < luck);
        self.now = self.synced.clone();
    }

    fn write_back(&mut self, random: &mut impl FnMut() -> u64) {
        let Some(map) = &self.map else { return };
        let mut bytes = vec![0; map.len()];
        // SAFETY: the map is as long as `bytes`, and whoever simulates a kernel does so between the journal's steps.
        unsafe { std::ptr::copy_nonoverlapping(map.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        let luck = random() % 5;
        for (now, synced) in bytes.chunks(4096).zip(self.synced.chunks_mut(4096)) {
            if random() % 4 < luck {
                synced.copy_from_slice(now);
            }
        }
        self.now = self.synced.clone();
    }

    /// A dead process keeps its mapping; the disk goes on with a copy of what it held.
    fn detach(&mut self) {
        let Some(map) = self.map.take() else { return };
        // SAFETY: as in `write_back`.
        unsafe { std::ptr::copy_nonoverlapping(map.as_ptr(), self.now.as_mut_ptr(), self.now.len()) };
    }

    fn attach(&mut self) -> io::Result<Arc<MmapRaw>> {
        let mut map = MmapMut::map_anon(self.now.len())?;
        // A page that is all zeros is so already: most of them, and they then cost no memory.
        for (from, to) in self.now.chunks(4096).zip(map.chunks_mut(4096)) {
            if from.iter().any(|byte| *byte != 0) {
                to.copy_from_slice(from);
            }
        }
        let map = Arc::new(MmapRaw::from(map));
        self.map = Some(map.clone());
        Ok(map)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// xorshift64*, enough to choose sectors.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
