//! What is kept of a build, and how it is written down.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use solver::canon::Part;
use solver::explain::Fate;
use solver::seam::{Hit, Usage};
use solver::work::Work;

/// Raised by every change of the lines that an older program would misread.
pub(super) const FORMAT: u32 = 1;

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has not.
    Running,
    /// Well.
    Ok,
    /// A step, or something around the steps, failed.
    Failed,
    /// The user stopped it.
    Canceled,
    /// Its process died.
    Interrupted,
}

impl Outcome {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Whose build it was, where a client of the daemon asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// What the client called it.
    pub name: String,
    /// What it asked the frontend for.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Kinds of outputs with their attributes.
    #[serde(default)]
    pub exporters: Vec<(String, BTreeMap<String, String>)>,
    /// What it was told of the results.
    #[serde(default)]
    pub response: BTreeMap<String, serde_json::Value>,
}

/// What is known of a build without its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the lines that follow.
    pub format: u32,
    /// What people call it.
    pub id: String,
    /// Of rbuild.
    pub version: String,
    /// When it began.
    #[serde(with = "time")]
    pub begun: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time_or_none")]
    pub ended: Option<Timestamp>,
    /// The directory of the context, absolute, or its address.
    pub context: String,
    /// The Dockerfile as it was named; `None` is the usual one of the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// The stage that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// For which machine.
    pub platform: String,
    /// Names that the image was to get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether some steps were to run whatever was known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The image's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How many steps took part, sources not counted.
    #[serde(default)]
    pub steps: usize,
    /// Of these, how many were known.
    #[serde(default)]
    pub cached: usize,
    /// Names that its Dockerfile declares by ARG.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Whose it was, if not the command line's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
}

impl Head {
    /// The head of a build that begins now; the caller fills in what was asked.
    pub fn new(context: String, platform: String) -> Self {
        Self {
            format: FORMAT,
            id: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            begun: Timestamp::now(),
            ended: None,
            context,
            dockerfile: None,
            target: None,
            platform,
            tags: Vec::new(),
            no_cache: false,
            outcome: Outcome::Running,
            error: None,
            image: None,
            steps: 0,
            cached: 0,
            args: Vec::new(),
            client: None,
        }
    }
}

/// Times as RFC 3339 has them.
mod time {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(time: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<jiff::Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Likewise, where there may be none.
mod time_or_none {
    use serde::{Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub fn serialize<S: Serializer>(time: &Option<jiff::Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::time::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::Timestamp>, D::Error> {
        super::time::deserialize(deserializer).map(Some)
    }
}

/// What a step printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// How much of it is kept.
    pub bytes: u64,
    /// How much was too much.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// One step of a build, or something else that was shown beside the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepRecord {
    /// The vertex, `sha256:…`.
    pub vertex: String,
    /// What people see: `[build 2/4] RUN make`.
    pub name: String,
    /// Its number in plain output (`#4`); `None` for what was never begun.
    pub number: Option<usize>,
    /// The line of the Dockerfile, from 1.
    pub line: Option<usize>,
    /// Its definition key in hexadecimal; `None` for what has none.
    pub key: Option<String>,
    /// What the key covers.
    pub parts: Arc<[Part]>,
    /// The steps it stands on, by their places.
    pub inputs: Vec<usize>,
    /// Whether it was to run whatever was known (`--no-cache`).
    pub anew: bool,
    /// How it ended.
    pub fate: Fate,
    /// How its result was known.
    pub by: Option<Hit>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began, in microseconds since the build did.
    pub started_us: Option<u64>,
    /// When it ended, likewise.
    pub ended_us: Option<u64>,
    /// What it printed, if it printed anything.
    pub log: Option<LogFile>,
    /// What its process used, if it had one.
    pub usage: Option<Usage>,
    /// What the builder itself did for it, in the order in which it ended; and what was transferred.
    pub work: Vec<WorkRecord>,
}

/// A piece of the builder's own work, or a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRecord {
    /// Of what; empty where that is the step itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// When it ended, in microseconds since the build began.
    pub ended_us: u64,
    /// What was done, and how long it took.
    #[serde(flatten)]
    pub work: Work,
}

impl WorkRecord {
    /// When it began, likewise.
    pub fn began_us(&self) -> u64 {
        self.ended_us.saturating_sub(u64::try_from(self.work.took.as_micros()).unwrap_or(u64::MAX))
    }
}

/// A build with its steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// All but the steps.
    pub head: Head,
    /// In the order in which they were declared; inputs come first.
    pub steps: Vec<StepRecord>,
}

impl StepRecord {
    /// Whether it is an operation whose result is remembered: no source, and nothing that is only shown beside the steps.
    pub fn is_operation(&self) -> bool {
        self.parts.iter().all(|part| part.name != "source.scheme") && !self.parts.is_empty()
    }
}

impl Build {
    /// The steps as they are compared.
    pub fn compared(&self) -> Vec<solver::explain::Step> {
        let step = |step: &StepRecord| solver::explain::Step {
            name: step.name.clone(),
            parts: step.parts.clone(),
            inputs: step.inputs.clone(),
            fate: step.fate,
        };
        self.steps.iter().map(step).collect()
    }

    /// Understands such lines; `None` for anything else.
    pub(super) fn from_lines(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let head: Head = serde_json::from_str(lines.next()?).ok()?;
        if head.format != FORMAT {
            return None;
        }
        let texts: Vec<String> = serde_json::from_str(lines.next()?).ok()?;
        let steps: Option<Vec<StepRecord>> =
            lines.map(|line| serde_json::from_str::<Line>(line).ok()?.into_step(&texts)).collect();
        let steps = steps?;
        let fits = steps.iter().enumerate().all(|(at, step)| step.inputs.iter().all(|input| *input < at));
        fits.then_some(Self { head, steps })
    }
}

/// A build as lines of JSON.
pub(super) fn lines(head: &Head, steps: &[StepRecord]) -> String {
    let mut texts = Texts::default();
    let lines: Vec<String> = steps.iter().map(|step| to_json(&Line::of(step, &mut texts))).collect();
    let mut text = to_json(head) + "\n" + &to_json(&texts.list) + "\n";
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data becomes JSON")
}

/// Every text once: names of parts are the same in all steps, and most values too.
#[derive(Default)]
struct Texts<'a> {
    list: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() - 1
        })
    }
}

/// A step as it is written.
#[derive(Serialize, Deserialize)]
struct Line {
    vertex: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    anew: bool,
    fate: Fate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Hit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<LogFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    work: Vec<WorkRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<usize>,
}

impl Line {
    fn of<'a>(step: &'a StepRecord, texts: &mut Texts<'a>) -> Self {
        let parts = step.parts.iter().flat_map(|part| [texts.number(&part.name), texts.number(&part.value)]).collect();
        Self {
            vertex: step.vertex.clone(),
            name: step.name.clone(),
            number: step.number,
            line: step.line,
            key: step.key.clone(),
            inputs: step.inputs.clone(),
            anew: step.anew,
            fate: step.fate,
            by: step.by,
            error: step.error.clone(),
            started_us: step.started_us,
            ended_us: step.ended_us,
            log: step.log.clone(),
            usage: step.usage,
            work: step.work.clone(),
            parts,
        }
    }

    fn into_step(self, texts: &[String]) -> Option<StepRecord> {
        let part = |pair: &[usize]| {
            let [name, value] = pair else { return None };
            Some(Part { name: texts.get(*name)?.clone(), value: texts.get(*value)?.clone() })
        };
        let parts: Option<Arc<[Part]>> = self.parts.chunks(2).map(part).collect();
        Some(StepRecord {
            vertex: self.vertex,
            name: self.name,
            number: self.number,
            line: self.line,
            key: self.key,
            parts: parts?,
            inputs: self.inputs,
            anew: self.anew,
            fate: self.fate,
            by: self.by,
            error: self.error,
            started_us: self.started_us,
            ended_us: self.ended_us,
            log: self.log,
            usage: self.usage,
            work: self.work,
        })
    }
}

/// A line of `begun.jsonl` after the head.
#[derive(Serialize, Deserialize)]
pub(super) enum Begun {
    /// A step began.
    #[serde(rename = "started")]
    Started {
        /// Its place in the list.
        step: usize,
        /// Its name.
        name: String,
        /// When.
        at_us: u64,
    },
    /// A step ended.
    #[serde(rename = "ended")]
    Ended {
        /// Its place in the list.
        step: usize,
        /// How.
        fate: Fate,
        /// When.
        at_us: u64,
    },
}
