//! What the language has and this version of rbuild has not.
//!
//! Everything is parsed; only what the target needs is refused. As the rest of rbuild learns, [`Supported`] grows.

use crate::error::Diagnostic;
use crate::instr::{Instruction, Kind, Run};
use crate::span::Span;
use solver::op::SecurityMode;

/// Which parts can be run.
#[derive(Clone, Copy, Debug)]
pub struct Supported {
    /// `RUN --security=insecure`.
    pub insecure: bool,
}

impl Supported {
    /// This version.
    pub const NOW: Self = Self { insecure: false };

    /// Everything that can be lowered, for looking at it and for tests.
    pub const ALL: Self = Self { insecure: true };

    /// What of an instruction cannot be run, as far as that is visible without variables.
    pub fn refuse(self, instruction: &Instruction, found: &mut Vec<Diagnostic>) {
        if let Kind::Run(run) = &instruction.kind {
            self.refuse_run(run, found);
        }
    }

    fn refuse_run(self, run: &Run, found: &mut Vec<Diagnostic>) {
        let insecure = run.security == SecurityMode::Insecure && !self.insecure;
        if let Some(word) = run.security_word.as_ref().filter(|_| insecure) {
            found.push(unsupported("`RUN --security=insecure`", word.span).help("remove the flag"));
        }
        for device in &run.devices {
            found.push(unsupported("`RUN --device`", device.span).help("remove the flag"));
        }
    }
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
}
