//! Arbitrary text: nothing panics, every place lies inside the text, and the same text gives the same answer.

use std::collections::BTreeMap;

use oci::model::{Config, DiffId, Digest, ImageConfig, RootFs};
use proptest::prelude::*;
use rbuild_frontend::{
    Answers, Diagnostic, ImageAnswer, NamedContext, PlanOptions, Planned, Severity, debug, parse, plan,
};

/// Text that is nearly a Dockerfile: fragments of the language in any order.
fn nearly() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        prop::sample::select(vec![
            "FROM debian:12\n",
            "FROM debian:12 AS a\n",
            "FROM a\n",
            "FROM $X\n",
            "FROM scratch\n",
            "from",
            "\n",
            "\r\n",
            "RUN",
            "COPY",
            "ADD",
            "ENV",
            "ARG",
            "LABEL",
            "ONBUILD ",
            "WORKDIR",
            "USER",
            "EXPOSE",
            "VOLUME",
            "SHELL",
            "CMD",
            "ENTRYPOINT",
            "HEALTHCHECK",
            "STOPSIGNAL",
            "MAINTAINER",
            " NONE",
            " CMD",
            " ",
            "  ",
            "\t",
            "\\\n",
            "\\",
            "`",
            "#",
            "# escape=`\n",
            "# syntax=docker/dockerfile:1\n",
            "<<EOF",
            "<<-'EOF'",
            "EOF\n",
            "\tEOF\n",
            "<<",
            "[",
            "]",
            "\"",
            "'",
            "[\"a\", \"b\"]",
            ",",
            "=",
            "A=1",
            "a b",
            "/x",
            ".",
            "..",
            "*",
            "$",
            "${",
            "}",
            "$A",
            "${A:-b}",
            "${A#*}",
            "${A/b/c}",
            "?",
            ":",
            "--from=a",
            "--from=0",
            "--chown=1:1",
            "--chmod=u+x",
            "--mount=",
            "type=bind",
            "target=/x",
            "type=cache",
            "--network=none",
            "--",
            "--link",
            "80/tcp",
            "1-5",
            "30s",
            "--interval=1s",
            "SIGTERM",
            "ä",
            "\u{feff}",
            "\u{a0}",
            "\0",
            "AS",
            " AS b\n",
            " https://x/y",
            " https://x/y.git?ref=a#:b",
            " git@x:y",
            " --parents a/./b*",
            " --checksum=sha256:0",
            " --keep-git-dir",
            "--from=tree",
            "FROM tree AS b\n",
            "FROM nothing AS image\n",
            "<<a <<b",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,8}",
        "\\PC{0,4}",
    ];
    prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

fn options() -> PlanOptions {
    PlanOptions {
        build_args: BTreeMap::from([("X".to_owned(), "debian:12".to_owned())]),
        contexts: BTreeMap::from([
            ("tree".to_owned(), NamedContext::Tree { ignore_patterns: vec!["x".to_owned()] }),
            ("nothing".to_owned(), NamedContext::Scratch),
            ("image".to_owned(), NamedContext::Image("debian:12".parse().unwrap())),
        ]),
        platform: "linux/amd64".parse().unwrap(),
        build_platform: "linux/arm64".parse().unwrap(),
        ..PlanOptions::default()
    }
}

/// Plans to the end; every image is the same small one with the given triggers.
fn whole(text: &str, triggers: &[String]) -> String {
    let mut answers = Answers::new();
    for _ in 0..50 {
        match plan(text, &options(), &answers) {
            Err(found) => {
                inside(text, &found);
                assert!(found.iter().any(|fault| fault.severity == Severity::Error), "no error among {found:?}");
                return debug::diagnostics(text, &found);
            }
            Ok(Planned::Plan(plan)) => {
                inside(text, &plan.warnings);
                assert!(plan.spans.values().all(|span| text.get(span.clone()).is_some()));
                assert!(plan.warnings.iter().all(|fault| fault.severity == Severity::Warning));
                let layers = plan.output.history.iter().filter_map(|step| step.edge);
                assert!(layers.clone().all(|edge| plan.graph.get(&edge.vertex).is_some()));
                return debug::plan(&plan);
            }
            Ok(Planned::Need(asked)) => {
                assert!(!asked.is_empty());
                for asked in asked {
                    assert!(asked.span.is_some_and(|span| text.get(span).is_some()));
                    let config = ImageConfig {
                        architecture: "amd64".into(),
                        os: "linux".into(),
                        config: Config { on_build: triggers.to_vec(), ..Config::default() },
                        rootfs: RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() },
                        ..ImageConfig::default()
                    };
                    let answer = ImageAnswer { name: None, digest: Digest::of(b"image"), config };
                    assert!(answers.insert(asked.question, answer).is_none(), "asked twice");
                }
            }
        }
    }
    panic!("planning does not end");
}

fn inside(text: &str, found: &[Diagnostic]) {
    for diagnostic in found {
        if let Some(span) = &diagnostic.span {
            assert!(text.get(span.clone()).is_some(), "{diagnostic:?} does not lie inside the text");
        }
        assert!(!diagnostic.message.is_empty() && !diagnostic.message.ends_with('.'), "{diagnostic:?}");
    }
    let starts: Vec<usize> = found.iter().map(|d| d.span.as_ref().map_or(usize::MAX, |span| span.start)).collect();
    assert!(starts.is_sorted(), "not in the order of the text");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_planned_or_refused(text in "\\PC{0,200}") {
        whole(&text, &[]);
    }

    #[test]
    fn nearly_dockerfiles_are_planned_or_refused(text in nearly(), trigger in nearly()) {
        let whole_text = format!("FROM debian:12\n{text}");
        prop_assert_eq!(whole(&text, &[]), whole(&text, &[]));
        whole(&whole_text, &[trigger]);
    }

    #[test]
    fn keywords_and_arguments_stand_where_their_places_say(text in nearly()) {
        let (ast, found) = parse::parse(&text);
        for diagnostic in &found {
            prop_assert!(text.get(diagnostic.span.clone().unwrap_or_default()).is_some());
        }
        for statement in &ast.statements {
            let keyword = &statement.keyword_word;
            prop_assert_eq!(&text[keyword.span.range()], keyword.text.as_str());
            for word in statement.fields() {
                // A word may be continued on the next line; else it is exactly its place.
                let place = &text[word.span.range()];
                prop_assert!(place == word.text || place.contains('\n'), "{:?} {:?}", place, word.text);
            }
            for flag in &statement.flags {
                prop_assert!(text[flag.span.range()].starts_with("--"));
                prop_assert!(flag.value_map.iter().all(|at| *at <= text.len()));
            }
            for heredoc in &statement.heredocs {
                prop_assert_eq!(&text[heredoc.body.span.range()], heredoc.body.text.as_str());
            }
        }
    }
}
