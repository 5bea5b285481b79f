//! `rbuild doctor`: whether this machine has what builds need.

use executor::rootless::Who;

use super::{Hall, enter};
use crate::cli::{DoctorArgs, Format};
use crate::engine::Failure;
use crate::engine::doctor::{Patient, Report, State, examine};
use crate::escape;

/// Prints every check; 1 when builds cannot run.
pub fn doctor(hall: &Hall<'_>, args: &DoctorArgs) -> Result<u8, Failure> {
    let patient = Patient {
        root: hall.config.root.value.clone(),
        isolation: hall.config.isolation.value,
        network: hall.network(),
        who: Who::here(hall.environment.variables.get(std::ffi::OsStr::new("PATH"))),
        userns: (
            hall.config.userns.mode.as_ref().map(|mode| mode.value),
            hall.config.userns.ids.as_ref().map(|ids| ids.value),
        ),
    };
    let fix = |error: &_| {
        let failure = enter::failure(error);
        failure.problems.into_iter().find_map(|problem| problem.help).unwrap_or_default()
    };
    let report = examine(&patient, fix);
    super::print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&report).expect("a report is always JSON") + "\n",
        Format::Table => text(&report),
    })?;
    Ok(u8::from(!report.can_build))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        text += &format!("{state:<7}  {:<width$}  {}\n", check.name, escape::line(&check.found));
        if let Some(fix) = &check.fix {
            text += &format!("{:<7}  {:<width$}  help: {}\n", "", "", escape::line(fix));
        }
    }
    text + if report.can_build { "Builds can run here\n" } else { "Builds cannot run here\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::doctor::Check;

    #[test]
    fn checks_are_a_table_with_what_to_do_beneath() {
        let check = |name, state, found: &str, fix: Option<&str>| Check {
            name,
            state,
            found: found.into(),
            fix: fix.map(str::to_owned),
        };
        let checks = vec![
            check("kernel", State::Ok, "Linux 6", None),
            check("user namespaces", State::Problem, "none\u{1b}", Some("`sudo sysctl a=1`")),
        ];
        insta::assert_snapshot!(text(&Report { can_build: false, checks }), @r"
        ok       kernel           Linux 6
        problem  user namespaces  none\x1b
                                  help: `sudo sysctl a=1`
        Builds cannot run here
        ");
    }
}
