//! COPY and ADD: one file operation with one action per source; a linked one stands on nothing, and a merge puts its
//! result on top of the stage.

use solver::graph::Edge;
use solver::op::{CopyAction, FileAction, FileActionKind, FileOp, MergeOp, Op, OpMeta, Owner, UserRef};
use solver::pattern::glob::has_wildcard;
use solver::redact;

use super::inputs::Inputs;
use super::origin::Origin;
use super::stage::StageInProgress;
use super::{paths, remote, steps, unexpandable, values};
use crate::error::{Diagnostic, Refusal};
use crate::expand::{Rules, expand};
use crate::heredoc::Heredoc;
use crate::instr::{Copy, Instruction, Source};
use crate::lint;
use crate::span::Word;

/// Permission bits of a file that stands in the Dockerfile.
const INLINE_MODE: u32 = 0o644;

/// What the sources bring to the operation.
struct Parts {
    actions: Vec<FileAction>,
    inputs: Inputs,
}

impl Parts {
    /// One more source, read from `tree`.
    fn push(&mut self, tree: Edge, action: CopyAction) {
        let secondary_input = Some(self.inputs.index_of(tree));
        let kind = FileActionKind::Copy(action);
        self.actions.push(FileAction { input: None, secondary_input, output: None, kind });
    }

    /// The actions, each on what the one before made, the first on `base`; and what they need.
    fn chained(mut self, base: Option<usize>) -> (Vec<FileAction>, Vec<Edge>) {
        let inputs = self.inputs.into_list();
        for (i, action) in self.actions.iter_mut().enumerate() {
            action.input = i.checked_sub(1).map_or(base, |before| Some(inputs.len() + before));
        }
        self.actions.last_mut().expect("a copy has a source").output = Some(0);
        (self.actions, inputs)
    }
}

impl StageInProgress<'_, '_> {
    pub(super) fn copy(&mut self, copy: &Copy, instruction: &Instruction, origin: &Origin) -> Result<(), Diagnostic> {
        let mut created_by = String::from(if copy.is_add { "ADD" } else { "COPY" });
        if copy.parents.is_some() {
            created_by.push_str(" --parents");
        }
        let mut flag = |stage: &mut Self, name: &str, word: &Option<Word>| -> Result<Option<String>, Diagnostic> {
            let Some(word) = word else { return Ok(None) };
            let text = stage.expand(word, origin)?;
            if text.is_empty() {
                return Ok(None);
            }
            created_by.extend([" --", name, "=", &text]);
            Ok(Some(text))
        };
        let chown = flag(self, "chown", &copy.chown)?;
        let chmod = flag(self, "chmod", &copy.chmod)?;
        let at = |refusal: Refusal, word: &Option<Word>| refusal.at(word.as_ref().map(|w| w.span).unwrap_or_default());
        let owner = chown.map(|text| values::owner(&text)).transpose().map_err(|refusal| at(refusal, &copy.chown))?;
        let mode = chmod.map(|text| values::mode(&text)).transpose().map_err(|refusal| at(refusal, &copy.chmod))?;
        let mut exclude_patterns = Vec::with_capacity(copy.exclude.len());
        for word in &copy.exclude {
            exclude_patterns.push(self.expand(word, origin)?);
        }
        let dest = self.expand(&copy.dest, origin)?;
        let linked = self.is_linked(copy, owner.as_ref(), mode.is_some(), origin);
        let template = CopyAction {
            dest: paths::destination(self.state.working_dir(), &dest, copy.sources.len() > 1),
            owner,
            mode,
            exclude_patterns,
            create_dest_path: true,
            ..CopyAction::default()
        };

        // Each source has a copy of what the flags say.
        let each = template.exclude_patterns.iter().map(|pattern| pattern.len() + 32).sum::<usize>() + dest.len();
        let all = (each as u64).saturating_mul(copy.sources.len() as u64);
        self.lowering.budget.spend(all).map_err(|error| unexpandable(&copy.dest, &error))?;

        let below = self.state.edge;
        let mut parts = Parts { actions: Vec::with_capacity(copy.sources.len()), inputs: Inputs::default() };
        let base = below.filter(|_| !linked).map(|edge| parts.inputs.index_of(edge));
        self.paths(copy, &template, &mut created_by, origin, &mut parts)?;
        for source in &copy.sources {
            let Source::Inline(heredoc) = source else { continue };
            created_by.extend([" <<", &heredoc.name]);
            let data = self.inline_data(heredoc, origin)?;
            let tree = self.inline_file(&heredoc.name, data, INLINE_MODE, origin, instruction);
            parts.push(tree, CopyAction { src: format!("/{}", heredoc.name), ..template.clone() });
        }
        created_by.extend([" ", &dest, " # buildkit"]);
        let (actions, inputs) = parts.chained(base);
        let text = self.describe(&instruction.source, false, origin);
        let text = redact::addresses(&text);
        let meta = self.meta(&text, origin);
        let place = origin.place(instruction.span);
        let op = Op::File(FileOp { actions });
        let merged = below.filter(|_| linked).map(|below| {
            let text = format!("LINK {}", steps::capitals(&text));
            (below, OpMeta { description: self.steps.again(origin.is_trigger(), &text), ..meta.clone() })
        });
        let mut edge = self.lowering.add(op, inputs, None, meta, place.clone());
        if let Some((below, meta)) = merged {
            edge = self.lowering.add(Op::Merge(MergeOp::default()), vec![below, edge], None, meta, place);
        }
        self.state.edge = Some(edge);
        self.record(created_by, Some(edge));
        Ok(())
    }

    /// Whether the copy is made on its own and put on top of the stage, so that it stays when what is beneath changes.
    fn is_linked(&mut self, copy: &Copy, owner: Option<&Owner>, has_mode: bool, origin: &Origin) -> bool {
        // A mode counts for the directories of the destination too, which a linked copy makes anew: `--chmod=600`
        // would close `/usr`.
        if !copy.link || has_mode {
            return false;
        }
        let names = |part: &UserRef| matches!(part, UserRef::Name(_));
        let Some(word) = copy
            .chown
            .as_ref()
            .filter(|_| owner.is_some_and(|owner| names(&owner.user) || owner.group.as_ref().is_some_and(names)))
        else {
            return true;
        };
        let warning = Diagnostic::warning(word.span, "`--link` has no effect beside an owner's name", "")
            .help("names are looked up in the stage; write numbers like `--chown=1000:1000`");
        self.lowering.found.push(origin.show(warning));
        false
    }

    /// The sources that are paths or addresses.
    fn paths(
        &mut self,
        copy: &Copy,
        template: &CopyAction,
        created_by: &mut String,
        origin: &Origin,
        parts: &mut Parts,
    ) -> Result<(), Diagnostic> {
        let known_git = copy.keep_git_dir.is_some();
        let mut texts: Vec<(&Word, String)> = Vec::new();
        for word in copy.paths() {
            texts.push((word, self.expand(word, origin)?));
        }
        let checksum = copy.checksum.as_ref().map(|word| self.expand(word, origin)).transpose()?;
        let checksum = checksum.filter(|text| !text.is_empty());
        if copy.is_add {
            let mut kinds: Vec<_> = texts.iter().map(|(_, text)| Some(remote::kind(text, known_git))).collect();
            kinds.resize(copy.sources.len(), Some(remote::Kind::Local));
            remote::check_flags(copy, &kinds, checksum.as_deref())?;
        }
        // What all paths are read from, once it is known.
        let mut from = None;
        for (word, text) in texts {
            created_by.extend([" ", &redact::addresses(&text)]);
            let found = if copy.is_add {
                remote::remote(&text, checksum.as_deref(), copy.keep_git_dir)
            } else {
                remote::copy_source(&text).map(|()| None)
            };
            match found.map_err(|refusal| refusal.at(word.span))? {
                Some(remote) => {
                    if remote::has_password(&text) {
                        let warning = Diagnostic::warning(word.span, "this address holds a password", "")
                            .help("who reads the Dockerfile knows it: use an address without, and `--secret id=HTTP_AUTH_HEADER_host`, or `id=GIT_AUTH_TOKEN`");
                        self.lowering.found.push(origin.show(warning));
                    }
                    let description = redact::addresses(&text).into_owned();
                    let meta = OpMeta { description, ..OpMeta::default() };
                    let place = origin.place(word.span);
                    let tree = self.lowering.add(Op::Source(remote.source), Vec::new(), None, meta, place);
                    let action = CopyAction {
                        dir_contents_only: remote.path == "/",
                        src: remote.path,
                        unpack_archives: copy.unpack == Some(true),
                        ..template.clone()
                    };
                    parts.push(tree, action);
                }
                None => {
                    if copy.from.is_none() {
                        self.lint(lint::paths::ignored(word, &text, &self.lowering.ignore), origin);
                    }
                    let tree = match from {
                        Some(tree) => tree,
                        None => *from.insert(self.source_tree(copy, origin)?),
                    };
                    let mut action = CopyAction {
                        src: paths::clean(&text),
                        follow_symlinks: true,
                        dir_contents_only: true,
                        unpack_archives: copy.unpack.unwrap_or(copy.is_add),
                        allow_wildcard: true,
                        allow_empty_wildcard: true,
                        ..template.clone()
                    };
                    if copy.parents.is_some() {
                        let (directory, pattern) = paths::pivot(&text);
                        if !has_wildcard(&directory) && !has_wildcard(&pattern) {
                            action.required_paths.extend((!pattern.is_empty()).then(|| pattern.clone()));
                        }
                        action.include_patterns.extend((!pattern.is_empty()).then_some(pattern));
                        action.src = directory;
                    }
                    parts.push(tree, action);
                }
            }
        }
        Ok(())
    }

    fn source_tree(&mut self, copy: &Copy, origin: &Origin) -> Result<Edge, Diagnostic> {
        let Some(from) = &copy.from else { return Ok(self.lowering.context()) };
        self.lowering.tree(from, self.index, origin.place(from.span))?.ok_or_else(|| {
            Refusal::new(format!("`{}` has no files: nothing can be copied from it", from.text))
                .help("copy from a stage that makes files")
                .at(from.span)
        })
    }

    /// The body of a here-document; variables are put in unless a part of its terminator is quoted.
    fn inline_data(&mut self, heredoc: &Heredoc, origin: &Origin) -> Result<Vec<u8>, Diagnostic> {
        let content = heredoc.content();
        if !heredoc.expand {
            return Ok(content.into_bytes());
        }
        let rules = Rules { plain_quotes: true, ..Rules::ordinary('\\') };
        let expanded = expand(&content, rules, &*self.state.env, &self.lowering.budget).map_err(|error| {
            Diagnostic::error(heredoc.body.span, format!("this here-document cannot be expanded: {error}"), "")
                .help(format!("quote its name if it holds no variables: `<<\"{}\"`", heredoc.name))
        });
        let expanded = expanded?;
        self.warn_unset(&expanded.unset, &heredoc.body, origin);
        Ok(expanded.text.into_bytes())
    }

    /// A tree with one file in its root.
    pub(super) fn inline_file(
        &mut self,
        name: &str,
        data: Vec<u8>,
        mode: u32,
        origin: &Origin,
        instruction: &Instruction,
    ) -> Edge {
        let action = FileAction {
            input: None,
            secondary_input: None,
            output: Some(0),
            kind: FileActionKind::MkFile { path: format!("/{name}"), mode, data, owner: None, timestamp: None },
        };
        let meta = OpMeta { description: "[internal] preparing inline document".into(), ..OpMeta::default() };
        let op = Op::File(FileOp { actions: vec![action] });
        self.lowering.add(op, Vec::new(), None, meta, origin.place(instruction.span))
    }
}
