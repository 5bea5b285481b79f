//! Layers stacked by copying, where nothing may be mounted; and overlayfs's oracle in tests.
//!
//! In and out: as [`Snapshotter`] says. A view is a directory of its own into which every layer was copied, from the
//! bottom up; an upper starts as a copy of that, whole, and at commit what equals the view is taken away: what nobody
//! touched is known by its [`Marks`], the rest is compared, bytes too. The disk's own copies (reflinks) are used where it
//! has them. Hard links are not: a step would write through them into the store, and their making moves the change time
//! of files that others read.
//!
//! The last few views are kept, as the next step stands on what this one stood on: nobody writes to them, and one that
//! nobody looks at any more is carried on to the next chain.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{Draft, Store};

use super::marks::Marks;
use super::stack::{Beneath, put_over};
use super::{Committed, Mounted, Scratch, SnapshotError, Snapshotter, commit, open_directory};
use crate::tree::TreeError;
use crate::tree::copy::{Rules, copy_tree};

/// Views that are kept: of the stage that is built, and of what it copies from.
const VIEWS_KEPT: usize = 3;

/// Stacks layers without mounts.
#[derive(Debug)]
pub struct CopySnapshotter {
    layers: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Before the directory that they are in.
    views: Vec<View>,
    next: u64,
    uppers: HashMap<PathBuf, Upper>,
    home: Home,
}

/// Where views are made.
#[derive(Debug)]
enum Home {
    /// A directory that is nobody else's.
    Dir(PathBuf),
    /// A draft of the store, once there is one: what a killed builder leaves is swept with it.
    Store(Store, Option<Draft>),
}

/// The tree of a chain.
#[derive(Debug)]
struct View {
    lowers: Vec<String>,
    tree: Arc<Scratch>,
}

/// What is known of an upper directory.
#[derive(Debug)]
enum Upper {
    /// It began as a copy, whole.
    Seeded(Marks),
    /// It holds changes alone.
    Settled(Committed),
}

impl CopySnapshotter {
    /// Stacks trees of `layers`; views are made in the directory `scratch`, which is nobody else's.
    pub fn new(layers: &Path, scratch: &Path) -> Self {
        Self::with(layers, Home::Dir(scratch.to_owned()))
    }

    /// Stacks the layers of `store`.
    pub fn in_store(store: &Store) -> Self {
        Self::with(store.layers_dir(), Home::Store(store.clone(), None))
    }

    fn with(layers: &Path, home: Home) -> Self {
        let state = State { views: Vec::new(), next: 0, uppers: HashMap::new(), home };
        Self { layers: layers.to_owned(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What was half done is not in it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree of `lowers`, which nobody may write to.
    fn tree(&self, lowers: &[String]) -> Result<Arc<Scratch>, SnapshotError> {
        let mut state = self.state();
        if let Some(found) = state.views.iter().position(|view| view.lowers == lowers) {
            let view = state.views.remove(found);
            let tree = view.tree.clone();
            state.views.push(view);
            return Ok(tree);
        }
        // The highest of those beneath that nobody looks at is carried on.
        let beneath = |view: &View| lowers.ends_with(&view.lowers) && Arc::strong_count(&view.tree) == 1;
        let found =
            (0..state.views.len()).filter(|i| beneath(&state.views[*i])).max_by_key(|i| state.views[*i].lowers.len());
        let (tree, there) = match found.map(|found| state.views.remove(found)) {
            Some(view) => (view.tree, view.lowers.len()),
            None => (Arc::new(state.fresh()?), 0),
        };
        // Should this fail, half a tree goes with its last owner, which is here.
        for lower in lowers[..lowers.len() - there].iter().rev() {
            put_over(open_directory(&self.layers.join(lower))?, duplicate(&tree.dir)?, Beneath::Tree)?;
        }
        if state.views.len() >= VIEWS_KEPT {
            state.views.remove(0);
        }
        state.views.push(View { lowers: lowers.to_vec(), tree: tree.clone() });
        Ok(tree)
    }

    fn reduce(&self, lowers: &[String], upper: &Path, marks: &Marks) -> Result<Committed, SnapshotError> {
        let below = if lowers.is_empty() { None } else { Some(self.tree(lowers)?) };
        let below = below.as_ref().map(|tree| tree.dir.as_fd());
        commit::reduce(open_directory(upper)?, below, commit::Form::Whole(marks))
    }
}

impl State {
    /// An empty directory.
    fn fresh(&mut self) -> Result<Scratch, SnapshotError> {
        let home = match &mut self.home {
            Home::Dir(dir) => dir.clone(),
            Home::Store(_, Some(draft)) => draft.work().to_owned(),
            Home::Store(store, none) => {
                let draft = store.draft().map_err(|error| {
                    SnapshotError::io("make a directory in", store.root())(std::io::Error::other(error))
                })?;
                none.insert(draft).work().to_owned()
            }
        };
        self.next += 1;
        let path = home.join(format!("view-{}-{}", std::process::id(), self.next));
        std::fs::create_dir(&path).map_err(SnapshotError::io("make", &path))?;
        Ok(Scratch { dir: open_directory(&path)?, path })
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, TreeError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(TreeError::io("duplicate", b""))
}

impl Snapshotter for CopySnapshotter {
    fn view(&self, lowers: &[String]) -> Result<Mounted, SnapshotError> {
        let tree = self.tree(lowers)?;
        // An open file of its own: whoever lists it must not find where another one is.
        let root = open_directory(&tree.path)?;
        Ok(Mounted { root, _scratch: Some(tree) })
    }

    fn seed(&self, lowers: &[String], upper: &Path) -> Result<(), SnapshotError> {
        let mut marks = Marks::default();
        if !lowers.is_empty() {
            let view = self.view(lowers)?;
            let rules = Rules { keep_hard_links: true, ..Rules::default() };
            copy_tree(duplicate(&view.root)?, open_directory(upper)?, rules)?;
            marks = Marks::of(&open_directory(upper)?)?;
        }
        let mut state = self.state();
        // Of drafts that were thrown away.
        state.uppers.retain(|path, _| path.exists());
        state.uppers.insert(upper.to_owned(), Upper::Seeded(marks));
        Ok(())
    }

    fn prepare(&self, lowers: &[String], upper: &Path, _work: &Path) -> Result<Mounted, SnapshotError> {
        self.seed(lowers, upper)?;
        Ok(Mounted::new(open_directory(upper)?))
    }

    fn settle(&self, lowers: &[String], upper: &Path) -> Result<(), SnapshotError> {
        let known = self.state().uppers.remove(upper);
        let committed = match known {
            Some(Upper::Settled(committed)) => committed,
            Some(Upper::Seeded(marks)) => self.reduce(lowers, upper, &marks)?,
            None => self.reduce(lowers, upper, &Marks::default())?,
        };
        self.state().uppers.insert(upper.to_owned(), Upper::Settled(committed));
        Ok(())
    }

    fn commit(&self, lowers: &[String], upper: &Path) -> Result<Committed, SnapshotError> {
        self.settle(lowers, upper)?;
        match self.state().uppers.remove(upper) {
            Some(Upper::Settled(committed)) => Ok(committed),
            _ => unreachable!("it was settled, and an upper has one user"),
        }
    }

    fn mounts(&self) -> bool {
        false
    }
}
