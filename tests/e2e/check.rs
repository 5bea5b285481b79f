//! `rbuild check`, `build --check`, `build --call`: only looked at, by whoever may read it.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Context, Outcome, Store, tree};

/// A file with two findings that can be mended and one that cannot.
const FINDINGS: &str = "FROM scratch\nENV A b\nEXPOSE 80/TCP\nCMD [\"a\"]\nCMD [\"b\"]\n";
/// The same, mended.
const MENDED: &str = "FROM scratch\nENV A=b\nEXPOSE 80/tcp\nCMD [\"a\"]\nCMD [\"b\"]\n";

/// `rbuild WORDS… CONTEXT`.
fn rbuild(store: &Store, words: &[&str], context: &Context) -> Outcome {
    store.rbuild(words.iter().map(|word| word.as_ref()).chain([context.path().as_os_str()]))
}

/// Runs a command as a user who has no rights and no network.
fn as_ordinary_user(inner: &Command) -> Outcome {
    let mut command = Command::new("unshare");
    command.args(["--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"]);
    command.arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(inner.get_current_dir().expect("commands have one"));
    Outcome::of(&mut command)
}

fn give_away(path: &Path) {
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("the tests run as root");
}

fn read(context: &Context, name: &str) -> String {
    std::fs::read_to_string(context.path().join(name)).expect("it is there")
}

#[test]
fn findings_are_results_and_decide_the_exit_code() {
    let store = Store::new();
    let found = rbuild(&store, &["check"], &Context::new(FINDINGS)).exits(1);
    for words in ["warning[LegacyKeyValueFormat]", "--> Dockerfile:2:", "3 warnings; 2 can be mended with --fix\n"] {
        assert!(found.stdout.contains(words), "{words}: {found}");
    }
    assert_eq!(found.stderr, "");
    let found = rbuild(&store, &["check"], &Context::new("FROM scratch\n")).ok();
    assert_eq!((found.stdout.as_str(), found.stderr.as_str()), ("no findings\n", ""));
    let found = rbuild(&store, &["check"], &Context::new("FROM scratch\nCOYP a /\nRNU x\n")).exits(1);
    assert!(found.stdout.contains("`COPY`") && found.stdout.ends_with("2 errors\n"), "{found}");
    let skipped = Context::new(&format!("# check=skip=all\n{FINDINGS}"));
    rbuild(&store, &["check"], &skipped).ok();
    assert!(!store.root().exists(), "a check made a store");
}

#[test]
fn build_check_is_the_same_and_call_prints_what_can_be_asked() {
    let store = Store::new();
    let context = Context::new(FINDINGS);
    let expected = rbuild(&store, &["check"], &context).exits(1).stdout;
    for words in [["build", "--check"].as_slice(), &["--check", "-t", "x:1"], &["build", "--call=check"]] {
        assert_eq!(rbuild(&store, words, &context).exits(1).stdout, expected, "{words:?}");
    }
    rbuild(&store, &["--call=check,ignorestatus=true"], &context).ok();
    let json = rbuild(&store, &["--call=check,format=json"], &context).exits(1);
    let json: Value = serde_json::from_str(&json.stdout).expect("it is JSON");
    assert_eq!(json["warnings"][0]["ruleName"], "LegacyKeyValueFormat");

    let context = Context::new("# build makes it\nFROM scratch AS build\nARG VERSION=1\nFROM scratch AS app\n");
    let targets = rbuild(&store, &["--call=targets"], &context).ok();
    assert_eq!(targets.stdout, "TARGET          DESCRIPTION\nbuild           makes it\napp (default)\n");
    let outline = rbuild(&store, &["--call=outline,format=json", "--target=build"], &context).ok();
    let outline: Value = serde_json::from_str(&outline.stdout).expect("it is JSON");
    assert_eq!((&outline["args"][0]["name"], &outline["args"][0]["value"]), (&"VERSION".into(), &"1".into()));
    rbuild(&store, &["--call=outline", "--target=biuld"], &context).fails_saying(&["biuld", "build"]);
    rbuild(&store, &["--call=lines"], &context).fails_saying(&["--call", "outline"]);
    assert!(!store.root().exists(), "a call made a store");
}

#[test]
fn programs_read_sarif_and_annotations() {
    let store = Store::new();
    let context = Context::empty().file("sub/app.Dockerfile", FINDINGS);
    let check = |words: &[&str], variables: &[(&str, &str)]| {
        let mut command = store.command(["check", "-f", "sub/app.Dockerfile"].iter().chain(words).chain(&["."]));
        command.current_dir(context.path()).envs(variables.iter().copied());
        Outcome::of(&mut command).exits(1)
    };
    let sarif = check(&["--format", "sarif"], &[]);
    let sarif: Value = serde_json::from_str(&sarif.stdout).expect("it is JSON");
    let result = &sarif["runs"][0]["results"][0];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!((&sarif["version"], &result["ruleId"]), (&"2.1.0".into(), &"LegacyKeyValueFormat".into()));
    assert_eq!(place["artifactLocation"]["uri"], "sub/app.Dockerfile");
    assert_eq!(place["region"]["startLine"], 2);

    let annotations = check(&["--format=github"], &[]);
    let first = annotations.stdout.lines().next().unwrap_or_default();
    assert!(first.starts_with("::warning file=sub/app.Dockerfile,line=2,endLine=2,col="), "{annotations}");
    assert_eq!(annotations.stdout.lines().count(), 3, "{annotations}");

    // In a job, the log is for people and the runner finds its annotations in it too.
    let workspace = context.path().parent().expect("it has one").to_str().expect("the tests' path is text");
    let in_job = check(&[], &[("GITHUB_ACTIONS", "true"), ("GITHUB_WORKSPACE", workspace)]);
    let folder = context.path().file_name().expect("it has one").to_str().expect("the tests' path is text");
    assert!(in_job.stderr.starts_with(&format!("::warning file={folder}/sub/app.Dockerfile,line=2,")), "{in_job}");
    assert!(in_job.stdout.contains("warning[LegacyKeyValueFormat]") && !in_job.stdout.contains("::"), "{in_job}");
}

#[test]
fn failed_build_in_a_job_is_annotated() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nENV A b\nRUN false\n");
    let mut command = store.build_command(&context, ["--network=none"]);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_WORKSPACE", context.path());
    Outcome::of(&mut command).exits(1).says(&["\n::error file=Dockerfile,line=3,endLine=3,col=1,"]);
    let context = Context::new("FROM busybox\nENV A b\n");
    let mut command = store.build_command(&context, ["--network=none"]);
    command.env("GITHUB_ACTIONS", "1").env("GITHUB_WORKSPACE", context.path());
    let built = Outcome::of(&mut command).ok();
    let built = built.says(&["\n::warning file=Dockerfile,line=2,", "title=LegacyKeyValueFormat::"]);
    assert_eq!(built.stdout, "");
    store.build(&context, ["--network=none"]).ok().says(&["warning[LegacyKeyValueFormat]"]).never_says(&["::warning"]);
}

#[test]
fn many_warnings_of_a_build_are_counted() {
    let store = Store::new();
    let lines: String = (0..50).map(|n| format!("ENV A{n} b\n")).collect();
    let built = store.build(&Context::new(&format!("FROM scratch\n{lines}")), ["-t", "x:1"]).ok();
    let built = built.says(&["note: and 30 more; `rbuild check` shows all"]);
    assert_eq!(built.stderr.matches("warning[LegacyKeyValueFormat]").count(), 20, "{built}");
}

#[test]
fn whoever_may_read_the_file_may_check_it() {
    let store = Store::new();
    let context = Context::new("FROM base.invalid/image:1\nENV A b\n");
    for dir in [context.path(), store.path("").as_path(), store.home().as_path()] {
        give_away(dir);
    }
    let words = ["check".as_ref(), context.path().as_os_str()];
    let found = as_ordinary_user(&store.command(words)).exits(1);
    assert!(found.stdout.ends_with("1 warning; 1 can be mended with --fix\n") && found.stderr.is_empty(), "{found}");
    // Without a home there is no store to look into, which is no obstacle.
    let mut homeless = store.command(words);
    homeless.env_remove("HOME").env_remove("RBUILD_ROOT");
    as_ordinary_user(&homeless).exits(1);
    // Nor is a store of somebody else.
    store.rbuild(["images"]).ok();
    as_ordinary_user(&store.command(words)).exits(1);
    assert_eq!(std::fs::metadata(store.root()).expect("root made it").uid(), 0);
    let names = tree::list(&store.home());
    assert!(names.is_empty(), "a check left {names:?}");
}

#[test]
fn no_registry_is_asked() {
    let registry = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = registry.local_addr().expect("it listens");
    let store = Store::new();
    let context = Context::new(&format!("FROM {address}/image:1\nCOPY --from={address}/other:1 /a /a\n"));
    rbuild(&store, &["check"], &context).ok();
    rbuild(&store, &["--call=outline"], &context).ok();
    registry.set_nonblocking(true).expect("it is a socket");
    assert_eq!(registry.accept().map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    for context in ["https://host.invalid/x.git", "https://host.invalid/x.tar"] {
        store.rbuild(["check", context]).fails_saying(&["would have to be fetched", "help"]);
    }
}

#[test]
fn store_that_is_there_is_asked() {
    let store = Store::with_busybox();
    store.build(&Context::new("FROM busybox\nENV KNOWN=1\n"), ["-t", "base:1"]).ok();
    let context = Context::new("FROM base:1\nRUN echo $KNOWN $UNKNOWN\nENV X=$KNOWN\nENV Y=$UNKNOWN\n");
    let found = rbuild(&store, &["check"], &context).exits(1);
    assert!(found.stdout.contains("UNKNOWN") && found.stdout.ends_with("\n1 warning\n"), "{found}");
    let elsewhere = Store::new();
    rbuild(&elsewhere, &["check"], &context).ok();
    assert!(!elsewhere.root().exists(), "a check made a store");
}

#[test]
fn name_that_looks_like_a_misspelt_stage_is_doubted() {
    let store = Store::new();
    let context = Context::new("FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /a /a\n");
    let found = rbuild(&store, &["check"], &context).ok();
    let expected = "note: `biuld` is taken for an image, and is not looked up\n --> Dockerfile:3:13\n";
    assert!(found.stdout.starts_with(expected) && found.stdout.contains("did you mean `build`?"), "{found}");
}

#[test]
fn mended_file_is_written_back_and_shown() {
    let store = Store::new();
    let context = Context::new(FINDINGS);
    let mended = rbuild(&store, &["check", "--fix"], &context).exits(1);
    assert_eq!(read(&context, "Dockerfile"), MENDED);
    let diff =
        "--- Dockerfile\n+++ Dockerfile\n@@ -2,2 +2,2 @@\n-ENV A b\n-EXPOSE 80/TCP\n+ENV A=b\n+EXPOSE 80/tcp\n\n";
    assert!(mended.stdout.starts_with(diff), "{mended}");
    assert!(mended.stdout.ends_with("2 mended; left: 1 warning\n"), "{mended}");
    let again = rbuild(&store, &["check", "--fix"], &context).exits(1);
    assert!(again.stdout.ends_with("nothing to mend; left: 1 warning\n"), "{again}");
    let context = Context::new("FROM scratch\nENV A b\n");
    let mended = rbuild(&store, &["check", "--fix", "--format=json"], &context).ok().says(&["1 mended; nothing left"]);
    let json: Value = serde_json::from_str(&mended.stdout).expect("it is JSON");
    assert_eq!(json["warnings"], Value::Array(Vec::new()));
}

#[test]
fn mending_keeps_what_the_file_is() {
    let store = Store::new();
    // Line ends of Windows, a mark in front, no line break at the end; behind a link; a mode and an owner of its own.
    let context = Context::empty().file("real", "\u{feff}FROM scratch\r\nENV A b\r\nEXPOSE 80/TCP");
    let file = context.path().join("real");
    symlink("real", context.path().join("Dockerfile")).expect("it is new");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o664)).expect("it is ours");
    std::os::unix::fs::chown(&file, Some(12), Some(34)).expect("the tests run as root");
    rbuild(&store, &["check", "--fix"], &context).ok();
    assert_eq!(read(&context, "real"), "\u{feff}FROM scratch\r\nENV A=b\r\nEXPOSE 80/tcp");
    let facts = std::fs::metadata(&file).expect("it is there");
    assert_eq!((facts.mode() & 0o7777, facts.uid(), facts.gid()), (0o664, 12, 34));
    assert!(context.path().join("Dockerfile").is_symlink());
    assert_eq!(std::fs::read_dir(context.path()).expect("it is ours").count(), 2, "something was left beside the file");
}

#[test]
fn what_cannot_be_mended_or_written_is_left_alone() {
    let store = Store::new();
    let faulty = Context::new("FROM scratch\nENV A b\nCOYP x /\n");
    let found = rbuild(&store, &["check", "--fix"], &faulty).exits(1).says(&["note: nothing was mended"]);
    assert!(found.stdout.contains("unknown instruction `COYP`"), "{found}");
    assert_eq!(read(&faulty, "Dockerfile"), "FROM scratch\nENV A b\nCOYP x /\n");

    // An ordinary user in somebody else's folder.
    let context = Context::new(FINDINGS);
    std::fs::set_permissions(context.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    give_away(&context.path().join("Dockerfile"));
    give_away(&store.path(""));
    let command = store.command(["check".as_ref(), "--fix".as_ref(), context.path().as_os_str()]);
    let refused = as_ordinary_user(&command).fails_saying(&["cannot be written back", "ermission denied", "-f -"]);
    assert_eq!(refused.stdout, "");
    assert_eq!(read(&context, "Dockerfile"), FINDINGS);
}

#[test]
fn mending_is_a_filter_too() {
    let store = Store::new();
    let filter = |words: &[&str], text: &str| {
        let input = store.path("input");
        std::fs::write(&input, text).expect("the folder is ours");
        let mut command = store.command(words);
        Outcome::of(command.stdin(std::fs::File::open(&input).expect("it was written")))
    };
    for words in [["check", "--fix", "-f", "-", "."].as_slice(), &["check", "--fix", "-"]] {
        let mended =
            filter(words, FINDINGS).exits(1).says(&["MultipleInstructionsDisallowed", "2 mended; left: 1 warning"]);
        assert_eq!(mended.stdout, MENDED, "{words:?}");
    }
    assert!(filter(&["check", "-"], FINDINGS).exits(1).stdout.contains("--> <stdin>:2:5"));
    filter(&["check", "--fix", "--format=json", "-"], FINDINGS).fails_saying(&["standard output", "--format"]);
    filter(&["check", "-"], &"\0".repeat(1024)).fails_saying(&["an archive on standard input", "unpack"]);
}

#[test]
fn bad_usage_is_told_with_advice() {
    let store = Store::new();
    store.rbuild(["check"]).fails_saying(&["CONTEXT", "rbuild check ."]);
    store.rbuild(["check", "--format=xml", "."]).fails_saying(&["xml", "sarif"]);
    store.rbuild(["check", "./no-such"]).fails_saying(&["no-such", "help"]);
    store.rbuild(["chekc"]).fails_saying(&["`rbuild check`"]);
    rbuild(&store, &["check"], &Context::empty()).fails_saying(&["no Dockerfile", "-f FILE"]);
    rbuild(&store, &["check", "--fxi"], &Context::empty()).fails_saying(&["--fix"]);
}

#[test]
fn text_of_others_drives_no_terminal() {
    let store = Store::new();
    let context = Context::new("FROM scratch\nENV A \x1b]0;owned\x07\u{202e}\nLABEL x \u{9b}2J\n");
    for format in ["text", "json", "sarif", "github"] {
        let found = rbuild(&store, &["check", "--format", format], &context).exits(1);
        let drives = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!found.stdout.contains(drives) && !found.stderr.contains(drives), "{format}: {found:?}");
    }
    let mended = rbuild(&store, &["check", "--fix"], &context).ok();
    assert!(!mended.stdout.contains(|c: char| c != '\n' && c.is_control()), "{mended:?}");
    assert!(read(&context, "Dockerfile").contains("\x1b]0;owned"), "the file itself keeps its bytes");
}
