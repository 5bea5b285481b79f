//! What is built or looked at, from flags, settings and surroundings to [`InputOptions`].

use std::collections::BTreeMap;
use std::path::Path;

use oci::model::Platform;

use super::context::{self, DockerfileFrom, NamedSource, Place};
use super::{InputOptions, args, policy, secrets};
use crate::cli::InputArgs;
use crate::config::{Config, Source};
use crate::engine::Failure;
use crate::environment::Environment;

/// What `build`, `check` and `debug` start from.
///
/// # Errors
/// With advice, for what contradicts itself or is not supported.
pub fn input(given: &InputArgs, config: &Config, environment: &Environment) -> Result<InputOptions, Failure> {
    let is_dir = |path: &Path| environment.working_directory.join(path).is_dir();
    let place = context::place(&given.context, is_dir(&given.context))?;
    let dockerfile = context::dockerfile(given.file.as_deref());
    check_stdin(&place, &dockerfile, environment)?;
    Ok(InputOptions {
        context: place,
        dockerfile,
        ignorefile: given.ignorefile.clone(),
        contexts: named(&given.build_contexts, is_dir)?,
        target: given.target.clone().filter(|target| !target.is_empty()),
        build_args: args::build_args(&given.build_args, &given.build_arg_files, environment)?,
        platforms: platforms(config)?,
        policy: policy::of_environment(environment)?,
        own_agent: secrets::own_agent(environment),
    })
}

/// There is one standard input, and nobody types an archive.
fn check_stdin(place: &Place, dockerfile: &DockerfileFrom, environment: &Environment) -> Result<(), Failure> {
    let (what, help) = match (place, dockerfile) {
        (Place::Stdin, DockerfileFrom::Stdin) => {
            return Err(Failure::new("both the context and the Dockerfile are to come from standard input")
                .help("for a Dockerfile without files, leave out `-f -`; else name one of them"));
        }
        (Place::Stdin, _) => ("a context", "for the current folder, write `.` instead of `-`"),
        (_, DockerfileFrom::Stdin) => ("a Dockerfile", "name the file with `-f FILE`"),
        _ => return Ok(()),
    };
    if !environment.stdin_terminal {
        return Ok(());
    }
    Err(Failure::new(format!("{what} is not read from a terminal")).help(format!("{help}, or redirect standard input")))
}

/// All named contexts, in order; of the same name the last counts.
fn named(given: &[String], is_dir: impl Fn(&Path) -> bool) -> Result<Vec<NamedSource>, Failure> {
    let mut sources: BTreeMap<String, NamedSource> = BTreeMap::new();
    for text in given {
        let source = context::named(text, &is_dir)?;
        sources.insert(source.name.clone(), source);
    }
    Ok(sources.into_values().collect())
}

/// More than there are kinds of machines.
const PLATFORMS_MAX: usize = 32;

/// The platforms that are asked for, each once; that of this machine when nobody asks.
fn platforms(config: &Config) -> Result<Vec<Platform>, Failure> {
    let native = Platform::native();
    let Some(text) = config.platform.value.as_deref() else { return Ok(vec![native]) };
    let wrong = |reason: String| Failure::new(format!("`{}`: {reason}", platform_origin(config)));
    let mut platforms: Vec<Platform> = Vec::new();
    for word in text.split(',').map(str::trim) {
        let platform = match word {
            "local" => native.clone(),
            word => word.parse().map_err(|error| wrong(format!("{error}")))?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
        if platforms.len() > PLATFORMS_MAX {
            return Err(wrong(format!("these are more than {PLATFORMS_MAX} platforms")));
        }
    }
    Ok(platforms)
}

/// Refuses several platforms where one thing is shown.
///
/// # Errors
/// With advice, when there are several.
pub fn single(input: &InputOptions, verb: &str) -> Result<(), Failure> {
    if input.platforms.len() == 1 {
        return Ok(());
    }
    Err(Failure::new(format!("`{verb}` is for one platform, and these are several: {}", input.platforms_text()))
        .help(format!("write `--platform {}`", input.platform())))
}

/// Who asks for the platform.
pub fn platform_origin(config: &Config) -> &'static str {
    match &config.platform.source {
        Source::Flag(name) | Source::Variable(name) => name,
        Source::File { .. } | Source::Default => "platform",
    }
}
