//! Capabilities: what a client may ask of an operation, by the names that clients know.
//!
//! A client names what its operations need in their metadata; what is not here is refused before anything is solved, so
//! that no field of a newer client is passed over. The daemon tells the same list to whoever asks.

use std::collections::BTreeMap;

use solver::graph::Vertex;
use solver::op::{ContentCache, ExecOp, FileActionKind, MountKind, NetworkMode, Op, SecurityMode};

/// All that this builder has.
pub const SUPPORTED: &[&str] = &[
    "constraints",
    "diffop",
    "exec.cgroup",
    "exec.meta.base",
    "exec.meta.cdidevice",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.removemountstubs.recursive",
    "exec.meta.security",
    "exec.meta.security.devices.v1",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.content",
    "exec.mount.cache.sharing",
    "exec.mount.secret",
    "exec.mount.selector",
    "exec.mount.ssh",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.includeexcludepatterns",
    "file.copy.modestring",
    "file.copy.requiredpaths",
    "file.rm.nofollowsymlink",
    "file.rm.wildcard",
    "file.symlink.create",
    "mergeop",
    "meta.description",
    "meta.exportcache",
    "meta.ignorecache",
    "platform",
    "source.buildop.llbfilename",
    "source.git",
    "source.git.checksum",
    "source.git.fetchbycommit",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.keepgitdir",
    "source.git.mountsshsock",
    "source.git.mtime",
    "source.git.skipsubmodules",
    "source.git.subdir",
    "source.http",
    "source.http.checksum",
    "source.http.perm",
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.differ",
    "source.local.excludepatterns",
    "source.local.followpaths",
    "source.local.includepatterns",
    "source.local.sessionid",
    "source.local.sharedkeyhint",
    "source.local.unique",
    "source.ocilayout",
];

/// What a client may ask for that is no operation's: exporters and caches. Clients that are told of
/// `exporter.image.attestations` ask for a provenance; an SBOM is refused when it is asked for.
const AROUND: &[&str] = &[
    "cache.s3",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.sourcedateepoch",
];
/// What can be read and written, and not be had of a client.
const UNSOLVED: &[&str] = &["source.ocilayout"];

/// What clients are told.
pub fn told() -> Vec<&'static str> {
    SUPPORTED.iter().filter(|cap| !UNSOLVED.contains(cap)).chain(AROUND).copied().collect()
}

/// The first capability that is asked for and not there.
pub(super) fn missing(asked: &BTreeMap<String, bool>) -> Option<&str> {
    let is_missing = |cap: &&String| SUPPORTED.binary_search(&cap.as_str()).is_err();
    asked.iter().filter(|(_, wanted)| **wanted).map(|(cap, _)| cap).find(is_missing).map(String::as_str)
}

/// What a vertex needs of whoever solves it.
pub(super) fn needed(vertex: &Vertex) -> BTreeMap<String, bool> {
    let mut needed = vec!["constraints", "platform"];
    match &vertex.op {
        Op::Source(source) => {
            needed.extend(match source.scheme() {
                "docker-image" => Some("source.image"),
                "oci-layout" => Some("source.ocilayout"),
                "local" => Some("source.local"),
                "git" => Some("source.git"),
                "http" | "https" => Some("source.http"),
                _ => None,
            });
            let of_attribute = |name: &str| match name {
                "local.includepattern" => Some("source.local.includepatterns"),
                "local.excludepatterns" => Some("source.local.excludepatterns"),
                "local.followpaths" => Some("source.local.followpaths"),
                name => SUPPORTED.iter().copied().find(|cap| cap.strip_prefix("source.") == Some(name)),
            };
            needed.extend(source.attrs.keys().filter_map(|name| of_attribute(name)));
        }
        Op::Exec(exec) => exec_needs(exec, &mut needed),
        Op::File(file) => {
            needed.push("file.base");
            for action in &file.actions {
                match &action.kind {
                    FileActionKind::Copy(copy) => {
                        if !copy.include_patterns.is_empty() || !copy.exclude_patterns.is_empty() {
                            needed.push("file.copy.includeexcludepatterns");
                        }
                        if !copy.required_paths.is_empty() {
                            needed.push("file.copy.requiredpaths");
                        }
                        if copy.replace_other_types {
                            needed.push("file.copy.alwaysreplaceexistingdestpaths");
                        }
                        if matches!(copy.mode, Some(solver::op::CopyMode::Symbolic(_))) {
                            needed.push("file.copy.modestring");
                        }
                    }
                    FileActionKind::Rm { allow_wildcard: true, .. } => needed.push("file.rm.wildcard"),
                    FileActionKind::Symlink { .. } => needed.push("file.symlink.create"),
                    _ => {}
                }
            }
        }
        Op::Merge(_) => needed.push("mergeop"),
        Op::Diff(_) => needed.push("diffop"),
        Op::Build(_) => {}
    }
    needed.into_iter().map(|cap| (cap.to_owned(), true)).collect()
}

fn exec_needs(exec: &ExecOp, needed: &mut Vec<&'static str>) {
    needed.push("exec.meta.base");
    let of_meta = [
        ("exec.meta.network", exec.network != NetworkMode::Default),
        ("exec.meta.security", exec.security != SecurityMode::Sandbox),
        ("exec.meta.proxyenv", !exec.proxy_env.is_empty()),
        ("exec.meta.ulimit", !exec.ulimits.is_empty()),
        ("exec.meta.cgroup.parent", !exec.cgroup_parent.is_empty()),
        ("exec.meta.cdidevice", !exec.devices.is_empty()),
        ("exec.validexitcode", !exec.valid_exit_codes.is_empty()),
        ("exec.secretenv", !exec.secret_env.is_empty()),
        ("exec.mount.tmpfs.size", exec.shm_size_bytes > 0),
    ];
    needed.extend(of_meta.into_iter().filter(|(_, is_needed)| *is_needed).map(|(cap, _)| cap));
    for mount in &exec.mounts {
        needed.push(match &mount.kind {
            MountKind::Bind => "exec.mount.bind",
            MountKind::Cache { .. } => "exec.mount.cache",
            MountKind::Tmpfs { .. } => "exec.mount.tmpfs",
            MountKind::Secret { .. } => "exec.mount.secret",
            MountKind::Ssh { .. } => "exec.mount.ssh",
        });
        let of_mount = [
            ("exec.mount.selector", !mount.selector.is_empty()),
            ("exec.mount.cache.content", mount.content_cache != ContentCache::Default),
            ("exec.mount.cache.sharing", matches!(mount.kind, MountKind::Cache { .. })),
            ("exec.mount.tmpfs.size", matches!(mount.kind, MountKind::Tmpfs { size_bytes } if size_bytes > 0)),
            (
                "exec.mount.bind.readwrite-nooutput",
                mount.kind == MountKind::Bind && !mount.readonly && mount.output.is_none() && mount.target != "/",
            ),
        ];
        needed.extend(of_mount.into_iter().filter(|(_, is_needed)| *is_needed).map(|(cap, _)| cap));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_searched() {
        assert!(SUPPORTED.is_sorted(), "{SUPPORTED:?}");
        let asked = |caps: &[(&str, bool)]| caps.iter().map(|(cap, on)| ((*cap).to_owned(), *on)).collect();
        assert_eq!(missing(&asked(&[("file.base", true), ("mergeop", true)])), None);
        assert_eq!(missing(&asked(&[("file.base", true), ("x.y", false)])), None);
        assert_eq!(missing(&asked(&[("file.base", true), ("x.y", true)])), Some("x.y"));
    }
}
