//! Contexts that lie with whoever asked for the build.
//!
//! The Dockerfile and the ignore file come first, each alone, so that nothing is sent that the ignore file leaves out; the
//! files come when the plan is made, if steps read any, and only those ([`Context::fetch_for`]). What comes is somebody else's tree:
//! links lead nowhere outside of it. What has a name of its own there ([`Files::kept_as`]) stays for the next build of the
//! same, to which only what changed is sent; while one build has it, others get all of it anew.
//!
//! [`Files::kept_as`]: crate::options::theirs::Files::kept_as

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use solver::graph::{Graph, VertexId};
use solver::key::selections;
use solver::op::Op;
use store::{ClientTree, Draft};

use super::text;
use super::{Context, MAIN, Named, Opener, Tree};
use crate::engine::graph::directories::{Directory, Patterns};
use crate::engine::task::Task;
use crate::engine::{Failure, Text, words};
use crate::options::context::DockerfileFrom;
use crate::options::theirs::{TheirDirectory, Wanted};

/// They travel as headers of a call.
const PATHS_MAX: usize = 500;

impl Opener<'_> {
    /// The context, without its files.
    pub(super) async fn open_theirs(&self, theirs: &TheirDirectory, from: &DockerfileFrom) -> Result<Context, Failure> {
        let (dockerfile, mut ignore) = match from {
            DockerfileFrom::Theirs(directory, path) => self.their_dockerfile(directory, path).await?,
            DockerfileFrom::Stdin => (self.dockerfile_on_stdin().await?, None),
            DockerfileFrom::Http(url) => (self.dockerfile_at(url).await?, None),
            DockerfileFrom::Usual => self.their_dockerfile(theirs, Path::new("Dockerfile")).await?,
            DockerfileFrom::Path(path) => self.their_dockerfile(theirs, path).await?,
        };
        if ignore.is_none() {
            let names = [".dockerignore", ".containerignore"].map(str::to_owned);
            let task = Task::start("[internal] load .dockerignore", self.progress);
            let draft = self.bring(theirs, &names, &[], &task).await;
            let draft = task.end(draft)?;
            ignore = text::ignore_inside(draft.fs(), None, &shown(theirs))?;
        }
        let draft = self.store.draft().map_err(|error| words::store(&error))?;
        let mut tree = Tree::of_draft(draft, shown(theirs), None, None);
        tree.ignore = ignore;
        tree.pending = Some(theirs.clone());
        Ok(Context { tree, dockerfile, named: Named::default() })
    }

    /// The Dockerfile, and the ignore file that is its alone.
    pub(super) async fn their_dockerfile(
        &self,
        directory: &TheirDirectory,
        path: &Path,
    ) -> Result<(Text, Option<text::Ignore>), Failure> {
        let name = path.to_string_lossy().into_owned();
        let mut wanted = vec![name.clone(), format!("{name}.dockerignore")];
        // Other builders' second choice, where file systems tell the two apart.
        let lower = (name == "Dockerfile").then(|| "dockerfile".to_owned());
        wanted.extend(lower.clone());
        let task = Task::start(&format!("[internal] load build definition from {name}"), self.progress);
        let read = async {
            let draft = self.bring(directory, &wanted, &[], &task).await?;
            let there = |name: &str| draft.fs().join(name).symlink_metadata().is_ok();
            let path = match lower {
                Some(lower) if !there(&name) && there(&lower) => PathBuf::from(lower),
                _ => path.to_owned(),
            };
            if !there(&path.to_string_lossy()) {
                return Err(Failure::new(format!("the client has no Dockerfile `{name}`"))
                    .help("name the file with `-f FILE`, or the right directory as the last word"));
            }
            let text = text::dockerfile_inside(draft.fs(), Some(&path), &shown(directory))?;
            let beside = format!("{}.dockerignore", path.display());
            let ignore = match there(&beside) {
                true => text::ignore_inside(draft.fs(), Some(&path), &shown(directory))?,
                false => None,
            };
            Ok((text, ignore))
        };
        let outcome = read.await;
        task.end(outcome)
    }

    /// A directory of theirs in one of the store's.
    async fn bring(
        &self,
        theirs: &TheirDirectory,
        only: &[String],
        without: &[String],
        task: &Task<'_>,
    ) -> Result<Draft, Failure> {
        let draft = self.store.draft().map_err(|error| words::store(&error))?;
        self.bring_into(&draft_fd(&draft)?, theirs, only, without, task).await?;
        Ok(draft)
    }

    async fn bring_into(
        &self,
        into: &std::os::fd::OwnedFd,
        theirs: &TheirDirectory,
        only: &[String],
        without: &[String],
        task: &Task<'_>,
    ) -> Result<(), Failure> {
        let log = task.log();
        let wanted = Wanted { name: &theirs.name, including: &[], only, without };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(words::canceled()),
            brought = theirs.files.bring(wanted, into.as_fd(), &log) => brought,
        }
    }

    /// A directory of a definition, shown as the operation that means it.
    async fn their_part(&self, directory: &Directory) -> Result<Tree, Failure> {
        let Directory { vertex, description, theirs, patterns, .. } = directory;
        let Patterns { include, exclude, follow } = patterns;
        let wanted = Wanted { name: &theirs.name, including: include, only: follow, without: exclude };
        let task = Task::of(*vertex, description, self.progress);
        let outcome = self.brought(theirs, wanted, &task).await;
        task.end(outcome)
    }

    /// The directories of a definition, all brought at once, by name.
    ///
    /// # Errors
    /// When one cannot be had.
    pub async fn directories(&self, directories: &[Directory]) -> Result<BTreeMap<String, Tree>, Failure> {
        let brought = directories
            .iter()
            .map(async |directory| Ok::<_, Failure>((directory.name.clone(), self.their_part(directory).await?)));
        Ok(futures_util::future::try_join_all(brought).await?.into_iter().collect())
    }

    /// All of a named context of theirs.
    pub(super) async fn their_tree(&self, theirs: &TheirDirectory, task: &Task<'_>) -> Result<Tree, Failure> {
        self.brought(theirs, Wanted { name: &theirs.name, including: &[], only: &[], without: &[] }, task).await
    }

    /// A tree with what is wanted of a directory of theirs.
    async fn brought(&self, theirs: &TheirDirectory, wanted: Wanted<'_>, task: &Task<'_>) -> Result<Tree, Failure> {
        let tree = match self.kept(theirs, wanted)? {
            Some(kept) => Tree::of_client(kept, shown(theirs)),
            None => {
                let draft = self.store.draft().map_err(|error| words::store(&error))?;
                Tree::of_draft(draft, shown(theirs), None, None)
            }
        };
        let into = std::fs::File::open(&tree.dir).map_err(|error| unreadable(&tree.dir, &error))?;
        let log = task.log();
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(words::canceled()),
            brought = theirs.files.bring(wanted, into.as_fd(), &log) => brought?,
        }
        Ok(tree)
    }

    /// What came of a directory the last time, or where it may stay this time; `None` if it is not kept, or if another
    /// build has it.
    fn kept(&self, theirs: &TheirDirectory, wanted: Wanted<'_>) -> Result<Option<ClientTree>, Failure> {
        let kept = theirs.files.kept_as(wanted).map(|name| self.store.client_tree(&name)).transpose();
        Ok(kept.map_err(|error| words::store(&error))?.flatten())
    }
}

impl Context {
    /// What a definition starts from: its text, and its directories.
    ///
    /// # Errors
    /// When one cannot be had.
    pub async fn of_directories(text: Text, directories: &[Directory], opener: &Opener<'_>) -> Result<Self, Failure> {
        let mut trees = opener.directories(directories).await?;
        let tree = match trees.remove(MAIN) {
            Some(tree) => tree,
            None => {
                let draft = opener.store.draft().map_err(|error| words::store(&error))?;
                Tree::of_draft(draft, "the empty context".into(), None, None)
            }
        };
        Ok(Self { tree, dockerfile: text, named: Named::of_trees(trees) })
    }

    /// Brings the files of a context that lies elsewhere, if the graph reads any.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn fetch_for(&mut self, graph: &Graph, opener: &Opener<'_>) -> Result<(), Failure> {
        self.named.fetch_for(graph, opener).await?;
        // It stays until it is here: who fails may try again.
        let Some(theirs) = self.tree.pending.clone() else { return Ok(()) };
        let Some(only) = read_paths(graph) else { return Ok(()) };
        let task = Task::start("[internal] receive build context", opener.progress);
        let without = self.tree.ignore_patterns();
        let wanted = Wanted { name: &theirs.name, including: &[], only: &only, without: &without };
        let brought = opener.brought(&theirs, wanted, &task).await;
        let Tree { dir, held, .. } = task.end(brought)?;
        (self.tree.dir, self.tree.held, self.tree.pending) = (dir, held, None);
        Ok(())
    }
}

/// What the graph reads of the main context: paths and patterns without a slash in front, all of it if empty; `None`:
/// nothing.
pub fn read_paths(graph: &Graph) -> Option<Vec<String>> {
    let is_main = |op: &Op| match op {
        Op::Source(source) => source.scheme() == "local" && source.reference() == MAIN,
        _ => false,
    };
    let sources: HashSet<VertexId> =
        graph.iter().filter(|(_, vertex, _)| is_main(&vertex.op)).map(|(id, ..)| id).collect();
    if sources.is_empty() {
        return None;
    }
    let mut paths = BTreeSet::new();
    for (_, vertex, _) in graph.iter() {
        for (at, edge) in vertex.inputs.iter().enumerate() {
            if !sources.contains(&edge.vertex) {
                continue;
            }
            for selection in selections(vertex, at) {
                let path = selection.path.trim_matches('/');
                // What is escaped, or leads through other directories, the client may understand otherwise.
                let is_plain = !path.contains('\\') && !path.contains("**") && !path.contains("..");
                if path.is_empty() || path == "." || !is_plain || paths.len() >= PATHS_MAX {
                    return Some(Vec::new());
                }
                paths.insert(path.to_owned());
            }
        }
    }
    Some(paths.into_iter().collect())
}

fn draft_fd(draft: &Draft) -> Result<std::os::fd::OwnedFd, Failure> {
    draft.fs_fd().try_clone_to_owned().map_err(|error| unreadable(draft.fs(), &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("the directory `{}` cannot be opened", path.display())).note(error.to_string())
}

/// How it is called in messages.
fn shown(theirs: &TheirDirectory) -> String {
    format!("the client's directory `{}`", theirs.name)
}
