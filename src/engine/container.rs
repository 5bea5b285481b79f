//! A container that a frontend starts: mounts of results, and processes in them, one after another.
//!
//! In: an operation whose mounts count, the results that they are of, and then an operation per process. Out: how each
//! process ended. Everything is the steps' own way ([`executor::ops::exec::Container`]): the sandbox, the grants, limits,
//! networks, cache mounts, secrets and agents. Nothing is kept. Deliberately absent: who speaks with the processes
//! (`src/daemon/gateway/process.rs`).

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use executor::Worker;
use executor::ops::exec;
use executor::sandbox::{Driver, Exit, Stdin};
use solver::graph::VertexId;
use solver::op::{ExecOp, NetworkMode, Platform};
use solver::seam::{Progress, ResultId, VertexLog};
use tokio_util::sync::CancellationToken;

use super::evaluate::Evaluated;
use super::task::Task;
use super::{Failure, Settings, words};
use crate::options::BuildOptions;

/// What a container is made of.
pub struct ContainerFrom {
    /// How people see it.
    pub name: String,
    /// Its mounts and its network; what it says of a process is not looked at.
    pub exec: ExecOp,
    /// The results that the mounts are of, by their inputs.
    pub inputs: Vec<Arc<Evaluated>>,
    /// For which machine its programs are; `None`: this one.
    pub platform: Option<Platform>,
}

/// A container.
pub struct Container {
    inner: exec::Container,
    worker: Worker,
    progress: Arc<dyn Progress>,
    vertex: VertexId,
    /// They stay in the store as long as they are mounted.
    _inputs: Vec<Arc<Evaluated>>,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("vertex", &self.vertex).finish_non_exhaustive()
    }
}

impl Container {
    /// Makes one.
    ///
    /// # Errors
    /// When a mount cannot be had, or what is asked for is not granted.
    pub async fn open(
        from: ContainerFrom,
        settings: &Settings,
        options: &BuildOptions,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let ContainerFrom { name, exec, inputs, platform } = from;
        let store = settings.open_store(&progress)?;
        let registry = settings.registry(&progress)?;
        let worker = settings.worker(&store, &registry, BTreeMap::new(), options.steps.clone())?;
        if exec.network == NetworkMode::Default {
            worker.expect_network();
        }
        let task = Task::start(&format!("[internal] container {name}"), &progress);
        let vertex = task.vertex;
        let results: Vec<ResultId> = inputs.iter().map(|input| input.result().clone()).collect();
        let inner = exec::Container::prepare(&worker, &exec, results, platform, &task.log(), cancel).await;
        let inner = task.end(inner.map_err(|error| words::exec(&error)))?;
        Ok(Self { inner, worker, progress, vertex, _inputs: inputs })
    }

    /// Runs a process to its end. `exec` has the mounts that the container was made with.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(
        &self,
        exec: &ExecOp,
        stdin: Stdin,
        driver: Driver,
        cancel: &CancellationToken,
    ) -> Result<Exit, Failure> {
        let log = VertexLog { vertex: self.vertex, progress: &*self.progress };
        let ran = self.inner.run(&self.worker, exec, stdin, driver, &log, cancel).await;
        ran.map_err(|error| words::exec(&error))
    }

    /// Looks into what a mount shows now, whose root is the descriptor; off the async threads.
    ///
    /// # Errors
    /// When there is no such mount, or it is no tree.
    pub async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        mount: usize,
        look: impl FnOnce(BorrowedFd<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let container = self.clone();
        let looked = self.worker.blocking(move |worker| container.inner.look(worker, mount, look));
        looked.await.map_err(|error| words::exec(&error))
    }
}
