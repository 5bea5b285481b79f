//! `rbuild check`, and `rbuild build --check`: what is found goes to standard output.

use super::Hall;
use crate::cli::{CheckArgs, CheckFormat};
use crate::engine::{self, Checked, Checker, Failure, Mended};
use crate::escape;
use crate::options;
use crate::report::call::{counts, findings, summary};
use crate::report::{self, buildkit, diff, github, sarif};

/// Something was found.
const FOUND: u8 = 1;

/// Checks, and mends if asked.
pub fn check(hall: &Hall<'_>, args: &CheckArgs) -> Result<u8, Failure> {
    let input = options::input::input(&args.input, &hall.config, hall.environment)?;
    let checker = Checker::open(&hall.settings(), &input)?;
    if !args.fix {
        return tell(hall, &checker.check(), args.format);
    }
    match checker.mend()? {
        Ok(mended) => mend(hall, &checker, &mended, args.format),
        Err(checked) => {
            let note = "nothing was mended: the file is not well-formed";
            report::print(&report::note(note, hall.style()));
            tell(hall, &checked, args.format)
        }
    }
}

/// Prints what was found, and returns the exit code that says so.
pub fn tell(hall: &Hall<'_>, checked: &Checked, format: Option<CheckFormat>) -> Result<u8, Failure> {
    let text = match format {
        None | Some(CheckFormat::Text) => findings(checked, hall.stdout_style()) + &summary(checked),
        Some(CheckFormat::Json) => escape::json(&buildkit::result(checked)),
        Some(CheckFormat::Sarif) => escape::json(&sarif::log(checked, &file_of(hall, checked))),
        Some(CheckFormat::Github) => annotations(hall, checked),
    };
    if format.is_none() {
        annotate(hall, checked);
    }
    super::print(&text)?;
    Ok(code(checked))
}

/// Writes the mended file back, and prints what was changed and what is left.
fn mend(hall: &Hall<'_>, checker: &Checker, mended: &Mended, format: Option<CheckFormat>) -> Result<u8, Failure> {
    let left = &mended.left;
    let (old, new) = (&checker.dockerfile, &left.dockerfile);
    let text_wanted = matches!(format, None | Some(CheckFormat::Text));
    let last = closing(mended);
    match &old.path {
        // A filter: the text is the result, and everything else is told beside it.
        None if text_wanted => {
            super::print(&new.text)?;
            report::print(&(findings(left, hall.style()) + &last));
        }
        None => {
            return Err(Failure::new("both the mended text and the findings would go to standard output")
                .help("leave out `--format`, or name the file with `-f FILE`"));
        }
        Some(path) => {
            if mended.count > 0 {
                engine::replace(path, &old.text, &new.text)?;
            }
            let changes = |style| diff::unified(&old.name, &old.text, &new.text, style);
            if !text_wanted {
                report::print(&(changes(hall.style()) + &last));
                return tell(hall, left, format);
            }
            let changes = changes(hall.stdout_style());
            let blank = if changes.is_empty() { "" } else { "\n" };
            super::print(&(changes + blank + &findings(left, hall.stdout_style()) + &last))?;
        }
    }
    if format.is_none() {
        annotate(hall, left);
    }
    Ok(code(left))
}

fn code(checked: &Checked) -> u8 {
    if checked.findings.is_empty() { 0 } else { FOUND }
}

/// `2 mended; left: 1 warning`
fn closing(Mended { count, left }: &Mended) -> String {
    match (count, left.findings.is_empty()) {
        (0, true) => "no findings\n".into(),
        (0, false) => format!("nothing to mend; left: {}\n", counts(left)),
        (count, true) => format!("{count} mended; nothing left\n"),
        (count, false) => format!("{count} mended; left: {}\n", counts(left)),
    }
}

/// In GitHub Actions, whoever reads the log also wants the findings beside the code.
fn annotate(hall: &Hall<'_>, checked: &Checked) {
    if hall.environment.github_actions() {
        let problems: Vec<_> = checked.problems().collect();
        let shown = github::shown(problems.iter().map(|(severity, problem)| ((*severity).into(), problem)));
        report::print(&github::annotations(shown, |path| hall.environment.in_checkout(path)));
    }
}

fn annotations(hall: &Hall<'_>, checked: &Checked) -> String {
    let problems: Vec<_> = checked.problems().collect();
    let problems = problems.iter().map(|(severity, problem)| ((*severity).into(), problem));
    github::annotations(problems, |path| hall.environment.in_checkout(path))
}

/// What a code host calls the Dockerfile.
fn file_of(hall: &Hall<'_>, checked: &Checked) -> String {
    let Some(path) = &checked.dockerfile.path else { return checked.dockerfile.name.clone() };
    hall.environment.in_checkout(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
