//! Gets the rights that builds need, before there are threads: see `executor::isolation`.
//!
//! In: the settings and the verb. Out: a process that goes on with them, or why not and what to do. What a user should
//! know of it is said once, and only where it could matter.

use executor::isolation::{self, IsolationError, Rung, Standing, Wanted};
use executor::rootless::{EnterError, Who};

use super::Hall;
use crate::cli::Verb;
use crate::engine::Failure;
use crate::report;

/// Takes the rung that is wanted.
pub fn enter(hall: &Hall<'_>, verb: &Verb) -> Result<(), Failure> {
    let who = Who::here(hall.environment.variables.get(std::ffi::OsStr::new("PATH")));
    let wanted = hall.config.isolation.value;
    let standing = isolation::take(wanted, &who).map_err(|error| failure(&error))?;
    tracing::debug!(?standing, "isolation");
    let runs = matches!(verb, Verb::Build(_) | Verb::Run(_) | Verb::Import(_));
    if runs && hall.talks() {
        for text in notes(wanted, &standing) {
            report::print(&report::note(&text, hall.style()));
        }
    }
    Ok(())
}

/// What a user should know.
fn notes(wanted: Option<Wanted>, standing: &Standing) -> Vec<String> {
    let mut notes = Vec::new();
    if wanted == Some(Wanted::Auto) && standing.rung != Rung::Full {
        notes.push(format!(
            "`--isolation=auto`: this is `{}`, as `full` needs the rights of root; steps are kept apart the same way, but \
             cannot make device nodes",
            standing.rung
        ));
    }
    if let Some(missing) = standing.entered.as_ref().and_then(|entered| entered.missing.as_ref()) {
        let diagnosis = missing.diagnosis();
        notes.push(format!(
            "everything in the image can only belong to root: {}; what sets other owners fails (`chown`, `USER`, apt's \
             sandbox, images with several owners). {}",
            diagnosis.reason,
            sentence(&diagnosis.fix)
        ));
    }
    notes
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// An error in words.
pub fn failure(error: &IsolationError) -> Failure {
    const ASK: &str = "`rbuild doctor` looks at everything that builds need";
    let failure = Failure::from_error(error);
    match error {
        IsolationError::NotRoot { root: true } => failure.help(format!(
            "in a container, give it that capability (`--cap-add SYS_ADMIN` or `--privileged`), or let rbuild do with less: \
             `--isolation=rootless`, or `auto`; {ASK}"
        )),
        IsolationError::NotRoot { root: false } => {
            failure.help(format!("run it as root, for example with `sudo`, or leave `--isolation` out; {ASK}"))
        }
        IsolationError::Enter(EnterError::Refused { diagnosis, .. }) => {
            failure.help(format!("{}; {ASK}", diagnosis.fix))
        }
        IsolationError::Enter(_) | IsolationError::Capabilities(_) => failure.help(ASK),
    }
}

#[cfg(test)]
mod tests {
    use executor::rootless::{Entered, Missing};

    use super::*;

    #[test]
    fn less_than_everything_is_said_with_what_fails_and_what_to_do() {
        let check = |wanted, missing: Option<Missing>, expected: &[&[&str]]| {
            let entered = Some(Entered { uids: 1, missing });
            let notes = notes(wanted, &Standing { rung: Rung::Rootless, entered });
            assert_eq!(notes.len(), expected.len(), "{notes:?}");
            for (note, words) in notes.iter().zip(expected) {
                assert!(words.iter().all(|word| note.contains(word)), "{note} / {words:?}");
            }
        };
        check(None, None, &[]);
        check(Some(Wanted::Rung(Rung::Rootless)), None, &[]);
        check(Some(Wanted::Auto), None, &[&["this is `rootless`", "device nodes"]]);
        let ranges = Missing::Ranges { user: "alice".into(), file: "/etc/subuid" };
        check(None, Some(ranges), &[&["`/etc/subuid` gives no ids to `alice`", "`chown`", "usermod --add-subuids"]]);
        let program = Missing::Program { name: "newgidmap" };
        check(None, Some(program), &[&["`newgidmap` is not installed", "Install it: `sudo apt-get install uidmap`"]]);
        let failed = Missing::Failed { words: "no".into() };
        check(None, Some(failed), &[&["cannot be mapped: no", "set-uid"]]);
    }
}
