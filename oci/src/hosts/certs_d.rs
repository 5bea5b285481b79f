//! Folders of certificates as docker and podman have them: `certs.d/HOST[:PORT]/`.
//!
//! Names of files come in, a [`Trust`] goes out: every `*.crt` is an authority's certificate, a `*.cert` is the
//! client's, whose key has the same name and ends in `.key`. containers-certs.d(5). Deliberately absent: reading them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Identity, Prefix, Rule, Said, Trust};

/// What one folder says. `folder` is its name: the registry.
pub fn parse(directory: &Path, folder: &str, files: &[PathBuf]) -> Said {
    let mut said = Said::default();
    // Folders of other programs may stand beside.
    let Some(prefix) = super::hosts_toml::namespace(folder).filter(|prefix| *prefix != Prefix::Any) else {
        return said;
    };
    let (trust, warnings) = trust(directory, files);
    said.warnings = warnings;
    if trust != Trust::default() {
        said.rules.push(Rule { trust, ..Rule::new(prefix, directory.display().to_string().into()) });
    }
    said
}

/// What the files of a folder are for (`--cert-dir`), and what is wrong with them.
pub fn trust(directory: &Path, files: &[PathBuf]) -> (Trust, Vec<String>) {
    let (mut trust, mut warnings) = (Trust::default(), Vec::new());
    let mut files: Vec<&PathBuf> = files.iter().collect();
    files.sort();
    let ends = |path: &Path, extension: &str| path.extension() == Some(OsStr::new(extension));
    for file in &files {
        if ends(file, "crt") {
            trust.authorities.push(directory.join(file));
        }
        if ends(file, "cert") {
            let key = file.with_extension("key");
            if files.contains(&&key) {
                let identity = Identity { certificate: directory.join(file), key: directory.join(&key) };
                trust.identity.get_or_insert(identity);
            } else {
                warnings.push(format!("{}: its key `{}` is missing", directory.join(file).display(), key.display()));
            }
        }
    }
    (trust, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_what_their_names_end_in() {
        let check = |folder: &str, files: &[&str], rules: &[&str], warning: &str| {
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            let said = parse(&Path::new("/c").join(folder), folder, &files);
            let rows: Vec<String> =
                said.rules.iter().flat_map(Rule::rows).map(|(key, value, _)| format!("{key} {value}")).collect();
            assert_eq!(rows, rules, "{folder}");
            assert_eq!(said.warnings.join("\n"), warning, "{folder}");
        };
        check("r.example", &["README"], &[], "");
        check(
            "r.example:5000",
            &["b.crt", "client.key", "ca.crt", "client.cert"],
            &[
                "registry.\"r.example:5000\".ca /c/r.example:5000/b.crt /c/r.example:5000/ca.crt",
                "registry.\"r.example:5000\".keypair /c/r.example:5000/client.cert /c/r.example:5000/client.key",
            ],
            "",
        );
        check("r.example", &["a.cert"], &[], "/c/r.example/a.cert: its key `a.key` is missing");
        check("_default", &["ca.crt"], &[], "");
        check("a b", &["ca.crt"], &[], "");
    }
}
