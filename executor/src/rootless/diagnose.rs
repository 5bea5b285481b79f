//! Why a user namespace cannot be entered, and what to do: from facts to words. The decision is pure; [`Facts::gather`]
//! reads what the machine says.

use std::fs::read_to_string;

use rustix::io::Errno;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A user namespace.
    Namespace,
    /// To change a mount in it, which its owner may do everywhere but under some policies.
    Mounts,
}

/// What the machine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian's and other kernels.
    pub unprivileged_clone: Option<bool>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu's and newer Debian's kernels.
    pub apparmor_restricts: bool,
    /// Whether system calls of this process are filtered (seccomp).
    pub filtered: bool,
    /// Whether this looks like a container.
    pub container: bool,
    /// Whether the effective user is root.
    pub root: bool,
    /// This program.
    pub program: String,
}

impl Facts {
    /// Those of this machine and process.
    pub fn gather() -> Self {
        let number = |path: &str| read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        let marks = ["/.dockerenv", "/run/.containerenv"];
        let pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Self {
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone").map(|value| value != 0),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) != 0,
            filtered: seccomp.is_some_and(|mode| mode.trim() == "2"),
            container: pod || marks.iter().any(|mark| std::path::Path::new(mark).exists()),
            root: rustix::process::geteuid().is_root(),
            program: std::env::current_exe().map_or("/usr/bin/rbuild".into(), |path| path.display().to_string()),
        }
    }
}

/// A reason, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Why.
    pub reason: String,
    /// What to do; commands can be copied.
    pub fix: String,
}

/// Why the kernel answered `errno`.
pub fn diagnose(refused: Refused, errno: Errno, facts: &Facts) -> Diagnosis {
    let diagnosis = |reason: &str, fix: &str| Diagnosis { reason: reason.into(), fix: fix.into() };
    if errno == Errno::NOSPC || facts.max_user_namespaces == Some(0) {
        return match facts.max_user_namespaces {
            Some(0) => diagnosis(
                "this machine allows no user namespaces: `user.max_user_namespaces` is 0",
                "allow them: `sudo sysctl user.max_user_namespaces=15000`, and the same line in `/etc/sysctl.d/90-userns.conf` \
                 to keep it",
            ),
            _ => diagnosis(
                "there are as many user namespaces as this machine allows (`user.max_user_namespaces`), or too many inside \
                 each other",
                "end programs that hold some (`lsns --type user` lists them), or allow more: \
                 `sudo sysctl user.max_user_namespaces=15000`",
            ),
        };
    }
    if errno == Errno::INVAL || errno == Errno::NOSYS {
        return diagnosis(
            "this kernel has no user namespaces (CONFIG_USER_NS)",
            "boot another kernel, or run rbuild as root: `sudo rbuild …`",
        );
    }
    if facts.unprivileged_clone == Some(false) && !facts.root {
        return diagnosis(
            "this machine gives user namespaces to root alone: `kernel.unprivileged_userns_clone` is 0",
            "allow them: `sudo sysctl kernel.unprivileged_userns_clone=1`, and the same line in \
             `/etc/sysctl.d/90-userns.conf` to keep it",
        );
    }
    if facts.apparmor_restricts && !facts.root {
        let profile = format!(
            "abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile rbuild {} flags=(unconfined) {{\\n  userns,\\n}}\\n",
            facts.program
        );
        return Diagnosis {
            reason: "AppArmor keeps programs without a profile from using user namespaces: \
                     `kernel.apparmor_restrict_unprivileged_userns` is 1"
                .into(),
            fix: format!(
                "give rbuild a profile: `printf '{profile}' | sudo tee /etc/apparmor.d/rbuild && sudo apparmor_parser -r \
                 /etc/apparmor.d/rbuild`; or switch the restriction off: \
                 `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
            ),
        };
    }
    if facts.filtered || facts.container {
        let what = if facts.filtered { "filter of system calls (seccomp)" } else { "policy" };
        return Diagnosis {
            reason: format!("the container that rbuild runs in refuses it, probably by its {what}"),
            fix: "start the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined` (docker, \
                  podman); in a Kubernetes pod set `seccompProfile: {type: Unconfined}` and `appArmorProfile: {type: \
                  Unconfined}` in its `securityContext`"
                .into(),
        };
    }
    match refused {
        Refused::Namespace => diagnosis(
            "a policy of this machine refuses it (SELinux, another security module), or rbuild runs in a chroot, in which \
             the kernel makes none",
            "ask the kernel's log for the policy (`sudo dmesg | tail`), or run rbuild as root: `sudo rbuild …`",
        ),
        Refused::Mounts => diagnosis(
            "a policy of this machine (a security module) takes its rights away",
            "ask the kernel's log for the policy (`sudo dmesg | tail`), or run rbuild as root: `sudo rbuild …`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_reason_and_its_fix() {
        let usual =
            || Facts { max_user_namespaces: Some(15000), program: "/usr/bin/rbuild".into(), ..Facts::default() };
        let check = |errno: Errno, facts: Facts, reason: &str, fix: &str| {
            for refused in [Refused::Namespace, Refused::Mounts] {
                let found = diagnose(refused, errno, &facts);
                assert!(found.reason.contains(reason) && found.fix.contains(fix), "{errno} {facts:?}: {found:?}");
            }
        };
        let none = Facts { max_user_namespaces: Some(0), ..usual() };
        check(Errno::NOSPC, none.clone(), "is 0", "sysctl user.max_user_namespaces=");
        check(Errno::PERM, none, "is 0", "sysctl user.max_user_namespaces=");
        check(Errno::NOSPC, usual(), "as many user namespaces as", "lsns");
        check(Errno::INVAL, usual(), "CONFIG_USER_NS", "sudo rbuild");
        let debian = Facts { unprivileged_clone: Some(false), ..usual() };
        check(Errno::PERM, debian.clone(), "unprivileged_userns_clone", "sysctl kernel.unprivileged_userns_clone=1");
        check(Errno::PERM, Facts { root: true, ..debian }, "policy of this machine", "dmesg");
        check(Errno::PERM, Facts { unprivileged_clone: Some(true), ..usual() }, "policy of this machine", "dmesg");
        let ubuntu = Facts { apparmor_restricts: true, filtered: true, ..usual() };
        check(Errno::ACCESS, ubuntu.clone(), "AppArmor", "profile rbuild /usr/bin/rbuild flags=(unconfined)");
        check(Errno::PERM, ubuntu, "AppArmor", "sysctl kernel.apparmor_restrict_unprivileged_userns=0");
        check(Errno::PERM, Facts { filtered: true, ..usual() }, "seccomp", "seccomp=unconfined");
        check(Errno::PERM, Facts { container: true, ..usual() }, "container", "seccomp=unconfined");
        check(Errno::PERM, usual(), "policy", "dmesg");
    }
}
