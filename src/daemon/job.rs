//! Builds that clients asked for, by the name that the client gave each.
//!
//! A status may be asked for before its build is, and a frontend may speak of its build before either: whoever looks a
//! build up waits for it, but not for long. A build that has ended stays for a while, for readers who are late. The build
//! runs on a thread of its own ([`super::thread`]): when the call that asked for it ends, it is stopped, and ends cleanly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::control::CacheOptions;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Daemon;
use super::gateway::{Planned, References, Wanted, container};
use super::names::{Names, Told};
use super::status::Hub;
use super::thread::Places;
use crate::engine::Policy;

/// How long somebody waits for a build that is not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a build that has ended can be asked about.
const KEPT: Duration = Duration::from_secs(10);
/// More at once is a fault of a client, or malice.
const JOBS_MAX: usize = 4096;

/// What a client that is its own frontend wants built.
pub type Returned = Result<Option<Wanted>, Status>;

/// What its client said of the whole build.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// The session that files and secrets come from.
    pub session: String,
    /// What steps may ask for.
    pub entitlements: Vec<String>,
    /// Caches.
    pub cache: CacheOptions,
    /// What sources are allowed, and replaced.
    pub policy: Policy,
}

/// One build.
#[derive(Debug)]
pub struct Job {
    /// What it tells.
    pub hub: Arc<Hub>,
    /// Stops it.
    pub cancel: CancellationToken,
    /// What its client said.
    pub asking: Asking,
    /// How its operations are called there.
    pub names: Arc<Names>,
    /// What its frontend has asked for so far.
    pub references: Mutex<References>,
    /// A Dockerfile that its frontend asked for and that cannot be planned, with the words of the failure.
    pub unplanned: Mutex<Option<(Arc<Planned>, String)>>,
    /// What its frontend has started.
    pub containers: container::Field,
    /// Takes what its frontend returns, once; it may come before anybody waits for it.
    pub returned: Mutex<Option<oneshot::Sender<Returned>>>,
    /// Waits for that.
    pub returning: Mutex<Option<oneshot::Receiver<Returned>>>,
}

impl Job {
    /// Who hears of its operations.
    pub fn told(&self) -> Arc<Told> {
        Arc::new(Told { hub: self.hub.clone(), names: self.names.clone() })
    }
}

/// All builds by name.
#[derive(Debug, Default)]
pub struct Jobs {
    known: Arc<Mutex<HashMap<String, Arc<Job>>>>,
    changed: watch::Sender<()>,
    running: watch::Sender<usize>,
    ended: CancellationToken,
    /// Where they run.
    pub places: Places,
}

/// A build that has begun; it has ended when this is dropped, be it because a bug of ours ended its thread.
#[derive(Debug)]
pub struct Running {
    /// Whose it is.
    pub daemon: Arc<Daemon>,
    /// The build.
    pub job: Arc<Job>,
    /// Its name.
    pub name: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whatever its frontend still asks for.
        self.job.cancel.cancel();
        *self.job.references.lock().unwrap_or_else(PoisonError::into_inner) = References::default();
        *self.job.unplanned.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.daemon.jobs.finished(std::mem::take(&mut self.name), &self.job);
    }
}

impl Jobs {
    /// A new one.
    ///
    /// # Errors
    /// When there is one of that name, or too many.
    pub fn begin(&self, name: &str, asking: Asking) -> Result<Arc<Job>, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("the build has no ref"));
        }
        let (returned, returning) = oneshot::channel();
        let job = Arc::new(Job {
            hub: Arc::default(),
            cancel: self.ended.child_token(),
            asking,
            names: Arc::default(),
            references: Mutex::default(),
            unplanned: Mutex::default(),
            containers: Mutex::default(),
            returned: Mutex::new(Some(returned)),
            returning: Mutex::new(Some(returning)),
        });
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= JOBS_MAX {
                return Err(Status::resource_exhausted(format!("there are {JOBS_MAX} builds already")));
            }
            if known.contains_key(name) {
                return Err(Status::already_exists(format!("build {name} exists")));
            }
            known.insert(name.to_owned(), job.clone());
        }
        self.running.send_modify(|count| *count += 1);
        self.changed.send_replace(());
        Ok(job)
    }

    /// It has ended.
    fn finished(&self, name: String, job: &Job) {
        job.hub.end();
        self.running.send_modify(|count| *count -= 1);
        let (known, running) = (self.known.clone(), self.running.subscribe());
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            let is_last = {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.remove(&name);
                known.is_empty() && *running.borrow() == 0
            };
            if is_last {
                // Nobody has asked for anything for a while.
                match tokio::task::spawn_blocking(executor::give_back_memory).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "memory is not given back"),
                    Err(error) => tracing::debug!(%error, "memory is not given back"),
                }
            }
        });
    }

    /// Whether there is a build of that name.
    pub fn has(&self, name: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    /// The build of that name, waited for if it is not there yet.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn find(&self, name: &str) -> Result<Arc<Job>, Status> {
        let mut changed = self.changed.subscribe();
        let look = || self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(job) = look() {
                    return Some(job);
                }
                tokio::select! {
                    () = self.ended.cancelled() => return None,
                    changed = changed.changed() => changed.ok()?,
                }
            }
        });
        found.await.ok().flatten().ok_or_else(|| Status::not_found(format!("there is no build {name}")))
    }

    /// Stops all of them, and waits until they have ended.
    pub async fn end(&self) {
        self.ended.cancel();
        let mut running = self.running.subscribe();
        // The sender is here: it cannot be gone.
        let _ = running.wait_for(|count| *count == 0).await;
    }
}
