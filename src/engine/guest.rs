//! A frontend that is an image: run over its tree, its standard streams a socket on which it asks the daemon.
//!
//! In: the image's name, what the frontend is told in its environment, its end of the socket. Out: how it ended. It is a
//! step like others, in the same sandbox, and what it writes to its tree is thrown away; what it says on its standard error
//! is shown. Deliberately absent: what is spoken on the socket (`src/daemon/gateway/guest.rs`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use executor::layers::SCRATCH;
use executor::ops::exec::{Provisions, RunSpec, run_guest};
use executor::sandbox::Exit;
use frontend::ImageQuestion;
use oci::model::{Config, Descriptor, Reference, media_type};
use solver::op::NetworkMode;
use solver::seam::{Progress, ResultId};
use tokio_util::sync::CancellationToken;

use super::resolve::{Ask, Resolver};
use super::task::Task;
use super::{Failure, Settings, words};
use crate::options::BuildOptions;

/// Labels of an image that is a frontend say what it wants of its surroundings.
const NETWORK_NONE: &str = "moby.buildkit.frontend.network.none";
/// Names of what it understands beyond its attributes, with commas.
const CAPS: &str = "moby.buildkit.frontend.caps";
/// What it needs to understand to be given the results of other builds.
const INPUTS: &str = "moby.buildkit.frontend.inputs";
/// What BuildKit runs in an image that names nothing.
const RUN: &str = "/run";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run.
pub struct Guest {
    /// The image.
    pub image: String,
    /// What it is told, as `NAME=value`.
    pub env: Vec<String>,
    /// Whether it is given the results of other builds.
    pub has_inputs: bool,
    /// Its end of the socket.
    pub streams: OwnedFd,
}

/// Runs it to its end.
///
/// # Errors
/// When the image cannot be had or its process not be started, and when that ends with another code than 0.
pub async fn run(
    settings: &Settings,
    options: &BuildOptions,
    guest: Guest,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    let reference: Reference = guest.image.parse().map_err(|error| Failure::from_error(&error))?;
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let ask = Ask::of(options.pull, settings.offline);
    let policy = options.input.policy.clone();
    let resolver = Resolver { policy, ..Resolver::new(store.clone(), registry.clone(), ask, progress.clone()) };
    let platform = settings.native_platform.clone();
    let question = ImageQuestion { reference: reference.clone(), platform, layout: None };
    let worker = settings.worker(&store, &registry, BTreeMap::new(), options.steps.clone())?;
    let find = async {
        let answer = resolver.answer_one(&question).await?;
        let task = Task::start(&format!("[internal] load the frontend {}", reference.familiar()), &progress);
        let name = answer.name.as_ref().unwrap_or(&reference).with_digest(answer.digest);
        let manifest = Descriptor::new(media_type::OCI_MANIFEST, answer.digest, 0);
        let top = worker.image_top(&name, &manifest, &task.log()).await.map_err(|error| words::exec(&error));
        Ok::<_, Failure>((answer.config, task.end(top)?))
    };
    let (config, top) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(words::canceled()),
        found = find => found?,
    };
    let config = config.config;
    let label = |name: &str| config.labels.get(name).map(String::as_str).unwrap_or_default();
    if guest.has_inputs && !label(CAPS).split(',').any(|cap| cap.trim() == INPUTS) {
        return Err(Failure::new(format!("the frontend `{}` takes no results of other builds", reference.familiar())));
    }
    let is_alone = matches!(label(NETWORK_NONE), "1" | "true");
    let spec = RunSpec {
        args: command(&config),
        env: environment(&config, guest.env),
        platform: Some(settings.native_platform.clone()),
        cwd: config.working_dir.clone(),
        user: config.user.clone(),
        network: if is_alone { NetworkMode::None } else { NetworkMode::Default },
        provisions: Provisions::default(),
        ..RunSpec::default()
    };
    let task = Task::start(&format!("[internal] frontend {}", reference.familiar()), &progress);
    let top = top.unwrap_or_else(|| ResultId(SCRATCH.to_owned()));
    let ran = run_guest(&worker, &top, spec, guest.streams, &task.log(), &cancel).await;
    let ended = match ran {
        Ok(Exit::Code(0)) => Ok(()),
        Ok(exit) => {
            Err(Failure::new(format!("the frontend `{}` ended by itself", reference.familiar())).note(exit.to_string()))
        }
        Err(error) => Err(words::exec(&error)),
    };
    task.end(ended)
}

/// Entry point and command.
fn command(config: &Config) -> Vec<String> {
    let lists = [&config.entrypoint, &config.cmd];
    let args: Vec<String> = lists.into_iter().flatten().flatten().cloned().collect();
    if args.is_empty() { vec![RUN.into()] } else { args }
}

/// The image's variables, and behind them what it is told.
fn environment(config: &Config, told: Vec<String>) -> Vec<String> {
    let mut env = config.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(PATH.into());
    }
    env.extend(told);
    env
}
