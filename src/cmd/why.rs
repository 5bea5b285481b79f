//! `rbuild why`: what a build ran, and the part that made it run.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use solver::explain::Fate;
use store::history::{Build, Head, StepRecord};

use super::Hall;
use crate::cli::{Format, WhyArgs};
use crate::engine::Failure;
use crate::engine::history::place;
use crate::engine::why::{self, Against, Answer, Miss, Question, Verdict};
use crate::escape;
use crate::options::{self, InputOptions};
use crate::progress::Mode;

/// So many lines of details are shown beneath a reason.
const DETAILS_MAX: usize = 12;
/// So many steps are named that ran because of another.
const FOLLOWERS_MAX: usize = 6;

/// Prints why.
pub async fn why(hall: &Hall<'_>, args: &WhyArgs) -> Result<u8, Failure> {
    let question = question(hall, args)?;
    let settings = &hall.settings();
    let answer = hall
        .under_display(Mode::Plain, async |progress, _| {
            let store = settings.open_store(&progress)?;
            tokio::task::block_in_place(|| why::answer(&store, &question))
        })
        .await?;
    super::print(&match args.format {
        Format::Json => escape::json(&to_json(&answer)),
        Format::Table => text(&answer, Timestamp::now(), hall.columns()),
    })?;
    Ok(0)
}

fn question(hall: &Hall<'_>, args: &WhyArgs) -> Result<Question, Failure> {
    let is_dir = hall.environment.working_directory.join(&args.context).is_dir();
    let input = InputOptions {
        context: options::context::place(&args.context, is_dir)?,
        dockerfile: options::context::dockerfile(args.file.as_deref()),
        ignorefile: None,
        contexts: Vec::new(),
        target: None,
        build_args: std::collections::BTreeMap::new(),
        platforms: vec![oci::model::Platform::native()],
        policy: crate::engine::Policy::default(),
        own_agent: None,
    };
    let (context, dockerfile) = place(&input);
    Ok(Question {
        context,
        dockerfile: args.file.as_ref().map(|_| dockerfile),
        target: args.target.clone(),
        step: args.step.clone(),
        against: match args.against.as_str() {
            "last" => Against::Last,
            "cache" => Against::Cache,
            image => Against::Image(image.to_owned()),
        },
    })
}

fn text(answer: &Answer, now: Timestamp, columns: Option<usize>) -> String {
    let Answer { build, old, step, verdict } = answer;
    let mut out = String::new();
    let against = match old {
        Some(old) => format!(", compared with {}", called(old, now)),
        None => String::new(),
    };
    line(&mut out, &format!("build {}{against}", called(&build.head, now)));
    match (verdict, step) {
        (Verdict::Cached, None) => {
            let count = build.head.cached;
            line(&mut out, &format!("every step was cached: {count} of {}", build.head.steps));
        }
        (Verdict::Cached, Some(step)) => {
            let step = &build.steps[*step];
            line(&mut out, &titled(step, &format!(" {}", not_run(step)), columns));
        }
        (Verdict::NoRecord, _) => line(&mut out, "no record: first build on this machine"),
        (Verdict::Misses(misses), _) => {
            for miss in misses {
                out.push('\n');
                tell(&mut out, build, miss, step.is_some(), columns);
            }
        }
    }
    out
}

/// One reason, and what it led to.
fn tell(out: &mut String, build: &Build, miss: &Miss, of_one: bool, columns: Option<usize>) {
    let titled = |step: &StepRecord, around: &str| titled(step, around, columns);
    let root = &build.steps[miss.root];
    let others: Vec<&StepRecord> =
        miss.steps.iter().filter(|place| **place != miss.root).map(|place| &build.steps[*place]).collect();
    let root_ran = root.fate.ran();
    match others.as_slice() {
        [only] if of_one => {
            line(out, &titled(only, " ran because of"));
            line(out, &titled(root, ":"));
        }
        _ if root_ran => line(out, &titled(root, " ran because")),
        _ => line(out, &titled(root, ":")),
    }
    for reason in &miss.reasons {
        line(out, &format!("  {}", reason.text));
        for detail in reason.details.iter().take(DETAILS_MAX) {
            line(out, &format!("    {detail}"));
        }
        let more = reason.details.len().saturating_sub(DETAILS_MAX);
        if more > 0 {
            line(out, &format!("    and {more} more"));
        }
    }
    if of_one || others.is_empty() {
        return;
    }
    let steps = if others.len() == 1 {
        "1 step that stands on it".to_owned()
    } else {
        format!("{} steps that stand on it", others.len())
    };
    line(out, &format!("and so did {steps}:"));
    for other in others.iter().take(FOLLOWERS_MAX) {
        line(out, &format!("  {}", titled(other, "")));
    }
    let more = others.len().saturating_sub(FOLLOWERS_MAX);
    if more > 0 {
        line(out, &format!("  and {more} more"));
    }
}

/// One line, whatever it holds.
fn line(out: &mut String, text: &str) {
    writeln!(out, "{}", escape::line(text)).expect("writing to a String cannot fail");
}

/// `k3x9… of /srv/app, 2 min ago`
fn called(head: &Head, now: Timestamp) -> String {
    format!("{} of {}, {}", head.id, head.context, why::ago(now.duration_since(head.begun)))
}

/// `#4 [build 2/5] RUN make (line 12)`, and what follows on that line.
fn titled(step: &StepRecord, then: &str, columns: Option<usize>) -> String {
    let number = step.number.map(|number| format!("#{number} ")).unwrap_or_default();
    let place = step.line.map(|line| format!(" (line {line})")).unwrap_or_default();
    // Room for the indent of those that follow, too.
    let used = number.len() + place.len() + then.len() + 2;
    format!("{number}{}{place}{then}", super::named(&step.name, used, columns))
}

/// Why a step did not run.
fn not_run(step: &StepRecord) -> &'static str {
    use solver::seam::Hit;
    match (step.fate, step.by) {
        (Fate::Cached, Some(Hit::Content)) => "was cached: what it reads is what it once read",
        (Fate::Cached, Some(Hit::Flight)) => "was cached: another build made it meanwhile",
        (Fate::Cached, Some(Hit::Unneeded)) => "was cached: what stands on it was known",
        (Fate::Cached, _) => "was cached",
        (Fate::NotReached, _) => "was not reached",
        _ => "is no step whose result is remembered",
    }
}

fn to_json(answer: &Answer) -> Value {
    let Answer { build, old, step, verdict } = answer;
    let (verdict, misses): (&str, &[Miss]) = match verdict {
        Verdict::Cached => ("cached", &[]),
        Verdict::NoRecord => ("no_record", &[]),
        Verdict::Misses(misses) => ("ran", misses),
    };
    let named = |place: usize| {
        let step = &build.steps[place];
        json!({ "name": step.name, "number": step.number, "line": step.line, "vertex": step.vertex, "result": step.fate })
    };
    let misses: Vec<Value> = misses
        .iter()
        .map(|miss| {
            let reasons: Vec<Value> =
                miss.reasons.iter().map(|told| json!({ "text": told.text, "details": told.details })).collect();
            let steps: Vec<Value> = miss.steps.iter().map(|place| named(*place)).collect();
            json!({ "root": named(miss.root), "reasons": reasons, "steps": steps })
        })
        .collect();
    json!({
        "build": build.head.id,
        "context": build.head.context,
        "against": old.as_ref().map(|old| &old.id),
        "step": step.map(named),
        "verdict": verdict,
        "misses": misses,
    })
}
