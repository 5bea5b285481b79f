//! What the language has and this version of rbuild has not.
//!
//! Everything is parsed; only what the target needs is refused. As the rest of rbuild learns, [`Supported`] grows.

use super::mounts::RequestKind;
use crate::error::Diagnostic;
use crate::instr::{Instruction, Kind, MountKey, Run};
use crate::span::Span;
use solver::op::SecurityMode;

/// Which parts can be run.
#[derive(Clone, Copy, Debug)]
pub struct Supported {
    /// `RUN --mount=type=secret`.
    pub secret_mounts: bool,
    /// `RUN --mount=type=ssh`.
    pub ssh_mounts: bool,
    /// ADD of a repository over ssh, which takes the user's keys.
    pub ssh_sources: bool,
    /// `RUN --security=insecure`.
    pub insecure: bool,
}

impl Supported {
    /// This version.
    pub const NOW: Self = Self { secret_mounts: false, ssh_mounts: false, ssh_sources: false, insecure: false };

    /// Everything that can be lowered, for looking at it and for tests.
    pub const ALL: Self = Self { secret_mounts: true, ssh_mounts: true, ssh_sources: true, insecure: true };

    /// Whether mounts of that type can be run.
    pub fn mount(self, kind: RequestKind) -> bool {
        match kind {
            RequestKind::Bind | RequestKind::Tmpfs | RequestKind::Cache => true,
            RequestKind::Secret => self.secret_mounts,
            RequestKind::Ssh => self.ssh_mounts,
        }
    }

    /// What of an instruction cannot be run, as far as that is visible without variables.
    pub fn refuse(self, instruction: &Instruction, found: &mut Vec<Diagnostic>) {
        if let Kind::Run(run) = &instruction.kind {
            self.refuse_run(run, found);
        }
    }

    fn refuse_run(self, run: &Run, found: &mut Vec<Diagnostic>) {
        for mount in &run.mounts {
            let Some(word) = mount.value(MountKey::Type) else { continue };
            for kind in [RequestKind::Secret, RequestKind::Ssh] {
                if word.text.eq_ignore_ascii_case(kind.name()) && !self.mount(kind) {
                    found.push(mount_refused(kind, mount.span));
                }
            }
        }
        let insecure = run.security == SecurityMode::Insecure && !self.insecure;
        if let Some(word) = run.security_word.as_ref().filter(|_| insecure) {
            found.push(unsupported("`RUN --security=insecure`", word.span).help("remove the flag"));
        }
        for device in &run.devices {
            found.push(unsupported("`RUN --device`", device.span).help("remove the flag"));
        }
    }
}

/// A mount of a type that cannot be run.
pub fn mount_refused(kind: RequestKind, span: Span) -> Diagnostic {
    let help = match kind {
        RequestKind::Secret => "remove the flag; do not pass secrets by ARG or COPY instead, they stay in the image",
        _ => "remove the flag",
    };
    unsupported(&format!("`RUN --mount=type={}`", kind.name()), span).help(help)
}

/// A repository whose server asks for keys: a Dockerfile of someone else's must not reach what they open.
pub fn ssh_source_refused(span: Span) -> Diagnostic {
    let help = "use an `https://` address, or fetch it yourself: `--build-context NAME=ADDRESS` and COPY --from=NAME";
    unsupported("ADD of a repository over ssh", span).help(help)
}

fn unsupported(what: &str, span: Span) -> Diagnostic {
    Diagnostic::error(span, format!("{what} is not supported by this version of rbuild"), "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answers, PlanOptions, Planned, debug, plan_supporting};

    /// The mounts and secrets of the only step, once everything is supported.
    fn check(step: &str, expected: &[&str]) {
        let text = format!("FROM scratch AS base\nWORKDIR /b\nFROM scratch\nARG TARGET=x\nWORKDIR /w\n{step}\n");
        let options = PlanOptions {
            build_args: [("BUILDKIT_CACHE_MOUNT_NS".to_owned(), "ns".to_owned())].into(),
            ..PlanOptions::default()
        };
        let planned = plan_supporting(&text, &options, &Answers::new(), Supported::ALL);
        let Ok(Planned::Plan(plan)) = planned else { panic!("{step}: {planned:?}") };
        let shown = debug::plan(&plan);
        let interesting = ["make directory \"/cache", "mount ", "secret env", "env \"SSH", "insecure"];
        let found: Vec<&str> = shown
            .lines()
            .map(str::trim)
            .filter(|line| interesting.iter().any(|start| line.starts_with(start)) && !line.starts_with("mount / "))
            .collect();
        assert_eq!(found, expected, "{step}");
    }

    #[test]
    fn what_is_refused_today_is_lowered_right_once_it_is_supported() {
        check("RUN --mount=type=cache,target=/c x", &["mount /c cache ns//c shared empty"]);
        check("RUN --mount=type=cache,target=c,ro x", &["mount /w/c cache ns/c shared empty read-only"]);
        check("RUN --mount=type=cache,dst=/a/../c/,id=i,sharing=Locked x", &["mount /c cache ns/i locked empty"]);
        check("RUN --mount=type=cache,target=/$TARGET,sharing=private x", &["mount /x cache ns//x private empty"]);
        check(
            "RUN --mount=type=cache,target=/c,uid=1,mode=0700 x",
            &[
                "make directory \"/cache\" in empty mode 700 owner #1:#0 => output 0",
                "mount /c cache ns//c shared #2/cache",
            ],
        );
        check(
            "RUN --mount=type=cache,target=/c,from=base,gid=1 x",
            &[
                "make directory \"/cache\" in #1 mode 755 owner #0:#1 => output 0",
                "mount /c cache ns//c shared #3/cache",
            ],
        );
        check(
            "RUN --mount=type=secret,id=a/b x",
            &["mount /run/secrets/b secret a/b 0:0 400 optional true empty read-only"],
        );
        check(
            "RUN --mount=type=secret,source=s,target=t,required,mode=0440,uid=5,gid=6 x",
            &["mount /w/t secret s 5:6 440 optional false empty read-only"],
        );
        check("RUN --mount=type=secret,id=s,env=S x", &["secret env S = s optional true"]);
        check(
            "RUN --mount=type=secret,id=s,env=S,target=/t,required=true x",
            &["secret env S = s optional false", "mount /t secret s 0:0 400 optional false empty read-only"],
        );
        check(
            "RUN --mount=type=ssh --mount=type=ssh,id=other,target=/s,required x",
            &[
                "env \"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0\"",
                "mount /run/buildkit/ssh_agent.0 ssh default 0:0 600 optional true empty read-only",
                "mount /s ssh other 0:0 600 optional false empty read-only",
            ],
        );
        check("RUN --security=insecure x", &["insecure"]);
    }

    #[test]
    fn a_dockerfile_does_not_use_the_users_ssh_keys() {
        for address in ["git@example.com:team/app.git", "ssh://git@example.com:22/b", "${X:-git@example.com:a/b}"] {
            let text = format!("FROM scratch\nADD {address} /a\n");
            let planned = |supported| plan_supporting(&text, &PlanOptions::default(), &Answers::new(), supported);
            let found = planned(Supported::NOW).expect_err(address);
            assert_eq!(found[0].message, "ADD of a repository over ssh is not supported by this version of rbuild");
            let Ok(Planned::Plan(plan)) = planned(Supported::ALL) else { panic!("{address} is lowered right") };
            assert!(debug::plan(&plan).contains("git.fullurl = "), "{address}");
        }
    }

    #[test]
    fn a_refused_type_is_refused_behind_a_variable_too() {
        let text = "FROM scratch\nARG T=secret\nRUN --mount=type=$T,id=s,target=/c x\n";
        let found = crate::plan(text, &PlanOptions::default(), &Answers::new()).expect_err("not supported");
        assert_eq!(found[0].message, "`RUN --mount=type=secret` is not supported by this version of rbuild");
    }
}
