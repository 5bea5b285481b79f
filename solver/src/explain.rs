//! Why a step was not cached: its parts now against its parts before.
//!
//! In come the steps of two builds, each with the parts of its key; out come [`Because`]: the step at the root of it,
//! and [`Reason`]s in the words of whoever wrote the build, the most telling first. Pure: whether a record was pruned,
//! and which files differ beneath a digest, is the caller's to find out. Deliberately absent: where steps come from.
//!
//! [`mod@align`] finds the step of the earlier build that a step corresponds to, [`parts`] compares two of them,
//! [`words`] says it.

pub mod align;
mod parts;
mod words;

use std::sync::Arc;

use crate::canon::Part;

pub use align::align;
pub use parts::{differing, reasons};
pub use words::{clip, secret_name};

/// One step of a build, as far as it is compared.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What people see: `[build 2/4] RUN make`.
    pub name: String,
    /// What its key covers; empty for a source without a key.
    pub parts: Arc<[Part]>,
    /// The steps it stands on, by their places in the list of all steps, in the order of its edges.
    pub inputs: Vec<usize>,
    /// How it ended.
    pub fate: Fate,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its result was known.
    Cached,
    /// It ran.
    Ran,
    /// It ran, and gave what it gave before.
    Unchanged,
    /// It failed.
    Failed,
    /// It was stopped.
    Canceled,
    /// The build ended before its turn came.
    #[default]
    NotReached,
}

impl Fate {
    /// Whether its result was made or found.
    pub fn ended_well(self) -> bool {
        matches!(self, Self::Cached | Self::Ran | Self::Unchanged)
    }

    /// Whether it ran, however that ended.
    pub fn ran(self) -> bool {
        matches!(self, Self::Ran | Self::Unchanged | Self::Failed | Self::Canceled)
    }
}

/// Where a step stands: `[build 2/4]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The stage's name; empty when there is only one.
    pub stage: &'a str,
    /// Which step of the stage, from 1.
    pub number: usize,
    /// Of how many.
    pub of: usize,
    /// The rest: `RUN make`.
    pub text: &'a str,
}

impl<'a> Place<'a> {
    /// Understands a step's name. `None` for names that have no place: `[internal] …`.
    pub fn of(name: &'a str) -> Option<Self> {
        let (inside, text) = name.strip_prefix('[')?.split_once("] ")?;
        let (stage, count) = match inside.rsplit_once(' ') {
            Some((stage, count)) => (stage.trim(), count),
            None => ("", inside),
        };
        let (number, of) = count.split_once('/')?;
        Some(Self { stage, number: number.parse().ok()?, of: of.parse().ok()?, text })
    }
}

/// The instruction of a step: `RUN`, `COPY`; the first word of its name where it is none.
pub fn instruction(name: &str) -> &str {
    let text = match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, text)) => text,
        None => name,
    };
    let text = text.strip_prefix("ONBUILD ").unwrap_or(text);
    let text = text.strip_prefix("LINK ").unwrap_or(text);
    text.split(' ').next().unwrap_or_default()
}

/// What was and what is, of which one may be missing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// What was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// One reason why a step is another than before. Values are as they were given; [`Reason::words`] hides and clips them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An image, by its name, is another one; digests of manifests.
    Image {
        /// Its name.
        name: String,
        /// Its digests.
        digest: Change,
    },
    /// What an address or a repository gives.
    Source {
        /// Its name.
        name: String,
        /// Digests of what it is.
        digest: Change,
    },
    /// The command of a process.
    Command(Change),
    /// The shell that runs the command.
    Shell(Change),
    /// A variable.
    Variable {
        /// Its name.
        name: String,
        /// Its values.
        value: Change,
    },
    /// Variables have the same values in another order.
    VariableOrder,
    /// What is read from the context or from another tree without a key.
    Content {
        /// By which path.
        path: String,
        /// Digests of what is selected.
        digest: Change,
    },
    /// A mount, described.
    Mount {
        /// Where it is mounted.
        target: String,
        /// How.
        how: Change,
    },
    /// Anything else that an instruction says: `USER`, `--chmod`, the platform.
    Setting {
        /// What.
        what: String,
        /// Its values.
        value: Change,
    },
    /// It stands on another step than before.
    Beneath(Change),
    /// There was no such step.
    New,
    /// The same step was there, and this is how it ended: its result should be known, or never was.
    Same(Fate),
}

/// Why a step was not cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Because {
    /// The step at the root of it, by its place: the step itself or one beneath it.
    pub root: usize,
    /// What is different there, the most telling first; never empty.
    pub reasons: Vec<Reason>,
}

/// Why step `which` of `new` is not what it was in `old`: follows what changed down to the first step whose own parts
/// differ. `pairs` is what [`fn@align`] gave. Linear in the steps beneath.
pub fn explain(new: &[Step], old: &[Step], pairs: &[Option<usize>], which: usize) -> Because {
    let mut at = which;
    let mut seen = vec![false; new.len()];
    loop {
        seen[at] = true;
        let (step, Some(before)) = (&new[at], pairs[at].map(|place| &old[place])) else {
            return Because { root: at, reasons: vec![Reason::New] };
        };
        let mut own = reasons(step, before);
        match beneath(at, new, old, pairs) {
            // Of several the first: what stands on it follows from it.
            Some(Beneath::Step(next)) if !seen[next] => at = next,
            beneath => {
                if let Some(Beneath::Other(change)) = beneath {
                    own.push(Reason::Beneath(change));
                }
                if own.is_empty() {
                    own.push(Reason::Same(before.fate));
                }
                return Because { root: at, reasons: own };
            }
        }
    }
}

/// Per step of `new` the step at the root of what is different about it: itself, unless something beneath it is.
pub fn roots(new: &[Step], old: &[Step], pairs: &[Option<usize>]) -> Vec<usize> {
    let mut roots: Vec<usize> = Vec::with_capacity(new.len());
    for at in 0..new.len() {
        let next = match pairs[at].and_then(|_| beneath(at, new, old, pairs)) {
            // Inputs come first; a list that says otherwise is not followed.
            Some(Beneath::Step(next)) => roots.get(next).copied(),
            _ => None,
        };
        roots.push(next.unwrap_or(at));
    }
    roots
}

/// Which input makes a key differ.
enum Beneath {
    /// The step at this place has another key.
    Step(usize),
    /// It stands on something else.
    Other(Change),
}

fn beneath(at: usize, new: &[Step], old: &[Step], pairs: &[Option<usize>]) -> Option<Beneath> {
    let (step, before) = (&new[at], &old[pairs[at]?]);
    let count = step.inputs.len().max(before.inputs.len());
    let differing = (0..count).filter(|i| parts::input(&step.parts, *i) != parts::input(&before.parts, *i));
    let mut other = None;
    let mut next: Option<usize> = None;
    for i in differing {
        let (now, was) = (step.inputs.get(i).copied(), before.inputs.get(i).copied());
        match (now, was) {
            (Some(now), Some(was)) if pairs[now] == Some(was) => next = Some(next.map_or(now, |next| next.min(now))),
            // What it stands on now is new, or is not what it was either: that comes first.
            (Some(now), _) if pairs[now].is_none_or(|was| new[now].parts != old[was].parts) => {
                next = Some(next.map_or(now, |next| next.min(now)));
            }
            (now, was) => {
                let name = |steps: &[Step], place: Option<usize>| place.map(|place| steps[place].name.clone());
                other = other.or(Some(Change { old: name(old, was), new: name(new, now) }));
            }
        }
    }
    next.map(Beneath::Step).or(other.map(Beneath::Other))
}

#[cfg(test)]
mod tests;
