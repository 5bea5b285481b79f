//! What a tree takes on disk: blocks, not lengths; a file with several names once.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use rustix::fs::{self, Stat};

use super::walk::{Descend, Entry, Visitor, walk};
use super::{TreeError, resolve};

/// Size of the blocks that stat(2) counts.
const BLOCK_BYTES: u64 = 512;

/// What was counted so far.
#[derive(Default)]
pub(crate) struct Usage {
    bytes: u64,
    /// Files with several names that were counted.
    seen: HashSet<u64>,
}

impl Usage {
    /// Counts an entry.
    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn count(&mut self, stat: &Stat) {
        let is_dir = fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        if is_dir || stat.st_nlink == 1 || self.seen.insert(stat.st_ino) {
            self.bytes = self.bytes.saturating_add((stat.st_blocks as u64).saturating_mul(BLOCK_BYTES));
        }
    }

    /// All that was counted, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What the tree beneath `dir` takes, `dir` itself included.
pub(crate) fn usage(dir: BorrowedFd<'_>) -> Result<u64, TreeError> {
    let mut usage = Usage::default();
    usage.count(&fs::fstat(dir).map_err(TreeError::io("look at", b""))?);
    let beneath = resolve::open_dir_at(dir, b".").map_err(TreeError::io("open directory", b""))?;
    walk(beneath, &mut usage)?;
    Ok(usage.bytes())
}

impl Visitor for Usage {
    type Error = TreeError;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        self.count(entry.stat);
        Ok(Descend::Enter)
    }

    fn leave(&mut self, _entry: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}
