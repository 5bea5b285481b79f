//! Looking at a Dockerfile without building it: nothing runs, nothing is fetched, no store is made; only what lies with a
//! client of the daemon, or where a client says, is brought here ([`Checker::fetch`]).
//!
//! In come options; out come findings, the same file mended, what it can be asked for. Images are looked up in the local
//! store if there is one; what it does not know stays unknown, and then the frontend claims nothing about it.
//! [`replace`] writes a mended file back.

mod replace;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use executor::StepSettings;
use executor::source::given::Given;
use frontend::call::{Outline, Targets};
use frontend::{Answers, Asked, Diagnostic, PlanOptions, Severity};
use oci::model::Platform;
use solver::seam::Progress;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use replace::replace;

use super::context::archive::{Stream, sniff};
use super::context::named::Named;
use super::context::text::{self, Ignore};
use super::context::{Context, Opener};
use super::{Failure, Problem, Settings, Text, resolve, words};
use crate::options::InputOptions;
use crate::options::context::{DockerfileFrom, Place};

/// Each mended finding may uncover others; more often than this they do not.
const MENDING_ROUNDS_MAX: usize = 8;

/// A Dockerfile to look at.
#[derive(Debug)]
pub struct Checker {
    /// It.
    pub dockerfile: Text,
    options: PlanOptions,
    /// The platforms beside that of `options`.
    others: Vec<Platform>,
    store: Option<Store>,
}

/// What was found in it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// It.
    pub dockerfile: Text,
    /// In the order of the text.
    pub findings: Vec<Diagnostic>,
    /// Whether `# check=error=true` was said: a finding of a rule fails the build then.
    pub warnings_are_errors: bool,
    /// Images that are not known here, with what else their names may mean.
    unknown: Vec<Asked>,
}

/// A Dockerfile with mechanical findings mended.
#[derive(Clone, Debug)]
pub struct Mended {
    /// How many findings were mended.
    pub count: usize,
    /// What is left, with the new text.
    pub left: Checked,
}

impl Checked {
    /// How bad a finding is, all told.
    pub fn severity(&self, found: &Diagnostic) -> Severity {
        if self.warnings_are_errors && found.rule.is_some() { Severity::Error } else { found.severity }
    }

    /// Names that were taken for those of images, and may be misspelt names of stages.
    pub fn doubts(&self) -> impl Iterator<Item = Problem> {
        let doubtful = self.unknown.iter().filter(|asked| asked.help.is_some());
        doubtful.map(|asked| {
            let written = asked.span.clone().and_then(|span| self.dockerfile.text.get(span));
            let written = written.map_or_else(|| asked.question.reference.familiar(), str::to_owned);
            let message = format!("`{written}` is taken for an image, and is not looked up");
            let snippet = asked.span.clone().map(|span| self.dockerfile.snippet(span, ""));
            Problem { snippet, help: asked.help.clone(), ..Problem::new(message) }
        })
    }

    /// The findings for people.
    pub fn problems(&self) -> impl Iterator<Item = (Severity, Problem)> {
        self.findings.iter().map(|found| (self.severity(found), words::diagnostic(found, &self.dockerfile)))
    }
}

impl Checker {
    /// Reads the Dockerfile and what else decides about it.
    ///
    /// # Errors
    /// When it cannot be read, or would have to be fetched.
    pub fn open(settings: &Settings, input: &InputOptions) -> Result<Self, Failure> {
        let (dockerfile, ignore) = read(input)?;
        let ignore = match &input.ignorefile {
            Some(path) => text::named_ignore(path)?,
            None => ignore,
        };
        Self::of(settings, input, dockerfile, ignore, existing(&settings.root))
    }

    /// The same of a Dockerfile that lies elsewhere, which is fetched as for a build, with what `steps` give for it.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn fetch(
        settings: &Settings,
        input: &InputOptions,
        steps: &StepSettings,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let store = settings.open_store(progress)?;
        let given = Given::of(steps).for_contexts(input.own_agent.clone());
        let connectivity = settings.connectivity();
        let opener = Opener { store: &store, progress, connectivity, given: &given, cancel };
        let Context { tree, dockerfile, .. } = opener.open(input).await?;
        Self::of(settings, input, dockerfile, tree.ignore, Some(store.clone()))
    }

    fn of(
        settings: &Settings,
        input: &InputOptions,
        dockerfile: Text,
        ignore: Option<Ignore>,
        store: Option<Store>,
    ) -> Result<Self, Failure> {
        let options = PlanOptions {
            target: input.target.clone(),
            build_args: input.build_args.clone(),
            platform: input.platform().clone(),
            several_platforms: input.platforms.len() > 1,
            build_platform: settings.native_platform.clone(),
            ignore_patterns: ignore.as_ref().map(Ignore::patterns).unwrap_or_default(),
            contexts: Named::new(&input.contexts)?.for_plan(),
            ..PlanOptions::default()
        };
        let others = input.platforms[1..].to_vec();
        Ok(Self { dockerfile, options, others, store })
    }

    /// What the frontend is told.
    pub fn options(&self) -> &PlanOptions {
        &self.options
    }

    /// The local store, if there is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Everything that can be found.
    pub fn check(&self) -> Checked {
        self.check_text(self.dockerfile.clone())
    }

    /// What the target takes from outside.
    ///
    /// # Errors
    /// When the file is not well-formed, or has no such target.
    pub fn outline(&self) -> Result<Outline, Failure> {
        frontend::call::outline(&self.dockerfile.text, &self.options, &Answers::new())
            .map_err(|found| words::diagnostics(&found, &self.dockerfile))
    }

    /// The stages that can be built.
    ///
    /// # Errors
    /// When the file is not well-formed.
    pub fn targets(&self) -> Result<Targets, Failure> {
        frontend::call::targets(&self.dockerfile.text, &self.options)
            .map_err(|found| words::diagnostics(&found, &self.dockerfile))
    }

    /// What is found for any of the platforms, once.
    fn check_text(&self, dockerfile: Text) -> Checked {
        let mut all = self.check_for(dockerfile, &self.options);
        for platform in &self.others {
            let options = PlanOptions { platform: platform.clone(), ..self.options.clone() };
            let more = self.check_for(all.dockerfile.clone(), &options);
            let news: Vec<_> = more.findings.into_iter().filter(|found| !all.findings.contains(found)).collect();
            if !news.is_empty() {
                all.findings.extend(news);
                all.findings.sort_by_key(|found| found.span.as_ref().map(|span| span.start));
            }
            let is_new = |asked: &Asked| all.unknown.iter().all(|known| known.span != asked.span);
            let unknown: Vec<_> = more.unknown.into_iter().filter(is_new).collect();
            all.unknown.extend(unknown);
        }
        all
    }

    fn check_for(&self, dockerfile: Text, options: &PlanOptions) -> Checked {
        let mut answers = Answers::new();
        loop {
            let found = frontend::call::check(&dockerfile.text, options, &answers);
            let known = answers.len();
            for asked in &found.unknown {
                let Some(store) = self.store.as_ref().filter(|_| asked.question.layout.is_none()) else { continue };
                match resolve::known(store, &asked.question) {
                    Ok(answer) => answers.extend(answer.map(|answer| (asked.question.clone(), answer))),
                    Err(failure) => tracing::debug!(image = %asked.question.reference, ?failure, "not looked up"),
                }
            }
            if answers.len() == known {
                let frontend::call::Checked { findings, warnings_are_errors, unknown } = found;
                return Checked { dockerfile, findings, warnings_are_errors, unknown };
            }
        }
    }

    /// The file with everything mended that can be mended mechanically.
    ///
    /// # Errors
    /// `Ok(Err(_))` with what was found in a file that is not well-formed: nobody knows what its lines mean. A failure
    /// when mending would make it worse, which is a fault of a rule.
    pub fn mend(&self) -> Result<Result<Mended, Checked>, Failure> {
        let mut left = self.check();
        let (_, form) = frontend::read(&self.dockerfile.text);
        if form.iter().any(|found| found.severity == Severity::Error) {
            return Ok(Err(left));
        }
        let errors = |checked: &Checked| checked.findings.iter().filter(|f| f.severity == Severity::Error).count();
        let before = errors(&left);
        let mut count = 0;
        for _ in 0..MENDING_ROUNDS_MAX {
            let (text, mended) = frontend::call::fix(&left.dockerfile.text, &left.findings);
            if mended == 0 {
                break;
            }
            count += mended;
            left = self.check_text(Text { text: text.into(), ..left.dockerfile });
        }
        if errors(&left) > before {
            return Err(Failure::new(
                "mending this file would break it, which is a bug of rbuild; nothing was changed",
            )
            .help("please report it, with the Dockerfile"));
        }
        Ok(Ok(Mended { count, left }))
    }
}

/// The Dockerfile and the ignore file.
fn read(input: &InputOptions) -> Result<(Text, Option<Ignore>), Failure> {
    let nothing_fetched = |what: &str| {
        Failure::new(format!("{what} would have to be fetched, and looking at a Dockerfile fetches nothing"))
            .help("fetch it first, and name the directory")
    };
    if let DockerfileFrom::Http(_) = input.dockerfile {
        return Err(nothing_fetched("a Dockerfile at an address"));
    }
    match (&input.context, &input.dockerfile) {
        (Place::Http(_) | Place::Git(_), _) => Err(nothing_fetched("a context at an address")),
        (Place::Theirs(_) | Place::TheirStream(_), _) | (_, DockerfileFrom::Theirs(..)) => {
            Err(nothing_fetched("a client's context"))
        }
        (Place::Stdin, DockerfileFrom::Usual) => match sniff(std::io::stdin().lock()) {
            Ok(Stream::Text(stream)) => Ok((dockerfile_on_stdin(stream)?, None)),
            Ok(Stream::Archive(_)) => Err(archive("an archive on standard input")),
            Err(error) => Err(Failure::new("standard input cannot be read").note(error.to_string())),
        },
        (Place::Stdin, _) => Err(archive("an archive on standard input")),
        (Place::Path(path), from) => {
            let shown = format!("`{}`", path.display());
            let cannot = |error: &std::io::Error| {
                Failure::new(format!("the build context {shown} cannot be opened"))
                    .note(error.to_string())
                    .help("the last word is the directory that holds the Dockerfile, like `.`")
            };
            let dir = std::fs::canonicalize(path).map_err(|error| cannot(&error))?;
            if !dir.is_dir() {
                return Err(archive(&format!("the file {shown}")));
            }
            let dockerfile = match from {
                DockerfileFrom::Stdin => dockerfile_on_stdin(std::io::stdin().lock())?,
                DockerfileFrom::Path(path) => text::named_dockerfile(path)?,
                DockerfileFrom::Usual | DockerfileFrom::Http(_) | DockerfileFrom::Theirs(..) => {
                    text::find_dockerfile(&dir, &shown)?.1
                }
            };
            let ignore = text::find_ignore(&dir, dockerfile.path.as_deref())?;
            Ok((dockerfile, ignore))
        }
    }
}

fn dockerfile_on_stdin(stream: impl Read) -> Result<Text, Failure> {
    text::dockerfile_of(stream, super::context::STDIN_NAME)
}

fn archive(what: &str) -> Failure {
    Failure::new(format!("{what} would have to be unpacked, and looking at a Dockerfile unpacks nothing"))
        .help("unpack it first, and name the directory; a single Dockerfile follows `-f`")
}

/// The store, if there is one that this user may read.
fn existing(root: &Path) -> Option<Store> {
    match root.join("index.db").symlink_metadata() {
        Ok(_) => Store::open(root).inspect_err(|error| tracing::debug!(%error, "the local store is not asked")).ok(),
        Err(error) => {
            tracing::debug!(root = %root.display(), %error, "there is no local store to ask");
            None
        }
    }
}
