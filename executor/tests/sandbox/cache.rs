//! Cache mounts through the worker: what a step keeps for the next one, and what it cannot reach by them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rbuild_executor::ExecError;
use rbuild_executor::ops::exec::StepError;
use solver::graph::{Edge, Vertex, VertexId};
use solver::op::CacheSharing::{self, Locked, Private, Shared};
use solver::op::{Mount, MountKind, Op, OpMeta, SourceOp};
use solver::seam::{Executor, Job, ResultId};
use store::{MountKey, MountWish, Taken};
use tokio_util::sync::CancellationToken;

use crate::exec::{Bench, bind, exec};
use crate::support::Collected;

fn cache(id: &str, target: &str, sharing: CacheSharing) -> Mount {
    Mount { kind: MountKind::Cache { id: id.into(), sharing }, ..bind(target, None, "", false, None) }
}

/// A cache mount that starts as the path of an input.
fn seeded(id: &str, target: &str, input: usize, path: &str) -> Mount {
    Mount { input: Some(input), selector: path.into(), ..cache(id, target, Shared) }
}

impl Bench {
    /// What a step on the base prints that has these mounts; it must not change a byte of the layer.
    #[track_caller]
    fn prints<'a>(
        &'a self,
        script: &'a str,
        mounts: Vec<Mount>,
        more: &[&'a ResultId],
    ) -> impl Future<Output = String> + use<'a> {
        let place = std::panic::Location::caller();
        let mut inputs = vec![&self.base];
        inputs.extend(more);
        async move {
            let (result, output) =
                self.step(script, mounts, &inputs).await.unwrap_or_else(|error| panic!("{place}: {error:?}"));
            assert_eq!(self.own_tree(&result), None, "{place}: the layer is empty");
            output
        }
    }

    /// Directories of cache mounts in the store.
    fn directories(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.rig.path("store/mounts")).unwrap();
        entries.map(|entry| entry.unwrap().path().join("fs")).collect()
    }
}

#[tokio::test]
async fn what_a_step_leaves_there_the_next_one_finds_and_no_layer_does() {
    let bench = Bench::new();
    let mount = || vec![cache("/x", "/var/cache/x/deep", Shared)];
    let script = "mkdir /var/cache/x/deep/d; echo one > /var/cache/x/deep/d/f; ls -ld /var/cache/x/deep | cut -c1-10";
    assert_eq!(bench.prints(script, mount(), &[]).await, "drwxr-xr-x\n");
    assert_eq!(bench.prints("cat /var/cache/x/deep/d/f", mount(), &[]).await, "one\n");
    assert_eq!(bench.prints("ls /y", vec![cache("/y", "/y", Shared)], &[]).await, "");
    let seen = bench.step("ls /var", Vec::new(), &[&bench.base]).await;
    assert!(matches!(seen, Err(ExecError::Step(StepError::Process { .. }))), "the mount point is gone: {seen:?}");
}

#[tokio::test]
async fn a_failed_step_keeps_what_it_left_there_and_gives_the_mount_back() {
    let bench = Bench::new();
    let mount = || vec![cache("/x", "/x", Locked)];
    bench.step("echo half > /x/f; exit 1", mount(), &[&bench.base]).await.unwrap_err();
    assert_eq!(bench.prints("cat /x/f", mount(), &[]).await, "half\n");
}

#[tokio::test]
async fn read_only_ones_cannot_be_written_to() {
    let bench = Bench::new();
    bench.prints("echo 1 > /x/f", vec![cache("/x", "/x", Shared)], &[]).await;
    let mounts = vec![Mount { readonly: true, ..cache("/x", "/x", Shared) }];
    assert_eq!(bench.prints("cat /x/f; echo 2 > /x/f || echo refused", mounts, &[]).await, "1\nrefused\n");
}

#[tokio::test]
async fn one_id_twice_in_a_step_shows_the_same_files() {
    let bench = Bench::new();
    let mounts = vec![cache("/x", "/a", Shared), cache("/x", "/b", Private), cache("/z", "/c", Locked)];
    assert_eq!(bench.prints("echo 1 > /a/f; cat /b/f; ls /c", mounts, &[]).await, "1\n");
}

#[tokio::test]
async fn mounts_within_mounts() {
    let bench = Bench::new();
    let tmpfs = Mount { kind: MountKind::Tmpfs { size_bytes: 0 }, ..bind("/c/t", None, "", false, None) };
    let mounts = vec![
        bind("/c/in/etc", Some(0), "/etc", true, None),
        tmpfs,
        cache("/in", "/c/in", Shared),
        cache("/out", "/c", Shared),
    ];
    let script = "echo in > /c/in/f; echo out > /c/f; echo lost > /c/t/f; head -n1 /c/in/etc/passwd | cut -c1-4";
    assert_eq!(bench.prints(script, mounts, &[]).await, "root\n");
    let mounts = vec![cache("/in", "/a", Shared), cache("/out", "/b", Shared)];
    assert_eq!(bench.prints("cat /a/f /b/f; ls /b/t /a/etc", mounts, &[]).await, "in\nout\n/a/etc:\n\n/b/t:\n");
}

#[tokio::test]
async fn a_seed_is_copied_once_with_owners_and_modes() {
    let bench = Bench::new();
    let script = "mkdir -m 750 /seed; echo warm > /seed/f; stat -c %a /seed";
    let (tree, _) = bench.step(script, Vec::new(), &[&bench.base]).await.unwrap();
    let mut owned = exec("");
    owned.args = ["/bin/busybox", "chown", "-R", "7:8", "/seed"].map(String::from).to_vec();
    let (results, _) = bench.run(Op::Exec(Box::new(owned)), vec![tree]).await;
    let tree = results.unwrap().remove(0);
    let mount = || vec![seeded("/x", "/x", 1, "/seed")];
    let script = "stat -c '%a %u:%g' /x /x/f; cat /x/f; echo used > /x/f";
    assert_eq!(bench.prints(script, mount(), &[&tree]).await, "750 7:8\n644 7:8\nwarm\n");
    assert_eq!(bench.prints("cat /x/f", mount(), &[&tree]).await, "used\n");
    // Another seed is another mount, and so is none.
    let (other, _) = bench.step("echo other > /seed/f", Vec::new(), &[&tree]).await.unwrap();
    assert_eq!(bench.prints("cat /x/f", mount(), &[&other]).await, "other\n");
    assert_eq!(bench.prints("ls /x", vec![cache("/x", "/x", Shared)], &[]).await, "");
    assert_eq!(bench.directories().len(), 3);
    for (path, words) in [("/none", "`none` does not exist"), ("/seed/f", "`seed/f` is not a directory")] {
        let error = bench.step("true", vec![seeded("/e", "/e", 1, path)], &[&bench.base, &tree]).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test]
async fn a_context_is_a_seed_too_without_what_is_ignored() {
    let bench = Bench::new();
    let attrs = BTreeMap::from([("local.excludepatterns".to_owned(), "[\"ignored\"]".to_owned())]);
    let source = SourceOp { identifier: "local://context".into(), attrs };
    let (context, _) = bench.run(Op::Source(source), Vec::new()).await;
    let context = context.unwrap().remove(0);
    let mounts = || vec![seeded("/x", "/x", 1, ""), seeded("/x", "/src", 1, "/src")];
    assert_eq!(bench.prints("ls /x; cat /src/main.c", mounts(), &[&context]).await, "src\nint main;\n");
    assert_eq!(fs::read_to_string(bench.rig.path("context/src/main.c")).unwrap(), "int main;\n");
}

#[tokio::test]
async fn a_part_of_a_mount_is_found_beneath_it_or_nowhere() {
    let bench = Bench::new();
    let canary = bench.rig.canary();
    let whole = || vec![cache("/x", "/x", Shared)];
    bench.prints("mkdir /x/sub /x/etc; echo 1 > /x/sub/f; echo mine > /x/etc/passwd", whole(), &[]).await;
    let directory = bench.directories().remove(0);
    symlink(bench.rig.path("canary"), directory.join("out")).unwrap();
    symlink("/etc", directory.join("absolute")).unwrap();
    symlink("../../../../../../../../etc", directory.join("up")).unwrap();
    let part = |path: &str| vec![Mount { selector: path.into(), ..cache("/x", "/p", Shared) }];
    assert_eq!(bench.prints("cat /p/f", part("/sub"), &[]).await, "1\n");
    // As if the mount were the root: never the host's.
    for path in ["/absolute", "/up", "/../../../etc", "/sub/../etc"] {
        assert_eq!(bench.prints("cat /p/passwd", part(path), &[]).await, "mine\n", "{path}");
    }
    for path in ["/out", "/none", "/sub/none"] {
        let error = bench.step("touch /p/bad", part(path), &[&bench.base]).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`{path}` does not exist in the cache mount `x`"));
    }
    assert_eq!(bench.rig.canary(), canary);
}

#[tokio::test]
async fn hostile_ids_stay_in_the_store() {
    let bench = Bench::new();
    let canary = bench.rig.canary();
    let escape = format!("../../../../../../../../{}", bench.rig.path("canary").display());
    for (number, id) in [escape.as_str(), "/../..", "..", "a\0b", "a\nb", ""].into_iter().enumerate() {
        bench.prints(&format!("echo {number} > /c/bad"), vec![cache(id, "/c", Shared)], &[]).await;
        assert_eq!(bench.prints("cat /c/bad", vec![cache(id, "/c", Shared)], &[]).await, format!("{number}\n"));
    }
    assert_eq!(bench.directories().len(), 6);
    assert_eq!(bench.rig.canary(), canary);
}

#[tokio::test]
async fn the_clean_up_of_a_mount_point_follows_no_link() {
    let bench = Bench::new();
    let canary = bench.rig.canary();
    let script = format!("mv /a /b; ln -s {} /a", bench.rig.path("canary").display());
    bench.step(&script, vec![cache("/x", "/a/empty", Shared)], &[&bench.base]).await.unwrap();
    assert_eq!(bench.rig.canary(), canary);
}

#[tokio::test]
async fn nothing_is_mounted_over_the_root_or_made_of_a_mount() {
    let bench = Bench::new();
    for (mount, words) in [
        (cache("/x", "/", Shared), "malformed exec operation: a cache mount has the target `/`"),
        (
            Mount { output: Some(1), ..cache("/x", "/x", Shared) },
            "malformed exec operation: a cache mount has an output",
        ),
    ] {
        let error = bench.step("touch /ran", vec![mount], &[&bench.base]).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test]
async fn who_waits_can_be_stopped_and_holds_nothing() {
    let bench = Bench::new();
    let wish = |id: &str| MountWish { key: MountKey { id: id.into(), seed: String::new() }, sharing: Locked };
    let store = bench.worker.store();
    let Taken::All(held) = store.take_mounts(&[wish("/2")], &mut BTreeMap::new(), None).unwrap() else {
        panic!("it is free")
    };
    let mut op = exec("echo ran > /2/ran");
    op.mounts.extend([cache("/1", "/1", Locked), cache("/2", "/2", Locked)]);
    let vertex = Vertex {
        op: Op::Exec(Box::new(op)),
        inputs: vec![Edge { vertex: VertexId::of_name("base"), output: 0 }],
        platform: None,
    };
    let meta = OpMeta::default();
    let job = || Job {
        id: VertexId::of_name("test"),
        vertex: &vertex,
        meta: &meta,
        inputs: vec![bench.base.clone()],
        sources: Vec::new(),
        place: solver::place::Place::uncounted(VertexId::of_name("test")),
    };
    let (log, cancel) = (Collected::default(), CancellationToken::new());
    let waiting = bench.worker.run(job(), &log, &cancel);
    let watched = async {
        // It waits as soon as it says so; the other one is free meanwhile.
        log.noticed().await;
        let taken = store.take_mounts(&[wish("/1")], &mut BTreeMap::new(), None).unwrap();
        assert!(matches!(taken, Taken::All(_)), "{taken:?}");
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(waiting, watched);
    assert!(matches!(result, Err(ExecError::Canceled)), "{result:?}");
    assert_eq!(*log.notices.lock().unwrap(), ["waits for the cache mount `2`, which another step uses"]);
    let cancel = CancellationToken::new();
    let log = Collected::default();
    let waiting = bench.worker.run(job(), &log, &cancel);
    let freed = async {
        log.noticed().await;
        drop(held);
    };
    let (result, ()) = tokio::join!(waiting, freed);
    result.unwrap();
    assert_eq!(bench.prints("cat /2/ran", vec![cache("/2", "/2", Shared)], &[]).await, "ran\n");
}

#[tokio::test]
async fn more_mounts_than_one_packet_takes() {
    let bench = Bench::new();
    let mounts: Vec<Mount> = (0..130).map(|n| cache(&format!("/{n}"), &format!("/m/{n}"), Locked)).collect();
    let script = "for i in $(seq 0 129); do echo $i > /m/$i/f; done; cat /m/129/f; ls /m | wc -l";
    assert_eq!(bench.prints(script, mounts, &[]).await, "129\n130\n");
}

#[tokio::test]
async fn set_user_ids_and_owners_are_what_the_step_says() {
    let bench = Bench::new();
    let mount = || vec![cache("/x", "/x", Shared)];
    bench.prints("touch /x/f; /bin/busybox chown 5:6 /x/f; /bin/busybox chmod 640 /x/f", mount(), &[]).await;
    let file = fs::metadata(bench.directories()[0].join("f")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o7777), (5, 6, 0o640));
}
