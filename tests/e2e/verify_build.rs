//! `rbuild verify-build`: what builds the same twice passes, what does not is explained, and nothing is left behind.

mod against;
mod anywhere;

use serde_json::Value;

use crate::support::registry::Registry;
use crate::support::{Context, Outcome, Store};

/// Verifies `context`; `args` stand in front of it.
fn verify(store: &Store, context: &Context, args: &[&str]) -> Outcome {
    let mut words = vec!["verify-build", "--progress=plain", "--network=none"];
    words.extend(args);
    let path = context.path().display().to_string();
    words.push(&path);
    store.rbuild(words)
}

/// Standard output must hold all these words.
#[track_caller]
fn tells(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.stdout.contains(word), "`{word}` is not told: {outcome}");
    }
}

#[test]
fn what_is_the_same_twice_is_reproducible_and_nothing_of_it_stays() {
    let store = Store::with_busybox();
    let before = store.rbuild(["images", "-q"]).ok().stdout;
    let context = Context::new(
        "FROM busybox AS one\nRUN echo 1 > /one && mkdir /d && ln /one /d/two\nFROM busybox\nCOPY a /a\n\
         COPY --from=one /d /d\nRUN umask > /umask && rm /a && echo ran >> /d/two\n",
    )
    .file("a", "a");
    let outcome = verify(&store, &context, &["-t", "app:1"]).ok();
    tells(&outcome, &["reproducible: sha256:", "umask 077", "s later"]);
    let outcome = outcome.says(&["`SOURCE_DATE_EPOCH` is not set: both builds got 0"]);
    assert!(outcome.stderr.contains("first build: ") && outcome.stderr.contains("second build: "), "{outcome}");
    // The very image that a build with that epoch makes.
    let metadata = store.path("metadata.json");
    let file = metadata.display().to_string();
    let output = format!("type=oci,dest={}", store.path("app.tar").display());
    store.build(&context, ["--source-date-epoch=0", "--metadata-file", &file, "-o", &output]).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("it was written")).expect("JSON");
    let digest = metadata["containerimage.digest"].as_str().expect("a digest");
    tells(&outcome, &[&format!("reproducible: {digest}\n")]);
    let given = verify(&store, &context, &["--source-date-epoch=7"]).ok().never_says(&["is not set"]);
    assert!(!given.stdout.contains(digest), "another epoch, another image: {given}");
    store.rbuild(["prune", "--force"]).ok();
    assert_eq!(store.rbuild(["images", "-q"]).ok().stdout, before, "no image is kept");
    assert_eq!(store.drafts().len(), 0, "nothing is left behind");
}

#[test]
fn what_differs_is_explained_with_its_step_and_a_usual_reason() {
    let store = Store::with_busybox();
    let check = |step: &str, words: &[&str]| {
        let context = Context::new(&format!("FROM busybox\nRUN echo fixed > /fixed\nRUN {step}\n"));
        let outcome = verify(&store, &context, &[]).exits(2);
        tells(&outcome, &["not reproducible: two builds gave two images\n", "  first  sha256:", "(Dockerfile:3)\n"]);
        tells(&outcome, words);
        assert!(!outcome.stdout.contains("Dockerfile:2"), "the step above is the same: {outcome}");
    };
    let rows: [(&str, &[&str]); 8] = [
        ("date > /f", &["  f\n    bytes: `", "from byte ", "line 1 on", "looks like a time"]),
        ("head -c 32 /dev/urandom | sha256sum > /id", &["  id\n", "looks random"]),
        ("head -c 999 /dev/urandom > /noise", &["  noise\n    bytes: `999 bytes", "from byte 0 on"]),
        ("date > /usr/x.pyc", &["  usr/x.pyc\n", "bytecode"]),
        ("date | gzip > /f.gz", &["  f.gz\n", "compressed: what is inside differs"]),
        ("touch /new-$(date +%s)", &["a file in the first image only", "a file in the second image only"]),
        (
            ": > /f && chmod $(printf %o $(( $(date +%s) % 512 ))) /f && chown $(date +%s) /f && ln -s $(date +%s) /l",
            &["  f\n    mode: `0", "    owner: `1", "  l\n    target: `1", "help: set it (`chmod`)"],
        ),
        ("for n in $(seq 30); do date > /f$n; done", &["  and 10 more\n"]),
    ];
    // Half of the time goes into waiting for another second.
    std::thread::scope(|scope| {
        for rows in rows.chunks(2) {
            scope.spawn(move || rows.iter().for_each(|(step, words)| check(step, words)));
        }
    });
    let context = Context::new("FROM busybox\nRUN echo same > /f\n");
    let times = verify(&store, &context, &["--true-times"]).exits(2);
    tells(&times, &["config\n  created: `2", "  f\n    time: `2", "without `SOURCE_DATE_EPOCH` files have the time"]);

    let context = Context::new("FROM busybox\nRUN date > /f\n");
    let json = verify(&store, &context, &["--format", "json"]).exits(2);
    let value: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let layer = &value["differences"]["images"][0]["layers"][0];
    assert_eq!((&value["reproducible"], &value["epoch"]["from"]), (&Value::from(false), &Value::from("assumed")));
    assert_eq!(
        (&layer["step"]["line"], &layer["entries"][0]["path"]),
        (&Value::from(2), &Value::from("f")),
        "{value:#}"
    );

    let failing = Context::new("FROM busybox\nRUN echo no && false\n");
    verify(&store, &failing, &[]).fails_saying(&["Dockerfile:2"]);
    let stdin = store.rbuild(["verify-build", "-"]);
    stdin.fails_saying(&["standard input", "name a folder"]);
    assert_eq!(store.drafts().len(), 0, "nothing is left behind");
}

#[test]
fn an_image_is_or_is_not_what_is_built_from_this() {
    let (store, registry) = (Store::with_busybox(), Registry::open());
    let context = Context::new("FROM busybox\nRUN echo 1 > /one\nCOPY a /a\nLABEL x=y\n").file("a", "a");
    let (archive, zstd) = (store.path("app.tar"), store.path("zstd.tar"));
    let (archive, zstd) = (archive.display().to_string(), zstd.display().to_string());
    let outputs =
        [format!("type=oci,dest={archive}"), format!("type=oci,compression=zstd,force-compression=true,dest={zstd}")];
    let pushed = registry.name("app:1");
    let push = format!("type=registry,name={pushed}");
    let epoch = "--source-date-epoch=1600000000";
    store.build(&context, [epoch, "-o", &outputs[0], "-o", &outputs[1], "-o", &push]).ok();
    store.build(&context, [epoch, "-t", "app:1"]).ok();

    let is = |against: &str, words: &[&str]| {
        // Its time is found in it.
        let outcome = verify(&store, &context, &["--against", against]).ok().says(&["taken to be 1600000000"]);
        tells(&outcome, &[&format!("{} is built from this", against.replace(":latest", ""))]);
        tells(&outcome, words);
    };
    is("app:1", &[]);
    is(&archive, &[": sha256:"]);
    is(&zstd, &["only its manifest is another", "compressed otherwise"]);
    is(&pushed, &[": sha256:"]);

    context.write("a", "changed");
    for against in [&archive, &pushed] {
        let other = verify(&store, &context, &["--against", against]).exits(2);
        tells(
            &other,
            &[
                "is not what is built from this",
                "layer 3: COPY a /a",
                "(Dockerfile:3)",
                "  a\n    bytes: `",
                "- changed",
                "+ a",
            ],
        );
        assert!(!other.stdout.contains("layer 2"), "{other}");
    }
    context.write("Dockerfile", "FROM busybox\nRUN echo 1 > /one\nCOPY a /a\nLABEL x=z\n");
    context.write("a", "a");
    let other = verify(&store, &context, &["--against", "app:1"]).exits(2);
    tells(&other, &["config\n", "  config.Labels.x: `z` and `y`\n"]);
    assert!(!other.stdout.contains("layer "), "{other}");
    verify(&store, &context, &["--against", "./missing.tar"]).fails_saying(&["missing.tar"]);
}

#[test]
fn platforms_that_stand_on_one_name_are_verified_together() {
    let registry = Registry::open();
    let (store, name) = (Store::new(), registry.name("base:1"));
    let platforms = "--platform=linux/amd64,linux/arm64";
    let base = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    let base = base.file("amd64", "amd64").file("arm64", "arm64");
    let metadata = store.path("metadata.json");
    let file = metadata.display().to_string();
    store.build(&base, [platforms, "-t", &name, "--push", "--metadata-file", &file]).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("it was written")).expect("JSON");
    let digest = metadata["containerimage.digest"].as_str().expect("a digest");
    let pinned = registry.name(&format!("base@{digest}"));
    // Who built the base, and who gets it from the registry.
    for store in [&store, &Store::new()] {
        for base in [&name, &pinned] {
            let context = Context::new(&format!("FROM {base} AS base\nFROM base\nCOPY new /\n")).file("new", "new");
            let outcome = verify(store, &context, &[platforms]).ok();
            tells(&outcome, &["reproducible: sha256:"]);
        }
    }
}
