//! What each format says of the same findings.

use serde_json::{Value, json};

use super::*;
use crate::cli::{self, Request, Verb};
use crate::config::{self, Flags};
use crate::environment::Environment;
use crate::report::Style;

/// A Dockerfile with two findings that can be mended, and words that would break every format.
const TEXT: &str = "\u{feff}FROM scratch\r\nENV ü b%:,\x1b[2J\r\nEXPOSE 80/TCP\r\n";

/// A hall of somebody who has nothing.
fn hall(environment: &Environment) -> Hall<'_> {
    let flags = Flags { only_looks: true, ..Flags::default() };
    let config = config::load(flags, environment).expect("there are no settings");
    Hall { environment, config, logs: false, standing: executor::isolation::Standing::default() }
}

fn environment(folder: &std::path::Path) -> Environment {
    Environment {
        variables: [("XDG_CONFIG_HOME".into(), "/nowhere".into())].into(),
        working_directory: folder.to_owned(),
        ..Environment::default()
    }
}

/// The Dockerfile `text` in a folder of its own.
fn checked<T>(text: &str, look: impl FnOnce(&Hall<'_>, &Checked) -> T) -> T {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().canonicalize().expect("it is there");
    std::fs::write(folder.join("Dockerfile"), text).expect("the folder is ours");
    let environment = environment(&folder);
    let hall = hall(&environment);
    let words = ["check".into(), folder.clone().into_os_string()];
    let Ok(Request::Do(cli)) = cli::parse(words) else { panic!("`check` is a verb") };
    let Verb::Check(args) = cli.verb else { panic!("`check` is a verb") };
    let input = options::input::input(&args.input, &hall.config, &environment).expect("the folder is there");
    let checker = Checker::open(&hall.settings(), &input).expect("the Dockerfile is there");
    look(&hall, &checker.check())
}

/// What a program reads.
fn as_read(found: &impl serde::Serialize) -> Value {
    serde_json::from_str(&escape::json(found)).expect("it is JSON")
}

#[test]
fn people_read_findings_and_their_number() {
    let text = checked(TEXT, |_, checked| findings(checked, Style::default()) + &summary(checked));
    insta::assert_snapshot!(text, @r"
    warning[LegacyKeyValueFormat]: the form `ENV name value` is deprecated
     --> Dockerfile:2:5
      |
    2 | ENV ü b%:,\x1b[2J
      |     ^ no `=` follows
    help: write `ENV ü=value`; a value with blanks needs quotes

    warning[ExposeProtoCasing]: the protocol of `80/TCP` has capitals
     --> Dockerfile:3:11
      |
    3 | EXPOSE 80/TCP
      |           ^^^
    help: write `tcp`

    2 warnings; 2 can be mended with --fix
    ");
    assert_eq!(checked("FROM scratch\n", |_, checked| summary(checked)), "no findings\n");
}

#[test]
fn annotations_hold_no_sign_that_begins_another() {
    let text = checked(TEXT, annotations);
    insta::assert_snapshot!(text, @"
    ::warning file=Dockerfile,line=2,endLine=2,col=5,endColumn=6,title=LegacyKeyValueFormat::the form `ENV name value` is deprecated%0Ahelp: write `ENV ü=value`; a value with blanks needs quotes
    ::warning file=Dockerfile,line=3,endLine=3,col=11,endColumn=14,title=ExposeProtoCasing::the protocol of `80/TCP` has capitals%0Ahelp: write `tcp`
    ");
}

#[test]
fn json_is_what_buildkit_prints() {
    let value = checked(TEXT, |_, checked| as_read(&buildkit::result(checked)));
    assert_eq!(value["sources"][0]["filename"], "Dockerfile");
    let faulty = checked("FROM scratch\nCOYP a /\nRNU b\n", |_, checked| as_read(&buildkit::result(checked)));
    assert_eq!(faulty["buildError"], faulty["errors"][0]);
    let line = |at: usize| faulty["errors"][at]["location"]["ranges"][0]["start"]["line"].clone();
    assert_eq!((line(0), line(1)), (json!(2), json!(3)));
    assert!(value.get("buildError").is_none() && value.get("errors").is_none());
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).expect("a value is JSON"), @r#"
    {
      "sources": [
        {
          "data": "77u/RlJPTSBzY3JhdGNoDQpFTlYgw7wgYiU6LBtbMkoNCkVYUE9TRSA4MC9UQ1ANCg==",
          "filename": "Dockerfile",
          "language": "Dockerfile"
        }
      ],
      "warnings": [
        {
          "description": "ENV and LABEL are written `name=value`; the form with a blank is deprecated.",
          "detail": "the form `ENV name value` is deprecated (write `ENV ü=value`; a value with blanks needs quotes)",
          "location": {
            "ranges": [
              {
                "end": {
                  "character": 5,
                  "line": 2
                },
                "start": {
                  "character": 4,
                  "line": 2
                }
              }
            ],
            "sourceIndex": 0
          },
          "ruleName": "LegacyKeyValueFormat",
          "url": "https://docs.docker.com/reference/build-checks/legacy-key-value-format/"
        },
        {
          "description": "Protocols of EXPOSE are written in small letters.",
          "detail": "the protocol of `80/TCP` has capitals (write `tcp`)",
          "location": {
            "ranges": [
              {
                "end": {
                  "character": 13,
                  "line": 3
                },
                "start": {
                  "character": 10,
                  "line": 3
                }
              }
            ],
            "sourceIndex": 0
          },
          "ruleName": "ExposeProtoCasing",
          "url": "https://docs.docker.com/reference/build-checks/expose-proto-casing/"
        }
      ]
    }
    "#);
}

/// The places of a SARIF log, as the texts that they mean.
fn region<'a>(text: &'a str, region: &Value) -> &'a str {
    let number = |name: &str| usize::try_from(region[name].as_u64().expect(name)).expect("a small number");
    let byte = |line: usize, column: usize| {
        let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let start = if line == 1 && text.starts_with('\u{feff}') { 3 } else { start };
        start + text[start..].chars().take(column - 1).map(char::len_utf8).sum::<usize>()
    };
    &text[byte(number("startLine"), number("startColumn"))..byte(number("endLine"), number("endColumn"))]
}

#[test]
fn sarif_has_what_the_standard_requires() {
    let (log, found) =
        checked(TEXT, |_, checked| (as_read(&sarif::log(checked, "a b/Dockerfile")), checked.findings.clone()));
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!((&run["columnKind"], &run["tool"]["driver"]["name"]), (&json!("unicodeCodePoints"), &json!("rbuild")));
    let rules = run["tool"]["driver"]["rules"].as_array().expect("a list of rules");
    assert!(rules.iter().all(|rule| rule["id"].is_string() && rule["shortDescription"]["text"].is_string()));
    let ids: Vec<_> = rules.iter().map(|rule| &rule["id"]).collect();
    let results = run["results"].as_array().expect("a list of results");
    assert_eq!(results.len(), found.len());
    for (result, found) in results.iter().zip(&found) {
        assert!(ids.contains(&&result["ruleId"]), "{result}");
        assert!(["error", "warning"].map(Value::from).contains(&result["level"]), "{result}");
        assert!(result["message"]["text"].as_str().is_some_and(|text| text.starts_with(&found.message)), "{result}");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20b/Dockerfile");
        let span = found.span.clone().expect("every finding here has a place");
        assert_eq!(region(TEXT, &place["region"]), &TEXT[span], "{result}");
        let changes = result["fixes"][0]["artifactChanges"][0]["replacements"].as_array();
        assert_eq!(changes.map_or(0, Vec::len), found.fix.len(), "{result}");
        for (change, edit) in changes.into_iter().flatten().zip(&found.fix) {
            assert_eq!(region(TEXT, &change["deletedRegion"]), &TEXT[edit.span.0..edit.span.1]);
            assert_eq!(change["insertedContent"]["text"], edit.replacement.as_str());
        }
    }
}

#[test]
fn warnings_that_fail_builds_are_errors() {
    let text = "# check=error=true\nFROM scratch\nENV A b\n";
    let (errors, log) = checked(text, |_, checked| (counts(checked), as_read(&sarif::log(checked, "f"))));
    assert_eq!(errors, "1 error");
    assert_eq!(log["runs"][0]["results"][0]["level"], "error");
}

#[test]
fn the_exit_code_says_whether_anything_was_found() {
    let check = |text: &str, expected: u8| assert_eq!(checked(text, |_, checked| code(checked)), expected, "{text}");
    check("FROM scratch\n", 0);
    check("FROM scratch\nENV A b\n", 1);
    check("# check=skip=LegacyKeyValueFormat\nFROM scratch\nENV A b\n", 0);
    check("FROM scratch\nCOYP a b\n", 1);
    check("", 1);
}
