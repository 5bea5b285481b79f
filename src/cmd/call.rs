//! `rbuild build --call=…`: what a Dockerfile can be asked, as `docker build --call=…` prints it.

use std::fmt::Write as _;

use frontend::call::{Outline, Targets};

use super::{Hall, check, table};
use crate::cli::{Call, InputArgs};
use crate::engine::{Checker, Failure};
use crate::escape;
use crate::options;

/// Answers instead of building.
pub fn call(hall: &Hall<'_>, args: &InputArgs, call: Call) -> Result<u8, Failure> {
    let input = options::input::input(args, &hall.config, hall.environment)?;
    let checker = Checker::open(&hall.settings(), &input)?;
    match call {
        Call::Build => unreachable!("`build` does that"),
        Call::Check { format, ignore_status } => {
            let code = check::tell(hall, &checker.check(), format)?;
            return Ok(if ignore_status { 0 } else { code });
        }
        Call::Outline { json } => {
            let outline = checker.outline()?;
            super::print(&if json { escape::json(&outline) } else { outline_text(&outline) })?;
        }
        Call::Targets { json } => {
            let targets = checker.targets()?;
            super::print(&if json { escape::json(&targets) } else { targets_text(&targets) })?;
        }
    }
    Ok(0)
}

/// The target, then a table for each kind of what it takes.
fn outline_text(outline: &Outline) -> String {
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
fn targets_text(targets: &Targets) -> String {
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

    use super::*;

    #[test]
    fn an_outline_lists_what_the_target_takes() {
        let check = |text: &str| {
            let outline = frontend::call::outline(text, &PlanOptions::default(), &Answers::new());
            outline_text(&outline.expect("the text is well-formed"))
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
            targets_text(&targets.expect("the text is well-formed"))
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
