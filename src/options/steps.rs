//! From flags to [`StepSettings`]: the same for the RUN steps of a build and for `rbuild run`.

use executor::rootless::Surroundings;
use executor::steps::Dns;
use executor::{StepSettings, emulate, userns};

use super::limits;
use crate::cli::StepArgs;
use crate::config::Config;
use crate::engine::Failure;
use crate::environment::Environment;

/// What steps may do, get and use.
///
/// # Errors
/// With advice, for what has no meaning here.
pub fn steps(args: &StepArgs, config: &Config, environment: &Environment) -> Result<StepSettings, Failure> {
    let limits = limits::limits(&args.limits, &config.limits)?;
    let wanted = args.userns.or(config.userns.mode.as_ref().map(|mode| mode.value));
    let user_namespace = match user_namespaces(wanted, Surroundings::here().user_namespace)? {
        false => None,
        true => {
            let asked = config.userns.ids.as_ref().map(|ids| ids.value);
            let chosen = userns::Machine::read().and_then(|machine| userns::choose(asked, &machine));
            Some(chosen.map_err(|error| Failure::from_error(&error).help(error.help()))?)
        }
    };
    let emulation = emulation(environment)?;
    Ok(StepSettings { dns: dns(args)?, limits, user_namespace, emulation, ..StepSettings::default() })
}

/// How steps of other architectures are to run. A variable alone: it is for trying what other kernels do.
fn emulation(environment: &Environment) -> Result<emulate::Wanted, Failure> {
    let name = "RBUILD_EMULATION";
    let Some(text) = environment.text(name) else { return Ok(emulate::Wanted::Auto) };
    text.parse().map_err(|reason| Failure::new(format!("the variable `{name}`: {reason}")))
}

/// Whether steps get user namespaces of their own. In one, they are in one already, as an ordinary user's are.
fn user_namespaces(wanted: Option<userns::Wanted>, in_one: bool) -> Result<bool, Failure> {
    match wanted {
        Some(userns::Wanted::Host) if in_one => Err(Failure::new(
            "`--userns=host`: rbuild itself is in a user namespace, so its steps cannot have this machine's ids",
        )
        .help("leave it out, or run rbuild as root of the machine, with `--isolation=full`")),
        Some(userns::Wanted::Auto) => Ok(!in_one),
        Some(userns::Wanted::Host) | None => Ok(false),
    }
}

/// What the flags say of `/etc/resolv.conf`. Each word is to be one word of one line there.
fn dns(args: &StepArgs) -> Result<Dns, Failure> {
    for (flag, words) in [("--dns-search", &args.dns_search), ("--dns-option", &args.dns_option)] {
        for word in words {
            if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(Failure::new(format!("`{flag} {}` is not one word", word.escape_debug()))
                    .help(format!("give `{flag}` once per word")));
            }
        }
    }
    Ok(Dns { servers: args.dns.clone(), search: args.dns_search.clone(), options: args.dns_option.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_get_a_user_namespace_unless_they_are_in_one_and_the_machines_ids_only_from_its_root() {
        use userns::Wanted::{Auto, Host};
        for (wanted, in_one, expected) in [
            (None, false, Some(false)),
            (None, true, Some(false)),
            (Some(Host), false, Some(false)),
            (Some(Host), true, None),
            (Some(Auto), false, Some(true)),
            (Some(Auto), true, Some(false)),
        ] {
            assert_eq!(user_namespaces(wanted, in_one).ok(), expected, "{wanted:?} {in_one}");
        }
    }

    #[test]
    fn a_flag_of_dns_cannot_write_a_line_of_its_own() {
        let check = |search: &str, option: &str, expected: Option<&str>| {
            let args = StepArgs {
                dns_search: vec![search.to_owned()],
                dns_option: vec![option.to_owned()],
                ..StepArgs::default()
            };
            let failed = dns(&args).err().map(|failure| failure.problems[0].message.clone());
            assert_eq!(failed.as_deref(), expected, "{search:?} {option:?}");
        };
        check("example.com", "ndots:2", None);
        check(".", "rotate", None);
        check("a b", "rotate", Some("`--dns-search a b` is not one word"));
        check("", "rotate", Some("`--dns-search ` is not one word"));
        check("a", "x\nnameserver 192.0.2.1", Some("`--dns-option x\\nnameserver 192.0.2.1` is not one word"));
    }
}
