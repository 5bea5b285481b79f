//! `RUN --mount` in every form, from the text to the mount of the operation, or to what is said about it.

use crate::{Answers, PlanOptions, Planned, debug, plan};

/// The mounts of a step in `/w` with these `--mount` values, as the plan shows them without `mount `; or the first
/// error, behind `! `. There are a stage `base` with files and an ARG `DIR=dir`.
#[track_caller]
fn check(rows: &[(&str, &str)]) {
    for (mounts, expected) in rows {
        let flags: String = mounts.split(' ').map(|mount| format!("--mount={mount} ")).collect();
        let text = format!("FROM scratch AS base\nWORKDIR /b\nFROM scratch\nARG DIR=dir\nWORKDIR /w\nRUN {flags}x\n");
        let shown = match plan(&text, &PlanOptions::default(), &Answers::new()) {
            Ok(Planned::Plan(plan)) => debug::plan(&plan),
            Ok(Planned::Need(asked)) => format!("mount asks {}", asked[0].question.reference.familiar()),
            Err(found) => format!("mount ! {}", found[0].message),
        };
        let shown = shown.lines().map(str::trim).filter_map(|line| line.strip_prefix("mount "));
        let shown: Vec<&str> = shown.filter(|line| !line.starts_with("/ ")).collect();
        assert_eq!(shown.join("; "), *expected, "{mounts}");
    }
}

#[test]
fn bind_mounts() {
    check(&[
        ("target=/x", "/x bind #2 read-only"),
        ("type=bind,target=/x", "/x bind #2 read-only"),
        ("type=BIND,TARGET=/x", "/x bind #2 read-only"),
        ("dst=/x", "/x bind #2 read-only"),
        ("destination=/x", "/x bind #2 read-only"),
        ("target=x", "/w/x bind #2 read-only"),
        ("target=../x/", "/x bind #2 read-only"),
        ("target=/$DIR/y", "/dir/y bind #2 read-only"),
        ("target=/x,source=a", "/x bind #2/a read-only"),
        ("target=/x,src=/a/b/", "/x bind #2/a/b read-only"),
        ("target=/x,source=../..", "/x bind #2 read-only"),
        ("target=/x,source=$DIR/a", "/x bind #2/dir/a read-only"),
        ("target=/x,rw", "/x bind #2"),
        ("target=/x,rw=true", "/x bind #2"),
        ("target=/x,readwrite=1", "/x bind #2"),
        ("target=/x,rw=false", "/x bind #2 read-only"),
        ("target=/x,ro", "/x bind #2 read-only"),
        ("target=/x,readonly=true", "/x bind #2 read-only"),
        ("target=/x,readonly=false", "/x bind #2"),
        ("target=/x,from=base", "/x bind #1 read-only"),
        ("target=/x,from=BASE", "/x bind #1 read-only"),
        ("target=/x,from=0,source=b", "/x bind #1/b read-only"),
        ("target=/x,from=debian:12", "asks debian:12"),
        ("target=/x,from=scratch", "/x bind empty read-only"),
        ("'\"source=a,b\",target=/x'", "/x bind #2/a,b read-only"),
        ("target=/x target=/y,rw", "/x bind #2 read-only; /y bind #2"),
    ]);
}

#[test]
fn the_other_types() {
    check(&[
        ("type=tmpfs,target=/x", "/x tmpfs of 0 empty"),
        ("type=tmpfs,target=x,size=1m", "/w/x tmpfs of 1048576 empty"),
        ("type=tmpfs,target=/x,source=a", "/x tmpfs of 0 empty/a"),
        ("type=cache,target=/x", "/x cache //x shared empty"),
        ("type=cache,target=x", "/w/x cache /x shared empty"),
        ("type=cache,target=/x,id=$DIR", "/x cache /dir shared empty"),
        ("type=cache,target=/x,sharing=private,ro", "/x cache //x private empty read-only"),
        ("type=cache,target=/x,sharing=LOCKED", "/x cache //x locked empty"),
        ("type=cache,target=/x,from=base,source=b", "/x cache //x shared #1/b"),
        ("type=cache,target=/x,mode=700", "/x cache //x shared #2/cache"),
        ("type=secret,id=a", "/run/secrets/a secret a 0:0 400 optional true empty read-only"),
        ("type=secret,id=a,dst=/x,required", "/x secret a 0:0 400 optional false empty read-only"),
        ("type=secret,source=a/b,required=false", "/run/secrets/b secret a/b 0:0 400 optional true empty read-only"),
        ("type=secret,target=/x/y,mode=0440,uid=1,gid=2", "/x/y secret y 1:2 440 optional true empty read-only"),
        ("type=ssh", "/run/buildkit/ssh_agent.0 ssh default 0:0 600 optional true empty read-only"),
        ("type=ssh,id=a,target=/x,required=1", "/x ssh a 0:0 600 optional false empty read-only"),
        ("type=$DIR,target=/x", "! `dir` is no type of a mount"),
    ]);
}

#[test]
fn what_is_wrong_with_a_mount() {
    check(&[
        ("type=bind", "! a bind mount needs a target"),
        ("type=cache,id=x", "! a cache mount needs a target"),
        ("type=tmpfs", "! a tmpfs mount needs a target"),
        ("type=secret", "! which secret is meant?"),
        ("type=secret,id=a,source=b", "! a secret has either `id` or `source`"),
        ("type=volume,target=/x", "! `volume` is no type of a mount"),
        ("target=/", "! nothing can be mounted over `/`"),
        ("target=..", "! nothing can be mounted over `/`"),
        ("target=/a/..", "! nothing can be mounted over `/`"),
        ("target=/x,sorce=a", "! `sorce` is no option of a mount"),
        ("target=/x,source", "! `source` needs a value"),
        ("target", "! `target` needs a value"),
        ("target=/x,", "! an option of the mount is empty"),
        ("target=/x,rw=maybe", "! `maybe` is no value of `rw`"),
        ("target=/x,from=$DIR", "! variables are not expanded in `from`"),
        ("target=/x,from=later", "asks later:latest"),
        ("target=/x,size=1m", "! a bind mount has no option `size`"),
        ("target=/x,required", "! a bind mount has no option `required`"),
        ("target=/x,sharing=shared", "! a bind mount has no option `sharing`"),
        ("type=cache,target=/x,sharing=all", "! `all` is no value of `sharing`"),
        ("type=cache,target=/x,mode=999", "! `999` is no value of `mode`"),
        ("type=cache,target=/x,mode=17777", "! `17777` is no value of `mode`"),
        ("type=cache,target=/x,uid=-1", "! `-1` is no value of `uid`"),
        ("type=cache,target=/x,gid=a", "! `a` is no value of `gid`"),
        ("type=cache,target=/x,env=A", "! a cache mount has no option `env`"),
        ("type=tmpfs,target=/x,size=big", "! `big` is no value of `size`"),
    ]);
}
