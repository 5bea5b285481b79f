//! `rbuild plan`: what a build would run.

use std::fmt::Write as _;

use serde_json::{Value, json};
use solver::explain::Fate;
use solver::foresee::Outlook;

use super::Hall;
use crate::cli::{Format, PlanArgs};
use crate::engine::Failure;
use crate::engine::foresee::{Foreseen, plan_build};
use crate::escape;
use crate::options;

/// Prints what a build would run.
pub async fn plan(hall: &Hall<'_>, args: &PlanArgs) -> Result<u8, Failure> {
    let options = options::build::build(&args.build, &hall.config, hall.environment)?;
    let (settings, options) = (&hall.settings(), &options);
    let foreseen = hall
        .under_display(hall.mode()?, async |progress, cancel| plan_build(settings, options, progress, cancel).await)
        .await?;
    super::print(&match args.format {
        Format::Json => escape::json(&to_json(&foreseen)),
        Format::Table => text(&foreseen, hall.columns()),
    })?;
    Ok(0)
}

/// Before what is told of a step: as wide as the column of words.
const INDENT: &str = "        ";

/// What would become of a step, in a word for programs.
fn outlook(foreseen: &Foreseen, place: usize) -> &'static str {
    match (foreseen.outlooks.get(&place), foreseen.build.steps[place].fate) {
        (Some(Outlook::Runs), _) => "runs",
        (Some(Outlook::RunsUnlessSame), _) => "runs_unless_same",
        (None, Fate::Cached) => "cached",
        (None, _) => "not_needed",
    }
}

fn operations(foreseen: &Foreseen) -> impl Iterator<Item = usize> {
    (0..foreseen.build.steps.len()).filter(|place| foreseen.build.steps[*place].is_operation())
}

fn text(foreseen: &Foreseen, columns: Option<usize>) -> String {
    let mut out = String::new();
    let mut line = |text: &str| writeln!(out, "{}", escape::line(text)).expect("writing to a String cannot fail");
    let (mut cached, mut runs, mut unsure) = (0, 0, 0);
    for place in operations(foreseen) {
        let step = &foreseen.build.steps[place];
        let (count, word, unless) = match outlook(foreseen, place) {
            "cached" => (&mut cached, "cached", false),
            "runs" => (&mut runs, "runs", false),
            "runs_unless_same" => (&mut unsure, "runs", true),
            _ => continue,
        };
        *count += 1;
        line(&format!("{word:<8}{}", super::named(&step.name, INDENT.len(), columns)));
        // A source that moved is told at the first step that stands on it.
        let because = foreseen.misses.iter().find(|miss| miss.steps.first() == Some(&place));
        if let Some(miss) = because {
            let root = &foreseen.build.steps[miss.root];
            let at = if miss.root == place { String::new() } else { format!(" {}:", root.name) };
            for told in &miss.reasons {
                line(&format!("{INDENT}because{at} {}", told.text));
            }
        }
        if unless {
            line(&format!("{INDENT}unless what it stands on comes out the same"));
        }
    }
    if foreseen.old.is_none() && runs > 0 {
        line("no record: first build of this folder on this machine");
    }
    let unsure = if unsure == 0 { String::new() } else { format!(", {unsure} unless what is beneath stays the same") };
    line(&format!("{} steps: {cached} cached, {runs} would run{unsure}", operations(foreseen).count()));
    out
}

fn to_json(foreseen: &Foreseen) -> Value {
    let steps = operations(foreseen).map(|place| {
        let step = &foreseen.build.steps[place];
        let because = foreseen.misses.iter().find(|miss| miss.steps.contains(&place));
        let reasons: Vec<&str> = because.iter().flat_map(|miss| &miss.reasons).map(|told| told.text.as_str()).collect();
        json!({
            "name": step.name,
            "line": step.line,
            "vertex": step.vertex,
            "key": step.key,
            "outlook": outlook(foreseen, place),
            "because_of": because.map(|miss| &foreseen.build.steps[miss.root].name),
            "reasons": reasons,
        })
    });
    json!({
        "context": foreseen.build.head.context,
        "against": foreseen.old.as_ref().map(|old| &old.id),
        "steps": steps.collect::<Vec<_>>(),
    })
}
