//! Root file systems of images in folders and tars: nothing leaves the folder, nothing is removed unasked.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::raw_tar::{RawHeader, RawTar};
use crate::support::user::User;
use crate::support::{Context, Store, readers, tree};

fn names(dir: &Path) -> Vec<String> {
    let lines = tree::list(dir);
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn only_an_allowed_delete_removes_what_the_result_does_not_have() {
    let (store, dest) = (Store::new(), Store::new().path("out"));
    let dest = store.path(dest.file_name().and_then(|name| name.to_str()).expect("the path is ASCII"));
    let precious = store.path("precious");
    let context = Context::new("FROM scratch\nCOPY . /\n").file("dir/a", "a").file("b", "b");
    for path in [dest.join("dir/old"), dest.join("gone/deep"), precious.clone()] {
        std::fs::create_dir_all(path).expect("it is new");
    }
    std::fs::write(precious.join("file"), "precious").expect("it is new");
    symlink(&precious, dest.join("gone/link")).expect("it is new");
    symlink(&precious, dest.join("link")).expect("it is new");
    let output = |more: &str| format!("type=local,dest={}{more}", dest.display());
    store.build(&context, ["-o", &output("")]).ok();
    assert!(dest.join("gone/deep").exists() && dest.join("dir/a").exists(), "copying removes nothing");
    let refused = store.build(&context, ["-o", &output(",mode=delete")]);
    refused.fails_saying(&["removes files of yours", "--allow buildx.local.delete"]);
    assert!(dest.join("gone/deep").exists());
    store.build(&context, ["--allow", "buildx.local.delete", "-o", &output(",mode=delete")]).ok();
    let found: Vec<String> = names(&dest).into_iter().filter(|name| name != "Dockerfile").collect();
    assert_eq!(found, ["b", "dir", "dir/a"]);
    assert!(precious.join("file").exists(), "links are not followed");
    // The store itself lies in there.
    let all = format!("type=local,dest={},mode=delete", store.root().parent().expect("a directory").display());
    store.build(&context, ["--allow", "buildx.local.delete", "-o", &all]).fails_saying(&["would be removed"]);
}

#[test]
fn links_of_an_image_lead_nowhere_outside_the_folder() {
    let (store, outside) = (Store::with_busybox(), Store::new());
    let outside = outside.path("outside");
    let target = store.path("target");
    std::fs::create_dir_all(&target).expect("it is new");
    // In the folder there is a link to elsewhere, where the image has a directory and files in it.
    let dest = store.path("out");
    std::fs::create_dir_all(&dest).expect("it is new");
    symlink(&target, dest.join("dir")).expect("it is new");
    symlink(&target, dest.join("file")).expect("it is new");
    let script = format!(
        "FROM busybox\nRUN mkdir /dir && echo x > /dir/x && echo y > /file && ln -s {} /out && ln -s / /root-link\n",
        outside.display()
    );
    let output = format!("type=local,dest={}", dest.display());
    let built = store.build(&Context::new(&script), ["-o", &output]);
    // A link is no directory: refused, and nothing is written through it.
    built.fails_saying(&["dir"]);
    assert_eq!(std::fs::read_dir(&target).expect("it is there").count(), 0);
    std::fs::remove_file(dest.join("dir")).expect("it is ours");
    store.build(&Context::new(&script), ["-o", &output]).ok();
    assert_eq!(std::fs::read_dir(&target).expect("it is there").count(), 0);
    assert_eq!(std::fs::read_to_string(dest.join("file")).expect("a file"), "y\n");
    assert_eq!(std::fs::read_link(dest.join("out")).expect("a link"), outside);
    assert!(!outside.exists());
}

#[test]
fn a_platform_has_a_directory_of_its_own_when_it_is_asked_for() {
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY . /\n").file("dir/a", "a");
    let (dest, tar) = (store.path("out"), store.path("out.tar"));
    let platform = format!("linux_{}", if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" });
    store
        .build(
            &context,
            [
                "-o",
                &format!("type=local,dest={},platform-split=true", dest.display()),
                "-o",
                &format!("type=tar,dest={},platform-split=true", tar.display()),
            ],
        )
        .ok();
    assert!(dest.join(&platform).join("dir/a").exists());
    let unpacked = store.path("untarred");
    readers::untar(&tar, &unpacked);
    assert_eq!(names(&unpacked)[0], platform);
    assert!(unpacked.join(&platform).join("dir/a").exists());
}

#[test]
fn what_a_user_gets_is_the_users_own() {
    let store = Store::with_busybox();
    let dest = store.path("out");
    let context = Context::new("FROM busybox\nRUN cp /bin/busybox /suid && chown 7:8 /suid && chmod 6755 /suid\n");
    store.build(&context, ["-o", &format!("type=local,dest={}", dest.display())]).ok();
    let facts = dest.join("suid").metadata().expect("it is there");
    assert_eq!((facts.uid(), facts.gid()), (0, 0), "of the one who runs the build");
    assert_eq!(facts.permissions().mode() & 0o7777, 0o6755);
}

#[test]
fn an_ordinary_user_gets_files_of_its_own_with_all_that_a_user_may_give_them() {
    let store = Store::of_with_busybox(User::new());
    let user = store.user().expect("it has one").id;
    // A base with a device, which no user can make.
    let mut base = RawTar::default();
    base.header(RawHeader { name: b"null", flag: b'3', mode: 0o666, ..Default::default() }).file(b"beside", b"x");
    let file = store.path("base.tar");
    let mut bytes = base.end();
    // Major 1, minor 3: 0:0 would be a deletion.
    bytes[329..345].copy_from_slice(b"0000001\x000000003\0");
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    std::fs::write(&file, bytes).expect("the directory is ours");
    let imported = store.rbuild(["import".as_ref(), file.as_os_str(), "device:1".as_ref()]).ok();
    imported.says(&["1 device was left out", "only root can make them"]);

    let context = Context::new(
        "FROM busybox\nCOPY --from=device:1 / /device\n\
         RUN cp /bin/busybox /suid && chown 7:8 /suid && chmod 6755 /suid && echo x > /one && ln /one /two \\\n\
          && mkdir -m 1777 /sticky && mkfifo -m 640 /pipe && ln -s /etc/passwd /link && chown -h 5 /link \\\n\
          && mkdir -m 700 /closed && echo y > /closed/in && chmod 400 /closed/in && chown -R 9:9 /closed\n",
    );
    let dest = store.path("out");
    let output = format!("type=local,dest={}", dest.display());
    store.build(&context, ["--network=none", "-o", &output]).ok();
    let listed = tree::list(&dest);
    for line in listed.lines() {
        assert!(line.contains(&format!(" {user}:{user}")), "somebody else's: {line}");
    }
    let facts = |name: &str| dest.join(name).symlink_metadata().expect("it is there");
    let mode = |name: &str| facts(name).permissions().mode() & 0o7777;
    assert_eq!((mode("suid"), mode("sticky"), mode("pipe"), mode("closed")), (0o6755, 0o1777, 0o640, 0o700));
    assert_eq!((mode("closed/in"), facts("one").ino()), (0o400, facts("two").ino()));
    assert_eq!(std::fs::read_link(dest.join("link")).expect("a link"), Path::new("/etc/passwd"));
    assert_eq!(names(&dest.join("device")), ["beside"], "the device is left out");
    // It is the user's to write anew, closed directories included, and to remove.
    store.build(&context, ["--network=none", "-o", &output]).ok();
    assert_eq!(tree::list(&dest), listed);
    store
        .build(
            &Context::new("FROM scratch\nCOPY Dockerfile /\n"),
            ["--allow=buildx.local.delete", "-o", &format!("{output},mode=delete")],
        )
        .ok();
    assert_eq!(names(&dest), ["Dockerfile"]);
}
