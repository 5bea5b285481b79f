//! COPY and ADD: one file operation with one action per source.

use solver::graph::Edge;
use solver::op::{CopyAction, FileAction, FileActionKind, FileOp, Op, OpMeta};

use super::inputs::Inputs;
use super::origin::Origin;
use super::stage::StageInProgress;
use super::{check, paths, refuse, unexpandable, values};
use crate::error::{Diagnostic, Refusal};
use crate::expand::{Rules, expand};
use crate::heredoc::Heredoc;
use crate::instr::{Copy, Instruction, Source};
use crate::span::Word;

/// Permission bits of a file that stands in the Dockerfile.
const INLINE_MODE: u32 = 0o644;

impl StageInProgress<'_, '_> {
    pub(super) fn copy(&mut self, copy: &Copy, instruction: &Instruction, origin: &Origin) -> Result<(), Diagnostic> {
        let mut created_by = String::from(if copy.is_add { "ADD" } else { "COPY" });
        let mut flag = |stage: &mut Self, name: &str, word: &Option<Word>| -> Result<Option<String>, Diagnostic> {
            let Some(word) = word else { return Ok(None) };
            let text = stage.expand(word, origin)?;
            if text.is_empty() {
                return Ok(None);
            }
            created_by.push_str(&format!(" --{name}={text}"));
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

        let mut inputs = Inputs::default();
        let base = self.state.edge.map(|edge| inputs.index_of(edge));
        let tree = match copy.paths().next() {
            Some(_) => Some(self.source_tree(copy, origin)?),
            None => None,
        };
        let mut copies: Vec<(usize, CopyAction)> = Vec::with_capacity(copy.sources.len());
        for word in copy.paths() {
            let text = self.expand(word, origin)?;
            match values::remote(&text) {
                Some(kind) if copy.is_add => return Err(refuse::remote_refused(kind, word.span)),
                _ => check::copy_source(&text).map_err(|refusal| refusal.at(word.span))?,
            }
            created_by.push_str(&format!(" {text}"));
            let action = CopyAction {
                src: paths::clean(&text),
                follow_symlinks: true,
                dir_contents_only: true,
                unpack_archives: copy.unpack.unwrap_or(copy.is_add),
                allow_wildcard: true,
                allow_empty_wildcard: true,
                ..template.clone()
            };
            // There is a tree if there is a path.
            copies.extend(tree.map(|tree| (inputs.index_of(tree), action)));
        }
        for source in &copy.sources {
            let Source::Inline(heredoc) = source else { continue };
            created_by.push_str(&format!(" <<{}", heredoc.name));
            let data = self.inline_data(heredoc)?;
            let file = self.inline_file(&heredoc.name, data, INLINE_MODE, origin, instruction);
            copies.push((inputs.index_of(file), CopyAction { src: format!("/{}", heredoc.name), ..template.clone() }));
        }
        created_by.push_str(&format!(" {dest} # buildkit"));

        let last = copies.len() - 1;
        let actions = copies.into_iter().enumerate().map(|(i, (source, action))| FileAction {
            input: if i == 0 { base } else { Some(inputs.len() + i - 1) },
            secondary_input: Some(source),
            output: (i == last).then_some(0),
            kind: FileActionKind::Copy(action),
        });
        let actions: Vec<FileAction> = actions.collect();
        let text = self.describe(&instruction.source, false, origin);
        let meta = self.meta(&text, origin);
        let edge = self.lowering.add(
            Op::File(FileOp { actions }),
            inputs.into_list(),
            None,
            meta,
            origin.place(instruction.span),
        );
        self.state.edge = Some(edge);
        self.record(created_by, Some(edge));
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
    fn inline_data(&self, heredoc: &Heredoc) -> Result<Vec<u8>, Diagnostic> {
        let content = heredoc.content();
        if !heredoc.expand {
            return Ok(content.into_bytes());
        }
        let rules = Rules { plain_quotes: true, ..Rules::ordinary('\\') };
        let expanded = expand(&content, rules, &*self.state.env, &self.lowering.budget).map_err(|error| {
            Diagnostic::error(heredoc.body.span, format!("this here-document cannot be expanded: {error}"), "")
                .help(format!("quote its name if it holds no variables: `<<\"{}\"`", heredoc.name))
        });
        Ok(expanded?.text.into_bytes())
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
