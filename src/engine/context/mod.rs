//! The build context and the texts in it, wherever they come from.
//!
//! In come the options' places; out comes a [`Context`]: a directory that `local://context` is read from, the
//! Dockerfile, the ignore file. A directory of the user is read in place, and only what a COPY selects of it, by the
//! executor. Everything else is first made a directory of the store that lives as long as the build. Its ignore file
//! counts wherever a context comes from, unlike BuildKit's, for which repositories and archives have none; that of a
//! named context must be known before the plan, and what is fetched comes after. `--ignorefile` stands above both.
//!
//! Read [`text`] for the texts, [`archive`] for archives, [`remote`] for what is fetched, [`named`] for
//! `--build-context`, [`theirs`] for what lies with a client, [`similar`] for what to say when a file is missing.

pub mod archive;
pub mod layout;
pub mod named;
pub mod remote;
pub mod similar;
pub mod text;
pub mod theirs;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use executor::source::Connectivity;
use executor::source::given::Given;
use frontend::PlanOptions;
use solver::op::SourceOp;
use solver::seam::Progress;
use store::{ClientTree, Draft, Store};
use tokio_util::sync::CancellationToken;

pub use text::{Ignore, Text};

use self::archive::{Stream, sniff, unpack};
use self::named::Named;
use super::images::input::Input;
use super::policy::Policy;
use super::task::{Task, in_background};
use super::{Failure, Settings, words};
use crate::options::InputOptions;
use crate::options::args::SOURCE_DATE_EPOCH;
use crate::options::context::{DockerfileFrom, NamedValue, Place, masked};
use crate::options::theirs::TheirDirectory;

/// Build argument: whether `.git` stays in a context that is a repository.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
/// The name of the main context's source.
const MAIN: &str = "context";
/// How a Dockerfile from standard input is called in messages.
pub(super) const STDIN_NAME: &str = "<stdin>";

/// What a build starts from.
#[derive(Debug)]
pub struct Context {
    /// The files.
    pub tree: Tree,
    /// The Dockerfile.
    pub dockerfile: Text,
    /// `--build-context`.
    pub named: Named,
}

impl Context {
    /// What the frontend is told of it; everything else is as when nothing was asked for.
    pub fn plan_options(&self, settings: &Settings, input: &InputOptions) -> PlanOptions {
        let mut context_times = self.named.times();
        context_times.extend(self.tree.time.map(|time| (MAIN.to_owned(), time)));
        PlanOptions {
            target: input.target.clone(),
            build_args: input.build_args.clone(),
            platform: input.platform().clone(),
            build_platform: settings.native_platform.clone(),
            ignore_patterns: self.tree.ignore_patterns(),
            contexts: self.named.for_plan(),
            context_times,
            ..PlanOptions::default()
        }
    }

    /// The directories behind `local://<name>`, as far as they are there.
    pub fn local_sources(&self) -> BTreeMap<String, PathBuf> {
        let named = self.named.trees().map(|(name, tree)| (name.clone(), tree.dir.clone()));
        named.chain([(MAIN.to_owned(), self.tree.dir.clone())]).collect()
    }

    /// The tree that the executor's messages call so.
    pub fn tree_called(&self, words: &str) -> Option<&Tree> {
        let name = words.strip_prefix("the context `").and_then(|rest| rest.strip_suffix('`'));
        match name {
            Some(name) => self.named.tree(name),
            None => (words == "the build context").then_some(&self.tree),
        }
    }
}

/// A tree that COPY reads from.
#[derive(Debug)]
pub struct Tree {
    /// Where it is; absolute.
    pub dir: PathBuf,
    /// How the user calls it: `` `src` ``, `the archive on standard input`.
    pub shown: String,
    /// The ignore file with its patterns, if one counts.
    pub ignore: Option<Ignore>,
    /// Its time in seconds since 1970, if it has one.
    pub time: Option<i64>,
    /// Why there is nothing in it.
    pub empty: Option<String>,
    /// Where its files still lie.
    pending: Option<TheirDirectory>,
    /// Holds the directory.
    held: Held,
}

/// Whose the directory of a tree is.
#[derive(Debug)]
enum Held {
    /// The user's.
    User,
    /// The store's, as long as the build lasts.
    Draft(#[expect(dead_code, reason = "it is there until it is dropped")] Draft),
    /// A client's, kept for its next build; nobody else has it until the build ends.
    Kept(#[expect(dead_code, reason = "it is locked until it is dropped")] ClientTree),
}

/// What opens contexts: where trees are kept, who watches, who stops it.
#[derive(Clone, Copy)]
pub struct Opener<'a> {
    /// Where trees are kept that are no directory of the user.
    pub store: &'a Store,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// Whether anything may be fetched.
    pub connectivity: Connectivity,
    /// What the user gave for it.
    pub given: &'a Given,
    /// Who stops it.
    pub cancel: &'a CancellationToken,
}

/// What a place turned out to be.
enum Found {
    /// A tree.
    Tree(Box<Tree>),
    /// A Dockerfile without files, and its time.
    Text(Text, Option<i64>),
    /// A tree that is not here.
    Elsewhere(TheirDirectory),
}

impl Found {
    fn tree(tree: Tree) -> Self {
        Self::Tree(Box::new(tree))
    }
}

impl Opener<'_> {
    /// Opens the main context.
    ///
    /// # Errors
    /// When it cannot be had, or holds no Dockerfile.
    pub async fn open(&self, input: &InputOptions) -> Result<Context, Failure> {
        let mut named = Named::new(&input.contexts)?;
        for source in &input.contexts {
            if let NamedValue::Tree(place) = &source.value
                && let Some(allowed) = allowed(&input.policy, place)?
            {
                named.replace(&source.name, allowed);
            }
        }
        if let DockerfileFrom::Http(url) = &input.dockerfile
            && allowed(&input.policy, &Place::Http(url.clone()))?.is_some()
        {
            return Err(Failure::new("the source policy converts the address of `-f`, which cannot be done"));
        }
        // Its time must be known before the plan; otherwise a tree is fetched only when the plan wants it.
        if let Some(name) = input.build_args.get(SOURCE_DATE_EPOCH) {
            named.fetch(name, self).await?;
        }
        let mut context = match (self.find(input).await?, &input.dockerfile) {
            (Found::Elsewhere(theirs), from) => self.open_theirs(&theirs, from).await?,
            (Found::Tree(tree), _) => self.with_dockerfile(*tree, &input.dockerfile).await?,
            (Found::Text(dockerfile, time), DockerfileFrom::Usual) => {
                let draft = self.store.draft().map_err(|error| words::store(&error))?;
                let why = format!("the Dockerfile came from {}, so there are no files", from_where(&input.context));
                let tree = Tree::of_draft(draft, "the empty context".into(), time, Some(why));
                Context { tree, dockerfile, named: Named::default() }
            }
            (Found::Text(..), _) => {
                let place = from_where(&input.context);
                return Err(Failure::new(format!(
                    "there are two Dockerfiles: that of `-f`, and what came from {place}"
                ))
                .help("leave out `-f`, or give an archive or a directory as the context"));
            }
        };
        context.named = named;
        if let Some(path) = &input.ignorefile {
            context.tree.ignore = text::named_ignore(path)?;
        }
        if let Some(ignore) = &context.tree.ignore {
            self.loaded("", &ignore.text.name);
        }
        Ok(context)
    }

    /// Finds the Dockerfile to a tree, and the ignore file.
    async fn with_dockerfile(&self, mut tree: Tree, from: &DockerfileFrom) -> Result<Context, Failure> {
        let mut path = None;
        let dockerfile = match from {
            DockerfileFrom::Stdin => self.dockerfile_on_stdin().await?,
            DockerfileFrom::Http(url) => self.dockerfile_at(url).await?,
            DockerfileFrom::Theirs(directory, path) => {
                // Of a context that was fetched the ignore file counts, as of any.
                let (dockerfile, ignore) = self.their_dockerfile(directory, path).await?;
                tree.ignore = match ignore {
                    Some(ignore) => Some(ignore),
                    None => text::ignore_inside(&tree.dir, None, &tree.shown)?,
                };
                return Ok(Context { tree, dockerfile, named: Named::default() });
            }
            DockerfileFrom::Path(named) if tree.is_of_user() => {
                path = Some(named.clone());
                text::named_dockerfile(named)?
            }
            DockerfileFrom::Usual if tree.is_of_user() => {
                let (found, dockerfile) = text::find_dockerfile(&tree.dir, &tree.shown)?;
                path = Some(found);
                dockerfile
            }
            DockerfileFrom::Path(_) | DockerfileFrom::Usual => {
                let named = match from {
                    DockerfileFrom::Path(inside) => Some(inside.as_path()),
                    _ => None,
                };
                let dockerfile = text::dockerfile_inside(&tree.dir, named, &tree.shown)?;
                path = Some(PathBuf::from(&dockerfile.name));
                dockerfile
            }
        };
        if matches!(from, DockerfileFrom::Usual | DockerfileFrom::Path(_)) {
            self.loaded("build definition from ", &dockerfile.name);
        }
        tree.ignore = match tree.is_of_user() {
            true => text::find_ignore(&tree.dir, path.as_deref())?,
            false => text::ignore_inside(&tree.dir, path.as_deref(), &tree.shown)?,
        };
        Ok(Context { tree, dockerfile, named: Named::default() })
    }

    /// Shows that a text was read.
    fn loaded(&self, what: &str, name: &str) {
        // Nothing can go wrong any more.
        let _ = Task::start(&format!("[internal] load {what}{name}"), self.progress).end(Ok(()));
    }

    /// Looks what a place is, and fetches it if it is elsewhere.
    async fn find(&self, input: &InputOptions) -> Result<Found, Failure> {
        let allowed = allowed(&input.policy, &input.context)?;
        match allowed.as_ref().unwrap_or(&input.context) {
            Place::Theirs(theirs) => Ok(Found::Elsewhere(theirs.clone())),
            Place::Path(path) => self.find_path(path).await,
            Place::Stdin => self.find_on_stdin().await,
            Place::TheirStream(theirs) => self.find_in_stream(theirs).await,
            Place::Git(git) => {
                let keep_git_dir = keeps_git_dir(input)?;
                let name = format!("[internal] load git source {}", remote::shown(git));
                let task = Task::start(&name, self.progress);
                let tree = self.git_tree(git, keep_git_dir, &task.log()).await;
                task.end(tree.map(Found::tree))
            }
            Place::Http(url) => {
                let task = Task::start("[internal] load remote build context", self.progress);
                let found = self.at_address(url, &task.log()).await;
                task.end(found)
            }
        }
    }

    /// The tree of a named context that is no directory of the user.
    async fn named_tree(&self, name: &str, place: &Place) -> Result<Tree, Failure> {
        let vertex = match place {
            Place::Path(_) | Place::Stdin | Place::Theirs(_) | Place::TheirStream(_) => {
                format!("[context {name}] load from client")
            }
            Place::Http(url) => format!("[context {name}] {}", masked(url)),
            Place::Git(git) => format!("[context {name}] load git source {}", remote::shown(git)),
        };
        let task = Task::start(&vertex, self.progress);
        let tree = match place {
            Place::Path(path) => {
                let shown = format!("the archive `{}`", path.display());
                match self.unpack_or_read(Input::open(Some(path), self.cancel.clone())?, shown).await {
                    Ok(Found::Tree(tree)) => Ok(*tree),
                    Ok(Found::Text(..) | Found::Elsewhere(_)) => Err(Failure::new(format!(
                        "the context `{name}` is neither a directory nor an archive: `{}`",
                        path.display()
                    ))),
                    Err(failure) => Err(failure),
                }
            }
            Place::Theirs(theirs) => self.their_tree(theirs, &task).await,
            Place::Git(git) => self.git_tree(git, false, &task.log()).await,
            Place::Http(url) => self.tree_at_address(url, &task.log()).await,
            // The options refuse it: only the main context comes from there.
            Place::Stdin | Place::TheirStream(_) => {
                Err(Failure::new(format!("the context `{name}` cannot come from standard input")))
            }
        };
        task.end(tree)
    }

    async fn find_path(&self, path: &Path) -> Result<Found, Failure> {
        let facts = fs::metadata(path).map_err(|error| no_context(path, &error))?;
        if facts.is_dir() {
            return Ok(Found::tree(Tree::of_user(path)?));
        }
        let shown = format!("`{}`", path.display());
        let no_archive = || {
            Failure::new(format!("the build context {shown} is neither a directory nor an archive"))
                .help("give the directory that holds the Dockerfile, like `rbuild -t app:1 .`; a Dockerfile of another name follows `-f`")
        };
        if !facts.is_file() {
            return Err(no_archive());
        }
        let stream = Input::open(Some(path), self.cancel.clone())?;
        let task = Task::start("[internal] load build context", self.progress);
        task.end(match self.unpack_or_read(stream, format!("the archive {shown}")).await {
            Ok(Found::Text(..) | Found::Elsewhere(_)) => Err(no_archive()),
            found => found,
        })
    }

    async fn find_on_stdin(&self) -> Result<Found, Failure> {
        let stream = Input::open(None, self.cancel.clone())?;
        let task = Task::start("[internal] load remote build context", self.progress);
        task.end(self.unpack_or_read(stream, "the archive on standard input".into()).await)
    }

    async fn find_in_stream(&self, theirs: &TheirDirectory) -> Result<Found, Failure> {
        let stream = theirs.files.stream(&theirs.name, self.cancel.clone());
        let stream = stream.map_err(|error| {
            Failure::new("the context cannot come from the client's standard input").note(error.to_string())
        })?;
        let task = Task::start("[internal] load remote build context", self.progress);
        task.end(self.unpack_or_read(stream, "the archive on the client's standard input".into()).await)
    }

    async fn dockerfile_on_stdin(&self) -> Result<Text, Failure> {
        let stream = Input::open(None, self.cancel.clone())?;
        let task = Task::start("[internal] load build definition from Dockerfile", self.progress);
        let cancel = self.cancel.clone();
        task.end(in_background(self.store, move |_| read_text(stream, STDIN_NAME, &cancel)).await)
    }

    /// An archive becomes a tree, anything else is a Dockerfile called [`STDIN_NAME`].
    async fn unpack_or_read(&self, stream: impl Read + Send + 'static, shown: String) -> Result<Found, Failure> {
        let cancel = self.cancel.clone();
        in_background(self.store, move |store| {
            let sniffed = sniff(stream).map_err(|error| match cancel.is_cancelled() {
                true => words::canceled(),
                false => Failure::new(format!("cannot read {shown}")).note(error.to_string()),
            })?;
            match sniffed {
                Stream::Archive(stream) => {
                    let unpacked = unpack(store, stream, &shown, &cancel)?;
                    Ok(Found::tree(Tree::of_draft(unpacked.draft, shown, unpacked.newest, None)))
                }
                Stream::Text(stream) => Ok(Found::Text(read_text(stream, STDIN_NAME, &cancel)?, None)),
            }
        })
        .await
    }
}

/// The place that a policy puts in place of one that something is fetched from; directories are looked at in the plan.
fn allowed(policy: &Policy, place: &Place) -> Result<Option<Place>, Failure> {
    let source = match place {
        Place::Git(git) => git.source(),
        Place::Http(url) => SourceOp { identifier: url.clone(), attrs: BTreeMap::new() },
        Place::Path(_) | Place::Stdin | Place::Theirs(_) | Place::TheirStream(_) => return Ok(None),
    };
    let Some(converted) = policy.address(&source)? else { return Ok(None) };
    match (converted.scheme(), place) {
        ("http" | "https", Place::Http(_)) => Ok(Some(Place::Http(converted.identifier))),
        _ => Err(Failure::new(format!(
            "the source policy makes `{}` of a context, which is of another kind",
            masked(&converted.identifier)
        ))),
    }
}

/// What the build argument asks for that other builders have for contexts that are repositories.
fn keeps_git_dir(input: &InputOptions) -> Result<bool, Failure> {
    match input.build_args.get(KEEP_GIT_DIR).map(String::as_str) {
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(other) => {
            Err(Failure::new(format!("the build argument `{KEEP_GIT_DIR}` is `{other}`"))
                .help("write `true` or `false`"))
        }
    }
}

fn read_text(stream: impl Read, name: &str, cancel: &CancellationToken) -> Result<Text, Failure> {
    let text = text::dockerfile_of(stream, name);
    text.map_err(|failure| if cancel.is_cancelled() { words::canceled() } else { failure })
}

/// A place in a sentence.
fn from_where(place: &Place) -> &'static str {
    match place {
        Place::Stdin | Place::TheirStream(_) => "standard input",
        Place::Http(_) => "an address",
        Place::Path(_) | Place::Git(_) | Place::Theirs(_) => "elsewhere",
    }
}

impl Tree {
    /// A directory of the user, read in place.
    fn of_user(path: &Path) -> Result<Self, Failure> {
        let dir = fs::canonicalize(path).map_err(|error| no_context(path, &error))?;
        let shown = format!("`{}`", path.display());
        Ok(Self { dir, shown, ignore: None, time: None, empty: None, pending: None, held: Held::User })
    }

    /// A tree of the store, which goes when this value does.
    fn of_draft(draft: Draft, shown: String, time: Option<i64>, empty: Option<String>) -> Self {
        Self { dir: draft.fs().to_owned(), shown, ignore: None, time, empty, pending: None, held: Held::Draft(draft) }
    }

    /// A client's directory, which stays when this value goes.
    fn of_client(kept: ClientTree, shown: String) -> Self {
        let dir = kept.fs().to_owned();
        Self { dir, shown, ignore: None, time: None, empty: None, pending: None, held: Held::Kept(kept) }
    }

    /// Whether it is a directory of the user.
    fn is_of_user(&self) -> bool {
        matches!(self.held, Held::User)
    }

    /// The patterns of its ignore file.
    pub fn ignore_patterns(&self) -> Vec<String> {
        self.ignore.as_ref().map(Ignore::patterns).unwrap_or_default()
    }
}

fn no_context(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("the build context `{}` cannot be opened", path.display()))
        .note(error.to_string())
        .help("the last word of the command is the directory that holds the Dockerfile, like `rbuild -t app:1 .`")
}
