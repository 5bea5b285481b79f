//! What a buildkitd.toml and a client say of how steps run reaches them.

use std::collections::BTreeMap;

use api::control::SolveRequest;

use super::client::{Daemon, request, session};
use super::{offer, solve};
use crate::support::{Outcome, Store};

#[tokio::test(flavor = "multi_thread")]
async fn a_buildkitd_toml_says_whom_steps_ask_for_names_and_what_means_nothing_is_told() {
    let store = Store::with_busybox();
    let config = store.path("buildkitd.toml");
    let text = "[dns]\nnameservers = [\"192.0.2.53\"]\noptions = [\"ndots:3\"]\nsearchDomains = \
                [\"corp.example\"]\n[worker.oci]\nsnapshotter = \"native\"\nmaxUsedSpace = \"20GB\"\n";
    std::fs::write(&config, text).expect("the directory is ours");
    let config = config.to_str().expect("tests have plain paths").to_owned();
    Outcome::of(&mut store.command(["serve", "--addr", "unix:///nowhere/at/all", "--oci-worker-gc-keepstorage=much"]))
        .fails_saying(&["`--oci-worker-gc-keepstorage=much`", "RESERVED[,FREE[,MAXIMUM]]"]);

    let daemon = Daemon::start_with(&store, &["--config", &config]);
    let channel = daemon.connect().await;
    let dockerfile = "FROM busybox\nRUN sed 's/^/it says /' /etc/resolv.conf\n";
    let _open = session(channel.clone(), "names", offer(dockerfile, Vec::new())).await;
    let told = solve(&channel, request("names", "names")).await.expect("it builds").concat();
    for line in ["nameserver 192.0.2.53", "search corp.example", "options ndots:3"] {
        assert!(told.contains(&format!("it says {line}\n")), "{line}: {told}");
    }
    assert_eq!(daemon.stop(), Some(0));

    let store = Store::with_busybox();
    std::fs::write(store.path("unknown.toml"), "[worker.oci]\nsnapshotter = \"native\"\n[worker.oci.x]\n")
        .expect("ours");
    let mut serve = store.command(["serve", "--config", "unknown.toml", "--addr", "tcp://127.0.0.1:0"]);
    Outcome::of(&mut serve)
        .exits(1)
        .says(&["`worker.oci.snapshotter` of `--config` means nothing here", "without TLS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_control_group_is_beneath_what_it_names_and_never_above() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let _open = session(channel.clone(), "up", offer("FROM busybox\nRUN echo ran\n", Vec::new())).await;
    let asked = request("up", "up");
    let parent = ("cgroup-parent".to_owned(), "../up".to_owned());
    let frontend_attrs: BTreeMap<_, _> = asked.frontend_attrs.clone().into_iter().chain([parent]).collect();
    let status = solve(&channel, SolveRequest { frontend_attrs, ..asked }).await.expect_err("it leads up");
    let message = status.message();
    assert!(
        message.contains("`--cgroup-parent=../up` names no control group") || message.contains("none are mounted"),
        "{message}"
    );
    assert_eq!(daemon.stop(), Some(0));
}
