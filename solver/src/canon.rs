//! Operations as bytes: one versioned, canonical form that every digest of this room is made from.
//!
//! An operation is written as a list of [`Part`]s, `(name, value)` in a fixed order: `exec.args[2]` → `make`. A digest
//! is the SHA-256 of the version line and of every part with both lengths before it, so that no two lists share
//! bytes. The same list is stored beside a key, which is how a miss is explained: the first part that differs.
//!
//! What is deliberately not written: [`crate::op::OpMeta`], [`crate::op::ExecOp::proxy_env`], secret values. Keys cover
//! less than identity: limits, the addresses of hosts and where a cache mount is kept say how a process runs, not what
//! it makes; a vertex with others is another vertex, whose result is known all the same.

use std::borrow::Cow;
use std::fmt::{Display, Write};

use sha2::{Digest as _, Sha256};

use crate::op::{
    CacheSharing, ContentCache, CopyMode, ExecOp, FileAction, FileActionKind, Mount, MountKind, NetworkMode, Op, Owner,
    Platform, SecurityMode, SourceOp, UserRef,
};
use crate::redact;

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

/// Where parts go: into a list ([`Parts`]), or straight into a digest ([`Hashing`]).
pub trait Sink {
    /// Takes one part.
    fn push(&mut self, name: impl Display, value: impl Display);

    /// Takes one part whose name is these texts, one behind the other. The same as [`Sink::push`] without the detour of
    /// formatting, for what large files have millions of.
    fn push_text(&mut self, name: &[&str], value: &str) {
        self.push(name.concat(), value);
    }

    /// Takes every item of a list as `name[i]`, and its length, so that lists never run into each other. The name is
    /// these two texts, one behind the other.
    fn push_list<'a>(&mut self, group: &str, name: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        let mut decimal = Decimal::default();
        self.push_text(&[group, name, ".len"], decimal.text(values.len()));
        for (i, value) in values.enumerate() {
            self.push_text(&[group, name, "[", decimal.text(i), "]"], value);
        }
    }
}

/// An ordered list of parts under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<Part>);

impl Sink for Parts {
    fn push(&mut self, name: impl Display, value: impl Display) {
        self.0.push(Part { name: name.to_string(), value: value.to_string() });
    }

    fn push_text(&mut self, name: &[&str], value: &str) {
        self.0.push(Part { name: name.concat(), value: value.to_owned() });
    }
}

impl Parts {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// The parts, in order.
    pub fn as_slice(&self) -> &[Part] {
        &self.0
    }

    /// SHA-256 over `domain` and all parts.
    pub fn digest(&self, domain: &str) -> [u8; 32] {
        let mut hashing = Hashing::new(domain);
        for part in &self.0 {
            hashing.push_text(&[&part.name], &part.value);
        }
        hashing.digest()
    }

    /// Gives the list up.
    pub fn into_vec(self) -> Vec<Part> {
        self.0
    }
}

/// How many bytes are collected before they are hashed: parts are short, and hashing likes long runs.
const RUN_BYTES: usize = 1024;

/// The digest of parts that nobody wants to see: as [`Parts::digest`], without the list, and without any allocation:
/// graphs of a hundred thousand vertices are made this way.
pub struct Hashing {
    hash: Sha256,
    run: [u8; RUN_BYTES],
    filled: usize,
}

impl Hashing {
    /// Begins with the version and `domain`.
    pub fn new(domain: &str) -> Self {
        let mut hashing = Self { hash: Sha256::new(), run: [0; RUN_BYTES], filled: 0 };
        hashing.field(VERSION);
        hashing.field(domain);
        hashing
    }

    /// Its length in eight bytes, little end first, and its bytes.
    fn field(&mut self, text: impl Display) {
        if self.filled > RUN_BYTES / 2 {
            self.flush();
        }
        let (length, rest) = self.run[self.filled..].split_at_mut(8);
        let mut into = Into { rest, filled: 0 };
        // What does not fit is written twice: to know its length, and to be hashed.
        if write!(into, "{text}").is_ok() {
            let filled = into.filled;
            length.copy_from_slice(&(filled as u64).to_le_bytes());
            self.filled += 8 + filled;
            return;
        }
        let mut length = Length(0);
        write!(length, "{text}").expect("counting cannot fail");
        self.flush();
        self.hash.update(length.0.to_le_bytes());
        write!(Through(&mut self.hash), "{text}").expect("hashing cannot fail");
    }

    /// The same of texts, one behind the other.
    fn text_field(&mut self, texts: &[&str]) {
        let length: usize = texts.iter().map(|text| text.len()).sum();
        let prefix = (length as u64).to_le_bytes();
        if 8 + length > RUN_BYTES - self.filled {
            self.flush();
        }
        let Some(place) = self.run.get_mut(self.filled..self.filled + 8 + length) else {
            self.hash.update(prefix);
            return texts.iter().for_each(|text| self.hash.update(text));
        };
        let (first, mut rest) = place.split_at_mut(8);
        first.copy_from_slice(&prefix);
        for text in texts {
            let (part, behind) = rest.split_at_mut(text.len());
            part.copy_from_slice(text.as_bytes());
            rest = behind;
        }
        self.filled += 8 + length;
    }

    fn flush(&mut self) {
        self.hash.update(&self.run[..self.filled]);
        self.filled = 0;
    }

    /// SHA-256 of everything so far.
    pub fn digest(mut self) -> [u8; 32] {
        self.flush();
        self.hash.finalize().into()
    }
}

/// Memory of a fixed length; what does not fit is refused.
struct Into<'a> {
    rest: &'a mut [u8],
    filled: usize,
}

impl Write for Into<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.filled + text.len();
        self.rest.get_mut(self.filled..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.filled = end;
        Ok(())
    }
}

/// Straight into the hash.
struct Through<'a>(&'a mut Sha256);

impl Write for Through<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// How many bytes were written.
struct Length(u64);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 += text.len() as u64;
        Ok(())
    }
}

impl Sink for Hashing {
    fn push(&mut self, name: impl Display, value: impl Display) {
        self.field(name);
        self.field(value);
    }

    fn push_text(&mut self, name: &[&str], value: &str) {
        self.text_field(name);
        self.text_field(&[value]);
    }
}

/// Memory for a number as text.
#[derive(Default)]
pub(crate) struct Decimal([u8; 20]);

impl Decimal {
    pub(crate) fn text(&mut self, number: usize) -> &str {
        let mut at = self.0.len();
        let mut rest = number;
        loop {
            at -= 1;
            self.0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return std::str::from_utf8(&self.0[at..]).expect("digits are text");
            }
        }
    }

    /// Of an index that may be missing.
    fn index(&mut self, index: Option<usize>) -> &str {
        index.map_or("none", |index| self.text(index))
    }
}

/// What parts are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Identity,
    Key,
}

/// Writes all of an operation and its platform.
pub fn op_parts(op: &Op, platform: Option<&Platform>, parts: &mut impl Sink) {
    write_op(op, platform, For::Identity, parts);
}

/// Writes what of an operation and its platform decides its result.
pub fn key_parts(op: &Op, platform: Option<&Platform>, parts: &mut impl Sink) {
    write_op(op, platform, For::Key, parts);
}

fn write_op(op: &Op, platform: Option<&Platform>, what_for: For, parts: &mut impl Sink) {
    if let Some(platform) = platform {
        platform_parts(platform, parts);
    }
    match op {
        Op::Source(source) => source_parts(source, parts),
        Op::Exec(exec) => exec_parts(exec, what_for, parts),
        Op::File(file) => {
            parts.push("file.actions", file.actions.len());
            let mut name = String::new();
            for (i, action) in file.actions.iter().enumerate() {
                name.clear();
                write!(name, "file[{i}]").expect("writing to a String cannot fail");
                file_action_parts(&name, action, parts);
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
                parts.push(format_args!("build.input.{name}"), input);
            }
            for (name, value) in &build.attrs {
                parts.push(format_args!("build.attr.{name}"), value);
            }
        }
    }
}

pub(crate) fn platform_parts(platform: &Platform, parts: &mut impl Sink) {
    parts.push("platform.os", &platform.os);
    parts.push("platform.architecture", &platform.architecture);
    parts.push("platform.variant", &platform.variant);
    parts.push("platform.os_version", &platform.os_version);
    parts.push_list("platform", ".os_features", platform.os_features.iter().map(String::as_str));
}

fn source_parts(source: &SourceOp, parts: &mut impl Sink) {
    address_part("source", &source.identifier, parts);
    for (name, value) in &source.attrs {
        address_part(format_args!("source.{name}"), value, parts);
    }
}

/// An address: what it holds for its server alone counts, and is written as a digest of all of it.
fn address_part(name: impl Display, value: &str, parts: &mut impl Sink) {
    let shown = redact::addresses(value);
    if matches!(shown, Cow::Owned(_)) {
        parts.push(format_args!("{name}.digest"), hex(&Sha256::digest(value.as_bytes()).into()));
    }
    parts.push(name, shown);
}

fn exec_parts(exec: &ExecOp, what_for: For, parts: &mut impl Sink) {
    let all = what_for == For::Identity;
    parts.push_list("exec", ".args", exec.args.iter().map(String::as_str));
    parts.push_list("exec", ".env", exec.env.iter().map(String::as_str));
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
    parts.push("exec.secret_env.len", exec.secret_env.len());
    for secret in &exec.secret_env {
        parts.push(
            format_args!("exec.secret_env.{}", secret.name),
            format_args!("{} optional={}", secret.id, secret.optional),
        );
    }
    parts.push("exec.hosts.len", exec.extra_hosts.len());
    for (name, address) in &exec.extra_hosts {
        parts.push(format_args!("exec.host.{name}"), if all { address } else { "" });
    }
    parts.push("exec.hostname", &exec.hostname);
    if all {
        parts.push("exec.ulimits.len", exec.ulimits.len());
        for (name, soft, hard) in &exec.ulimits {
            parts.push(format_args!("exec.ulimit.{name}"), format_args!("{soft}:{hard}"));
        }
        parts.push("exec.shm_size", exec.shm_size_bytes);
        parts.push("exec.cgroup_parent", &exec.cgroup_parent);
    }
    let codes: Vec<String> = exec.valid_exit_codes.iter().map(i32::to_string).collect();
    parts.push_list("exec", ".exit_codes", codes.iter().map(String::as_str));
    parts.push("exec.devices.len", exec.devices.len());
    for device in &exec.devices {
        parts.push(format_args!("exec.device.{}", device.name), format_args!("required={}", device.required));
    }
    parts.push("exec.mounts", exec.mounts.len());
    for (i, mount) in exec.mounts.iter().enumerate() {
        mount_parts(&format!("exec.mount[{i}]"), mount, what_for, parts);
    }
}

fn mount_parts(name: &str, mount: &Mount, what_for: For, parts: &mut impl Sink) {
    parts.push(format_args!("{name}.target"), &mount.target);
    parts.push(format_args!("{name}.input"), index(mount.input));
    parts.push(format_args!("{name}.selector"), &mount.selector);
    parts.push(format_args!("{name}.output"), index(mount.output));
    parts.push(format_args!("{name}.readonly"), mount.readonly);
    let kind = match &mount.kind {
        MountKind::Bind => "bind".to_owned(),
        MountKind::Cache { .. } if what_for == For::Key => "cache".to_owned(),
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
    parts.push(format_args!("{name}.kind"), kind);
    // It says how a result is found, not what it is.
    if what_for == For::Identity && mount.content_cache != ContentCache::Default {
        let word = if mount.content_cache == ContentCache::On { "on" } else { "off" };
        parts.push(format_args!("{name}.content_cache"), word);
    }
}

fn file_action_parts(name: &str, action: &FileAction, parts: &mut impl Sink) {
    let mut decimal = Decimal::default();
    parts.push_text(&[name, ".input"], decimal.index(action.input));
    parts.push_text(&[name, ".secondary_input"], decimal.index(action.secondary_input));
    parts.push_text(&[name, ".output"], decimal.index(action.output.map(|output| output as usize)));
    match &action.kind {
        FileActionKind::Copy(copy) => {
            parts.push_text(&[name, ".copy.src"], &copy.src);
            parts.push_text(&[name, ".copy.dest"], &copy.dest);
            parts.push_text(&[name, ".copy.owner"], &owner(copy.owner.as_ref()));
            let mode = match &copy.mode {
                None => String::new(),
                Some(CopyMode::Bits(bits)) => format!("{bits:04o}"),
                Some(CopyMode::Symbolic(text)) => format!("symbolic {text}"),
            };
            parts.push_text(&[name, ".copy.mode"], &mode);
            let flags = [
                (".copy.follow_symlinks", copy.follow_symlinks),
                (".copy.dir_contents_only", copy.dir_contents_only),
                (".copy.unpack_archives", copy.unpack_archives),
                (".copy.create_dest_path", copy.create_dest_path),
                (".copy.allow_wildcard", copy.allow_wildcard),
                (".copy.allow_empty_wildcard", copy.allow_empty_wildcard),
            ];
            for (flag, set) in flags {
                parts.push_text(&[name, flag], if set { "true" } else { "false" });
            }
            parts.push_list(name, ".copy.include", copy.include_patterns.iter().map(String::as_str));
            parts.push_list(name, ".copy.exclude", copy.exclude_patterns.iter().map(String::as_str));
            parts.push_list(name, ".copy.required", copy.required_paths.iter().map(String::as_str));
            parts.push_text(&[name, ".copy.timestamp"], &timestamp(copy.timestamp));
            if copy.replace_other_types {
                parts.push_text(&[name, ".copy.replace_other_types"], "true");
            }
        }
        FileActionKind::MkFile { path, mode, data, owner: who, timestamp: when } => {
            parts.push(format_args!("{name}.mkfile.path"), path);
            parts.push(format_args!("{name}.mkfile.mode"), format_args!("{mode:04o}"));
            parts.push(format_args!("{name}.mkfile.sha256"), hex(&Sha256::digest(data).into()));
            parts.push(format_args!("{name}.mkfile.owner"), owner(who.as_ref()));
            parts.push(format_args!("{name}.mkfile.timestamp"), timestamp(*when));
        }
        FileActionKind::MkDir { path, mode, make_parents, owner: who, timestamp: when } => {
            parts.push(format_args!("{name}.mkdir.path"), path);
            parts.push(format_args!("{name}.mkdir.mode"), format_args!("{mode:04o}"));
            parts.push(format_args!("{name}.mkdir.make_parents"), make_parents);
            parts.push(format_args!("{name}.mkdir.owner"), owner(who.as_ref()));
            parts.push(format_args!("{name}.mkdir.timestamp"), timestamp(*when));
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => {
            parts.push(format_args!("{name}.rm.path"), path);
            parts.push(format_args!("{name}.rm.allow_not_found"), allow_not_found);
            parts.push(format_args!("{name}.rm.allow_wildcard"), allow_wildcard);
        }
        FileActionKind::Symlink { target, path, owner: who, timestamp: when } => {
            parts.push(format_args!("{name}.symlink.target"), target);
            parts.push(format_args!("{name}.symlink.path"), path);
            parts.push(format_args!("{name}.symlink.owner"), owner(who.as_ref()));
            parts.push(format_args!("{name}.symlink.timestamp"), timestamp(*when));
        }
    }
}

/// A value, or the word for its absence.
struct OrElse<T>(Option<T>, &'static str);

impl<T: Display> Display for OrElse<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(self.1),
        }
    }
}

fn index<T: Display>(index: Option<T>) -> OrElse<T> {
    OrElse(index, "none")
}

/// Seconds, and what of a second is left, if anything.
fn timestamp(nanoseconds: Option<i64>) -> String {
    const SECOND: i64 = 1_000_000_000;
    match nanoseconds.map(|moment| (moment.div_euclid(SECOND), moment.rem_euclid(SECOND))) {
        None => String::new(),
        Some((seconds, 0)) => seconds.to_string(),
        Some((seconds, rest)) => format!("{seconds}s{rest:09}"),
    }
}

fn owner(owner: Option<&Owner>) -> String {
    let mut text = String::new();
    let mut who = |between: &str, who: &UserRef| match who {
        UserRef::Name(name) => text.extend([between, "name ", name]),
        UserRef::Id(id) => text.extend([between, "id ", Decimal::default().text(*id as usize)]),
    };
    if let Some(owner) = owner {
        who("", &owner.user);
        owner.group.iter().for_each(|group| who(":", group));
        if let Some(input) = owner.names_from {
            return format!("from {input}: {text}");
        }
    }
    text
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 * bytes.len());
    text.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
    String::from_utf8(text).expect("hexadecimal digits are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of the parts, made both ways.
    fn both(op: &Op) -> String {
        let mut parts = Parts::new();
        op_parts(op, None, &mut parts);
        let mut hashing = Hashing::new("vertex");
        op_parts(op, None, &mut hashing);
        let digest = hashing.digest();
        assert_eq!(parts.digest("vertex"), digest, "{op:?}");
        hex(&digest)
    }

    #[test]
    fn a_digest_covers_every_part_with_its_length() {
        let source = |identifier: &str, attrs: &[(&str, &str)]| {
            let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Op::Source(SourceOp { identifier: identifier.to_owned(), attrs: attrs.collect() })
        };
        // Made by another program: every field as its length in eight bytes, little end first, and its bytes.
        let known = "c53406bb94cd65f621961827eb508a5d134ca760a577cca0d43d76be3e2e156a";
        assert_eq!(both(&source("local://context", &[("local.excludepatterns", "[\"a\"]")])), known);
        // Parts that are hashed as texts, with numbers of several digits and lists.
        let copy = |i: usize| {
            let name = UserRef::Name(format!("user{i}"));
            let user = if i.is_multiple_of(2) { UserRef::Id(i as u32) } else { name.clone() };
            let owner = Owner { user, group: Some(name), names_from: None };
            let src = "x".repeat(i * 17);
            let copy = crate::op::CopyAction {
                src,
                owner: i.is_multiple_of(3).then_some(owner),
                mode: i.is_multiple_of(5).then_some(CopyMode::Bits(0o640)),
                exclude_patterns: vec!["a".into(); i % 13],
                timestamp: i.is_multiple_of(7).then_some(-3_000_000_000),
                ..Default::default()
            };
            FileAction {
                input: i.checked_sub(1),
                secondary_input: Some(i),
                output: None,
                kind: FileActionKind::Copy(copy),
            }
        };
        let known = "e07917fad419beedd4917da2850319296e734a1cc30a939fb71657238e789799";
        assert_eq!(both(&Op::File(crate::op::FileOp { actions: (0..120).map(copy).collect() })), known);
        // Longer than a run, and as long as one.
        for length in [RUN_BYTES - 1, RUN_BYTES, RUN_BYTES + 1, 100_000] {
            both(&source(&"x".repeat(length), &[("a", "b"), ("c", &"d".repeat(length))]));
        }
    }
}
