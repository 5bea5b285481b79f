//! RUN: one exec operation.

#[cfg(test)]
mod tests;

use solver::graph::Edge;
use solver::op::{
    ContentCache, ExecOp, FileAction, FileActionKind, FileOp, Mount, MountKind, NetworkMode, Op, OpMeta, Owner,
    SecretEnv, UserRef,
};

use super::inputs::Inputs;
use super::mounts::{self, MountRequest, RequestKind};
use super::origin::Origin;
use super::stage::StageInProgress;
use super::{paths, steps};
use crate::error::Diagnostic;
use crate::instr::{CommandLine, Instruction, Run};

/// Where a script with a first line of its own (`#!`) is mounted.
const SCRIPTS: &str = "/dev/pipes";
/// Permission bits of such a script.
const SCRIPT_MODE: u32 = 0o755;
/// The build arg that names the machine that steps see.
const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";
/// Name of a cache directory inside the tree that gives it its owner.
const CACHE_ROOT: &str = "/cache";

/// Mounts and what comes with them.
#[derive(Default)]
struct Mounts {
    inputs: Inputs,
    mounts: Vec<Mount>,
    secret_env: Vec<SecretEnv>,
    env: Vec<String>,
    agents: usize,
}

impl Mounts {
    fn input(&mut self, edge: Option<Edge>) -> Option<usize> {
        edge.map(|edge| self.inputs.index_of(edge))
    }
}

impl StageInProgress<'_, '_> {
    pub(super) fn run(&mut self, run: &Run, instruction: &Instruction, origin: &Origin) -> Result<(), Diagnostic> {
        let mut parts = Mounts::default();
        let root = parts.input(self.state.edge);
        parts.mounts.push(Mount {
            target: "/".into(),
            input: root,
            selector: String::new(),
            output: Some(0),
            readonly: false,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        });
        let args = self.command_of(run, &mut parts, instruction, origin);
        for spec in &run.mounts {
            let request = mounts::understand(spec, |word| self.expand(word, origin))?;
            self.mount(&request, &mut parts, origin, instruction)?;
        }
        // Every operation holds all variables: what it costs is what a hostile file would multiply.
        self.lowering
            .budget
            .spend(self.state.env.bytes() + self.state.args.bytes())
            .map_err(|error| Diagnostic::error(instruction.span, error.to_string(), ""))?;
        let mut env = self.state.env.lines();
        if !parts.env.is_empty() {
            env = env.iter().cloned().chain(parts.env).collect();
        }
        let created_by = format!("RUN {} # buildkit", self.command_string(&args));
        let options = self.lowering.options;
        let network = match (self.lowering.options.network, run.network) {
            (_, NetworkMode::None) => NetworkMode::None,
            (Some(forced), _) => forced,
            (None, asked) => asked,
        };
        let exec = ExecOp {
            args,
            env,
            proxy_env: self.lowering.proxy_env.clone(),
            cwd: self.state.working_dir().to_owned(),
            user: self.state.config.user.clone(),
            mounts: parts.mounts,
            network,
            security: run.security,
            secret_env: parts.secret_env,
            extra_hosts: options.extra_hosts.clone(),
            hostname: match options.hostname.as_str() {
                "" => options.build_args.get(HOSTNAME).cloned().unwrap_or_default(),
                name => name.to_owned(),
            },
            ulimits: options.ulimits.clone(),
            shm_size_bytes: options.shm_size_bytes,
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            devices: run.devices.clone(),
        };
        let text = match run.script() {
            Some(script) => format!("{} ({})", instruction.source, steps::summary(&script.body.text)),
            None => instruction.source.clone(),
        };
        let text = self.describe(&text, true, origin);
        let meta = self.meta(&text, origin);
        let platform = self.state.platform.clone();
        let place = origin.place(instruction.span);
        let edge = self.lowering.add(Op::Exec(Box::new(exec)), parts.inputs.into_list(), Some(&platform), meta, place);
        self.state.edge = Some(edge);
        self.record(created_by, Some(edge));
        Ok(())
    }

    /// The arguments of the process.
    fn command_of(&mut self, run: &Run, parts: &mut Mounts, instruction: &Instruction, origin: &Origin) -> Vec<String> {
        let text = match &run.command {
            CommandLine::Exec(words) => return words.iter().map(|word| word.text.clone()).collect(),
            CommandLine::Shell(text) => &text.text,
        };
        if let Some(script) = run.script() {
            let content = script.content();
            if !content.starts_with("#!") {
                return self.state.with_shell(&content);
            }
            let file = self.inline_file(&script.name, content.into_bytes(), SCRIPT_MODE, origin, instruction);
            let input = parts.input(Some(file));
            parts.mounts.push(Mount {
                target: SCRIPTS.into(),
                input,
                selector: String::new(),
                output: None,
                readonly: true,
                kind: MountKind::Bind,
                content_cache: ContentCache::Default,
            });
            return self.state.with_shell(&format!("{SCRIPTS}/{}", script.name));
        }
        // Anything else is put together again, and the shell reads its here-documents itself.
        let mut script = text.clone();
        for heredoc in &run.heredocs {
            script.push('\n');
            script.push_str(&heredoc.body.text);
            script.push_str(&heredoc.name);
        }
        self.state.with_shell(&script)
    }

    /// The command as histories show it: `|1 A=b /bin/sh -c make`.
    fn command_string(&self, args: &[String]) -> String {
        let command = args.join(" ");
        crate::meter::tick(command.len() + self.state.args.bytes() as usize);
        let shown: Vec<String> = self
            .state
            .args
            .iter()
            .map(|(name, value)| format!("{name}={}", self.state.env.get(name).unwrap_or(value)))
            .collect();
        if shown.is_empty() {
            return command;
        }
        format!("|{} {} {command}", shown.len(), shown.join(" "))
    }

    fn mount(
        &mut self,
        request: &MountRequest,
        parts: &mut Mounts,
        origin: &Origin,
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        match request.kind {
            RequestKind::Secret => {
                self.secret(request, parts);
                return Ok(());
            }
            RequestKind::Ssh => {
                self.ssh(request, parts);
                return Ok(());
            }
            _ => {}
        }
        // `understand` refuses these types without a target.
        let written = request.target.clone().unwrap_or_default();
        let target = paths::join(self.state.working_dir(), &written);
        let mut selector = paths::clean(&request.source);
        let kind = match request.kind {
            RequestKind::Tmpfs => MountKind::Tmpfs { size_bytes: request.size_bytes },
            RequestKind::Cache => {
                let namespace = self.lowering.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
                let namespace = namespace.map(String::as_str).unwrap_or_default();
                let id = request.id.clone().unwrap_or_else(|| solver::pattern::clean(&written));
                MountKind::Cache { id: format!("{namespace}/{id}"), sharing: request.sharing }
            }
            _ => MountKind::Bind,
        };
        let tree = match (request.kind, &request.from) {
            (RequestKind::Tmpfs, _) => None,
            (_, Some(from)) => self.lowering.tree(from, self.index, origin.place(from.span))?,
            (RequestKind::Cache, None) => None,
            _ => Some(self.lowering.context()),
        };
        let tree = match request.kind {
            RequestKind::Cache if selector == "/" => self.cache_root(tree, request, &mut selector, origin, instruction),
            _ => tree,
        };
        let input = parts.input(tree);
        parts.mounts.push(Mount {
            target,
            input,
            selector: if selector == "/" { String::new() } else { selector },
            output: None,
            readonly: request.readonly,
            kind,
            content_cache: ContentCache::Default,
        });
        Ok(())
    }

    /// What a new cache directory starts as, when its owner or mode is asked for.
    fn cache_root(
        &mut self,
        tree: Option<Edge>,
        request: &MountRequest,
        selector: &mut String,
        origin: &Origin,
        instruction: &Instruction,
    ) -> Option<Edge> {
        if request.mode.is_none() && request.uid.is_none() && request.gid.is_none() {
            return tree;
        }
        let owner = Owner {
            user: UserRef::Id(request.uid.unwrap_or(0)),
            group: Some(UserRef::Id(request.gid.unwrap_or(0))),
            names_from: None,
        };
        let action = FileAction {
            input: tree.map(|_| 0),
            secondary_input: None,
            output: Some(0),
            kind: FileActionKind::MkDir {
                path: CACHE_ROOT.into(),
                mode: request.mode.unwrap_or(0o755),
                make_parents: false,
                owner: Some(owner),
                timestamp: None,
            },
        };
        let meta = OpMeta { description: "[internal] settings cache mount permissions".into(), ..OpMeta::default() };
        *selector = CACHE_ROOT.into();
        let op = Op::File(FileOp { actions: vec![action] });
        Some(self.lowering.add(op, tree.into_iter().collect(), None, meta, origin.place(instruction.span)))
    }

    fn secret(&mut self, request: &MountRequest, parts: &mut Mounts) {
        let id = request.id.clone().or_else(|| Some(request.source.clone()).filter(|source| !source.is_empty()));
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let id = id.unwrap_or_else(|| base(request.target.as_deref().unwrap_or_default()));
        if let Some(name) = &request.env {
            parts.secret_env.push(SecretEnv { id: id.clone(), name: name.clone(), optional: !request.required });
            if request.target.is_none() {
                return;
            }
        }
        let target = match &request.target {
            Some(target) => paths::join(self.state.working_dir(), target),
            None => format!("/run/secrets/{}", base(&id)),
        };
        parts.mounts.push(Mount {
            target,
            input: None,
            selector: String::new(),
            output: None,
            readonly: true,
            kind: MountKind::Secret {
                id,
                uid: request.uid.unwrap_or(0),
                gid: request.gid.unwrap_or(0),
                mode: request.mode.unwrap_or(0o400),
                optional: !request.required,
            },
            content_cache: ContentCache::Default,
        });
    }

    fn ssh(&mut self, request: &MountRequest, parts: &mut Mounts) {
        let target = match &request.target {
            Some(target) => paths::join(self.state.working_dir(), target),
            None => format!("/run/buildkit/ssh_agent.{}", parts.agents),
        };
        if parts.agents == 0 && self.state.env.get("SSH_AUTH_SOCK").is_none() {
            parts.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        parts.agents += 1;
        parts.mounts.push(Mount {
            target,
            input: None,
            selector: String::new(),
            output: None,
            readonly: true,
            kind: MountKind::Ssh {
                id: request.id.clone().unwrap_or_else(|| "default".into()),
                uid: request.uid.unwrap_or(0),
                gid: request.gid.unwrap_or(0),
                mode: request.mode.unwrap_or(0o600),
                optional: !request.required,
            },
            content_cache: ContentCache::Default,
        });
    }
}
