//! Builds that clients asked for, by the name that the client gave each.
//!
//! A status may be asked for before its build is, and a frontend may speak of its build before either: whoever looks a
//! build up waits for it, but not for long. A build that has ended stays for a while, for readers who are late. The build
//! runs in a task of its own: when the call that asked for it ends, it is stopped, and ends cleanly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::frontend::Asked;
use super::status::Hub;

/// How long somebody waits for a build that is not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a build that has ended can be asked about.
const KEPT: Duration = Duration::from_secs(10);
/// More at once is a fault of a client, or malice.
const JOBS_MAX: usize = 4096;

/// What a client that is its own frontend wants built.
pub type Returned = Result<Option<Asked>, Status>;

/// One build.
#[derive(Debug)]
pub struct Job {
    /// What it tells.
    pub hub: Arc<Hub>,
    /// Stops it.
    pub cancel: CancellationToken,
    /// What its frontend has asked for so far, by the ids that it knows.
    pub asked: Mutex<HashMap<String, Asked>>,
    /// Takes what its frontend returns, once; it may come before anybody waits for it.
    pub returned: Mutex<Option<oneshot::Sender<Returned>>>,
    /// Waits for that.
    pub returning: Mutex<Option<oneshot::Receiver<Returned>>>,
}

/// All builds by name.
#[derive(Debug, Default)]
pub struct Jobs {
    known: Arc<Mutex<HashMap<String, Arc<Job>>>>,
    changed: watch::Sender<()>,
    running: watch::Sender<usize>,
    ended: CancellationToken,
}

impl Jobs {
    /// A new one.
    ///
    /// # Errors
    /// When there is one of that name, or too many.
    pub fn begin(&self, name: &str) -> Result<Arc<Job>, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("the build has no ref"));
        }
        let (returned, returning) = oneshot::channel();
        let job = Arc::new(Job {
            hub: Arc::default(),
            cancel: self.ended.child_token(),
            asked: Mutex::default(),
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
    pub fn finished(&self, name: String, job: &Job) {
        job.hub.end();
        self.running.send_modify(|count| *count -= 1);
        let known = self.known.clone();
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        });
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
