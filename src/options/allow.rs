//! `--allow`, and `allow` in `config.toml`: what steps may ask for beyond the default.
//!
//! Nothing that belongs to a build (its Dockerfile, its context, a frontend) is asked: only who builds allows.

use executor::steps::Grants;

use crate::engine::Failure;

/// What can be allowed, for people.
const KNOWN: &str = "`security.insecure`, `network.host`, `device`, `device=NAME` or `secrets.in-layers`";

/// Lets `-o type=local,mode=delete` remove files of the user's. Not about steps.
const LOCAL_DELETE: &str = "buildx.local.delete";

/// Whether outputs may remove files of the user's.
pub fn may_delete(words: &[String]) -> bool {
    words.iter().flat_map(|words| words.split(',')).any(|word| word == LOCAL_DELETE)
}

/// Reads all `--allow` flags that are about steps.
///
/// # Errors
/// For what cannot be allowed, with the list of what can.
pub fn grants(words: &[String]) -> Result<Grants, Failure> {
    let mut grants = Grants::default();
    for word in words.iter().flat_map(|words| words.split(',')).filter(|word| *word != LOCAL_DELETE) {
        if !add(word, &mut grants) {
            let message = format!("`--allow {}`: there is nothing of that name", word.escape_debug());
            return Err(Failure::new(message).help(format!("{KNOWN} can be allowed, and `{LOCAL_DELETE}`")));
        }
    }
    Ok(grants)
}

/// The same words in a config file, each once in its list.
///
/// # Errors
/// Why one of them is none.
pub fn checked(words: Vec<String>) -> Result<Vec<String>, String> {
    match words.iter().find(|word| !add(word, &mut Grants::default())) {
        Some(word) => Err(format!("`{}` cannot be allowed, only {KNOWN}", word.escape_debug())),
        None => Ok(words),
    }
}

/// Grants what one word says; false if it says nothing.
fn add(word: &str, grants: &mut Grants) -> bool {
    match word.split_once('=').map_or((word, None), |(kind, name)| (kind, Some(name))) {
        ("security.insecure", None) => grants.insecure = true,
        ("network.host", None) => grants.host_network = true,
        ("secrets.in-layers", None) => grants.secrets_in_layers = true,
        ("device", None) => grants.devices.push("*".into()),
        ("device", Some(name)) if !name.is_empty() => grants.devices.push(name.to_owned()),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_can_be_allowed() {
        let check = |words: &[&str], expected: Option<Grants>| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(grants(&words).ok(), expected, "{words:?}");
        };
        let none = Grants::default;
        check(&[], Some(none()));
        check(&["security.insecure"], Some(Grants { insecure: true, ..none() }));
        check(&["security.insecure,network.host"], Some(Grants { insecure: true, host_network: true, ..none() }));
        check(&["secrets.in-layers"], Some(Grants { secrets_in_layers: true, ..none() }));
        check(&["buildx.local.delete"], Some(none()));
        assert!(may_delete(&["device,buildx.local.delete".into()]) && !may_delete(&["device".into()]));
        check(&["device"], Some(Grants { devices: vec!["*".into()], ..none() }));
        check(&["device=a/b=c"], Some(Grants { devices: vec!["a/b=c".into()], ..none() }));
        for word in ["", "security", "security.insecur", "network.none", "network.host=1", "device=", "*", "fs.read=/"]
        {
            check(&[word], None);
        }
    }
}
