//! Transfers that end before their end, or never; and one that is larger than what may wait in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::control::SolveRequest;
use api::control::control_client::ControlClient;

use super::client::{Daemon, Entry, Manner, Offer, request, session, session_of};
use super::process::memory_kib;
use super::stop::saw;
use super::{offer, solve};
use crate::support::Store;

/// What of a transfer may be in memory, with what else a build takes.
const GROWTH_MAX_KIB: u64 = 48 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_ends_before_its_end_fails_its_build_and_no_other() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let of = |words: &str| Offer {
        dockerfile: format!("FROM busybox\nCOPY . /c\nRUN echo {words}\n"),
        context: vec![Entry::dir("d"), Entry::file("d/f", "never comes")],
    };
    for (manner, words) in [
        (Manner::BreaksOff, "broke off in the middle"),
        (Manner::GivesUp, "the disk is gone"),
        (Manner::Refuses, "nobody gets this"),
    ] {
        let name = format!("{manner:?}");
        let (bad, good) = (format!("bad-{name}"), format!("good-{name}"));
        let _bad = session_of(channel.clone(), &bad, of("bad"), manner).await;
        let _good = session(channel.clone(), &good, of("good")).await;
        let (failed, built) =
            tokio::join!(solve(&channel, request(&bad, &bad)), solve(&channel, request(&good, &good)));
        let status = failed.expect_err(&name);
        assert!(status.message().contains(words) && status.message().contains("context"), "{name}: {status:?}");
        built.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    }
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_passes_through_and_is_never_in_memory_as_a_whole() {
    const BYTES: usize = 192 << 20;
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let (pid, before) = (daemon.pid(), memory_kib(daemon.pid()).1);
    let most = Arc::new(AtomicU64::new(0));
    let watching = tokio::spawn({
        let most = most.clone();
        async move {
            loop {
                most.fetch_max(memory_kib(pid).1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let large = Entry::file("f", &"x".repeat(BYTES));
    let offer = offer(&format!("FROM busybox\nCOPY f /f\nRUN test $(stat -c %s /f) = {BYTES}\n"), vec![large]);
    let _session = session(channel.clone(), "large", offer).await;
    solve(&channel, request("large", "large")).await.expect("it builds");
    watching.abort();
    let most = most.load(Ordering::Relaxed);
    assert!(most <= before + GROWTH_MAX_KIB, "{before} KiB before, {most} KiB while it came");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_result_holds_up_nobody() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    // More than what may wait on the way.
    let dockerfile = "FROM busybox\nRUN dd if=/dev/urandom of=/large bs=1M count=24\n";
    let slow = session_of(channel.clone(), "slow", offer(dockerfile, Vec::new()), Manner::NeverTakes).await;
    let tar = api::control::Exporter { r#type: "tar".into(), attrs: [].into() };
    let wanted = SolveRequest { exporters: vec![tar], ..request("slow", "slow") };
    let mut control = ControlClient::new(channel.clone());
    let solving = tokio::spawn(async move { control.solve(wanted).await.map(|_| ()) });
    saw(&channel, "slow", "exporting to image").await;
    for name in ["other-1", "other-2"] {
        let _open = session(channel.clone(), name, offer(dockerfile, Vec::new())).await;
        solve(&channel, request(name, name)).await.expect("it builds");
    }
    store.rbuild(["prune", "--all", "--force"]).ok();
    assert!(!solving.is_finished(), "nobody has taken the result");
    drop(slow);
    let status = solving.await.expect("it does not panic").expect_err("its session is gone");
    assert!(status.message().contains("its session is closed"), "{status:?}");
    assert_eq!(daemon.stop(), Some(0));
}
