//! Operations as bytes: one versioned, canonical form that every digest of this room is made from.
//!
//! An operation is written as a list of [`Part`]s, `(name, value)` in a fixed order: `exec.args[2]` → `make`. A digest
//! is the SHA-256 of the version line and of every part with both lengths before it, so that no two lists share
//! bytes. The same list is stored beside a key, which is how a miss is explained: the first part that differs.
//!
//! What is deliberately not written: [`crate::op::OpMeta`], [`crate::op::ExecOp::proxy_env`], secret values.

use sha2::{Digest as _, Sha256};

use crate::op::{
    CacheSharing, CopyMode, ExecOp, FileAction, FileActionKind, Mount, MountKind, NetworkMode, Op, Owner, Platform,
    SecurityMode, SourceOp, UserRef,
};

/// Changes whenever the meaning of any part changes; every old digest then differs from every new one.
const VERSION: &str = "rbuild-canon-2";

/// One named piece of what a digest covers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// What it is: `exec.args[2]`.
    pub name: String,
    /// Its value, as people would write it; bytes that are no text are written as their digest.
    pub value: String,
}

/// An ordered list of parts under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one part.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push(Part { name: name.into(), value: value.into() });
    }

    /// Appends every item of a list as `name[i]`, and its length, so that lists never run into each other.
    pub fn push_list<'a>(&mut self, name: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        self.push(format!("{name}.len"), values.len().to_string());
        for (i, value) in values.enumerate() {
            self.push(format!("{name}[{i}]"), value);
        }
    }

    /// The parts, in order.
    pub fn as_slice(&self) -> &[Part] {
        &self.0
    }

    /// SHA-256 over `domain` and all parts.
    pub fn digest(&self, domain: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(VERSION.as_bytes());
        field(domain.as_bytes());
        for part in &self.0 {
            field(part.name.as_bytes());
            field(part.value.as_bytes());
        }
        hash.finalize().into()
    }

    /// Gives the list up.
    pub fn into_vec(self) -> Vec<Part> {
        self.0
    }
}

/// Writes an operation and its platform.
pub fn op_parts(op: &Op, platform: Option<&Platform>, parts: &mut Parts) {
    if let Some(platform) = platform {
        platform_parts(platform, parts);
    }
    match op {
        Op::Source(source) => source_parts(source, parts),
        Op::Exec(exec) => exec_parts(exec, parts),
        Op::File(file) => {
            parts.push("file.actions", file.actions.len().to_string());
            for (i, action) in file.actions.iter().enumerate() {
                file_action_parts(&format!("file[{i}]"), action, parts);
            }
        }
        Op::Merge(_) => parts.push("op", "merge"),
        Op::Diff(diff) => {
            parts.push("op", "diff");
            parts.push("diff.lower", index(diff.lower));
            parts.push("diff.upper", index(diff.upper));
        }
        Op::Build(build) => {
            parts.push("op", "build");
            parts.push("build.builder", &build.builder);
            for (name, input) in &build.inputs {
                parts.push(format!("build.input.{name}"), input.to_string());
            }
            for (name, value) in &build.attrs {
                parts.push(format!("build.attr.{name}"), value);
            }
        }
    }
}

pub(crate) fn platform_parts(platform: &Platform, parts: &mut Parts) {
    parts.push("platform.os", &platform.os);
    parts.push("platform.architecture", &platform.architecture);
    parts.push("platform.variant", &platform.variant);
    parts.push("platform.os_version", &platform.os_version);
    parts.push_list("platform.os_features", platform.os_features.iter().map(String::as_str));
}

fn source_parts(source: &SourceOp, parts: &mut Parts) {
    parts.push("source", &source.identifier);
    for (name, value) in &source.attrs {
        parts.push(format!("source.{name}"), value);
    }
}

fn exec_parts(exec: &ExecOp, parts: &mut Parts) {
    let list = |values: &[String], name: &str, parts: &mut Parts| {
        parts.push_list(name, values.iter().map(String::as_str));
    };
    list(&exec.args, "exec.args", parts);
    list(&exec.env, "exec.env", parts);
    parts.push("exec.cwd", &exec.cwd);
    parts.push("exec.user", &exec.user);
    let network = match exec.network {
        NetworkMode::Default => "default",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    };
    parts.push("exec.network", network);
    let security = match exec.security {
        SecurityMode::Sandbox => "sandbox",
        SecurityMode::Insecure => "insecure",
    };
    parts.push("exec.security", security);
    parts.push("exec.secret_env.len", exec.secret_env.len().to_string());
    for secret in &exec.secret_env {
        parts.push(format!("exec.secret_env.{}", secret.name), format!("{} optional={}", secret.id, secret.optional));
    }
    parts.push("exec.hosts.len", exec.extra_hosts.len().to_string());
    for (name, address) in &exec.extra_hosts {
        parts.push(format!("exec.host.{name}"), address);
    }
    parts.push("exec.hostname", &exec.hostname);
    parts.push("exec.ulimits.len", exec.ulimits.len().to_string());
    for (name, soft, hard) in &exec.ulimits {
        parts.push(format!("exec.ulimit.{name}"), format!("{soft}:{hard}"));
    }
    parts.push("exec.shm_size", exec.shm_size_bytes.to_string());
    parts.push("exec.cgroup_parent", &exec.cgroup_parent);
    let codes: Vec<String> = exec.valid_exit_codes.iter().map(i32::to_string).collect();
    list(&codes, "exec.exit_codes", parts);
    parts.push("exec.devices.len", exec.devices.len().to_string());
    for device in &exec.devices {
        parts.push(format!("exec.device.{}", device.name), format!("required={}", device.required));
    }
    parts.push("exec.mounts", exec.mounts.len().to_string());
    for (i, mount) in exec.mounts.iter().enumerate() {
        mount_parts(&format!("exec.mount[{i}]"), mount, parts);
    }
}

fn mount_parts(name: &str, mount: &Mount, parts: &mut Parts) {
    parts.push(format!("{name}.target"), &mount.target);
    parts.push(format!("{name}.input"), index(mount.input));
    parts.push(format!("{name}.selector"), &mount.selector);
    parts.push(format!("{name}.output"), index(mount.output));
    parts.push(format!("{name}.readonly"), mount.readonly.to_string());
    let kind = match &mount.kind {
        MountKind::Bind => "bind".to_owned(),
        MountKind::Cache { id, sharing } => {
            let sharing = match sharing {
                CacheSharing::Shared => "shared",
                CacheSharing::Private => "private",
                CacheSharing::Locked => "locked",
            };
            format!("cache sharing={sharing} id={id}")
        }
        MountKind::Tmpfs { size_bytes } => format!("tmpfs size={size_bytes}"),
        MountKind::Secret { id, uid, gid, mode, optional } => {
            format!("secret uid={uid} gid={gid} mode={mode:o} optional={optional} id={id}")
        }
        MountKind::Ssh { id, uid, gid, mode, optional } => {
            format!("ssh uid={uid} gid={gid} mode={mode:o} optional={optional} id={id}")
        }
    };
    parts.push(format!("{name}.kind"), kind);
}

fn file_action_parts(name: &str, action: &FileAction, parts: &mut Parts) {
    parts.push(format!("{name}.input"), index(action.input));
    parts.push(format!("{name}.secondary_input"), index(action.secondary_input));
    parts.push(format!("{name}.output"), index(action.output));
    match &action.kind {
        FileActionKind::Copy(copy) => {
            parts.push(format!("{name}.copy.src"), &copy.src);
            parts.push(format!("{name}.copy.dest"), &copy.dest);
            parts.push(format!("{name}.copy.owner"), owner(copy.owner.as_ref()));
            let mode = match &copy.mode {
                None => String::new(),
                Some(CopyMode::Bits(bits)) => format!("{bits:04o}"),
                Some(CopyMode::Symbolic(text)) => format!("symbolic {text}"),
            };
            parts.push(format!("{name}.copy.mode"), mode);
            let flags = [
                ("follow_symlinks", copy.follow_symlinks),
                ("dir_contents_only", copy.dir_contents_only),
                ("unpack_archives", copy.unpack_archives),
                ("create_dest_path", copy.create_dest_path),
                ("allow_wildcard", copy.allow_wildcard),
                ("allow_empty_wildcard", copy.allow_empty_wildcard),
            ];
            for (flag, set) in flags {
                parts.push(format!("{name}.copy.{flag}"), set.to_string());
            }
            parts.push_list(&format!("{name}.copy.include"), copy.include_patterns.iter().map(String::as_str));
            parts.push_list(&format!("{name}.copy.exclude"), copy.exclude_patterns.iter().map(String::as_str));
            parts.push_list(&format!("{name}.copy.required"), copy.required_paths.iter().map(String::as_str));
            parts.push(format!("{name}.copy.timestamp"), timestamp(copy.timestamp));
        }
        FileActionKind::MkFile { path, mode, data, owner: who, timestamp: when } => {
            parts.push(format!("{name}.mkfile.path"), path);
            parts.push(format!("{name}.mkfile.mode"), format!("{mode:04o}"));
            parts.push(format!("{name}.mkfile.sha256"), hex(&Sha256::digest(data).into()));
            parts.push(format!("{name}.mkfile.owner"), owner(who.as_ref()));
            parts.push(format!("{name}.mkfile.timestamp"), timestamp(*when));
        }
        FileActionKind::MkDir { path, mode, make_parents, owner: who, timestamp: when } => {
            parts.push(format!("{name}.mkdir.path"), path);
            parts.push(format!("{name}.mkdir.mode"), format!("{mode:04o}"));
            parts.push(format!("{name}.mkdir.make_parents"), make_parents.to_string());
            parts.push(format!("{name}.mkdir.owner"), owner(who.as_ref()));
            parts.push(format!("{name}.mkdir.timestamp"), timestamp(*when));
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => {
            parts.push(format!("{name}.rm.path"), path);
            parts.push(format!("{name}.rm.allow_not_found"), allow_not_found.to_string());
            parts.push(format!("{name}.rm.allow_wildcard"), allow_wildcard.to_string());
        }
        FileActionKind::Symlink { target, path, owner: who, timestamp: when } => {
            parts.push(format!("{name}.symlink.target"), target);
            parts.push(format!("{name}.symlink.path"), path);
            parts.push(format!("{name}.symlink.owner"), owner(who.as_ref()));
            parts.push(format!("{name}.symlink.timestamp"), timestamp(*when));
        }
    }
}

fn index(index: Option<impl ToString>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| index.to_string())
}

fn timestamp(seconds: Option<i64>) -> String {
    seconds.map_or_else(String::new, |seconds| seconds.to_string())
}

fn owner(owner: Option<&Owner>) -> String {
    let who = |who: &UserRef| match who {
        UserRef::Name(name) => format!("name {name}"),
        UserRef::Id(id) => format!("id {id}"),
    };
    match owner {
        None => String::new(),
        Some(owner) => match &owner.group {
            None => who(&owner.user),
            Some(group) => format!("{}:{}", who(&owner.user), who(group)),
        },
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
