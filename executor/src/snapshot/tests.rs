//! Both snapshotters through the same table: what a step leaves behind, and that nothing is lost or left over.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use super::overlay::{MountApi, mount_detached};
use super::*;
use crate::testing::{build, mounts, open, shell, show};

/// A store's layers directory with drafts beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layers", "tmp", "scratch"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Layers from trees in overlayfs form, bottom first; their names, topmost first.
    fn layers(&self, layers: &[&[&str]]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (i, lines) in layers.iter().enumerate() {
            let name = format!("layer{i:03}");
            build(&self.path("layers").join(&name), lines);
            names.insert(0, name);
        }
        names
    }

    fn draft(&self, name: &str) -> (PathBuf, PathBuf) {
        let (fs_path, work) = (self.path("tmp").join(name).join("fs"), self.path("tmp").join(name).join("work"));
        fs::create_dir_all(&fs_path).unwrap();
        fs::create_dir_all(&work).unwrap();
        fs::set_permissions(&fs_path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        (fs_path, work)
    }

    fn snapshotters(&self) -> Vec<(&'static str, Box<dyn Snapshotter>)> {
        let overlay = |api| Box::new(OverlaySnapshotter::new(&self.path("layers"), api).unwrap());
        vec![
            ("overlay", overlay(MountApi::LowerByLower)),
            ("one page", overlay(MountApi::OnePage)),
            ("copy", Box::new(CopySnapshotter::new(&self.path("layers"), &self.path("scratch")))),
        ]
    }
}

/// What is in the tar of a layer, but for times.
fn tar_of(tree: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    oci::layer::write_layer(open(tree).as_fd(), &mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut lines = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).unwrap();
        let header = entry.header();
        lines.push(format!(
            "{} {:?} {:o} {}:{} {:?} {text:?}",
            entry.path().unwrap().display(),
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            entry.link_name().unwrap(),
        ));
    }
    lines
}

/// What du(1) says.
fn disk_usage(path: &std::path::Path) -> u64 {
    let output = std::process::Command::new("du").args(["--summarize", "--block-size=1"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs `script` on top of `lowers` with every snapshotter. `upper` is what the committed directory must hold; a line
/// that ends in `*` has a new time. Also: the layer on top of its lowers must be the very tree that the script left.
fn check(lowers: &[&[&str]], script: &str, upper: &[&str]) {
    let before = mounts();
    let place = Place::new();
    let names = place.layers(lowers);
    let mut tars = Vec::new();
    for (i, (kind, snapshots)) in place.snapshotters().into_iter().enumerate() {
        let (fs_path, work) = place.draft(&format!("draft{i}"));
        let mounted = snapshots.prepare(&names, &fs_path, &work).unwrap();
        shell(mounted.fd(), script);
        let left = show(mounted.fd(), true);
        drop(mounted);
        let Committed { changed, bytes } = snapshots.commit(&names, &fs_path).unwrap();
        assert_eq!(bytes, disk_usage(&fs_path), "{kind}: {script}");
        assert_eq!(show(open(&fs_path).as_fd(), true), upper, "{kind}: {script}");
        assert_eq!(changed, !upper.is_empty() || script.contains(" ."), "{kind}: {script}");
        tars.push((kind, tar_of(&fs_path)));
        // Stacked again, by overlayfs, it is what it was.
        let name = format!("result{i}");
        fs::rename(&fs_path, place.path("layers").join(&name)).unwrap();
        let stack: Vec<String> = std::iter::once(name).chain(names.iter().cloned()).collect();
        let view = place.snapshotters()[0].1.view(&stack).unwrap();
        assert_eq!(show(view.fd(), true), left, "{kind}, stacked again: {script}");
    }
    for (kind, tar) in &tars[1..] {
        assert_eq!(&tars[0].1, tar, "the tars of overlay and {kind}: {script}");
    }
    assert_eq!(mounts(), before, "a mount is left: {script}");
}

const BASE: &[&str] = &["d/f=one", "d/g=two 4755", "e/", "h=three 600 5:6", "l -> d/f", "x=xattr @user.k=v"];

#[test]
fn only_what_a_step_changed_is_left() {
    let cases: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("cat d/f h >/dev/null; ls -lR >/dev/null", &[]),
        // Copied up, and the same again.
        ("chmod 644 d/f", &[]),
        ("chown 0:0 d/f", &[]),
        ("chmod 644 d/f; chmod 4755 d/g; chown 5:6 h; chmod 600 h", &[]),
        ("touch -d @1000000000 d/f", &[]),
        ("cp -p d/f t; cat t >d/f; touch -r t d/f; rm t", &[]),
        // The same length and time, other bytes.
        ("printf eno >d/f; touch -d @1000000000 d/f", &["d/", "d/f=eno"]),
        ("touch -d @1000000001 d/f", &["d/", "d/f=one*"]),
        ("chmod 600 d/f", &["d/", "d/f=one 600"]),
        ("chown 7:8 h", &["h=three 600 7:8"]),
        ("chown -h 7:8 l", &["l -> d/f 7:8"]),
        ("echo -n new >n", &["n=new*"]),
        ("rm h", &["h!"]),
        ("echo -n a >n; rm n", &[]),
        // A directory's time moves with its entries, and stays moved.
        ("rm d/f", &["d/*", "d/f!"]),
        ("touch e/t; rm e/t; touch -d @1000000000 e", &[]),
        ("touch e/t; rm e/t", &["e/*"]),
        ("mkdir -p n/m; echo -n a >n/m/f", &["n/*", "n/m/*", "n/m/f=a*"]),
        ("mkdir n; chmod 1777 n", &["n/ 1777*"]),
        ("chmod 700 e", &["e/ 700"]),
        ("rmdir e", &["e!"]),
        ("ln -s x n", &["n -> x*"]),
        ("ln -sfn h l", &["l -> h*"]),
        ("mkfifo p", &["p|*"]),
        ("mknod n c 1 3", &["n:1:3*"]),
        ("setfattr -n user.k -v w x", &["x=xattr @user.k=w"]),
        ("setfattr -x user.k x; setfattr -n user.k -v v x", &[]),
        ("setfattr -x user.k x", &["x=xattr"]),
        // Of one kind, then of another.
        ("rm h; mkdir h", &["h/*"]),
        ("rmdir e; echo -n f >e", &["e=f*"]),
        ("rm l; echo -n f >l", &["l=f*"]),
        // Names that share a file.
        ("ln h i", &["h=three 600 5:6", "i == h"]),
        ("echo -n a >n; ln n m", &["m=a*", "n == m"]),
        ("echo -n a >n; ln n m; rm n", &["m=a*"]),
        ("mv d/f d/z; touch -d @1000000000 d", &["d/", "d/f!", "d/z=one"]),
        // The root.
        ("mkdir n; rmdir n", &[]),
        ("chmod 711 .", &[]),
        ("chown 3:4 .", &[]),
        ("touch -d @5 .>/dev/null; chmod 755 .; chmod 701 .", &[]),
    ];
    for (script, upper) in cases {
        check(&[BASE], script, upper);
    }
}

#[test]
fn deletions_reach_through_all_layers() {
    let lowers: &[&[&str]] = &[&["a/b/c=1", "a/b/d=2", "k=3"], &["a/b/e=4"], &["a/b/c!", "k=5"]];
    check(lowers, "true", &[]);
    check(lowers, "test ! -e a/b/c; rm a/b/d; touch -d @1000000000 a/b", &["a/", "a/b/", "a/b/d!"]);
    check(lowers, "rm -r a; touch -d @1000000000 .", &["a!"]);
    check(lowers, "echo -n 1 >a/b/c; touch -d @1000000000 a/b a/b/c", &["a/", "a/b/", "a/b/c=1"]);
    check(lowers, "echo -n 5 >k; touch -d @1000000000 k", &[]);
}

#[test]
fn a_directory_made_anew_hides_the_old_one() {
    check(&[BASE], "rm -r d; mkdir d", &["d/!*"]);
    check(&[BASE], "rm -r d; mkdir d; echo -n a >d/n", &["d/!*", "d/n=a*"]);
    // overlayfs marks every new directory; one that hides nothing loses the mark.
    check(&[BASE], "mkdir -p d/n/m; touch -d @1000000000 d", &["d/", "d/n/*", "d/n/m/*"]);
}

#[test]
fn on_nothing_everything_is_new() {
    check(&[], "true", &[]);
    check(&[], "mkdir d; echo -n a >d/f; ln d/f g", &["d/*", "d/f=a*", "g == d/f"]);
    check(&[], "echo -n a >f; rm f", &[]);
}

#[test]
fn hard_linked_files_stay_together_or_go_together() {
    let lowers: &[&[&str]] = &[&["a=1", "b == a", "c == a", "o=2"]];
    for (script, upper) in [
        // Reading is no change, whatever the number of names.
        ("cat a b c >/dev/null", &[][..]),
        ("ln o p; rm p; chmod 644 o", &[]),
        ("rm c", &["c!"]),
    ] {
        check(lowers, script, upper);
    }
}

#[test]
fn the_root_directory_keeps_mode_and_owner_from_layer_to_layer() {
    let place = Place::new();
    for (kind, snapshots) in place.snapshotters() {
        let (first, work) = place.draft(&format!("first {kind}"));
        let mounted = snapshots.prepare(&[], &first, &work).unwrap();
        shell(mounted.fd(), "chmod 1750 .; chown 3:4 .; setfattr -n user.k -v v .");
        drop(mounted);
        assert!(snapshots.commit(&[], &first).unwrap().changed, "{kind}");
        let name = format!("rooted-{}", kind.replace(' ', "-"));
        fs::rename(&first, place.path("layers").join(&name)).unwrap();
        let lowers = vec![name];
        let (second, work) = place.draft(&format!("second {kind}"));
        let mounted = snapshots.prepare(&lowers, &second, &work).unwrap();
        shell(mounted.fd(), "test \"$(stat -c '%a %u:%g' .)\" = '1750 3:4'; mkdir n; rmdir n");
        drop(mounted);
        assert!(!snapshots.commit(&lowers, &second).unwrap().changed, "{kind}: a moved time of the root is no change");
        assert_eq!(fs::metadata(&second).map(|m| std::os::unix::fs::MetadataExt::mode(&m) & 0o7777).unwrap(), 0o1750);
    }
}

#[test]
fn many_layers_are_stacked_and_too_many_are_refused() {
    let place = Place::new();
    let lines: Vec<String> = (0..1000).map(|i| format!("f{i}={i}")).collect();
    let layers: Vec<Vec<&str>> = lines.iter().map(|line| vec![line.as_str(), "top=x"]).collect();
    let layers: Vec<&[&str]> = layers.iter().map(Vec::as_slice).collect();
    let names = place.layers(&layers);
    for (kind, snapshots) in place.snapshotters().into_iter().filter(|(kind, _)| *kind != "copy") {
        // One page of options takes fewer names than `lowerdir+` does.
        let most = if kind == "one page" { 850 } else { 999 };
        for count in [1, 2, 110, 127, 128, 200, 400, 500, 501, most] {
            let view = snapshots.view(&names[..count]).unwrap();
            assert_eq!(show(view.fd(), false).len(), count + 1, "{kind}");
        }
        for count in [500, 501, most] {
            let (fs_path, work) = place.draft(&format!("many {kind} {count}"));
            let mounted = snapshots.prepare(&names[..count], &fs_path, &work).unwrap();
            // One file each of the topmost and of the lowest layer, which are in different storeys.
            let lowest = names.len() - count;
            shell(mounted.fd(), &format!("echo -n n >n; rm f{lowest}; test ! -e f{lowest}; test -e f999"));
            drop(mounted);
            assert!(snapshots.commit(&names[..count], &fs_path).unwrap().changed);
            assert_eq!(show(open(&fs_path).as_fd(), false).len(), 2, "{kind}: a file and a whiteout");
        }
        let error = snapshots.view(&names).unwrap_err();
        assert!(matches!(error, SnapshotError::TooManyLayers { layers: 1000, .. }), "{kind}: {error}");
        let too_many = vec![names[0].clone(); 4001];
        let error = snapshots.view(&too_many).unwrap_err();
        assert!(matches!(error, SnapshotError::TooManyLayers { layers: 4001, limit: 4000 }), "{kind}: {error}");
    }
}

#[test]
fn deletions_of_any_layer_of_many_reach_all_beneath() {
    let place = Place::new();
    let lines: Vec<String> = (0..850).map(|i| format!("f{i}={i}")).collect();
    let mut layers: Vec<Vec<&str>> = lines.iter().map(|line| vec![line.as_str()]).collect();
    layers[0].extend(["d/a=1", "e/a=1"]);
    layers[500].extend(["d/b=1", "e/b=1"]);
    // From layers of every part to those of every part beneath.
    layers[345].push("f1!");
    layers[351].push("f2!");
    layers[400].extend(["f3!", "f349!"]);
    layers[849].extend(["f4!", "f360!", "f848!", "d/!", "e!"]);
    let layers: Vec<&[&str]> = layers.iter().map(Vec::as_slice).collect();
    let names = place.layers(&layers);
    for (kind, snapshots) in place.snapshotters().into_iter().filter(|(kind, _)| *kind != "copy") {
        let view = snapshots.view(&names).unwrap();
        let gone = [1, 2, 3, 349, 4, 360, 848];
        let mut left: Vec<String> =
            (0..850).filter(|i| !gone.contains(i)).map(|i| format!("f{i}={i}")).chain(["d/".into()]).collect();
        left.sort();
        let mut found = show(view.fd(), false);
        found.sort();
        assert_eq!(found, left, "{kind}");
    }
}

#[test]
fn a_view_refuses_writes_and_an_empty_one_is_empty() {
    let place = Place::new();
    let names = place.layers(&[&["f=1"], &["g=2"]]);
    for (kind, snapshots) in place.snapshotters().into_iter().filter(|(kind, _)| *kind != "copy") {
        for lowers in [&names[..], &names[..1], &[]] {
            let view = snapshots.view(lowers).unwrap();
            let error = rustix::fs::mkdirat(view.fd(), "n", rustix::fs::Mode::RWXU).unwrap_err();
            assert_eq!(error, rustix::io::Errno::ROFS, "{kind}");
            assert_eq!(show(view.fd(), false).len(), lowers.len(), "{kind}");
        }
    }
}

#[test]
fn a_refused_mount_says_what_the_kernel_said() {
    let place = Place::new();
    let names = place.layers(&[&["f=1"], &["g=2"]]);
    let file = Some(format!("{}/f", names[1]));
    let spec = OverlaySpec { lowers: names, upper: file.clone(), work: file };
    let error = mount_detached(&spec, open(&place.path("layers")).as_fd(), MountApi::LowerByLower).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("overlay of 2 layers") && text.contains("is not a directory"), "{text}");
}

#[test]
fn an_upper_beneath_a_long_path_with_every_letter_is_mounted() {
    let place = Place::new();
    let names = place.layers(&[&["f=1"]]);
    let odd = place.path("tmp").join(format!("a,b:c\\d=e {}", "x".repeat(200))).join("y".repeat(200));
    let (fs_path, work) = (odd.join("fs"), odd.join("work"));
    fs::create_dir_all(&fs_path).unwrap();
    fs::create_dir_all(&work).unwrap();
    for (kind, snapshots) in place.snapshotters().into_iter().filter(|(kind, _)| *kind != "copy") {
        let mounted = snapshots.prepare(&names, &fs_path, &work).unwrap();
        shell(mounted.fd(), &format!("echo -n x >'{kind}'"));
        drop(mounted);
        fs::remove_dir_all(&work).unwrap();
        fs::create_dir_all(&work).unwrap();
    }
    assert!(fs_path.join("overlay").exists() && fs_path.join("one page").exists());
}
