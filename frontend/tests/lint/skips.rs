//! What is said and what is not: the directive, the build arg, comments above instructions, and errors.

use rbuild_frontend::call::check;
use rbuild_frontend::{Answers, PlanOptions, Planned, Severity, plan};

use super::{checked, options};

/// The names of the rules that find something; errors and findings of no rule by their message.
fn said(text: &str, options: &PlanOptions) -> Vec<String> {
    let found = checked(text, options).findings;
    found.into_iter().map(|finding| finding.rule.map_or(finding.message, |rule| rule.name().to_owned())).collect()
}

/// A FROM with two findings and a WORKDIR with one.
const FILE: &str = "FROM scratch as Base\nWORKDIR a\n";

#[test]
fn the_directive_skips_rules_of_the_whole_file() {
    let check = |directive: &str, expected: &[&str]| {
        let text = format!("{directive}{FILE}");
        assert_eq!(said(&text, &options()), expected, "{directive}");
    };
    check("", &["FromAsCasing", "StageNameCasing", "WorkdirRelativePath"]);
    check("# check=skip=FromAsCasing\n", &["StageNameCasing", "WorkdirRelativePath"]);
    check("#CHECK = skip=FromAsCasing,StageNameCasing\n", &["WorkdirRelativePath"]);
    check("# check=skip=all\n", &[]);
    check("# syntax=docker/dockerfile:1\n# check=skip=all\n", &[]);
    check("# check=error=true;skip=all\n", &[]);
    check(
        "# check=skip=FromAsCasin\n",
        &["there is no rule `FromAsCasin`", "FromAsCasing", "StageNameCasing", "WorkdirRelativePath"],
    );
    check(
        "# check=skip all\n",
        &["`skip all` is no option of `check`", "FromAsCasing", "StageNameCasing", "WorkdirRelativePath"],
    );
}

#[test]
fn the_build_arg_beats_the_directive() {
    let check = |build_arg: &str, expected: &[&str]| {
        let build_args = [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), build_arg.to_owned())].into();
        let text = format!("# check=skip=FromAsCasing\n{FILE}");
        assert_eq!(said(&text, &PlanOptions { build_args, ..options() }), expected, "{build_arg}");
    };
    check("", &["StageNameCasing", "WorkdirRelativePath"]);
    check("skip=StageNameCasing", &["FromAsCasing", "WorkdirRelativePath"]);
    check("skip=all", &[]);
}

#[test]
fn a_comment_skips_rules_for_the_instruction_below() {
    let check = |text: &str, expected: &[&str]| assert_eq!(said(text, &options()), expected, "{text}");
    check("# a\n# check=skip=FromAsCasing\nFROM scratch as A\n", &["StageNameCasing"]);
    check("# a\n# check=skip=all\nFROM scratch as A\nFROM scratch as B\n", &["FromAsCasing", "StageNameCasing"]);
    check("FROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR a\nENV a b\n", &["LegacyKeyValueFormat"]);
    check("FROM scratch\n# check=skip=LegacyKeyValueFormat\n# words\nENV a b\nENV a b\n", &["LegacyKeyValueFormat"]);
    check("FROM scratch\n# check=skip=LegacyKeyValueFormat\n\nENV a b\n", &["LegacyKeyValueFormat"]);
    check("FROM scratch\n# check=skip=UndefinedVar\nCOPY <<EOF /a\n$A\nEOF\nLABEL a=$A\n", &["UndefinedVar"]);
    check("FROM debian\n# check=skip=NoEmptyContinuation\nRUN a \\\n\n b\n", &[]);
    check("FROM debian\n# check=skip=NoEmptyContinuation\nRUN a \\\n\n", &[]);
    check("FROM debian\n# check=skip=LegacyKeyValueFormat\n# check=skip=UndefinedVar\nENV a $b\n", &[]);
    check(
        "FROM scratch\n# check=skip=LegacyKeyValue\nENV a b\n",
        &["there is no rule `LegacyKeyValue`", "LegacyKeyValueFormat"],
    );
    check("FROM scratch\n# check=error=true\nENV a=b\n", &["`error` counts for whole files only"]);
    check("FROM scratch\n# check this=that\nENV a=b\n", &[]);
}

#[test]
fn an_error_is_never_skipped() {
    let text = "# check=skip=all\nFROM scratch\nCOYP a b\n";
    assert_eq!(said(text, &options()), ["unknown instruction `COYP`"]);
}

#[test]
fn values_are_looked_at_when_the_file_is_well_formed() {
    let broken = "FROM debian\nENV =1\nLABEL a=$A\nWORKDIR w\nMAINTAINER me\n";
    assert_eq!(said(broken, &options()), ["a name is missing after ENV", "MaintainerDeprecated"]);
}

#[test]
fn every_stage_is_looked_at_whatever_the_target() {
    let text = "FROM scratch AS a\nWORKDIR a\nFROM scratch AS b\nWORKDIR b\nFROM scratch\nWORKDIR c\n";
    let options = PlanOptions { target: Some("b".into()), ..options() };
    assert_eq!(said(text, &options), ["WorkdirRelativePath"; 3]);
    // A build looks at what it builds.
    let Ok(Planned::Plan(plan)) = plan(text, &options, &Answers::new()) else { panic!("it is fine") };
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    let missing = PlanOptions { target: Some("c".into()), ..options };
    assert_eq!(said(text, &missing), ["there is no stage `c` to build"]);
}

#[test]
fn images_that_are_not_known_are_told_and_nothing_is_claimed_about_them() {
    let text = "FROM a\nLABEL x=$Y\nCOPY --from=b /x /x\nFROM c\nFROM scratch\nLABEL x=$Y\n";
    let checked = check(text, &options(), &Answers::new());
    let unknown: Vec<String> = checked.unknown.iter().map(|asked| asked.question.reference.familiar()).collect();
    assert_eq!(unknown, ["a:latest", "b:latest", "c:latest"]);
    assert_eq!(checked.findings.len(), 1, "{:?}", checked.findings);
    assert!(checked.passes());
}

#[test]
fn warnings_of_rules_are_errors_when_the_file_says_so() {
    let plan_of = |text: &str| plan(text, &options(), &Answers::new());
    let check = |text: &str, fails: Option<&str>| {
        let checked = super::checked(text, &options());
        assert_eq!(checked.passes(), fails.is_none(), "{text}");
        match (plan_of(text), fails) {
            (Ok(Planned::Plan(_)), None) => {}
            (Err(found), Some(names)) => {
                let last = found.last().expect("a finding");
                assert_eq!(last.message, format!("warnings are errors here, and there are some: {names}"));
                assert_eq!(found.iter().filter(|finding| finding.severity == Severity::Error).count(), 1);
            }
            (planned, _) => panic!("{text}: {planned:?}"),
        }
    };
    check("FROM scratch\nWORKDIR a\n", None);
    check("# check=error=true\nFROM scratch\nWORKDIR /a\n", None);
    check("# check=error=true\nFROM scratch\nWORKDIR a\n", Some("WorkdirRelativePath"));
    check(
        "# check=error=true\nFROM scratch\nENV a b\nENV c d\nWORKDIR a\n",
        Some("LegacyKeyValueFormat, WorkdirRelativePath"),
    );
    check("# check=error=true;skip=WorkdirRelativePath\nFROM scratch\nWORKDIR a\n", None);
    check("# check=error=true\nFROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR a\n", None);
    // A list that is none is no rule's finding after VOLUME.
    check("# check=error=true\nFROM scratch\nVOLUME ['a']\n", None);
}

#[test]
fn skips_hold_for_the_warnings_of_a_build() {
    let check = |text: &str, expected: usize| {
        let Ok(Planned::Plan(plan)) = plan(text, &options(), &Answers::new()) else { panic!("{text} is fine") };
        assert_eq!(plan.warnings.len(), expected, "{text}: {:?}", plan.warnings);
    };
    check(FILE, 3);
    check(&format!("# check=skip=StageNameCasing\n{FILE}"), 2);
    check("FROM scratch\n# check=skip=all\nWORKDIR a\n", 0);
}
