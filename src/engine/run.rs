//! `rbuild run`: an image from the store (or a registry) as a process in the foreground, in the sandbox of the steps.

use std::sync::Arc;

use executor::layers::SCRATCH;
use executor::ops::exec::{RunSpec, Volume, run_image};
use executor::{ExecError, Worker};
use frontend::ImageQuestion;
use oci::model::{Config, Reference};
use solver::graph::VertexId;
use solver::op::NetworkMode;
use solver::seam::{Event, LogSink, Progress, ResultId, Stream};
use store::{ImageRecord, Store};
use tokio_util::sync::CancellationToken;

use super::resolve::{Ask, Resolver, config_of, find_local};
use super::task::Task;
use super::{Failure, FailureKind, Settings, words};
use crate::options::RunOptions;

/// Runs an image and returns the exit code of its process (128 + signal when a signal ended it). What it changes in
/// its tree is thrown away. `cancel` stops the preparation. When the process is about to begin, `running` is fired:
/// from then on the sandbox passes this process's signals on to it.
pub async fn run(
    settings: &Settings,
    options: &RunOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
    running: &CancellationToken,
) -> Result<i32, Failure> {
    check_ports(options)?;
    let store = settings.open_store(&progress)?;
    let registry = settings.registry(&progress)?;
    let record = match find(&store, &options.image)? {
        Some(record) => record,
        None => {
            let resolver =
                Resolver::new(store.clone(), registry.clone(), Ask::of(false, settings.offline), progress.clone());
            let question = ImageQuestion {
                reference: options.image.clone(),
                platform: settings.native_platform.clone(),
                layout: None,
            };
            resolver.answer_one(&question).await?;
            find(&store, &options.image)?.ok_or_else(|| not_there(&options.image))?
        }
    };
    let config = config_of(&store, &record.config)?.config;
    let worker = settings.worker(&store, &registry, std::collections::BTreeMap::new(), options.steps.clone())?;
    let top = tree_of(&worker, &options.image, &record, &progress, &cancel).await?;
    let volumes = options.volumes.iter().map(|volume| Volume {
        source: volume.source.clone(),
        target: volume.target.clone(),
        readonly: volume.readonly,
    });
    let spec = RunSpec {
        args: command(options, &config)?,
        env: environment(options, &config),
        platform: Some(record.platform.clone()),
        cwd: options.workdir.clone().unwrap_or(config.working_dir),
        user: options.user.clone().unwrap_or(config.user),
        volumes: volumes.collect(),
        tty: options.tty,
        interactive: options.interactive,
        network: network(options),
        provisions: executor::ops::exec::Provisions {
            ulimits: options.provisions.ulimits.clone(),
            shm_size_bytes: options.provisions.shm_size_bytes,
            extra_hosts: options.provisions.extra_hosts.clone(),
            hostname: options.provisions.hostname.clone(),
        },
    };
    running.cancel();
    let exit = run_image(&worker, &top, spec, &Notices(progress), &cancel).await.map_err(|error| not_run(&error))?;
    Ok(exit.code())
}

/// Tells what is to be said before the process begins; it prints by itself.
struct Notices(Arc<dyn Progress>);

impl LogSink for Notices {
    fn write(&self, _stream: Stream, _bytes: &[u8]) {}
    fn progress(&self, _name: &str, _current_bytes: u64, _total_bytes: Option<u64>, _done: bool) {}
    fn notice(&self, text: &str) {
        self.0.event(Event::Notice { vertex: VertexId::of_name("run"), text: text.to_owned() });
    }
}

/// A command that is not there, or is none, has an exit code of its own.
fn not_run(error: &ExecError) -> Failure {
    let failure = words::exec(error);
    let code = match error {
        ExecError::Step(step) => step.exit_code(),
        _ => None,
    };
    match code {
        Some(code) => Failure { kind: FailureKind::NotExecuted(code), ..failure },
        None => failure,
    }
}

/// The layers of an image, fetched as far as the store lacks them.
async fn tree_of(
    worker: &Worker,
    name: &Reference,
    record: &ImageRecord,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<ResultId, Failure> {
    if let Some(top) = &record.top {
        return Ok(top.clone());
    }
    let task = Task::start(&format!("[internal] load {name}"), progress);
    let log = task.log();
    let top = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(words::canceled()),
        top = worker.image_top(name, &record.manifest, &log) => top.map_err(|error| words::exec(&error)),
    };
    Ok(task.end(top)?.unwrap_or_else(|| ResultId(SCRATCH.to_owned())))
}

fn find(store: &Store, name: &Reference) -> Result<Option<ImageRecord>, Failure> {
    Ok(find_local(store, &name.familiar())?.map(|found| found.image))
}

fn not_there(name: &Reference) -> Failure {
    Failure::new(format!("there is no image `{}` for this machine", name.familiar()))
        .help("`rbuild images` lists what is there; `rbuild -t NAME .` builds one")
}

/// The host's, unless a flag says otherwise: what runs in the foreground is there to be reached.
fn network(options: &RunOptions) -> NetworkMode {
    options.network.unwrap_or(NetworkMode::Host)
}

/// On the host's network a port is where the process listens; nothing can be moved. Into others nothing leads.
fn check_ports(options: &RunOptions) -> Result<(), Failure> {
    if let (false, Some(publish)) = (network(options) == NetworkMode::Host, options.publish.first()) {
        return Err(Failure::new(format!(
            "port {} cannot be published: only what is on the host's network can be reached",
            publish.container_port
        ))
        .help("leave `--network` out, or say `--network=host`"));
    }
    match options.publish.iter().find(|publish| publish.host_port != publish.container_port) {
        Some(publish) => Err(Failure::new(format!(
            "port {} cannot be published as {}: the process is on the host's network",
            publish.container_port, publish.host_port
        ))
        .help("use the same port on both sides, or make the process listen on the port you want")),
        None => Ok(()),
    }
}

/// Entry point and command as docker combines them: `--entrypoint` also drops the image's command.
fn command(options: &RunOptions, config: &Config) -> Result<Vec<String>, Failure> {
    let own = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut args = match &options.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => own(&config.entrypoint),
    };
    if !options.command.is_empty() {
        args.extend(options.command.iter().cloned());
    } else if options.entrypoint.is_none() {
        args.extend(own(&config.cmd));
    }
    if args.is_empty() {
        return Err(Failure::new(format!("the image `{}` has no command", options.image.familiar()))
            .help("say what to run: `rbuild run IMAGE COMMAND…`"));
    }
    Ok(args)
}

/// The image's variables, those of `-e` in their place or behind them, and `TERM` on a terminal.
fn environment(options: &RunOptions, config: &Config) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or(variable).to_owned();
    let mut env = config.env.clone();
    if options.tty {
        env.push("TERM=xterm".into());
    }
    for variable in &options.env {
        env.retain(|known| name(known) != name(variable));
        env.push(variable.clone());
    }
    if !env.iter().any(|variable| name(variable) == "PATH") {
        env.push(DEFAULT_PATH.into());
    }
    env
}

/// What other runtimes give a process whose image says nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use executor::StepSettings;

    use super::*;

    fn options(words: &[&str], entrypoint: Option<&str>, env: &[&str], tty: bool) -> RunOptions {
        let owned = |list: &[&str]| list.iter().map(|word| word.to_string()).collect();
        RunOptions {
            image: "app".parse().expect("a name"),
            command: owned(words),
            entrypoint: entrypoint.map(str::to_owned),
            env: owned(env),
            volumes: Vec::new(),
            workdir: None,
            user: None,
            interactive: false,
            tty,
            network: None,
            steps: StepSettings::default(),
            provisions: crate::options::provisions::Provisions::default(),
            publish: Vec::new(),
        }
    }

    #[test]
    fn entry_point_and_command_combine_as_docker_has_it() {
        let list = |text: &str| Some(text.split_whitespace().map(String::from).collect::<Vec<_>>());
        let check = |entrypoint: &str, cmd: &str, words: &[&str], flag: Option<&str>, expected: &str| {
            let config = Config { entrypoint: list(entrypoint), cmd: list(cmd), ..Config::default() };
            let args = command(&options(words, flag, &[], false), &config).map(|args| args.join(" "));
            let shown = args.unwrap_or_else(|failure| failure.problems[0].message.clone());
            assert_eq!(shown, expected, "{entrypoint:?} {cmd:?} {words:?} {flag:?}");
        };
        check("", "serve -p 80", &[], None, "serve -p 80");
        check("tool", "--help", &[], None, "tool --help");
        check("tool", "--help", &["run"], None, "tool run");
        check("", "serve", &["sh", "-c", "x"], None, "sh -c x");
        check("tool", "--help", &[], Some("sh"), "sh");
        check("tool", "--help", &["-c", "x"], Some("sh"), "sh -c x");
        check("tool", "--help", &["sh"], Some(""), "sh");
        check("", "", &[], None, "the image `app:latest` has no command");
        check("tool", "--help", &[], Some(""), "the image `app:latest` has no command");
    }

    #[test]
    fn variables_of_the_command_line_replace_those_of_the_image() {
        let check = |image: &[&str], flags: &[&str], tty: bool, expected: &[&str]| {
            let config = Config { env: image.iter().map(|text| text.to_string()).collect(), ..Config::default() };
            assert_eq!(environment(&options(&[], None, flags, tty), &config), expected);
        };
        check(&["PATH=/bin", "A=1"], &["A=2", "B=3"], false, &["PATH=/bin", "A=2", "B=3"]);
        check(&["PATH=/bin"], &[], true, &["PATH=/bin", "TERM=xterm"]);
        check(&["PATH=/bin"], &["TERM=vt100"], true, &["PATH=/bin", "TERM=vt100"]);
        check(&[], &["PATH=/x"], false, &["PATH=/x"]);
        check(&[], &[], false, &[DEFAULT_PATH]);
    }

    #[test]
    fn a_port_that_would_have_to_move_is_refused() {
        let publish = |network, host_port, container_port| {
            let mut options = options(&[], None, &[], false);
            options.network = network;
            options.publish = vec![crate::options::Publish { address: None, host_port, container_port }];
            check_ports(&options)
        };
        for network in [None, Some(NetworkMode::Host)] {
            assert!(publish(network, 8000, 8000).is_ok());
            let failure = publish(network, 80, 8000).expect_err("the ports differ");
            assert!(failure.problems[0].message.contains("port 8000 cannot be published as 80"));
        }
        for network in [NetworkMode::Default, NetworkMode::None] {
            let failure = publish(Some(network), 8000, 8000).expect_err("nothing leads there");
            assert!(failure.problems[0].message.contains("port 8000 cannot be published"));
        }
    }
}
