//! The verbs, one file each: they call the engine, and print what it returns.
//!
//! Results go to standard output, everything else to standard error.

mod auth;
mod build;
mod call;
mod check;
mod config;
mod debug;
mod doctor;
mod du;
mod enter;
mod history;
mod images;
mod imagetools;
mod import;
mod inspect;
mod interrupt;
mod load;
mod login;
mod logout;
mod plan;
mod prompt;
mod prune;
mod pull;
mod push;
mod rmi;
mod run;
mod save;
mod serve;
mod tag;
mod verify;
mod verify_build;
mod version;
mod why;

use std::io::{ErrorKind, Write as _};
use std::sync::Arc;

use executor::isolation::{Rung, Standing, Wanted};
use executor::network::{NetworkSettings, Share};
use oci::layer::{Bounds, limit_process};
use oci::model::{Descriptor, Platform, Reference};
use solver::seam::Progress;
use tokio_util::sync::CancellationToken;

use crate::cli::values::ProgressArg;
use crate::cli::{AuthVerb, Call, Cli, DebugWhat, ImagetoolsVerb, RegistryArgs, Verb};
use crate::config::{self as settings, Config, Flags, RegistryFlags, Source};
use crate::engine::{Failure, FailureKind, HistorySettings, RegistrySettings, Settings};
use crate::environment::Environment;
use crate::hosts::HostSources;
use crate::options;
use crate::progress::{Display, Mode};
use crate::report::{Style, table};

/// Threads at most for work that blocks; steps wait on some of them.
const BLOCKING_MAX: usize = 512;
/// The same for the many builds of a daemon, of which no one may wait for another's threads.
const SERVING_BLOCKING_MAX: usize = 8192;

/// What every verb needs.
struct Hall<'a> {
    environment: &'a Environment,
    config: Config,
    /// Whether decisions are logged, which a display that is redrawn would spoil.
    logs: bool,
    /// What the process stands on; the default where nothing is run.
    standing: Standing,
}

/// Does what is asked and returns the exit code.
///
/// # Errors
/// When it was not done.
pub fn run(cli: Cli, environment: &Environment) -> Result<u8, Failure> {
    let mut flags = Flags { root: cli.global.root, isolation: cli.global.isolation, ..Flags::default() };
    let build = match &cli.verb {
        Verb::Build(args) => Some(&**args),
        Verb::Plan(args) => Some(&args.build),
        Verb::VerifyBuild(args) => Some(&args.build),
        _ => None,
    };
    if let Some(args) = build {
        flags.progress = args.progress;
        flags.quiet = args.quiet;
        flags.jobs = args.jobs;
        flags.network = args.steps.network;
        flags.platform = args.input.platform();
        flags.offline = args.input.offline;
        flags.registry = flags_of(&args.registry);
        flags.registry.credential = options::registry::credential(args)?;
    }
    match &cli.verb {
        Verb::Run(args) => {
            flags.registry = flags_of(&args.registry);
            flags.registry.credential = options::registry::credential_for(args.creds.as_deref(), &args.image)?;
        }
        Verb::Debug(args) => flags.registry = flags_of(&args.registry),
        Verb::Login(args) => flags.registry = flags_of(&args.meeting),
        Verb::Logout(args) => flags.registry.authfile.clone_from(&args.authfile),
        Verb::Auth(args) => {
            let AuthVerb::Why(args) = &args.verb;
            flags.registry = flags_of(&args.meeting);
        }
        verb => shelf_flags(verb, &mut flags)?,
    }
    let looked_at = match &cli.verb {
        Verb::Check(args) => Some(&args.input),
        Verb::Debug(args) => Some(&args.input),
        _ => None,
    };
    if let Some(input) = looked_at {
        flags.platform = input.platform();
        flags.offline = input.offline;
    }
    // Whoever only looks needs no folder for a store.
    flags.only_looks = match &cli.verb {
        Verb::Check(_) => true,
        Verb::Debug(args) => args.input.offline == Some(true) || args.what == DebugWhat::Ast,
        Verb::Build(args) => args.call.wanted() != Call::Build,
        Verb::Doctor(_) | Verb::Login(_) | Verb::Logout(_) | Verb::Auth(_) | Verb::Imagetools(_) => true,
        _ => false,
    };
    let only_looks = flags.only_looks;
    if let Verb::Version = cli.verb {
        return version::version();
    }
    let logs = cli.global.debug || environment.get("RBUILD_LOG").is_some();
    let config = settings::load(flags, environment)?;
    limit_process(Bounds { free_bytes: config.unpack_max_bytes.value, entries: config.unpack_max_entries.value });
    let mut hall = Hall { environment, config, logs, standing: Standing::default() };
    match cli.verb {
        Verb::Config(args) => config::config(&hall, &args),
        Verb::Version => version::version(),
        Verb::Check(args) => check::check(&hall, &args),
        Verb::Doctor(args) => doctor::doctor(&hall, &args),
        verb => {
            // Before there are threads, and after everything that depends on who the user is.
            if !only_looks {
                hall.standing = enter::enter(&hall, &verb)?;
            }
            let runtime = runtime(if let Verb::Serve(_) = verb { SERVING_BLOCKING_MAX } else { BLOCKING_MAX })?;
            let code = runtime.block_on(obey(&hall, verb));
            // Whoever was stopped does not wait for a compression or a copy that nobody wants any more; what it made
            // is aside, and the next start sweeps it.
            runtime.shutdown_background();
            code
        }
    }
}

async fn obey(hall: &Hall<'_>, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Build(args) => build::build(hall, &args).await,
        Verb::Run(args) => run::run(hall, &args).await,
        Verb::Debug(args) => debug::debug(hall, &args).await,
        Verb::Plan(args) => plan::plan(hall, &args).await,
        Verb::VerifyBuild(args) => verify_build::verify(hall, &args).await,
        Verb::Why(args) => why::why(hall, &args).await,
        Verb::History(args) => history::history(hall, &args).await,
        Verb::Images(args) => images::images(hall, &args).await,
        Verb::Tag(args) => tag::tag(hall, &args).await,
        Verb::Inspect(args) => inspect::inspect(hall, &args).await,
        Verb::Rmi(args) => rmi::rmi(hall, &args).await,
        Verb::Push(args) => push::push(hall, &args).await,
        Verb::Pull(args) => pull::pull(hall, &args).await,
        Verb::Imagetools(args) => imagetools::imagetools(hall, &args).await,
        Verb::Du(args) => du::du(hall, &args).await,
        Verb::Prune(args) => prune::prune(hall, &args).await,
        Verb::Verify(args) => verify::verify(hall, &args).await,
        Verb::Import(args) => import::import(hall, &args).await,
        Verb::Save(args) => save::save(hall, &args).await,
        Verb::Load(args) => load::load(hall, &args).await,
        Verb::Login(args) => login::login(hall, &args).await,
        Verb::Logout(args) => logout::logout(hall, &args).await,
        Verb::Auth(args) => auth::auth(hall, &args).await,
        Verb::Serve(args) => serve::serve(hall, &args).await,
        Verb::Check(_) | Verb::Doctor(_) | Verb::Config(_) | Verb::Version => unreachable!("done without a runtime"),
    }
}

fn flags_of(args: &RegistryArgs) -> RegistryFlags {
    RegistryFlags {
        authfile: args.authfile.clone(),
        cert_dir: args.cert_dir.clone(),
        tls_verify: args.tls_verify,
        credential: None,
    }
}

/// What the verbs that move images say of display and credentials.
fn shelf_flags(verb: &Verb, flags: &mut Flags) -> Result<(), Failure> {
    let of = |names: &[Reference]| names.iter().map(|name| name.registry().to_owned()).collect::<Vec<_>>();
    let (shown, registry, creds, registries, which) = match verb {
        Verb::Push(args) => {
            let to = args.destination.clone().or_else(|| args.image.parse().ok());
            (Some(&args.shown), &args.registry, &args.creds, of(to.as_slice()), "that is pushed to")
        }
        Verb::Pull(args) => (Some(&args.shown), &args.registry, &args.creds, of(&args.names), "that is pulled from"),
        Verb::Imagetools(args) => match &args.verb {
            ImagetoolsVerb::Create(args) => {
                (Some(&args.shown), &args.registry, &args.creds, of(&args.names), "of all `-t`")
            }
            ImagetoolsVerb::Inspect(args) => {
                (None, &args.registry, &args.creds, vec![args.name.registry().to_owned()], "that is asked")
            }
        },
        _ => return Ok(()),
    };
    if let Some(shown) = shown {
        (flags.progress, flags.quiet) = (shown.progress, shown.quiet);
    }
    flags.registry = flags_of(registry);
    flags.registry.credential = options::registry::credential_of(creds.creds.as_deref(), &registries, which)?;
    Ok(())
}

/// `NAME@DIGEST`, of what a name means now.
fn pinned(name: &Reference, document: &Descriptor) -> String {
    name.with_digest(document.digest).to_string()
}

/// What a name means now, in the words of `docker push`.
fn line(name: &Reference, document: &Descriptor) -> String {
    format!("{}: digest: {} size: {}\n", name.familiar(), document.digest, document.size)
}

/// Writes a result into a file of the user's.
fn write_file(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::new(format!("cannot write `{}`", path.display())).note(error.to_string()))
}

fn runtime(blocking: usize) -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(blocking)
        .enable_all()
        .build()
        .map_err(|error| Failure::new("the threads that do the work cannot be started").note(error.to_string()))
}

/// Prints a result on standard output. A reader that has seen enough is fine.
///
/// # Errors
/// When standard output cannot be written to: a full disk, say.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new("standard output cannot be written to").note(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// A step's name behind `used` other characters: cut where a person's line ends, whole for everybody else.
fn named(name: &str, used: usize, columns: Option<usize>) -> String {
    /// Below that a name says nothing.
    const NAME_MIN: usize = 20;
    let name = crate::escape::line(name);
    match columns {
        Some(columns) => crate::progress::fit(&name, columns.saturating_sub(used).max(NAME_MIN)),
        None => name.into_owned(),
    }
}

impl Hall<'_> {
    /// How many characters a line of standard output takes, if a person reads it there.
    fn columns(&self) -> Option<usize> {
        self.environment.stdout_terminal.then(|| crate::progress::terminal::stderr_size().columns)
    }

    fn style(&self) -> Style {
        Style::of(std::io::stderr(), self.config.color_on(self.environment.color_stderr()))
    }

    fn stdout_style(&self) -> Style {
        Style::of(std::io::stdout(), self.config.color_on(self.environment.color_stdout()))
    }

    fn settings(&self) -> Settings {
        Settings {
            root: self.config.root.value.clone(),
            registries: self.registries(),
            offline: self.config.offline.value,
            foreign_layers: self.config.foreign_layers.value,
            max_size: self.config.max_size.value,
            keep_free: None,
            at_least: None,
            keep_for: self.config.keep_for.value,
            mounts_max_size: self.config.mounts_max_size.value,
            rung: self.standing.rung,
            network: self.network(),
            native_platform: Platform::native(),
            user: executor::rootless::entered_by().map(|(uid, _)| uid),
            history: HistorySettings {
                keep: self.config.history_keep.value,
                log_max_bytes: self.config.history_log_max_bytes.value,
            },
        }
    }

    /// How steps get out.
    fn network(&self) -> NetworkSettings {
        NetworkSettings {
            driver: self.config.network_driver.value,
            pool: self.config.network_pool.value,
            share: match (self.standing.rung, self.config.isolation.value) {
                (Rung::Chroot, _) => Share::Always,
                (_, Some(Wanted::Auto)) => Share::WithoutDriver,
                _ => Share::Never,
            },
        }
    }

    /// How registries are met.
    fn registries(&self) -> RegistrySettings {
        let flags = &self.config.registry_flags;
        RegistrySettings {
            hosts: HostSources::new(&self.config, self.environment),
            authfile: flags.authfile.clone(),
            credential: flags.credential.clone(),
            without_job: !self.config.ci_credentials.value,
            asked: None,
        }
    }

    /// The display that settings and terminal ask for.
    fn mode(&self) -> Result<Mode, Failure> {
        let terminal = self.environment.fine_stderr();
        let progress = &self.config.progress;
        let tty = || Mode::Tty { color: self.style().color, log_lines: self.config.log_lines.value };
        Ok(match progress.value {
            ProgressArg::Auto if terminal && !self.logs => tty(),
            ProgressArg::Auto | ProgressArg::Plain => Mode::Plain,
            ProgressArg::Tty if terminal => tty(),
            ProgressArg::Tty => {
                let origin = match &progress.source {
                    Source::Default => "the default".to_owned(),
                    origin => format!("`{origin}`"),
                };
                return Err(Failure::new(format!("{origin} asks for `tty`, but standard error is not a terminal"))
                    .help("use `--progress=plain`, or `auto`, which looks first"));
            }
            ProgressArg::Quiet => Mode::Quiet,
            ProgressArg::None => Mode::None,
            ProgressArg::Rawjson => Mode::RawJson,
        })
    }

    /// Refuses to wait for a person to type `what`.
    fn check_stdin(&self, what: &str, help: &str) -> Result<(), Failure> {
        if !self.environment.stdin_terminal {
            return Ok(());
        }
        Err(Failure::new(format!("{what} is not read from a terminal"))
            .help(format!("{help}, or redirect standard input")))
    }

    /// Whether standard error is for people: neither for programs nor to be left alone.
    fn talks(&self) -> bool {
        !matches!(self.config.progress.value, ProgressArg::Quiet | ProgressArg::None | ProgressArg::Rawjson)
    }

    /// Runs `work` under a display that Ctrl-C cancels, and ends the display.
    async fn under_display<T>(
        &self,
        mode: Mode,
        work: impl AsyncFnOnce(Arc<dyn Progress>, CancellationToken) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.under_display_until(CancellationToken::new(), mode, work).await
    }

    /// As [`Self::under_display`], but from when `handed_over` fires signals stop nothing here: who fires it minds them.
    async fn under_display_until<T>(
        &self,
        handed_over: CancellationToken,
        mode: Mode,
        work: impl AsyncFnOnce(Arc<dyn Progress>, CancellationToken) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let cancel = CancellationToken::new();
        let display = Display::start(mode, cancel.clone());
        interrupt::listen(cancel.clone(), handed_over, display.listener())?;
        let outcome = work(display.listener(), cancel.clone()).await;
        display.finish();
        outcome.map_err(|failure| match failure.kind {
            // Whatever broke on the way down, it was the user who stopped it.
            FailureKind::Build if cancel.is_cancelled() => Failure { kind: FailureKind::Canceled, ..failure },
            _ => failure,
        })
    }
}
