//! Tables as BuildKit's `buildkitd.toml` has them; rbuild's own `config.toml` uses the same words.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000", "harbor.example/hub"]
//! [registry."mirror.example:5000"]
//! http = true                                   # plain HTTP only
//! insecure = true                               # any certificate, or plain HTTP
//! ca = ["/etc/ca.pem"]
//! [[registry."mirror.example:5000".keypair]]
//! key = "/etc/key.pem"
//! cert = "/etc/cert.pem"
//! ```
//! A path behind a mirror's host stands before every repository. Deliberately absent: rbuild's own file, which the hall
//! reads with its other settings and with errors instead of warnings.

use std::path::Path;

use super::text::{Reader, Said, Value};
use super::{Identity, Mirror, Rule};

/// What a `buildkitd.toml` says of registries.
pub fn parse(source: &Path, text: &str) -> Said {
    let mut reader = Reader::new(source, text);
    let mut rules = Vec::new();
    let table = reader.table();
    let registries = table.as_ref().and_then(|table| table.get_ref().get("registry"));
    for (name, settings) in registries.and_then(|value| value.get_ref().as_table()).into_iter().flatten() {
        let Some(settings) = settings.get_ref().as_table() else {
            reader.warn(&name.span(), "a table is expected");
            continue;
        };
        let Some(prefix) = reader.prefix(name.get_ref(), &name.span()) else { continue };
        let mut rule = Rule::new(prefix, reader.place(&name.span()));
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "mirrors" => {
                    for (text, span) in reader.texts(value) {
                        rule.mirrors.extend(reader.location(&text, &span).map(mirror));
                    }
                }
                "http" => rule.trust.http = reader.flag(value),
                "insecure" => rule.trust.insecure = reader.flag(value),
                "ca" => rule.trust.authorities = reader.paths(value),
                "keypair" => rule.trust.identity = keypair(&mut reader, value),
                _ => {}
            }
        }
        rules.push(rule);
    }
    Said { rules, warnings: reader.warnings }
}

/// BuildKit tells mirrors whom they stand in for.
pub fn mirror(location: super::Location) -> Mirror {
    Mirror { says_namespace: true, ..Mirror::new(location) }
}

/// The first of a list of tables, or the one table.
fn keypair(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Identity> {
    let first = value.get_ref().as_array().and_then(|items| items.iter().next()).unwrap_or(value);
    let Some(table) = first.get_ref().as_table() else {
        reader.warn(&value.span(), "a table with `key` and `cert` is expected");
        return None;
    };
    let mut path = |key: &str| {
        let text = table.get(key).and_then(|value| value.get_ref().as_str());
        if text.is_none() {
            reader.warn(&first.span(), format_args!("`{key}` is missing"));
        }
        text.map(|text| reader.path(text))
    };
    Some(Identity { key: path("key")?, certificate: path("cert")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_buildkit_are_understood() {
        let text = "debug = true\n[registry.\"docker.io\"]\nmirrors = [\"m.example:5000\", \"h.example/hub\"]\n\
                    [registry.\"m.example:5000\"]\nhttp = true\ninsecure = true\nca = [\"ca.pem\", \"/x.pem\"]\n\
                    [[registry.\"m.example:5000\".keypair]]\nkey = \"k.pem\"\ncert = \"c.pem\"\n";
        let said = parse(Path::new("/etc/buildkit/buildkitd.toml"), text);
        let rows: Vec<String> = said
            .rules
            .iter()
            .flat_map(Rule::rows)
            .map(|(key, value, source)| format!("{key} {value} {source}"))
            .collect();
        assert_eq!(said.warnings, [""; 0]);
        let file = "/etc/buildkit/buildkitd.toml";
        assert_eq!(
            rows,
            [
                format!("registry.\"docker.io\".mirrors m.example:5000 h.example/hub {file}:2"),
                format!("registry.\"m.example:5000\".insecure true {file}:4"),
                format!("registry.\"m.example:5000\".http true {file}:4"),
                format!("registry.\"m.example:5000\".ca /etc/buildkit/ca.pem /x.pem {file}:4"),
                format!("registry.\"m.example:5000\".keypair /etc/buildkit/c.pem /etc/buildkit/k.pem {file}:4"),
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_told() {
        let check = |text: &str, want: &str, rules: usize| {
            let said = parse(Path::new("b.toml"), text);
            assert_eq!((said.warnings.join("\n"), said.rules.len()), (want.to_owned(), rules), "{text}");
        };
        check("", "", 0);
        check("x = = 1", "b.toml:1: this is no TOML: extra `=`, expected nothing", 0);
        check(
            "\n[registry]\n\"a b\" = {}\n",
            "b.toml:3: `a b` is not the address of a registry: an address is a host, perhaps a port and a path",
            0,
        );
        check("[registry.\"a.example\"]\nhttp = 1", "b.toml:2: true or false is expected", 1);
        check(
            "[registry.\"a.example\"]\nmirrors = [\"ok\", 5, \"ftp://x\"]",
            "b.toml:2: a text in quotes is expected\nb.toml:2: `ftp://x` is not the address of a registry: only http and https are spoken",
            1,
        );
        check("[registry.\"a.example\"]\nkeypair = [{key = \"k\"}]", "b.toml:2: `cert` is missing", 1);
    }
}
