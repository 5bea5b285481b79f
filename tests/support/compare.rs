//! Two images as facts, compared; and the exceptions: what must be otherwise with us, said case by case with the reason.
//!
//! An exceptions file holds, after a comment that gives the reason and the place in the facts of the language, one
//! fact a line as it must be here: `NAME: VALUE` or `NAME: absent`. A line `buildah refuses: WORDS` says that the other
//! builder does not know the language of this case; then our image is compared with its base, and whatever the case
//! adds to it stands in the exceptions. An exception that is none, because both agree, fails.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::flatten::flatten;

/// What is said of an image: by path (`/etc/passwd`), by the name of a field of the config (`Env`).
pub type Facts = BTreeMap<String, String>;

/// Fields of the config's inner part, under the names that all builders give them.
const INNER: [&str; 12] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Fields of the config itself.
const OUTER: [&str; 4] = ["architecture", "author", "os", "variant"];

/// Everything about an image that its Dockerfile decides, but for times.
#[track_caller]
pub fn facts(config: &Value, layers: &[Vec<u8>]) -> Facts {
    let mut facts = flatten(layers);
    for (part, names) in [(&config["config"], &INNER[..]), (config, &OUTER[..])] {
        for name in names {
            // Builders differ in how they write that nothing was said.
            let nothing = match &part[name] {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(members) => members.is_empty(),
                _ => false,
            };
            if !nothing {
                facts.insert((*name).into(), part[name].to_string());
            }
        }
    }
    let history = config["history"].as_array().expect("a config has a history");
    facts.insert("history".into(), history.iter().map(instruction).collect::<Vec<_>>().join(" "));
    facts
}

/// The instruction that an entry of the history tells of, in the words of either builder.
fn instruction(entry: &Value) -> String {
    let told = entry["created_by"].as_str().expect("an entry says what created it");
    let first =
        |text: &str| text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_uppercase();
    match told.split_once("#(nop) ") {
        Some((_, words)) => first(words),
        None if entry["comment"] == "buildkit.dockerfile.v0" => first(told),
        None if told == BASE_HISTORY => told.into(),
        None => "RUN".into(),
    }
}

/// What the base images say of themselves.
pub const BASE_HISTORY: &str = "base";

/// What the file of exceptions says.
#[derive(Default)]
pub struct Exceptions {
    /// Words of the other builder's refusal, if it must refuse.
    pub refused: Option<String>,
    facts: Facts,
}

impl Exceptions {
    /// Reads the file's text.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        let mut reason = String::new();
        let mut in_reason = false;
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                if !in_reason {
                    reason.clear();
                }
                in_reason = true;
                reason += comment;
                continue;
            }
            in_reason = false;
            assert!(reason.contains("dockerfile.md"), "`{line}` has no reason that names its place in dockerfile.md");
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("`{line}` is not `NAME: VALUE`"));
            if name == "buildah refuses" {
                read.refused = Some(value.into());
            } else {
                let before = read.facts.insert(name.into(), value.into());
                assert!(before.is_none(), "`{name}` is said twice");
            }
        }
        read
    }

    /// What differs between `ours` and `theirs` and is no exception, or is not as the exception says; a line each.
    pub fn differences(&self, ours: &Facts, theirs: &Facts) -> Vec<String> {
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).chain(self.facts.keys()).collect();
        let mut lines = Vec::new();
        for name in names {
            let value = |facts: &Facts| facts.get(name).map_or("absent", |value| value).to_owned();
            let (ours, theirs) = (value(ours), value(theirs));
            match self.facts.get(name) {
                None if ours != theirs => lines.push(format!("{name}: ours `{ours}`, theirs `{theirs}`")),
                Some(expected) if ours != *expected => {
                    lines.push(format!("{name}: ours `{ours}`, expected `{expected}`, theirs `{theirs}`"));
                }
                Some(_) if ours == theirs => lines.push(format!("{name}: no exception, both have `{ours}`")),
                _ => {}
            }
        }
        lines
    }
}

#[test]
fn only_what_is_said_may_differ() {
    let facts = |text: &str| -> Facts {
        text.split(' ').map(|fact| fact.split_once('=').expect("a fact")).map(|(a, b)| (a.into(), b.into())).collect()
    };
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("a=1", "a=1", "", &[]),
        ("a=1", "a=2", "", &["a: ours `1`, theirs `2`"]),
        ("a=1 b=1", "a=1", "", &["b: ours `1`, theirs `absent`"]),
        ("a=1", "a=2", "a: 1", &[]),
        ("a=1", "a=2", "a: 3", &["a: ours `1`, expected `3`, theirs `2`"]),
        ("a=1", "a=1", "a: 1", &["a: no exception, both have `1`"]),
        ("a=1", "a=1 b=2", "b: absent", &[]),
        ("a=1", "a=1", "b: absent", &["b: no exception, both have `absent`"]),
    ];
    for (ours, theirs, exceptions, expected) in cases {
        let exceptions = Exceptions::parse(&format!("# because (dockerfile.md 1.1)\n{exceptions}\n"));
        assert_eq!(exceptions.differences(&facts(ours), &facts(theirs)), *expected, "{ours} and {theirs}");
    }
}
