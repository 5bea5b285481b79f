//! What each step of a build took: time, waiting, bytes.
//!
//! In: a build, and why its steps ran. Out: a [`Sheet`] of plain numbers. Every byte is counted with one step alone, so
//! the sums over the steps are the build's. Deliberately absent: how it looks.

use std::time::Duration;

use solver::explain::{Fate, Place};
use solver::seam::{Hit, Usage};
use solver::work::WorkKind;
use store::history::{Build, StepRecord, WorkRecord};

use super::path::{Link, Span, critical};

/// What is told of a build.
pub struct Sheet<'a> {
    /// How long it took, in microseconds.
    pub total_us: u64,
    /// Its steps, in the order in which they were declared.
    pub steps: Vec<Row<'a>>,
    /// The steps that it waited for.
    pub path: Vec<Link>,
    /// All steps together.
    pub sum: Bytes,
}

/// One step.
pub struct Row<'a> {
    /// As the history has it.
    pub step: &'a StepRecord,
    /// The stage it is of; nothing for what is shown beside the steps.
    pub stage: Option<&'a str>,
    /// Its name without stage and number.
    pub text: &'a str,
    /// When it ran, from and to; none for what took no time.
    pub ran_us: Option<(u64, u64)>,
    /// How long everything that it stands on was there before it began, or was known.
    pub waited_us: Option<u64>,
    /// Processor time of its process.
    pub cpu: Option<Duration>,
    /// The most memory that its process had.
    pub memory_bytes: Option<u64>,
    /// What was done with bytes for it.
    pub bytes: Bytes,
    /// Why it ran, or failed.
    pub because: Vec<String>,
    /// Whether the build waited for it.
    pub critical: bool,
}

/// Bytes by what was done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Read from files and blobs.
    pub read: u64,
    /// Digested.
    pub hashed: u64,
    /// Archives that were compressed.
    pub compressed_from: u64,
    /// What they were compressed to.
    pub compressed_to: u64,
    /// Received from elsewhere.
    pub received: u64,
    /// Sent elsewhere.
    pub sent: u64,
}

impl Bytes {
    /// Of one piece of work. What is sent counts as that, and not as read once more.
    pub fn of(record: &WorkRecord) -> Self {
        let work = &record.work;
        let bytes = Self { hashed: work.hashed_bytes, ..Self::default() };
        match work.kind {
            WorkKind::Digest | WorkKind::Copy | WorkKind::Archive | WorkKind::Unpack => {
                Self { read: work.read_bytes, ..bytes }
            }
            WorkKind::Compress => Self {
                read: work.read_bytes,
                compressed_from: work.read_bytes,
                compressed_to: work.written_bytes,
                ..bytes
            },
            WorkKind::Receive => Self { received: work.written_bytes, ..bytes },
            WorkKind::Send => Self { sent: work.read_bytes, ..bytes },
        }
    }

    /// Adds more; what a hostile record says does not overflow.
    pub fn add(&mut self, more: &Self) {
        let pairs = [
            (&mut self.read, more.read),
            (&mut self.hashed, more.hashed),
            (&mut self.compressed_from, more.compressed_from),
            (&mut self.compressed_to, more.compressed_to),
            (&mut self.received, more.received),
            (&mut self.sent, more.sent),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
    }
}

impl<'a> Sheet<'a> {
    /// Of a build; `reasons` has one text per step that ran, where it is known.
    pub fn of(build: &'a Build, reasons: &[Option<String>]) -> Self {
        let ended = build.steps.iter().flat_map(|step| {
            step.ended_us.into_iter().chain(step.started_us).chain(step.work.iter().map(|work| work.ended_us))
        });
        let took =
            build.head.ended.and_then(|ended| u64::try_from(ended.duration_since(build.head.begun).as_micros()).ok());
        let total_us = ended.chain(took).max().unwrap_or(0);
        let spans: Vec<Option<Span>> = build.steps.iter().map(|step| span(step, total_us)).collect();
        let path = critical(&spans);
        let mut sum = Bytes::default();
        let mut steps: Vec<Row<'a>> = Vec::with_capacity(build.steps.len());
        for (place, step) in build.steps.iter().enumerate() {
            let mut bytes = Bytes::default();
            step.work.iter().for_each(|work| bytes.add(&Bytes::of(work)));
            sum.add(&bytes);
            let at = Place::of(&step.name);
            let because = reasons.get(place).cloned().flatten().map(|text| format!("because {text}"));
            steps.push(Row {
                step,
                stage: at.map(|at| at.stage),
                text: at.map_or(step.name.as_str(), |at| at.text),
                ran_us: spans[place].as_ref().map(|span| (span.began_us, span.ended_us)),
                waited_us: waited(build, step),
                // As the history keeps it.
                cpu: step.usage.map(|Usage { user, system, .. }| {
                    Duration::from_micros(micros(user).saturating_add(micros(system)))
                }),
                memory_bytes: step.usage.as_ref().and_then(memory),
                bytes,
                because: step.error.iter().cloned().chain(because).collect(),
                critical: false,
            });
        }
        for link in &path {
            steps[link.place].critical = true;
        }
        Self { total_us, steps, path, sum }
    }
}

/// What became of a step, in words.
pub fn result(step: &StepRecord) -> &'static str {
    match (step.fate, step.by) {
        (Fate::Cached, Some(Hit::Content)) => "cached: what it reads is what it once read",
        (Fate::Cached, Some(Hit::Flight)) => "another build made it meanwhile",
        (Fate::Cached, Some(Hit::Unneeded)) => "cached: what stands on it is",
        (Fate::Cached, _) => "cached",
        (Fate::Ran, _) if step.is_operation() => "ran",
        (Fate::Ran, _) => "done",
        (Fate::Unchanged, _) => "ran, and came out as before",
        (Fate::Failed, _) => "failed",
        (Fate::Canceled, _) => "canceled",
        (Fate::NotReached, _) => "not reached",
    }
}

/// When a step ran; one that nobody saw the end of, until the build's.
fn span(step: &StepRecord, total_us: u64) -> Option<Span> {
    let began_us = step.started_us?;
    let ended_us = step.ended_us.unwrap_or(total_us).max(began_us);
    Some(Span { began_us, ended_us, inputs: step.inputs.clone() })
}

/// From the end of what it stands on to its beginning; or to its end, where another build made it.
fn waited(build: &Build, step: &StepRecord) -> Option<u64> {
    let until = match (step.started_us, step.by) {
        (Some(started), _) => started,
        (None, Some(Hit::Flight)) => step.ended_us?,
        _ => return None,
    };
    let inputs = step.inputs.iter().filter_map(|input| build.steps.get(*input)?.ended_us);
    // What nobody needed is told late.
    inputs.filter(|ended| *ended <= until).max().map(|ready| until - ready)
}

/// Whole microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn memory(usage: &Usage) -> Option<u64> {
    usage.memory_peak_bytes.or(usage.max_rss_bytes)
}

#[cfg(test)]
mod tests {
    use solver::work::Work;
    use store::history::Head;

    use super::*;

    fn work(kind: WorkKind, read_bytes: u64, hashed_bytes: u64, written_bytes: u64) -> WorkRecord {
        let work = Work { kind, files: 1, read_bytes, hashed_bytes, written_bytes, took: Duration::from_micros(5) };
        WorkRecord { what: String::new(), ended_us: 50, work }
    }

    fn step(name: &str, ran: Option<(u64, u64)>, inputs: &[usize], work: Vec<WorkRecord>) -> StepRecord {
        let (started_us, ended_us) = ran.unzip();
        let (name, inputs) = (name.to_owned(), inputs.to_vec());
        StepRecord { name, inputs, started_us, ended_us, work, fate: Fate::Ran, ..StepRecord::default() }
    }

    #[test]
    fn the_figures_of_the_steps_add_up_to_those_of_the_build() {
        let steps = vec![
            step(
                "[a 1/2] FROM x",
                Some((0, 10)),
                &[],
                vec![work(WorkKind::Receive, 0, 7, 7), work(WorkKind::Unpack, 7, 20, 30)],
            ),
            step(
                "[a 2/2] COPY . .",
                Some((10, 20)),
                &[0],
                vec![work(WorkKind::Digest, 3, 3, 0), work(WorkKind::Copy, 4, 0, 4)],
            ),
            step(
                "exporting",
                Some((20, 60)),
                &[],
                vec![
                    work(WorkKind::Archive, 100, 100, 0),
                    work(WorkKind::Compress, 200, 250, 50),
                    work(WorkKind::Send, 50, 0, 0),
                    work(WorkKind::Send, u64::MAX, 0, 0),
                ],
            ),
        ];
        let build = Build { head: Head::new("/x".into(), "linux/amd64".into()), steps };
        let sheet = Sheet::of(&build, &[None, Some("it is new".into()), None]);
        let mut sum = Bytes::default();
        sheet.steps.iter().for_each(|row| sum.add(&row.bytes));
        assert_eq!(sum, sheet.sum);
        let expected = Bytes {
            read: 7 + 3 + 4 + 100 + 200,
            hashed: 7 + 20 + 3 + 100 + 250,
            compressed_from: 200,
            compressed_to: 50,
            received: 7,
            sent: u64::MAX,
        };
        assert_eq!(sum, expected);
        assert_eq!(sheet.total_us, 60);
        assert_eq!(sheet.steps.iter().map(|row| row.critical).collect::<Vec<_>>(), [true, true, true]);
        assert_eq!(sheet.steps[1].because, ["because it is new"]);
        assert_eq!((sheet.steps[1].stage, sheet.steps[1].text), (Some("a"), "COPY . ."));
        assert_eq!(sheet.steps[2].stage, None);
    }

    #[test]
    fn waiting_is_what_lies_between_the_last_input_and_the_beginning() {
        let mut cached = step("c", None, &[], Vec::new());
        (cached.fate, cached.ended_us) = (Fate::Cached, Some(4));
        let mut flown = step("f", None, &[1], Vec::new());
        (flown.fate, flown.by, flown.ended_us) = (Fate::Cached, Some(Hit::Flight), Some(90));
        let steps = vec![
            cached,
            step("a", Some((5, 20)), &[0], Vec::new()),
            step("b", Some((50, 60)), &[0, 1], Vec::new()),
            flown,
            step("d", Some((3, 9)), &[0], Vec::new()),
        ];
        let build = Build { head: Head::new("/x".into(), "linux/amd64".into()), steps };
        let sheet = Sheet::of(&build, &[]);
        let waited: Vec<_> = sheet.steps.iter().map(|row| row.waited_us).collect();
        assert_eq!(waited, [None, Some(1), Some(30), Some(70), None]);
    }

    #[test]
    fn a_step_without_an_end_lasts_as_long_as_the_build() {
        let mut step = step("a", Some((5, 0)), &[], Vec::new());
        step.ended_us = None;
        let build = Build { head: Head::new("/x".into(), "linux/amd64".into()), steps: vec![step.clone(), step] };
        let sheet = Sheet::of(&build, &[]);
        assert_eq!((sheet.total_us, sheet.steps[0].ran_us), (5, Some((5, 5))));
        assert_eq!(sheet.path.len(), 2);
    }
}
