//! Several processes on one store. Each test runs itself again as its children: `CHILD` says which part to play.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci::content::{ContentStore, put_bytes};
use oci::model::Digest;
use rbuild_store::Store;
use solver::seam::CacheStore as _;

use crate::support::{BOOT, built, content, diff, image, key, name, parts, place, remember, time};

const CHILD: &str = "RBUILD_STORE_TEST_CHILD";
const ROOT: &str = "RBUILD_STORE_TEST_ROOT";

/// The part this process plays, and the store: `None` in the test proper.
fn part() -> Option<(String, Store)> {
    let part = std::env::var(CHILD).ok()?;
    let root = PathBuf::from(std::env::var_os(ROOT).expect("the parent sets both"));
    Some((part, Store::open_in_boot(&root, BOOT).expect("the store opens")))
}

fn child(test: &str, part: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("processes::{test}"), "--nocapture"])
        .env(CHILD, part)
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// Tells the parent, then waits to be killed.
fn ready_to_die() -> ! {
    println!("READY");
    std::io::stdout().flush().expect("the parent listens");
    let _ = std::io::stdin().read(&mut [0]);
    panic!("the parent has died instead");
}

fn kill_when_ready(child: &mut Child) {
    let lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
    let ready = lines.map(|line| line.expect("text")).any(|line| line.ends_with("READY"));
    assert!(ready, "the child failed");
    child.kill().expect("it is alive");
    child.wait().expect("it is dead");
}

#[test]
fn sixteen_processes_share_a_store() {
    const PROCESSES: usize = 16;
    const ROUNDS: usize = 20;
    if let Some((part, store)) = part() {
        let base = store.add_pulled_layer(None, diff("base"), time(1), None, None).unwrap();
        store.attach_tree(&base, store.draft().unwrap()).unwrap();
        for round in 0..ROUNDS {
            let text = format!("{part} {round}");
            let layer = built(&store, Some(&base), &text);
            store.set_diff_id(&layer, diff(&text), 1).unwrap();
            remember(&store, &key(&text), &parts(&text), std::slice::from_ref(&layer)).unwrap();
            remember(&store, &key(&format!("shared {round}")), &parts("x"), std::slice::from_ref(&layer)).unwrap();
            assert_eq!(store.lookup(&key(&text)).unwrap(), Some(vec![layer.clone()]));
            assert!(store.lookup(&key(&format!("shared {round}"))).unwrap().is_some());
            put_bytes(store.blobs(), format!("blob {round}").as_bytes()).unwrap();
            store.tag(&name("app:shared"), &image(&store, &text, Some(&layer))).unwrap();
        }
        store.tag(&name(&format!("app:{part}")), &image(&store, &part, Some(&base))).unwrap();
        store.sync().unwrap();
        return;
    }
    let place = place();
    let children: Vec<Child> =
        (0..PROCESSES).map(|i| child("sixteen_processes_share_a_store", &format!("p{i}"), &place.root)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let store = place.open_in("boot-2");
    assert_eq!(store.notices(), [] as [String; 0], "all of it was synced");
    for process in 0..PROCESSES {
        for round in 0..ROUNDS {
            let text = format!("p{process} {round}");
            let layer = store.lookup(&key(&text)).unwrap().expect("recorded").remove(0);
            assert_eq!(content(&store, &layer), text);
            assert_eq!(store.chain(&layer).unwrap().len(), 2);
        }
    }
    assert_eq!(store.images().unwrap().len(), PROCESSES + 1);
    assert_eq!(place.names("layers").len(), PROCESSES * ROUNDS + 1);
    assert_eq!((place.names("tmp"), place.names("trash")), (vec![], vec![]));
}

#[test]
fn what_a_killed_process_was_making_is_swept_and_what_it_finished_stays() {
    if let Some((_, store)) = part() {
        let layer = built(&store, None, "finished");
        remember(&store, &key("k"), &parts("x"), &[layer]).unwrap();
        let draft = store.draft().unwrap();
        std::fs::create_dir_all(draft.fs().join("usr/bin")).unwrap();
        let mut blob = store.blobs().writer().unwrap();
        blob.write_all(b"half a blo").unwrap();
        ready_to_die();
    }
    let place = place();
    let witness = place.open();
    let alive = witness.draft().unwrap();
    let mut dying =
        child("what_a_killed_process_was_making_is_swept_and_what_it_finished_stays", "victim", &place.root);
    kill_when_ready(&mut dying);
    assert_eq!(place.names("tmp").len(), 3);
    let store = place.open();
    assert_eq!(place.names("tmp").len(), 1, "only what is alive");
    assert!(alive.fs().is_dir());
    assert_eq!(place.names("trash"), [] as [&str; 0]);
    assert_eq!(place.names("blobs/sha256"), [] as [&str; 0]);
    let layer = store.lookup(&key("k")).unwrap().expect("recorded").remove(0);
    assert_eq!(content(&store, &layer), "finished");
    assert!(store.blobs().open(&Digest::of(b"half a blo")).unwrap().is_none());
    witness.add_built_layer(None, Some(alive), time(1)).unwrap();
    assert_eq!(place.names("layers").len(), 2);
}

#[test]
fn a_process_killed_between_moving_a_tree_and_recording_it_leaves_nothing() {
    if let Some((_, store)) = part() {
        let draft = store.draft().unwrap();
        std::fs::write(draft.fs().join("file"), "x").unwrap();
        // Waits for the index, which the parent holds.
        let layer = store.add_built_layer(None, Some(draft), time(1));
        panic!("the parent let go of the index: {layer:?}");
    }
    let place = place();
    drop(place.open());
    let mut index = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
    let held = index.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    let layers = place.root.join("layers");
    rustix::fs::inotify::add_watch(&watch, &layers, rustix::fs::inotify::WatchFlags::MOVED_TO).unwrap();
    let mut dying =
        child("a_process_killed_between_moving_a_tree_and_recording_it_leaves_nothing", "victim", &place.root);
    rustix::io::read(&watch, &mut [0; 4096]).unwrap();
    dying.kill().unwrap();
    dying.wait().unwrap();
    drop(held);
    assert_eq!((place.names("layers").len(), place.names("tmp").len()), (1, 1));
    drop(place.open());
    for folder in ["layers", "tmp", "trash", "records"] {
        assert_eq!(place.names(folder), [] as [&str; 0], "{folder}");
    }
}

#[test]
fn the_claim_of_a_killed_process_is_taken_over() {
    if let Some((_, store)) = part() {
        let _flight = store.try_claim(&key("k")).unwrap().expect("nobody has it");
        ready_to_die();
    }
    let place = place();
    let store = place.open();
    let mut holder = child("the_claim_of_a_killed_process_is_taken_over", "holder", &place.root);
    let lines = BufReader::new(holder.stdout.as_mut().expect("piped")).lines();
    assert!(lines.map(|line| line.expect("text")).any(|line| line.ends_with("READY")), "the child failed");
    assert!(store.try_claim(&key("k")).unwrap().is_none(), "another process has it");
    assert!(store.try_claim(&key("other")).unwrap().is_some(), "one key is no other's");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let wanted = key("k");
    let taken = runtime.block_on(async {
        let mut claim = std::pin::pin!(store.claim(&wanted));
        assert!(at_once(claim.as_mut()).is_none(), "it waits");
        holder.kill().unwrap();
        claim.await.unwrap()
    });
    holder.wait().unwrap();
    assert_eq!(place.names("flights"), [key("k").to_string()]);
    drop(taken);
    assert_eq!(place.names("flights"), [] as [&str; 0]);
}

/// What a future has to say at once.
fn at_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
