//! Merged trees, and layers whose tars have other times than their trees.

use std::os::unix::fs::MetadataExt as _;

use store::TimeRule;

use super::*;

const EPOCH: i64 = 1_600_000_000;
/// What the tests' contexts and images are made with.
const OLD: i64 = crate::testing::BUILT;

impl Bench {
    async fn merge(&self, inputs: &[&ResultId]) -> ResultId {
        self.run(Op::Merge(MergeOp {}), inputs).await.unwrap().remove(0)
    }

    async fn diff(&self, lower: Option<usize>, upper: Option<usize>, inputs: &[&ResultId]) -> Result<ResultId, String> {
        let result = self.run(Op::Diff(DiffOp { lower, upper }), inputs).await;
        result.map(|mut results| results.remove(0)).map_err(|error| words(&error))
    }

    async fn file(&self, kind: FileActionKind, onto: Option<&ResultId>) -> ResultId {
        let inputs: Vec<&ResultId> = onto.into_iter().collect();
        let action = FileAction { input: onto.map(|_| 0), secondary_input: None, output: Some(0), kind };
        self.run(Op::File(FileOp { actions: vec![action] }), &inputs).await.unwrap().remove(0)
    }

    fn blob(&self, id: &ResultId) -> Descriptor {
        self.worker.layers().ensure_blob(id, &Codec::new(Compression::Gzip), false).unwrap()
    }

    /// The layer with the epoch, on nothing.
    fn timed(&self, id: &ResultId) -> ResultId {
        let rule = Some(TimeRule { epoch: EPOCH });
        self.worker.store().derive_layer(None, id, rule, true).unwrap()
    }

    /// Members of a layer's tar with their times, the build's own shown as `epoch` and those of [`OLD`] as `old`.
    fn times(&self, id: &ResultId) -> Vec<String> {
        let mut tar = Vec::new();
        let layer = self.worker.store().layer(id).unwrap().unwrap();
        self.worker.layers().write_tar(&layer, &mut tar).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tar"), &tar).unwrap();
        let list = std::process::Command::new("tar")
            .args(["--list", "--verbose", "--utc", "--full-time", "--quoting-style=literal", "--file"])
            .arg(dir.path().join("tar"))
            .output()
            .unwrap();
        assert!(list.status.success());
        let line = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let time: Timestamp = format!("{}T{}Z", fields[3], fields[4]).parse().unwrap();
            let time = match time.as_second() {
                EPOCH => "epoch".to_owned(),
                OLD => "old".to_owned(),
                other => other.to_string(),
            };
            format!("{} {time}", fields[5])
        };
        String::from_utf8(list.stdout).unwrap().lines().map(line).collect()
    }
}

fn set_time(path: &Path, seconds: i64) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds.try_into().unwrap());
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn a_merged_layer_keeps_digest_and_blob_on_every_base() {
    let bench = Bench::new(&["a=A", "linked/b=B"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let bases = [bench.copy("/a", "/one", None, &context).await.unwrap(), bench.file(mkfile("/two", "2"), None).await];
    let linked = bench.copy("/linked", "/app/", None, &context).await.unwrap();
    let first = bench.merge(&[&bases[0], &linked]).await;
    assert_eq!(bench.merge(&[&bases[0], &linked]).await, first, "the same again");
    assert_eq!(bench.tree(&first), ["app/", "app/b=B", "one=A"]);
    let blob = bench.blob(&first);
    let diff_id = bench.chain(&first)[1].diff_id;
    assert!(diff_id.is_some());
    // Nothing is read for the second: its tree may even be gone.
    let name = bench.chain(&linked)[0].name.clone().unwrap();
    fs::remove_dir_all(bench.worker.store().layers_dir().join(name)).unwrap();
    let second = bench.merge(&[&bases[1], &linked]).await;
    assert_eq!(bench.chain(&second)[1].diff_id, diff_id);
    assert_eq!(bench.blob(&second), blob);
}

#[tokio::test]
async fn merging_keeps_one_record_for_each_and_hides_what_is_beneath() {
    let bench = Bench::new(&["d/a=A", "x=X"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let base = bench.copy("/", "/", None, &context).await.unwrap();
    let nothing = bench.copy("/none*", "/y", None, &context).await.unwrap();
    let first = bench.file(mkfile("/d/a", "other"), Some(&base)).await;
    let removed = FileActionKind::Rm { path: "/d/a".into(), allow_not_found: false, allow_wildcard: false };
    let second = bench.file(removed, Some(&first)).await;
    let merged = bench.merge(&[&base, &nothing, &second, &base]).await;
    let empty: Vec<bool> = bench.chain(&merged).iter().map(|layer| layer.empty).collect();
    assert_eq!(empty, [false, true, false, false, false, false]);
    assert_eq!(bench.tree(&merged), ["d/", "d/a=A", "x=X"], "the last is on top, whatever lies twice in the chain");
    let merged = bench.merge(&[&base, &second]).await;
    assert_eq!(bench.tree(&merged), ["d/", "x=X"], "deletions count");
    // What stands on a merged tree is a layer like any other.
    let top = bench.copy("/x", "/d/new", Some(&merged), &context).await.unwrap();
    assert_eq!(bench.tree(&top), ["d/", "d/new=X", "x=X"]);
    let scratch = ResultId(SCRATCH.into());
    assert_eq!(bench.merge(&[&scratch, &scratch]).await, scratch);
    assert_eq!(bench.tree(&bench.merge(&[&scratch, &second]).await), ["d/", "x=X"]);
    let error = bench.run(Op::Merge(MergeOp {}), &[&base, &context]).await.unwrap_err();
    assert!(words(&error).contains("a tree of the store is needed"), "{}", words(&error));
}

#[tokio::test]
async fn pulled_layers_are_merged_unread_and_unpacked_on_demand() {
    let bench = Bench::new(&[]);
    let (one, _) = bench.image(&[&["etc/os=1"]], Compression::Gzip);
    let (two, manifest) = bench.image(&[&["opt/x=X", "opt/gone=1"], &["opt/gone!", "opt/y=Y"]], Compression::Gzip);
    let one = bench.source(&one, &[]).await.unwrap();
    let two = bench.source(&two, &[]).await.unwrap();
    let merged = bench.merge(&[&one, &two]).await;
    let chain = bench.chain(&merged);
    assert!(chain.iter().all(|layer| layer.name.is_none() && layer.diff_id.is_some()));
    assert_eq!(chain[1..].iter().map(|layer| bench.blob(&layer.id)).collect::<Vec<_>>(), manifest.layers);
    assert_eq!(bench.tree(&merged), ["etc/", "etc/os=1", "opt/", "opt/x=X", "opt/y=Y"]);
}

#[tokio::test]
async fn a_difference_is_what_stands_on_the_lower_tree() {
    let bench = Bench::new(&["a=A"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let base = bench.copy("/a", "/base", None, &context).await.unwrap();
    let one = bench.file(mkfile("/one", "1"), Some(&base)).await;
    let two = bench.file(mkfile("/two", "2"), Some(&one)).await;
    let diff = bench.diff(Some(0), Some(1), &[&base, &two]).await.unwrap();
    assert_eq!(bench.tree(&diff), ["one=1", "two=2"]);
    assert_eq!(bench.chain(&diff).len(), 2);
    let whole = bench.diff(None, Some(0), &[&two]).await.unwrap();
    assert_eq!(bench.tree(&whole), ["base=A", "one=1", "two=2"]);
    assert_eq!(bench.diff(Some(0), Some(0), &[&two]).await.unwrap().as_str(), SCRATCH);
    for (lower, upper) in [(Some(1), Some(0)), (Some(0), None)] {
        let error = bench.diff(lower, upper, &[&base, &two]).await.unwrap_err();
        assert!(error.contains("one does not stand on the other is not supported yet"), "{error}");
    }
}

#[tokio::test]
async fn with_an_epoch_the_builds_own_times_become_it_and_others_stay() {
    let bench = Bench::new(&["ctx=C", "d/e=E"]);
    for name in ["ctx", "d/e", "d"] {
        set_time(&bench.dir.path().join("context").join(name), 1_111_111_111);
    }
    let (image, _) = bench.image(&[&["usr/lib/x=X", "etc/"]], Compression::Gzip);
    let base_source = SourceOp { identifier: image.clone(), attrs: BTreeMap::new() };
    let base = bench.source(&image, &[]).await.unwrap();
    let context = bench.source("local://context", &[]).await.unwrap();
    // Of a context everything, old as it is, directories and what was only copied up too.
    let action = FileAction { input: Some(0), secondary_input: Some(1), output: Some(0), kind: copy("/", "/usr/lib/") };
    let op = Op::File(FileOp { actions: vec![action] });
    let copied = bench.run_on(op, &[&base, &context], Some(&base_source)).await.unwrap().remove(0);
    assert_eq!(
        bench.times(&bench.timed(&copied)),
        ["usr/ epoch", "usr/lib/ epoch", "usr/lib/ctx epoch", "usr/lib/d/ epoch", "usr/lib/d/e epoch"]
    );
    // A step: what it makes, and what it carries over from the context; not what it takes from the base.
    let step = |path: &str, from: &str| {
        let both = vec![
            FileAction { input: Some(0), secondary_input: None, output: None, kind: mkfile_now(path) },
            FileAction { input: Some(2), secondary_input: Some(1), output: Some(0), kind: copy(from, "/etc/") },
        ];
        Op::File(FileOp { actions: both })
    };
    let inputs = [&base, &base];
    let made = bench.run_on(step("/new", "/usr/lib/x"), &inputs, Some(&base_source)).await.unwrap().remove(0);
    let plain = bench.times(&made);
    assert!(!plain.concat().contains("epoch"), "without an epoch times are true: {plain:?}");
    assert_eq!(bench.times(&bench.timed(&made)), ["etc/ epoch", "etc/x old", "new epoch"]);
    let made = bench.run(step("/new", "/usr/lib/ctx"), &[&copied, &copied]).await.unwrap().remove(0);
    assert_eq!(bench.times(&bench.timed(&made)), ["etc/ epoch", "etc/ctx epoch", "new epoch"]);
    // What comes from another stage comes with its heritage.
    let stage = bench.copy("/usr/lib/ctx", "/moved", Some(&base), &copied).await.unwrap();
    assert_eq!(bench.times(&bench.timed(&stage)), ["moved epoch"]);
}

fn mkfile_now(path: &str) -> FileActionKind {
    FileActionKind::MkFile { path: path.into(), mode: 0o644, data: Vec::new(), owner: None, timestamp: None }
}

#[tokio::test]
async fn a_layer_with_an_epoch_is_the_same_wherever_it_is_used() {
    let bench = Bench::new(&["a=A", "d/l -> ../a"]);
    let context = bench.source("local://context", &[]).await.unwrap();
    let built = bench.copy("/", "/app/", None, &context).await.unwrap();
    let timed = bench.timed(&built);
    let diff_id = bench.worker.layers().ensure_diff_id(&timed).unwrap();
    assert_ne!(diff_id, bench.worker.layers().ensure_diff_id(&built).unwrap());
    // The same with other times in the context.
    let other = Bench::new(&["a=A", "d/l -> ../a"]);
    set_time(&other.dir.path().join("context/a"), 1_234_567_890);
    let context = other.source("local://context", &[]).await.unwrap();
    let again = other.timed(&other.copy("/", "/app/", None, &context).await.unwrap());
    assert_eq!(other.worker.layers().ensure_diff_id(&again).unwrap(), diff_id);
    // To stand on it is to stand on what its tar says, not on the tree it came from.
    let view = bench.worker.view(&timed).unwrap();
    assert_eq!(show(view.fd(), false), ["app/", "app/a=A", "app/d/", "app/d/l -> ../a"]);
    let stat = rustix::fs::statat(view.fd(), "app/a", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(stat.st_mtime, EPOCH);
    let own = bench.chain(&timed)[0].name.clone().unwrap();
    assert_ne!(Some(own), bench.chain(&built)[0].name);
    let true_time = bench.worker.store().layers_dir().join(bench.chain(&built)[0].name.clone().unwrap());
    assert_eq!(fs::metadata(true_time.join("app/a")).unwrap().mtime(), OLD);
}
