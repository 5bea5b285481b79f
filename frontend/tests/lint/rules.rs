//! One table for each rule: a file, and the words that the rule points at.

use rbuild_frontend::PlanOptions;
use rbuild_frontend::lint::Rule;

use super::{findings, options, places};

fn check(rule: Rule, text: &str, expected: &[&str]) {
    check_with(rule, text, &options(), expected);
}

fn check_with(rule: Rule, text: &str, options: &PlanOptions, expected: &[&str]) {
    let found = findings(rule, text, options);
    assert_eq!(places(text, &found), expected, "{text}\n{found:#?}");
}

/// The advice of the only finding.
fn help(rule: Rule, text: &str, options: &PlanOptions) -> String {
    let found = findings(rule, text, options);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    found[0].help.clone().expect("advice")
}

#[test]
fn stage_names_are_in_small_letters() {
    let check = |text: &str, expected: &[&str]| check(Rule::StageNameCasing, text, expected);
    check("FROM scratch AS base\n", &[]);
    check("FROM scratch\n", &[]);
    check("FROM scratch AS Base\n", &["Base"]);
    check("FROM scratch AS BASE\nFROM base AS b-2\nFROM scratch AS Other\n", &["BASE", "Other"]);
    check("FROM scratch AS \\\n  Base\n", &["Base"]);
}

#[test]
fn as_is_written_like_from() {
    let check = |text: &str, expected: &[&str]| check(Rule::FromAsCasing, text, expected);
    check("FROM scratch AS a\n", &[]);
    check("from scratch as a\n", &[]);
    check("FROM scratch\n", &[]);
    check("FROM scratch as a\n", &["as"]);
    check("from scratch AS a\n", &["AS"]);
    check("FROM scratch As a\n", &["As"]);
    // FROM itself is the finding here.
    check("From scratch as a\n", &[]);
    check("FROM --platform=$BUILDPLATFORM scratch as a\n", &["as"]);
}

#[test]
fn no_empty_line_stands_inside_an_instruction() {
    let check = |text: &str, expected: &[&str]| check(Rule::NoEmptyContinuation, text, expected);
    check("FROM debian\nRUN a \\\n  b\n", &[]);
    check("FROM debian\nRUN a \\\n# comment\n  b\n", &[]);
    check("FROM debian\nRUN a \\\n\n  b\n", &[""]);
    check("FROM debian\nRUN a \\\n \t \n  b\n", &[" \t "]);
    check("FROM debian\nRUN a \\\n\n\n  b \\\n\n  c\n", &[""]);
    check("FROM debian\nRUN a \\\n\n", &[""]);
    check("FROM debian\nRUN <<EOF\n\na\n\nEOF\n", &[]);
    check("FROM debian\n\nRUN a\n\n", &[]);
}

#[test]
fn instructions_are_written_alike() {
    let check = |text: &str, expected: &[&str]| check(Rule::ConsistentInstructionCasing, text, expected);
    check("FROM debian\nRUN a\n", &[]);
    check("from debian\nrun a\n", &[]);
    check("FROM debian\nrun a\nRUN b\n", &["run"]);
    check("FROM debian\nrun a\nrun b\n", &["FROM"]);
    check("FROM debian\nrun a\n", &["run"]);
    check("FROM debian\nRun a\nEntryPoint [\"b\"]\n", &["Run", "EntryPoint"]);
    // ARGs before the first FROM neither vote nor are judged.
    check("arg A=1\nARG B=1\nFROM debian\nRUN a\n", &[]);
    check("arg A=1\narg B=1\narg C=1\nFROM debian\nRUN a\n", &[]);
    check("FROM debian\nONBUILD run a\n", &[]);
}

#[test]
fn every_stage_has_a_name_of_its_own() {
    let check = |text: &str, expected: &[&str]| check(Rule::DuplicateStageName, text, expected);
    check("FROM scratch AS a\nFROM scratch AS b\nFROM scratch\nFROM scratch\n", &[]);
    check("FROM scratch AS a\nFROM scratch AS a\n", &["a"]);
    check("FROM scratch AS a\nFROM scratch AS A\nFROM scratch AS a\n", &["A", "a"]);
}

#[test]
fn no_stage_is_called_like_something_else() {
    let check = |text: &str, expected: &[&str]| check(Rule::ReservedStageName, text, expected);
    check("FROM scratch AS scratch2\n", &[]);
    check("FROM scratch AS scratch\n", &["scratch"]);
    check("FROM scratch AS Context\n", &["Context"]);
}

#[test]
fn commands_are_in_json_form() {
    let check = |text: &str, expected: &[&str]| check(Rule::JSONArgsRecommended, text, expected);
    check("FROM debian\nCMD [\"a\", \"b\"]\nENTRYPOINT [\"c\"]\n", &[]);
    check("FROM debian\nRUN a\nHEALTHCHECK CMD a\n", &[]);
    check("FROM debian\nCMD a b\n", &["a b"]);
    check("FROM debian\nENTRYPOINT  a && b \n", &["a && b"]);
    check("FROM debian\nSHELL [\"/bin/bash\", \"-c\"]\nCMD a b\n", &[]);
    check("FROM debian\nCMD a\nSHELL [\"/bin/bash\", \"-c\"]\n", &["a"]);
    check("FROM debian AS b\nSHELL [\"/bin/bash\", \"-c\"]\nFROM b\nCMD a\n", &[]);
    check("FROM shell\nCMD a\n", &[]);
    check("FROM unknown\nCMD a\n", &["a"]);
    check("FROM debian\nCMD ['a', 'b']\n", &["['a', 'b']"]);
    check("FROM debian\nCMD [\"a\",]\n", &["[\"a\",]"]);
}

#[test]
fn maintainer_is_deprecated() {
    let check = |text: &str, expected: &[&str]| check(Rule::MaintainerDeprecated, text, expected);
    check("FROM scratch\nLABEL org.opencontainers.image.authors=\"me\"\n", &[]);
    check("FROM scratch\nMAINTAINER me <me@example.com>\n", &["MAINTAINER"]);
    check("FROM scratch\nmaintainer me\nMAINTAINER you\n", &["maintainer", "MAINTAINER"]);
    let text = "FROM scratch\nMAINTAINER me <me@example.com>\n";
    assert_eq!(
        help(Rule::MaintainerDeprecated, text, &options()),
        "write `LABEL org.opencontainers.image.authors=\"me <me@example.com>\"`"
    );
}

#[test]
fn from_uses_declared_args() {
    let check = |text: &str, expected: &[&str]| check(Rule::UndefinedArgInFrom, text, expected);
    check("ARG TAG=12\nFROM debian:${TAG}\n", &[]);
    check("FROM --platform=$BUILDPLATFORM debian\n", &[]);
    check("FROM debian${TAG:-:12}\n", &[]);
    check("FROM debian${TAG}\n", &["${TAG}"]);
    check("ARG TAG\nFROM debian${TAG}\n", &[]);
    check("FROM x$TAG$OTHER\nFROM y${TAG}\n", &["$TAG", "$OTHER", "${TAG}"]);
    check("FROM --platform=linux/${ARCH}amd64 debian\n", &["${ARCH}"]);
    // Those of a stage are too late.
    check("FROM scratch\nARG TAG=12\nFROM debian$TAG\n", &["$TAG"]);
    // What is empty because of it is an error, and says so itself.
    check("FROM $BASE\n", &[]);
    assert_eq!(
        help(Rule::UndefinedArgInFrom, "ARG VERSION=12\nFROM debian${VERSIN}\n", &options()),
        "did you mean `VERSION`?"
    );
    assert_eq!(
        help(Rule::UndefinedArgInFrom, "FROM --platform=${BUILDPLATFROM}linux/amd64 debian\n", &options()),
        "did you mean `BUILDPLATFORM`?"
    );
}

#[test]
fn the_first_working_directory_is_absolute() {
    let check = |text: &str, expected: &[&str]| check(Rule::WorkdirRelativePath, text, expected);
    check("FROM debian\nWORKDIR /a\nWORKDIR b\n", &[]);
    check("FROM debian\nWORKDIR a\n", &["a"]);
    check("FROM debian\nWORKDIR a\nWORKDIR b\n", &["a"]);
    check("FROM debian AS x\nWORKDIR /a\nFROM x\nWORKDIR b\n", &[]);
    check("FROM debian AS x\nFROM x\nWORKDIR ./b/c\n", &["./b/c"]);
    check("FROM srv\nWORKDIR a\n", &["a"]);
    check("FROM debian\nENV D=/a E=b\nWORKDIR $D\nWORKDIR $E\n", &[]);
    check("FROM debian\nENV E=b\nWORKDIR $E\n", &["$E"]);
    assert_eq!(help(Rule::WorkdirRelativePath, "FROM srv\nWORKDIR a\n", &options()), "write `WORKDIR /srv/a`");
    assert_eq!(
        help(Rule::WorkdirRelativePath, "FROM unknown\nWORKDIR a\n", &options()),
        "write the whole path, for example `WORKDIR /a`"
    );
}

#[test]
fn variables_are_set_before_they_are_used() {
    let check = |text: &str, expected: &[&str]| check(Rule::UndefinedVar, text, expected);
    check("FROM debian\nENV A=1\nLABEL a=$A b=${A} c=$PATH d=$LANG\n", &[]);
    check("FROM debian\nARG A\nLABEL a=$A\n", &[]);
    check("FROM debian\nLABEL a=$A\n", &["$A"]);
    check("FROM debian\nLABEL a=x${A}y b=$B\n", &["${A}", "$B"]);
    check("FROM debian\nLABEL a=${A:-x} b=${B:+y} c=${C-z}\n", &[]);
    check("FROM debian\nLABEL a=${A#x} b=${B/x/y}\n", &["${A", "${B"]);
    check("FROM debian\nENV A=1 B=$A\n", &["$A"]);
    check("FROM debian\nENV AB=1\nLABEL a=$AB-$A\n", &["$A"]);
    check("FROM debian\nLABEL a=$A\nENV A=1\n", &["$A"]);
    check("FROM debian\nCOPY $A \\\n $B/c /d/\n", &["$A", "$B"]);
    check("FROM debian\nRUN --mount=target=/$A x $B\n", &["$A"]);
    check("FROM debian\nRUN echo $A\nCMD [\"$A\"]\n", &[]);
    check("FROM debian\nLABEL a=$TARGETARCH\nARG TARGETARCH\nLABEL b=$TARGETARCH\n", &["$TARGETARCH"]);
    check("ARG A=1\nFROM debian\nLABEL a=$A\n", &["$A"]);
    check("FROM debian\nCOPY <<EOF /a\nline\n$A ${B:-b}\nEOF\n", &["$A"]);
    check("FROM debian\nCOPY <<'EOF' /a\n$A\nEOF\n", &[]);
    check("FROM debian\nEXPOSE $P 80\n", &["$P"]);
    check("FROM debian\nONBUILD LABEL a=$A\n", &[]);
    // An image that is not known may define anything.
    check("FROM unknown\nLABEL a=$A\n", &[]);
    check("FROM unknown AS x\nFROM x\nLABEL a=$A\n", &[]);
    check("FROM unknown AS x\nFROM debian\nLABEL a=$A\n", &["$A"]);
    let advice =
        |text: &str, expected: &str| assert_eq!(help(Rule::UndefinedVar, text, &options()), expected, "{text}");
    advice("FROM debian\nENV VERSION=1\nLABEL a=$VERSOIN\n", "did you mean `VERSION`?");
    advice("ARG A=1\nFROM debian\nLABEL a=$A\n", "write `ARG A` in this stage before it is used");
    advice("FROM debian\nLABEL a=$SOMETHING\n", "declare it with `ARG SOMETHING` or `ENV SOMETHING=…`");
}

#[test]
fn what_only_counts_once_stands_there_once() {
    let check = |text: &str, expected: &[&str]| check(Rule::MultipleInstructionsDisallowed, text, expected);
    check("FROM debian\nCMD [\"a\"]\nENTRYPOINT [\"b\"]\nHEALTHCHECK NONE\n", &[]);
    check("FROM debian AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n", &[]);
    check("FROM debian\nCMD [\"a\"]\nCMD [\"b\"]\n", &["CMD"]);
    check(
        "FROM debian\nCMD [\"a\"]\nentrypoint [\"a\"]\nCMD [\"b\"]\nENTRYPOINT [\"b\"]\nCMD [\"c\"]\n",
        &["CMD", "entrypoint", "CMD"],
    );
    check("FROM debian\nHEALTHCHECK CMD a\nHEALTHCHECK NONE\n", &["HEALTHCHECK"]);
    // The first one is the one without effect.
    let text = "FROM debian\nCMD [\"a\"]\nCMD [\"b\"]\n";
    assert_eq!(findings(Rule::MultipleInstructionsDisallowed, text, &options())[0].span, Some(12..15));
}

#[test]
fn pairs_have_an_equals_sign() {
    let check = |text: &str, expected: &[&str]| check(Rule::LegacyKeyValueFormat, text, expected);
    check("FROM scratch\nENV a=b c=d\nLABEL a=\"b c\"\n", &[]);
    check("FROM scratch\nENV a b\n", &["a"]);
    check("FROM scratch\nLABEL some.key value and=more\n", &["some.key"]);
    check("FROM scratch\nENV a b=c d=e\n", &["a"]);
    check("FROM scratch\nONBUILD ENV a b\n", &[]);
}

#[test]
fn base_images_are_for_the_platform_of_the_build() {
    let check = |text: &str, expected: &[&str]| check(Rule::InvalidBaseImagePlatform, text, expected);
    check("FROM debian\n", &[]);
    check("FROM arm\n", &["arm"]);
    check("FROM arm:1 AS a\nFROM a\n", &["arm:1"]);
    check("FROM --platform=linux/arm64 arm\n", &[]);
    check("FROM --platform=linux/arm64/v8 arm\n", &[]);
    check("FROM unknown\n", &[]);
    check("FROM scratch\n", &[]);
}

#[test]
fn the_platform_of_the_build_need_not_be_said() {
    let check = |text: &str, expected: &[&str]| check(Rule::RedundantTargetPlatform, text, expected);
    check("FROM debian\n", &[]);
    check("FROM --platform=$BUILDPLATFORM debian\n", &[]);
    check("FROM --platform=$TARGETPLATFORM debian\n", &["$TARGETPLATFORM"]);
    check("FROM --platform=${TARGETPLATFORM} debian\n", &["${TARGETPLATFORM}"]);
    check("FROM --platform=${TARGETPLATFORM:-linux/arm64} debian\n", &["${TARGETPLATFORM:-linux/arm64}"]);
    check("FROM --platform=$TARGETOS/$TARGETARCH debian\n", &[]);
    check("FROM --platform=$TARGETPLATFORM/v2 debian\n", &[]);
    check("ARG TARGETPLATFORM=linux/arm64\nFROM --platform=$TARGETPLATFORM debian\n", &[]);
}

#[test]
fn secrets_are_no_variables() {
    let check = |text: &str, expected: &[&str]| check(Rule::SecretsUsedInArgOrEnv, text, expected);
    for name in ["TOKEN", "API_KEY", "apikey", "my_password", "AUTH", "GITHUB_TOKEN_2", "aws_secret_access_key"] {
        check(&format!("FROM scratch\nARG {name}\n"), &[name]);
        check(&format!("FROM scratch\nENV {name}=x\n"), &[name]);
    }
    for name in ["KEYS", "MONKEY", "AUTHOR", "PUBLIC_KEY", "PASSWORD_FILE", "TOKEN_VERSION", "TOKENIZER", "A_KEYFILE"] {
        check(&format!("FROM scratch\nARG {name}\nENV {name}=x\n"), &[]);
    }
    check("FROM scratch\nARG A TOKEN=1 B\nENV C=1 SECRET=2\n", &["TOKEN", "SECRET"]);
    check("FROM scratch\nLABEL TOKEN=1\n", &[]);
    check("ARG TOKEN\nFROM scratch\n", &[]);
}

#[test]
fn from_names_an_image_without_build_args() {
    let check = |text: &str, expected: &[&str]| {
        let options = PlanOptions { build_args: [("TAG".into(), "12".into())].into(), ..options() };
        check_with(Rule::InvalidDefaultArgInFrom, text, &options, expected);
    };
    check("ARG TAG=11\nFROM debian:${TAG}\n", &[]);
    check("ARG TAG\nFROM debian${TAG}\n", &[]);
    check("FROM debian:${TAG:-11}\n", &[]);
    check("ARG TAG\nFROM debian:${TAG:-11}\n", &[]);
    check("ARG TAG\nFROM debian:${TAG}\n", &["debian:${TAG}"]);
    check("ARG TAG=\nFROM debian:${TAG}\n", &["debian:${TAG}"]);
    check("ARG TAG\nFROM x${TAG}\n", &[]);
    check("FROM scratch AS x\nARG TAG\nFROM x\n", &[]);
    // Without the build arg it is an error.
    let text = "ARG TAG\nFROM debian:${TAG}\n";
    check_with(Rule::InvalidDefaultArgInFrom, text, &super::options(), &[]);
    assert!(!super::checked(text, &super::options()).passes());
}

#[test]
fn platforms_are_no_constants() {
    let check = |text: &str, expected: &[&str]| check(Rule::FromPlatformFlagConstDisallowed, text, expected);
    check("FROM --platform=$BUILDPLATFORM debian\n", &[]);
    check("FROM --platform=linux/arm64 debian\n", &["linux/arm64"]);
    check("FROM --platform=linux/arm64 debian AS tools\n", &["linux/arm64"]);
    check("FROM --platform=linux/arm64 debian AS tools-arm64\n", &[]);
    check("FROM --platform=linux/arm64 debian AS linux\n", &[]);
    check("FROM --platform=linux/$TARGETARCH debian\n", &[]);
}

#[test]
fn what_is_copied_is_in_the_context() {
    let check = |patterns: &[&str], source: &str, ignored: bool| {
        let options = PlanOptions {
            ignore_patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..options()
        };
        for keyword in ["COPY", "ADD"] {
            let text = format!("FROM debian\n{keyword} {source} /x/\n");
            let expected = if ignored { vec![source] } else { Vec::new() };
            check_with(Rule::CopyIgnoredFile, &text, &options, &expected);
        }
    };
    check(&[], "bin", false);
    check(&["bin"], "bin", true);
    check(&["bin"], "bin/app", true);
    check(&["bin"], "./bin/app", true);
    check(&["bin"], "/bin/", true);
    check(&["bin"], "binary", false);
    check(&["*.log"], "a.log", true);
    check(&["*.log"], "dir/a.log", false);
    check(&["**/*.log"], "dir/a.log", true);
    check(&["bin/app"], "bin", false);
    check(&["bin"], ".", false);
    check(&["*"], ".", true);
    check(&["**"], "/", true);
    check(&["*"], "a", true);
    check(&["*.log"], "*.log", true);
    check(&["bin"], "bin/*", true);
    check(&["*.log"], "*", false);
    check(&["a.log"], "*.log", false);
    check(&["*"], "*.txt", true);
    // What may be taken back is not judged.
    check(&["bin", "!bin/app"], "bin", false);
    check(&["*", "!src"], "bin", false);
    let options = PlanOptions { ignore_patterns: vec!["docs".into(), "b*".into()], ..options() };
    let check = |text: &str, expected: &[&str]| check_with(Rule::CopyIgnoredFile, text, &options, expected);
    check("FROM debian\nCOPY a bin docs/x /x/\n", &["bin", "docs/x"]);
    check("FROM debian\nENV D=docs\nCOPY $D/x /x\n", &["$D/x"]);
    check("FROM debian AS a\nFROM debian\nCOPY --from=a /bin /bin\n", &[]);
    check("FROM debian\nCOPY <<bin /x\nbin\n", &[]);
    let text = "FROM debian\nCOPY bin /x\n";
    let advice = "the ignore file excludes it by `b*`: take it back with a later line `!bin`";
    assert_eq!(help(Rule::CopyIgnoredFile, text, &options), advice);
}

#[test]
fn descriptions_begin_with_the_name() {
    let check = |text: &str, expected: &[&str]| {
        check(Rule::InvalidDefinitionDescription, text, &[]);
        let text = format!("# check=experimental=all\n\n{text}");
        check(Rule::InvalidDefinitionDescription, &text, expected);
    };
    check("# base is where all begins\nFROM scratch AS base\n", &[]);
    check("# about something else\n\nFROM scratch AS base\n", &[]);
    check("# where all begins\nFROM scratch AS base\n", &["where all begins"]);
    check("# where all begins\nFROM scratch\n", &[]);
    check("# base2 is another\nFROM scratch AS base\n", &["base2 is another"]);
    check("# the version\nARG VERSION=1\nFROM scratch\n", &["the version"]);
    check("# VERSION of it\nARG VERSION=1\nFROM scratch\n", &[]);
    check("# B is the second\nFROM scratch\n# B is the second\nARG A B=1\n", &[]);
    check("FROM scratch\n# anything\nRUN x\n", &[]);
    check("# check=skip=FromAsCasing\nFROM scratch AS a\n", &[]);
    check("# base is described\n# in two lines\nFROM scratch AS base\n", &[]);
    check("# two lines\n# about nothing\nFROM scratch AS Base\n", &["about nothing"]);
}

#[test]
fn protocols_are_in_small_letters() {
    let check = |text: &str, expected: &[&str]| check(Rule::ExposeProtoCasing, text, expected);
    check("FROM scratch\nEXPOSE 80 80/tcp 53/udp 7-9/sctp\n", &[]);
    check("FROM scratch\nEXPOSE 80/TCP\n", &["TCP"]);
    check("FROM scratch\nEXPOSE 53/udp 80/Tcp 7-9/SCTP\n", &["Tcp", "SCTP"]);
    check("FROM scratch\nENV P=80/TCP\nEXPOSE $P\n", &["$P"]);
}

#[test]
fn exposed_ports_are_those_of_the_container() {
    let check = |text: &str, expected: &[&str]| check(Rule::ExposeInvalidFormat, text, expected);
    check("FROM scratch\nEXPOSE 80 7-9/udp\n", &[]);
    check("FROM scratch\nEXPOSE 8080:80\n", &["8080"]);
    check("FROM scratch\nEXPOSE 127.0.0.1:8080:80/tcp 90\n", &["127.0.0.1:8080"]);
    check("FROM scratch\nEXPOSE [::1]:8080:80\n", &["[::1]:8080"]);
    check("FROM scratch\nENV P=8080:80\nEXPOSE $P\n", &["$P"]);
}

#[test]
fn rules_are_found_by_their_names_and_by_nearly_their_names() {
    for rule in Rule::ALL {
        assert_eq!(Rule::parse(rule.name()), Some(rule));
        assert_eq!(Rule::parse(&rule.name().to_lowercase()), None);
        assert_eq!(Rule::nearest(&rule.name()[1..]), Some(rule));
        assert!(rule.description().ends_with('.'), "{}", rule.description());
    }
    assert_eq!(Rule::nearest("Something"), None);
    let url = "https://docs.docker.com/reference/build-checks/json-args-recommended/";
    assert_eq!(Rule::JSONArgsRecommended.url(), url);
    let url = "https://docs.docker.com/reference/build-checks/from-as-casing/";
    assert_eq!(Rule::FromAsCasing.url(), url);
}
