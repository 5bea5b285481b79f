//! What a build can do: six operations, those of BuildKit's low-level builder in meaning.
//!
//! They are plain values. An operation never holds what it runs on: its inputs stand beside it in
//! [`crate::graph::Vertex`], and an operation names them by index. Whatever must not decide identity (descriptions,
//! limits, secret values) is in [`OpMeta`] or not in the graph at all.

use std::collections::BTreeMap;
use std::sync::Arc;

/// One operation. A vertex of the graph is an operation, its inputs and its platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Brings something into the build: an image, a directory, a repository, a file. No inputs, one output.
    Source(SourceOp),
    /// Runs a process. Outputs are the mounts that ask for one, in mount order.
    Exec(Box<ExecOp>),
    /// Changes trees without running a process.
    File(FileOp),
    /// Stacks the trees of all inputs, the last on top. One output.
    Merge(MergeOp),
    /// What changed from `lower` to `upper`. One output.
    Diff(DiffOp),
    /// Solves a graph that is itself a build result. One output.
    Build(BuildOp),
}

/// Where something comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOp {
    /// `docker-image://docker.io/library/debian:12@sha256:…`, `local://context`, `git://…`, `https://…`: the scheme
    /// picks the source, the rest is its business. Images are pinned by digest before they enter the graph.
    /// `oci-layout://docker.io/library/debian:12@sha256:…` is an image too, whose blobs the caller has brought from an
    /// OCI image layout: no registry knows it, and the name before the `@` is for people only.
    pub identifier: String,
    /// Options of the source, by the names in [`attr`].
    pub attrs: BTreeMap<String, String>,
}

/// Names of [`SourceOp::attrs`].
pub mod attr {
    /// `local://`: JSON list of ignore patterns, in the order of the ignore file; the last match wins.
    pub const EXCLUDE_PATTERNS: &str = "local.excludepatterns";
    /// `local://`: JSON list; when present only what matches is part of the source.
    pub const INCLUDE_PATTERNS: &str = "local.includepattern";

    /// `git://`: the whole address with its scheme, when the identifier does not say it.
    pub const GIT_FULL_URL: &str = "git.fullurl";
    /// `git://`: `true` keeps `.git`.
    pub const GIT_KEEP_DIR: &str = "git.keepgitdir";
    /// `git://`: the commit that the reference must resolve to, or a beginning of it.
    pub const GIT_CHECKSUM: &str = "git.checksum";
    /// `git://`: `true` leaves submodules out.
    pub const GIT_SKIP_SUBMODULES: &str = "git.skipsubmodules";
    /// `git://`: `commit` gives every file the time of the commit; `checkout` is the default.
    pub const GIT_MTIME: &str = "git.mtime";
    /// `git://`: `true` asks the server for the commit of [`GIT_CHECKSUM`] itself.
    pub const GIT_FETCH_BY_COMMIT: &str = "git.fetchbycommit";

    /// `http://`, `https://`: `sha256:…` (or sha384, sha512) of the bytes.
    pub const HTTP_CHECKSUM: &str = "http.checksum";
    /// `http://`, `https://`: name of the one file in the tree.
    pub const HTTP_FILENAME: &str = "http.filename";
    /// `http://`, `https://`: permission bits in octal; 0600 when absent.
    pub const HTTP_PERM: &str = "http.perm";
}

impl SourceOp {
    /// The part before `://`, or the empty string.
    pub fn scheme(&self) -> &str {
        self.identifier.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// The part after `://`, or the whole identifier.
    pub fn reference(&self) -> &str {
        self.identifier.split_once("://").map_or(self.identifier.as_str(), |(_, rest)| rest)
    }
}

/// A process and all that it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOp {
    /// The command; never empty.
    pub args: Vec<String>,
    /// `NAME=value`, in order; part of the identity. Shared: a stage's steps mostly have the same.
    pub env: Arc<[String]>,
    /// Proxy variables: given to the process, outside every digest and key.
    pub proxy_env: Vec<String>,
    /// Working directory inside the root; absolute.
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved in the root file system; empty is root.
    pub user: String,
    /// What is mounted where. The first mount with target `/` is the root.
    pub mounts: Vec<Mount>,
    /// Which network the process is in.
    pub network: NetworkMode,
    /// How much it may do.
    pub security: SecurityMode,
    /// Secrets handed over as environment variables.
    pub secret_env: Vec<SecretEnv>,
    /// Extra lines for `/etc/hosts`: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Host name inside; empty is the builder's default.
    pub hostname: String,
    /// Resource limits by name (`nofile`): (name, soft, hard).
    pub ulimits: Vec<(String, i64, i64)>,
    /// Size of `/dev/shm` in bytes; 0 is the default of 64 MiB.
    pub shm_size_bytes: u64,
    /// Parent control group; empty is the builder's own.
    pub cgroup_parent: String,
    /// Exit codes that count as success; empty means only 0.
    pub valid_exit_codes: Vec<i32>,
    /// Devices by CDI name.
    pub devices: Vec<Device>,
}

/// A device asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// CDI name, `vendor.com/class=name`.
    pub name: String,
    /// Whether the step fails when the device is absent.
    pub required: bool,
}

/// A secret that becomes an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEnv {
    /// Which secret.
    pub id: String,
    /// Which variable.
    pub name: String,
    /// Whether its absence is tolerated.
    pub optional: bool,
}

/// Which network a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// A network of its own with a way out.
    #[default]
    Default,
    /// The host's network.
    Host,
    /// Loopback only.
    None,
}

/// How much a process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SecurityMode {
    /// The default capability set, masks and filter.
    #[default]
    Sandbox,
    /// All capabilities; needs a grant.
    Insecure,
}

/// One mount of an [`ExecOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path inside the root.
    pub target: String,
    /// Index of the vertex's input that is mounted; `None` is an empty tree.
    pub input: Option<usize>,
    /// Path inside the input that is mounted; empty or `/` is all of it.
    pub selector: String,
    /// Index of the vertex's output that receives the tree afterwards; `None` throws writes away.
    pub output: Option<u32>,
    /// Whether writes are refused.
    pub readonly: bool,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether the content of what is mounted may stand for where it comes from.
    pub content_cache: ContentCache,
}

/// Whether a result may be found by the content of an input, however that came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContentCache {
    /// As everywhere: yes.
    #[default]
    Default,
    /// Asked for; the same.
    On,
    /// No: the operation runs again when what it stands on is defined in another way.
    Off,
}

/// What a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A tree: the root, or `--mount=type=bind`.
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Its name, namespace included.
        id: String,
        /// Who may use it at the same time.
        sharing: CacheSharing,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes; 0 is none.
        size_bytes: u64,
    },
    /// A secret file.
    Secret {
        /// Which secret.
        id: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
        /// Whether its absence is tolerated.
        optional: bool,
    },
    /// An ssh agent's socket.
    Ssh {
        /// Which agent.
        id: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
        /// Whether its absence is tolerated.
        optional: bool,
    },
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheSharing {
    /// Everyone at once.
    Shared,
    /// Each user gets a directory of its own.
    Private,
    /// One after the other.
    Locked,
}

/// A list of file actions, performed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOp {
    /// The actions; each may use the results of those before it.
    pub actions: Vec<FileAction>,
}

impl FileOp {
    /// A layer with all of a tree that has none of its own: its first input, copied onto nothing. What can only stand on
    /// layers stands on this.
    pub fn copy_of_tree() -> Self {
        let copy = CopyAction {
            src: "/".into(),
            dest: "/".into(),
            dir_contents_only: true,
            create_dest_path: true,
            ..CopyAction::default()
        };
        let kind = FileActionKind::Copy(copy);
        Self { actions: vec![FileAction { input: None, secondary_input: Some(0), output: Some(0), kind }] }
    }
}

/// One file action: takes a tree, gives a changed tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAction {
    /// The tree that is changed. Indices below the number of the vertex's inputs are inputs; above, the results of
    /// earlier actions (`inputs + action index`). `None` is an empty tree.
    pub input: Option<usize>,
    /// For a copy: the tree that is read, numbered likewise. `None` otherwise.
    pub secondary_input: Option<usize>,
    /// Index of the vertex's output that receives the result; `None` when only later actions use it.
    pub output: Option<u32>,
    /// What is done.
    pub kind: FileActionKind,
}

impl FileAction {
    /// Who owns what it makes, if it says so.
    pub fn owner(&self) -> Option<&Owner> {
        match &self.kind {
            FileActionKind::Copy(copy) => copy.owner.as_ref(),
            FileActionKind::MkFile { owner, .. }
            | FileActionKind::MkDir { owner, .. }
            | FileActionKind::Symlink { owner, .. } => owner.as_ref(),
            FileActionKind::Rm { .. } => None,
        }
    }

    /// The input in which names of owners are looked up, if it is not the tree that is changed.
    pub fn names_from(&self) -> Option<usize> {
        self.owner().and_then(|owner| owner.names_from)
    }
}

/// What a file action does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileActionKind {
    /// Copies from the secondary input.
    Copy(CopyAction),
    /// Writes a file with the given bytes, replacing what is there.
    MkFile {
        /// Absolute path inside the root.
        path: String,
        /// Permission bits.
        mode: u32,
        /// The bytes.
        data: Vec<u8>,
        /// Owner; `None` is 0:0.
        owner: Option<Owner>,
        /// Modification time in nanoseconds since 1970; `None` is now.
        timestamp: Option<i64>,
    },
    /// Makes a directory.
    MkDir {
        /// Absolute path inside the root.
        path: String,
        /// Permission bits of the directories it makes; existing ones keep theirs.
        mode: u32,
        /// Whether missing parents are made and an existing directory is fine.
        make_parents: bool,
        /// Owner of the directories it makes; `None` is 0:0.
        owner: Option<Owner>,
        /// Modification time in nanoseconds since 1970; `None` is now.
        timestamp: Option<i64>,
    },
    /// Removes a path.
    Rm {
        /// Absolute path inside the root.
        path: String,
        /// Whether a missing path is fine.
        allow_not_found: bool,
        /// Whether the path may hold wildcards.
        allow_wildcard: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where the link points.
        target: String,
        /// Absolute path of the link.
        path: String,
        /// Owner; `None` is 0:0.
        owner: Option<Owner>,
        /// Modification time in nanoseconds since 1970; `None` is now.
        timestamp: Option<i64>,
    },
}

/// A copy of one source path (or pattern) to one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyAction {
    /// Path or pattern in the secondary input; absolute.
    pub src: String,
    /// Path in the input; absolute. A trailing `/` means: into this directory.
    pub dest: String,
    /// Owner of everything copied; `None` keeps the source's (0:0 for a local source).
    pub owner: Option<Owner>,
    /// Permission bits of everything copied; `None` keeps the source's.
    pub mode: Option<CopyMode>,
    /// Whether a source path that is a link is replaced by what it points to.
    pub follow_symlinks: bool,
    /// Whether a directory copies its contents rather than itself.
    pub dir_contents_only: bool,
    /// Whether a local archive is unpacked (the ADD instruction).
    pub unpack_archives: bool,
    /// Whether missing directories of `dest` are made.
    pub create_dest_path: bool,
    /// Whether `src` may hold wildcards.
    pub allow_wildcard: bool,
    /// Whether a pattern that matches nothing is fine.
    pub allow_empty_wildcard: bool,
    /// Only paths that match are copied, with the directories above them and, of a directory that matches, all that is
    /// in it; empty means all. Paths are those beneath `src` (`COPY --parents a/b.txt /x`: `src` is `/`, the pattern is
    /// `a/b.txt`), without a slash in front; the patterns are those of an ignore file.
    pub include_patterns: Vec<String>,
    /// Paths that match are left out.
    pub exclude_patterns: Vec<String>,
    /// Paths or patterns beneath `src`, written as in `include_patterns`, of which each must be there (a pattern may
    /// match nothing only if `allow_empty_wildcard`): what `include_patterns` alone would pass over in silence.
    pub required_paths: Vec<String>,
    /// Modification time of everything copied, in nanoseconds since 1970; `None` keeps the source's.
    pub timestamp: Option<i64>,
    /// Whether a file may replace a directory, and a directory a file; otherwise that is an error.
    pub replace_other_types: bool,
}

/// Permission bits asked for by `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// Octal, at most `0o7777`.
    Bits(u32),
    /// `u=rwX,go=rX`, chmod(1)'s language.
    Symbolic(String),
}

/// An owner as written: names are resolved in the tree that is changed, unless it says in which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: UserRef,
    /// The group; `None` takes the one that `/etc/passwd` has for a name, and the same number for a number.
    pub group: Option<UserRef>,
    /// The input of the vertex in which names are looked up; `None` is the tree that is changed.
    pub names_from: Option<usize>,
}

/// A user or group, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef {
    /// Looked up in `/etc/passwd` or `/etc/group` of the tree.
    Name(String),
    /// As it is.
    Id(u32),
}

/// Marker of [`Op::Merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeOp {}

/// Inputs of [`Op::Diff`]; `None` is the empty tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffOp {
    /// Index of the input that is taken away.
    pub lower: Option<usize>,
    /// Index of the input that remains.
    pub upper: Option<usize>,
}

/// A build inside a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOp {
    /// Who solves it; `llb` is the engine itself.
    pub builder: String,
    /// Named inputs of the definition, by the vertex's input index.
    pub inputs: BTreeMap<String, usize>,
    /// Options of the builder.
    pub attrs: BTreeMap<String, String>,
}

/// For which machine an operation is done. OCI image-spec config.md, "Properties"; already normalised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `v7`, `v8`, or empty.
    pub variant: String,
    /// Windows only.
    pub os_version: String,
    /// Windows only.
    pub os_features: Vec<String>,
}

/// What is known of a vertex beside its operation; outside every digest and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpMeta {
    /// The words people see: `[build 2/4] RUN make`.
    pub description: String,
    /// Whether the vertex runs even when a result is known (`--no-cache`), and with it everything that stands on it.
    pub ignore_cache: bool,
    /// The progress group, when it belongs to one.
    pub progress_group: Option<ProgressGroup>,
    /// Whether its result goes into caches of other machines; `None` is as the cache says.
    pub export_cache: Option<bool>,
}

/// Vertices that are shown as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProgressGroup {
    /// Which group.
    pub id: String,
    /// The words people see.
    pub name: String,
    /// Whether a vertex that is in another group too is shown there.
    pub weak: bool,
}
