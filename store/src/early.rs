//! What stays is written to the disk while a build goes on, so that the sync in its end finds little left.
//!
//! Whoever writes files that are there to stay says how much ([`Store::wrote`]); after [`WORTH_IT_BYTES`] a thread asks
//! the kernel for all of it, once, while the others go on. It proves nothing: what counts is [`Store::sync`], which syncs
//! again. Deliberately absent: blobs, which are synced one by one ([`crate::blobs`]); what steps write, which they may
//! take away again.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::fs::{Mode, OFlags};

use crate::Store;
use crate::layout::Layout;

/// Far less than the kernel keeps back by itself, and a part of a second's work for a disk.
const WORTH_IT_BYTES: u64 = 64 << 20;

/// How much was written and not asked for yet.
#[derive(Debug, Default)]
pub(crate) struct Early {
    bytes: AtomicU64,
    /// A thread is at it.
    busy: AtomicBool,
}

impl Early {
    /// Whether with so many bytes more it is time; then the caller begins, and tells when it is [`Early::done`].
    fn is_due(&self, bytes: u64) -> bool {
        let is_due = self.bytes.fetch_add(bytes, Relaxed) + bytes >= WORTH_IT_BYTES && !self.busy.swap(true, Relaxed);
        if is_due {
            self.bytes.store(0, Relaxed);
        }
        is_due
    }

    fn done(&self) {
        self.busy.store(false, Relaxed);
    }
}

impl Store {
    /// So many bytes were written to the store's file system, and stay. Cheap; nothing is waited for.
    pub fn wrote(&self, bytes: u64) {
        if !self.early().is_due(bytes) {
            return;
        }
        let (early, layout) = (self.early().clone(), self.shared_layout());
        let started = std::thread::Builder::new().name("rbuild-sync".into()).spawn(move || {
            if let Err(errno) = open(&layout).and_then(rustix::fs::syncfs) {
                tracing::debug!(%errno, "nothing is written to the disk ahead of the sync, which will say why");
            }
            early.done();
        });
        if let Err(error) = started {
            tracing::debug!(%error, "nothing is written to the disk ahead of the sync");
            self.early().done();
        }
    }
}

/// The store's directory, opened anew: the kernel tells every open file of an error of the disk once, and the one that
/// [`Store::sync`] asks must still hear of it.
fn open(layout: &Layout) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(&layout.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_after_enough_bytes_and_one_at_a_time() {
        let early = Early::default();
        assert!(!early.is_due(WORTH_IT_BYTES - 1));
        assert!(early.is_due(1));
        assert!(!early.is_due(2 * WORTH_IT_BYTES), "one is under way");
        early.done();
        assert!(early.is_due(0), "what came meanwhile counts");
        early.done();
        assert!(!early.is_due(0), "nothing came since");
    }
}
