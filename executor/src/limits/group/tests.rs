//! Where groups go by name, and what machines without them say. Real groups are tested with the sandbox.

use super::*;
use crate::limits::Pids;

#[test]
fn a_parent_is_a_path_or_a_slice() {
    let check = |parent: &str, own: &str, expected: Option<&str>| {
        assert_eq!(beneath(Some(parent), own).ok().as_deref(), expected, "{parent} in {own}");
    };
    assert_eq!(beneath(None, "/own").unwrap(), "/own");
    check("/build", "/own", Some("/build"));
    check("build", "/own", Some("/own/build"));
    check("build/ci", "/", Some("/build/ci"));
    check("build.slice", "/own", Some("/build.slice"));
    check("build-ci-1.slice", "/own", Some("/build.slice/build-ci.slice/build-ci-1.slice"));
    check("/a/b.slice", "/own", Some("/a/b.slice"));
    for wrong in ["", ".", "..", "/a/../b", "a/..", "-a.slice", "a--b.slice", ".slice", "a\0b"] {
        check(wrong, "/own", None);
    }
}

#[test]
fn a_machine_without_what_is_asked_for_says_what_is_missing() {
    let check = |mountinfo: &str, cgroup: &str, limits: StepLimits, expected: &str| {
        let made = Groups::on(ControlGroups::parse(mountinfo, cgroup), limits.clone());
        let said = made.err().map_or_else(String::new, |error| {
            assert!(error.help().is_some(), "{error}");
            error.to_string()
        });
        assert_eq!(said, expected, "{limits:?} on {mountinfo}");
    };
    let asked = |pids| StepLimits { pids, ..StepLimits::default() };
    let max = || asked(Pids::Max(64));
    check("", "", asked(Pids::Usual), "");
    check("", "", max(), "`--pids-limit` needs control groups, and none are mounted here");
    let parent = StepLimits { cgroup_parent: Some("/x".into()), ..StepLimits::default() };
    check("", "", parent, "`--cgroup-parent` needs control groups, and none are mounted here");
    let memory = "1 2 0:3 / /nowhere rw - cgroup cgroup rw,memory";
    let expected = "`--pids-limit` needs the control group controller `pids`, and here are only memory";
    check(memory, "4:memory:/", max(), expected);
    let readonly = "1 2 0:3 / /nowhere ro - cgroup2 cgroup2 rw";
    let expected =
        "`--pids-limit` needs a control group for each step, and none can be made: `/nowhere` is mounted read-only";
    check(readonly, "0::/", max(), expected);
    check(readonly, "0::/", asked(Pids::Usual), "");
    let readonly = "1 2 0:3 / /nowhere ro - cgroup cgroup rw,pids";
    check(readonly, "4:pids:/", max(), expected);
}

/// A plain folder that stands for version 2: everything but what the kernel makes by itself.
#[test]
fn limits_are_written_beneath_a_group_that_passes_controllers_on() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("a.slice/cgroup.type", "domain\n");
    write("a.slice/cgroup.controllers", "memory pids\n");
    write("a.slice/cgroup.subtree_control", "memory pids\n");
    write("a.slice/cgroup.procs", "");
    write("a.slice/ci.service/cgroup.type", "domain\n");
    write("a.slice/ci.service/cgroup.controllers", "memory pids\n");
    write("a.slice/ci.service/cgroup.subtree_control", "");
    write("a.slice/ci.service/cgroup.procs", "1\n");
    write("a.slice/ci.service/memory.max", "max\n");
    let mountinfo = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", folder.path().display());
    let machine = ControlGroups::parse(&mountinfo, "0::/a.slice/ci.service");
    let two = machine.unified().unwrap();
    let rest = [Controller::Memory].into();
    assert_eq!(place_in(two, &rest, &|_| None, "--memory").unwrap(), "/a.slice");
    write("a.slice/ci.service/memory.max", "1000\n");
    let error = place_in(two, &rest, &|_| None, "--memory").unwrap_err().to_string();
    assert!(error.contains("other processes are in"), "{error}");
    let error = place_in(two, &[Controller::Cpu].into(), &|_| Some("--cpus"), "--memory").unwrap_err().to_string();
    assert!(error.starts_with("`--cpus` needs the control group controller `cpu`, and no group from"), "{error}");
    // Alone in it: the builder moves into a leaf, and the controllers are passed on.
    write("a.slice/ci.service/cgroup.procs", &format!("{}\n", std::process::id()));
    write("a.slice/ci.service/rbuild.builder/cgroup.procs", "");
    assert_eq!(place_in(two, &rest, &|_| None, "--memory").unwrap(), "/a.slice/ci.service");
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).unwrap();
    assert_eq!(read("a.slice/ci.service/rbuild.builder/cgroup.procs").trim(), std::process::id().to_string());
    let passed = read("a.slice/ci.service/cgroup.subtree_control");
    assert!(passed.contains("pids") && passed.starts_with('+'), "{passed}");
}
