//! `rbuild build`.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use oci::model::Reference;
use solver::graph::VertexId;
use solver::seam::{Event, Progress};

use super::{Hall, call};
use crate::cli::values::ProgressArg;
use crate::cli::{self, BuildArgs, Call};
use crate::engine::{self, Begins, Built, Failure, Problem};
use crate::options::context::Place;
use crate::options::{self, BuildOptions};
use crate::report::place::Places;
use crate::report::{self, Reporter, Severity, github};

/// After a build, so many warnings are shown.
const WARNINGS_MAX: usize = 20;

/// Builds, and tells of it.
pub async fn build(hall: &Hall<'_>, args: &BuildArgs) -> Result<u8, Failure> {
    match args.call.wanted() {
        Call::Build => {}
        wanted => return call::call(hall, &args.input, wanted),
    }
    let inert = options::build::inert(args);
    let mut options = options::build::build(args, &hall.config, hall.environment)?;
    if let Place::Path(path) = &options.input.context {
        check_for_verb(path)?;
    }
    let mode = hall.mode()?;
    forget_old_id(options.iidfile.as_deref())?;
    let is_index = options.input.makes_index();
    engine::load::choose(&mut options.outputs, is_index).await?;
    if !inert.is_empty() && hall.talks() {
        let (these, change) = if inert.len() == 1 { ("this flag", "changes") } else { ("these flags", "change") };
        let text = format!("{these} {change} nothing here: {}", inert.join(" "));
        report::print(&report::note(&text, hall.style()));
    }
    let began = Instant::now();
    let settings = hall.settings();
    let (settings, options) = (&settings, &options);
    let built = hall
        .under_display(mode, async |progress, cancel| {
            let built = engine::build(settings, options, Begins::Options, progress.clone(), cancel).await?;
            if hall.config.progress.value == ProgressArg::Rawjson {
                say_warnings(&built, &*progress);
            }
            Ok(built)
        })
        .await?;
    if hall.config.progress.value != ProgressArg::Rawjson {
        tell_warnings(hall, &built.warnings);
    }
    write_files(options, &built)?;
    if hall.config.progress.value == ProgressArg::Quiet {
        super::print(&format!("{}\n", built.image_id))?;
    } else if hall.talks() {
        report::print(&summary(&built, began.elapsed()));
    }
    Ok(0)
}

/// Shows what the frontend remarked, but not more of it than anybody reads after a build.
fn tell_warnings(hall: &Hall<'_>, warnings: &[Problem]) {
    let mut reporter = Reporter::new(hall.style());
    for warning in warnings.iter().take(WARNINGS_MAX) {
        report::print(&reporter.problem(Severity::Warning, warning));
    }
    let more = warnings.len().saturating_sub(WARNINGS_MAX);
    if more > 0 {
        report::print(&report::note(&format!("and {more} more; `rbuild check` shows all"), hall.style()));
    }
    if hall.environment.github_actions() {
        let shown = github::shown(warnings.iter().map(|warning| (Severity::Warning, warning)));
        report::print(&github::annotations(shown, |path| hall.environment.in_checkout(path)));
    }
}

/// A context that is not there and looks like a verb was meant as one.
fn check_for_verb(context: &Path) -> Result<(), Failure> {
    let Some(word) = context.to_str().filter(|word| !word.contains('/')) else { return Ok(()) };
    if context.symlink_metadata().is_ok() {
        return Ok(());
    }
    let verbs = cli::verbs();
    match frontend::nearest(word, verbs.iter().map(String::as_str)) {
        Some(verb) => Err(Failure::new(format!("`{word}` is neither a verb nor a folder to build"))
            .help(format!("did you mean `rbuild {verb}`?"))),
        None => Ok(()),
    }
}

/// An id file of an earlier build must not outlive a build that fails.
fn forget_old_id(iidfile: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = iidfile else { return Ok(()) };
    match path.symlink_metadata() {
        Ok(facts) if !facts.is_file() => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(not_written("--iidfile", path, &error)),
    }
    std::fs::remove_file(path).map_err(|error| not_written("--iidfile", path, &error))
}

fn write_files(options: &BuildOptions, built: &Built) -> Result<(), Failure> {
    if let Some(path) = &options.iidfile {
        std::fs::write(path, built.image_id.to_string()).map_err(|error| not_written("--iidfile", path, &error))?;
    }
    if let Some(path) = &options.metadata_file {
        let text = serde_json::to_string_pretty(&built.metadata).expect("a JSON value is always JSON") + "\n";
        std::fs::write(path, text).map_err(|error| not_written("--metadata-file", path, &error))?;
    }
    Ok(())
}

fn not_written(flag: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("`{flag}`: the file `{}` cannot be written", path.display())).note(error.to_string())
}

/// Programs that read the events get the warnings as events.
fn say_warnings(built: &Built, progress: &dyn Progress) {
    for warning in &built.warnings {
        let rule = warning.rule.map(|rule| format!("{}: ", rule.name())).unwrap_or_default();
        let place = match &warning.snippet {
            Some(at) => format!(" ({}:{})", at.file, Places::new(&at.text).range(&at.span).0.line),
            None => String::new(),
        };
        let text = format!("{rule}{}{place}", warning.message);
        progress.event(Event::Notice { vertex: VertexId::of_name("warnings"), text });
    }
}

/// The last words of a build that went well.
fn summary(built: &Built, time: Duration) -> String {
    let names: Vec<_> = built.names.iter().map(Reference::familiar).collect();
    let names = if names.is_empty() { String::new() } else { format!("{}  ", names.join(", ")) };
    let id = &built.local_id.hex()[..12];
    let steps = if built.steps == 1 { "step" } else { "steps" };
    let mut text = format!(
        "built {names}sha256:{id}  ({} {steps}, {} cached, {:.1}s) in the local store\n",
        built.steps,
        built.cached,
        time.as_secs_f64()
    );
    for wrote in &built.wrote {
        writeln!(text, "{}", crate::escape::line(wrote)).expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use oci::model::Digest;

    use super::*;

    fn built(names: &[&str], wrote: &[&str]) -> Built {
        Built {
            image_id: Digest::of(b"config"),
            local_id: Digest::of(b"config"),
            names: names.iter().map(|name| name.parse().expect("a name")).collect(),
            steps: 7,
            cached: 5,
            wrote: wrote.iter().map(|&text| text.to_owned()).collect(),
            warnings: Vec::new(),
            metadata: serde_json::json!({"image.name": "app:1"}),
        }
    }

    #[test]
    fn the_last_line_says_what_was_built_and_where_it_is() {
        let time = Duration::from_millis(3210);
        let text = summary(&built(&["app:1", "r.example/app"], &["wrote the OCI archive to \x1bx"]), time);
        insta::assert_snapshot!(text, @r"
        built app:1, r.example/app:latest  sha256:b79606fb3afe  (7 steps, 5 cached, 3.2s) in the local store
        wrote the OCI archive to \x1bx
        ");
        insta::assert_snapshot!(summary(&built(&[], &[]), time), @"
        built sha256:b79606fb3afe  (7 steps, 5 cached, 3.2s) in the local store
        ");
    }

    #[test]
    fn id_and_metadata_are_written_and_an_old_id_is_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (iidfile, metadata_file) = (folder.path().join("id"), folder.path().join("meta.json"));
        std::fs::write(&iidfile, "old").expect("the folder is ours");
        forget_old_id(Some(&iidfile)).expect("the folder is ours");
        assert!(!iidfile.exists());
        forget_old_id(Some(&iidfile)).expect("a file that is not there is fine");
        let mut options = build_options();
        (options.iidfile, options.metadata_file) = (Some(iidfile.clone()), Some(metadata_file.clone()));
        let built = built(&["app:1"], &[]);
        write_files(&options, &built).expect("the folder is ours");
        let id = std::fs::read_to_string(&iidfile).expect("it was written");
        assert_eq!(id, Digest::of(b"config").to_string());
        let metadata = std::fs::read_to_string(metadata_file).expect("it was written");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&metadata).expect("it is JSON"), built.metadata);
        options.iidfile = Some(folder.path().join("no/such/folder"));
        let failure = write_files(&options, &built).expect_err("there is no such folder");
        assert!(failure.problems[0].message.starts_with("`--iidfile`: the file"), "{failure:?}");
    }

    fn build_options() -> BuildOptions {
        BuildOptions {
            input: options::InputOptions {
                context: Place::Path(".".into()),
                dockerfile: options::context::DockerfileFrom::Usual,
                ignorefile: None,
                contexts: Vec::new(),
                target: None,
                build_args: std::collections::BTreeMap::new(),
                platforms: vec![oci::model::Platform::native()],
                policy: crate::engine::Policy::default(),
                own_agent: None,
            },
            tags: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            annotations: options::annotation::Annotations::default(),
            provenance: None,
            network: None,
            no_cache: false,
            no_cache_stages: Vec::new(),
            pull: false,
            outputs: Vec::new(),
            epoch: None,
            iidfile: None,
            metadata_file: None,
            timings: None,
            jobs: 1,
            steps: executor::StepSettings::default(),
            provisions: options::provisions::Provisions::default(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            client: None,
        }
    }

    #[test]
    fn a_mistyped_verb_is_not_taken_for_a_context() {
        let failure = check_for_verb(Path::new("imgaes")).expect_err("there is no such folder");
        assert_eq!(failure.problems[0].help.as_deref(), Some("did you mean `rbuild images`?"));
        assert!(check_for_verb(Path::new("./imgaes")).is_ok());
        assert!(check_for_verb(Path::new("something-else")).is_ok());
        assert!(check_for_verb(Path::new(".")).is_ok());
    }
}
