//! What the probe tells from inside, compared with what the default is documented to be.

use crate::probe::Width;
use crate::support::{Rig, facts};

/// The 14 capabilities of a default container.
const DEFAULT: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

#[tokio::test]
async fn ids_and_capabilities_are_those_of_a_default_container() {
    let rig = Rig::new();
    for &width in Width::all() {
        for (user, uid, gid, groups, held) in [
            ("", "0 0 0", "0 0 0", "0", DEFAULT),
            ("bob", "1000 1000 1000", "1001 1001 1001", "50 1001", NONE),
            ("4242:4343", "4242 4242 4242", "4343 4343 4343", "4343", NONE),
        ] {
            let mut spec = rig.probe(width, &["identity", "status"]);
            spec.user = user.into();
            let told = facts(&spec).await;
            let expected = [
                ("identity.uid", uid),
                ("identity.gid", gid),
                ("identity.groups", groups),
                ("status.CapInh", NONE),
                ("status.CapPrm", held),
                ("status.CapEff", held),
                ("status.CapBnd", DEFAULT),
                ("status.CapAmb", NONE),
                ("status.NoNewPrivs", "0"),
            ];
            for (name, value) in expected {
                assert_eq!(told.of(name), value, "{name} as {user:?}, {width:?}");
            }
        }
    }
}

#[tokio::test]
async fn descriptors_environment_and_limits_are_exactly_those_that_were_asked_for() {
    let rig = Rig::new();
    let mut spec = rig.probe(Width::Native, &["descriptors", "environment", "limits", "devices"]);
    spec.env = vec!["A=b=c".into(), "EMPTY=".into()];
    spec.limits = vec![rbuild_executor::sandbox::Limit { name: "nofile".into(), soft: 64, hard: 128 }];
    let told = facts(&spec).await;
    let numbers: Vec<_> = told.section("descriptors").into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, ["0", "1", "2"]);
    assert_eq!(told.section("environment"), [("A", "b=c"), ("EMPTY", ""), ("HOME", "/root")]);
    assert_eq!(told.of("limits.nofile"), "64 128");
    let mut names: Vec<_> = told.section("devices").into_iter().map(|(name, _)| name).collect();
    names.sort();
    let expected = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(names, expected);
    assert_eq!(told.of("devices.null"), "char 0666 1:3");
}
