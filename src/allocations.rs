//! Counts what a thread allocates, for tests of code that is to allocate nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

/// The system's allocator, which counts on threads that want it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNT: Cell<Option<&'static AtomicU64>> = const { Cell::new(None) };
}

/// From here on this thread's allocations are counted there.
pub(crate) fn count(count: &'static AtomicU64) {
    COUNT.set(Some(count));
}

fn counted() {
    // At its end a thread has no count any more.
    if let Ok(Some(count)) = COUNT.try_with(Cell::get) {
        count.fetch_add(1, SeqCst);
    }
}

// SAFETY: everything is the system's allocator's; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        counted();
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[test]
fn a_thread_that_wants_it_is_counted_and_no_other() {
    static HERE: AtomicU64 = AtomicU64::new(0);
    let boxed = std::thread::spawn(|| {
        count(&HERE);
        Box::new(7)
    });
    assert_eq!(*boxed.join().expect("it ended"), 7);
    let counted = HERE.load(SeqCst);
    assert!(counted > 0);
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(HERE.load(SeqCst), counted);
}
