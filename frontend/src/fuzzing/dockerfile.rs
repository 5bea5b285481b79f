//! Targets that read a whole Dockerfile.

use std::collections::BTreeMap;

use oci::model::{Config, DiffId, Digest, ImageConfig, RootFs};

use super::bounded;
use crate::ast::Statement;
use crate::call;
use crate::{Answers, Asked, Diagnostic, ImageAnswer, Plan, PlanOptions, Planned, Severity, debug, parse};

/// More rounds of questions than any file needs.
const ROUNDS_MAX: usize = 20;
/// How often a file is mended before nothing is left to mend.
const FIXES_MAX: usize = 10;
/// Steps that reading takes per byte, at most.
const READ_STEPS: u64 = 100;
/// Steps that planning takes beside reading: what the budget of a file allows, a few times over.
const PLAN_STEPS: u64 = 64 << 20;

/// Lines, statements, and where they stand.
pub fn lexer(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    bounded(READ_STEPS * (text.len() as u64 + 10), || {
        let (ast, found) = parse::parse(text);
        inside(text, &found);
        for statement in &ast.statements {
            places(text, statement);
        }
        std::hint::black_box(crate::read(text));
    });
    std::hint::black_box(debug::ast(&parse::parse(text).0));
}

/// Every word is what stands at its place, unless it is continued on the next line.
fn places(text: &str, statement: &Statement) {
    let fields = statement.fields();
    for word in fields.iter().chain([&statement.keyword_word]) {
        let place = &text[word.span.range()];
        assert!(place == word.text || place.contains('\n'), "{place:?} {:?}", word.text);
    }
    for flag in &statement.flags {
        assert!(text[flag.span.range()].starts_with('-'), "{flag:?}");
        assert!(text.get(flag.name.span.range()).is_some(), "{flag:?}");
        assert!(flag.value.as_ref().is_none_or(|value| text.get(value.span.range()).is_some()), "{flag:?}");
        assert!(flag.value_map.iter().all(|at| *at <= text.len()), "{flag:?}");
    }
    for heredoc in &statement.heredocs {
        assert_eq!(&text[heredoc.body.span.range()], heredoc.body.text);
    }
    if let Some(trigger) = &statement.trigger {
        places(text, trigger);
    }
}

/// Findings have words, and places inside the text.
fn inside(text: &str, found: &[Diagnostic]) {
    for diagnostic in found {
        let place = diagnostic.span.clone();
        assert!(place.is_none_or(|span| text.get(span).is_some()), "{diagnostic:?}");
        assert!(!diagnostic.message.is_empty() && !diagnostic.message.ends_with('.'), "{diagnostic:?}");
        for edit in &diagnostic.fix {
            assert!(text.get(edit.span.0..edit.span.1).is_some(), "{diagnostic:?}");
        }
    }
}

fn in_order(found: &[Diagnostic]) -> bool {
    found.iter().map(|finding| finding.span.as_ref().map_or(usize::MAX, |span| span.start)).is_sorted()
}

fn options() -> PlanOptions {
    PlanOptions {
        build_args: BTreeMap::from([("X".to_owned(), "debian:12".to_owned())]),
        platform: "linux/amd64".parse().expect("a platform"),
        build_platform: "linux/arm64".parse().expect("a platform"),
        ..PlanOptions::default()
    }
}

/// Every image is the same small one, with that trigger.
fn answer(asked: Vec<Asked>, trigger: Option<&str>, answers: &mut Answers) {
    assert!(!asked.is_empty(), "nothing is asked");
    for asked in asked {
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: Config { on_build: trigger.map(str::to_owned).into_iter().collect(), ..Config::default() },
            rootfs: RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() },
            ..ImageConfig::default()
        };
        let answer = ImageAnswer { name: None, digest: Digest::of(b"image"), config };
        assert!(answers.insert(asked.question, answer).is_none(), "asked twice");
    }
}

fn whole_plan(text: &str, trigger: Option<&str>) -> Result<Box<Plan>, Vec<Diagnostic>> {
    let mut answers = Answers::new();
    for _ in 0..ROUNDS_MAX {
        match crate::plan(text, &options(), &answers)? {
            Planned::Plan(plan) => return Ok(plan),
            Planned::Need(asked) => {
                assert!(asked.iter().all(|asked| asked.span.clone().is_some_and(|span| text.get(span).is_some())));
                answer(asked, trigger, &mut answers);
            }
        }
    }
    panic!("planning does not end");
}

/// The file up to the first zero byte, planned to the end; what follows that byte is the trigger of every image.
pub fn plan(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let (text, trigger) = text.split_once('\0').map_or((text, None), |(text, trigger)| (text, Some(trigger)));
    let length = (text.len() + trigger.map_or(0, str::len)) as u64 + 10;
    bounded(ROUNDS_MAX as u64 * READ_STEPS * length + PLAN_STEPS, || match whole_plan(text, trigger) {
        Err(found) => {
            inside(text, &found);
            assert!(in_order(&found) && found.iter().any(|fault| fault.severity == Severity::Error), "{found:?}");
        }
        Ok(plan) => {
            inside(text, &plan.warnings);
            assert!(in_order(&plan.warnings) && plan.warnings.iter().all(|fault| fault.severity == Severity::Warning));
            assert!(plan.spans.values().all(|span| text.get(span.clone()).is_some()));
            let mut layers = plan.output.history.iter().filter_map(|step| step.edge);
            assert!(layers.all(|edge| plan.graph.get(&edge.vertex).is_some()));
            std::hint::black_box(debug::plan(&plan));
        }
    });
}

/// An image config without what may be mended: commands lose their shell, and triggers are kept as text.
fn comparable(config: ImageConfig) -> ImageConfig {
    let plain = Config { cmd: None, entrypoint: None, on_build: Vec::new(), ..config.config };
    ImageConfig { config: plain, ..config }
}

/// Findings, and their fixes: mending ends, brings no error, and changes nothing that is built.
pub fn check(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let checked = |text: &str| {
        let checked = call::check(text, &options(), &Answers::new());
        inside(text, &checked.findings);
        assert!(in_order(&checked.findings));
        checked.findings
    };
    let errors = |found: &[Diagnostic]| found.iter().filter(|fault| fault.severity == Severity::Error).count();
    let mut findings = checked(text);
    let mut fixed = text.to_owned();
    let before = (findings.iter().any(|finding| !finding.fix.is_empty())).then(|| whole_plan(text, None).ok());
    for round in 0.. {
        let (next, mended) = call::fix(&fixed, &findings);
        assert_eq!(mended == 0, next == fixed, "{fixed:?}");
        if mended == 0 {
            break;
        }
        assert!(round < FIXES_MAX, "mending does not end: {text:?} {fixed:?} {next:?}");
        let after = checked(&next);
        assert!(errors(&after) <= errors(&findings), "{fixed:?} {next:?} {after:?}");
        (fixed, findings) = (next, after);
    }
    if let Some(Some(before)) = before {
        let after = whole_plan(&fixed, None).unwrap_or_else(|found| panic!("{text:?} {fixed:?} {found:?}"));
        assert_eq!(before.output.edge, after.output.edge, "{text:?} {fixed:?}");
        assert_eq!(comparable(before.output.config), comparable(after.output.config), "{text:?} {fixed:?}");
    }
}
