//! What an operation makes: trees to write to, and the layers that become of them.
//!
//! In: the job's operation and inputs. Out: one record per output, with what must be known of its times. Deliberately
//! absent: what the operations do ([`crate::ops`]).

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use oci::content::ContentError;
use solver::key::ContentDigest;
use solver::op::{FileActionKind, FileOp};
use solver::seam::{Job, LogSink, ResultId, Stream};
use solver::work::Work;
use store::{Draft, Made};
use tokio_util::sync::CancellationToken;

use super::sources::LOCAL;
use super::{Inner, Worker};
use crate::error::ExecError;
use crate::layers::SCRATCH;
use crate::layers::packing::{Packed, Packing};
use crate::ops::file::{self, copy::CopySource};
use crate::snapshot::{Mounted, open_directory};
use crate::times::{Heritage, is_image};

impl Worker {
    /// Makes a layer of `draft` on top of `parent`, both of this job: what was only copied up is removed, and a draft
    /// that changes nothing becomes an empty layer. Nothing is mounted on it any more. Blocking.
    pub(crate) fn commit(
        &self,
        parent: &ResultId,
        draft: Draft,
        inputs: &Inputs,
        read: Heritage,
    ) -> Result<ResultId, ExecError> {
        self.inner.commit(parent, draft, inputs, read)
    }

    /// Where times in what a job reads may come from. Blocking.
    pub(crate) fn heritage(&self, result: &ResultId, inputs: &Inputs) -> Result<Heritage, ExecError> {
        if result.as_str().starts_with(LOCAL) {
            return Ok(Heritage { since: None, from_context: true });
        }
        if inputs.images.contains(result) {
            return Ok(Heritage::default());
        }
        let mut known = self.inner.heritages.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Heritage::of(&self.inner.store, result, &mut known)?)
    }

    pub(super) async fn run_file(
        &self,
        op: FileOp,
        job: &Job<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<ResultId>, ExecError> {
        let inputs = job.inputs.clone();
        let packs = self.mounts() && self.inner.may_pack.get().is_some_and(|vertices| vertices.contains(&job.id));
        let trees = JobTrees { worker: self.clone(), cancel: cancel.clone(), inputs: Inputs::of(job), packs };
        let (results, told) = self
            .on_core(cancel, move |_| {
                let told = Notices::default();
                let results = match file::run(&op, &inputs, &trees, &told) {
                    // Whatever the operation says of being stopped half-way.
                    Err(_) if trees.cancel.is_cancelled() => return Err(ExecError::Canceled),
                    results => results?,
                };
                if let (Some(selected), [result]) = (trees.selected(&op, &inputs)?, results.as_slice()) {
                    trees.worker.note_selected(result, &selected)?;
                }
                Ok((results, told.finish()))
            })
            .await?;
        told.tell(log);
        self.inner.layers.left_out().iter().for_each(|text| log.notice(text));
        Ok(results)
    }
}

impl Inner {
    fn commit(&self, parent: &ResultId, draft: Draft, inputs: &Inputs, read: Heritage) -> Result<ResultId, ExecError> {
        let committed = self.snapshots.commit(&self.lowers(parent)?, draft.fs())?;
        let created = (self.clock)();
        let made = made(parent, &draft, created, inputs, read);
        let parent = (parent.as_str() != SCRATCH).then_some(parent);
        let draft = committed.changed.then(|| draft.with_bytes(committed.bytes));
        Ok(self.store.add_built_layer(parent, draft, made)?)
    }
}

/// How a layer on `parent` was made.
fn made(parent: &ResultId, draft: &Draft, created: Timestamp, inputs: &Inputs, read: Heritage) -> Made {
    let begun = draft.begun();
    Made {
        created,
        started: read.since.map_or(begun, |since| since.min(begun)),
        from_context: read.from_context,
        on_base: parent.as_str() == SCRATCH || inputs.images.contains(parent),
    }
}

/// What is known of the inputs of a job beside what they are.
#[derive(Default)]
pub(crate) struct Inputs {
    /// Those that are images.
    images: HashSet<ResultId>,
}

impl Inputs {
    pub(crate) fn of(job: &Job<'_>) -> Self {
        let images = job.inputs.iter().zip(&job.sources).filter(|(_, source)| is_image(**source));
        Self { images: images.map(|(id, _)| id.clone()).collect() }
    }
}

/// What a file operation of one job sees.
struct JobTrees {
    worker: Worker,
    cancel: CancellationToken,
    inputs: Inputs,
    /// Whether nothing of the build is going to look into what it makes.
    packs: bool,
}

impl file::Trees for JobTrees {
    type Error = ExecError;
    type Draft = Draft;

    fn begin(&self, base: &ResultId) -> Result<(Draft, Mounted), ExecError> {
        self.check()?;
        let inner = &self.worker.inner;
        let lowers = inner.lowers(base)?;
        let draft = inner.store.draft()?;
        let mounted = inner.snapshots.prepare(&lowers, draft.fs(), draft.work())?;
        Ok((draft, mounted))
    }

    fn upper(&self, draft: &Draft) -> Result<Option<OwnedFd>, ExecError> {
        if self.worker.mounts() { Ok(Some(open_directory(draft.fs())?)) } else { Ok(None) }
    }

    fn commit(&self, base: &ResultId, draft: Draft, read: &[ResultId], context: bool) -> Result<ResultId, ExecError> {
        self.check()?;
        let mut heritage = Heritage { since: None, from_context: context };
        for result in read {
            heritage = heritage.and(self.worker.heritage(result, &self.inputs)?);
        }
        self.worker.inner.commit(base, draft, &self.inputs, heritage)
    }

    fn may_pack(&self) -> bool {
        self.packs
    }

    fn packing(&self) -> Result<Packing, ContentError> {
        Packing::start(self.worker.store())
    }

    fn commit_packed(
        &self,
        base: &ResultId,
        draft: Draft,
        packed: Packed,
        context: bool,
    ) -> Result<ResultId, ExecError> {
        self.check()?;
        let read = Heritage { since: None, from_context: context };
        let made = made(base, &draft, (self.worker.inner.clock)(), &self.inputs, read);
        let parent = (base.as_str() != SCRATCH).then_some(base);
        Ok(self.worker.store().add_packed_layer(parent, &packed.blob, made)?)
    }

    fn is_canceled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn open(&self, result: &ResultId) -> Result<CopySource, ExecError> {
        self.check()?;
        match self.worker.local_of(result)? {
            None => Ok(CopySource::Result(self.worker.view(result)?)),
            Some((local, patterns)) => Ok(CopySource::Local(local, patterns)),
        }
    }
}

impl JobTrees {
    /// What an operation took from a context, by its digests; `None` if it also does something else, or gives entries a
    /// mode of their own: then other files may give the same layer.
    fn selected(&self, op: &FileOp, inputs: &[ResultId]) -> Result<Option<Vec<ContentDigest>>, ExecError> {
        let mut selected = Vec::new();
        for action in &op.actions {
            let FileActionKind::Copy(copied) = &action.kind else { return Ok(None) };
            let Some(input) = action.secondary_input.and_then(|input| inputs.get(input)) else { return Ok(None) };
            let Some((local, patterns)) = self.worker.local_of(input)? else { return Ok(None) };
            let digest = local.digest_of(&patterns, &file::copy::selection(copied));
            match digest.filter(|_| copied.mode.is_none() && !copied.unpack_archives) {
                Some(digest) => selected.push(digest),
                None => return Ok(None),
            }
        }
        Ok(Some(selected))
    }

    fn check(&self) -> Result<(), ExecError> {
        if self.cancel.is_cancelled() { Err(ExecError::Canceled) } else { Ok(()) }
    }
}

/// Keeps what a blocking thread tells until its caller, who may use the log, has it.
#[derive(Default)]
pub(crate) struct Notices(Mutex<Told>);

/// What was told.
#[derive(Default)]
pub(crate) struct Told {
    notices: Vec<String>,
    work: Vec<Work>,
}

impl Notices {
    /// All of it.
    pub(crate) fn finish(self) -> Told {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Tells it.
    pub(crate) fn tell(&self, log: &dyn LogSink) {
        self.work.iter().for_each(|work| log.worked(work));
        self.notices.iter().for_each(|text| log.notice(text));
    }
}

impl LogSink for Notices {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
    fn progress(&self, _name: &str, _current_bytes: u64, _total_bytes: Option<u64>, _done: bool) {}
    fn notice(&self, text: &str) {
        self.told().notices.push(text.to_owned());
    }
    fn worked(&self, work: &Work) {
        self.told().work.push(*work);
    }
}
