//! Fixes: what they write, that they settle the matter, and that what is built stays.

use proptest::prelude::*;
use rbuild_frontend::call::{check, fix};
use rbuild_frontend::lint::Rule;
use rbuild_frontend::{Answers, PlanOptions, Planned, Severity, debug, plan};

use super::{checked, findings, image, options};

/// The plan without what people see only: step names, warnings.
fn built(text: &str, options: &PlanOptions) -> Option<String> {
    let mut answers = Answers::new();
    loop {
        match plan(text, options, &answers) {
            Err(_) => return None,
            Ok(Planned::Need(asked)) => {
                for asked in asked {
                    let answer = image(&asked.question)?;
                    answers.insert(asked.question, answer);
                }
            }
            Ok(Planned::Plan(plan)) => {
                let shown = debug::plan(&plan);
                let unnamed = shown.lines().map(|line| if line.starts_with('#') { "#" } else { line });
                return Some(unnamed.collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// Mends a file; the matter is settled by that. What is built may differ only for JSON forms, which start the command
/// without a shell.
fn mended(text: &str, options: &PlanOptions) -> String {
    let before = checked(text, options).findings;
    let fixable = before.iter().filter(|finding| !finding.fix.is_empty()).count();
    let (fixed, count) = fix(text, &before);
    assert_eq!(count, fixable, "{text}: {before:#?}");
    let after = checked(&fixed, options).findings;
    assert!(after.iter().all(|finding| finding.fix.is_empty()), "{text}\n{fixed}\n{after:#?}");
    assert_eq!(fix(&fixed, &after), (fixed.clone(), 0), "{text}");
    let errors = |found: &[rbuild_frontend::Diagnostic]| found.iter().any(|one| one.severity == Severity::Error);
    assert_eq!(errors(&before), errors(&after), "{text}\n{fixed}");
    if before.iter().all(|finding| finding.rule != Some(Rule::JSONArgsRecommended)) {
        assert_eq!(built(&fixed, options), built(text, options), "{text}\n{fixed}");
    }
    fixed
}

#[test]
fn mechanical_findings_are_mended_and_the_plan_stays() {
    let check = |text: &str, expected: &str| assert_eq!(mended(text, &options()), expected, "{text}");
    // StageNameCasing, with every reference.
    check(
        "FROM debian AS Base\nFROM Base AS b\nCOPY --from=BASE /a /a\nRUN --mount=from=Base,target=/x y\n",
        "FROM debian AS base\nFROM base AS b\nCOPY --from=base /a /a\nRUN --mount=from=base,target=/x y\n",
    );
    check(
        "FROM debian AS A\nFROM debian AS a\nFROM A\nCOPY --from=0 /x /x\n",
        "FROM debian AS a\nFROM debian AS a\nFROM A\nCOPY --from=0 /x /x\n",
    );
    // FromAsCasing and ConsistentInstructionCasing meet in one line.
    check("FROM debian as a\nRUN x\n", "FROM debian AS a\nRUN x\n");
    check("from debian AS a\nrun x\n", "from debian as a\nrun x\n");
    check("from debian as a\nRUN x\nRUN y\n", "FROM debian AS a\nRUN x\nRUN y\n");
    check("from debian AS a\nRUN x\nRUN y\n", "FROM debian AS a\nRUN x\nRUN y\n");
    check("From debian aS a\nrun x\n", "from debian as a\nrun x\n");
    check("FROM debian\nrUn x\nonbuild run a\nRUN y\n", "FROM debian\nRUN x\nONBUILD run a\nRUN y\n");
    // NoEmptyContinuation.
    check("FROM debian\nRUN a \\\n\n  b \\\n \t\n# c\n\n  d\n", "FROM debian\nRUN a \\\n  b \\\n# c\n  d\n");
    check("FROM debian\r\nRUN a \\\r\n\r\n  b\r\n", "FROM debian\r\nRUN a \\\r\n  b\r\n");
    check("FROM debian\nRUN a \\\n\n", "FROM debian\nRUN a \\\n");
    // RedundantTargetPlatform.
    check("FROM --platform=$TARGETPLATFORM  debian AS a\n", "FROM debian AS a\n");
    // ExposeProtoCasing.
    check("FROM debian\nEXPOSE 80/TCP 1:53/Udp\n", "FROM debian\nEXPOSE 80/tcp 1:53/udp\n");
    // WorkdirRelativePath, when it is known what it is relative to.
    check("FROM srv\nWORKDIR a/./b\n", "FROM srv\nWORKDIR /srv/a/b\n");
    check("FROM scratch\nWORKDIR a\n", "FROM scratch\nWORKDIR /a\n");
    check("FROM debian\nENV A=b\nWORKDIR $A\n", "FROM debian\nENV A=b\nWORKDIR $A\n");
    check("FROM unknown\nWORKDIR a\n", "FROM unknown\nWORKDIR a\n");
    // MaintainerDeprecated changes the image: a person decides.
    check("FROM debian\nMAINTAINER me\n", "FROM debian\nMAINTAINER me\n");
}

#[test]
fn pairs_get_an_equals_sign_and_keep_their_value() {
    let check = |line: &str, expected: &str| {
        let file = |line: &str| format!("FROM debian\nENV X=\"a b\" Y='\"'\n{line}\n");
        assert_eq!(mended(&file(line), &options()), file(expected), "{line}");
    };
    check("ENV a b", "ENV a=b");
    check("ENV a b c", "ENV a=\"b c\"");
    check("ENV a   b  c  ", "ENV a=\"b  c\"  ");
    check("ENV a\tb\tc", "ENV a=\"b\tc\"");
    check("LABEL a b c", "LABEL a=\"b c\"");
    check("ENV a b=c d=e", "ENV a=\"b=c d=e\"");
    check("ENV a $X", "ENV a=$X");
    check("ENV a $X ${Y:-d e} ${Z:-f}", "ENV a=\"$X ${Y:-d e} ${Z:-f}\"");
    check("ENV a \"b c\"", "ENV a=\"b c\"");
    check("ENV a 'b c'", "ENV a='b c'");
    check("ENV a 'b c' d", "ENV a='b c'\\ d");
    check("ENV a \"b c\" 'd e'", "ENV a=\"b c\"\\ 'd e'");
    check("ENV a b\\ c", "ENV a=b\\ c");
    check("ENV a b\\ c d", "ENV a=b\\ c\\ d");
    check("ENV a b \\$c \\\\ d", "ENV a=b\\ \\$c\\ \\\\\\ d");
    check("ENV \"a\" b c", "ENV \"a\"=\"b c\"");
    check("ENV a ä ö", "ENV a=\"ä ö\"");
    check("ENV a \\\n  b c", "ENV a=\"b c\"");
    check("ENV a b \\\n  c", "ENV a=\"b \\\n  c\"");
    check("ENV a b", "ENV a=b");
    // Here a person must decide.
    check("ENV a 'b' \\\n  c", "ENV a 'b' \\\n  c");
}

#[test]
fn pairs_are_mended_with_the_escape_character_of_the_file() {
    let text = "# escape=`\nFROM debian\nENV a c:\\dir x\nENV b \"y z\" w\n";
    let expected = "# escape=`\nFROM debian\nENV a=\"c:\\dir x\"\nENV b=\"y z\"` w\n";
    assert_eq!(mended(text, &options()), expected);
}

#[test]
fn commands_become_json_when_a_shell_has_nothing_to_do() {
    let check = |command: &str, expected: Option<&str>| {
        let text = format!("FROM debian\nCMD {command}\n");
        let expected = expected.map_or(text.clone(), |json| format!("FROM debian\nCMD {json}\n"));
        assert_eq!(mended(&text, &options()), expected, "{command}");
    };
    check("npm start", Some("[\"npm\", \"start\"]"));
    check("/app/run  --port=80\t-v", Some("[\"/app/run\", \"--port=80\", \"-v\"]"));
    check("a b=c,d+e%f@g:h", Some("[\"a\", \"b=c,d+e%f@g:h\"]"));
    for shell in
        ["a && b", "a $B", "a \"b c\"", "a 'b'", "a *.txt", "a > b", "a; b", "a | b", "~/a", "a b\\ c", "{a,b}"]
    {
        check(shell, None);
    }
    for shell in ["A=b c", "exec a b", "cd /a", ". /etc/x", "source x", "if a", "a #b", "! a", "eval x"] {
        check(shell, None);
    }
    check("a \\\n  b", None);
}

/// Lines that are somehow wrong, for the fixes to meet each other.
fn lines() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "FROM debian as Base",
        "from debian AS base",
        "From scratch As Other",
        "FROM Base",
        "FROM --platform=$TARGETPLATFORM debian AS x",
        "FROM --platform=${TARGETPLATFORM} Other as Y",
        "COPY --from=BASE /a /a",
        "copy --from=OTHER /a /a",
        "RUN --mount=from=Base,target=/x a",
        "run a \\\n\n  b",
        "RUN a \\\n \t\n# c\n\n  b",
        "RUN a \\\n\n",
        "ENV a b c",
        "env a 'b c' d",
        "LABEL a \\\n\n b \\\n c",
        "ENV a $a ${b:-c d}",
        "WORKDIR a",
        "workdir ../b",
        "EXPOSE 80/TCP 1:2/Udp",
        "expose 80/UDP",
        "CMD npm start",
        "ENTRYPOINT a && b",
        "cmd x \\\n\n y",
        "MAINTAINER me",
        "# check=skip=FromAsCasing",
        "# check=skip=ConsistentInstructionCasing",
        "# a comment",
        "",
    ]);
    prop::collection::vec(line, 0..14).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn fixing_settles_it_and_twice_changes_nothing(text in lines()) {
        let text = format!("FROM srv AS first\n{text}\n");
        let known = |text: &str| checked(text, &options()).findings;
        let before = known(&text);
        let (once, mended) = fix(&text, &before);
        let after = known(&once);
        let errors = |found: &[rbuild_frontend::Diagnostic]| found.iter().filter(|one| one.severity == Severity::Error).count();
        prop_assert_eq!(errors(&before), errors(&after), "{}\n{}", text, once);
        let (twice, again) = fix(&once, &after);
        prop_assert_eq!((&twice, again), (&once, 0), "{} mended\n{}\n--\n{}\n--\n{:#?}", mended, text, once, after);
        if before.iter().all(|finding| finding.rule != Some(Rule::JSONArgsRecommended)) {
            prop_assert_eq!(built(&text, &options()), built(&once, &options()), "{}\n{}", text, once);
        }
    }

    #[test]
    fn any_text_is_checked_and_mended_to_text_of_the_same_worth(text in "\\PC{0,200}") {
        let text = format!("FROM scratch\n{text}");
        let found = check(&text, &options(), &Answers::new()).findings;
        let (fixed, _) = fix(&text, &found);
        let built = |text: &str| plan(text, &options(), &Answers::new()).is_ok();
        prop_assert!(!built(&text) || built(&fixed), "{}", fixed);
    }

    #[test]
    fn any_pair_in_the_old_form_keeps_its_value(value in "[a-z \"'\\\\$={}:-]{1,16}") {
        let text = format!("FROM debian\nENV name {value}\n");
        let before = findings(Rule::LegacyKeyValueFormat, &text, &options());
        let (fixed, _) = fix(&text, &before);
        prop_assert_eq!(built(&text, &options()), built(&fixed, &options()), "{}{}", text, fixed);
    }
}
