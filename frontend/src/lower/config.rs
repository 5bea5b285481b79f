//! Instructions that change the image's config, and WORKDIR, which also makes a directory.

use std::rc::Rc;

use oci::model;
use solver::op::{FileAction, FileActionKind, FileOp, Op};

use super::history::{plain_list, quoted_list};
use super::origin::Origin;
use super::stage::StageInProgress;
use super::{paths, values};
use crate::error::{Diagnostic, Refusal};
use crate::instr::{ArgDeclaration, CommandLine, Healthcheck, Instruction, KeyValue, duration};
use crate::lint;
use crate::span::Word;

/// Permission bits of directories that WORKDIR makes.
const WORKDIR_MODE: u32 = 0o755;

/// ARGs that say something to the builder and never enter a step's variables.
const NOT_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl StageInProgress<'_, '_> {
    pub(super) fn workdir(
        &mut self,
        path: &Word,
        instruction: &Instruction,
        origin: &Origin,
    ) -> Result<(), Diagnostic> {
        let text = self.expand(path, origin)?;
        if text.is_empty() {
            return Err(empty(path, "WORKDIR"));
        }
        if !std::mem::replace(&mut self.state.workdir_set, true) {
            let dir = (!self.state.unknown).then_some(self.state.working_dir());
            self.lint(lint::paths::workdir(path, &text, dir), origin);
        }
        let dir = paths::join(self.state.working_dir(), &text);
        self.state.config_mut().working_dir.clone_from(&dir);
        if dir == "/" {
            self.steps.skip();
            self.record(format!("WORKDIR {dir}"), None);
            return Ok(());
        }
        let user = self.state.config.user.clone();
        // `1000:` is the user without a group, as runtimes read it.
        let owner = match user.trim_end_matches(':') {
            "" => None,
            user => Some(values::owner(user).map_err(|refusal| refusal.at(path.span))?),
        };
        let inputs: Vec<_> = self.state.edge.into_iter().collect();
        let action = FileAction {
            input: (!inputs.is_empty()).then_some(0),
            secondary_input: None,
            output: Some(0),
            kind: FileActionKind::MkDir {
                path: dir.clone(),
                mode: WORKDIR_MODE,
                make_parents: true,
                owner,
                timestamp: None,
            },
        };
        let text = self.describe(&instruction.source, false, origin);
        let meta = self.meta(&text, origin);
        let op = Op::File(FileOp { actions: vec![action] });
        let edge = self.lowering.add(op, inputs, None, meta, origin.place(instruction.span));
        self.state.edge = Some(edge);
        self.record(format!("WORKDIR {dir}"), Some(edge));
        Ok(())
    }

    /// All values see the variables from before the line.
    fn pairs(&mut self, pairs: &[KeyValue], origin: &Origin) -> Result<Vec<(String, String)>, Diagnostic> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let key = self.expand(&pair.key, origin)?;
            if key.is_empty() {
                return Err(empty(&pair.key, "the name"));
            }
            expanded.push((key, self.expand(&pair.value, origin)?));
        }
        Ok(expanded)
    }

    pub(super) fn env(&mut self, pairs: &[KeyValue], origin: &Origin) -> Result<(), Diagnostic> {
        let mut created_by = String::from("ENV");
        for (key, value) in self.pairs(pairs, origin)? {
            if key.contains('=') || key.contains('\0') || value.contains('\0') {
                let span = pairs.first().map(|pair| pair.key.span).unwrap_or_default();
                return Err(Refusal::new(format!("`{key}` cannot be the name of a variable"))
                    .help("a name holds neither `=` nor a zero byte")
                    .at(span));
            }
            self.state.set_env(&key, &value);
            created_by.push_str(&format!(" {key}={value}"));
        }
        self.record(created_by, None);
        Ok(())
    }

    pub(super) fn label(&mut self, pairs: &[KeyValue], origin: &Origin) -> Result<(), Diagnostic> {
        let mut created_by = String::from("LABEL");
        for (key, value) in self.pairs(pairs, origin)? {
            created_by.push_str(&format!(" {key}={value}"));
            self.state.config_mut().labels.insert(key, value);
        }
        self.record(created_by, None);
        Ok(())
    }

    pub(super) fn arg(&mut self, declarations: &[ArgDeclaration], origin: &Origin) -> Result<(), Diagnostic> {
        let mut created_by = String::from("ARG");
        for declaration in declarations {
            let name = &declaration.name.text;
            let given = self.lowering.build_arg(name);
            let value = match (given, &declaration.value) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(self.expand(default, origin)?),
                (None, None) => self.lowering.globals.get(name).map(str::to_owned),
            };
            created_by.push(' ');
            created_by.push_str(name);
            if let Some(value) = &value {
                if !NOT_ENV.contains(&name.as_str()) {
                    self.state.set_arg(name, value);
                }
                created_by.push_str(&format!("={value}"));
            }
            Rc::make_mut(&mut self.state.args).set(name, value.as_deref().unwrap_or_default());
        }
        self.record(created_by, None);
        Ok(())
    }

    pub(super) fn user(&mut self, user: &Word, origin: &Origin) -> Result<(), Diagnostic> {
        let text = self.expand(user, origin)?;
        if text.is_empty() {
            return Err(empty(user, "USER"));
        }
        self.record(format!("USER {text}"), None);
        self.state.config_mut().user = text;
        Ok(())
    }

    pub(super) fn volume(&mut self, words: &[Word], origin: &Origin) -> Result<(), Diagnostic> {
        let mut volumes = Vec::with_capacity(words.len());
        for word in words {
            let path = self.expand(word, origin)?;
            if path.is_empty() {
                return Err(empty(word, "the volume's path"));
            }
            volumes.push(path);
        }
        self.record(format!("VOLUME {}", plain_list(&volumes)), None);
        let marks = volumes.into_iter().map(|path| (path, serde_json::Value::Object(serde_json::Map::new())));
        self.state.config_mut().volumes.extend(marks);
        Ok(())
    }

    pub(super) fn expose(&mut self, words: &[Word], origin: &Origin) -> Result<(), Diagnostic> {
        let mut ports = Vec::new();
        for word in words {
            for text in self.expand_words(word, origin)? {
                self.lint(lint::expose::port(word, &text), origin);
                let range = values::ports(&text).map_err(|refusal| refusal.at(word.span))?;
                // A line can name 65,536 ports.
                self.lowering
                    .budget
                    .spend(range.len() as u64 * 64)
                    .map_err(|error| super::unexpandable(word, &error))?;
                ports.extend(range);
            }
        }
        self.record(format!("EXPOSE {}", plain_list(&ports)), None);
        let marks = ports.into_iter().map(|port| (port, serde_json::Value::Object(serde_json::Map::new())));
        self.state.config_mut().exposed_ports.extend(marks);
        Ok(())
    }

    pub(super) fn stopsignal(&mut self, signal: &Word, origin: &Origin) -> Result<(), Diagnostic> {
        let text = self.expand(signal, origin)?;
        values::signal(&text).map_err(|refusal| refusal.at(signal.span))?;
        self.record(format!("STOPSIGNAL {text}"), None);
        self.state.config_mut().stop_signal = text;
        Ok(())
    }

    pub(super) fn shell(&mut self, words: &[Word]) {
        let shell: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        self.record(format!("SHELL {}", plain_list(&shell)), None);
        self.state.config_mut().shell = shell;
    }

    pub(super) fn cmd(&mut self, command: &CommandLine) {
        let args = self.command(command);
        self.record(format!("CMD {}", quoted_list(&args)), None);
        let config = self.state.config_mut();
        config.cmd = Some(args).filter(|args| !args.is_empty());
        config.args_escaped = Some(true);
        self.cmd_set = true;
    }

    pub(super) fn entrypoint(&mut self, command: &CommandLine) {
        let args = self.command(command);
        self.record(format!("ENTRYPOINT {}", quoted_list(&args)), None);
        let keep_cmd = self.cmd_set;
        let config = self.state.config_mut();
        config.entrypoint = Some(args).filter(|args| !args.is_empty());
        if !keep_cmd {
            config.cmd = None;
        }
    }

    fn command(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Shell(text) => self.state.with_shell(&text.text),
            CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }

    pub(super) fn healthcheck(&mut self, check: &Healthcheck) {
        let show = duration::show;
        self.record(
            format!(
                "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
                plain_list(&check.test),
                show(check.interval),
                show(check.timeout),
                show(check.start_period),
                show(check.start_interval),
                check.retries,
            ),
            None,
        );
        self.state.config_mut().healthcheck = Some(model::Healthcheck {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        });
    }
}

fn empty(word: &Word, what: &str) -> Diagnostic {
    let shown: String = word.text.chars().take(60).collect();
    Diagnostic::error(word.span, format!("{what} is empty: nothing is left of `{shown}`"), "")
        .help("set its variables with ARG or ENV, or give a default: `${name:-value}`")
}
