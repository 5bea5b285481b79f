//! podman without a service, and containerd: through their programs, those of `tests/support/engines.py` or real ones,
//! whose folder `RBUILD_TEST_ENGINES` names; containerd then listens at `RBUILD_TEST_CONTAINERD`.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::*;

/// Where programs are, and containerd's socket.
pub(super) struct Programs {
    folder: PathBuf,
    containerd: PathBuf,
    _listener: Option<UnixListener>,
}

impl Programs {
    pub(super) fn open(store: &Store) -> Self {
        if let (Some(folder), Some(containerd)) = (of_test("ENGINES"), of_test("CONTAINERD")) {
            return Self { folder, containerd, _listener: None };
        }
        let folder = store.path("bin");
        std::fs::create_dir(&folder).expect("it is new");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/engines.py");
        for name in ["podman", "ctr"] {
            std::os::unix::fs::symlink(program, folder.join(name)).expect("it is new");
        }
        let containerd = store.path("containerd.sock");
        let listener = UnixListener::bind(&containerd).expect("the path is free");
        Self { folder, containerd, _listener: Some(listener) }
    }

    pub(super) fn build(&self, store: &Store, context: &Context, args: &[&str]) -> Outcome {
        let mut command = store.build_command(context, args);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.display());
        command.env("PATH", path).env("CONTAINERD_ADDRESS", &self.containerd);
        Outcome::of(&mut command)
    }

    /// What containerd says, in its usual namespace.
    pub(super) fn ctr(&self, args: &[&str]) -> String {
        let address = self.containerd.to_str().expect("the path is ASCII");
        self.run("ctr", &[&["--address", address, "--namespace", "default"], args].concat())
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(self.folder.join(program));
        Outcome::of(command.args(args)).ok().stdout
    }
}

fn of_test(name: &str) -> Option<PathBuf> {
    std::env::var_os(format!("RBUILD_TEST_{name}")).map(PathBuf::from)
}

#[test]
fn podman_without_a_service_gets_the_layers_that_it_lacks() {
    let (store, context) = (Store::with_busybox(), app());
    let programs = Programs::open(&store);
    let (one, other) = (name("p:1"), format!("r.example/x/{}:2", name("q")));
    let args = ["-t", &one, "-t", &other, "--load=podman"];
    let built = programs.build(&store, &context, &args).ok().says(&[" of 3 layers, "]);
    let place = format!("into podman ({})", programs.folder.join("podman").display());
    assert!(built.stderr.contains(&place), "{built}");
    programs.build(&store, &context, &args).ok().says(&["it had all layers"]);
    context.write("top", "two");
    programs.build(&store, &context, &args).ok().says(&["sent 1 of 3 layers"]);
    let id = store.image_id(&context, [""; 0]);
    for name in [format!("docker.io/library/{one}"), other] {
        let found: Value = serde_json::from_str(&programs.run("podman", &["image", "inspect", &name])).expect("JSON");
        assert_eq!(found[0]["Id"].as_str().map(|hex| format!("sha256:{hex}")).as_deref(), Some(&*id), "{name}");
    }
}

#[test]
fn containerd_gets_the_blobs_that_it_lacks_in_the_namespace_that_is_meant() {
    let (store, context) = (Store::with_busybox(), app());
    let programs = Programs::open(&store);
    let one = name("c:1");
    let metadata = store.path("metadata.json");
    let metadata_arg = metadata.to_str().expect("the path is ASCII");
    let args = ["-t", &one, "--metadata-file", metadata_arg, "--load=containerd"];
    let built = programs.build(&store, &context, &args).ok().says(&[" of 3 layers, "]);
    let place = format!("into containerd (unix://{}, namespace default)", programs.containerd.display());
    assert!(built.stderr.contains(&place), "{built}");
    programs.build(&store, &context, &args).ok().says(&["it had all layers"]);
    context.write("top", "two");
    programs.build(&store, &context, &args).ok().says(&["sent 1 of 3 layers"]);
    let said: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("it was asked for")).expect("JSON");
    let digest = said["containerimage.digest"].as_str().expect("a digest").to_owned();
    let check = |namespace: &str| {
        let address = programs.containerd.to_str().expect("the path is ASCII");
        let filter = format!("name==\"docker.io/library/{one}\"");
        let listed = programs.run("ctr", &["--address", address, "--namespace", namespace, "images", "check", &filter]);
        listed.lines().any(|line| line.contains(&digest) && line.contains("complete"))
    };
    assert!(check("default") && !check("rbuild.test"));
    let left = programs.ctr(&["images", "check", "name~=loading"]);
    assert!(!left.contains("rbuild-loading"), "{left}");
    programs.build(&store, &context, &["-t", &one, "-o", "type=docker,namespace=rbuild.test"]).ok();
    assert!(check("rbuild.test"));
    programs
        .build(&store, &context, &["--load=containerd"])
        .fails_saying(&["keeps no image without a name", "-t NAME"]);
    // The same manifest goes to a registry and into containerd, so both have the same digest.
    let archive = store.path("app.tar");
    programs.build(&store, &context, &["-o", &format!("type=oci,dest={}", archive.display())]).ok();
    assert_eq!(Archive::read(&archive).digest, digest);
}
