//! Collection beside builds and pulls of other processes, and killed in the middle. Each test runs itself again as its
//! children: `CHILD` says which part to play.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci::content::put_bytes;
use oci::model::{Descriptor, media_type};
use rbuild_store::{Limit, Store, Wish};
use solver::seam::ResultId;

use crate::support::{BOOT, Place, content, diff, image, key, name, parts, place, remember, time};

const CHILD: &str = "RBUILD_STORE_TEST_CHILD";
const ROOT: &str = "RBUILD_STORE_TEST_ROOT";
/// How long processes build beside each other; longer in the soak run.
const SECONDS: &str = "RBUILD_SOAK_SECONDS";

fn part() -> Option<(String, PathBuf)> {
    let part = std::env::var(CHILD).ok()?;
    Some((part, std::env::var_os(ROOT).expect("the parent sets both").into()))
}

fn child(test: &str, part: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("gc_processes::{test}"), "--nocapture"])
        .env(CHILD, part)
        .env(ROOT, root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

fn open(root: &Path) -> Store {
    Store::open_in_boot(root, BOOT).expect("the store opens")
}

/// A step as a build does it: found, or run and recorded. What it stands on must be there in any case.
fn step(store: &Store, parent: Option<&ResultId>, text: &str) -> ResultId {
    let id = match store.lookup(&key(text)).expect("a look") {
        Some(found) => found[0].clone(),
        None => {
            let draft = store.draft().expect("a draft");
            std::fs::write(draft.fs().join("file"), text).expect("a file");
            let layer = store.add_built_layer(parent, Some(draft), time(1)).expect("a layer");
            remember(store, &key(text), &parts(text), std::slice::from_ref(&layer)).expect("remembered");
            layer
        }
    };
    assert_eq!(content(store, &id), text);
    id
}

/// A pulled layer with its blob, as `FROM` and an export see it.
fn pull(store: &Store, text: &str) -> ResultId {
    let (digest, size) = put_bytes(store.blobs(), text.as_bytes()).expect("a blob");
    let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
    let id = store.add_pulled_layer(None, diff(text), time(1), Some(&blob), None).expect("a layer");
    if store.layer(&id).expect("a look").expect("just added").name.is_none() {
        let draft = store.draft().expect("a draft");
        std::fs::write(draft.fs().join("file"), text).expect("a file");
        store.attach_tree(&id, draft).expect("a tree");
    }
    assert!(store.blobs().size(&digest).expect("a look").is_some(), "a blob that was put is there");
    id
}

fn build(root: &Path, process: &str, round: usize) {
    let store = open(root);
    let base = pull(&store, &format!("base {}", round % 3));
    let shared = step(&store, Some(&base), &format!("shared {}", round % 5));
    let own = step(&store, Some(&shared), &format!("{process} {round}"));
    let chain = store.chain(&own).expect("all that it stands on is there");
    assert!(chain.len() >= 2 && chain.iter().all(|layer| layer.name.is_some()), "{chain:?}");
    let app = image(&store, &format!("{process} {round}"), Some(&own));
    store.tag(&name(&format!("app:{process}")), &app).expect("a name");
    let found = store.image(&name(&format!("app:{process}"))).expect("a look").expect("just named");
    assert!(store.blobs().size(&found.manifest.digest).expect("a look").is_some());
    assert!(store.blobs().size(&found.config).expect("a look").is_some());
    store.sync().expect("synced");
    store.collect(Limit { max_bytes: 1 << 20, ..Limit::default() }).expect("collected");
}

/// Everything that is named is whole, and after a last collection there is nothing else.
fn check_whole(place: &Place, names: usize) {
    let store = place.open();
    let images = store.images().unwrap();
    assert_eq!(images.len(), names);
    for (name, image) in images {
        let chain = store.chain(image.top.as_ref().unwrap()).unwrap();
        assert!(chain.iter().all(|layer| layer.name.is_some()), "{name}: {chain:?}");
        assert!(store.blobs().size(&image.manifest.digest).unwrap().is_some(), "{name}");
    }
    drop(store);
    let store = place.open();
    assert_eq!(store.verify_blobs(2, &|_| {}).unwrap(), []);
    assert_eq!(store.verify_records().unwrap(), []);
    store.prune(&Wish::default(), false).unwrap();
    assert_eq!((place.names("tmp"), place.names("trash")), (vec![], vec![]));
    assert_eq!(place.names("records").len(), place.names("layers").len());
    let usage = store.usage().unwrap();
    assert!(usage.things.iter().all(|used| used.held.is_some() || used.kind == rbuild_store::Kind::Key), "{usage:?}");
}

#[test]
fn eight_processes_build_and_pull_while_two_collect() {
    if let Some((part, root)) = part() {
        let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(4);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut round = 0;
        while Instant::now() < end || round == 0 {
            match part.starts_with('c') {
                true => drop(open(&root).prune(&Wish::default(), false).expect("a collection")),
                false => build(&root, &part, round),
            }
            round += 1;
        }
        return;
    }
    let place = place();
    let parts = (0..8).map(|number| format!("b{number}")).chain(["c0".to_owned(), "c1".to_owned()]);
    let children: Vec<Child> =
        parts.map(|part| child("eight_processes_build_and_pull_while_two_collect", &part, &place.root)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    }
    check_whole(&place, 8);
}

#[test]
fn a_collection_killed_anywhere_leaves_a_store_that_is_whole() {
    const ROUNDS: usize = 25;
    if let Some((_, root)) = part() {
        loop {
            open(&root).prune(&Wish { all: true, ..Wish::default() }, false).expect("a collection");
        }
    }
    let place = place();
    for round in 0..ROUNDS {
        let store = place.open();
        let base = pull(&store, "base");
        let named = step(&store, Some(&base), "named");
        store.tag(&name("app:1"), &image(&store, "app", Some(&named))).unwrap();
        for number in 0..20 {
            let other = step(&store, Some(&named), &format!("other {number}"));
            store.add_image(&image(&store, &format!("nameless {number}"), Some(&other))).unwrap();
        }
        drop(store);
        // One, or two that take turns.
        let test = "a_collection_killed_anywhere_leaves_a_store_that_is_whole";
        let mut dying: Vec<Child> = (0..=round % 2).map(|_| child(test, "victim", &place.root)).collect();
        // It begins as soon as something is in the trash; how far it comes differs from round to round.
        let trash = place.root.join("trash");
        while std::fs::read_dir(&trash).unwrap().next().is_none() && dying[0].try_wait().unwrap().is_none() {
            std::hint::spin_loop();
            if place.names("layers").len() <= 2 {
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(300 * round as u64));
        dying.iter_mut().for_each(|child| child.kill().unwrap());
        for child in &mut dying {
            child.wait().unwrap();
        }
        let store = place.open();
        assert_eq!(store.verify_records().unwrap(), [], "round {round}");
        assert_eq!(store.verify_blobs(1, &|_| {}).unwrap(), [], "round {round}");
        assert_eq!(content(&store, &named), "named");
        // Whatever is still known can be used; whatever is not is built again by the next round.
        for number in 0..20 {
            if let Some(found) = store.lookup(&key(&format!("other {number}"))).unwrap() {
                assert_eq!(content(&store, &found[0]), format!("other {number}"));
                assert_eq!(store.chain(&found[0]).unwrap().len(), 3);
            }
        }
    }
    check_whole(&place, 1);
}

#[test]
fn a_damaged_index_comes_back_and_what_was_collected_does_not() {
    for damage in ["truncated", "zeroed", "deleted"] {
        let place = place();
        let store = place.open();
        let named = step(&store, None, "named");
        store.tag(&name("app:1"), &image(&store, "app", Some(&named))).unwrap();
        step(&store, None, "other");
        drop(store);
        place.open().prune(&Wish::default(), false).unwrap();
        let index = place.root.join("index.db");
        let bytes = std::fs::read(&index).unwrap();
        match damage {
            "truncated" => std::fs::write(&index, &bytes[..bytes.len() / 2]).unwrap(),
            "zeroed" => std::fs::write(&index, vec![0; bytes.len()]).unwrap(),
            _ => std::fs::remove_file(&index).unwrap(),
        }
        let store = match Store::open_in_boot(&place.root, "boot-2") {
            Ok(store) => store,
            Err(error) => panic!("{damage}: {error}"),
        };
        drop(store);
        let store = place.open_in("boot-2");
        store.prune(&Wish::default(), false).unwrap();
        assert!(store.lookup(&key("other")).unwrap().is_none(), "{damage}");
        assert_eq!(place.names("trash"), [""; 0], "{damage}");
    }
}
