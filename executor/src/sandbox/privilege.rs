//! What the process may do and who it is: limits, groups, user, capabilities.
//!
//! The order matters and is the plan's: the bounding set shrinks while the process may still shrink it, then it becomes
//! the user (which takes all capabilities from anybody but root), then what is left is set.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::spec::Limit;
use super::trouble::{Trouble, with};
use super::user::Identity;

/// Sets one resource limit.
pub fn set_limit(limit: &Limit) -> Result<(), Trouble> {
    let resource = match limit.name.as_str() {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        name => return Err(format!("no limit `{name}`").into()),
    };
    // Negative is unlimited.
    let (current, maximum) = (u64::try_from(limit.soft).ok(), u64::try_from(limit.hard).ok());
    let before = rustix::process::getrlimit(resource).maximum;
    match rustix::process::setrlimit(resource, Rlimit { current, maximum }) {
        Err(errno @ Errno::PERM) => {
            let before = before.map_or_else(|| "unlimited".to_owned(), |number| number.to_string());
            Err(with(format_args!("it is at most {before} here, and raising that takes CAP_SYS_RESOURCE"))(errno))
        }
        done => Ok(done?),
    }
}

/// Takes all other capabilities from the bounding set.
pub fn bound(names: &[String]) -> Result<(), Trouble> {
    let kept = capabilities(names)?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // Beyond the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// `(errno) => "words: errno"`, with what the kernel's "invalid argument" means of an id.
pub fn no_such_id(words: impl std::fmt::Display) -> impl FnOnce(Errno) -> Trouble {
    move |errno| match errno {
        Errno::INVAL => with(format_args!("{words}: there is no such id here (`rbuild doctor` says why)"))(errno),
        errno => with(words)(errno),
    }
}

/// Takes on the groups (or keeps those that are, where nobody may choose) and the user, for good.
pub fn become_user(identity: &Identity, choose_groups: bool) -> Result<(), Trouble> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if choose_groups {
        let groups: Vec<_> = identity.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        rustix::thread::set_thread_groups(&groups)
            .map_err(no_such_id(format_args!("set the groups {:?}", identity.groups)))?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .map_err(no_such_id(format_args!("set the group {}", identity.gid)))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(no_such_id(format_args!("set the user {}", identity.uid)))
}

/// Keeps the capabilities of these names for root and none for anybody else; none can be inherited.
pub fn keep(names: &[String], identity: Option<&Identity>) -> Result<(), Trouble> {
    let is_root = identity.is_some_and(|identity| identity.uid == 0);
    let kept = if is_root { capabilities(names)? } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(rustix::thread::clear_ambient_capability_set()?)
}

/// The capabilities that this process may use, by kernel name without `CAP_`.
pub fn own_capabilities() -> std::io::Result<Vec<String>> {
    let own = rustix::thread::capabilities(None)?.permitted;
    Ok(own.iter_names().map(|(name, _)| name.to_owned()).collect())
}

/// The set of these names.
fn capabilities(names: &[String]) -> Result<CapabilitySet, Trouble> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        CapabilitySet::from_name(name).map(|one| set | one).ok_or_else(|| format!("no capability `{name}`").into())
    })
}
