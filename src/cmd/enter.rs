//! Gets the rights that builds need, before there are threads: see `executor::isolation`.
//!
//! In: the settings and the verb. Out: a process that goes on with them, or why not and what to do. What a user should
//! know of it is said once, and only where it could matter.

use executor::chroot;
use executor::isolation::{self, IsolationError, Rung, Standing, Wanted};
use executor::rootless::{EnterError, Who};

use super::Hall;
use crate::cli::Verb;
use crate::engine::Failure;
use crate::report;

/// Takes the rung that is wanted.
pub fn enter(hall: &Hall<'_>, verb: &Verb) -> Result<Standing, Failure> {
    let who = Who::here(hall.environment.variables.get(std::ffi::OsStr::new("PATH")));
    let wanted = hall.config.isolation.value;
    let store = &hall.config.root.value;
    let standing = isolation::take(wanted, &who, store).map_err(|error| failure(&error))?;
    tracing::debug!(?standing, "isolation");
    let runs = matches!(verb, Verb::Build(_) | Verb::VerifyBuild(_) | Verb::Run(_) | Verb::Import(_) | Verb::Serve(_));
    if runs && hall.talks() {
        for text in notes(wanted, &standing) {
            report::print(&report::note(&text, hall.style()));
        }
        if standing.rung == Rung::Chroot
            && matches!(verb, Verb::Build(_) | Verb::VerifyBuild(_) | Verb::Run(_) | Verb::Serve(_))
        {
            let devices = chroot::try_devices(store).err().map(|error| error.to_string());
            report::print(&report::note(&bare(wanted, &standing, devices.as_deref()), hall.style()));
        }
    }
    Ok(standing)
}

/// What `chroot` is, in one line.
fn bare(wanted: Option<Wanted>, standing: &Standing, no_devices: Option<&str>) -> String {
    let mut text = match wanted {
        Some(Wanted::Auto) => format!("`--isolation=auto`: this is `chroot`{}", missing_above(standing)),
        _ => "`--isolation=chroot`".to_owned(),
    };
    text += ": steps are not kept apart from this container: they see its network and processes and can leave their \
             directory; without namespaces, mounts, /proc, /sys and a filter of system calls, and one at a time";
    if let Some(why) = no_devices {
        text += &format!("; without devices ({why}): their /dev/null is an empty file");
    }
    text
}

/// What `auto` passed over.
fn missing_above(standing: &Standing) -> String {
    let each = standing.passed_over.iter().map(|(rung, why)| format!("`{rung}` cannot be had: {}", why.reason));
    let all = each.collect::<Vec<_>>().join("; ");
    if all.is_empty() { all } else { format!(" ({all})") }
}

/// What a user should know.
fn notes(wanted: Option<Wanted>, standing: &Standing) -> Vec<String> {
    let mut notes = Vec::new();
    if wanted == Some(Wanted::Auto) && standing.rung == Rung::Rootless {
        notes.push(format!(
            "`--isolation=auto`: this is `rootless`{}; steps are kept apart the same way, but cannot make device nodes",
            missing_above(standing)
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
             `--isolation=rootless`, `chroot`, or `auto`; {ASK}"
        )),
        IsolationError::BelowChroot { lack } => failure.help(format!("{}; {ASK}", lack.fix)),
        IsolationError::Nothing { tried } => {
            let failure = tried.iter().fold(failure, |failure, (rung, why)| failure.note(format!("{rung}: {}", why.reason)));
            // What stands lowest is the least that has to be given, but for who could have namespaces.
            let fixes = tried.iter().skip(1).map(|(rung, why)| format!("{rung}: {}", why.fix));
            failure.help(format!("{}\n{ASK}", fixes.collect::<Vec<_>>().join("\n")))
        }
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
            let notes = notes(wanted, &Standing { rung: Rung::Rootless, entered, ..Standing::default() });
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
