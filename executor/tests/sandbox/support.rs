//! A busybox image, ways to run something in it, and a canary outside of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rbuild_executor::sandbox::spec::Upper;
use rbuild_executor::sandbox::{
    Exit, Io, Output, Overlay, ProcessSpec, RootFs, SandboxError, Settings, Stdin, Stub, run,
};
use rbuild_executor::userns::{IdMap, Machine, choose};
use solver::seam::{LogSink, Stream, Usage};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::probe::{self, Width};
use crate::told::Facts;

/// Where Debian's package `busybox-static` has it.
const BUSYBOX: &str = "/bin/busybox";

/// A store with one busybox layer.
pub struct Rig {
    dir: TempDir,
}

impl Rig {
    pub fn new() -> Self {
        let rig = Self { dir: tempfile::tempdir().unwrap() };
        let base = rig.base();
        for directory in ["bin", "etc", "tmp", "root"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        fs::copy(BUSYBOX, base.join("bin/busybox")).expect("the package busybox-static is installed");
        for applet in [
            "sh", "cat", "id", "ls", "env", "sleep", "true", "touch", "mkdir", "rm", "ln", "stat", "setsid", "grep",
            "readlink", "head", "wc", "cut", "sort", "ping", "mkfifo", "umount", "mount", "hostname", "df", "tail",
            "tr", "tty", "stty", "kill", "mv", "seq",
        ] {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(base.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
            .unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\nstaff:x:50:bob\nbob:x:1001:\n").unwrap();
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        for directory in ["upper", "work", "canary"] {
            fs::create_dir(rig.path(directory)).unwrap();
        }
        fs::write(rig.path("canary/secret"), "secret").unwrap();
        fs::create_dir(rig.path("canary/empty")).unwrap();
        fs::write(rig.path("canary/nothing"), "").unwrap();
        rig
    }

    /// A path beside the image.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The layer's tree.
    pub fn base(&self) -> PathBuf {
        self.path("layers/base")
    }

    /// `script` by the shell in the layer itself.
    pub fn tree(&self, script: &str) -> ProcessSpec {
        spec(RootFs::Tree { path: self.base() }, script)
    }

    /// `script` by the shell in an overlay of the layer with a new, empty upper. (A volatile one is used once.)
    pub fn overlay(&self, script: &str) -> ProcessSpec {
        for directory in ["upper", "work"] {
            fs::remove_dir_all(self.path(directory)).unwrap();
            fs::create_dir(self.path(directory)).unwrap();
        }
        let upper = Upper { dir: self.path("upper"), work: self.path("work") };
        let layers_dir = self.path("layers");
        spec(RootFs::Overlay(Overlay { layers_dir, lowers: vec!["base".into()], upper: Some(upper) }), script)
    }

    /// The probe in a new overlay, printing `sections`.
    pub fn probe(&self, width: Width, sections: &[&str]) -> ProcessSpec {
        fs::copy(probe::program(width), self.base().join("probe")).unwrap();
        let mut spec = self.overlay("");
        spec.args = ["/probe"].iter().chain(sections).map(|word| word.to_string()).collect();
        spec
    }

    /// Everything that can be seen of the canary from outside.
    pub fn canary(&self) -> String {
        describe(&self.path("canary"))
    }
}

fn spec(root: RootFs, script: &str) -> ProcessSpec {
    let mut spec = ProcessSpec::new(root, ["/bin/sh", "-c", script].map(String::from).to_vec());
    spec.env = vec!["PATH=/bin".into()];
    spec.user_namespace = user_namespace();
    spec
}

/// Every entry beneath `path` with its attributes and bytes, sorted.
pub fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let mut text = format!(
        "{} {:o} {}:{} {} links {}.{:09}",
        path.display(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    if meta.is_file() {
        text.push_str(&format!(" {:?}", fs::read(path).unwrap()));
    }
    text.push('\n');
    if meta.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        text.extend(names.iter().map(|name| describe(name)));
    }
    text
}

/// The variable by which `elsewhere` asks that steps have user namespaces of their own.
pub const USERNS: &str = "RBUILD_TEST_USERNS";
/// The variable that says where the helper can be reached by an ordinary user.
pub const HELPER: &str = "RBUILD_TEST_HELPER";

/// The ids of the user namespaces that steps shall have, if they shall.
pub fn user_namespace() -> Option<IdMap> {
    std::env::var_os(USERNS).map(|_| ids())
}

/// Ids that steps can have on this machine.
pub fn ids() -> IdMap {
    choose(None, &Machine::read().expect("there are accounts")).expect("there are ids to spare")
}

/// The tests' helper.
pub fn helper() -> PathBuf {
    std::env::var_os(HELPER).map_or_else(|| env!("CARGO_BIN_EXE_rbuild-init-for-tests").into(), PathBuf::from)
}

/// The sandbox with the tests' helper.
pub fn settings() -> Settings {
    Settings::with_helper(&helper()).expect("these tests run as root")
}

/// Collects output.
#[derive(Debug, Default)]
pub struct Collected {
    pub stdout: Mutex<Vec<u8>>,
    pub stderr: Mutex<Vec<u8>>,
    pub notices: Mutex<Vec<String>>,
    pub usage: Mutex<Option<Usage>>,
    said: tokio::sync::Notify,
    printed: tokio::sync::Notify,
}

impl Collected {
    /// Waits until the step has printed something.
    pub async fn printed(&self) {
        self.printed.notified().await;
    }

    /// Waits until something was said about the step.
    pub async fn noticed(&self) {
        self.said.notified().await;
    }
}

impl LogSink for Collected {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let buffer = if stream == Stream::Stdout { &self.stdout } else { &self.stderr };
        buffer.lock().unwrap().extend_from_slice(bytes);
        self.printed.notify_one();
    }

    fn progress(&self, _: &str, _: u64, _: Option<u64>, _: bool) {}

    fn notice(&self, text: &str) {
        self.notices.lock().unwrap().push(text.to_owned());
        self.said.notify_one();
    }

    fn used(&self, usage: &Usage) {
        *self.usage.lock().unwrap() = Some(*usage);
    }
}

/// A step that ended.
pub struct Ran {
    pub exit: Exit,
    pub stubs: Vec<Stub>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn stub_paths(&self) -> Vec<&str> {
        self.stubs.iter().map(|stub| stub.path.to_str().unwrap()).collect()
    }
}

/// Runs to the end with nothing to read.
pub async fn ran(spec: &ProcessSpec) -> Result<Ran, SandboxError> {
    let log = Collected::default();
    let io = Io { stdin: Stdin::Null, output: Output::Log(&log), forward_signals: false };
    let finished = run(&settings(), spec, io, &CancellationToken::new()).await?;
    Ok(Ran {
        exit: finished.exit,
        stubs: finished.stubs,
        stdout: log.stdout.into_inner().unwrap(),
        stderr: String::from_utf8(log.stderr.into_inner().unwrap()).unwrap(),
    })
}

/// Runs, expects success, and returns standard output.
#[track_caller]
pub fn output(spec: &ProcessSpec) -> impl Future<Output = String> {
    let place = std::panic::Location::caller();
    async move {
        let ran = ran(spec).await.unwrap_or_else(|error| panic!("{place}: {error}: {error:?}"));
        assert_eq!(ran.exit, Exit::Code(0), "{place}: {}{}", ran.text(), ran.stderr);
        ran.text().to_owned()
    }
}

/// What a probe told that was run as `spec` says.
#[track_caller]
pub fn facts(spec: &ProcessSpec) -> impl Future<Output = Facts> {
    let output = output(spec);
    async move { Facts::parse(&output.await) }
}
