//! What the golden Dockerfiles (`testdata/dockerfiles/`) are planned with: their images, and their `options`.
//!
//! Also included by tests of the root package, which make definitions of the same plans.

use oci::model::{Config, DiffId, Digest, History, ImageConfig, RootFs};

use super::rbuild_frontend::{ImageAnswer, ImageQuestion, NamedContext, PlanOptions};

/// More rounds than any case needs: each answers everything that was asked.
pub const ROUNDS_MAX: usize = 5;

/// The images of these tests, by repository name.
pub fn image(question: &ImageQuestion) -> ImageAnswer {
    let name = question.reference.familiar();
    let repository = name.split([':', '@']).next().unwrap_or_default().to_owned();
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let mut config = Config { env: lines(&["PATH=/usr/local/bin:/usr/bin:/bin"]), ..Config::default() };
    let mut layers = 1;
    match repository.as_str() {
        "debian" => config.cmd = Some(lines(&["bash"])),
        "empty" => layers = 0,
        "bare" => config.env = Vec::new(),
        "trigger" => config.on_build = lines(&["COPY . /app", "RUN make $X"]),
        "trigger-arg" => config.on_build = lines(&["ARG VERSION=1", "RUN echo $VERSION", "WORKDIR sub"]),
        "trigger-from" => config.on_build = lines(&["COPY --from=tools /t /t", "COPY --from=other/image /o /o"]),
        "trigger-file" => config.on_build = lines(&["COPY <<a.txt /a\nhello $PATH\na.txt"]),
        "trigger-bad" => config.on_build = lines(&["RNU make"]),
        "trigger-two" => config.on_build = lines(&["RUN a\nRUN b"]),
        "trigger-user" => config.on_build = lines(&["FROM x"]),
        "configured" => {
            config.user = "1000".into();
            config.working_dir = "/srv".into();
            config.entrypoint = Some(lines(&["/entry"]));
            config.cmd = Some(lines(&["serve"]));
            config.labels.insert("vendor".into(), "them".into());
            config.env.push("MODE=production".into());
            config.shell = lines(&["/bin/bash", "-c"]);
            config.exposed_ports.insert("80/tcp".into(), serde_json::json!({}));
        }
        _ => {}
    }
    let config = ImageConfig {
        architecture: match repository.as_str() {
            "wrong-platform" => "s390x".into(),
            _ => question.platform.architecture.clone(),
        },
        variant: question.platform.variant.clone(),
        os: question.platform.os.clone(),
        created: Some("2024-01-01T00:00:00Z".into()),
        config,
        rootfs: RootFs {
            diff_ids: (0..layers).map(|n| DiffId(Digest::of(format!("{name} {n}").as_bytes()))).collect(),
            ..RootFs::default()
        },
        history: (0..layers).map(|_| History { created_by: "base".into(), ..History::default() }).collect(),
        ..ImageConfig::default()
    };
    ImageAnswer { name: None, digest: Digest::of(question.reference.to_string().as_bytes()), config }
}

/// `image:NAME`, `scratch`, `layout:NAME`, `tree` or `tree:PATTERN,…`.
fn context(kind: &str) -> NamedContext {
    let (kind, value) = kind.split_once(':').unwrap_or((kind, ""));
    match kind {
        "image" => NamedContext::Image(value.parse().unwrap()),
        "scratch" => NamedContext::Scratch,
        "layout" => NamedContext::Layout(value.parse().unwrap()),
        "tree" => NamedContext::Tree {
            ignore_patterns: value.split(',').filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect(),
        },
        _ => panic!("unknown kind of context `{kind}`"),
    }
}

/// One option a line: a name, a blank, a value.
pub fn options(text: &str) -> PlanOptions {
    let mut options = PlanOptions {
        platform: "linux/amd64".parse().unwrap(),
        build_platform: "linux/amd64".parse().unwrap(),
        ..PlanOptions::default()
    };
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || value.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("name=value");
        match name {
            "target" => options.target = Some(value.into()),
            "build-arg" => options.build_args.extend([pair()]),
            "label" => options.labels.extend([pair()]),
            "platform" => options.platform = value.parse().unwrap(),
            "build-platform" => options.build_platform = value.parse().unwrap(),
            "no-cache" => options.no_cache = true,
            "network" if value == "host" => options.network = Some(solver::op::NetworkMode::Host),
            "network" if value == "none" => options.network = Some(solver::op::NetworkMode::None),
            "ignore" => options.ignore_patterns.push(value.into()),
            "context" => {
                let (key, kind) = pair();
                options.contexts.insert(key, context(&kind));
            }
            "context-time" => {
                let (key, time) = pair();
                options.context_times.insert(key, time.parse().unwrap());
            }
            _ => panic!("unknown option `{line}`"),
        }
    }
    options
}
