//! The containers of one build: made, found, ended.
//!
//! In: `NewContainer` and `ReleaseContainer`. Out: [`Held`], in which [`super::process`] runs processes. A container ends
//! when it is released, with its build and with the session; its processes end first. Deliberately absent: how a process
//! runs (the engine's).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::{control, gateway, pb};
use solver::op::ExecOp;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::evaluated;
use crate::daemon::control::{settings_for, stops};
use crate::daemon::frontend::{self, Asked};
use crate::daemon::job::Job;
use crate::daemon::session::blobs::Kept;
use crate::daemon::thread::beside;
use crate::daemon::{Daemon, error, llb};
use crate::engine::{self, Container, ContainerFrom};

/// Containers of one build at once; each may have a network and drafts.
const CONTAINERS_MAX: usize = 64;
/// Names are the client's; those of other builders' clients have some dozen bytes.
pub const NAME_MAX_BYTES: usize = 256;
/// Stands for a process where only mounts count.
const NOTHING: &str = "nothing";

/// The containers of a build.
#[derive(Debug, Default)]
pub struct Containers {
    known: HashMap<String, Place>,
    has_ended: bool,
}

/// One that is being made has its name already.
#[derive(Debug)]
enum Place {
    Taken,
    Held(Arc<Held>),
}

/// A container.
#[derive(Debug)]
pub struct Held {
    /// The container.
    pub container: Arc<Container>,
    /// Held while a process runs: there is one at a time.
    pub busy: Arc<tokio::sync::Mutex<()>>,
    /// Ends it.
    pub cancel: CancellationToken,
    /// What its processes have in common.
    template: pb::ExecOp,
    inputs: usize,
}

impl Held {
    /// The operation that a process is.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn exec(&self, init: gateway::InitMessage) -> Result<ExecOp, Status> {
        let meta = init.meta.ok_or_else(|| Status::invalid_argument("the process has no command"))?;
        let common = self.template.meta.clone().unwrap_or_default();
        let mut exec = self.template.clone();
        exec.security = init.security;
        exec.secretenv = init.secretenv;
        exec.meta = Some(pb::Meta { extra_hosts: common.extra_hosts, hostname: common.hostname, ..meta });
        llb::process(&exec, self.inputs).map_err(Status::invalid_argument)
    }
}

/// Makes a container.
///
/// # Errors
/// When it is malformed, has the name of another, or cannot be made.
pub async fn new(daemon: &Arc<Daemon>, job: &Arc<Job>, request: gateway::NewContainerRequest) -> Result<(), Status> {
    let name = request.container_id.clone();
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err(Status::invalid_argument("the container's name is empty, or too long"));
    }
    {
        let mut containers = lock(job);
        if containers.has_ended {
            return Err(Status::cancelled("context canceled"));
        }
        if containers.known.len() >= CONTAINERS_MAX {
            return Err(Status::resource_exhausted(format!("the build has {CONTAINERS_MAX} containers already")));
        }
        if containers.known.contains_key(&name) {
            return Err(Status::already_exists(format!("there is a container {}", name.escape_debug())));
        }
        containers.known.insert(name.clone(), Place::Taken);
    }
    let taken = Taken { job, name };
    let held = make(daemon, job, request).await?;
    let mut containers = lock(job);
    // Its build may have ended meanwhile.
    if containers.has_ended {
        return Err(Status::cancelled("context canceled"));
    }
    containers.known.insert(taken.name.clone(), Place::Held(Arc::new(held)));
    Ok(())
}

/// A name that is free again if nothing comes of its container, be it because its client hung up.
struct Taken<'a> {
    job: &'a Job,
    name: String,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let known = &mut lock(self.job).known;
        if matches!(known.get(&self.name), Some(Place::Taken)) {
            known.remove(&self.name);
        }
    }
}

async fn make(daemon: &Arc<Daemon>, job: &Arc<Job>, request: gateway::NewContainerRequest) -> Result<Held, Status> {
    let mut inputs = Vec::new();
    let mut mounts = request.mounts;
    for mount in &mut mounts {
        let id = std::mem::take(&mut mount.result_id);
        if !mount.dest.starts_with('/') {
            mount.dest.insert(0, '/');
        }
        (mount.input, mount.output) = (-1, -1);
        if id.is_empty() {
            continue;
        }
        let known = job.references.lock().unwrap_or_else(PoisonError::into_inner).find(&id)?;
        mount.input = i64::try_from(inputs.len()).unwrap_or(i64::MAX);
        inputs.push(evaluated(daemon, job, &known).await?);
    }
    let meta = pb::Meta {
        args: vec![NOTHING.to_owned()],
        cwd: "/".to_owned(),
        extra_hosts: request.extra_hosts,
        hostname: request.hostname,
        ..pb::Meta::default()
    };
    let template = pb::ExecOp { meta: Some(meta), mounts, network: request.network, ..pb::ExecOp::default() };
    let exec = llb::process(&template, inputs.len()).map_err(Status::invalid_argument)?;
    let platform = request.platform.map(|of| solver::op::Platform {
        os: of.os,
        architecture: of.architecture,
        variant: of.variant,
        ..solver::op::Platform::default()
    });
    let asking = &job.asking;
    let session = daemon.sessions.find(&asking.session).await?;
    let request_ = frontend::Request {
        exporters: Vec::new(),
        cache: control::CacheOptions::default(),
        entitlements: asking.entitlements.clone(),
        policy: asking.policy.clone(),
        session: session.clone(),
        kept: Kept::default(),
    };
    let options = frontend::options(&daemon.config, &Asked::default(), &request_);
    let options = options.map_err(|failure| error::status(&failure, None))?;
    let settings = settings_for(daemon, &session);
    let cancel = stops(job.cancel.clone(), session.lost().clone());
    let unless_made = cancel.clone().drop_guard();
    let count = inputs.len();
    let (told, stop) = (job.told(), cancel.clone());
    let from = ContainerFrom { name: request.container_id, exec, inputs, platform };
    let open = || async move { Ok(Container::open(from, &settings, &options, told, &stop).await) };
    let container = beside(open).await?.map_err(|failure| error::status(&failure, None))?;
    unless_made.disarm();
    Ok(Held { container: Arc::new(container), busy: Arc::default(), cancel, template, inputs: count })
}

/// The container of that name.
///
/// # Errors
/// When there is none.
pub fn find(job: &Job, name: &str) -> Result<Arc<Held>, Status> {
    match lock(job).known.get(name) {
        Some(Place::Held(held)) => Ok(held.clone()),
        _ => Err(Status::not_found(format!("there is no container {}", name.escape_debug()))),
    }
}

/// Ends a container, when its process has ended.
///
/// # Errors
/// When there is none of that name.
pub async fn release(job: &Job, name: &str) -> Result<(), Status> {
    let held = find(job, name)?;
    lock(job).known.remove(name);
    end(held).await;
    Ok(())
}

/// Ends all of them; there will be no others.
pub async fn end_all(job: &Job) {
    let known = {
        let mut containers = lock(job);
        containers.has_ended = true;
        std::mem::take(&mut containers.known)
    };
    for place in known.into_values() {
        if let Place::Held(held) = place {
            end(held).await;
        }
    }
}

async fn end(held: Arc<Held>) {
    held.cancel.cancel();
    // Whoever runs a process in it lets go of it then.
    drop(held.busy.clone().lock_owned().await);
    // What it wrote is deleted, which may take long.
    if let Err(error) = tokio::task::spawn_blocking(move || drop(held)).await {
        tracing::debug!(%error, "a container was not deleted");
    }
}

fn lock(job: &Job) -> std::sync::MutexGuard<'_, Containers> {
    job.containers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The field of a build that has them.
pub type Field = Mutex<Containers>;

/// Says what of a container's mount a call is about.
///
/// # Errors
/// When the number is none.
pub fn mount(index: i32) -> Result<usize, Status> {
    usize::try_from(index).map_err(|_| Status::invalid_argument(format!("there is no mount {index}")))
}

/// Looks into a container.
///
/// # Errors
/// When there is none, or its mount is no tree.
pub async fn look<T: Send + 'static>(
    job: &Job,
    name: &str,
    index: i32,
    look: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let (held, mount) = (find(job, name)?, mount(index)?);
    held.container.look(mount, look).await.map_err(|failure: engine::Failure| error::status(&failure, None))?
}
