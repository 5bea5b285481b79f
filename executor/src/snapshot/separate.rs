//! Files that also have names elsewhere are made the tree's own: a name outside is a way to write into a layer.
//!
//! In: a directory that is to become a layer. Out: the same, in which no file has a name outside of it. Such names come
//! about where a step sees directories that outlive it without a mount in between, as cache mounts in [`crate::chroot`].

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs;

use crate::tree::copy::{Copier, Rules};
use crate::tree::resolve::open_dir_at;
use crate::tree::walk::{Descend, Entry, Visitor, walk};
use crate::tree::{TreeError, attrs, joined};

/// Name of a copy until it takes the place of its original; no image can have it, as it would mean a deletion.
const COPY: &[u8] = b".wh.rbuild-copy";

/// Copies files of `tree` with names outside of it, so that they have none.
pub(super) fn separate(tree: &OwnedFd) -> Result<(), TreeError> {
    let again = || open_dir_at(tree.as_fd(), b".").map_err(TreeError::io("open directory", b""));
    let mut count = Count::default();
    walk(again()?, &mut count)?;
    count.0.retain(|_, (met, links)| met < links);
    if count.0.is_empty() {
        return Ok(());
    }
    // With layer marks, as the name of the copy would be one.
    let copier = Copier::new(Rules { keep_hard_links: true, keep_layer_marks: true, ..Rules::default() });
    walk(again()?, &mut Separate { shared: count.0, copier, root: again()? })
}

/// Names met, and names there are, by inode.
#[derive(Default)]
struct Count(HashMap<u64, (u64, u64)>);

impl Visitor for Count {
    type Error = TreeError;

    // The types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if entry.kind().is_file() && entry.stat.st_nlink > 1 {
            self.0.entry(entry.stat.st_ino as u64).or_insert((0, entry.stat.st_nlink as u64)).0 += 1;
        }
        Ok(Descend::Enter)
    }

    fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

struct Separate<'a> {
    shared: HashMap<u64, (u64, u64)>,
    copier: Copier<'a>,
    root: OwnedFd,
}

impl Visitor for Separate<'_> {
    type Error = TreeError;

    #[allow(clippy::unnecessary_cast)]
    fn visit(&mut self, entry: &Entry<'_>) -> Result<Descend, TreeError> {
        if !entry.kind().is_file() || !self.shared.contains_key(&(entry.stat.st_ino as u64)) {
            return Ok(Descend::Enter);
        }
        let above = entry.path.len() - entry.name.len();
        let beside = joined(entry.path[..above].strip_suffix(b"/").unwrap_or(b""), COPY);
        let parent = fs::fstat(entry.dir).map_err(TreeError::io("look at", entry.path))?;
        // The first name of a file is copied, the others become names of that copy.
        self.copier.copy_leaf(entry, self.root.as_fd(), entry.dir, COPY, &beside)?;
        fs::renameat(entry.dir, COPY, entry.dir, entry.name).map_err(TreeError::io("replace", entry.path))?;
        self.copier.moved(entry.stat, entry.path);
        fs::futimens(entry.dir, &attrs::times_of(&parent)).map_err(TreeError::io("set times of", entry.path))?;
        Ok(Descend::Skip)
    }

    fn leave(&mut self, _: &Entry<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build, open, show};

    #[test]
    fn a_file_with_a_name_outside_is_copied_with_all_its_names_and_others_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = dir.path().join("tree");
        build(&tree, &["a=text 4755 1:2 @user.x=1", "d/b == a", "own=1", "own2 == own", "alone=2"]);
        let before = show(open(&tree).as_fd(), true);
        let outside = dir.path().join("outside");
        std::fs::hard_link(tree.join("a"), &outside).expect("it is on the same disk");
        separate(&open(&tree)).expect("it can be written");
        assert_eq!(show(open(&tree).as_fd(), true), before);
        std::fs::write(&outside, "changed").expect("it is there");
        assert_eq!(show(open(&tree).as_fd(), true), before);
    }
}
