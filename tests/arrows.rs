//! The arrows between the rooms, as ARCHITECTURE.md draws them; a new arrow changes that file first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which room may know which.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("rbuild", &["api", "frontend", "solver", "executor", "store", "oci"]),
    ("api", &[]),
    ("frontend", &["solver", "oci"]),
    ("store", &["solver", "oci"]),
    ("executor", &["solver", "oci", "store"]),
    ("solver", &[]),
    ("oci", &[]),
    // No room: measures them, and nothing knows it.
    ("micro", &["frontend", "solver", "executor", "store", "oci"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `rbuild-oci` is the room `oci`; the root package is `rbuild`.
fn room(package: &str) -> &str {
    package.strip_prefix("rbuild-").unwrap_or(package)
}

/// Every room with the rooms that its manifest names, whatever for.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root());
    let output = cargo.output().expect("cargo runs these tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    let packages = metadata["packages"].as_array().expect("a workspace has packages");
    let rooms: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let arrows = packages.iter().map(|package| {
        let named = package["dependencies"].as_array().expect("a package has a list of them").iter();
        let named = named.map(|dependency| text(&dependency["name"])).filter(|name| rooms.contains(name));
        (room(&text(&package["name"])).to_owned(), named.map(|name| room(&name).to_owned()).collect())
    });
    arrows.collect()
}

#[test]
fn rooms_know_only_whom_they_may() {
    let found = arrows();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(room, _)| *room).collect();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "the rooms of the workspace");
    for (from, allowed) in ALLOWED {
        for to in &found[from] {
            assert!(allowed.contains(&to.as_str()), "{from} -> {to} is not an arrow of ARCHITECTURE.md");
        }
    }
}

/// The Rust files below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Names of modules in `text` that stand behind `crate::`, also in braces, over several lines.
fn crate_modules(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.extend(first_word(rest));
            continue;
        };
        // `{a::b, c::{d, e}, f}`: only what stands at the outermost depth.
        let mut depth = 0usize;
        let mut item = String::new();
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => found.extend(first_word(&std::mem::take(&mut item))),
                '{' => depth += 1,
                '}' => depth -= 1,
                c if depth == 0 => item.push(c),
                _ => {}
            }
        }
        found.extend(first_word(&item));
    }
    found
}

fn first_word(path: &str) -> Option<String> {
    let word: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

#[test]
fn names_behind_crate_are_found_in_all_their_forms() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(crate_modules(text).iter().map(String::as_str).collect::<Vec<_>>(), expected, "{text}");
    };
    check("use crate::cmd;", &["cmd"]);
    check("use crate::{engine::{build, run}, cmd::build,\n    report};", &["cmd", "engine", "report"]);
    check("pub(crate) fn f(a: &crate::options::Output) {}", &["options"]);
    check("// crate::cmd in words\n/// [`crate::cmd`]", &[]);
}

#[test]
fn the_engine_knows_no_command_line() {
    let hall = root().join("src");
    // What the engine may know of the hall: itself and plain options.
    for path in sources(&hall.join("engine")) {
        let text = std::fs::read_to_string(&path).expect("it is text");
        for module in ["cmd", "cli", "daemon", "report", "progress"] {
            assert!(!crate_modules(&text).contains(module), "{} uses crate::{module}", path.display());
        }
        assert!(!text.contains("clap::"), "{} uses clap", path.display());
    }
}

#[test]
fn unsafe_code_is_forbidden_where_no_system_call_is_made() {
    for room in ["api", "frontend", "solver", "store", "oci"] {
        let file = root().join(room).join("src/lib.rs");
        let text = std::fs::read_to_string(&file).expect("a room has a lib.rs");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{}", file.display());
    }
}
