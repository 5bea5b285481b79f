//! A client's directory is kept by its shared key: what has not changed is not sent again, and what came is what there is.

use std::os::fd::AsFd as _;

use super::client::{Daemon, Entry, request, session_sharing};
use super::{offer, solve};
use crate::support::Store;

const DOCKERFILE: &str = "FROM busybox\nCOPY . /c\nRUN cd /c && find . | sort && cat $(find . -type f | sort)\n";
/// A time that nobody set.
const THEN: i64 = 1_600_000_000_123_456_789;

fn file(path: &str, bytes: &str, time: i64) -> Entry {
    let mut entry = Entry::file(path, bytes);
    entry.stat.mod_time = time;
    entry
}

/// Builds from a context; how many bytes of it were sent, and what the step printed.
async fn build(daemon: &Daemon, name: &str, key: &str, context: Vec<Entry>) -> (usize, String) {
    let channel = daemon.connect().await;
    let open = session_sharing(channel.clone(), name, key, offer(DOCKERFILE, context)).await;
    let told = solve(&channel, request(name, name)).await.expect("it builds");
    let asked = open.asked.lock().expect("nobody panicked").clone();
    let sent = asked.iter().filter(|(name, _)| name == "context").map(|(_, bytes)| bytes).sum();
    (sent, told.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_not_sent_again() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let big = "x".repeat(100_000);
    let first = vec![
        file("a", &big, THEN),
        Entry::dir("d"),
        file("d/f", "old words", THEN),
        file("d/gone", "gone", THEN),
        file("e", "even time", 1_600_000_000_000_000_000),
        Entry::link("l", "a"),
    ];
    let whole = |context: &[Entry]| context.iter().map(|entry| entry.bytes.len()).sum::<usize>();
    let (sent, _) = build(&daemon, "one", "app", first.clone()).await;
    assert_eq!(sent, whole(&first));
    // Of a file whose time is in whole seconds nobody knows whether it changed.
    let (sent, _) = build(&daemon, "two", "app", first.clone()).await;
    assert_eq!(sent, "even time".len());

    let second = vec![
        file("a", &big, THEN),
        Entry::link("b", "nowhere"),
        Entry::dir("d"),
        file("d/f", "new words", THEN + 1),
        file("d/n", "new", THEN),
        file("l", "no link", THEN),
    ];
    let (sent, told) = build(&daemon, "three", "app", second.clone()).await;
    assert_eq!(sent, whole(&second) - big.len());
    assert!(told.contains("./a\n./b\n./d\n./d/f\n./d/n\n./l\n"), "{told}");
    assert!(told.contains("new wordsnewno link") && !told.contains("gone"), "{told}");

    // Another directory, and no name for it.
    let (sent, _) = build(&daemon, "four", "other", first.clone()).await;
    assert_eq!(sent, whole(&first));
    let (sent, _) = build(&daemon, "five", "", first.clone()).await;
    assert_eq!(sent, whole(&first));

    // While somebody has it, others get all; then it is as it was.
    let locks = std::fs::read_dir(store.root().join("clients"))
        .expect("it is there")
        .map(|entry| entry.expect("listed").path());
    let locks: Vec<_> = locks.filter(|path| path.extension().is_some_and(|extension| extension == "lock")).collect();
    let held: Vec<_> = locks.iter().map(|path| std::fs::File::open(path).expect("it is there")).collect();
    for file in &held {
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(file.as_fd(), exclusive).expect("no build has it");
    }
    let (sent, _) = build(&daemon, "six", "app", second.clone()).await;
    assert_eq!(sent, whole(&second));
    drop(held);
    let (sent, _) = build(&daemon, "seven", "app", second.clone()).await;
    assert_eq!(sent, 0);

    // Pruning takes it.
    store.rbuild(["prune", "--all", "--force", "--filter", "type=client"]).ok();
    let kept = std::fs::read_dir(store.root().join("clients"))
        .expect("it is there")
        .map(|entry| entry.expect("listed").path());
    assert_eq!(kept.filter(|path| path.is_dir()).count(), 0);
    let (sent, _) = build(&daemon, "eight", "app", second.clone()).await;
    assert_eq!(sent, whole(&second));
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}
