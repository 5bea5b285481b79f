//! What a Dockerfile was asked, for people: `check`, `outline` and `targets`, as tables and texts.
//!
//! The command line prints them; the daemon sends them to its clients beside the same as JSON.

use std::fmt::Write as _;

use frontend::call::{Outline, Targets};

use super::{Reporter, Severity, Style, table};
use crate::engine::Checked;
use crate::escape;

/// All findings for people, then what is in doubt, each followed by an empty line.
pub fn findings(checked: &Checked, style: Style) -> String {
    let mut reporter = Reporter::new(style);
    let problems = checked.problems().map(|(severity, problem)| (Some(severity.into()), problem));
    let all = problems.chain(checked.doubts().map(|problem| (None, problem)));
    all.map(|(severity, problem)| match severity {
        Some(severity) => reporter.problem(severity, &problem) + "\n",
        None => reporter.note(&problem) + "\n",
    })
    .collect()
}

/// `3 warnings, 1 error; 2 can be mended with --fix`
pub fn summary(checked: &Checked) -> String {
    if checked.findings.is_empty() {
        return "no findings\n".into();
    }
    let mendable = checked.findings.iter().filter(|found| !found.fix.is_empty()).count();
    let mendable = if mendable == 0 { String::new() } else { format!("; {mendable} can be mended with --fix") };
    format!("{}{mendable}\n", counts(checked))
}

/// `3 warnings, 1 error`
pub fn counts(checked: &Checked) -> String {
    let count = |wanted: Severity, one: &str| {
        let number = checked.findings.iter().filter(|found| Severity::from(checked.severity(found)) == wanted).count();
        match number {
            0 => None,
            1 => Some(format!("1 {one}")),
            number => Some(format!("{number} {one}s")),
        }
    };
    let counts = [count(Severity::Warning, "warning"), count(Severity::Error, "error")];
    counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The target, then a table for each kind of what it takes.
pub fn outline(outline: &Outline) -> String {
    let shown = |text: &str| escape::line(text).into_owned();
    let mut parts = Vec::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)".to_owned() } else { shown(&outline.name) };
        let mut part = format!("TARGET:       {name}\n");
        if !outline.description.is_empty() {
            writeln!(part, "DESCRIPTION:  {}", shown(&outline.description)).expect("writing to a String cannot fail");
        }
        parts.push(part);
    }
    if !outline.args.is_empty() {
        let rows = outline.args.iter().map(|arg| [shown(&arg.name), shown(&arg.value), shown(&arg.description)]);
        parts.push(table::render(["BUILD ARG", "VALUE", "DESCRIPTION"], rows));
    }
    for (heading, taken) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !taken.is_empty() {
            let required = |required: bool| if required { "true".to_owned() } else { String::new() };
            let rows = taken.iter().map(|secret| [shown(&secret.name), required(secret.required)]);
            parts.push(table::render([heading, "REQUIRED"], rows));
        }
    }
    if !outline.cache.is_empty() {
        parts.push(table::render(["CACHE MOUNT"], outline.cache.iter().map(|cache| [shown(&cache.id)])));
    }
    if parts.is_empty() { "the target takes nothing from outside\n".into() } else { parts.join("\n") }
}

/// One line a stage; one without a name goes by its number, as `--target` takes it.
pub fn targets(targets: &Targets) -> String {
    let rows = targets.targets.iter().enumerate().map(|(number, target)| {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            ("", false) => number.to_string(),
            (name, true) => format!("{} (default)", escape::line(name)),
            (name, false) => escape::line(name).into_owned(),
        };
        [name, escape::line(&target.description).into_owned()]
    });
    table::render(["TARGET", "DESCRIPTION"], rows)
}

#[cfg(test)]
mod tests {
    use frontend::{Answers, PlanOptions};

    #[test]
    fn an_outline_lists_what_the_target_takes() {
        let check = |text: &str| {
            let outline = frontend::call::outline(text, &PlanOptions::default(), &Answers::new());
            super::outline(&outline.expect("the text is well-formed"))
        };
        insta::assert_snapshot!(check(
            "# VERSION what is built\nARG VERSION=1.0\nFROM scratch AS base\n# app the application\nFROM base AS app\n\
             ARG VERSION\n# MODE how it is built\nARG MODE=\"a\x1bb\"\nARG EMPTY\n"
        ), @r"
        TARGET:       app
        DESCRIPTION:  the application

        BUILD ARG   VALUE    DESCRIPTION
        VERSION     1.0      what is built
        MODE        a\x1bb   how it is built
        EMPTY
        ");
        assert_eq!(check("FROM scratch\n"), "the target takes nothing from outside\n");
    }

    #[test]
    fn targets_are_listed_with_the_default_one() {
        let check = |text: &str| {
            let targets = frontend::call::targets(text, &PlanOptions::default());
            super::targets(&targets.expect("the text is well-formed"))
        };
        insta::assert_snapshot!(check(
            "# build makes it\nFROM scratch AS build\nFROM scratch\nFROM scratch AS app\n"
        ), @"
        TARGET          DESCRIPTION
        build           makes it
        1
        app (default)
        ");
        assert_eq!(check("FROM scratch\n"), "TARGET      DESCRIPTION\n(default)\n");
    }
}
