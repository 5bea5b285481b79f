//! Toys behind the solver's seams: an executor that counts, a cache in memory, a listener that keeps a list.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::key::{ContentDigest, Key};
use solver::op::{CopyAction, ExecOp, FileAction, FileActionKind, FileOp, Mount, MountKind, Op, OpMeta, SourceOp};
use solver::seam::{CacheStore, Event, Executor, Job, LogSink, Pin, Progress, Record, ResultId, Selection};
use tokio_util::sync::CancellationToken;

/// Why the toy failed: it was told to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ToyError(pub String);

/// What a toy operation does when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Gives a result.
    Work,
    /// Fails.
    Fail,
    /// Waits until it is cancelled.
    Hang,
}

#[derive(Default)]
pub struct ToyExecutor {
    /// By the vertex's description; absent means [`Behaviour::Work`].
    pub behaviour: HashMap<String, Behaviour>,
    /// What is in the local source, by path.
    pub files: Mutex<BTreeMap<String, String>>,
    /// What an image name is pinned to.
    pub pins: Mutex<BTreeMap<String, u8>>,
    /// Descriptions in the order in which they ran.
    pub ran: Mutex<Vec<String>>,
    /// Inputs that each was given.
    pub inputs: Mutex<HashMap<String, Vec<ResultId>>>,
    now: AtomicUsize,
    /// The most processes at one time.
    pub most: AtomicUsize,
    /// Results that were made; an input must be one of them.
    pub made: Mutex<HashSet<ResultId>>,
}

impl Executor for ToyExecutor {
    type Error = ToyError;

    async fn pin(&self, source: &SourceOp, _: &dyn LogSink, _: &CancellationToken) -> Result<Pin, ToyError> {
        tokio::task::yield_now().await;
        match source.scheme() {
            "local" => Ok(Pin::Selected),
            _ => {
                let byte = self.pins.lock().unwrap().get(source.reference()).copied();
                byte.map(|byte| Pin::Content(ContentDigest([byte; 32])))
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
        tokio::task::yield_now().await;
        let files = self.files.lock().unwrap();
        let text = files.get(&selection.path).ok_or_else(|| ToyError(format!("{} is not there", selection.path)))?;
        let mut bytes = [0; 32];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(ContentDigest(bytes))
    }

    async fn run(&self, job: Job<'_>, log: &dyn LogSink, stop: &CancellationToken) -> Result<Vec<ResultId>, ToyError> {
        let name = job.meta.description.clone();
        let process = matches!(job.vertex.op, Op::Exec(_));
        if process {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
        }
        self.ran.lock().unwrap().push(name.clone());
        for input in &job.inputs {
            assert!(self.made.lock().unwrap().contains(input), "{name} was given {input}, which nobody made");
        }
        self.inputs.lock().unwrap().insert(name.clone(), job.inputs.clone());
        log.write(solver::seam::Stream::Stdout, name.as_bytes());
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let outcome = match self.behaviour.get(&name).copied().unwrap_or(Behaviour::Work) {
            Behaviour::Work => {
                let results: Vec<_> = (0..job.vertex.outputs()).map(|i| ResultId(format!("{name}#{i}"))).collect();
                self.made.lock().unwrap().extend(results.iter().cloned());
                Ok(results)
            }
            Behaviour::Fail => Err(ToyError(format!("{name} failed"))),
            Behaviour::Hang => {
                stop.cancelled().await;
                Err(ToyError(format!("{name} was stopped")))
            }
        };
        if process {
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
        outcome
    }
}

/// A cache that forgets nothing.
#[derive(Default)]
pub struct MemoryCache(pub Mutex<HashMap<Key, Vec<ResultId>>>);

impl CacheStore for MemoryCache {
    type Error = ToyError;
    type Flight = ();

    async fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, ToyError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    fn of_operation(&self, _: &Key) -> Result<Vec<Vec<ResultId>>, ToyError> {
        Ok(Vec::new())
    }

    fn record(&self, key: &Key, record: &Record<'_>) -> Result<(), ToyError> {
        assert!(!record.parts.is_empty(), "a key is stored with its parts");
        self.0.lock().unwrap().insert(*key, record.results.to_vec());
        Ok(())
    }

    fn try_claim(&self, _: &Key) -> Result<Option<()>, ToyError> {
        Ok(Some(()))
    }

    async fn claim(&self, _: &Key) -> Result<(), ToyError> {
        Ok(())
    }
}

/// Keeps what it hears.
#[derive(Default)]
pub struct Listener(pub Mutex<Vec<Event>>);

impl Progress for Listener {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// Writes graphs in few words; every vertex is named by its description.
#[derive(Default)]
pub struct Sketch {
    pub graph: Graph,
    names: HashMap<String, VertexId>,
}

impl Sketch {
    pub fn edge(&self, name: &str) -> Edge {
        Edge { vertex: self.names[name], output: 0 }
    }

    fn add(&mut self, name: &str, op: Op, inputs: &[&str], ignore_cache: bool) -> &mut Self {
        let inputs = inputs.iter().map(|input| self.edge(input)).collect();
        let meta = OpMeta { description: name.into(), ignore_cache, ..OpMeta::default() };
        let id = self.graph.add(Vertex { op, inputs, platform: None }, meta).expect("a sketch is a graph");
        self.names.insert(name.into(), id);
        self
    }

    pub fn source(&mut self, identifier: &str) -> &mut Self {
        let op = Op::Source(SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() });
        self.add(identifier, op, &[], false)
    }

    pub fn run(&mut self, name: &str, inputs: &[&str]) -> &mut Self {
        self.run_with(name, inputs, |_| {}, false)
    }

    pub fn run_with(
        &mut self,
        name: &str,
        inputs: &[&str],
        change: impl FnOnce(&mut ExecOp),
        ignore_cache: bool,
    ) -> &mut Self {
        let mounts = (0..inputs.len().max(1)).map(|i| Mount {
            target: if i == 0 { "/".into() } else { format!("/in{i}") },
            input: (i < inputs.len()).then_some(i),
            selector: String::new(),
            output: (i == 0).then_some(0),
            readonly: i > 0,
            kind: MountKind::Bind,
        });
        let mut exec = ExecOp {
            args: vec!["/bin/sh".into(), "-c".into(), name.into()],
            env: [].into(),
            proxy_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            mounts: mounts.collect(),
            network: Default::default(),
            security: Default::default(),
            secret_env: Vec::new(),
            extra_hosts: Vec::new(),
            hostname: String::new(),
            ulimits: Vec::new(),
            shm_size_bytes: 0,
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            devices: Vec::new(),
        };
        change(&mut exec);
        self.add(name, Op::Exec(Box::new(exec)), inputs, ignore_cache)
    }

    /// Copies `src` of the second input onto the first.
    pub fn copy(&mut self, name: &str, src: &str, inputs: &[&str]) -> &mut Self {
        let (input, secondary) = if inputs.len() == 2 { (Some(0), 1) } else { (None, 0) };
        let copy = CopyAction { src: src.into(), dest: "/".into(), ..CopyAction::default() };
        let action =
            FileAction { input, secondary_input: Some(secondary), output: Some(0), kind: FileActionKind::Copy(copy) };
        self.add(name, Op::File(FileOp { actions: vec![action] }), inputs, false)
    }
}
