//! Images, paths and names that were made to get out. The oracle: a canary beside the image is unchanged, and the step
//! either works inside or fails with words.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rbuild_executor::sandbox::{Bind, BindSource, Mount, MountKind, SandboxError, Tmpfs, remove_stubs};

use crate::support::{Ran, Rig, ran};

/// Makes `change` to the image, runs `script` as a tree and as an overlay, and returns what came of it. The canary is
/// checked here.
async fn attempt(change: impl Fn(&Rig, &Path), script: &str, mounts: &[Mount]) -> Result<Ran, String> {
    let mut results = Vec::new();
    for overlay in [false, true] {
        let rig = Rig::new();
        change(&rig, &rig.base());
        let canary = rig.canary();
        let mut spec = if overlay { rig.overlay(script) } else { rig.tree(script) };
        spec.mounts = mounts.to_vec();
        let result = ran(&spec).await;
        let top = if overlay { rig.path("upper") } else { rig.base() };
        if let Ok(ran) = &result {
            remove_stubs(fs::File::open(top).unwrap(), &ran.stubs).unwrap();
        }
        assert_eq!(rig.canary(), canary, "overlay: {overlay}");
        results.push(result.map_err(|error| error.to_string().replace(rig.path("").to_str().unwrap(), "HOST/")));
    }
    let [tree, overlay] = results.try_into().unwrap_or_else(|_| unreachable!("two were pushed"));
    let shown =
        |result: &Result<Ran, String>| result.as_ref().map(|ran| (ran.exit, ran.stdout.clone())).map_err(String::clone);
    assert_eq!(shown(&tree), shown(&overlay), "an overlay behaves as its tree does");
    overlay
}

/// Replaces `name` of the image by a link to the canary.
fn link_out(rig: &Rig, base: &Path, name: &str, target: &str) {
    let path = base.join(name);
    let _ = fs::remove_dir_all(&path);
    let _ = fs::remove_file(&path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(rig.path("canary").join(target), path).unwrap();
}

#[tokio::test]
async fn dev_proc_and_sys_that_are_no_directories_are_refused() {
    for (name, kind) in [("dev", "tmpfs"), ("proc", "proc"), ("sys", "sysfs")] {
        let as_link = attempt(|rig, base| link_out(rig, base, name, ""), "true", &[]).await.map(|ran| ran.exit);
        let error = as_link.unwrap_err();
        assert!(error.contains(&format!("mount {kind} on \"/{name}\"")), "{error}");
        assert!(error.contains(&format!("`/{name}` is a symbolic link in the image")), "{error}");
        let as_file =
            attempt(|_, base| fs::write(base.join(name), "x").unwrap(), "true", &[]).await.map(|ran| ran.exit);
        assert!(as_file.unwrap_err().contains(&format!("`/{name}` is not a directory in the image")));
    }
}

#[tokio::test]
async fn what_an_image_has_in_dev_proc_and_sys_is_covered() {
    let change = |rig: &Rig, base: &Path| {
        for name in
            ["dev/null", "dev/pts", "dev/shm", "dev/ptmx", "dev/console", "proc/kcore", "proc/sys", "sys/firmware"]
        {
            link_out(rig, base, name, "nothing");
        }
    };
    let ran =
        attempt(change, "echo x > /dev/null; echo x > /dev/shm/x; stat -c %F /dev/null /proc/sys", &[]).await.unwrap();
    assert_eq!(ran.text(), "character special file\ndirectory\n");
    assert_eq!(ran.stub_paths(), ["etc/hosts", "etc/resolv.conf"]);
}

#[tokio::test]
async fn generated_files_follow_links_only_inside() {
    for (target, made) in [("secret", "canary/secret"), ("not/there/yet", "canary/not/there/yet")] {
        let ran = attempt(|rig, base| link_out(rig, base, "etc/resolv.conf", target), "cat /etc/resolv.conf", &[])
            .await
            .unwrap();
        assert_eq!(ran.text(), "", "the generated file is empty; the canary is not");
        let made_inside = ran.stub_paths().into_iter().any(|path| path.ends_with(made));
        assert!(made_inside, "{:?}", ran.stub_paths());
    }
    let up = |_: &Rig, base: &Path| symlink("../../../../../../../../etc/passwd", base.join("etc/hosts")).unwrap();
    let ran = attempt(up, "cat /etc/hosts | head -n1; ls -l /etc/passwd | cut -c1", &[]).await.unwrap();
    assert_eq!(ran.text(), "127.0.0.1\tlocalhost buildkitsandbox\n-\n");
    let looped = |_: &Rig, base: &Path| symlink("hosts", base.join("etc/hosts")).unwrap();
    let error = attempt(looped, "true", &[]).await.map(|ran| ran.exit).unwrap_err();
    assert!(error.contains("generated file on \"/etc/hosts\""), "{error}");
    let directory = |_: &Rig, base: &Path| fs::create_dir(base.join("etc/hosts")).unwrap();
    let error = attempt(directory, "true", &[]).await.map(|ran| ran.exit).unwrap_err();
    assert!(error.contains("`/etc/hosts` in the image"), "{error}");
    let no_directory = |_: &Rig, base: &Path| {
        fs::remove_dir_all(base.join("etc")).unwrap();
        fs::write(base.join("etc"), "a file").unwrap();
    };
    let error = attempt(no_directory, "true", &[]).await.map(|ran| ran.exit).unwrap_err();
    assert!(error.contains("`/etc/hosts` in the image"), "{error}");
}

#[tokio::test]
async fn hostile_account_files_give_errors_not_hangs_or_reads() {
    let check = async |change: &dyn Fn(&Rig, &Path), expected: &str| {
        let rig = Rig::new();
        fs::remove_file(rig.base().join("etc/passwd")).unwrap();
        change(&rig, &rig.base());
        let canary = rig.canary();
        let mut spec = rig.overlay("true");
        spec.user = "bob".into();
        let error = ran(&spec).await.map(|ran| ran.exit).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(rig.canary(), canary);
    };
    let passwd = |base: &Path| base.join("etc/passwd");
    check(&|rig, base| link_out(rig, base, "etc/passwd", "secret"), "no user `bob`").await;
    check(&|_, base| symlink("/dev/zero", passwd(base)).unwrap(), "is not a regular file").await;
    check(&|_, base| fs::create_dir(passwd(base)).unwrap(), "is not a regular file").await;
    check(
        &|_, base| {
            rustix::fs::mknodat(rustix::fs::CWD, passwd(base), rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap()
        },
        "is not a regular file",
    )
    .await;
    let big = |_: &Rig, base: &Path| fs::write(passwd(base), "bob:x:0:0::/:/\n".repeat(1 << 20)).unwrap();
    check(&big, "is larger than 10 MiB").await;
    check(&|_, _| {}, "no user `bob`").await;
}

#[tokio::test]
async fn working_directories_stay_inside() {
    let check = async |cwd: &str, expected: Result<&str, &str>| {
        let rig = Rig::new();
        symlink(rig.path("canary"), rig.base().join("out")).unwrap();
        symlink("loop", rig.base().join("loop")).unwrap();
        symlink("../../..", rig.base().join("up")).unwrap();
        let canary = rig.canary();
        let mut spec = rig.tree("readlink /proc/self/cwd; ls -A | grep -c secret");
        spec.cwd = cwd.into();
        match (ran(&spec).await, expected) {
            (Ok(ran), Ok(place)) => {
                let place = place.replace("HOST", rig.path("").to_str().unwrap().trim_end_matches('/'));
                assert_eq!(ran.text(), format!("{place}\n0\n"), "{cwd}");
            }
            (Err(SandboxError::Act { act, detail, .. }), Err(words)) => {
                assert_eq!(act, format!("working directory {cwd:?}"));
                assert!(detail.contains(words), "{cwd}: {detail}");
            }
            (result, _) => panic!("{cwd}: {:?}", result.map(|ran| ran.exit)),
        }
        assert_eq!(rig.canary(), canary, "{cwd}");
    };
    check("/out", Ok("HOST/canary")).await;
    check("/up", Ok("/")).await;
    check("/../../..", Ok("/")).await;
    check("/loop", Err("links without end")).await;
    check("/etc/passwd", Err("")).await;
    // Descriptors that the helper holds while it sets up.
    for number in 3..20 {
        check(&format!("/proc/self/fd/{number}"), Err("a link of procfs")).await;
    }
    check("/proc/self/cwd", Err("a link of procfs")).await;
    check("/proc/1/root", Err("a link of procfs")).await;
}

#[tokio::test]
async fn mount_targets_stay_inside() {
    let mount =
        |target: &str| [Mount { target: target.into(), kind: MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o755 }) }];
    let change = |rig: &Rig, base: &Path| link_out(rig, base, "out", "");
    let ran = attempt(change, "touch /out/dir/x && ls /out/dir", &mount("/out/dir")).await.unwrap();
    assert_eq!(ran.text(), "x\n");
    for (target, expected) in [
        ("/", "is the root itself"),
        ("/..", "is the root itself"),
        ("/proc", "is inside `/proc`"),
        ("/proc/sys/kernel", "is inside `/proc`"),
        ("/link/1", "is inside `/proc`"),
        ("/bin/sh/x", "ot a directory"),
        ("/bin/busybox", "ot a directory"),
    ] {
        let change = |_: &Rig, base: &Path| symlink("proc", base.join("link")).unwrap();
        let error = attempt(change, "true", &mount(target)).await.map(|ran| ran.exit).unwrap_err();
        assert!(error.contains(expected), "{target}: {error}");
    }
}

#[tokio::test]
async fn a_bind_source_that_leads_out_of_its_tree_stays_in_it() {
    let rig = Rig::new();
    let tree = rig.path("tree");
    fs::create_dir(&tree).unwrap();
    symlink("/", tree.join("root")).unwrap();
    symlink(rig.path("canary"), tree.join("out")).unwrap();
    fs::write(tree.join("mine"), "").unwrap();
    let canary = rig.canary();
    let bind = |subpath: &str| {
        let bind = Bind { source: BindSource::Lent(tree.clone()), subpath: subpath.into(), readonly: false };
        vec![Mount { target: "/mnt".into(), kind: MountKind::Bind(bind) }]
    };
    for (subpath, expected) in
        [("/root", Some("mine")), ("../../..", Some("mine")), ("out", None), ("/out/secret", None)]
    {
        let mut spec = rig.overlay("ls /mnt | grep mine; touch /mnt/BREAKOUT");
        spec.mounts = bind(subpath);
        match (ran(&spec).await, expected) {
            (Ok(ran), Some(name)) => assert_eq!(ran.text(), format!("{name}\n")),
            (Err(error), None) => assert!(error.to_string().contains(&format!("`{subpath}` in the source")), "{error}"),
            (result, _) => panic!("{subpath}: {:?}", result.map(|ran| ran.exit)),
        }
    }
    assert!(tree.join("BREAKOUT").exists());
    assert_eq!(rig.canary(), canary);
}

#[tokio::test]
async fn removing_stubs_follows_no_link_that_the_step_made() {
    let rig = Rig::new();
    let mut spec = rig.tree("true");
    let mount =
        |target: &str| Mount { target: target.into(), kind: MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o755 }) };
    spec.mounts = vec![mount("/a/empty"), mount("/b/c/empty")];
    let ran = ran(&spec).await.unwrap();
    let canary = rig.canary();
    // What a step cannot do while the mounts are there, a later one with the same tree could.
    fs::remove_dir_all(rig.base().join("a")).unwrap();
    symlink(rig.path("canary"), rig.base().join("a")).unwrap();
    fs::remove_dir_all(rig.base().join("b/c")).unwrap();
    symlink(rig.path("canary"), rig.base().join("b/c")).unwrap();
    remove_stubs(fs::File::open(rig.base()).unwrap(), &ran.stubs).unwrap();
    assert_eq!(rig.canary(), canary);
    assert!(rig.base().join("a").is_symlink() && rig.base().join("b/c").is_symlink());
    assert!(!rig.base().join("dev").exists());
}

#[test]
fn the_helpers_binary_cannot_be_written_through_proc() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("binary");
    fs::copy("/bin/busybox", &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    // What a step would hold: the executable of a process that was started the way helpers are.
    let settings = rbuild_executor::sandbox::Settings::with_helper(&binary).unwrap();
    let opened = |program: &Path| {
        let mut process = Command::new(program).arg0("sleep").arg("1000").stdin(Stdio::null()).spawn();
        if let Ok(process) = &mut process {
            let link = format!("/proc/{}/exe", process.id());
            // Whoever started it may go on a moment before it is that program.
            let file = |path: &Path| fs::metadata(path).map(|facts| (facts.dev(), facts.ino())).unwrap();
            while file(Path::new(&link)) != file(program) {
                std::thread::yield_now();
            }
            let held = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(link).unwrap();
            process.kill().unwrap();
            process.wait().unwrap();
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
            return fs::OpenOptions::new().write(true).open(path).map(drop).map_err(|error| error.raw_os_error());
        }
        panic!("{:?}", process.err());
    };
    assert_eq!(opened(&binary), Ok(()), "the attack works on a plain binary");
    assert_eq!(opened(&settings.helper_path()), Err(Some(libc::EROFS)));
}

/// Whatever stands where devices, terminals and kernel files go, and of whatever kind it is.
#[tokio::test]
async fn every_kind_of_entry_at_every_kernel_place_is_covered_or_refused() {
    let places =
        ["dev/null", "dev/console", "dev/pts", "dev/shm", "dev/mqueue", "dev/ptmx", "dev/tty", "proc/self", "sys/fs"];
    for kind in ["link", "file", "directory", "pipe", "missing"] {
        let change = |rig: &Rig, base: &Path| {
            for name in ["dev", "proc", "sys"] {
                fs::create_dir_all(base.join(name)).unwrap();
            }
            for place in places {
                let path = base.join(place);
                match kind {
                    "link" => link_out(rig, base, place, "secret"),
                    "file" => fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(&path, "x")).unwrap(),
                    "directory" => fs::create_dir_all(&path).unwrap(),
                    "pipe" => {
                        let fifo = rustix::fs::FileType::Fifo;
                        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, 0o666.into(), 0).unwrap();
                    }
                    _ => {}
                }
            }
        };
        let script = "echo x > /dev/null; echo x > /dev/shm/x; stat -c %F /dev/null /dev/pts /dev/mqueue /sys/fs; \
            readlink /proc/self; readlink /dev/ptmx; echo $$";
        let ran = attempt(change, script, &[]).await.unwrap();
        let expected = "character special file\ndirectory\ndirectory\ndirectory\n";
        let (kinds, rest) = ran.text().split_at(expected.len());
        assert_eq!(kinds, expected, "{kind}");
        // `readlink` is a process of its own.
        assert!(rest.ends_with("\npts/ptmx\n1\n"), "{kind}: {rest}");
    }
}
