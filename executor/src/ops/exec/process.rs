//! What the sandbox is asked for: from an operation and its prepared trees to a [`ProcessSpec`].
//!
//! Deliberately absent: where the trees come from ([`super::trees`]), how the process is isolated ([`crate::sandbox`]).

use solver::op::{ExecOp, NetworkMode, SecurityMode};

use super::cache;
use super::error::{NO_ROOT, StepError};
use super::foreground::Provisions;
use super::insecure;
use super::trees::{Source, Tree};
use crate::sandbox::{self, Bind, BindSource, Limit, Mount, ProcessSpec, RootFs, Tmpfs, policy};

/// The address that stands for this machine.
pub(super) const HOST_GATEWAY: &str = "host-gateway";
/// Permission bits of a memory mount's directory.
const TMPFS_MODE: u32 = 0o1777;

/// What the sandbox is asked for, but for the network. The first tree is the root.
pub(super) fn process(exec: &ExecOp, trees: &[Tree]) -> Result<ProcessSpec, StepError> {
    let (root, others) = trees.split_first().ok_or(NO_ROOT)?;
    let root = match &root.source {
        Source::Layers { overlay, .. } => RootFs::Overlay(overlay.clone()),
        Source::Own { view, .. } => RootFs::Tree { path: view.clone() },
        Source::Memory { .. } => return Err(StepError::Malformed { what: "its root is memory" }),
        Source::Cache { .. } => return Err(StepError::Malformed { what: "its root is a cache mount" }),
        Source::Given => return Err(StepError::Malformed { what: "its root is no tree" }),
    };
    let mut spec = ProcessSpec::new(root, exec.args.clone());
    spec.env = environment(&exec.env, &exec.proxy_env);
    spec.cwd = exec.cwd.clone();
    spec.user = exec.user.clone();
    let provisions = Provisions {
        ulimits: exec.ulimits.clone(),
        shm_size_bytes: exec.shm_size_bytes,
        extra_hosts: exec.extra_hosts.clone(),
        hostname: exec.hostname.clone(),
    };
    provide(&mut spec, &provisions, exec.network)?;
    spec.mounts = others.iter().filter_map(bound).collect();
    if exec.security == SecurityMode::Insecure {
        insecure::widen(&mut spec)?;
    }
    Ok(spec)
}

/// Gives the process what it shall find around it.
pub(super) fn provide(spec: &mut ProcessSpec, given: &Provisions, network: NetworkMode) -> Result<(), StepError> {
    if !given.hostname.is_empty() {
        spec.hostname = given.hostname.clone();
    }
    if given.shm_size_bytes > 0 {
        spec.shm_size_bytes = given.shm_size_bytes;
    }
    let address = |address: &String| match (address.as_str(), network) {
        (HOST_GATEWAY, NetworkMode::None) => Err(StepError::NoGateway),
        // On the host's network this machine is itself.
        (HOST_GATEWAY, NetworkMode::Host) => Ok("127.0.0.1".to_owned()),
        // Known when there is one.
        (HOST_GATEWAY, NetworkMode::Default) => Ok(HOST_GATEWAY.to_owned()),
        _ => Ok(address.clone()),
    };
    let hosts = given.extra_hosts.iter().map(|(name, written)| Ok((name.clone(), address(written)?)));
    spec.extra_hosts = hosts.collect::<Result<_, StepError>>()?;
    let limits = given.ulimits.iter().cloned();
    spec.limits = limits.map(|(name, soft, hard)| Limit { name, soft, hard }).collect();
    Ok(())
}

/// The mount of a tree; what is none comes otherwise.
fn bound(tree: &Tree) -> Option<Mount> {
    let Tree { mount, source, .. } = tree;
    let bind = |source, subpath: &str| {
        sandbox::MountKind::Bind(Bind { source, subpath: subpath.into(), readonly: mount.readonly })
    };
    let kind = match source {
        Source::Given => return None,
        Source::Memory { size_bytes } => sandbox::MountKind::Tmpfs(Tmpfs { size_bytes: *size_bytes, mode: TMPFS_MODE }),
        Source::Layers { overlay, .. } => bind(BindSource::Overlay(overlay.clone()), &mount.selector),
        // The view is of the selected path already.
        Source::Own { view, .. } => bind(BindSource::Own(view.clone()), ""),
        Source::Cache { dir, .. } => bind(BindSource::Lent(dir.clone()), cache::subpath(mount)),
    };
    Some(Mount { target: mount.target.clone(), kind })
}

/// The step's own variables, those proxies that it does not set itself, and a `PATH` in any case.
fn environment(own: &[String], proxies: &[String]) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let missing = proxies.iter().filter(|proxy| !own.iter().any(|pair| name(pair) == name(proxy)));
    let path = (!own.iter().any(|pair| name(pair) == "PATH")).then(|| format!("PATH={}", policy::PATH));
    own.iter().chain(missing).cloned().chain(path).collect()
}

#[cfg(test)]
mod tests {
    use super::environment;

    #[test]
    fn a_proxy_is_given_unless_the_step_sets_it_itself() {
        let list = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let both = environment(&list("A=1 http_proxy=mine"), &list("http_proxy=host https_proxy=host"));
        let path = format!("PATH={}", super::policy::PATH);
        assert_eq!(both, list(&format!("A=1 http_proxy=mine https_proxy=host {path}")));
        assert_eq!(environment(&list("PATH=/x"), &[]), list("PATH=/x"));
    }
}
