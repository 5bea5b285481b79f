//! Toys behind the solver's seams: an executor that counts and knows what its results hold, a cache in memory, a
//! listener that keeps a list, graphs in few words.

mod cache;
mod sketch;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub use cache::MemoryCache;
pub use sketch::Sketch;
use solver::graph::VertexId;
use solver::key::{ContentDigest, Key};
use solver::op::{Op, SourceOp};
use solver::seam::{Event, Executor, Job, LogSink, Pin, Progress, Read, ResultId, Selection, Stream};
use tokio_util::sync::CancellationToken;

/// Why the toy failed: it was told to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ToyError(pub String);

/// What a toy operation does when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Gives a result that holds what its inputs hold, and its name.
    Work,
    /// Gives a result that holds the same whatever it stands on, as long as this number is the same.
    Constant(u64),
    /// Fails.
    Fail,
    /// Is a bug: panics, once it has given way as often as `delays` says.
    Break,
    /// Waits until it is cancelled.
    Hang,
    /// Waits until it is cancelled, and has ended well by then.
    Finish,
}

/// What a toy operation waits for, which is not its build's.
#[derive(Clone, Debug)]
pub enum Awaits {
    Start(&'static str),
    Turns(usize),
    /// What never comes.
    Ever,
}

/// An operation that gave results.
#[derive(Clone, Debug)]
pub struct Ended {
    pub vertex: VertexId,
    pub operation: Key,
    /// What it read, in order.
    pub read: Vec<u64>,
}

#[derive(Default)]
pub struct ToyExecutor {
    /// By the vertex's description; absent means [`Behaviour::Work`].
    pub behaviour: HashMap<String, Behaviour>,
    /// What is in the piece `/out` of a result and in the others, instead of what is worked.
    pub pieces: HashMap<String, (u64, u64)>,
    /// Of these, nobody can tell what they hold.
    pub opaque: Vec<String>,
    /// What is in the local source, by path.
    pub files: Mutex<BTreeMap<String, String>>,
    /// What an image name is pinned to, and what the image holds.
    pub pins: Mutex<BTreeMap<String, (u8, u64)>>,
    /// Descriptions in the order in which they began to run.
    pub ran: Mutex<Vec<String>>,
    /// What ended well, in order.
    pub ended: Mutex<Vec<Ended>>,
    /// How often an operation gives way before it goes on, by the vertex's description.
    pub delays: HashMap<String, usize>,
    /// Operations that wait without their place until another has begun to run, or so many turns of the runtime.
    pub awaits: HashMap<String, Awaits>,
    now: AtomicUsize,
    /// The most processes at one time.
    pub most: AtomicUsize,
    /// What every result holds.
    pub held: Mutex<HashMap<ResultId, u64>>,
    serial: AtomicUsize,
    /// How many contents were asked for.
    pub digested: AtomicUsize,
    /// This question is never answered: `pin`, `digest` or `content`.
    pub mute: Option<&'static str>,
    /// Questions that were asked.
    pub asked: Arc<Mutex<Vec<&'static str>>>,
}

pub fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// What an operation makes of what it reads. Of a process, the command counts and the variable `RESULT`.
pub fn worked(op: &Op, output: u32, read: &[u64]) -> u64 {
    let does = match op {
        Op::Exec(exec) => {
            let result = exec.env.iter().find(|pair| pair.starts_with("RESULT="));
            format!("{:?} {result:?}", exec.args)
        }
        op => format!("{op:?}"),
    };
    hash((does, output, read))
}

/// What is read of something: all of it, or one of four pieces.
pub fn piece(held: u64, read: &Read) -> u64 {
    match read {
        Read::Chain => held,
        Read::Selected(selection) => (held >> shift(&selection.path)) & 3,
    }
}

/// Where in what a result holds a path is.
fn shift(path: &str) -> u64 {
    hash(path) % 4 * 2
}

fn digest(of: u64) -> ContentDigest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&of.to_le_bytes());
    ContentDigest(bytes)
}

impl ToyExecutor {
    fn holds(&self, result: &ResultId) -> u64 {
        *self.held.lock().unwrap().get(result).unwrap_or_else(|| panic!("nobody made {result}"))
    }

    pub fn file(&self, path: &str) -> Result<u64, ToyError> {
        let files = self.files.lock().unwrap();
        files.get(path).map(hash).ok_or_else(|| ToyError(format!("{path} is not there")))
    }

    async fn may_be_mute(&self, question: &'static str) {
        self.asked.lock().unwrap().push(question);
        tokio::task::yield_now().await;
        if self.mute == Some(question) {
            std::future::pending::<()>().await;
        }
    }

    /// What the job reads, by input.
    fn read(&self, job: &Job<'_>) -> Result<Vec<u64>, ToyError> {
        let mut read = Vec::new();
        let reads = solver::key::all_reads(job.vertex);
        for (i, input) in job.inputs.iter().enumerate() {
            let held = self.holds(input);
            if job.sources[i].is_some_and(|source| source.scheme() == "local") {
                for selection in solver::key::selections(job.vertex, i) {
                    read.push(self.file(&selection.path)?);
                }
            } else {
                read.extend(reads[i].iter().map(|read| piece(held, read)));
            }
        }
        Ok(read)
    }

    fn make(&self, name: &str, held: impl Fn(u32) -> u64, outputs: u32) -> Vec<ResultId> {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst);
        let results: Vec<_> = (0..outputs).map(|i| ResultId(format!("{name}#{i}.{serial}"))).collect();
        let mut all = self.held.lock().unwrap();
        all.extend(results.iter().zip(0..).map(|(id, i)| (id.clone(), held(i))));
        results
    }
}

impl Executor for ToyExecutor {
    type Error = ToyError;

    async fn pin(&self, source: &SourceOp, _: &dyn LogSink, _: &CancellationToken) -> Result<Pin, ToyError> {
        self.may_be_mute("pin").await;
        match source.scheme() {
            "local" => Ok(Pin::Selected),
            _ => {
                let pin = self.pins.lock().unwrap().get(source.reference()).copied();
                pin.map(|(byte, _)| Pin::Content(ContentDigest([byte; 32])))
                    .ok_or_else(|| ToyError(format!("no image {}", source.reference())))
            }
        }
    }

    async fn digest_selected(
        &self,
        _: &SourceOp,
        selection: &Selection,
        _: &CancellationToken,
    ) -> Result<ContentDigest, ToyError> {
        self.may_be_mute("digest").await;
        self.file(&selection.path).map(digest)
    }

    async fn content(
        &self,
        result: &ResultId,
        read: &Read,
        _: &CancellationToken,
    ) -> Result<Option<ContentDigest>, ToyError> {
        self.digested.fetch_add(1, Ordering::SeqCst);
        self.may_be_mute("content").await;
        let opaque = self.opaque.iter().any(|name| result.as_str().starts_with(&format!("{name}#")));
        Ok((!opaque).then(|| digest(piece(self.holds(result), read))))
    }

    async fn settle(
        &self,
        fresh: Vec<ResultId>,
        known: &[Vec<ResultId>],
        _: &CancellationToken,
    ) -> Result<Vec<ResultId>, ToyError> {
        self.may_be_mute("settle").await;
        let hold = |results: &[ResultId]| results.iter().map(|id| self.holds(id)).collect::<Vec<_>>();
        let same = known.iter().find(|known| hold(known) == hold(&fresh)).cloned();
        if same.is_some() {
            self.held.lock().unwrap().retain(|id, _| !fresh.contains(id));
        }
        Ok(same.unwrap_or(fresh))
    }

    async fn run(&self, job: Job<'_>, log: &dyn LogSink, stop: &CancellationToken) -> Result<Vec<ResultId>, ToyError> {
        let name = job.meta.description.clone();
        let process = matches!(job.vertex.op, Op::Exec(_));
        if process {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
        }
        self.ran.lock().unwrap().push(name.clone());
        log.write(Stream::Stdout, name.as_bytes());
        for _ in 0..self.delays.get(&name).copied().unwrap_or(3) {
            tokio::task::yield_now().await;
        }
        if let Some(awaits) = self.awaits.get(&name) {
            self.now.fetch_sub(usize::from(process), Ordering::SeqCst);
            let away = job.place.leave();
            match awaits {
                Awaits::Start(other) => {
                    while !self.ran.lock().unwrap().iter().any(|name| name == other) && !stop.is_cancelled() {
                        tokio::task::yield_now().await;
                    }
                }
                Awaits::Turns(turns) => {
                    for _ in 0..*turns {
                        tokio::task::yield_now().await;
                    }
                }
                Awaits::Ever => stop.cancelled().await,
            }
            away.back().await;
            if stop.is_cancelled() {
                return Err(ToyError(format!("{name} was stopped")));
            }
            let now = self.now.fetch_add(usize::from(process), Ordering::SeqCst) + usize::from(process);
            self.most.fetch_max(now, Ordering::SeqCst);
            self.ran.lock().unwrap().push(format!("{name} goes on"));
        }
        let outputs = job.vertex.outputs();
        let work = || {
            let read = self.read(&job)?;
            let pin = match &job.vertex.op {
                Op::Source(source) => self.pins.lock().unwrap().get(source.reference()).map(|(_, holds)| *holds),
                _ => None,
            };
            let held = self.pieces.get(&name).map(|(others, out)| others << 8 | (out & 3) << shift("/out"));
            let makes = |output| pin.or(held).unwrap_or_else(|| worked(&job.vertex.op, output, &read));
            let made = self.make(&name, makes, outputs);
            let operation = solver::key::operation_key(job.vertex);
            self.ended.lock().unwrap().push(Ended { vertex: job.id, operation, read });
            Ok(made)
        };
        let outcome = match self.behaviour.get(&name).copied().unwrap_or(Behaviour::Work) {
            Behaviour::Work => work(),
            Behaviour::Constant(holds) => Ok(self.make(&name, |output| hash((&name, holds, output)), outputs)),
            Behaviour::Break => panic!("{name} is a bug"),
            Behaviour::Fail => Err(ToyError(format!("{name} failed"))),
            Behaviour::Hang => {
                stop.cancelled().await;
                Err(ToyError(format!("{name} was stopped")))
            }
            Behaviour::Finish => {
                stop.cancelled().await;
                work()
            }
        };
        if process {
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
        outcome
    }
}

/// Keeps what it hears.
#[derive(Default)]
pub struct Listener {
    pub events: Mutex<Vec<Event>>,
    /// There is a notice.
    pub noticed: tokio::sync::Notify,
}

impl Progress for Listener {
    fn event(&self, event: Event) {
        if matches!(event, Event::Notice { .. }) {
            self.noticed.notify_one();
        }
        self.events.lock().unwrap().push(event);
    }
}
