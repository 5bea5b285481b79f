//! `registries.conf`, version 2, as podman, buildah and skopeo read it: containers-registries.conf(5).
//!
//! ```toml
//! [[registry]]
//! prefix = "docker.io"                # or "*.example.com"; else that of `location`
//! location = "mirror.example/hub"     # stands in for the prefix
//! insecure = false
//! blocked = false
//! mirror-by-digest-only = false
//! [[registry.mirror]]
//! location = "m.example:5000"
//! insecure = true
//! pull-from-mirror = "all"            # digest-only, tag-only
//! ```
//! Files in `registries.conf.d` are read after the main one, in the order of their names; about the same prefix the
//! last has the say. Names without a registry mean `docker.io`, whatever `unqualified-search-registries` says: a
//! Dockerfile means the same everywhere. Deliberately absent: aliases of short names for the same reason; version 1.

use std::path::Path;

use super::text::{Reader, Said, Value};
use super::{Digests, Mirror, Prefix, Rule};

/// Where podman would look for names without a registry, and the line that says so.
pub type Unqualified = Option<(Vec<String>, std::sync::Arc<str>)>;

/// What such a file says.
#[derive(Clone, Debug, Default)]
pub struct RegistriesConf {
    /// About registries.
    pub said: Said,
    /// Where podman would look for names without a registry, and the line that says so.
    pub unqualified: Unqualified,
}

impl RegistriesConf {
    /// With what a file says that is read later.
    pub fn then(self, later: Self) -> Self {
        Self { said: self.said.replaced_by(later.said), unqualified: later.unqualified.or(self.unqualified) }
    }
}

/// Understands such a file.
pub fn parse(source: &Path, text: &str) -> RegistriesConf {
    let mut reader = Reader::new(source, text);
    let (mut rules, mut unqualified) = (Vec::new(), None);
    let table = reader.table();
    for (key, value) in table.iter().flat_map(|table| table.get_ref()) {
        match key.get_ref().as_ref() {
            "registry" => {
                let Some(items) = value.get_ref().as_array() else {
                    reader.warn(&value.span(), "`[[registry]]` is expected");
                    continue;
                };
                for item in items {
                    rules.extend(rule(&mut reader, item));
                }
            }
            "unqualified-search-registries" => {
                let texts = reader.texts(value);
                let names = texts.into_iter().map(|(text, _)| text).collect();
                unqualified = Some((names, reader.place(&key.span())));
            }
            "registries" => {
                reader.warn(
                    &key.span(),
                    "this is version 1 of the format, which is not read; podman's manual tells of version 2",
                );
            }
            "credential-helpers" => {
                let names = reader.texts(value);
                if names.iter().any(|(name, _)| name != "containers-auth.json") {
                    let advice =
                        "helpers for all registries are not taken from here; name them in an auth file (`credsStore`)";
                    reader.warn(&key.span(), advice);
                }
            }
            _ => {}
        }
    }
    RegistriesConf { said: Said { rules, warnings: reader.warnings }, unqualified }
}

fn rule(reader: &mut Reader<'_>, item: &Value<'_>) -> Option<Rule> {
    let Some(settings) = item.get_ref().as_table() else {
        reader.warn(&item.span(), "`[[registry]]` is expected");
        return None;
    };
    let (mut prefix, mut location, mut digests_only) = (None, None, false);
    let (mut mirrors, mut insecure, mut blocked) = (Vec::new(), None, None);
    for (key, value) in settings {
        match key.get_ref().as_ref() {
            "prefix" => prefix = reader.text(value).filter(|text| !text.is_empty()).map(|text| (text, value.span())),
            "location" => {
                location = reader.text(value).filter(|text| !text.is_empty()).map(|text| (text, value.span()))
            }
            "insecure" => insecure = reader.flag(value),
            "blocked" => blocked = reader.flag(value),
            "mirror-by-digest-only" => digests_only = reader.flag(value).unwrap_or_default(),
            "mirror" => mirrors = value.get_ref().as_array().map(|items| items.iter().collect()).unwrap_or_default(),
            _ => {}
        }
    }
    let Some((name, span)) = prefix.as_ref().or(location.as_ref()) else {
        reader.warn(&item.span(), "a registry needs a `prefix` or a `location`");
        return None;
    };
    let mut rule = Rule::new(reader.prefix(name, span)?, reader.place(span));
    rule.trust.insecure = insecure;
    rule.blocked = blocked;
    if let Some((location, span)) = location.as_ref().filter(|location| Some(*location) != prefix.as_ref()) {
        let location = reader.location(location, span)?;
        let same = Prefix::parse(&location.to_string()).is_ok_and(|prefix| prefix == rule.prefix);
        rule.location = (!same).then_some(location);
    }
    for item in mirrors {
        rule.mirrors.extend(mirror(reader, item, digests_only));
    }
    Some(rule)
}

fn mirror(reader: &mut Reader<'_>, item: &Value<'_>, digests_only: bool) -> Option<Mirror> {
    let settings = item.get_ref().as_table()?;
    let Some(at) = settings.get("location") else {
        reader.warn(&item.span(), "a mirror needs a `location`");
        return None;
    };
    let text = reader.text(at)?;
    let mut mirror = Mirror::new(reader.location(&text, &at.span())?);
    mirror.digests = if digests_only { Digests::Only } else { Digests::All };
    for (key, value) in settings {
        match key.get_ref().as_ref() {
            // What is said of a mirror counts where it is asked as a mirror, and only there.
            "insecure" => mirror.trust.insecure = reader.flag(value),
            "pull-from-mirror" => {
                mirror.digests = match reader.text(value).as_deref() {
                    Some("all" | "") => Digests::All,
                    Some("digest-only") => Digests::Only,
                    Some("tag-only") => Digests::Never,
                    Some(other) => {
                        reader.warn(&value.span(), format_args!("`{other}` is none of all, digest-only, tag-only"));
                        return None;
                    }
                    None => return None,
                }
            }
            _ => {}
        }
    }
    Some(mirror)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(conf: &RegistriesConf) -> Vec<String> {
        let rows = conf.said.rules.iter().flat_map(Rule::rows);
        rows.map(|(key, value, source)| format!("{} {value} {source}", key.trim_start_matches("registry."))).collect()
    }

    #[test]
    fn registries_are_understood_as_podman_does() {
        let text = "unqualified-search-registries = [\"quay.io\", \"docker.io\"]\nshort-name-mode = \"enforcing\"\n\
            [[registry]]\nprefix = \"docker.io\"\nlocation = \"m.example/hub\"\nmirror-by-digest-only = true\n\
            [[registry.mirror]]\nlocation = \"a.example\"\ninsecure = true\n\
            [[registry.mirror]]\nlocation = \"b.example:5000/x\"\npull-from-mirror = \"tag-only\"\n\
            [[registry]]\nlocation = \"lan.example:5000\"\ninsecure = true\n\
            [[registry]]\nprefix = \"*.bad.example\"\nblocked = true\n";
        let conf = parse(Path::new("r.conf"), text);
        assert_eq!(conf.said.warnings, [""; 0]);
        assert_eq!(
            rows(&conf),
            [
                "\"docker.io\".mirrors a.example (digests only) b.example:5000/x (tags only) r.conf:4",
                "\"docker.io\".location m.example/hub r.conf:4",
                "\"lan.example:5000\".insecure true r.conf:14",
                "\"*.bad.example\".blocked true r.conf:17",
            ]
        );
        assert_eq!(conf.said.rules[0].mirrors[0].trust.insecure, Some(true));
        let (names, place) = conf.unqualified.expect("it is said");
        assert_eq!((names.join(" "), &*place), ("quay.io docker.io".to_owned(), "r.conf:1"));
    }

    #[test]
    fn later_files_replace_what_was_said_of_a_prefix() {
        let first = parse(
            Path::new("a"),
            "[[registry]]\nlocation = \"x.example\"\ninsecure = true\n[[registry]]\nlocation = \"y.example\"\ninsecure = true\n",
        );
        let later = parse(Path::new("b"), "[[registry]]\nlocation = \"x.example\"\nblocked = true\n");
        assert_eq!(rows(&first.then(later)), ["\"y.example\".insecure true a:5", "\"x.example\".blocked true b:2"]);
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_told() {
        let check = |text: &str, want: &str, rules: usize| {
            let conf = parse(Path::new("r.conf"), text);
            let got = conf.said.warnings.join("\n");
            assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{text}: {got}");
            assert_eq!(conf.said.rules.len(), rules, "{text}");
        };
        check("", "", 0);
        check(
            "credential-helpers = [\"containers-auth.json\"]\n[aliases]\n\"debian\" = \"docker.io/library/debian\"",
            "",
            0,
        );
        check("credential-helpers = [\"x\"]", "r.conf:1: helpers for all registries", 0);
        check("[registries.search]\nregistries = ['docker.io']", "version 1", 0);
        check("[[registry]]\ninsecure = true", "needs a `prefix` or a `location`", 0);
        check("[[registry]]\nlocation = \"a b\"", "r.conf:2: `a b` is not the address", 0);
        check(
            "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\ninsecure = true",
            "a mirror needs a `location`",
            1,
        );
        check(
            "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"x\"",
            "none of all, digest-only",
            1,
        );
        check("registry = 5", "`[[registry]]` is expected", 0);
        check("[[registry", "this is no TOML", 0);
    }
}
