//! From flags to [`StepSettings`]: the same for the RUN steps of a build and for `rbuild run`.

use executor::StepSettings;
use executor::steps::Dns;

use super::limits;
use crate::cli::StepArgs;
use crate::config::Config;
use crate::engine::Failure;

/// What steps may do, get and use.
///
/// # Errors
/// With advice, for what has no meaning here.
pub fn steps(args: &StepArgs, config: &Config) -> Result<StepSettings, Failure> {
    let limits = limits::limits(&args.limits, &config.limits)?;
    Ok(StepSettings { dns: dns(args)?, limits, ..StepSettings::default() })
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
