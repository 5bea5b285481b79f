//! From flags, settings and surroundings to [`BuildOptions`].

use std::collections::BTreeMap;

use executor::StepSettings;
use executor::steps::Grants;
use solver::op::NetworkMode;

use super::annotation::annotations;
use super::output::Output;
use super::{BuildOptions, allow, args as build_args, attest, cache, outputs, provisions, secrets, steps};
use crate::cli::BuildArgs;
use crate::config::Config;
use crate::engine::Failure;
use crate::environment::Environment;

/// What `rbuild build` is asked to do.
///
/// # Errors
/// With advice, for what contradicts itself or is not supported.
pub fn build(args: &BuildArgs, config: &Config, environment: &Environment) -> Result<BuildOptions, Failure> {
    let mut input = super::input::input(&args.input, config, environment)?;
    build_args::set_epoch(&mut input.build_args, &args.input.build_args, args.source_date_epoch, args.timestamp)?;
    let mut annotations = annotations(&args.annotations)?;
    let outputs::Outputs { outputs, tags, epoch } = outputs::outputs(args, &input, &annotations, environment)?;
    check_timings(args, &outputs)?;
    let provenance =
        attest::provenance(args.attest.provenance.as_deref(), args.attest.sbom.as_deref(), &args.attest.attest)?;
    if provenance.is_some() {
        outputs::check_told(&outputs)?;
    }
    for output in &outputs {
        if let Output::Image(image) = output {
            annotations.or(&image.form.annotations);
        }
    }
    if config.offline.value {
        let pushes = outputs.iter().any(|output| matches!(output, Output::Image(image) if image.push.is_some()));
        check_offline(args.pull, args.push, pushes, config)?;
    }
    Ok(BuildOptions {
        input,
        tags,
        labels: labels(&args.labels)?,
        annotations,
        provenance,
        network: config.network.value,
        no_cache: args.no_cache,
        no_cache_stages: args.no_cache_filter.iter().filter(|stage| !stage.is_empty()).cloned().collect(),
        pull: args.pull,
        outputs,
        epoch,
        iidfile: args.iidfile.clone(),
        metadata_file: args.metadata_file.clone(),
        timings: args.timings.clone(),
        jobs: config.jobs.value,
        steps: given(args, config, environment)?,
        provisions: provisions::provisions(&args.steps)?,
        cache_from: cache_from(args, environment)?,
        cache_to: args.cache_to.iter().map(|text| cache::to(text, environment)).collect::<Result<_, _>>()?,
        client: None,
    })
}

/// A page on standard output has it for itself.
fn check_timings(args: &BuildArgs, outputs: &[Output]) -> Result<(), Failure> {
    let is_stdout = args.timings.as_ref().is_some_and(|path| path.as_os_str() == "-");
    if is_stdout && (args.quiet || outputs.iter().any(Output::is_stdout)) {
        return Err(Failure::new("`--timings -` writes to standard output, where something else goes already")
            .help("give it a file: `--timings FILE.html`"));
    }
    Ok(())
}

/// What steps may ask for: `--allow`, what the config files allow every build, and the host's network if the user asks
/// for it for all steps.
fn grants(args: &BuildArgs, config: &Config) -> Result<Grants, Failure> {
    let mut grants = allow::grants(&[&args.allow[..], &config.allow.value].concat())?;
    grants.host_network |= config.network.value == Some(NetworkMode::Host);
    Ok(grants)
}

/// The flags that were given and change nothing, as written.
pub fn inert(args: &BuildArgs) -> Vec<String> {
    let inert = &args.inert;
    let switches = [("--rm", inert.rm), ("--force-rm", inert.force_rm), ("--compress", inert.compress)];
    switches.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| (*name).to_owned()).collect()
}

/// What RUN steps may do, get and use; what is given on the command line stands above what the config files give.
fn given(args: &BuildArgs, config: &Config, environment: &Environment) -> Result<StepSettings, Failure> {
    let mut steps = steps::steps(&args.steps, config, environment)?;
    steps.grants = grants(args, config)?;
    steps.device_directories =
        args.device_directories.iter().map(|path| environment.working_directory.join(path)).collect();
    steps.secrets = secrets::secrets(&config.secrets.value, environment)?;
    steps.secrets.extend(secrets::secrets(&args.secrets.secrets, environment)?);
    steps.agents = secrets::agents(&config.ssh.value, environment)?;
    steps.agents.extend(secrets::agents(&args.secrets.ssh, environment)?);
    Ok(steps)
}

/// All places of `--cache-from`, in order.
fn cache_from(args: &BuildArgs, environment: &Environment) -> Result<Vec<cache::CacheFrom>, Failure> {
    let places = args.cache_from.iter().map(|text| cache::from(text, environment).map(cache::CacheFrom::each));
    Ok(places.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// What cannot be done without a connection.
fn check_offline(pull: bool, push: bool, pushes: bool, config: &Config) -> Result<(), Failure> {
    let origin = &config.offline.source;
    for (asked, flag, what) in [
        (pull, "--pull", "asks the registries"),
        (push, "--push", "sends to them"),
        (pushes, "-o type=registry", "sends to them"),
    ] {
        if asked {
            return Err(Failure::new(format!("`{flag}` {what}, and `{origin}` allows no connection"))
                .help("leave out one of them; `--offline=false` beats every other setting"));
        }
    }
    Ok(())
}

fn labels(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = given.iter().map(|text| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(Failure::new(format!("`--label {text}` has no name")).help("write `--label NAME=VALUE`"));
        }
        Ok((name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use oci::model::Platform;

    use super::*;
    use crate::cli::{self, Request, Verb};
    use crate::config::{self, Flags};

    /// What the words after `rbuild` ask for, with `HOME` and the given variables.
    fn asked(words: &str, variables: &[(&str, &str)]) -> Result<(BuildOptions, Vec<String>), Failure> {
        let Request::Do(cli) = cli::parse(words.split_whitespace().map(OsString::from))? else { panic!("{words}") };
        let Verb::Build(args) = cli.verb else { panic!("`{words}` is no build") };
        let variables = variables.iter().chain(&[("HOME", "/home/u"), ("XDG_CONFIG_HOME", "/nowhere")]);
        let environment = Environment {
            variables: variables.map(|(name, value)| (name.into(), value.into())).collect(),
            working_directory: "/here".into(),
            ..Environment::default()
        };
        let flags = Flags {
            platform: args.input.platform(),
            offline: args.input.offline,
            quiet: args.quiet,
            ..Flags::default()
        };
        let config = config::load(flags, &environment)?;
        Ok((build(&args, &config, &environment)?, inert(&args)))
    }

    #[test]
    fn build_arguments_come_from_flags_and_from_the_environment() {
        let check = |words: &str, expected: &[(&str, &str)]| {
            let (options, _) = asked(words, &[("SET", "from env"), ("EMPTY", "")]).expect(words);
            let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(options.input.build_args, expected, "{words}");
        };
        check("--build-arg A=1 .", &[("A", "1")]);
        check("--build-arg A=1 --build-arg A=2 .", &[("A", "2")]);
        check("--build-arg A= --build-arg B=x=y .", &[("A", ""), ("B", "x=y")]);
        check("--build-arg SET --build-arg EMPTY --build-arg UNSET .", &[("EMPTY", ""), ("SET", "from env")]);
        check("--build-arg UNSET=1 --build-arg UNSET .", &[]);
    }

    #[test]
    fn switches_take_an_optional_value() {
        let check = |words: &str, no_cache: bool| {
            assert_eq!(asked(words, &[]).expect(words).0.no_cache, no_cache, "{words}");
        };
        check(".", false);
        check("--no-cache .", true);
        check("--no-cache=true .", true);
        check("--no-cache=false .", false);
        check("--no-cache --no-cache=false .", false);
    }

    #[test]
    fn flags_that_change_nothing_are_named_once() {
        let check = |words: &str, expected: &[&str]| assert_eq!(asked(words, &[]).expect(words).1, expected, "{words}");
        check(".", &[]);
        check("--rm --force-rm --compress --load .", &["--rm", "--force-rm", "--compress"]);
        check("--rm=false --provenance=false --sbom false .", &["--rm"]);
    }

    #[test]
    fn what_is_not_supported_or_contradicts_itself_is_refused() {
        let check = |words: &str, variables: &[(&str, &str)], expected: &str| {
            let failure = asked(words, variables).expect_err(words);
            assert!(failure.problems[0].message.contains(expected), "{words}: {failure:?}");
        };
        check("--provenance=mode=mid .", &[], "`mode=mid` is neither min nor max");
        check("--sbom=true .", &[], "no SBOM is made");
        check("--provenance=true -o type=docker,dest=x .", &[], "cannot hold a provenance");
        check("--push .", &[], "no name to push to");
        check("--pull --offline .", &[], "`--pull` asks the registries, and `--offline` allows no connection");
        check("--push -t a .", &[("RBUILD_OFFLINE", "1")], "`--push` sends to them, and `RBUILD_OFFLINE`");
        check("-f - -", &[], "both the context and the Dockerfile");
        check("--build-context x .", &[], "there is no `=`");
        check("--annotation x .", &[], "there is no `=`");
        check("--timestamp 1 --source-date-epoch 2 .", &[], "two times");
        check("--build-arg =x .", &[], "has no name");
        check("--label =x .", &[], "has no name");
        check(".", &[("DOCKER_DEFAULT_PLATFORM", "linux/amd64,")], "`DOCKER_DEFAULT_PLATFORM`: `` is not a platform");
        let many: Vec<String> = (0..33).map(|i| format!("linux/a{i}")).collect();
        check(&format!("--platform {} .", many.join(",")), &[], "more than 32 platforms");
        let several = "--platform linux/amd64,linux/arm64";
        check(&format!("{several} -o type=docker,dest=x ."), &[], "cannot take images for several platforms");
        check(&format!("{several} -o type=tar,dest=x,platform-split=false ."), &[], "would overwrite each other");
        check("--platform linux .", &[], "is not a platform");
        check("-o - -o type=oci .", &[], "several outputs go to standard output");
        check("--load=dokcer .", &[], "`--load=dokcer`: `dokcer` is none of");
        check("--load .", &[("DOCKER_HOST", "ssh://h")], "`DOCKER_HOST` is `ssh://h`");
        check("-q -o - .", &[], "`--quiet` prints the image id on standard output");
        check("-q --timings - .", &[], "`--timings -` writes to standard output, where something else goes already");
        check("--timings=- -o - .", &[], "`--timings -` writes to standard output, where something else goes already");
    }

    #[test]
    fn platforms_come_in_the_order_of_their_mention_and_once() {
        let native = Platform::native().to_string();
        let check = |words: &str, variable: &str, expected: &[&str], makes_index: bool| {
            let (options, _) = asked(words, &[("DOCKER_DEFAULT_PLATFORM", variable)]).expect(words);
            let found: Vec<_> = options.input.platforms.iter().map(Platform::to_string).collect();
            assert_eq!(
                (found, options.input.makes_index()),
                (expected.iter().map(|&text| text.to_owned()).collect(), makes_index),
                "{words}"
            );
        };
        check(".", "", &[&native], false);
        check(".", "linux/s390x", &["linux/s390x"], false);
        check(".", "linux/s390x, linux/amd64", &["linux/s390x", "linux/amd64"], true);
        check("--platform local .", "linux/s390x", &[&native], false);
        check("--platform linux/arm64 --platform linux/arm .", "linux/s390x", &["linux/arm64", "linux/arm/v7"], true);
        check("--platform linux/riscv64,linux/aarch64,linux/arm64/v8 .", "", &["linux/riscv64", "linux/arm64"], true);
        check("--platform linux/arm64,arm64 .", "", &["linux/arm64"], false);
        check("--platform arm64 --build-arg BUILDKIT_MULTI_PLATFORM=1 .", "", &["linux/arm64"], true);
    }

    #[test]
    fn load_is_one_output_more_unless_there_is_one() {
        let check = |words: &str, expected: &[&str]| {
            let (options, _) = asked(words, &[]).expect(words);
            let outputs = options.outputs.iter().map(|output| match output {
                Output::Load(load) => load.places[0].to_string(),
                _ => "another".to_owned(),
            });
            assert_eq!(outputs.collect::<Vec<_>>(), expected, "{words}");
            assert_eq!(options.tags.len(), 1, "{words}: the local store keeps its name");
        };
        let docker = "unix:///var/run/docker.sock";
        check("-t a --load=false .", &[]);
        check("-t a --load .", &[docker]);
        check("-t a --load=true -o type=docker .", &[docker]);
        check("-t a --load=docker -o out .", &["another", docker]);
        check("-t a -o type=docker,dest=x --load .", &["another", docker]);
        let containerd = "unix:///run/containerd/containerd.sock, namespace k8s.io";
        check("-t a --load -o type=docker,namespace=k8s.io .", &[containerd]);
        check("-t a --load=containerd .", &["unix:///run/containerd/containerd.sock, namespace default"]);
    }

    #[test]
    fn the_later_of_two_contexts_of_one_name_counts() {
        let (options, _) = asked("--build-context a=x --build-context B=y --build-context A=z .", &[]).expect("valid");
        let found: Vec<_> = options.input.contexts.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(found, ["a", "b"]);
        let z = crate::options::context::NamedValue::Tree(crate::options::context::Place::Path("z".into()));
        assert_eq!(options.input.contexts[0].value, z);
    }

    #[test]
    fn stages_without_a_cache_are_listed() {
        let check = |words: &str, expected: &[&str]| {
            assert_eq!(asked(words, &[]).expect(words).0.no_cache_stages, expected, "{words}");
        };
        check(".", &[]);
        check("--no-cache-filter a .", &["a"]);
        check("--no-cache-filter=a,b --no-cache-filter c .", &["a", "b", "c"]);
    }

    #[test]
    fn a_name_given_twice_counts_once() {
        let (options, _) = asked("-t a -t a:latest -t b:1 --label x --label y=1=2 .", &[]).expect("valid");
        let tags: Vec<_> = options.tags.iter().map(oci::model::Reference::familiar).collect();
        assert_eq!(tags, ["a:latest", "b:1"]);
        assert_eq!(options.labels, BTreeMap::from([("x".into(), String::new()), ("y".into(), "1=2".into())]));
    }
}
