//! The same promises elsewhere: this room's tests once more, for somebody without the rights of root, and for root whose
//! steps have user namespaces of their own.
//!
//! | tests | root | without root | `--userns=auto` |
//! |---|---|---|---|
//! | `hostile`: devices, kernel file systems, links, accounts, working directories, mount targets, mount points | yes | yes | yes |
//! | `race`, `swap`: directories exchanged for links, 100,000 times | yes | yes | yes |
//! | `facts`, `policy`: ids, capabilities, filter, masks, mounts, descriptors, environment | yes | yes | yes, but for those that `userns` has in its own form |
//! | `cache`, `exec`, `secrets`, `streams`: mounts, layers, secrets, agents, output | yes | yes | yes |
//! | `lifetime`: cancelled, killed, orphaned | yes | yes | yes |
//! | `limits`: control groups; a hog, a bomb, a filler, a sleeper | yes | time and disk here, refusals in `e2e` | as root |
//!
//! Without root means: in a user namespace whose ids are none of the machine's accounts, so nothing that is done there
//! can be done with root's rights by mistake. How an ordinary user comes there is tested end to end (`rootless`).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rbuild_executor::rootless::ids::text;
use tempfile::TempDir;

use crate::support::{HELPER, USERNS, helper, ids};

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a user namespace, without any rights outside.
    WithoutRoot,
    /// As root, whose steps have user namespaces.
    Userns,
}

/// What does not run there, and why not.
const LEFT_OUT: &[(Place, &str, &str)] = &[
    (
        Place::Userns,
        "policy::every_namespace_is_new_but_the_network_that_was_asked_for",
        "the user namespace is new too",
    ),
    (Place::Userns, "policy::mounts_are_exactly_these", "the root has `nodev`"),
    (
        Place::Userns,
        "policy::a_plan_prints_one_act_per_line_without_values_of_the_environment",
        "the plan has more acts",
    ),
    (
        Place::Userns,
        "lifetime::signals_reach_the_command_and_one_that_is_deaf_is_killed_by_the_third",
        "it starts a builder of its own, whose steps have none",
    ),
    (Place::Userns, "lifetime::a_killed_builder_takes_the_step_along", "as above"),
    (Place::Userns, "facts::without_the_filter_the_same_calls_reach_the_kernel", "capabilities end at the namespace"),
    (Place::WithoutRoot, "policy::mounts_are_exactly_these", "devices are mounts too"),
    (Place::WithoutRoot, "facts::without_the_filter_the_same_calls_reach_the_kernel", "as above"),
    (
        Place::WithoutRoot,
        "facts::a_raised_limit_without_the_right_to_raise_it_fails_before_the_step",
        "as root is asked",
    ),
    (Place::WithoutRoot, "limits::a_disk_with_less_room_than_asked_for_runs_nothing", "see `e2e`"),
];

/// Runs the tests whose names begin with one of these; none may fail.
fn again(place: Place, beginnings: &[&str]) {
    let reach = Reach::new();
    let (program, helper) = (reach.path(&std::env::current_exe().unwrap()), reach.path(&helper()));
    let listed = Command::new(&program).args(["--list", "--format", "terse"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let left_out = |name: &str| LEFT_OUT.iter().any(|(where_, other, _)| *where_ == place && *other == name);
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<_> = names
        .filter(|name| beginnings.iter().any(|beginning| name.starts_with(beginning)) && !left_out(name))
        .map(str::to_owned)
        .collect();
    assert!(names.len() >= beginnings.len(), "{beginnings:?}: {names:?}");
    let keeper = (place == Place::WithoutRoot).then(Keeper::start);
    let (queue, failed) = (Mutex::new(names.iter()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap().next();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let mut command = match &keeper {
                        Some(keeper) => keeper.inside(&program),
                        None => Command::new(&program),
                    };
                    if place == Place::Userns {
                        command.env(USERNS, "1");
                    }
                    command.args(["--exact", name, "--nocapture"]).env(HELPER, &helper).env("TMPDIR", reach.room());
                    let ended = command.stdin(Stdio::null()).output().expect("it starts");
                    if !ended.status.success() || !String::from_utf8_lossy(&ended.stdout).contains("1 passed") {
                        let said = [ended.stdout, ended.stderr].concat();
                        failed.lock().unwrap().push(format!(
                            "{name}: {}\n{}",
                            ended.status,
                            String::from_utf8_lossy(&said)
                        ));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{place:?}: {} of {} tests went well", names.len() - failed.len(), names.len());
    assert!(failed.is_empty(), "{place:?}\n{}", failed.join("\n"));
}

/// A process in a user namespace with ids that are nobody's; it ends with the value.
struct Keeper(Child);

impl Keeper {
    fn start() -> Self {
        let keeper =
            Self(Command::new("unshare").args(["--user", "sleep", "infinity"]).spawn().expect("util-linux is there"));
        let (here, ids) = (fs::read_link("/proc/self/ns/user").unwrap(), ids());
        let at = |name: &str| format!("/proc/{}/{name}", keeper.0.id());
        while fs::read_link(at("ns/user")).unwrap() == here {
            std::thread::yield_now();
        }
        for (file, map) in [("uid_map", &ids.uids), ("gid_map", &ids.gids)] {
            fs::write(at(file), text(map)).unwrap();
        }
        keeper
    }

    /// A program as the namespace's root, with mounts of its own.
    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--user=/proc/{}/ns/user", self.0.id())).args(["--setuid", "0", "--setgid", "0"]);
        command.args(["unshare", "--mount", "--propagation", "private"]).arg(program);
        command
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it is ours");
    }
}

/// Files where somebody without rights can reach them, and a room for what tests make.
struct Reach(TempDir);

impl Reach {
    fn new() -> Self {
        // Everybody may write to `/var/tmp`, and it is on a disk: some memory file systems map no owners.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let room = dir.path().join("room");
        fs::create_dir(&room).unwrap();
        fs::set_permissions(&room, fs::Permissions::from_mode(0o1777)).unwrap();
        Self(dir)
    }

    fn room(&self) -> PathBuf {
        self.0.path().join("room")
    }

    /// `file`, or a copy of it where a folder above it is closed.
    fn path(&self, file: &Path) -> PathBuf {
        if file.ancestors().skip(1).all(|above| above.metadata().unwrap().mode() & 0o001 != 0) {
            return file.to_owned();
        }
        let copy = self.0.path().join(file.file_name().unwrap());
        fs::copy(file, &copy).unwrap();
        copy
    }
}

#[test]
fn hostile_images_without_root() {
    again(Place::WithoutRoot, &["hostile::", "race::", "swap::"]);
}

#[test]
fn hostile_images_in_user_namespaces() {
    again(Place::Userns, &["hostile::", "race::", "swap::"]);
}

#[test]
fn what_steps_may_do_without_root() {
    again(Place::WithoutRoot, &["facts::", "policy::", "exec::", "streams::"]);
}

#[test]
fn what_steps_may_do_in_user_namespaces() {
    again(Place::Userns, &["facts::", "policy::", "exec::", "streams::"]);
}

#[test]
fn mounts_secrets_and_ends_without_root() {
    again(Place::WithoutRoot, &["cache::", "secrets::", "lifetime::"]);
}

#[test]
fn mounts_secrets_ends_and_limits_in_user_namespaces() {
    again(Place::Userns, &["cache::", "secrets::", "lifetime::", "limits::"]);
}
