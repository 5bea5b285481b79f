//! What a daemon costs while nobody asks it for anything.
//!
//! Memory is not time: it is the same on a busy machine. A program that is built for finding faults is several times as
//! large as the one that people use, and touches more of itself, so that it has a limit of its own.

use tokio::task::JoinSet;

use super::client::{Daemon, Entry, request, session};
use super::process::{memory_kib, memory_once};
use super::{offer, solve};
use crate::support::Store;

/// What an idle daemon may have resident.
const IDLE_MAX_KIB: u64 = if cfg!(debug_assertions) { 48 << 10 } else { 30 << 10 };
/// Of that, what is not the program itself: it is the same for both.
pub const IDLE_OWN_MAX_KIB: u64 = 16 << 10;
const BUILDS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn idle_daemon_is_small_before_and_after_builds() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let pid = daemon.pid();
    let fits = |(all, own): (u64, u64)| all <= IDLE_MAX_KIB && own <= IDLE_OWN_MAX_KIB;
    let started = memory_kib(pid);
    assert!(fits(started), "{started:?} KiB are resident at the start");

    let mut building = JoinSet::new();
    for build in 0..BUILDS {
        let channel = daemon.connect().await;
        building.spawn(async move {
            let name = format!("build-{build}");
            let dockerfile = format!("FROM busybox\nCOPY f /f\nRUN cat /f && echo {build} > /own\n");
            let context = vec![Entry::file("f", &"x".repeat(1 << 20))];
            let _session = session(channel.clone(), &name, offer(&dockerfile, context)).await;
            solve(&channel, request(&name, &name)).await.expect("it builds");
        });
    }
    while let Some(ended) = building.join_next().await {
        ended.expect("it builds");
    }
    let used = memory_kib(pid);
    // It is given back when the status of the last build is not kept any more.
    let idle = memory_once(pid, fits).await;
    assert!(fits(idle), "{idle:?} KiB stay resident after {used:?} KiB of {BUILDS} builds");
    println!(
        "KiB resident, and of these its own: {started:?} at the start, {used:?} after {BUILDS} builds, {idle:?} idle"
    );
    assert_eq!(daemon.stop(), Some(0));
}
