//! Steps, lowered: what they mount and may do.

use crate::{Answers, PlanOptions, Planned, debug, plan};

/// The mounts and secrets of the only step.
fn check(step: &str, expected: &[&str]) {
    let text = format!("FROM scratch AS base\nWORKDIR /b\nFROM scratch\nARG TARGET=x\nWORKDIR /w\n{step}\n");
    let options = PlanOptions {
        build_args: [("BUILDKIT_CACHE_MOUNT_NS".to_owned(), "ns".to_owned())].into(),
        ..PlanOptions::default()
    };
    let planned = plan(&text, &options, &Answers::new());
    let Ok(Planned::Plan(found)) = planned else { panic!("{step}: {planned:?}") };
    let shown = debug::plan(&found);
    let interesting = ["make directory \"/cache", "mount ", "secret env", "env \"SSH", "insecure"];
    let found: Vec<&str> = shown
        .lines()
        .map(str::trim)
        .filter(|line| interesting.iter().any(|start| line.starts_with(start)) && !line.starts_with("mount / "))
        .collect();
    assert_eq!(found, expected, "{step}");
}

#[test]
fn mounts_secrets_and_rights_of_a_step_are_lowered() {
    check("RUN --mount=type=cache,target=/c x", &["mount /c cache ns//c shared empty"]);
    check("RUN --mount=type=cache,target=c,ro x", &["mount /w/c cache ns/c shared empty read-only"]);
    check("RUN --mount=type=cache,dst=/a/../c/,id=i,sharing=Locked x", &["mount /c cache ns/i locked empty"]);
    check("RUN --mount=type=cache,target=/$TARGET,sharing=private x", &["mount /x cache ns//x private empty"]);
    check(
        "RUN --mount=type=cache,target=/c,uid=1,mode=0700 x",
        &[
            "make directory \"/cache\" in empty mode 700 owner #1:#0 => output 0",
            "mount /c cache ns//c shared #2/cache",
        ],
    );
    check(
        "RUN --mount=type=cache,target=/c,from=base,gid=1 x",
        &["make directory \"/cache\" in #1 mode 755 owner #0:#1 => output 0", "mount /c cache ns//c shared #3/cache"],
    );
    check(
        "RUN --mount=type=secret,id=a/b x",
        &["mount /run/secrets/b secret a/b 0:0 400 optional true empty read-only"],
    );
    check(
        "RUN --mount=type=secret,source=s,target=t,required,mode=0440,uid=5,gid=6 x",
        &["mount /w/t secret s 5:6 440 optional false empty read-only"],
    );
    check("RUN --mount=type=secret,id=s,env=S x", &["secret env S = s optional true"]);
    check(
        "RUN --mount=type=secret,id=s,env=S,target=/t,required=true x",
        &["secret env S = s optional false", "mount /t secret s 0:0 400 optional false empty read-only"],
    );
    check(
        "RUN --mount=type=ssh --mount=type=ssh,id=other,target=/s,required x",
        &[
            "env \"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0\"",
            "mount /run/buildkit/ssh_agent.0 ssh default 0:0 600 optional true empty read-only",
            "mount /s ssh other 0:0 600 optional false empty read-only",
        ],
    );
    check("RUN --security=insecure x", &["insecure"]);
}
