//! How a store is opened, and what holds for all of it: its locks, its notices, its sync.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::OptionalExtension;

use crate::durability::{self, Stamp};
use crate::early::Early;
use crate::index::{Found, Index};
use crate::layout::{Layout, Lock, Root};
use crate::lease::{self, Lease};
use crate::{Blobs, Draft, StoreError, draft, flight, mounts, rebuild, trash};

/// A store. Cheap to clone; all calls block, and may come from any thread. Several processes may use one at once.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Arc<Layout>,
    index: Index,
    blobs: Blobs,
    lease: Arc<Lease>,
    early: Arc<Early>,
    notices: Vec<String>,
    /// Shared; says that somebody uses the store.
    _in_use: Lock,
}

impl Store {
    /// Opens the store at `root`, which is made if it does not exist: for this user alone, whatever the umask. Sweeps
    /// what dead processes left; after a reboot, drops what was never synced; rebuilds a damaged or missing index from
    /// the store's files (see [`Store::notices`]).
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] (nothing was touched), [`StoreError::NotAStore`], [`StoreError::ForeignOwner`],
    /// [`StoreError::IndexInUse`], and what system calls and the database say.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        Self::open_in_boot(root, &durability::current_boot()?)
    }

    /// As [`Store::open`], in a boot of the kernel that the caller names. For tests of what a power loss does.
    pub fn open_in_boot(root: &Path, boot: &str) -> Result<Store, StoreError> {
        let root = Root::prepare(root)?;
        let mut notices = Vec::new();
        let opening = root.lock_file("index.lock")?.shared()?;
        let (layout, index, in_use) = match Index::open(root.folder(), boot)? {
            Found::Ready(index) => {
                let in_use = root.lock_file("lock")?.shared()?;
                let layout = root.into_layout()?;
                rebuild::settle(&layout, &index, boot, &mut notices)?;
                drop(opening);
                (layout, index, in_use)
            }
            Found::Absent | Found::Damaged(_) => {
                // Not an upgrade of the shared lock: two processes that hold it would wait for each other.
                drop(opening);
                Self::open_exclusively(root, boot, &mut notices)?
            }
        };
        let layout = Arc::new(layout);
        draft::sweep(&layout, |tree| is_recorded(&index, tree))?;
        flight::sweep(&layout)?;
        lease::sweep(&layout)?;
        mounts::sweep(&layout, &index)?;
        trash::empty(&layout, Instant::now() + trash::EMPTYING_BUDGET)?;
        let lease = Arc::new(Lease::new(layout.clone()));
        let blobs = Blobs::new(layout.clone(), lease.clone());
        for notice in &notices {
            tracing::warn!("{notice}");
        }
        let early = Arc::default();
        Ok(Store { inner: Arc::new(Inner { layout, index, blobs, lease, early, notices, _in_use: in_use }) })
    }

    /// Makes or rebuilds the index while nobody else opens or uses the store.
    fn open_exclusively(
        root: Root,
        boot: &str,
        notices: &mut Vec<String>,
    ) -> Result<(Layout, Index, Lock), StoreError> {
        let _opening = root.lock_file("index.lock")?.exclusive()?;
        let damage = match Index::open(root.folder(), boot)? {
            // Another process was faster.
            Found::Ready(index) => {
                let in_use = root.lock_file("lock")?.shared()?;
                let layout = root.into_layout()?;
                rebuild::settle(&layout, &index, boot, notices)?;
                return Ok((layout, index, in_use));
            }
            Found::Absent => None,
            Found::Damaged(reason) => Some(reason),
        };
        let Some(in_use) = root.lock_file("lock")?.try_exclusive()? else {
            let reason = damage.unwrap_or_else(|| rebuild::MISSING.to_owned());
            return Err(StoreError::IndexInUse { path: root.folder().join("index.db"), reason });
        };
        let layout = root.into_layout()?;
        let index = rebuild::rebuild(&layout, damage.as_deref(), notices)?;
        rebuild::settle(&layout, &index, boot, notices)?;
        Ok((layout, index, in_use.shared()?))
    }

    /// What the user should know about the store since it was opened: a rebuilt index, results that a power loss took.
    pub fn notices(&self) -> &[String] {
        &self.inner.notices
    }

    /// The store's directory: absolute, without links.
    pub fn root(&self) -> &Path {
        &self.inner.layout.root.path
    }

    /// The directory of all trees; a layer's is `layers_dir()/<its name>`.
    pub fn layers_dir(&self) -> &Path {
        &self.inner.layout.layers.path
    }

    /// The directory of all trees, open.
    pub fn layers_fd(&self) -> BorrowedFd<'_> {
        self.inner.layout.layers.as_fd()
    }

    /// The store's blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// A new, empty draft.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        Draft::new(&self.inner.layout)
    }

    /// Writes everything that was recorded so far to disk, and remembers that it is there. Must stand before a build
    /// is reported as done. Costs nothing if nothing was recorded since the last time, by any process.
    pub fn sync(&self) -> Result<(), StoreError> {
        let index = &self.inner.index;
        let (written, synced): (i64, i64) = index.read("tell what is not synced", |connection| {
            let mut query = connection.prepare_cached("SELECT written, synced FROM state")?;
            Ok(query.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
        })?;
        if written <= synced {
            return Ok(());
        }
        // Whatever is recorded from now on belongs to the next generation: it may miss this sync.
        let stamp = index.transaction("begin a sync", |transaction| {
            let mut update = transaction
                .prepare_cached("UPDATE state SET generation = generation + 1 RETURNING boot, generation - 1")?;
            Ok(update.query_row([], |row| Ok(Stamp { boot: row.get(0)?, generation: row.get(1)? }))?)
        })?;
        durability::sync_file_system(&self.inner.layout.root)?;
        durability::note_synced(&self.inner.layout.root, &stamp)?;
        index.transaction("end a sync", |transaction| {
            transaction.prepare_cached("UPDATE state SET synced = max(synced, ?1)")?.execute([stamp.generation])?;
            Ok(())
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn early(&self) -> &Arc<Early> {
        &self.inner.early
    }

    pub(crate) fn shared_layout(&self) -> Arc<Layout> {
        self.inner.layout.clone()
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.inner.lease
    }

    pub(crate) fn index(&self) -> &Index {
        &self.inner.index
    }
}

fn is_recorded(index: &Index, tree: &str) -> Result<bool, StoreError> {
    index.read("find a tree", |connection| {
        let mut query = connection.prepare_cached("SELECT 1 FROM trees WHERE name = ?1")?;
        Ok(query.query_row([tree], |_| Ok(())).optional()?.is_some())
    })
}
