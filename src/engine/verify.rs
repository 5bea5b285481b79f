//! Whether everything in the store is still what it was, and what is done about what is not.
//!
//! The store checks its blobs, records and index, the executor the trees and the git repositories; here they are put together, on all cores, with
//! progress. What is damaged has been dropped where the next pull or build makes it anew; with `repair` blobs are fetched
//! again at once from a registry that is known to have them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use executor::layers::TreeState;
use executor::{StepSettings, Worker};
use oci::model::{Descriptor, Digest, media_type};
use solver::seam::{LogSink, Progress, ResultId};
use store::{Damage, Kind, Store};
use tokio_util::sync::CancellationToken;

use super::task::Task;
use super::{Failure, Settings, words};

/// What came of it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Verified {
    /// Everything that is damaged.
    pub damages: Vec<Damage>,
    /// How many things were hashed.
    pub checked: usize,
    /// Trees that nothing is known of to compare them with.
    pub unknown: usize,
}

/// Hashes everything, and drops what is damaged.
pub async fn verify(
    settings: &Settings,
    repair: bool,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Verified, Failure> {
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let worker = settings.worker(&store, &registry, BTreeMap::new(), StepSettings::default())?;
    let task = Task::start("[internal] verify the store", &progress);
    let work = async {
        let mut verified = Verified::default();
        records(&worker, &mut verified).await?;
        blobs(&worker, &task.log(), &mut verified).await?;
        trees(&worker, &task.log(), &cancel, &mut verified).await?;
        let repositories = executor::source::git::verify(&store, &cancel).await;
        let failed = |error| words::exec(&executor::ExecError::from(executor::source::SourceError::from(error)));
        verified.damages.extend(repositories.map_err(failed)?);
        if repair {
            fetch_again(&store, &registry, &task.log(), &mut verified).await;
        }
        verified.damages.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
        Ok(verified)
    };
    let verified = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(words::canceled()),
        verified = work => verified,
    };
    task.end(verified)
}

async fn records(worker: &Worker, verified: &mut Verified) -> Result<(), Failure> {
    let found = worker.blocking(|worker| Ok(worker.store().verify_records()?)).await;
    verified.damages.extend(found.map_err(|error| words::exec(&error))?);
    Ok(())
}

async fn blobs(worker: &Worker, log: &(dyn LogSink + '_), verified: &mut Verified) -> Result<(), Failure> {
    let failed = |error: store::StoreError| words::store(&error);
    let total = worker.store().blob_bytes().map_err(failed)?;
    let (done, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let (heard, counted) = (done.clone(), count.clone());
    let hashing = worker.blocking(move |worker| {
        Ok(worker.store().verify_blobs(threads(), &|bytes| {
            heard.fetch_add(bytes, Ordering::Relaxed);
            counted.fetch_add(1, Ordering::Relaxed);
        })?)
    });
    let found = told("blobs", log, &done, total, hashing).await.map_err(|error| words::exec(&error))?;
    verified.checked += count.load(Ordering::Relaxed);
    verified.damages.extend(found);
    Ok(())
}

/// Trees are hashed several at a time; each is dropped when it turns out to be damaged.
async fn trees(
    worker: &Worker,
    log: &(dyn LogSink + '_),
    cancel: &CancellationToken,
    verified: &mut Verified,
) -> Result<(), Failure> {
    let all = Arc::new(worker.store().own_trees().map_err(|error| words::store(&error))?);
    let total = all.iter().map(|(_, bytes)| bytes).sum();
    let (done, next) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let works = (0..threads()).map(|_| {
        let (all, done, next, cancel) = (all.clone(), done.clone(), next.clone(), cancel.clone());
        worker.blocking(move |worker| {
            let mut states: Vec<(ResultId, TreeState)> = Vec::new();
            while let Some((id, bytes)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                // Collected meanwhile: nothing to say.
                if let Some(layer) = worker.store().layer(id)? {
                    states.push((id.clone(), worker.layers().check(&layer, &cancel)?));
                }
                done.fetch_add(*bytes, Ordering::Relaxed);
            }
            Ok(states)
        })
    });
    let hashing = futures_util::future::try_join_all(works);
    let states = told("trees", log, &done, total, hashing).await.map_err(|error| words::exec(&error))?;
    let store = worker.store();
    for (id, state) in states.into_iter().flatten() {
        verified.checked += 1;
        match state {
            TreeState::Whole => {}
            TreeState::Unknown => verified.unknown += 1,
            TreeState::Damaged(what) => {
                let failed = |error: store::StoreError| words::store(&error);
                let used_by = store.users_of_layer(&id).map_err(failed)?;
                let healed = match store.drop_tree(&id).map_err(failed)? {
                    true => Some("its tree was dropped; it is unpacked or built again when it is needed".to_owned()),
                    false => None,
                };
                verified.damages.push(Damage { kind: Kind::Layer, name: id.0, what, used_by, healed });
            }
        }
    }
    Ok(())
}

/// Fetches damaged and missing blobs from wherever one of them is known to be.
async fn fetch_again(
    store: &Store,
    registry: &oci::registry::Client,
    log: &(dyn LogSink + '_),
    verified: &mut Verified,
) {
    for damage in verified.damages.iter_mut().filter(|damage| damage.kind == Kind::Blob) {
        match fetch(store, registry, log, &damage.name).await {
            Ok(Some(place)) => damage.healed = Some(format!("fetched again from {place}")),
            Ok(None) => {}
            Err(failure) => log.notice(&format!(
                "blob sha256:{} could not be fetched again: {}",
                damage.name,
                failure.problems.first().map(|problem| problem.message.clone()).unwrap_or_default()
            )),
        }
    }
}

async fn fetch(
    store: &Store,
    registry: &oci::registry::Client,
    log: &(dyn LogSink + '_),
    name: &str,
) -> Result<Option<String>, Failure> {
    let failed = |error: store::StoreError| words::store(&error);
    let digest: Digest =
        format!("sha256:{name}").parse().map_err(|_| Failure::new(format!("`{name}` is no digest")))?;
    let Some(size) = store.size_of_blob(&digest).map_err(failed)? else { return Ok(None) };
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
    let mut last = None;
    for place in store.sources_of(name).map_err(failed)? {
        let heard = |done: u64| log.progress(&digest.to_string(), done, Some(size), done == size);
        match registry.fetch_blob(&place, &blob, store.blobs(), &heard).await {
            Ok(()) => return Ok(Some(place.familiar())),
            Err(error) => last = Some(words::registry(&error)),
        }
    }
    last.map_or(Ok(None), Err)
}

/// Tells how far some work is, until it is done.
async fn told<T>(
    name: &str,
    log: &(dyn LogSink + '_),
    done: &AtomicU64,
    total: u64,
    work: impl Future<Output = T>,
) -> T {
    const OFTEN: std::time::Duration = std::time::Duration::from_millis(200);
    let mut ticks = tokio::time::interval(OFTEN);
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => {
                log.progress(name, total, Some(total), true);
                return outcome;
            }
            _ = ticks.tick() => log.progress(name, done.load(Ordering::Relaxed).min(total), Some(total), false),
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
