//! Compression beside the build: a layer that outputs or caches will want compressed is begun as soon as its step is done.
//!
//! In: what comes of the build, and every result the moment it is final. Out: blobs in the store, found there by whoever
//! wants them later; it is never needed, and never waited for but by the exporter. One thread of low priority does
//! it, so it takes little but what steps leave of the processor; the threads of an encoder have its priority. It ends with the
//! build, however that ends. Once the build is solved, what is under way is waited for: then it gets the priority of
//! everything else, and as many threads more where that may not be ([`Help`]); what was not begun is left to the exporter,
//! who has all cores. An error is told nobody: who needs the blob makes it again and tells.
//!
//! Deliberately absent: sending; layers of the base image.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use executor::{ExecError, Worker};
use frontend::PlanOutput;
use oci::layer::{Codec, Help};
use solver::graph::VertexId;
use solver::seam::ResultId;
use tokio_util::sync::CancellationToken;

use crate::engine::epoch;
use crate::options::BuildOptions;
use crate::options::cache::{CacheMode, CachePlace};

/// How a layer will be wanted.
type Wanted = (Codec, bool);

/// Compresses layers while a build goes on.
pub struct Ahead {
    shared: Arc<Shared>,
    worker: Worker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Which output of a vertex is a layer of the image, and the how-manieth that the build made.
    image: HashMap<VertexId, (u32, usize)>,
    /// By outputs: of the image, with its times.
    sent: Vec<Wanted>,
    /// By caches that take what the image stands on.
    kept_min: Vec<Wanted>,
    /// By caches that take everything.
    kept_max: Vec<Wanted>,
    epoch: Option<i64>,
    queue: Mutex<Queue>,
    changed: Condvar,
    stopped: AtomicBool,
    /// Somebody waits.
    awaited: AtomicBool,
    help: Help,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Queue {
    todo: VecDeque<Task>,
    /// Nothing more comes.
    closed: bool,
}

/// One result.
struct Task {
    result: ResultId,
    /// Of the image: how many of its topmost records the build made.
    made: Option<usize>,
    /// Whether what it stands on was not heard of.
    whole: bool,
}

impl Ahead {
    /// For a build that is wanted compressed; `None` for others.
    pub fn of<'a>(
        options: &BuildOptions,
        outputs: impl Iterator<Item = &'a PlanOutput>,
        worker: &Worker,
        cancel: &CancellationToken,
    ) -> Option<Arc<Self>> {
        let (mut sent, mut kept_min, mut kept_max) = (Vec::new(), Vec::new(), Vec::new());
        let add = |list: &mut Vec<Wanted>, wanted: Wanted| {
            if !list.contains(&wanted) {
                list.push(wanted);
            }
        };
        for output in options.outputs.iter().filter(|output| output.compresses()) {
            if let Some(form) = output.form() {
                add(&mut sent, (form.codec, form.force));
            }
        }
        for cache in options.cache_to.iter().filter(|cache| cache.place != CachePlace::Inline) {
            let list = if cache.mode == CacheMode::Max { &mut kept_max } else { &mut kept_min };
            add(list, (cache.codec, cache.force_compression));
        }
        if sent.is_empty() && kept_min.is_empty() && kept_max.is_empty() {
            return None;
        }
        let (mut image, mut epoch) = (HashMap::new(), None);
        for output in outputs {
            let edges = output.history.iter().filter_map(|step| step.edge);
            image.extend(edges.enumerate().map(|(at, edge)| (edge.vertex, (edge.output, at + 1))));
            // One build has one time.
            epoch = output.epoch;
        }
        let shared = Shared {
            image,
            sent,
            kept_min,
            kept_max,
            epoch,
            queue: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            help: Help::default(),
            cancel: cancel.clone(),
        };
        Some(Arc::new(Self { shared: Arc::new(shared), worker: worker.clone(), thread: Mutex::default() }))
    }

    /// A vertex has these results, for good; `ran`: just made, else known.
    pub fn heard(&self, vertex: &VertexId, results: &[ResultId], ran: bool) {
        let shared = &self.shared;
        let in_image = shared.image.get(vertex);
        for (at, result) in results.iter().enumerate() {
            let made = in_image.filter(|(output, _)| *output as usize == at).map(|(_, made)| *made);
            let wanted = match made {
                Some(_) => true,
                // What was known before was sent before, by whoever made it.
                None => ran && !shared.kept_max.is_empty(),
            };
            if wanted {
                self.push(Task { result: result.clone(), made, whole: !ran });
            }
        }
    }

    fn push(&self, task: Task) {
        let mut queue = self.shared.queue();
        if queue.closed {
            return;
        }
        queue.todo.push_back(task);
        drop(queue);
        self.shared.changed.notify_one();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = self.shared.clone();
            match self.worker.in_background("rbuild-ahead", move |worker| shared.work(worker)) {
                Ok(started) => *thread = Some(started),
                Err(error) => tracing::debug!(%error, "nothing is compressed beside the build"),
            }
        }
    }

    /// The build is solved: what was not begun is left to the exporter, what was is finished.
    pub async fn finish(self: &Arc<Self>) {
        self.close();
        self.shared.awaited.store(true, Relaxed);
        self.worker.in_foreground();
        self.shared.help.come();
        let this = self.clone();
        let joined = tokio::task::spawn_blocking(move || this.join()).await;
        if let Err(error) = joined {
            tracing::debug!(%error, "compression beside the build broke");
        }
    }

    fn close(&self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.todo.clear();
        drop(queue);
        self.shared.changed.notify_all();
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the thread that compresses beside the build panicked");
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
        self.close();
        self.join();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change is one call.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> bool {
        self.stopped.load(Relaxed) || self.cancel.is_cancelled()
    }

    fn work(&self, worker: &Worker) {
        let mut timed = Timed::default();
        loop {
            let mut queue = self.queue();
            let task = loop {
                match queue.todo.pop_front() {
                    Some(task) => break task,
                    None if queue.closed => return,
                    None => queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(queue);
            if self.stops() {
                return;
            }
            if let Err(error) = self.compress(worker, &task, &mut timed) {
                tracing::debug!(%error, result = %task.result, "not compressed beside the build");
            }
        }
    }

    fn compress(&self, worker: &Worker, task: &Task, timed: &mut Timed) -> Result<(), ExecError> {
        let kept = [&self.kept_max[..], if task.made.is_some() { &self.kept_min } else { &[] }].concat();
        self.blobs(worker, &task.result, task, &kept)?;
        let Some(made) = task.made.filter(|_| !self.sent.is_empty()) else { return Ok(()) };
        match self.epoch {
            None => self.blobs(worker, &task.result, task, &self.sent),
            Some(epoch) => {
                let top = timed.of(worker, &task.result, made, epoch)?;
                self.blobs(worker, &top, task, &self.sent)
            }
        }
    }

    /// Blobs of the topmost record, or of all that the build made, the lowest first.
    fn blobs(&self, worker: &Worker, top: &ResultId, task: &Task, wanted: &[Wanted]) -> Result<(), ExecError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let layers = match task.made.filter(|_| task.whole) {
            Some(made) => {
                let chain = worker.layers().chain(top)?;
                chain[chain.len().saturating_sub(made)..].to_vec()
            }
            None => worker.store().layer(top)?.into_iter().collect(),
        };
        for layer in layers.iter().filter(|layer| !layer.empty) {
            // It lies in a cache elsewhere, and may stay there.
            if layer.name.is_none() && layer.came_as().is_some() {
                continue;
            }
            for (codec, force) in wanted {
                if self.awaited.load(Relaxed) {
                    return Ok(());
                }
                worker.layers().ensure_blob_unless(&layer.id, codec, *force, &|| self.stops(), &self.help)?;
            }
        }
        Ok(())
    }
}

/// The last result with the times of the epoch: mostly the next one stands on it.
#[derive(Default)]
struct Timed(Option<(ResultId, ResultId)>);

impl Timed {
    fn of(&mut self, worker: &Worker, result: &ResultId, made: usize, epoch: i64) -> Result<ResultId, ExecError> {
        let layer = worker.store().layer(result)?;
        let top = match (&self.0, layer) {
            (Some((below, timed)), Some(layer)) if layer.parent.as_ref() == Some(below) => {
                epoch::derive_one(worker, Some(timed), &layer, epoch)?
            }
            _ => epoch::derive(worker, result, made, epoch)?,
        };
        self.0 = Some((result.clone(), top.clone()));
        Ok(top)
    }
}
