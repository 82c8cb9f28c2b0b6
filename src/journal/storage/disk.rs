//! A real directory. Records hold key values, so the directory and its files are for their owner alone (promise 13):
//! a directory that is made here gets mode 0700, files 0600. One that is there keeps the mode that its owner gave it.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::{Blob, Storage};
use crate::journal::options::OpenError;

const LOCK: &str = "lock";
const UNFINISHED: &str = ".tmp";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A directory, locked against a second process for as long as it lives.
pub struct Disk {
    path: PathBuf,
    directory: File,
    boot: u128,
    /// Held for its lock: the kernel releases it with the process, however that ends.
    _lock: File,
}

impl Disk {
    /// Open the directory, making it if needed.
    pub fn open(path: &Path) -> Result<Disk, OpenError> {
        let failed = |error| OpenError::Io { place: path.display().to_string(), error };
        make(path).map_err(failed)?;
        let directory = File::open(path).map_err(failed)?;
        let lock = private().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.display().to_string())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let disk = Disk { path: path.to_owned(), directory, boot: boot(), _lock: lock };
        disk.sweep().map_err(failed)?;
        Ok(disk)
    }

    /// Remove files whose creation a crash interrupted.
    fn sweep(&self) -> io::Result<()> {
        let unfinished = self.names()?.into_iter().filter(|name| name.ends_with(UNFINISHED));
        unfinished.into_iter().try_for_each(|name| fs::remove_file(self.path.join(name)))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }
}

impl Storage for Disk {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn boot(&self) -> u128 {
        self.boot
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.names()
    }

    /// The zeros are written under another name and synced, then the file gets its name, then the directory is synced:
    /// a file that has its name is whole. Zeros are written out, because blocks that are only allocated (`fallocate`)
    /// still cost a metadata update with the first sync of each.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn Blob>> {
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let made = zeros(&unfinished, len);
        if made.is_err() {
            // A disk that is full gets back what was taken; the first error is the one to tell.
            let _ = fs::remove_file(&unfinished);
        }
        let file = made?;
        fs::rename(&unfinished, self.path.join(name))?;
        self.directory.sync_all()?;
        Ok(Arc::new(file))
    }

    fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.path)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Blob>> {
        Ok(Arc::new(self.file(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn map(&self, name: &str) -> io::Result<Arc<MmapRaw>> {
        // Populated now: a page fault under the journal's lock would be felt by everybody.
        Ok(Arc::new(MmapOptions::new().populate().map_raw(&self.file(name)?)?))
    }
}

impl Blob for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, at)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Make the directory, and make its name durable.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// What the disk of a directory has left for who is not its administrator; `None`: it does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let path = CString::new(dir.as_os_str().as_bytes()).ok()?;
    let mut disk = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the call reads the string and fills the struct, which is read only where it says that it did.
    let disk = unsafe { (libc::statvfs(path.as_ptr(), disk.as_mut_ptr()) == 0).then(|| disk.assume_init()) }?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// How files are made: for their owner alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn zeros(path: &Path, len: u64) -> io::Result<File> {
    let mut file = private().read(true).write(true).create(true).truncate(true).open(path)?;
    let mut left = len;
    while left > 0 {
        let some = left.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..some as usize])?;
        left -= some;
    }
    file.sync_all()?;
    Ok(file)
}

/// The kernel's id of this boot. Where there is none, a new one each time: recovery then assumes the worst.
fn boot() -> u128 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let digits = id.map(|id| id.trim().replace('-', ""));
    let known = digits.and_then(|digits| u128::from_str_radix(&digits, 16).ok());
    known.unwrap_or_else(|| u128::from(crate::journal::control::random()) << 64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn what_it_makes_only_its_owner_may_read() {
        let sandbox = tempfile::tempdir().expect("a temp folder");
        let dir = sandbox.path().join("outer/journal");
        let disk = Disk::open(&dir).expect("opened");
        disk.create("segment", 10).expect("created");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&sandbox.path().join("outer")), 0o700);
        for name in ["lock", "segment"] {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
    }
}
