//! `--allow`: what steps may ask for beyond the default.

use executor::steps::Grants;

use crate::engine::Failure;

/// Reads all `--allow` flags.
///
/// # Errors
/// For what cannot be allowed, with the list of what can.
pub fn grants(words: &[String]) -> Result<Grants, Failure> {
    let mut grants = Grants::default();
    for word in words.iter().flat_map(|words| words.split(',')) {
        match word.split_once('=').map_or((word, None), |(kind, name)| (kind, Some(name))) {
            ("security.insecure", None) => grants.insecure = true,
            ("network.host", None) => grants.host_network = true,
            ("secrets.in-layers", None) => grants.secrets_in_layers = true,
            ("device", None) => grants.devices.push("*".into()),
            ("device", Some(name)) if !name.is_empty() => grants.devices.push(name.to_owned()),
            _ => {
                return Err(Failure::new(format!("`--allow {}`: there is nothing of that name", word.escape_debug()))
                    .help("`security.insecure`, `network.host`, `device`, `device=NAME` or `secrets.in-layers` can be allowed"));
            }
        }
    }
    Ok(grants)
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
        check(&["device"], Some(Grants { devices: vec!["*".into()], ..none() }));
        check(&["device=a/b=c"], Some(Grants { devices: vec!["a/b=c".into()], ..none() }));
        for word in ["", "security", "security.insecur", "network.none", "network.host=1", "device=", "*", "fs.read=/"]
        {
            check(&[word], None);
        }
    }
}
