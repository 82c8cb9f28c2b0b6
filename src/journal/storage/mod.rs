//! What the journal asks of a disk. [`Disk`] is a directory; [`MemoryDisk`] is one that can lose its power on demand.

mod disk;
mod memory;

use std::io;
use std::sync::Arc;

use memmap2::MmapRaw;

pub use disk::Disk;
pub(crate) use disk::free_bytes;
pub use memory::MemoryDisk;

/// A directory of few files of fixed size, exclusively owned.
pub trait Storage: Send + Sync + 'static {
    /// Names the place in messages.
    fn place(&self) -> String;

    /// Changes whenever bytes that were written and not synced may have been lost.
    fn boot(&self) -> u128;

    /// The names of all complete files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Make (or replace) a file of `len` zero bytes, with blocks behind every one of them. Durable when it returns, the
    /// directory's entry too; a crash in between leaves no such file.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn Blob>>;

    /// Bytes that files which are made now can have; `None`: nobody knows.
    fn free_bytes(&self) -> Option<u64>;

    /// Open a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Blob>>;

    /// Remove a file. It may come back after a crash.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Map a whole file, shared: what is stored there survives the process, and the machine by luck only.
    fn map(&self, name: &str) -> io::Result<Arc<MmapRaw>>;
}

/// An open file of fixed size.
pub trait Blob: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fill `buf` from `at`.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Write all of `bytes` at `at`; into memory that survives the process.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Everything written is durable when it returns. After an error nothing is known of what was not yet durable.
    fn sync(&self) -> io::Result<()>;
}
