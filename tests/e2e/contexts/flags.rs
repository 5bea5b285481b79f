//! Flags about the same: annotations, steps without the cache, files of build arguments.

use super::*;

#[test]
fn annotations_stand_in_the_manifest() {
    let store = Store::new();
    let out = store.path("a.tar");
    let dest = format!("type=oci,dest={}", out.display());
    let context = Context::new("FROM scratch\nCOPY a /\n").file("a", "a");
    let words =
        ["--annotation", "a.b=1", "--annotation", "manifest,manifest-descriptor:c=2", "--annotation", "index:d=3"];
    let built = store.build(&context, words.iter().chain(["-o", dest.as_str()].iter()).map(OsStr::new)).ok();
    built.says(&["no index", "`index`"]);
    let archive = Archive::read(&out);
    assert_eq!(archive.manifest["annotations"], serde_json::json!({"a.b": "1", "c": "2"}));
    let mut tar = tar::Archive::new(std::fs::File::open(&out).expect("it was written"));
    let mut entries = tar.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let index = entries.find(|entry| entry.path().expect("a name").ends_with("index.json")).expect("there is one");
    let index: serde_json::Value = serde_json::from_reader(index).expect("JSON");
    assert_eq!(index["manifests"][0]["annotations"]["c"], "2");
}

#[test]
fn stages_can_be_run_without_the_cache() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox AS one\nRUN echo one > /1; echo ran-one\nFROM busybox AS two\nRUN echo ran-two\nCOPY --from=one /1 /\n",
    );
    store.build(&context, ["-t", "x:1"]).ok();
    let check = |words: &[&str], one: usize, two: usize| {
        let built = store.build(&context, words).ok();
        assert_eq!((built.lines_of_steps("ran-one"), built.lines_of_steps("ran-two")), (one, two), "{built}");
    };
    check(&[], 0, 0);
    check(&["--no-cache-filter", "One"], 1, 0);
    check(&["--no-cache-filter", "two"], 0, 1);
    check(&["--no-cache-filter", "one,two"], 1, 1);
}

#[test]
fn build_arguments_come_from_files_too() {
    let store = Store::with_busybox();
    std::fs::write(store.path("args"), "# words\nA=file\nB=file\n").expect("it is ours");
    let context = Context::new("FROM busybox\nARG A\nARG B\nRUN echo got $A $B\n");
    let built = store.build(&context, ["--build-arg-file", "args", "--build-arg", "B=flag"]).ok();
    assert_eq!(built.lines_of_steps("got file flag"), 1, "{built}");
}
