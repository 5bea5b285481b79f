//! `hosts.toml` as containerd reads it, one folder per registry beneath `/etc/containerd/certs.d`: its
//! `docs/hosts.md`.
//!
//! ```toml
//! server = "https://registry-1.docker.io"      # the registry itself
//! [host."https://mirror.example/v2/hub"]
//! capabilities = ["pull", "resolve"]
//! ca = "mirror.crt"                            # or a list; relative to the file
//! client = [["client.cert", "client.key"]]     # or a file with both
//! skip_verify = false
//! override_path = true                         # the path is the API's; else `/v2` is added
//! ```
//! The folder's name is the registry: `docker.io`, `r.example:5000`, `r.example_5000_`, or `_default` for all that have
//! none. Deliberately absent: `header`; pushing to a `host`, which could put an image where its name does not say.

use std::path::Path;

use super::text::{Reader, Said, Value};
use super::{Identity, Location, Mirror, Prefix, Rule, Trust};

/// What the file of one folder says. `folder` is the folder's name.
pub fn parse(source: &Path, folder: &str, text: &str) -> Said {
    let mut reader = Reader::new(source, text);
    let Some(table) = reader.table() else { return Said { rules: Vec::new(), warnings: reader.warnings } };
    let table = table.get_ref();
    let Some(prefix) = namespace(folder) else {
        reader.warn(&(0..0), format_args!("`{folder}` is not the name of a registry"));
        return Said { rules: Vec::new(), warnings: reader.warnings };
    };
    let mut rule = Rule::new(prefix, reader.place(&(0..0)));
    let mut hosts = Vec::new();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "server" => {
                let override_path = table.get("override_path").and_then(|value| value.get_ref().as_bool());
                let text = reader.text(value);
                rule.location =
                    text.and_then(|text| location(&mut reader, &text, &value.span(), override_path == Some(true)));
            }
            "host" => hosts.extend(value.get_ref().as_table().into_iter().flatten()),
            _ => trust(&mut reader, &mut rule.trust, key.get_ref(), value),
        }
    }
    // `server = "https://registry-1.docker.io"` in the folder `docker.io` says nothing new.
    rule.location = rule.location.take().filter(|location| {
        location.api.is_some()
            || !Prefix::parse(&format!("{}/{}", location.host, location.path)).is_ok_and(|prefix| prefix == rule.prefix)
    });
    // They are asked in the order of the file.
    hosts.sort_by_key(|(key, _)| key.span().start);
    for (key, settings) in hosts {
        let Some(settings) = settings.get_ref().as_table() else {
            reader.warn(&key.span(), "a table is expected");
            continue;
        };
        let override_path = settings.get("override_path").and_then(|value| value.get_ref().as_bool());
        let Some(at) = location(&mut reader, key.get_ref(), &key.span(), override_path == Some(true)) else { continue };
        let mut mirror = Mirror { says_namespace: true, ..Mirror::new(at) };
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "capabilities" => {
                    let given: Vec<String> = reader.texts(value).into_iter().map(|(text, _)| text).collect();
                    mirror.resolves = given.iter().any(|text| text == "resolve");
                    mirror.pulls = given.iter().any(|text| text == "pull");
                }
                _ => trust(&mut reader, &mut mirror.trust, key.get_ref(), value),
            }
        }
        // What answers for a name must also have what the name means.
        mirror.resolves &= mirror.pulls;
        rule.mirrors.push(mirror);
    }
    Said { rules: vec![rule], warnings: reader.warnings }
}

/// Which registries a folder is about.
pub fn namespace(folder: &str) -> Option<Prefix> {
    if folder == "_default" {
        return Some(Prefix::Any);
    }
    // `r.example_5000_`, for file systems that know no colon.
    let with_port = folder.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
    let name = match with_port {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => format!("{host}:{port}"),
        _ => folder.to_owned(),
    };
    match Prefix::parse(&name).ok()? {
        Prefix::Path { host, path } if path.is_empty() => Some(Prefix::Path { host, path }),
        _ => None,
    }
}

fn location(
    reader: &mut Reader<'_>,
    text: &str,
    span: &std::ops::Range<usize>,
    override_path: bool,
) -> Option<Location> {
    let location = reader.location(text, span)?;
    let path = text.split_once("://").map_or(text, |(_, rest)| rest).split_once('/').map_or("", |(_, path)| path);
    let path = path.trim_matches('/');
    let api = match path {
        "" | "v2" if !override_path => return Some(location),
        path if override_path || path.ends_with("/v2") => path.to_owned(),
        path => format!("{path}/v2"),
    };
    Some(match api.strip_prefix("v2/") {
        // A part of the registry that stands for another one.
        Some(below) => Location { path: below.to_owned(), ..location },
        None if api == "v2" => Location { path: String::new(), ..location },
        None if api.is_empty() => Location { path: String::new(), api: Some("/".to_owned()), ..location },
        None => Location { path: String::new(), api: Some(format!("/{api}/")), ..location },
    })
}

/// The keys that both the server and a host may have.
fn trust(reader: &mut Reader<'_>, trust: &mut Trust, key: &str, value: &Value<'_>) {
    match key {
        "skip_verify" => trust.insecure = reader.flag(value),
        "ca" => trust.authorities = reader.paths(value),
        "client" => trust.identity = client(reader, value),
        "header" => reader.warn(&value.span(), "headers for a host are not sent"),
        _ => {}
    }
}

/// `"file"`, `["file", …]` or `[["cert", "key"], …]`; the first counts.
fn client(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Identity> {
    let first = value.get_ref().as_array().and_then(|items| items.iter().next()).unwrap_or(value);
    let paths = reader.paths(first);
    match paths.as_slice() {
        [both] => Some(Identity { certificate: both.clone(), key: both.clone() }),
        [certificate, key] if !key.as_os_str().is_empty() => {
            Some(Identity { certificate: certificate.clone(), key: key.clone() })
        }
        _ => {
            reader.warn(&value.span(), "a certificate and its key are expected");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_asked_in_the_order_of_the_file() {
        let text = "server = \"https://registry-1.docker.io\"\nca = \"up.crt\"\n\
            [host.\"https://z.example\"]\ncapabilities = [\"pull\", \"resolve\", \"push\"]\nca = [\"z.crt\", \"/abs.crt\"]\n\
            [host.\"http://a.example:5000\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n\
            client = [[\"c.cert\", \"c.key\"]]\n\
            [host.\"https://h.example/v2/hub\"]\noverride_path = true\n\
            [host.\"https://p.example/deep\"]\n[host.\"https://q.example/deep\"]\noverride_path = true\n";
        let said = parse(Path::new("/certs.d/docker.io/hosts.toml"), "docker.io", text);
        assert_eq!(said.warnings, [""; 0]);
        let rows: Vec<String> =
            said.rules.iter().flat_map(Rule::rows).map(|(key, value, _)| format!("{key} {value}")).collect();
        assert_eq!(
            rows,
            [
                "registry.\"docker.io\".mirrors https://z.example http://a.example:5000 (blobs only) \
                 https://h.example/hub https://p.example/deep/v2/ https://q.example/deep/",
                "registry.\"docker.io\".ca /certs.d/docker.io/up.crt",
            ]
        );
        let mirrors = &said.rules[0].mirrors;
        assert_eq!(mirrors[0].trust.authorities, [Path::new("/certs.d/docker.io/z.crt"), Path::new("/abs.crt")]);
        assert_eq!(mirrors[1].trust.insecure, Some(true));
        assert!(mirrors[1].trust.identity.is_some() && mirrors.iter().all(|mirror| mirror.says_namespace));
    }

    #[test]
    fn folders_are_registries() {
        for (folder, want) in [
            ("docker.io", Some("docker.io")),
            ("r.example:5000", Some("r.example:5000")),
            ("r.example_5000_", Some("r.example:5000")),
            ("_default", Some("*")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("a b", None),
            ("..", None),
        ] {
            assert_eq!(namespace(folder).map(|prefix| prefix.to_string()).as_deref(), want, "{folder}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_told() {
        let check = |text: &str, want: &str, rules: usize| {
            let said = parse(Path::new("h.toml"), "r.example", text);
            let got = said.warnings.join("\n");
            assert!(got.contains(want) && got.is_empty() == want.is_empty(), "{text}: {got}");
            assert_eq!(said.rules.len(), rules, "{text}");
        };
        check("", "", 1);
        check("server = \"https://other.example\"", "", 1);
        check("[host.\"ftp://x\"]", "h.toml:1: `ftp://x` is not the address", 1);
        check("[host.\"https://x\".header]\nA = \"b\"", "headers for a host are not sent", 1);
        check("client = [[]]", "a certificate and its key are expected", 1);
        check("[host", "this is no TOML", 0);
        let said = parse(Path::new("h.toml"), "r.example", "server = \"https://other.example\"");
        assert_eq!(said.rules[0].location.as_ref().map(ToString::to_string).as_deref(), Some("https://other.example"));
    }
}
