//! `rbuild`: argv, environment and config files come in; an exit code, words and progress go out.
//!
//! Reading order: [`cli`] understands the words, [`config`] and [`options`] make plain values of them, [`cmd`] has one
//! file per verb, [`engine`] does the work, which [`daemon`] asks for on behalf of clients, [`progress`] and [`report`]
//! tell of it. Exit codes: 0, 1 (the build or what it was given, or findings of a check), 130 (stopped by the user);
//! `rbuild run` returns the code of what it ran, and 126 or 127 when that could not be executed.

mod amount;
mod cli;
mod cmd;
mod config;
mod daemon;
mod engine;
mod environment;
mod escape;
mod hosts;
mod options;
mod progress;
mod queue;
mod report;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::cli::{GlobalArgs, Request};
use crate::engine::{Failure, FailureKind};
use crate::environment::Environment;
use crate::report::{Severity, Style, github};

/// The build, or what it was given.
const EXIT_FAILURE: u8 = 1;
/// 128 + SIGINT, as shells have it.
const EXIT_CANCELED: u8 = 130;

fn main() -> ExitCode {
    // Before anything else: the helper process of a sandboxed step is this same binary, and never comes back.
    executor::sandbox::init_if_asked();
    executor::rootless::become_if_asked();
    explain_panics();
    let code = std::panic::catch_unwind(|| {
        let environment = match Environment::read() {
            Ok(environment) => environment,
            Err(error) => {
                let failure = Failure::new("the working directory cannot be read").note(error.to_string());
                return fail(&failure, &Environment::default());
            }
        };
        match obey(&environment) {
            Ok(code) => code,
            Err(failure) => fail(&failure, &environment),
        }
    });
    ExitCode::from(code.unwrap_or(EXIT_FAILURE))
}

fn obey(environment: &Environment) -> Result<u8, Failure> {
    match cli::parse(std::env::args_os().skip(1))? {
        Request::Print(text) => cmd::print(&text).map(|()| 0),
        Request::Do(cli) => {
            log_to_stderr(&cli.global, environment)?;
            if let Err(error) = executor::sandbox::raise_open_files() {
                tracing::debug!(%error, "the limit of open files stays as it is");
            }
            cmd::run(*cli, environment)
        }
    }
}

fn fail(failure: &Failure, environment: &Environment) -> u8 {
    report::print(&report::failure(failure, Style::of(std::io::stderr(), environment.color_stderr())));
    if environment.github_actions() {
        // Standard output is for results; the runner reads both.
        let errors = github::shown(failure.problems.iter().map(|problem| (Severity::Error, problem)));
        report::print(&github::annotations(errors, |path| environment.in_checkout(path)));
    }
    match failure.kind {
        FailureKind::Build => EXIT_FAILURE,
        FailureKind::Canceled => EXIT_CANCELED,
        FailureKind::NotExecuted(code) => u8::try_from(code).unwrap_or(EXIT_FAILURE),
    }
}

/// Decisions go to standard error when `RBUILD_LOG` or `--debug` asks for them.
fn log_to_stderr(global: &GlobalArgs, environment: &Environment) -> Result<(), Failure> {
    let Some(wanted) = environment.text("RBUILD_LOG").or_else(|| global.debug.then(|| "rbuild=debug".to_owned()))
    else {
        return Ok(());
    };
    let filter = EnvFilter::builder().parse(&wanted).map_err(|error| {
        Failure::new(format!("the variable `RBUILD_LOG`: `{wanted}` is not a log filter"))
            .note(error.to_string())
            .help("write a level like `debug`, or `rbuild_oci=trace,rbuild=info`")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(environment.color_stderr())
        .init();
    Ok(())
}

/// A panic is a bug of ours: the terminal is given back, and the words say so.
fn explain_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        progress::terminal::restore();
        usual(panic);
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let failure = Failure::new(format!("rbuild {} has a bug and stopped", env!("CARGO_PKG_VERSION")))
            .note("what was built is safe: nothing unfinished is ever used")
            .help("please report it, with the lines above and the command that you gave");
        report::print(&report::failure(&failure, Style::of(std::io::stderr(), color)));
    }));
}
