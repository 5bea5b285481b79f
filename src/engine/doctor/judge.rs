//! From facts to checks: pure.

use executor::emulate::Means;
use executor::isolation::{Rung, Standing};
use executor::network::{Driver, NetworkError, Trouble};
use executor::rootless::{Refused, Who, diagnose};
use rustix::io::Errno;

use super::Check;
use super::facts::{Cgroups, Facts};
use crate::amount;

/// The check of what was taken.
pub const ISOLATION: &str = "isolation";
/// The check of how steps get out.
pub const NETWORK: &str = "network of steps";
/// The check of other architectures.
pub const EMULATION: &str = "other processors";
/// The new mount calls are all there.
const KERNEL_MIN: (u32, u32) = (5, 12);
/// overlayfs takes layers one by one.
const KERNEL_LAYERS: (u32, u32) = (6, 7);
/// Images use ids up to this one (`nobody` is 65534).
const IDS_WANTED: u64 = 65536;
/// Less than this is full.
const DISK_MIN_BYTES: u64 = 100 << 20;
/// Less than this is soon full.
const DISK_FEW_BYTES: u64 = 5 << 30;

/// What can be said before a user namespace is entered.
pub fn before(facts: &Facts, who: &Who) -> Vec<Check> {
    let mut checks = vec![kernel(&facts.kernel), namespaces(facts)];
    if !facts.root {
        checks.extend([subordinate(who), programs(facts, who)]);
    }
    checks
}

/// What does not depend on it.
pub fn after(facts: &Facts) -> Vec<Check> {
    let disk = facts.disk.as_ref().map(|(path, bytes)| disk(&path.display().to_string(), *bytes));
    [Some(cgroups(&facts.cgroups, facts.root)), disk].into_iter().flatten().collect()
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let name = "kernel";
    if version < KERNEL_MIN {
        return Check::problem(name, format!("Linux {release}"), "rbuild needs Linux 5.12 or newer");
    }
    let few = if version < KERNEL_LAYERS { "; images of many layers are stacked in two storeys" } else { "" };
    Check::ok(name, format!("Linux {release}{few}"))
}

fn namespaces(facts: &Facts) -> Check {
    let name = "user namespaces";
    let it = &facts.namespaces;
    let closed = it.max_user_namespaces == Some(0) || (it.unprivileged_clone == Some(false) && !facts.root);
    if !closed && (!it.apparmor_restricts || facts.root) {
        return Check::ok(name, "allowed");
    }
    let diagnosis = diagnose(Refused::Namespace, Errno::PERM, it);
    // A profile may be there; whether it is, is seen when one is entered.
    if facts.root || !closed {
        return Check::warning(name, diagnosis.reason, diagnosis.fix);
    }
    Check::problem(name, diagnosis.reason, diagnosis.fix)
}

fn subordinate(who: &Who) -> Check {
    let name = "subordinate ids";
    let user = who.shown();
    let [uids, gids] =
        [&who.uids, &who.gids].map(|ranges| ranges.iter().map(|range| u64::from(range.count)).sum::<u64>());
    let fix = format!("`sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`");
    match (uids, gids) {
        (0, _) => {
            Check::warning(name, format!("`/etc/subuid` gives none to `{user}`: images can only have one owner"), fix)
        }
        (_, 0) => {
            Check::warning(name, format!("`/etc/subgid` gives none to `{user}`: images can only have one owner"), fix)
        }
        (uids, gids) if uids.min(gids) < IDS_WANTED => {
            let found = format!("{uids} users, {gids} groups: images may use ids up to {IDS_WANTED}");
            Check::warning(name, found, fix)
        }
        (uids, gids) => Check::ok(name, format!("{uids} users, {gids} groups for `{user}`")),
    }
}

fn programs(facts: &Facts, who: &Who) -> Check {
    let name = "id mapping programs";
    let install = "`sudo apt-get install uidmap` (Debian, Ubuntu), `sudo dnf install shadow-utils` (Fedora)";
    let (Some(users), Some(groups)) = (&who.newuidmap, &who.newgidmap) else {
        let missing = if who.newuidmap.is_none() { "newuidmap" } else { "newgidmap" };
        return Check::warning(name, format!("`{missing}` is not installed: images can only have one owner"), install);
    };
    if let Some(path) = facts.powerless.first() {
        let found = format!("`{}` has neither a set-uid bit nor capabilities, and cannot map ids", path.display());
        return Check::warning(name, found, format!("`sudo chmod u+s {}`", path.display()));
    }
    Check::ok(name, format!("`{}`, `{}`", users.display(), groups.display()))
}

/// What was taken.
pub fn isolation(standing: &Standing) -> Check {
    if standing.rung == Rung::Chroot {
        let fix = "for more, give the container what a rung above lacks";
        return Check::warning(ISOLATION, "`chroot`: steps are not kept apart from this container", fix);
    }
    let Some(entered) = &standing.entered else {
        return Check::ok(ISOLATION, format!("`{}`, with the rights of root", standing.rung));
    };
    match &entered.missing {
        Some(missing) => {
            let diagnosis = missing.diagnosis();
            let found = format!("`{}`, but with one id alone: {}", standing.rung, diagnosis.reason);
            Check::warning(ISOLATION, found, diagnosis.fix)
        }
        None => Check::ok(ISOLATION, format!("`{}`, in a user namespace of {} ids", standing.rung, entered.uids)),
    }
}

fn cgroups(cgroups: &Cgroups, root: bool) -> Check {
    let name = "control groups";
    let needed = ["memory", "cpu", "pids"];
    let lacks = |have: &[String]| needed.into_iter().filter(|name| !have.iter().any(|c| c == name)).collect::<Vec<_>>();
    let fix = "start rbuild in a group of its own: `systemd-run --user --scope -p Delegate=yes rbuild …`";
    if root && !cgroups.v1.is_empty() && lacks(&cgroups.v1).is_empty() {
        return Check::ok(name, "version 1, with memory, cpu and pids");
    }
    match &cgroups.v2 {
        Some(have) if lacks(have).is_empty() && (cgroups.delegated || root) => {
            Check::ok(name, "version 2, with memory, cpu and pids")
        }
        Some(have) if !lacks(have).is_empty() => {
            let found = format!("version 2, without {}: steps cannot be limited in these", lacks(have).join(", "));
            Check::warning(name, found, fix)
        }
        Some(_) => Check::warning(name, "version 2, not delegated to this user: steps cannot be limited", fix),
        None if cgroups.v1.is_empty() => {
            Check::warning(name, "none are mounted: steps cannot be limited", "mount them")
        }
        None => Check::warning(
            name,
            "version 1 alone, which only root may divide: steps cannot be limited",
            "boot with version 2: `systemd.unified_cgroup_hierarchy=1` on the kernel's command line",
        ),
    }
}

/// How steps get out. `tried` is what works of all that there is, in the order of a build; `chosen` the one that the
/// user's config asks for.
pub fn network(tried: Vec<(Driver, Result<(), Trouble>)>, chosen: Option<Driver>) -> Check {
    let (mut works, mut fails) = (Vec::new(), Vec::new());
    for (driver, result) in tried.into_iter().filter(|(driver, _)| chosen.is_none_or(|chosen| chosen == *driver)) {
        match result {
            Ok(()) => works.push(format!("`{driver}`")),
            Err(trouble) => fails.push((driver, trouble)),
        }
    }
    let error = NetworkError::NoWayOut { tried: fails };
    let found = match works.split_first() {
        Some((first, [])) => return Check::ok(NETWORK, format!("steps get out over {first}")),
        Some((first, others)) => {
            return Check::ok(NETWORK, format!("steps get out over {first}; {} would do too", others.join(" and ")));
        }
        None => [vec![error.to_string()], error.notes()].concat().join("; "),
    };
    Check::warning(NETWORK, found, error.help().unwrap_or_default().replace('\n', "; "))
}

/// Whose steps run here. Those of this machine's own processor say nothing.
pub fn emulation(found: &[(&'static str, Means)]) -> Check {
    let list = |wanted: fn(&Means) -> bool| {
        let names: Vec<_> = found.iter().filter(|(_, means)| wanted(means)).map(|(name, _)| *name).collect();
        Some(names.join(", ")).filter(|names| !names.is_empty())
    };
    let handler = list(|means| *means == Means::Handler);
    let private = list(|means| matches!(means, Means::Private(_)));
    let injected = list(|means| matches!(means, Means::Injected(_)));
    let mut said: Vec<String> = Vec::new();
    said.extend(list(|means| *means == Means::Native).map(|names| format!("{names}: by itself")));
    said.extend(handler.as_ref().map(|names| format!("{names}: by registered handlers")));
    said.extend(
        private.as_ref().map(|names| format!("{names}: by QEMU, with handlers in user namespaces of the steps")),
    );
    let why = found.iter().find_map(|(_, means)| match means {
        Means::Injected(why) => Some(why.as_str()),
        _ => None,
    });
    said.extend(injected.as_ref().zip(why).map(|(names, why)| {
        format!("{names}: by QEMU in front of their commands, which emulates nothing that these start ({why})")
    }));
    said.extend(list(|means| *means == Means::Missing).map(|names| format!("{names}: not")));
    let said = format!("steps run for {}", said.join("; "));
    let (install, register) = (
        "for builds of another `--platform`: `sudo apt-get install qemu-user-static`",
        "register handlers: `docker run --privileged --rm tonistiigi/binfmt --install all`",
    );
    match (handler.or(private), injected) {
        (_, Some(_)) => Check::warning(EMULATION, said, register),
        (None, None) => Check::warning(EMULATION, said, install),
        (Some(_), None) => Check::ok(EMULATION, said),
    }
}

fn disk(path: &str, free_bytes: u64) -> Check {
    let name = "disk";
    let found = format!("{} free at `{path}`", amount::amount(free_bytes));
    let fix = "make room: `rbuild prune`, or keep the store elsewhere: `--root DIR` or `RBUILD_ROOT`";
    if free_bytes < DISK_MIN_BYTES {
        Check::problem(name, found, fix)
    } else if free_bytes < DISK_FEW_BYTES {
        Check::warning(name, found, fix)
    } else {
        Check::ok(name, found)
    }
}

#[cfg(test)]
mod tests {
    use executor::rootless::{Entered, Missing, ids};

    use super::super::State;
    use super::*;

    fn user() -> Who {
        let range = ids::Range { first: 100_000, count: 65536 };
        Who {
            uid: 1000,
            gid: 1000,
            name: Some("alice".into()),
            uids: vec![range],
            gids: vec![range],
            newuidmap: Some("/usr/bin/newuidmap".into()),
            newgidmap: Some("/usr/bin/newgidmap".into()),
        }
    }

    #[track_caller]
    fn check(check: Check, state: State, found: &str, fix: &str) {
        assert_eq!(check.state, state, "{check:?}");
        assert!(check.found.contains(found), "{check:?}");
        assert!(check.fix.as_deref().unwrap_or_default().contains(fix), "{check:?}");
        assert_eq!(check.fix.is_none(), state == State::Ok, "{check:?}");
    }

    #[test]
    fn kernels_are_told_by_their_version() {
        check(kernel("5.10.0-28-amd64"), State::Problem, "5.10", "5.12");
        check(kernel("6.1.0-18-amd64"), State::Ok, "two storeys", "");
        check(kernel("6.18.4"), State::Ok, "6.18.4", "");
        check(kernel("7.0"), State::Ok, "7.0", "");
    }

    #[test]
    fn what_hinders_user_namespaces_is_a_problem_for_users_alone() {
        let facts = |root, closed: bool, apparmor| Facts {
            root,
            namespaces: executor::rootless::Facts {
                max_user_namespaces: Some(if closed { 0 } else { 9 }),
                apparmor_restricts: apparmor,
                root,
                ..Default::default()
            },
            ..Facts::default()
        };
        check(namespaces(&facts(false, false, false)), State::Ok, "allowed", "");
        check(namespaces(&facts(false, true, false)), State::Problem, "is 0", "sysctl");
        check(namespaces(&facts(true, true, false)), State::Warning, "is 0", "sysctl");
        check(namespaces(&facts(false, false, true)), State::Warning, "AppArmor", "apparmor_parser");
        check(namespaces(&facts(true, false, true)), State::Ok, "allowed", "");
    }

    #[test]
    fn missing_ids_and_programs_come_with_the_command_that_gives_them() {
        check(subordinate(&user()), State::Ok, "65536 users, 65536 groups for `alice`", "");
        check(subordinate(&Who { uids: Vec::new(), ..user() }), State::Warning, "subuid", "usermod --add-subuids");
        check(subordinate(&Who { gids: Vec::new(), ..user() }), State::Warning, "subgid", "alice");
        let few = vec![ids::Range { first: 1, count: 10 }];
        check(subordinate(&Who { uids: few, ..user() }), State::Warning, "10 users", "usermod");
        let facts = Facts::default();
        check(programs(&facts, &user()), State::Ok, "/usr/bin/newuidmap", "");
        check(
            programs(&facts, &Who { newgidmap: None, ..user() }),
            State::Warning,
            "newgidmap",
            "apt-get install uidmap",
        );
        let facts = Facts { powerless: vec!["/usr/bin/newuidmap".into()], ..facts };
        check(programs(&facts, &user()), State::Warning, "set-uid", "chmod u+s /usr/bin/newuidmap");
    }

    #[test]
    fn what_was_taken_is_told() {
        let full = Standing::default();
        check(isolation(&full), State::Ok, "`full`", "");
        let rootless = |missing| Standing {
            rung: Rung::Rootless,
            entered: Some(Entered { uids: 65537, missing }),
            ..Standing::default()
        };
        let bare = Standing { rung: Rung::Chroot, ..Standing::default() };
        check(isolation(&bare), State::Warning, "`chroot`", "rung above");
        check(isolation(&rootless(None)), State::Ok, "65537 ids", "");
        let missing = Missing::Program { name: "newuidmap" };
        check(isolation(&rootless(Some(missing))), State::Warning, "one id alone", "apt-get install uidmap");
    }

    #[test]
    fn control_groups_are_judged_by_what_limits_need() {
        let all = || ["cpu", "memory", "pids"].map(String::from).to_vec();
        let v2 = |controllers, delegated| Cgroups { v2: Some(controllers), delegated, v1: Vec::new() };
        check(cgroups(&v2(all(), true), false), State::Ok, "version 2", "");
        check(cgroups(&v2(all(), false), true), State::Ok, "version 2", "");
        check(cgroups(&v2(all(), false), false), State::Warning, "not delegated", "Delegate=yes");
        check(cgroups(&v2(vec!["pids".into()], true), false), State::Warning, "without memory, cpu", "Delegate=yes");
        let v1 = Cgroups { v1: all(), ..Cgroups::default() };
        check(cgroups(&v1, true), State::Ok, "version 1", "");
        check(cgroups(&v1, false), State::Warning, "version 1 alone", "unified_cgroup_hierarchy");
        check(cgroups(&Cgroups::default(), true), State::Warning, "none", "mount");
    }

    #[test]
    fn a_network_is_judged_by_what_was_tried_and_not_by_what_is_installed() {
        let tried = |works: &[Driver]| -> Vec<_> {
            let result = |driver: Driver| match works.contains(&driver) {
                true => Ok(()),
                false => Err(Trouble::new(format!("no {driver} here")).help(format!("get {driver}"))),
            };
            Driver::ALL.into_iter().map(|driver| (driver, result(driver))).collect()
        };
        use Driver::{Bridge, Pasta, Slirp4netns};
        let over = |drivers: &str| format!("steps get out over {drivers}");
        check(network(tried(&[Bridge]), None), State::Ok, &over("`bridge`"), "");
        check(network(tried(&[Slirp4netns]), None), State::Ok, &over("`slirp4netns`"), "");
        let all = over("`bridge`; `pasta` and `slirp4netns` would do too");
        check(network(tried(&Driver::ALL), None), State::Ok, &all, "");
        check(network(tried(&Driver::ALL), Some(Pasta)), State::Ok, &over("`pasta`"), "");
        check(network(tried(&[]), None), State::Warning, "bridge: no bridge here; pasta: no pasta here", "get pasta");
        check(network(tried(&[]), None), State::Warning, "steps cannot have a network", "`--network=host`");
        check(network(tried(&[Bridge]), Some(Pasta)), State::Warning, "no pasta here", "`driver = \"auto\"`");
    }

    #[test]
    fn other_processors_and_room_are_told() {
        let of = |means: Means| emulation(&[("amd64", Means::Native), ("arm64", means), ("vax", Means::Missing)]);
        check(of(Means::Handler), State::Ok, "amd64: by itself; arm64: by registered handlers; vax: not", "");
        check(of(Means::Private("/q".into())), State::Ok, "arm64: by QEMU, with handlers in user namespaces", "");
        check(of(Means::Injected("too old".into())), State::Warning, "arm64: by QEMU in front", "binfmt --install");
        check(of(Means::Missing), State::Warning, "by itself; arm64, vax: not", "qemu-user-static");
        check(disk("/x", 50 << 30), State::Ok, "/x", "");
        check(disk("/x", 1 << 30), State::Warning, "/x", "rbuild prune");
        check(disk("/x", 1 << 20), State::Problem, "/x", "--root DIR");
    }
}
