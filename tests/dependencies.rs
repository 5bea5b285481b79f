//! What the dependencies are: their licences, sources and the packages that must not be among them, as `deny.toml`
//! says. With nothing but cargo, so that every test run checks it; `cargo deny` reads the same file and checks more.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// One package that is built into the program or its tests.
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

fn packages() -> Vec<Package> {
    let mut cargo = Command::new(env!("CARGO"));
    // Only what is built for the platforms that this runs on; the lock file also names what Windows would need.
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().expect("cargo runs these tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("the graph has nodes");
    let used: BTreeSet<&str> = nodes.iter().map(|node| node["id"].as_str().expect("a node has an id")).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().expect("there are packages").iter();
    let packages = packages.filter(|package| used.contains(package["id"].as_str().expect("a package has an id")));
    packages
        .map(|package| Package {
            name: text(&package["name"]).expect("a package has a name"),
            version: text(&package["version"]).expect("a package has a version"),
            license: text(&package["license"]),
            source: text(&package["source"]),
        })
        .collect()
}

fn policy() -> toml::Table {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    std::fs::read_to_string(file).expect("deny.toml is there").parse().expect("it is TOML")
}

fn texts<'a>(list: &'a toml::Value, field: Option<&str>) -> BTreeSet<&'a str> {
    let entry = |value: &'a toml::Value| field.map_or(value, |field| &value[field]).as_str().expect("it is a text");
    list.as_array().expect("it is a list").iter().map(entry).collect()
}

/// Whether an SPDX expression (SPDX 2.3, annex D; and the old `A/B` for `A OR B`) holds with only these licences.
fn holds(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let value = any(&mut words, allowed);
    assert_eq!(words.next(), None, "`{expression}` is not understood");
    value
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut value = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        value |= all(words, allowed);
    }
    value
}

fn all(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut value = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        value &= one(words, allowed);
    }
    value
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let word = words.next().expect("an expression does not end here");
    if word == "(" {
        let value = any(words, allowed);
        assert_eq!(words.next(), Some(")"), "a bracket is not closed");
        return value;
    }
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().expect("an exception follows WITH");
        return allowed.contains(format!("{word} WITH {exception}").as_str());
    }
    allowed.contains(word)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]);
    let check = |expression: &str, expected: bool| assert_eq!(holds(expression, &allowed), expected, "{expression}");
    check("MIT", true);
    check("GPL-3.0", false);
    check("GPL-3.0 OR MIT", true);
    check("GPL-3.0 AND MIT", false);
    check("MIT/Apache-2.0", true);
    check("(GPL-3.0 OR MIT) AND Apache-2.0", true);
    check("MIT AND (GPL-3.0 OR LGPL-3.0)", false);
    check("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true);
    check("MIT WITH LLVM-exception", false);
}

#[test]
fn licences_are_those_of_deny_toml() {
    let policy = policy();
    let allowed = texts(&policy["licenses"]["allow"], None);
    let refused: Vec<String> = packages()
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(|license| holds(license, &allowed)))
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

#[test]
fn banned_packages_are_absent_and_sources_known() {
    let policy = policy();
    let banned = texts(&policy["bans"]["deny"], Some("crate"));
    let registries = texts(&policy["sources"]["allow-registry"], None);
    for Package { name, version, source, .. } in packages() {
        assert!(!banned.contains(name.as_str()), "{name} {version} is banned by deny.toml");
        if let Some(source) = source {
            let registry = source.strip_prefix("registry+").unwrap_or_else(|| panic!("{name} comes from {source}"));
            assert!(registries.contains(registry), "{name} comes from {source}");
        }
    }
}
