//! What a process sees of the trees that it stands on, of memory, caches, secrets and agents.
//!
//! Only a bind mount has an output: other builders' clients leave the field at 0 for secrets and agents, where it means
//! nothing. Deliberately absent: how anything is mounted (the executor's).

use api::pb;
use solver::op::{CacheSharing, ContentCache, Mount, MountKind};

use super::bounds::{NONE, index, number, output, text};
use super::error::Fault;

/// Where shared memory is.
const SHM: &str = "/dev/shm";
/// The agent that is meant when none is named.
const DEFAULT_AGENT: &str = "default";

/// The mount that says how large `/dev/shm` is.
pub(super) fn of_shm(size_bytes: u64) -> Mount {
    Mount {
        target: SHM.into(),
        input: None,
        selector: String::new(),
        output: None,
        readonly: false,
        kind: MountKind::Tmpfs { size_bytes },
        content_cache: ContentCache::Default,
    }
}

/// What [`of_shm`] was told, if that is such a mount.
pub(super) fn size_of_shm(mount: &Mount) -> Option<u64> {
    match mount.kind {
        MountKind::Tmpfs { size_bytes } if size_bytes > 0 && *mount == of_shm(size_bytes) => Some(size_bytes),
        _ => None,
    }
}

/// Reads a mount of an operation with so many inputs.
pub(super) fn read(mount: &pb::Mount, cwd: &str, inputs: usize) -> Result<Mount, Fault> {
    let input = index("a mount's input", mount.input, inputs)?;
    let kind = kind(mount)?;
    if !mount.result_id.is_empty() {
        return Err(Fault::unsupported("a mount of another build's result"));
    }
    let dest = text("a mount's target", &mount.dest)?;
    if dest.is_empty() {
        return Err(Fault::malformed("a mount has no target"));
    }
    let target = solver::pattern::clean(&if dest.starts_with('/') { dest } else { format!("{cwd}/{dest}") });
    let selector = text("a mount's selector", &mount.selector)?;
    let (input, output) = match kind {
        MountKind::Bind => (input, output(mount.output)?),
        MountKind::Cache { .. } if input.is_some() && mount.output != NONE => {
            return Err(Fault::unsupported("a cache mount with an output"));
        }
        MountKind::Cache { .. } => (input, None),
        MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => (None, None),
    };
    if target == "/" && kind != MountKind::Bind {
        return Err(Fault::malformed("what has the target `/` is no tree"));
    }
    if target == "/" && mount.readonly {
        return Err(Fault::unsupported("a read-only root"));
    }
    let content_cache = match pb::MountContentCache::try_from(mount.content_cache) {
        Ok(pb::MountContentCache::Default) => ContentCache::Default,
        Ok(pb::MountContentCache::On) => ContentCache::On,
        Ok(pb::MountContentCache::Off) => ContentCache::Off,
        Err(_) => return Err(Fault::unsupported(format!("the content cache mode {}", mount.content_cache))),
    };
    let is_part = !matches!(selector.as_str(), "" | "/");
    if content_cache == ContentCache::On && output.is_some() && !mount.readonly && is_part {
        return Err(Fault::malformed("what is written to goes by its content, and a part of it is mounted"));
    }
    Ok(Mount { target, input, selector, output, readonly: mount.readonly, kind, content_cache })
}

fn kind(mount: &pb::Mount) -> Result<MountKind, Fault> {
    let lacks = |what: &str| Fault::malformed(format!("{what} has no options"));
    Ok(match pb::MountType::try_from(mount.mount_type) {
        Ok(pb::MountType::Bind) => MountKind::Bind,
        Ok(pb::MountType::Tmpfs) => {
            let size = mount.tmpfs_opt.map_or(0, |tmpfs| tmpfs.size);
            let size_bytes = u64::try_from(size);
            MountKind::Tmpfs {
                size_bytes: size_bytes.map_err(|_| Fault::malformed(format!("the size {size} of a tmpfs is none")))?,
            }
        }
        Ok(pb::MountType::Cache) => {
            let cache = mount.cache_opt.as_ref().ok_or_else(|| lacks("a cache mount"))?;
            let id = if cache.id.is_empty() { &mount.dest } else { &cache.id };
            let sharing = match pb::CacheSharingOpt::try_from(cache.sharing) {
                Ok(pb::CacheSharingOpt::Shared) => CacheSharing::Shared,
                Ok(pb::CacheSharingOpt::Private) => CacheSharing::Private,
                Ok(pb::CacheSharingOpt::Locked) => CacheSharing::Locked,
                Err(_) => return Err(Fault::unsupported(format!("the sharing {} of a cache mount", cache.sharing))),
            };
            MountKind::Cache { id: text("the name of a cache mount", id)?, sharing }
        }
        Ok(pb::MountType::Secret) => {
            let secret = mount.secret_opt.as_ref().ok_or_else(|| lacks("a secret mount"))?;
            if secret.id.is_empty() {
                return Err(Fault::malformed("a secret mount is of no secret"));
            }
            let pb::SecretOpt { uid, gid, mode, optional, .. } = *secret;
            MountKind::Secret { id: text("the name of a secret", &secret.id)?, uid, gid, mode, optional }
        }
        Ok(pb::MountType::Ssh) => {
            let agent = mount.ssh_opt.as_ref().ok_or_else(|| lacks("an agent's mount"))?;
            let id = if agent.id.is_empty() { DEFAULT_AGENT } else { &agent.id };
            let pb::SshOpt { uid, gid, mode, optional, .. } = *agent;
            MountKind::Ssh { id: text("the name of an agent", id)?, uid, gid, mode, optional }
        }
        Err(_) => return Err(Fault::unsupported(format!("a mount of type {}", mount.mount_type))),
    })
}

/// Writes one.
pub(super) fn write(mount: &Mount) -> Result<pb::Mount, Fault> {
    let mut written = pb::Mount {
        input: number(mount.input),
        selector: mount.selector.clone(),
        dest: mount.target.clone(),
        output: number(mount.output),
        readonly: mount.readonly,
        content_cache: match mount.content_cache {
            ContentCache::Default => pb::MountContentCache::Default,
            ContentCache::On => pb::MountContentCache::On,
            ContentCache::Off => pb::MountContentCache::Off,
        } as i32,
        ..pb::Mount::default()
    };
    let kind = match &mount.kind {
        MountKind::Bind => pb::MountType::Bind,
        MountKind::Tmpfs { size_bytes } => {
            let size = i64::try_from(*size_bytes);
            let size = size.map_err(|_| Fault::unsupported(format!("a tmpfs of {size_bytes} bytes")))?;
            written.tmpfs_opt = Some(pb::TmpfsOpt { size });
            pb::MountType::Tmpfs
        }
        MountKind::Cache { id, sharing } => {
            let sharing = match sharing {
                CacheSharing::Shared => pb::CacheSharingOpt::Shared,
                CacheSharing::Private => pb::CacheSharingOpt::Private,
                CacheSharing::Locked => pb::CacheSharingOpt::Locked,
            };
            written.cache_opt = Some(pb::CacheOpt { id: id.clone(), sharing: sharing as i32 });
            pb::MountType::Cache
        }
        MountKind::Secret { id, uid, gid, mode, optional } => {
            let (id, uid, gid, mode, optional) = (id.clone(), *uid, *gid, *mode, *optional);
            written.secret_opt = Some(pb::SecretOpt { id, uid, gid, mode, optional });
            pb::MountType::Secret
        }
        MountKind::Ssh { id, uid, gid, mode, optional } => {
            let (id, uid, gid, mode, optional) = (id.clone(), *uid, *gid, *mode, *optional);
            written.ssh_opt = Some(pb::SshOpt { id, uid, gid, mode, optional });
            pb::MountType::Ssh
        }
    };
    written.mount_type = kind as i32;
    Ok(written)
}
