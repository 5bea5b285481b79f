//! What a step leaves behind, kept through layer, registry and unpacking, and what it takes away.

use crate::support::registry::Registry;
use crate::support::{Archive, Context, Store, archive, readers, tree};

/// Makes one of everything in `/t`, with perl's `syscall` where the shell has no word for it.
const EVERYTHING: &str = r#"FROM debian:12-slim
RUN <<'SCRIPT'
set -eu
mkdir /t
cd /t
echo plain > plain
chown 7:8 plain
chmod 0640 plain
ln plain hard
ln -s plain soft
ln -s ../../nowhere dangling
echo suid > suid
chmod 6755 suid
mkdir -m 1777 sticky
mkdir -m 0000 closed
mkfifo -m 0600 pipe
mknod -m 0666 null c 1 3
mknod -m 0660 disk b 7 300
: > empty
perl -e 'open my $f, ">", "not-\xff\xfe-utf8" or die $!; print $f "x"'
perl -e 'open my $f, ">", "line\nbreak" or die $!'
long=$(printf '%0100d' 0)
mkdir -p "$long/$long"
echo deep > "$long/$long/$long"
truncate -s 64M sparse
printf end >> sparse
cp plain capable
perl -e 'my ($path, $name, $value) = ("capable", "security.capability", pack("V5", 0x02000001, 1 << 10, 0, 0, 0));
         syscall(188, $path, $name, $value, length $value, 0) == 0 or die $!;
         ($path, $name, $value) = ("empty", "user.note", "a\0\xff\nb");
         syscall(188, $path, $name, $value, length $value, 0) == 0 or die $!;'
find . -depth -exec touch -h -d @1000000000 {} +
SCRIPT
"#;

/// What must be there again, everywhere.
fn everything() -> String {
    let zeros = "0".repeat(100);
    let sha = |bytes: &[u8]| archive::hex(bytes)[..12].to_owned();
    let sparse = sha(&[&vec![0; 64 << 20][..], b"end"].concat());
    let (plain, empty, suid, deep) = (sha(b"plain\n"), sha(b""), sha(b"suid\n"), sha(b"deep\n"));
    [
        format!("{zeros} d 0755 0:0"),
        format!("{zeros}/{zeros} d 0755 0:0"),
        format!("{zeros}/{zeros}/{zeros} - 0644 0:0 1000000000 5 {deep}"),
        format!("capable - 0640 0:0 1000000000 6 {plain} security.capability=0100000200040000000000000000000000000000"),
        "closed d 0000 0:0".into(),
        "dangling l 0:0 1000000000 -> ../../nowhere".into(),
        "disk b 0660 0:0 1000000000 7:300".into(),
        format!("empty - 0644 0:0 1000000000 0 {empty} user.note=6100ff0a62"),
        format!("hard - 0640 7:8 1000000000 6 {plain}"),
        format!(r"line\nbreak - 0644 0:0 1000000000 0 {empty}"),
        format!(r"not-\xff\xfe-utf8 - 0644 0:0 1000000000 1 {}", sha(b"x")),
        "null c 0666 0:0 1000000000 1:3".into(),
        "pipe p 0600 0:0 1000000000".into(),
        format!("plain - 0640 7:8 1000000000 6 {plain} = hard"),
        "soft l 0:0 1000000000 -> plain".into(),
        format!("sparse - 0644 0:0 1000000000 {} {sparse}", (64 << 20) + 3),
        "sticky d 1777 0:0".into(),
        format!("suid - 6755 0:0 1000000000 5 {suid}"),
    ]
    .join("\n")
}

#[test]
fn everything_survives_step_layer_registry_and_unpacking() {
    let registry = Registry::open();
    let name = registry.name("everything:1");
    let store = Store::with_debian();
    let file = store.path("all.tar");
    let output = format!("type=tar,dest={}", file.display());
    store.build(&Context::new(EVERYTHING), ["-t", &name, "--push", "-o", &output]).ok();
    let expected = everything();
    let untarred = store.path("untarred");
    readers::untar(&file, &untarred);
    assert_eq!(tree::list(&untarred.join("t")), expected, "-o type=tar");

    let bundle = readers::unpack(&format!("docker://{name}"), &store.path(""));
    assert_eq!(tree::list(&bundle.join("rootfs/t")), expected, "umoci");

    // Pulled into another store, then gone through a COPY, which keeps everything of a stage's files.
    let other = Store::new();
    let file = other.path("pulled.tar");
    let output = format!("type=tar,dest={}", file.display());
    let pulled = Context::new(&format!("FROM {name} AS made\nFROM scratch\nCOPY --from=made /t /t\n"));
    other.build(&pulled, ["-o", &output]).ok();
    let untarred = other.path("untarred");
    readers::untar(&file, &untarred);
    assert_eq!(tree::list(&untarred.join("t")), expected, "pulled and copied");
}

#[test]
fn removed_and_replaced_files_are_whiteouts_and_opaque_directories() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox\nRUN mkdir -p /srv/d/old && touch /srv/d/a /srv/d/b /srv/was-dir-now-file && mkdir /srv/x && touch /srv/x/y\n\
         RUN rm /srv/d/a\n\
         RUN rm -rf /srv/d && mkdir /srv/d && touch /srv/d/new\n\
         RUN rm -rf /srv/x && echo file > /srv/x\n\
         RUN touch /gone && rm /gone\n\
         RUN ls /srv /srv/d | xargs echo left:\n",
    );
    let file = store.path("app.tar");
    let built = store.build(&context, ["-o", &format!("type=oci,dest={}", file.display())]).ok();
    assert_eq!(built.lines_of_steps("left: /srv: d was-dir-now-file x /srv/d: new"), 1, "{built}");

    let archive = Archive::read(&file);
    let sorted = |index: usize| {
        let mut names = archive.names(index);
        names.retain(|name| !matches!(name.as_str(), "srv" | "srv/d" | "." | ""));
        names.sort();
        names
    };
    assert_eq!(archive.len(), 5, "the step that undid itself and the one that only looked make no layer");
    assert_eq!(sorted(2), ["srv/d/.wh.a"]);
    assert_eq!(sorted(3), ["srv/d/.wh..wh..opq", "srv/d/new"]);
    assert_eq!(sorted(4), ["srv/x"]);
    let bundle = readers::unpack(&format!("oci-archive:{}", file.display()), &store.path(""));
    let listed = tree::list(&bundle.join("rootfs/srv"));
    let left: Vec<_> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(left, ["d", "d/new", "was-dir-now-file", "x"]);
}

#[test]
fn untouched_and_rewritten_alike_files_are_not_in_the_layer() {
    let store = Store::with_busybox();
    // Opening for writing copies the file up; what comes out is the same but for nothing, so it is not a change.
    let context = Context::new("FROM busybox\nRUN chmod 0644 /etc/passwd && touch /new\n");
    let file = store.path("app.tar");
    store.build(&context, ["-o", &format!("type=oci,dest={}", file.display())]).ok();
    assert_eq!(Archive::read(&file).names(1), ["new"]);
}

#[test]
fn hundreds_of_layers_are_one_tree() {
    let store = Store::with_busybox();
    let mut dockerfile = String::from("FROM busybox\n");
    for n in 0..130 {
        dockerfile += &match n % 10 {
            0 => format!("RUN echo {n} > /n{n} && echo {n} > /last\n"),
            _ => format!("COPY <<EOF /n{n}\n{n}\nEOF\n"),
        };
    }
    dockerfile += "RUN echo seen $(ls / | grep -c '^n[0-9]') $(cat /n7 /n120 /last)\n";
    let context = Context::new(&dockerfile);
    let built = store.build(&context, ["-t", "deep:1"]).ok();
    assert_eq!(built.lines_of_steps("seen 130 7 120 120"), 1, "{built}");
    let ran = store.rbuild(["run", "--rm", "--network=none", "deep:1", "cat", "/n129"]).ok();
    assert_eq!(ran.stdout, "129\n");
}

#[test]
fn more_layers_than_the_kernel_stacks_in_one_mount_work() {
    // Those of an image, which is loaded sooner than so many steps are done, and of steps on it.
    const OF_IMAGE: usize = 505;
    let store = Store::with_busybox();
    std::fs::write(store.path("deep.tar"), image_of_files(OF_IMAGE)).expect("the directory is ours");
    store.rbuild(["load", "-i", "deep.tar"]).ok();
    let mut dockerfile = String::from("FROM busybox AS tools\nFROM deep:1\nCOPY --from=tools /bin/ /bin/\n");
    for n in OF_IMAGE..OF_IMAGE + 5 {
        dockerfile += &format!("COPY <<EOF /n{n}\n{n}\nEOF\n");
    }
    dockerfile += "RUN echo seen $(ls / | grep -c '^n[0-9]') $(cat /n0 /n504 /n509)\n";
    let built = store.build(&Context::new(&dockerfile), ["--network=none", "-t", "deeper:1"]).ok();
    assert_eq!(built.lines_of_steps("seen 510 0 504 509"), 1, "{built}");
}

/// An archive of the image `deep:1`, whose layer number N has the file `/nN` with that number in it.
fn image_of_files(layers: usize) -> Vec<u8> {
    use sha2::Digest as _;

    let tar = |files: &[(String, Vec<u8>)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(contents.len() as u64);
            tar.append_data(&mut header, name, contents.as_slice()).expect("memory takes everything");
        }
        tar.into_inner().expect("memory takes everything")
    };
    let hex = |bytes: &[u8]| sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let names: Vec<String> = (0..layers).map(|n| format!("{n}.tar")).collect();
    let tars: Vec<Vec<u8>> = (0..layers).map(|n| tar(&[(format!("n{n}"), format!("{n}\n").into_bytes())])).collect();
    let diff_ids: Vec<String> = tars.iter().map(|tar| format!("sha256:{}", hex(tar))).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["deep:1"], "Layers": names}]);
    let texts = [("config.json", config), ("manifest.json", manifest)];
    let texts = texts.map(|(name, value)| (name.to_owned(), value.to_string().into_bytes()));
    tar(&names.into_iter().zip(tars).chain(texts).collect::<Vec<_>>())
}

#[test]
fn mode_of_the_root_directory_is_part_of_the_image_and_can_be_taken_back() {
    let store = Store::with_busybox();
    let dockerfile = "FROM busybox AS odd\nRUN chmod 711 /\nFROM odd\nRUN touch /f\nRUN chmod 755 /\n";
    let modes = |target: &str, expected: &str| {
        let archive = store.path(&format!("{target}.tar"));
        store.build(&Context::new(dockerfile), ["--target", target, "-t", "root:1"]).ok();
        store.rbuild(["save", "-o", &archive.display().to_string(), "root:1"]).ok();
        // Through an archive into another store, where nothing is left but what the layers say.
        let other = Store::new();
        other.rbuild(["load", "-i", &archive.display().to_string()]).ok();
        let ran = other.rbuild(["run", "--rm", "--network=none", "root:1", "stat", "-c", "%a", "/"]).ok();
        assert_eq!(ran.stdout, expected, "{target}");
    };
    modes("odd", "711\n");
    modes("1", "755\n");
}
