//! What results hold, through the worker: when an operation reads what it once read, and when a result was there before.

use solver::seam::Read;
use store::Made;

use super::*;

impl Bench {
    async fn content(&self, result: &ResultId, read: &Read) -> Option<ContentDigest> {
        self.worker.content(result, read, &CancellationToken::new()).await.unwrap()
    }

    async fn chain_content(&self, result: &ResultId) -> ContentDigest {
        self.content(result, &Read::Chain).await.unwrap()
    }

    /// A layer of these lines on top of `parent`.
    fn built(&self, parent: Option<&ResultId>, lines: &[&str], on_base: bool) -> ResultId {
        let store = self.worker.store();
        let draft = store.draft().unwrap();
        build(draft.fs(), lines);
        let made = Made { on_base, ..Made::from(Timestamp::UNIX_EPOCH) };
        store.add_built_layer(parent, Some(draft), made).unwrap()
    }

    fn empty(&self, parent: &ResultId) -> ResultId {
        self.worker.store().add_built_layer(Some(parent), None, Timestamp::UNIX_EPOCH).unwrap()
    }

    /// Whether settling `fresh` with `known` gives `expected`.
    async fn settles(&self, fresh: &[&ResultId], known: &[&[&ResultId]], expected: &[&ResultId]) -> bool {
        let list = |ids: &[&ResultId]| ids.iter().map(|id| (*id).clone()).collect::<Vec<_>>();
        let known: Vec<_> = known.iter().map(|known| list(known)).collect();
        let settled = self.worker.settle(list(fresh), &known, &CancellationToken::new()).await.unwrap();
        settled == list(expected)
    }
}

fn selection(path: &str) -> Selection {
    Selection {
        path: path.into(),
        wildcard: true,
        allow_empty_wildcard: false,
        follow_symlinks: true,
        dir_contents_only: true,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        required_paths: Vec::new(),
    }
}

#[tokio::test]
async fn chains_are_the_same_when_their_layers_hold_the_same() {
    let bench = Bench::new(&[]);
    let one = bench.built(None, &["a=1", "d/b=2"], true);
    let same = bench.built(None, &["a=1", "d/b=2"], true);
    std::fs::File::open(bench.worker.store().layers_dir().join(bench.chain(&same)[0].name.as_ref().unwrap()).join("a"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let other = bench.built(None, &["a=1", "d/b=3"], true);
    let (first, second) = (bench.chain_content(&one).await, bench.chain_content(&same).await);
    assert_eq!(first, second, "times do not count");
    assert_ne!(first, bench.chain_content(&other).await);
    assert!(bench.chain(&one)[0].content.is_some(), "the digest of a layer is kept");
    let tops = [bench.built(Some(&one), &["t=1"], false), bench.built(Some(&same), &["t=1"], false)];
    assert_eq!(bench.chain_content(&tops[0]).await, bench.chain_content(&tops[1]).await);
    let elsewhere = bench.built(Some(&other), &["t=1"], false);
    assert_ne!(bench.chain_content(&tops[0]).await, bench.chain_content(&elsewhere).await);
    // History entries and records pair up, so a record counts even if it is empty.
    let idle = [bench.empty(&one), bench.empty(&same)];
    assert_eq!(bench.chain_content(&idle[0]).await, bench.chain_content(&idle[1]).await);
    assert_ne!(bench.chain_content(&idle[0]).await, first);
    // What is derived holds what its origin does, unless it has other times.
    let store = bench.worker.store();
    let moved = store.derive_layer(None, &one, None, true).unwrap();
    let timed = store.derive_layer(None, &one, Some(store::TimeRule { epoch: 5 }), true).unwrap();
    assert_eq!(bench.chain_content(&moved).await, first);
    assert_ne!(bench.chain_content(&timed).await, first);
    let scratch = ResultId(SCRATCH.into());
    assert_ne!(bench.chain_content(&scratch).await, first);
    let context = bench.source("local://context", &[]).await.unwrap();
    assert_eq!(bench.content(&context, &Read::Chain).await, None);
}

#[tokio::test]
async fn an_image_counts_by_its_layers_unpacked_or_not() {
    let bench = Bench::new(&[]);
    let (identifier, manifest) = bench.image(&[&["a=1"], &["b=2"]], Compression::Gzip);
    let image = bench.source(&identifier, &[]).await.unwrap();
    let (chain, whole) = (Read::Chain, Read::Selected(selection("/")));
    let before = [bench.content(&image, &chain).await, bench.content(&image, &whole).await];
    assert!(before.iter().all(Option::is_some));
    assert!(bench.chain(&image).iter().all(|layer| layer.name.is_none()), "nothing was unpacked for that");
    // The same layers under another name, with another config.
    let config = ImageConfig { author: "me".into(), ..ImageConfig::default() };
    let diff_ids = bench.chain(&image).iter().map(|layer| layer.diff_id.unwrap()).collect();
    let again =
        bench.publish_with(ImageConfig { rootfs: RootFs { diff_ids, ..RootFs::default() }, ..config }, manifest.layers);
    assert_ne!(again.0, identifier);
    let again = bench.source(&again.0, &[]).await.unwrap();
    assert_eq!(before[0], Some(bench.chain_content(&again).await));
    // A path of it is looked at.
    let path = Read::Selected(selection("/a"));
    let selected = bench.content(&image, &path).await;
    assert!(selected.is_some() && bench.chain(&image).iter().all(|layer| layer.name.is_some()));
    assert_eq!(before, [bench.content(&image, &chain).await, bench.content(&image, &whole).await]);
    let (other, _) = bench.image(&[&["a=1"], &["b=3"]], Compression::Gzip);
    let other = bench.source(&other, &[]).await.unwrap();
    assert_ne!(before[0], Some(bench.chain_content(&other).await));
    assert_eq!(bench.content(&other, &path).await, selected, "only what is selected counts");
}

#[tokio::test]
async fn an_image_that_was_built_here_counts_by_its_layers_too() {
    // Two images whose trees differ in times only: a step on the one must not end up on the other, whose layers the
    // config does not name.
    let bench = Bench::new(&[]);
    let bases: Vec<ResultId> = (0..2).map(|_| bench.built(None, &["a=1"], true)).collect();
    let as_stage = bench.chain_content(&bases[0]).await;
    assert_eq!(bench.chain_content(&bases[1]).await, as_stage);
    let mut tops = Vec::new();
    for (i, base) in bases.iter().enumerate() {
        let diff_id = DiffId(Digest::of(format!("tar {i}").as_bytes()));
        bench.worker.store().set_diff_id(base, diff_id, 1).unwrap();
        tops.push(bench.built(Some(base), &["t=1"], true));
        let blob = Descriptor::new(media_type::OCI_LAYER, diff_id.0, 1);
        let identifier = bench.publish(vec![diff_id], vec![blob]).0;
        let source = SourceOp { identifier, attrs: BTreeMap::new() };
        bench.worker.pin(&source, &Log::default(), &CancellationToken::new()).await.unwrap();
    }
    let digests = [bench.chain_content(&bases[0]).await, bench.chain_content(&bases[1]).await];
    assert_ne!(digests[0], digests[1]);
    assert_ne!(bench.chain_content(&tops[0]).await, bench.chain_content(&tops[1]).await);
}

#[tokio::test]
async fn what_is_selected_counts_with_its_owners_and_nothing_else() {
    let bench = Bench::new(&[]);
    let tree: &[&str] = &["a=1 644 1:2", "d/b=2", "d/c=3", "e/f=4", "l -> d"];
    let image = |changed: Option<(&'static str, &'static str)>| {
        let lines = tree.iter().map(|line| match changed {
            Some((old, new)) if *line == old => new,
            _ => *line,
        });
        bench.built(None, &lines.collect::<Vec<_>>(), true)
    };
    let base = image(None);
    let whole = selection("/");
    let at = |path: &str| selection(path);
    let excluding = |path: &str, out: &str| Selection { exclude_patterns: vec![out.into()], ..selection(path) };
    let named = |path: &str| Selection { dir_contents_only: false, ..selection(path) };
    let link = |path: &str| Selection { follow_symlinks: false, ..selection(path) };
    for (select, change, counts) in [
        (&at("/a"), ("a=1 644 1:2", "a=1 644 1:3"), true),
        (&at("/a"), ("a=1 644 1:2", "a=1 600 1:2"), true),
        (&at("/a"), ("a=1 644 1:2", "a=2 644 1:2"), true),
        (&at("/a"), ("a=1 644 1:2", "a=1 644 1:2 @user.k=v"), true),
        (&at("/a"), ("d/b=2", "d/b=3"), false),
        (&at("/d"), ("d/b=2", "d/b=3"), true),
        (&at("/d"), ("e/f=4", "e/f=5"), false),
        (&at("/l"), ("d/b=2", "d/b=3"), true),
        (&link("/l"), ("d/b=2", "d/b=3"), false),
        (&link("/l"), ("l -> d", "l -> e"), true),
        (&at("/?"), ("d/b=2", "d/b=3"), true),
        (&at("/?"), ("a=1 644 1:2", "a=2 644 1:2"), true),
        (&excluding("/d", "b"), ("d/b=2", "d/b=3"), false),
        (&excluding("/d", "b"), ("d/c=3", "d/c=4"), true),
        (&named("/d"), ("d/b=2", "d/b=3"), true),
        (&whole, ("e/f=4", "e/f=5"), true),
        (&whole, ("e/f=4", "e/g=4"), true),
    ] {
        let read = Read::Selected(select.clone());
        let before = bench.content(&base, &read).await;
        assert!(before.is_some(), "{select:?}");
        let differs = bench.content(&image(Some(change)), &read).await != before;
        assert_eq!(differs, counts, "{change:?} in {select:?}");
        assert_eq!(bench.content(&image(None), &read).await, before, "{select:?}");
    }
    // How the layers make up the tree does not count, nor what a layer above hides.
    let stacked = bench.built(
        Some(&bench.built(None, &["a=9", "d/b=2", "x=1"], true)),
        &["a=1 644 1:2", "d/c=3", "e/f=4", "l -> d", "x!"],
        false,
    );
    for select in [&whole, &at("/a"), &at("/d")] {
        let read = Read::Selected(select.clone());
        assert_eq!(bench.content(&stacked, &read).await, bench.content(&base, &read).await, "{select:?}");
    }
    let required = Selection { required_paths: vec!["b".into(), "gone".into()], ..selection("/d") };
    let malformed = Selection { path: "/[".into(), ..selection("/") };
    for nothing in [at("/gone"), at("/a/b"), at("/gone*"), required, malformed] {
        assert_eq!(bench.content(&base, &Read::Selected(nothing.clone())).await, None, "{nothing:?}");
    }
    let none_is_fine = Selection { allow_empty_wildcard: true, ..at("/gone*") };
    assert!(bench.content(&base, &Read::Selected(none_is_fine)).await.is_some());
    let scratch = ResultId(SCRATCH.into());
    assert!(bench.content(&scratch, &Read::Selected(whole)).await.is_some());
    assert_eq!(bench.content(&scratch, &Read::Selected(at("/a"))).await, None);
}

#[tokio::test]
async fn a_fresh_result_gives_way_to_a_known_one_that_is_the_same() {
    let bench = Bench::new(&[]);
    let store = bench.worker.store();
    let (base, elsewhere) = (bench.built(None, &["base=1"], true), bench.built(None, &["base=1"], true));
    let on = |parent: &ResultId, text: &str| bench.built(Some(parent), &[text], false);
    let known = on(&base, "f=1");
    let trees = || std::fs::read_dir(store.layers_dir()).unwrap().count();

    let before = trees();
    let fresh = on(&base, "f=1");
    let other = on(&base, "f=2");
    assert!(bench.settles(&[&fresh], &[&[&other], &[&known]], &[&known]).await);
    assert_eq!(store.layer(&fresh).unwrap(), None);
    assert_eq!(trees(), before + 1, "its tree is gone, and only that");
    assert_eq!(bench.tree(&known), ["base=1", "f=1"]);

    let known_empty = bench.empty(&base);
    let fresh = bench.empty(&base);
    assert!(bench.settles(&[&fresh], &[&[&known_empty]], &[&known_empty]).await);

    // Others stay.
    let from_context = {
        let draft = store.draft().unwrap();
        build(draft.fs(), &["f=1"]);
        let made = Made { from_context: true, ..Made::from(Timestamp::UNIX_EPOCH) };
        store.add_built_layer(Some(&base), Some(draft), made).unwrap()
    };
    let without_tree = on(&base, "f=1");
    std::fs::remove_dir_all(store.layers_dir().join(bench.chain(&without_tree)[1].name.as_ref().unwrap())).unwrap();
    for (candidate, why) in [
        (&on(&elsewhere, "f=1"), "another parent"),
        (&on(&base, "f=2"), "other content"),
        (&known_empty, "nothing"),
        (&bench.built(Some(&base), &["f=1"], true), "on an image"),
        (&from_context, "from a context"),
        (&without_tree, "its tree is gone"),
        (&ResultId("b-0000".into()), "no record"),
        (&ResultId(SCRATCH.into()), "nothing at all"),
    ] {
        let fresh = on(&base, "f=1");
        assert!(bench.settles(&[&fresh], &[&[candidate]], &[&fresh]).await, "{why}");
        assert!(store.layer(&fresh).unwrap().is_some(), "{why}");
    }

    // All outputs or none.
    let (one, two) = (on(&base, "f=1"), on(&elsewhere, "g=2"));
    let (known_two, wrong_two) = (on(&elsewhere, "g=2"), on(&elsewhere, "g=3"));
    let not_these: &[&[&ResultId]] = &[&[&known], &[&known, &wrong_two], &[&known_two, &known]];
    assert!(bench.settles(&[&one, &two], not_these, &[&one, &two]).await);
    assert!(store.layer(&one).unwrap().is_some() && store.layer(&two).unwrap().is_some());
    let these: &[&[&ResultId]] = &[&[&known, &wrong_two], &[&known, &known_two]];
    assert!(bench.settles(&[&one, &two], these, &[&known, &known_two]).await);
    assert_eq!((store.layer(&one).unwrap(), store.layer(&two).unwrap()), (None, None));
    // What is known already is not touched.
    assert!(bench.settles(&[&known], &[&[&known]], &[&known]).await);
    assert_eq!(bench.tree(&known), ["base=1", "f=1"]);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_digested() {
    let bench = Bench::new(&[]);
    let base = bench.built(None, &["a=1"], true);
    let cancel = CancellationToken::new();
    cancel.cancel();
    for read in [Read::Chain, Read::Selected(selection("/"))] {
        let error = bench.worker.content(&base, &read, &cancel).await.unwrap_err();
        assert!(matches!(error, ExecError::Canceled), "{error}");
    }
    assert_eq!(bench.chain(&base)[0].content, None);
}

#[tokio::test]
async fn digests_asked_for_at_once_are_made_and_come_to_an_end() {
    let bench = Bench::new(&[]);
    let mut top = bench.built(None, &["a=1"], true);
    for i in 0..20 {
        top = bench.built(Some(&top), &[&format!("f{i}=1")], false);
    }
    let cancel = CancellationToken::new();
    let reads = [Read::Chain, Read::Selected(selection("/")), Read::Selected(selection("/a"))];
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..60 {
        let (worker, top, read, cancel) = (bench.worker.clone(), top.clone(), reads[i % 3].clone(), cancel.clone());
        tasks.spawn(async move { (i % 3, worker.content(&top, &read, &cancel).await.unwrap()) });
    }
    let mut found: [Option<ContentDigest>; 3] = [None; 3];
    for (i, digest) in tasks.join_all().await {
        assert!(digest.is_some() && (found[i].is_none() || found[i] == digest));
        found[i] = digest;
    }
}
