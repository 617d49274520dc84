//! An allocator that counts what the thread under test takes.
//!
//! Only the thread's own allocations count: other tests of the same program run at the same time. A request far beyond what may
//! be taken is refused, which ends the process: the input is in its file.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::null_mut,
};

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    /// The largest request; 0 while nothing is counted.
    static LIMIT: Cell<usize> = const { Cell::new(0) };
}

/// So much more than the limit is not even tried.
const FAR: usize = 16;

/// `#[global_allocator] static METER: flow_fuzz::Meter = flow_fuzz::Meter;` in a test program.
#[derive(Debug)]
pub struct Meter;

// SAFETY: every call is handed to the system's allocator with the caller's own arguments, or refused with a null pointer, which
// the contract of `GlobalAlloc` allows. The counters are plain cells without a destructor and allocate nothing; where a thread is
// being torn down they are not touched.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refused(layout.size()) {
            return null_mut();
        }
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refused(layout.size()) {
            return null_mut();
        }
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`, and the block came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if refused(size) {
            return null_mut();
        }
        gave(layout.size());
        took(size);
        // SAFETY: the caller keeps the contract of `realloc`, and the block came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn refused(size: usize) -> bool {
    LIMIT.try_with(|limit| limit.get() > 0 && size > limit.get().saturating_mul(FAR)).unwrap_or(false)
}

fn took(size: usize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get().wrapping_add(size));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

fn gave(size: usize) {
    // What another thread took may be given back here: then the count is too low for a moment and never too high.
    let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(size)));
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counting;

/// Begins to count from nothing.
pub(crate) fn start(limit: usize) -> Counting {
    LIVE.set(0);
    PEAK.set(0);
    LIMIT.set(limit);
    Counting
}

impl Counting {
    /// The most bytes that were taken at once.
    #[expect(clippy::unused_self, reason = "only while it counts is there something to ask")]
    pub(crate) fn peak(&self) -> usize {
        PEAK.get()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        LIMIT.set(0);
    }
}
