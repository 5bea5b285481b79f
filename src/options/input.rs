//! What is built or looked at, from flags, settings and surroundings to [`InputOptions`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::model::Platform;

use super::InputOptions;
use crate::cli::InputArgs;
use crate::config::{Config, Source};
use crate::engine::Failure;
use crate::environment::Environment;

/// What `build`, `check` and `debug` start from.
///
/// # Errors
/// With advice, for what contradicts itself or is not supported.
pub fn input(args: &InputArgs, config: &Config, environment: &Environment) -> Result<InputOptions, Failure> {
    let context = context(&args.context)?;
    if args.file.as_deref() == Some(Path::new("-")) {
        return Err(Failure::new("a Dockerfile on standard input is not supported by this version of rbuild")
            .help("write it into a file, and name that with `-f FILE`"));
    }
    Ok(InputOptions {
        context,
        file: args.file.clone(),
        target: args.target.clone().filter(|target| !target.is_empty()),
        build_args: build_args(&args.build_args, environment)?,
        platform: platform(config)?,
    })
}

fn context(path: &Path) -> Result<PathBuf, Failure> {
    let text = path.to_string_lossy();
    let remote = text.contains("://") || text.starts_with("git@");
    if remote || text == "-" {
        let what = if remote { "a remote context" } else { "a context on standard input" };
        return Err(Failure::new(format!("{what} is not supported by this version of rbuild"))
            .help("fetch it into a folder first, and name that"));
    }
    Ok(path.to_owned())
}

fn build_args(given: &[String], environment: &Environment) -> Result<BTreeMap<String, String>, Failure> {
    let mut args = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), bare(text, environment)?),
        };
        if name.is_empty() {
            return Err(
                Failure::new(format!("`--build-arg {text}` has no name")).help("write `--build-arg NAME=VALUE`")
            );
        }
        match value {
            Some(value) => args.insert(name.to_owned(), value),
            None => args.remove(name),
        };
    }
    Ok(args)
}

/// The value of a variable that a flag names without one; `None` when it is not set.
pub fn bare(name: &str, environment: &Environment) -> Result<Option<String>, Failure> {
    let value = environment.variables.get(std::ffi::OsStr::new(name)).map(|value| value.to_str());
    match value {
        Some(None) => Err(Failure::new(format!("the variable `{name}` is not UTF-8"))),
        value => Ok(value.flatten().map(str::to_owned)),
    }
}

/// The platform that is asked for; that of this machine when nobody asks.
fn platform(config: &Config) -> Result<Platform, Failure> {
    let native = Platform::native();
    let Some(text) = config.platform.value.as_deref().filter(|text| *text != "local") else { return Ok(native) };
    let wrong = |reason: String| Failure::new(format!("`{}`: {reason}", platform_origin(config)));
    if text.contains(',') {
        return Err(wrong(format!(
            "`{text}` names several platforms, which this version of rbuild cannot build at once"
        ))
        .help(format!("build on a machine of each platform; this one is `{native}`")));
    }
    text.parse().map_err(|error| wrong(format!("{error}")))
}

/// Who asks for the platform.
pub fn platform_origin(config: &Config) -> &'static str {
    match &config.platform.source {
        Source::Flag(name) | Source::Variable(name) => name,
        Source::File { .. } | Source::Default => "platform",
    }
}
