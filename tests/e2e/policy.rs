//! Source policies, as the command line reads them and as a client sends them.

use api::control::control_client::ControlClient;
use api::control::{Exporter, SolveRequest};
use api::sourcepolicy::{AttrConstraint, MatchType, Policy, PolicyAction, Rule, Selector, Update};
use tonic::Code;

use crate::definition::solve;
use crate::serve::client::{Daemon, Entry, Offer, request, session};
use crate::support::{Context, Outcome, Store};

const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

fn build(store: &Store, context: &Context, policy: &str) -> Outcome {
    let file = store.path("policy.json");
    std::fs::write(&file, policy).expect("the folder is ours");
    Outcome::of(store.build_command(context, ["-t", "app:1"]).env(VARIABLE, &file))
}

#[test]
fn sources_are_denied_and_replaced_before_anything_is_asked() {
    let store = Store::with_busybox();
    let context = Context::new("FROM absent.example/base:1\nCOPY f /f\nRUN cat /f >/out\n").file("f", "one\n");
    let busybox = r#"{"action": "CONVERT", "selector": {"identifier": "docker-image://absent.example/*"},
        "updates": {"identifier": "docker-image://docker.io/library/busybox:latest"}}"#;
    build(&store, &context, &format!(r#"{{"version": 1, "rules": [{busybox}]}}"#)).ok();
    assert_eq!(store.rbuild(["run", "--rm", "--network=none", "app:1", "cat", "/out"]).ok().stdout, "one\n");
    // It is the image of that name: what was built of it under its own name is known.
    let own = Context::new("FROM busybox\nCOPY f /f\nRUN cat /f >/out\n").file("f", "one\n");
    store.build(&own, ["--progress=plain", "-t", "app:2"]).ok().says(&["CACHED"]);

    let deny = |identifier: &str| {
        format!(r#"{{"rules": [{busybox}, {{"action": "DENY", "selector": {{"identifier": "{identifier}"}}}}]}}"#)
    };
    build(&store, &context, &deny("docker-image://*busybox*")).fails_saying(&[
        "denied by the source policy",
        "rule 2 denies `docker-image://*busybox*`",
        "FROM absent",
    ]);
    build(&store, &context, &deny("local://*")).fails_saying(&["rule 2 denies `local://*`"]);
    build(&store, &context, &deny("https://*")).ok();
    let fetching = Context::new("FROM busybox\nADD https://absent.example/x /x\n");
    build(&store, &fetching, &deny("https://absent.example/*"))
        .fails_saying(&["`https://absent.example/x` is denied", "ADD https://absent.example/x /x"]);
    build(&store, &context, "{").fails_saying(&["the source policy", "policy.json", VARIABLE]);
    let mut absent = store.build_command(&context, ["-t", "app:1"]);
    Outcome::of(absent.env(VARIABLE, store.path("absent.json"))).fails_saying(&["absent.json"]);
}

fn rule(action: PolicyAction, identifier: &str) -> Rule {
    let selector = Selector { identifier: identifier.into(), ..Selector::default() };
    Rule { action: action.into(), selector: Some(selector), updates: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_sends_its_policy_with_its_build() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let offer = Offer {
        dockerfile: "FROM other:1\nCOPY f /f\nRUN cat /f >/out\n".into(),
        context: vec![Entry::file("f", "one\n")],
    };
    let open = session(channel.clone(), "one", offer).await;
    let asked = |build: &str, rules: Vec<Rule>| {
        let attrs = [("name".to_owned(), "app:1".to_owned())].into();
        SolveRequest {
            exporters: vec![Exporter { r#type: "image".into(), attrs }],
            source_policy: Some(Policy { version: 1, rules }),
            ..request(build, "one")
        }
    };
    let convert = || Rule {
        updates: Some(Update {
            identifier: "docker-image://docker.io/library/busybox:latest".into(),
            ..Update::default()
        }),
        ..rule(PolicyAction::Convert, "docker-image://docker.io/library/other:*")
    };
    let solved = solve(&channel, asked("a", vec![rule(PolicyAction::Deny, "git://*"), convert()])).await.0;
    solved.expect("it builds");
    assert_eq!(store.rbuild(["run", "--rm", "--network=none", "app:1", "cat", "/out"]).ok().stdout, "one\n");
    let constraint = AttrConstraint { key: "k".into(), value: "(".into(), condition: 2 };
    let broken = Rule {
        selector: Some(Selector { constraints: vec![constraint], ..Selector::default() }),
        ..rule(PolicyAction::Deny, "")
    };
    let exact = Selector { match_type: MatchType::Exact.into(), identifier: "*".into(), ..Selector::default() };
    for (build, rules, code, words) in [
        ("denied", vec![convert(), rule(PolicyAction::Deny, "*busybox*")], Code::Unknown, "rule 2 denies `*busybox*`"),
        ("files", vec![convert(), rule(PolicyAction::Deny, "local://*")], Code::Unknown, "rule 2 denies `local://*`"),
        ("selects nothing", vec![Rule::default()], Code::InvalidArgument, "rule 1: it selects nothing"),
        ("broken", vec![broken], Code::InvalidArgument, "rule 1: "),
        (
            "no action",
            vec![Rule { action: 9, selector: Some(exact), updates: None }],
            Code::InvalidArgument,
            "rule 1: the action",
        ),
    ] {
        let status = ControlClient::new(channel.clone()).solve(asked(build, rules)).await.expect_err(build);
        assert!(status.code() == code && status.message().contains(words), "{build}: {status:?}");
    }
    let by_session = SolveRequest { source_policy_session: "one".into(), ..asked("session", Vec::new()) };
    let status = ControlClient::new(channel.clone()).solve(by_session).await.expect_err("nobody is asked");
    assert_eq!(status.code(), Code::Unimplemented);
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}
