//! Every case under `testdata/dockerfiles/`: its `Dockerfile` (and `options`) against `ast.txt` and `plan.txt` or
//! `errors.txt`.
//!
//! `RBUILD_UPDATE_GOLDEN=1 cargo nextest run -p rbuild-frontend golden` writes what is found; a human reads the diff.

use std::path::{Path, PathBuf};

use oci::model::{Config, DiffId, Digest, History, ImageConfig, RootFs};
use rbuild_frontend::{
    self as frontend, Answers, ImageAnswer, ImageQuestion, NamedContext, Plan, PlanOptions, Planned,
};

/// More rounds than any case needs: each answers everything that was asked.
const ROUNDS_MAX: usize = 5;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfiles")
}

/// The images of these tests, by repository name.
fn image(question: &ImageQuestion) -> ImageAnswer {
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
    ImageAnswer { digest: Digest::of(question.reference.to_string().as_bytes()), config }
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
fn options(text: &str) -> PlanOptions {
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

fn solve(text: &str, options: &PlanOptions) -> (Vec<String>, Result<Box<Plan>, String>) {
    let mut answers = Answers::new();
    let mut asked = Vec::new();
    for _ in 0..ROUNDS_MAX {
        match frontend::plan(text, options, &answers) {
            Err(found) => return (asked, Err(frontend::debug::diagnostics(text, &found))),
            Ok(Planned::Plan(plan)) => return (asked, Ok(plan)),
            Ok(Planned::Need(questions)) => {
                assert!(!questions.is_empty(), "nothing is asked");
                for question in questions {
                    let help = question.help.map(|help| format!(" ({help})")).unwrap_or_default();
                    let place = question.span.map_or("", |span| &text[span]);
                    let (name, platform) = (&question.question.reference, &question.question.platform);
                    let layout = question.question.layout.as_ref().map(|l| format!(" in layout {l}"));
                    let layout = layout.unwrap_or_default();
                    asked.push(format!("asked {name} for {platform}{layout} at {place:?}{help}\n"));
                    let answer = image(&question.question);
                    assert!(answers.insert(question.question, answer).is_none(), "asked twice");
                }
            }
        }
    }
    panic!("{ROUNDS_MAX} rounds are not enough");
}

/// Compares a file, or writes it.
fn compare(path: &Path, found: Option<&str>, differing: &mut Vec<String>) {
    let known = std::fs::read_to_string(path).ok();
    if known.as_deref() == found {
        return;
    }
    if std::env::var_os("RBUILD_UPDATE_GOLDEN").is_some() {
        match found {
            Some(text) => std::fs::write(path, text).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        return;
    }
    let name = path.strip_prefix(cases()).unwrap().display();
    let found = found.unwrap_or("(nothing)\n");
    differing.push(format!("--- {name}, expected\n{}--- found\n{found}", known.as_deref().unwrap_or("(no file)\n")));
}

#[test]
fn golden_cases_have_their_ast_and_plan() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut differing = Vec::new();
    let (mut plans, mut errors) = (0, 0);
    for case in &names {
        let text = std::fs::read_to_string(case.join("Dockerfile")).expect("every case has a Dockerfile");
        let options = options(&std::fs::read_to_string(case.join("options")).unwrap_or_default());
        let (ast, _) = frontend::parse::parse(&text);
        compare(&case.join("ast.txt"), Some(&frontend::debug::ast(&ast)), &mut differing);
        let (asked, result) = solve(&text, &options);
        let asked = asked.concat();
        let (plan, error) = match result {
            Ok(plan) => {
                plans += 1;
                let warnings = frontend::debug::diagnostics(&text, &plan.warnings);
                (Some(format!("{asked}{}{warnings}", frontend::debug::plan(&plan))), None)
            }
            Err(found) => {
                errors += 1;
                (None, Some(format!("{asked}{found}")))
            }
        };
        compare(&case.join("plan.txt"), plan.as_deref(), &mut differing);
        compare(&case.join("errors.txt"), error.as_deref(), &mut differing);
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(plans >= 40 && errors >= 40, "{plans} plans and {errors} errors: some cases are gone");
}

#[test]
fn a_plan_is_the_same_every_time() {
    let text = "FROM debian:12 AS a\nRUN x\nFROM debian:12\nCOPY --from=a /x /y\nENV A=1 B=2\n";
    let show = || frontend::debug::plan(&solve(text, &options("")).1.unwrap());
    assert_eq!(show(), show());
}
