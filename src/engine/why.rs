//! Why steps ran: a build compared with an earlier one, or with what the store remembers.
//!
//! In come records of the history; out come [`Miss`]es in words, the first one first. What the pure comparison
//! ([`solver::explain`]) cannot know is looked up here: which files differ beneath a digest, and what became of a
//! record. Deliberately absent: how a build is chosen from the command line, and printing.

use std::collections::HashSet;

use executor::source::listing::{self, Change as FileChange, ChangeKind};
use jiff::{SignedDuration, Timestamp};
use solver::canon::{Part, Parts, Sink as _};
use solver::explain::{self, Reason, Step, instruction};
use solver::key::{ContentDigest, Key};
use store::history::{Build, Head, Outcome, StepRecord};
use store::{Store, StoreError};

use super::{Failure, past, words};

/// So many paths of a directory that differs are looked at.
const FILES_MAX: usize = 100;
/// So many are named in one line.
const NAMED_MAX: usize = 3;

/// A step that ran, or a reason that several share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The step at the root of it, by its place in the build.
    pub root: usize,
    /// The steps that ran because of it, by their places; the root's own is among them if it ran.
    pub steps: Vec<usize>,
    /// What is different, in words, the most telling first; never empty.
    pub reasons: Vec<Told>,
}

/// One reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// One line.
    pub text: String,
    /// What stands beneath it: the old and the new command, the files that differ.
    pub details: Vec<String>,
}

impl Told {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), details: Vec::new() }
    }
}

/// The names that a Dockerfile declares by ARG.
pub fn declared_args(text: &str) -> Vec<String> {
    let (file, _) = frontend::read(text);
    let mut names: Vec<String> = file.declared_args().map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether two builds are of the same thing: the same directory and Dockerfile. What comes from standard input is told
/// apart by the names that the image gets.
pub fn same_place(a: &Head, b: &Head) -> bool {
    let from_stdin = a.context == "-" || a.dockerfile.as_deref() == Some("-");
    a.context == b.context && a.dockerfile == b.dockerfile && (!from_stdin || a.tags == b.tags)
}

/// The build to compare `build` with: the latest before it of the same place whose steps are known, and rather one of
/// the same target and platform.
///
/// # Errors
/// When the store cannot be read.
pub fn before(store: &Store, build: &Head) -> Result<Option<Build>, StoreError> {
    let earlier = |head: &Head| {
        head.id != build.id
            && head.begun <= build.begun
            && !matches!(head.outcome, Outcome::Running | Outcome::Interrupted)
            && same_place(head, build)
    };
    let mut entries: Vec<_> = store.builds()?.into_iter().filter(|entry| earlier(&entry.head)).collect();
    // Stable: among those that serve equally well the latest stays first.
    entries.sort_by_key(|entry| (entry.head.target != build.target, entry.head.platform != build.platform));
    for entry in entries {
        if let Some(known) = store.build(&entry)?.filter(|known| known.steps.iter().any(|step| step.key.is_some())) {
            return Ok(Some(known));
        }
    }
    Ok(None)
}

/// What stands in ordinary output at the first step that runs; `None` when there is nothing to compare with.
///
/// # Errors
/// When the store cannot be read.
pub fn first_line(store: &Store, build: &Build, step: usize, args: &[String]) -> Result<Option<String>, StoreError> {
    let Some(old) = before(store, &build.head)? else { return Ok(None) };
    let (new_steps, old_steps) = (build.compared(), old.compared());
    let pairs = explain::align(&new_steps, &old_steps);
    let because = explain::explain(&new_steps, &old_steps, &pairs, step);
    let Some(reason) = because.reasons.first() else { return Ok(None) };
    let compared = Compared { store, build, old: &old, pairs: &pairs, args };
    let told = compared.tell(because.root, reason)?;
    // A step beneath it that ran is its own reason already.
    let of_another = because.root != step && build.steps[because.root].is_operation();
    Ok(Some(match of_another {
        true => format!("{}: {}", build.steps[because.root].name, told.text),
        false => told.text,
    }))
}

/// Why the steps of `build` that ran did, against `old`; the first in order first.
///
/// # Errors
/// When the store cannot be read.
pub fn misses(store: &Store, build: &Build, old: &Build, wanted: &[usize]) -> Result<Vec<Miss>, StoreError> {
    let (new_steps, old_steps) = (build.compared(), old.compared());
    let pairs = explain::align(&new_steps, &old_steps);
    let roots = explain::roots(&new_steps, &old_steps, &pairs);
    let compared = Compared { store, build, old, pairs: &pairs, args: &build.head.args };
    let mut misses: Vec<Miss> = Vec::new();
    for step in wanted.iter().copied() {
        // What is different of the step itself is told of it, whatever it stands on.
        let own = pairs[step].is_some_and(|old| !explain::reasons(&new_steps[step], &old_steps[old]).is_empty());
        let root = if own { step } else { compared.root(step, &roots) };
        if let Some(known) = misses.iter_mut().find(|miss| miss.root == root) {
            known.steps.push(step);
            continue;
        }
        let reasons = compared.reasons(root, &new_steps, &old_steps)?;
        misses.push(Miss { root, steps: vec![step], reasons });
    }
    Ok(misses)
}

/// What a build is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// The one before it.
    Last,
    /// The one that made this image.
    Image(String),
    /// What the store knows.
    Cache,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The context, as the history has it.
    pub context: String,
    /// The Dockerfile, as the history has it; the outer `None` is any.
    pub dockerfile: Option<Option<String>>,
    /// The target; `None` is any.
    pub target: Option<String>,
    /// Only this step.
    pub step: Option<String>,
    /// What it is compared with.
    pub against: Against,
}

/// What is to be told.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The build that was asked about.
    pub build: Build,
    /// The build it was compared with, if it was one.
    pub old: Option<Head>,
    /// The step that was asked about.
    pub step: Option<usize>,
    /// What it came to.
    pub verdict: Verdict,
}

/// Why a build ran what it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran nothing, or the step was not run.
    Cached,
    /// There is nothing to compare with.
    NoRecord,
    /// These are the reasons.
    Misses(Vec<Miss>),
}

/// Answers from the history.
///
/// # Errors
/// When there is no such build, step or image.
pub fn answer(store: &Store, question: &Question) -> Result<Answer, Failure> {
    let failed = |error: StoreError| words::store(&error);
    let build = latest(store, question)?;
    let step = question.step.as_deref().map(|text| past::step(&build, text)).transpose()?;
    let wanted: Vec<usize> = ran(&build).into_iter().filter(|place| step.is_none_or(|step| step == *place)).collect();
    let old = match &question.against {
        Against::Last => before(store, &build.head).map_err(failed)?,
        Against::Image(name) => Some(maker(store, name, &build.head)?),
        Against::Cache => None,
    };
    let head = old.as_ref().map(|old| old.head.clone());
    let verdict = match (&old, &question.against) {
        _ if wanted.is_empty() => Verdict::Cached,
        (Some(old), _) => Verdict::Misses(misses(store, &build, old, &wanted).map_err(failed)?),
        (None, Against::Cache) => nearest(store, &build, &wanted).map_err(failed)?,
        (None, _) => match anew(&build, &wanted) {
            Some(misses) => Verdict::Misses(misses),
            None => Verdict::NoRecord,
        },
    };
    Ok(Answer { build, old: head, step, verdict })
}

/// The latest build that was asked about whose steps are known.
fn latest(store: &Store, question: &Question) -> Result<Build, Failure> {
    let wanted = |head: &Head| {
        head.context == question.context
            && question.dockerfile.as_ref().is_none_or(|dockerfile| head.dockerfile == *dockerfile)
            && question.target.as_ref().is_none_or(|target| head.target.as_ref() == Some(target))
            && head.outcome != Outcome::Running
    };
    let entries = past::list(store, &[])?.into_iter().filter(|entry| wanted(&entry.head));
    for entry in entries {
        let build = past::open(store, &entry)?;
        if build.steps.iter().any(|step| step.key.is_some()) {
            return Ok(build);
        }
    }
    Err(Failure::new(format!("no build of `{}` is in the history", question.context))
        .help("build it first; `rbuild history ls` lists what is known, `rbuild plan DIR` tells what a build would do"))
}

/// The build that made an image, other than `build` if there is one.
fn maker(store: &Store, name: &str, build: &Head) -> Result<Build, Failure> {
    let full = name.parse::<oci::model::Reference>().ok().map(|name| name.familiar());
    // The image that has the name now, whatever it was called when it was built.
    let id = super::resolve::find_local(store, name)?.map(|image| image.image.config.to_string());
    let made = |head: &Head| match &id {
        Some(id) => head.image.as_ref() == Some(id),
        None => {
            let digits = name.strip_prefix("sha256:").unwrap_or(name);
            let by_id = head.image.as_ref().and_then(|image| image.strip_prefix("sha256:"));
            by_id.is_some_and(|image| digits.len() >= 4 && image.starts_with(digits))
                || full.as_ref().is_some_and(|full| head.tags.contains(full))
        }
    };
    let mut entries: Vec<_> = past::list(store, &[])?.into_iter().filter(|entry| made(&entry.head)).collect();
    entries.sort_by_key(|entry| entry.head.id == build.id);
    match entries.first() {
        Some(entry) => past::open(store, entry),
        None => Err(Failure::new(format!("the build that made `{name}` is not in the history"))
            .help("`rbuild history ls` lists the builds that are; `--against cache` needs none")),
    }
}

/// Steps that ran because it was asked for, where there is no other build to compare with.
fn anew(build: &Build, wanted: &[usize]) -> Option<Vec<Miss>> {
    let root = wanted.iter().copied().find(|place| build.steps[*place].anew)?;
    Some(vec![Miss { root, steps: wanted.to_vec(), reasons: vec![Told::new("--no-cache")] }])
}

/// The first step that ran, against the record of the store that is most like it.
fn nearest(store: &Store, build: &Build, wanted: &[usize]) -> Result<Verdict, StoreError> {
    let Some(&first) = wanted.first() else { return Ok(Verdict::Cached) };
    let step = &build.steps[first];
    let mut own = Parts::new();
    for part in step.parts.iter().filter(|part| !part.name.starts_with("input[")) {
        own.push(&part.name, &part.value);
    }
    let operation = Key(own.digest("operation key"));
    let closest = |known: Vec<Vec<Part>>| {
        // What another machine made has no parts here.
        let others = known
            .into_iter()
            .filter(|parts| !parts.is_empty())
            .map(|parts| (explain::differing(&step.parts, &parts), parts));
        others.filter(|(count, _)| *count > 0).min_by_key(|(count, _)| *count)
    };
    let same = store.recent_parts(Some(&operation))?;
    let is_foreign = same.iter().any(Vec::is_empty);
    let mut found = closest(same);
    if found.is_none() && is_foreign {
        let reasons = vec![Told::new("known from another machine: its parts are not here")];
        return Ok(Verdict::Misses(vec![Miss { root: first, steps: wanted.to_vec(), reasons }]));
    }
    if found.is_none() {
        // Half of it another is another operation.
        found = closest(store.recent_parts(None)?).filter(|(count, _)| *count * 2 <= step.parts.len());
    }
    let Some((_, parts)) = found else { return Ok(Verdict::NoRecord) };
    let old = StepRecord { parts: parts.into(), name: step.name.clone(), ..StepRecord::default() };
    let old = Build { head: build.head.clone(), steps: vec![old] };
    let mut pairs = vec![None; build.steps.len()];
    pairs[first] = Some(0);
    let (new_steps, old_steps) = (build.compared(), old.compared());
    let mut found = explain::reasons(&new_steps[first], &old_steps[0]);
    if found.is_empty() {
        let beneath = step.inputs.iter().map(|input| build.steps[*input].name.clone()).next();
        found.push(Reason::Beneath(explain::Change { old: None, new: beneath }));
    }
    let compared = Compared { store, build, old: &old, pairs: &pairs, args: &build.head.args };
    let reasons = found.iter().map(|reason| compared.tell(first, reason)).collect::<Result<_, _>>()?;
    Ok(Verdict::Misses(vec![Miss { root: first, steps: wanted.to_vec(), reasons }]))
}

/// The operations of a build that were not known, by their places.
pub fn ran(build: &Build) -> Vec<usize> {
    let steps = build.steps.iter().enumerate();
    steps.filter(|(_, step)| step.is_operation() && step.fate.ran()).map(|(place, _)| place).collect()
}

/// Two builds side by side.
struct Compared<'a> {
    store: &'a Store,
    build: &'a Build,
    old: &'a Build,
    pairs: &'a [Option<usize>],
    args: &'a [String],
}

impl Compared<'_> {
    /// Where it comes from that a step ran: what was asked to run anew comes before what differs.
    fn root(&self, step: usize, roots: &[usize]) -> usize {
        let mut beneath = vec![step];
        let mut seen = HashSet::new();
        let mut first = None;
        while let Some(at) = beneath.pop() {
            if seen.insert(at) {
                if self.build.steps[at].anew && self.build.steps[at].is_operation() {
                    first = Some(first.map_or(at, |first: usize| first.min(at)));
                }
                beneath.extend(&self.build.steps[at].inputs);
            }
        }
        first.map_or(roots[step], |first| first.min(roots[step]))
    }

    fn reasons(&self, root: usize, new: &[Step], old: &[Step]) -> Result<Vec<Told>, StoreError> {
        let anew = self.build.steps[root].anew;
        let own = self.pairs[root].map(|place| explain::reasons(&new[root], &old[place])).unwrap_or_default();
        let all = match own.is_empty() {
            true => explain::explain(new, old, self.pairs, root).reasons,
            false => own,
        };
        let mut told = Vec::new();
        if anew {
            told.push(Told::new("--no-cache"));
        }
        for reason in all.iter().filter(|reason| !(anew && matches!(reason, Reason::Same(_)))) {
            told.push(self.tell(root, reason)?);
        }
        Ok(told)
    }

    /// One reason of the step `root`, with what the store knows of it.
    fn tell(&self, root: usize, reason: &Reason) -> Result<Told, StoreError> {
        let step = &self.build.steps[root];
        let is_arg = |name: &str| self.args.iter().any(|arg| arg == name);
        let mut told = Told::new(reason.words(instruction(&step.name), &is_arg));
        match reason {
            Reason::Content { path, digest } => {
                let changes = self.changes(digest)?;
                let suffix = files(&changes, path);
                told.text.push_str(&suffix);
                told.details = changes.iter().map(file).collect();
            }
            Reason::Command(change) => {
                let line = |sign: &str, text: &Option<String>| {
                    text.iter().flat_map(|text| text.lines()).map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
                };
                told.details = line("-", &change.old).into_iter().chain(line("+", &change.new)).collect();
            }
            Reason::Same(fate) if fate.ended_well() => told = self.what_became(step, root)?,
            _ => {}
        }
        Ok(told)
    }

    fn changes(&self, digest: &explain::Change) -> Result<Vec<FileChange>, StoreError> {
        let parse = |text: &Option<String>| {
            let digest: oci::model::Digest = format!("sha256:{}", text.as_deref()?).parse().ok()?;
            Some(ContentDigest(*digest.as_bytes()))
        };
        let (Some(old), Some(new)) = (parse(&digest.old), parse(&digest.new)) else { return Ok(Vec::new()) };
        Ok(listing::compare(self.store, old, new, FILES_MAX)?.unwrap_or_default())
    }

    /// What became of a result that should be known.
    fn what_became(&self, step: &StepRecord, root: usize) -> Result<Told, StoreError> {
        if let Some(old) = self.pairs[root]
            && self.old.steps[old].anew
        {
            return Ok(Told::new("the result of the last build was lost"));
        }
        let Some(key) = step.key.as_deref().and_then(key) else { return Ok(Told::new("its result was lost")) };
        // What was thrown away before the other build made it again is another story.
        let since = self.old.head.ended.unwrap_or(self.old.head.begun).as_second();
        Ok(Told::new(match self.store.pruned_at(&key)?.filter(|at| *at >= since) {
            Some(at) => {
                let then = Timestamp::from_second(at).unwrap_or(Timestamp::UNIX_EPOCH);
                format!("its record was pruned {}", ago(self.build.head.begun.duration_since(then)))
            }
            None => "nothing changed, but its result was lost or damaged".into(),
        }))
    }
}

/// A key from its hexadecimal form.
pub fn key(text: &str) -> Option<Key> {
    let digest: oci::model::Digest = format!("sha256:{text}").parse().ok()?;
    Some(Key(*digest.as_bytes()))
}

/// `, +1 file src/new.rs`: the files of a selection that differ, unless it is the selected file itself.
fn files(changes: &[FileChange], selected: &str) -> String {
    let own = |change: &FileChange| selected == change.path || selected.ends_with(&format!("/{}", change.path));
    if changes.is_empty() || (changes.len() == 1 && own(&changes[0]) && changes[0].kind != ChangeKind::Added) {
        return String::new();
    }
    let mut text = String::new();
    for (sign, of_kind) in [
        ("", matches_changed as fn(&ChangeKind) -> bool),
        ("+", |kind| *kind == ChangeKind::Added),
        ("-", |kind| *kind == ChangeKind::Removed),
    ] {
        let paths: Vec<&str> =
            changes.iter().filter(|change| of_kind(&change.kind)).map(|change| change.path.as_str()).collect();
        if paths.is_empty() {
            continue;
        }
        let count = if paths.len() < FILES_MAX { paths.len().to_string() } else { format!("{FILES_MAX} or more") };
        let files = if paths.len() == 1 { "file" } else { "files" };
        let named = paths.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        let more = if paths.len() > NAMED_MAX { ", …" } else { "" };
        text += &format!(", {sign}{count} {files} {named}{more}");
    }
    text
}

fn matches_changed(kind: &ChangeKind) -> bool {
    matches!(kind, ChangeKind::Changed(_))
}

/// One file that differs, as a line of details.
fn file(change: &FileChange) -> String {
    use listing::What;
    let path = &change.path;
    match &change.kind {
        ChangeKind::Added => format!("+ {path}"),
        ChangeKind::Removed => format!("- {path}"),
        ChangeKind::Changed(what) => format!(
            "~ {path}: {}",
            match what {
                What::Kind { old, new } => format!("{old} → {new}"),
                What::Content { .. } => "its bytes".into(),
                What::Link { old, new } => format!("link to {old} → {new}"),
                What::Device => "its device".into(),
                What::Mode { old, new } => format!("mode {old:04o} → {new:04o}"),
                What::Owner { old, new } => format!("owner {}:{} → {}:{}", old.0, old.1, new.0, new.1),
                What::Attributes => "its extended attributes".into(),
                What::Beneath => "something in it".into(),
            }
        ),
    }
}

/// How long ago, in the largest unit of which there is more than one.
pub fn ago(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    for (unit, length) in [("d", 86_400), ("h", 3600), ("min", 60)] {
        if seconds >= 2 * length {
            return format!("{} {unit} ago", seconds / length);
        }
    }
    format!("{seconds} s ago")
}
