//! Every build is recorded while it runs: its steps, their keys, what they print.
//!
//! In come the same events that the display gets; out goes a record in the store ([`store::history`]). The events pass
//! through a queue to a thread of its own, which writes; so the build waits for nothing, but for output that comes
//! faster than a disk takes it. A record that cannot be written fails no build: it is told, once, at the end. What the
//! events say of the steps is put together in [`steps`].

pub mod steps;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use solver::explain::Fate;
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use store::history::{Build, Head, LogWriter, Outcome, Recording, StepRecord};
use store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use self::steps::{Planned, Steps, Turn};
use super::plans::Plans;
use super::{Built, Failure, FailureKind, Text, why};
use crate::options::context::{DockerfileFrom, Place, masked};
use crate::options::{BuildOptions, InputOptions};
use crate::queue::{self, Queue, log_bytes};

/// What is kept of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// How many builds; 0 records none.
    pub keep: usize,
    /// How much of what one step prints.
    pub log_max_bytes: u64,
}

/// Events taken from the queue before what was noted is written.
const BATCH_MAX_EVENTS: usize = 1024;

/// Records one build.
pub struct Recorder {
    /// `None` when nothing is recorded.
    running: Option<Running>,
    store: Store,
    settings: HistorySettings,
    /// Told of what goes wrong.
    display: Arc<dyn Progress>,
}

struct Running {
    queue: Arc<Queue>,
    plan: Arc<OnceLock<Planned>>,
    thread: JoinHandle<Taken>,
}

impl Recorder {
    /// Begins to record a build of `options`.
    pub fn begin(
        store: &Store,
        settings: HistorySettings,
        options: &BuildOptions,
        display: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Self {
        let mut recorder = Self { running: None, store: store.clone(), settings, display: display.clone() };
        if settings.keep > 0 {
            match recorder.start(options, cancel) {
                Ok(running) => recorder.running = Some(running),
                Err(error) => recorder.tell(&error),
            }
        }
        recorder
    }

    fn start(&self, options: &BuildOptions, cancel: &CancellationToken) -> Result<Running, StoreError> {
        let recording = self.store.record_build(head(options))?;
        let (queue, events) = Queue::new(queue::MAX_BYTES, cancel.clone());
        let plan = Arc::new(OnceLock::new());
        let taker = Taker {
            recording,
            plan: plan.clone(),
            display: self.display.clone(),
            store: self.store.clone(),
            log_max_bytes: self.settings.log_max_bytes,
            steps: Steps::default(),
            logs: HashMap::new(),
            trouble: None,
            told: false,
        };
        let own = queue.clone();
        let thread = std::thread::Builder::new()
            .name("history".into())
            .spawn(move || taker.take_all(&events, &own))
            .map_err(|source| StoreError::Io { act: "start a thread for", path: self.store.root().into(), source })?;
        Ok(Running { queue, plan, thread })
    }

    /// Where the build reports to, so that the display and this hear it.
    pub fn listener(&self) -> Arc<dyn Progress> {
        match &self.running {
            Some(running) => {
                Arc::new(Tee { display: self.display.clone(), queue: running.queue.clone() }) as Arc<dyn Progress>
            }
            None => self.display.clone(),
        }
    }

    /// Takes what happened before it was known that there will be a build: the display has it already.
    pub fn replay(&self, events: Vec<Event>) {
        let Some(running) = &self.running else { return };
        for event in events {
            running.queue.event(event);
        }
    }

    /// Takes note of what is to be built.
    pub fn planned(&self, dockerfile: &Text, plans: &Plans) {
        let Some(running) = &self.running else { return };
        // Planned once per build.
        let _ = running.plan.set(Planned::of(dockerfile, plans));
    }

    /// The build has ended: writes the record, and forgets the oldest. Returns the record, if there is one.
    pub fn end(mut self, outcome: &Result<Built, Failure>, cancel: &CancellationToken) -> Option<Build> {
        let running = self.running.take()?;
        running.queue.close();
        let Ok(Taken { recording, mut build, trouble }) = running.thread.join() else {
            tracing::debug!("the recorder ended by a panic, which it has reported itself");
            return None;
        };
        build.head = ended(build.head, &build.steps, outcome, cancel);
        let written = match trouble {
            Some(error) => Err(error),
            None => recording.finish(build.head.clone(), &build.steps),
        };
        if let Err(error) = written.and_then(|()| self.store.trim_history(self.settings.keep).map(drop)) {
            self.tell(&error);
        }
        Some(build)
    }

    fn tell(&self, error: &StoreError) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let text = format!("this build is not in the history: {error}{cause}");
        self.display.event(Event::Notice { vertex: VertexId::of_name("history"), text });
    }
}

impl Drop for Recorder {
    /// A build that broke off leaves what was known.
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.queue.close();
        }
    }
}

/// What was asked.
pub fn head(options: &BuildOptions) -> Head {
    let (context, dockerfile) = place(&options.input);
    let mut head = Head::new(context, options.input.platforms_text());
    head.dockerfile = dockerfile;
    head.target.clone_from(&options.input.target);
    head.tags = options.tags.iter().map(oci::model::Reference::familiar).collect();
    head.client.clone_from(&options.client);
    head.no_cache = options.no_cache || !options.no_cache_stages.is_empty();
    head
}

/// The context and the Dockerfile of a build as they are written down: paths are absolute and without links, and the
/// usual Dockerfile has no name.
pub fn place(input: &InputOptions) -> (String, Option<String>) {
    let absolute = |path: &Path| {
        let path = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        path.map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned())
    };
    let context = match &input.context {
        Place::Path(path) => absolute(path),
        Place::Stdin => "-".into(),
        Place::Http(url) => masked(url),
        Place::Git(git) => super::context::remote::shown(git),
        Place::Theirs(theirs) => format!("client:{}", theirs.name),
        Place::TheirStream(_) => "client:-".into(),
    };
    let dockerfile = match &input.dockerfile {
        DockerfileFrom::Usual => None,
        DockerfileFrom::Path(path) if Path::new(&context).is_dir() => {
            let path = absolute(path);
            (Path::new(&path) != Path::new(&context).join("Dockerfile")).then_some(path)
        }
        DockerfileFrom::Path(path) => Some(path.to_string_lossy().into_owned()),
        DockerfileFrom::Stdin => Some("-".into()),
        DockerfileFrom::Http(url) => Some(masked(url)),
        DockerfileFrom::Theirs(_, path) => Some(path.to_string_lossy().into_owned()),
    };
    (context, dockerfile)
}

/// How it went.
pub fn ended(head: Head, steps: &[StepRecord], outcome: &Result<Built, Failure>, cancel: &CancellationToken) -> Head {
    let operations = steps.iter().filter(|step| step.is_operation());
    let (mut count, mut cached) = (0, 0);
    for step in operations.filter(|step| step.fate != Fate::NotReached) {
        count += 1;
        cached += usize::from(step.fate == Fate::Cached);
    }
    let mut head = Head { ended: Some(jiff::Timestamp::now()), steps: count, cached, ..head };
    match outcome {
        Ok(built) => {
            if let (Some(client), Some(told)) = (&mut head.client, built.metadata.as_object()) {
                let told = told.iter().filter(|(key, _)| !key.starts_with("vnd.rbuild."));
                client.response = told.map(|(key, value)| (key.clone(), value.clone())).collect();
            }
            Head { outcome: Outcome::Ok, image: Some(built.image_id.to_string()), ..head }
        }
        Err(failure) => {
            let canceled = failure.kind == FailureKind::Canceled || cancel.is_cancelled();
            let error = failure.problems.first().map(|problem| problem.message.clone());
            match canceled {
                true => Head { outcome: Outcome::Canceled, ..head },
                false => Head { outcome: Outcome::Failed, error, ..head },
            }
        }
    }
}

/// The display first: people watch it.
struct Tee {
    display: Arc<dyn Progress>,
    queue: Arc<Queue>,
}

impl Progress for Tee {
    fn event(&self, event: Event) {
        // Notices are not recorded.
        if matches!(event, Event::Notice { .. } | Event::Why { .. }) {
            return self.display.event(event);
        }
        self.display.event(event.clone());
        self.queue.event(event);
    }
}

/// What the thread leaves.
struct Taken {
    recording: Recording,
    build: Build,
    trouble: Option<StoreError>,
}

/// The body of the thread.
struct Taker {
    recording: Recording,
    plan: Arc<OnceLock<Planned>>,
    display: Arc<dyn Progress>,
    store: Store,
    log_max_bytes: u64,
    steps: Steps,
    /// Of the steps that have printed something and not ended.
    logs: HashMap<usize, LogWriter>,
    /// What went wrong first; nothing is written after it.
    trouble: Option<StoreError>,
    /// Whether the first miss was told.
    told: bool,
}

impl Taker {
    fn take_all(mut self, events: &Receiver<(Duration, Event)>, queue: &Queue) -> Taken {
        while let Ok(first) = events.recv() {
            let mut bytes = 0;
            for (at, event) in std::iter::once(first).chain(events.try_iter().take(BATCH_MAX_EVENTS)) {
                bytes += log_bytes(&event);
                self.take(at, event);
            }
            let flushed = self.recording.flush();
            self.note(flushed);
            if bytes > 0 {
                queue.taken(bytes);
            }
        }
        let unfinished: Vec<usize> = self.logs.keys().copied().collect();
        for step in unfinished {
            self.end_log(step);
        }
        for step in &mut self.steps.list {
            // It began and was not heard of again: the build stopped it.
            if step.started_us.is_some() && step.ended_us.is_none() {
                step.fate = Fate::Canceled;
            }
        }
        let mut head = self.recording.head().clone();
        if let Some(plan) = self.plan.get() {
            self.steps.place(plan);
            head.args = why::declared_args(&plan.dockerfile.text);
        }
        Taken { recording: self.recording, build: Build { head, steps: self.steps.list }, trouble: self.trouble }
    }

    fn note<T>(&mut self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.trouble.get_or_insert(error);
                None
            }
        }
    }

    fn take(&mut self, at: Duration, event: Event) {
        let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        match self.steps.take(at_us, event) {
            Some((step, Turn::Started(vertex))) => {
                self.recording.step_started(step, &self.steps.list[step].name, at_us);
                self.tell_first_miss(step, vertex);
            }
            Some((step, Turn::Ended)) => {
                if self.steps.list[step].started_us.is_some() {
                    self.recording.step_ended(step, self.steps.list[step].fate, at_us);
                }
                self.end_log(step);
            }
            Some((step, Turn::Printed(bytes))) => self.print(step, &bytes),
            None => {}
        }
    }

    fn print(&mut self, step: usize, bytes: &[u8]) {
        if self.trouble.is_some() || self.steps.list[step].log.is_some() {
            return;
        }
        if !self.logs.contains_key(&step) {
            let log = self.recording.log(step, self.log_max_bytes);
            let Some(log) = self.note(log) else { return };
            self.logs.insert(step, log);
        }
        let written = self.logs.get_mut(&step).expect("it is there now").write(bytes);
        self.note(written);
    }

    fn end_log(&mut self, step: usize) {
        if let Some(log) = self.logs.remove(&step) {
            let ended = log.end();
            self.steps.list[step].log = self.note(ended);
        }
    }

    /// The first step that runs is told with its reason, by a thread of its own: the step waits for nothing.
    fn tell_first_miss(&mut self, step: usize, vertex: VertexId) {
        let record = &self.steps.list[step];
        if self.told || record.key.is_none() || !record.is_operation() {
            return;
        }
        self.told = true;
        if self.plan.get().is_none_or(|plan| plan.anew.contains(&vertex)) {
            return;
        }
        let head = self.recording.head().clone();
        let build = Build { head, steps: self.steps.list.clone() };
        let (store, display, plan) = (self.store.clone(), self.display.clone(), self.plan.clone());
        let tell = move || {
            let Some(plan) = plan.get() else { return };
            let args = why::declared_args(&plan.dockerfile.text);
            match why::first_line(&store, &build, step, &args) {
                Ok(Some(text)) => display.event(Event::Why { vertex, text }),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "why the first step runs is not known"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("why".into()).spawn(tell) {
            tracing::debug!(%error, "no thread to find out why the first step runs");
        }
    }
}
