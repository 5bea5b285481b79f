//! The command line: words come in, a [`Cli`] or a [`Failure`] with advice goes out.
//!
//! The first word decides: a verb is the verb, anything else is the beginning of a `build`. So `rbuild -t app:1 .` is
//! `rbuild build -t app:1 .`, and a context folder that is named like a verb is written `./images`. Deliberately
//! absent: what the words mean together with environment and config files, which is [`crate::options`]'s.

mod advice;
mod archives;
mod build;
mod check;
mod config;
mod debug;
mod doctor;
mod format;
mod history;
mod images;
mod imagetools;
mod input;
mod limits;
mod plan;
mod registry;
mod run;
mod secrets;
mod serve;
mod space;
mod steps;
mod transfer;
mod usage;
pub mod values;
mod verify_build;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use archives::{ImportArgs, LoadArgs, SaveArgs, SaveFormat};
pub use build::BuildArgs;
pub use check::{Call, CheckArgs, CheckFormat};
pub use config::ConfigArgs;
pub use debug::{DebugArgs, DebugFormat, DebugWhat};
pub use doctor::DoctorArgs;
pub use format::{Format, Told};
pub use history::{
    HistoryArgs, HistoryInspectArgs, HistoryLogsArgs, HistoryLsArgs, HistoryRmArgs, HistoryTimingsArgs, HistoryVerb,
    WhyArgs,
};
pub use images::{ImagesArgs, InspectArgs, RmiArgs, TagArgs};
pub use imagetools::{ImagetoolsArgs, ImagetoolsCreateArgs, ImagetoolsInspectArgs, ImagetoolsVerb};
pub use input::InputArgs;
pub use limits::LimitArgs;
pub use plan::PlanArgs;
pub use registry::{AuthArgs, AuthVerb, AuthWhyArgs, LoginArgs, LogoutArgs, RegistryArgs};
pub use run::RunArgs;
pub use serve::ServeArgs;
pub use space::{DuArgs, PruneArgs, VerifyArgs};
pub use steps::StepArgs;
pub use transfer::{PullArgs, PushArgs};
pub use verify_build::VerifyBuildArgs;

use executor::isolation::Wanted;

use crate::engine::Failure;

/// Builds container images from Dockerfiles: one binary, no daemon.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    propagate_version = false,
    after_help = "Without a verb, the words go to `build`: `rbuild -t app:1 .` is `rbuild build -t app:1 .`"
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What is done.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GlobalArgs {
    /// Say on standard error what is decided and why (RBUILD_LOG selects more finely)
    #[arg(short = 'D', long, global = true, help_heading = "Global options")]
    pub debug: bool,
    /// Keep images, cache and layers here [env: RBUILD_ROOT]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Global options")]
    pub root: Option<PathBuf>,
    /// How strongly steps are kept apart: full (root's), rootless (a user's), chroot (none, for pods without privileges), or auto, the best there is [env: RBUILD_ISOLATION]
    #[arg(long, value_name = "RUNG", global = true, help_heading = "Global options", value_parser = values::isolation)]
    pub isolation: Option<Wanted>,
}

/// What is done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Look for mistakes in a Dockerfile, and mend them
    Check(Box<CheckArgs>),
    /// Run an image in the foreground and return its exit code
    Run(Box<RunArgs>),
    /// List the images of the local store
    Images(ImagesArgs),
    /// Give an image of the local store further names
    Tag(TagArgs),
    /// Show all that is known of images of the local store
    Inspect(InspectArgs),
    /// Remove images from the local store
    Rmi(RmiArgs),
    /// Take an image of the local store to a registry
    Push(Box<PushArgs>),
    /// Bring images from registries into the local store
    Pull(Box<PullArgs>),
    /// Join, rename and look at images that are in registries
    Imagetools(ImagetoolsArgs),
    /// Show what the store takes on disk, and why
    Du(DuArgs),
    /// Remove what no image and no running build needs
    Prune(PruneArgs),
    /// Hash everything in the store, and say what is damaged
    Verify(VerifyArgs),
    /// Make an image of a tar of a root file system
    Import(ImportArgs),
    /// Write images as an archive
    Save(SaveArgs),
    /// Read images from an archive or an OCI layout
    Load(LoadArgs),
    /// Tell which steps a build would run, and why, without running any
    Plan(Box<PlanArgs>),
    /// Build twice, or once beside an image, and explain every difference
    VerifyBuild(Box<VerifyBuildArgs>),
    /// Say why the last build of a folder ran what it ran
    Why(WhyArgs),
    /// List, show and forget the last builds, and what their steps printed
    History(HistoryArgs),
    /// Show what rbuild makes of a Dockerfile: its statements, its plan, its graph
    Debug(Box<DebugArgs>),
    /// Log in to a registry: try a name and a password there, and keep them
    Login(LoginArgs),
    /// Forget the credentials of a registry
    Logout(LogoutArgs),
    /// Say where an image would be asked for, and with whose credentials
    Auth(AuthArgs),
    /// Serve builds to docker buildx and other clients of BuildKit's API
    Serve(Box<ServeArgs>),
    /// Look whether this machine has what builds need, and say how to get it
    Doctor(DoctorArgs),
    /// Show every setting and where it comes from
    Config(ConfigArgs),
    /// Show the version
    Version,
}

/// What the words ask for.
#[derive(Debug)]
pub enum Request {
    /// To do something.
    Do(Box<Cli>),
    /// To print a text (help, version) on standard output.
    Print(String),
}

/// Understands the words after the program's name.
///
/// # Errors
/// With advice, for words that mean nothing here.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Request, Failure> {
    let given: Vec<OsString> = words.into_iter().collect();
    let count = given.len();
    let (mut words, verb) = with_verb(given);
    let put_in = verb == "build" && words.len() > count;
    if verb == "run" {
        end_flags_at_image(&mut words);
    }
    let parsed =
        Cli::command().try_get_matches_from(std::iter::once(OsString::from("rbuild")).chain(words.iter().cloned()));
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(Request::Do(Box::new(cli))),
        Err(error) if !error.use_stderr() => Ok(Request::Print(error.render().to_string())),
        Err(error) => {
            let failure = usage::failure(&error, &verb, &words);
            match put_in.then(|| near_verb(&error, &words)).flatten() {
                Some(near) => Err(failure.help(format!("did you mean `rbuild {near}`?"))),
                None => Err(failure),
            }
        }
    }
}

/// The verb that the first word looks like, which was taken for a folder, when there is a word too many.
fn near_verb(error: &clap::Error, words: &[OsString]) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(extra)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument || extra.starts_with('-') {
        return None;
    }
    let word = words.iter().skip_while(|word| *word != "build").nth(1)?.to_str()?;
    frontend::nearest(word, verbs().iter().map(String::as_str)).map(str::to_owned)
}

/// The names of all verbs.
pub fn verbs() -> Vec<String> {
    let command = Cli::command();
    command.get_subcommands().map(|verb| verb.get_name().to_owned()).chain([String::from("help")]).collect()
}

/// Puts `build` in front of the first word that is neither a verb nor a global option. Returns the verb too.
fn with_verb(mut words: Vec<OsString>) -> (Vec<OsString>, String) {
    let mut first = 0;
    loop {
        match words.get(first).and_then(|word| word.to_str()) {
            Some("-D" | "--debug") => first += 1,
            Some("--root" | "--isolation") => first += 2,
            Some(word) if word.starts_with("--root=") || word.starts_with("--isolation=") => first += 1,
            Some("-h" | "--help" | "-V" | "--version") => return (words, "help".into()),
            _ => break,
        }
    }
    let Some(word) = words.get(first) else {
        words.push(OsString::from("--help"));
        return (words, "help".into());
    };
    if let Some(verb) = verbs().into_iter().find(|verb| OsStr::new(verb) == word) {
        return (words, verb);
    }
    words.insert(first, OsString::from("build"));
    (words, "build".into())
}

/// Puts `--` behind the image of `rbuild run FLAGS… IMAGE COMMAND…`, so that the command's flags are its own also where
/// `run` knows a flag of that name.
fn end_flags_at_image(words: &mut Vec<OsString>) {
    let mut root = Cli::command();
    // Global options are known to a verb only once the command is built.
    root.build();
    let Some(run) = root.find_subcommand("run") else { return };
    let takes_value = |found: Option<&clap::Arg>| found.is_some_and(|flag| flag.get_action().takes_values());
    let long = |name: &str| takes_value(run.get_arguments().find(|flag| flag.get_long() == Some(name)));
    let short = |name: char| takes_value(run.get_arguments().find(|flag| flag.get_short() == Some(name)));
    let verb = words.iter().position(|word| word == "run").unwrap_or(0);
    let mut at = verb + 1;
    while let Some(word) = words.get(at).and_then(|word| word.to_str()) {
        let value_follows = match word.strip_prefix("--") {
            Some("") => return,
            Some(name) => long(name),
            None => match word.strip_prefix('-') {
                // In `-itw /srv` the value of the last letter follows; in `-w/srv` it is there already.
                Some(letters) if !letters.is_empty() => {
                    letters.chars().position(short).is_some_and(|found| found + 1 == letters.chars().count())
                }
                _ => break,
            },
        };
        at += if value_follows { 2 } else { 1 };
    }
    if at < words.len() {
        words.insert(at + 1, OsString::from("--"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Style, failure};

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    fn request(words: &str) -> Result<Request, String> {
        parse(words.split_whitespace().map(OsString::from)).map_err(|error| failure(&error, Style::default()))
    }

    #[test]
    fn the_first_word_is_the_verb_or_build_is_meant() {
        let check = |words: &str, expected: &str| {
            let Ok(Request::Do(cli)) = request(words) else { panic!("`{words}` was not understood") };
            let verb = format!("{:?}", cli.verb);
            assert!(verb.starts_with(expected), "`{words}` became {verb}");
        };
        check(".", "Build");
        check("-t app:1 .", "Build");
        check("build -t app:1 .", "Build");
        check("images", "Images");
        check("./images", "Build");
        check("-t images images", "Build");
        check("--root /x images", "Images");
        check("--root=/x -D images --root /y", "Images");
        check("--isolation rootless images", "Images");
        check("--isolation=auto -t app:1 .", "Build");
        check("doctor --format json", "Doctor");
        check("--debug --root /images ./x", "Build");
        check("run app:1 images", "Run");
        check("version", "Version");
        check("check .", "Check");
        check("check -f x --fix --format sarif .", "Check");
        check("./check", "Build");
        check("-D debug graph .", "Debug");
        check("debug --target a plan . --offline", "Debug");
    }

    #[test]
    fn what_follows_the_image_belongs_to_the_command() {
        let check = |words: &str, image: &str, command: &[&str]| {
            let Ok(Request::Do(cli)) = request(words) else { panic!("`{words}` was not understood") };
            let Verb::Run(run) = cli.verb else { panic!("`{words}` is no run") };
            assert_eq!(
                (run.image.to_string(), run.command),
                (image.into(), command.iter().map(|w| (*w).into()).collect())
            );
        };
        let app = "docker.io/library/app:1";
        check("run app:1", app, &[]);
        check("run app:1 -u -x --rm y", app, &["-u", "-x", "--rm", "y"]);
        check("run --rm -itw /srv -u nobody app:1 id -u", app, &["id", "-u"]);
        check("run -w/srv --user=nobody --entrypoint id app:1 --root", app, &["--root"]);
        check("--root /x run -e A=1 app:1 -- -e", app, &["--", "-e"]);
        check("run --rm -- app:1 -u", app, &["-u"]);
    }

    #[test]
    fn help_goes_to_standard_output() {
        let check = |words: &str, expected: &str| match request(words) {
            Ok(Request::Print(text)) => assert!(text.contains(expected), "`{words}` printed {text}"),
            other => panic!("`{words}` became {other:?}"),
        };
        check("", "Usage: rbuild");
        check("--help", "Usage: rbuild");
        check("-D", "Usage: rbuild");
        check("help build", "--build-arg");
        check("build --help", "--build-arg");
        check("check --help", "Exit codes:");
        check("help debug", "--offline");
        check("--no-cache --help", "--build-arg");
        check("--version", env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_flag_has_words_of_its_own() {
        for verb in Cli::command().get_subcommands() {
            for argument in verb.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", verb.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn words_that_mean_nothing_are_refused_with_advice() {
        let report = |words: &str| request(words).expect_err("these words mean nothing");
        insta::assert_snapshot!(report("--no-cahce ."), @"
        error: `rbuild build` has no flag `--no-cahce`
        help: did you mean `--no-cache`?
        ");
        insta::assert_snapshot!(report("--cache-ttl=1h ."), @"
        error: `--cache-ttl` is not supported by this version of rbuild
        help: leave it out: what is known does not grow old
        ");
        insta::assert_snapshot!(report("-v /a:/b ."), @"
        error: `-v` is not supported by this version of rbuild
        help: use COPY: steps see only the image and the context
        ");
        insta::assert_snapshot!(report("--frobnicate ."), @"
        error: `rbuild build` has no flag `--frobnicate`
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("-t app:1"), @"
        error: the build has no context: the folder that COPY and ADD read from
        help: for the current folder, end the line with a dot: `rbuild -t NAME .`
        ");
        insta::assert_snapshot!(report("a b"), @"
        error: `b` is one word too many: `rbuild build` takes `CONTEXT`
        help: words with blanks are put in quotes; a flag's value follows the flag
        ");
        insta::assert_snapshot!(report("bulid ."), @"
        error: `.` is one word too many: `rbuild build` takes `CONTEXT`
        help: did you mean `rbuild build`?
        ");
        insta::assert_snapshot!(report("-t"), @"
        error: `--tag` needs a value
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("--jobs many ."), @"
        error: `--jobs`: `many` is not a number from 1 on
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("--progress fancy ."), @"
        error: `--progress` does not take `fancy`
        help: it takes one of auto, plain, tty, quiet, none, rawjson
        ");
        insta::assert_snapshot!(report("--pull=always ."), @"
        error: `--pull` does not take `always`
        help: it takes one of true, false
        ");
        insta::assert_snapshot!(report("-t App:1 ."), @"
        error: `--tag`: `App:1` is not an image name: a repository name is lower case
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("--network bridge ."), @"
        error: `--network`: `bridge` is none of default, host, none
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("--isolation jail ."), @"
        error: `--isolation`: `jail` is none of full, rootless, chroot, auto
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("rmi"), @"
        error: `rbuild rmi` needs `IMAGE`
        help: `rbuild rmi --help` lists all flags
        ");
        insta::assert_snapshot!(report("check"), @"
        error: `rbuild check` needs `CONTEXT`
        help: for the current folder, end the line with a dot: `rbuild check .`
        ");
        insta::assert_snapshot!(report("check --format xml ."), @"
        error: `--format` does not take `xml`
        help: it takes one of text, json, sarif, github
        ");
        insta::assert_snapshot!(report("check --push ."), @"
        error: `rbuild check` has no flag `--push`
        help: `rbuild check --help` lists all flags
        ");
        insta::assert_snapshot!(report("--call=outlnie ."), @"
        error: `--call`: `outlnie` is none of check, outline, targets, build
        help: `rbuild build --help` lists all flags
        ");
        insta::assert_snapshot!(report("debug gaph ."), @"
        error: `WHAT` does not take `gaph`
        help: did you mean `graph`?
        ");
        insta::assert_snapshot!(report("debug graph"), @"
        error: `rbuild debug` needs `WHAT` and `CONTEXT`
        help: for the current folder, end the line with a dot: `rbuild debug graph .`
        ");
        insta::assert_snapshot!(report("imagetools create --apend -t app:1 x"), @"
        error: `rbuild imagetools create` has no flag `--apend`
        help: did you mean `--append`?
        ");
        insta::assert_snapshot!(report("imagetools inspect"), @"
        error: `rbuild imagetools inspect` needs `NAME`
        help: `rbuild imagetools inspect --help` lists all flags
        ");
        insta::assert_snapshot!(report("push app --sign-by me"), @"
        error: `--sign-by` is not supported by this version of rbuild
        help: leave it out; nothing takes its place yet
        ");
        insta::assert_snapshot!(report("run -d app"), @"
        error: `-d` is not supported by this version of rbuild
        help: leave it out: the command runs in the foreground
        ");
    }
}
