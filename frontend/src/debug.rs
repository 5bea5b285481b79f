//! ASTs and plans as text, for people and for golden files.
//!
//! Every value that decides anything is shown; what is at its default is left out. The form is not stable. Beside it
//! stand [`mod@json`], with every value, and [`graph`], which draws.

pub mod graph;
pub mod json;

use std::collections::HashMap;
use std::fmt::Write as _;

use solver::graph::{Edge, VertexId};
use solver::op::{
    CacheSharing, CopyMode, ExecOp, FileActionKind, FileOp, MountKind, NetworkMode, Op, Owner, SecurityMode, UserRef,
};

use solver::redact;

use crate::ast::Ast;
use crate::error::{Diagnostic, Severity};
use crate::plan::Plan;
use crate::span::Span;

/// A parsed file: one line for each statement, its flags, arguments and here-documents beneath.
pub fn ast(ast: &Ast) -> String {
    let mut out = String::new();
    let directives =
        [("syntax", &ast.directives.syntax), ("escape", &ast.directives.escape), ("check", &ast.directives.check)];
    for (name, word) in directives.into_iter().filter_map(|(name, word)| Some((name, word.as_ref()?))) {
        line(&mut out, format_args!("# {name} = {:?} {}", word.text, place(word.span)));
    }
    for statement in &ast.statements {
        line(&mut out, format_args!("{} {}", statement.keyword.name(), place(statement.span())));
        for comment in &statement.line.comments {
            line(&mut out, format_args!("  comment {:?}", comment.text));
        }
        for flag in &statement.flags {
            let value = flag.value.as_ref().map(|value| format!(" = {:?}", value.text)).unwrap_or_default();
            line(&mut out, format_args!("  flag {}{value} {}", flag.name.text, place(flag.span)));
        }
        match &statement.json {
            crate::json::Json::Strings(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{:?}", word.text)).collect();
                line(&mut out, format_args!("  json [{}]", words.join(", ")));
            }
            _ if statement.arguments.is_empty() => {}
            _ => line(&mut out, format_args!("  text {:?} {}", statement.text(), place(statement.arguments_span()))),
        }
        for heredoc in &statement.heredocs {
            let tabs = if heredoc.strip_tabs { " tabs stripped" } else { "" };
            let expand = if heredoc.expand { "" } else { " quoted" };
            line(&mut out, format_args!("  here-document {:?}{tabs}{expand} {:?}", heredoc.name, heredoc.body.text));
        }
    }
    out
}

/// A plan: operations in order, then the output, then what is beside it.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let numbers = numbers(plan);
    let edge = |edge: &Edge| match edge.output {
        0 => format!("#{}", numbers[&edge.vertex]),
        output => format!("#{}.{output}", numbers[&edge.vertex]),
    };
    for (id, vertex, meta) in plan.graph.iter() {
        let inputs: Vec<String> = vertex.inputs.iter().map(edge).collect();
        let platform = vertex.platform.as_ref().map(|p| {
            let variant = if p.variant.is_empty() { String::new() } else { format!("/{}", p.variant) };
            format!(" for {}/{}{variant}", p.os, p.architecture)
        });
        let platform = platform.unwrap_or_default();
        let no_cache = if meta.ignore_cache { " without cache" } else { "" };
        line(&mut out, format_args!("#{} {:?}{platform}{no_cache}", numbers[&id], meta.description));
        let input = |index: Option<usize>| match index {
            None => "empty".to_owned(),
            Some(index) => inputs.get(index).cloned().unwrap_or_else(|| format!("action {}", index - inputs.len())),
        };
        match &vertex.op {
            Op::Source(source) => {
                line(&mut out, format_args!("   source {}", redact::addresses(&source.identifier)));
                for (name, value) in &source.attrs {
                    line(&mut out, format_args!("   {name} = {}", redact::addresses(value)));
                }
            }
            Op::Exec(exec) => show_exec(&mut out, exec, input),
            Op::File(file) => show_file(&mut out, file, input),
            Op::Merge(_) => line(&mut out, format_args!("   merge {}", inputs.join(" "))),
            other => line(&mut out, format_args!("   {other:?}")),
        }
    }
    let output = &plan.output;
    let tree = output.edge.as_ref().map_or_else(|| "empty".into(), edge);
    line(&mut out, format_args!("output {tree} for {}", output.platform));
    let config = serde_json::to_string_pretty(&output.config).unwrap_or_else(|error| error.to_string());
    config.lines().for_each(|text| line(&mut out, format_args!("   {text}")));
    if let Some(epoch) = output.epoch {
        line(&mut out, format_args!("epoch {epoch}"));
    }
    for step in &output.history {
        let layer = step.edge.as_ref().map(|e| format!(" => {}", edge(e))).unwrap_or_default();
        line(&mut out, format_args!("history {:?}{layer}", step.created_by));
    }
    for stage in &plan.skipped_stages {
        line(&mut out, format_args!("skipped {stage}"));
    }
    out
}

/// The vertices of a plan by number, from 1.
fn numbers(plan: &Plan) -> HashMap<VertexId, usize> {
    plan.graph.iter().enumerate().map(|(number, (id, ..))| (id, number + 1)).collect()
}

fn show_exec(out: &mut String, exec: &ExecOp, input: impl Fn(Option<usize>) -> String) {
    line(out, format_args!("   exec {:?}", exec.args));
    for variable in exec.env.iter() {
        line(out, format_args!("   env {variable:?}"));
    }
    for variable in &exec.proxy_env {
        line(out, format_args!("   proxy {variable:?}"));
    }
    for secret in &exec.secret_env {
        line(out, format_args!("   secret env {} = {} optional {}", secret.name, secret.id, secret.optional));
    }
    line(out, format_args!("   in {} as {:?}", exec.cwd, exec.user));
    for mount in &exec.mounts {
        let kind = match &mount.kind {
            MountKind::Bind => "bind".into(),
            MountKind::Tmpfs { size_bytes } => format!("tmpfs of {size_bytes}"),
            MountKind::Cache { id, sharing } => {
                let sharing = match sharing {
                    CacheSharing::Shared => "shared",
                    CacheSharing::Private => "private",
                    CacheSharing::Locked => "locked",
                };
                format!("cache {id} {sharing}")
            }
            MountKind::Secret { id, uid, gid, mode, optional } => {
                format!("secret {id} {uid}:{gid} {mode:o} optional {optional}")
            }
            MountKind::Ssh { id, uid, gid, mode, optional } => {
                format!("ssh {id} {uid}:{gid} {mode:o} optional {optional}")
            }
        };
        let readonly = if mount.readonly { " read-only" } else { "" };
        let output = mount.output.map(|output| format!(" => output {output}")).unwrap_or_default();
        let from = input(mount.input);
        line(out, format_args!("   mount {} {kind} {from}{}{readonly}{output}", mount.target, mount.selector));
    }
    if !exec.hostname.is_empty() {
        line(out, format_args!("   hostname {}", exec.hostname));
    }
    match exec.network {
        NetworkMode::Default => {}
        NetworkMode::Host => line(out, format_args!("   network host")),
        NetworkMode::None => line(out, format_args!("   network none")),
    }
    if exec.security == SecurityMode::Insecure {
        line(out, format_args!("   insecure"));
    }
}

fn show_file(out: &mut String, file: &FileOp, input: impl Fn(Option<usize>) -> String) {
    for action in &file.actions {
        let on = input(action.input);
        let output = action.output.map(|output| format!(" => output {output}")).unwrap_or_default();
        match &action.kind {
            FileActionKind::Copy(copy) => {
                let mut options = String::new();
                let mut option = |name: &str, set: bool| {
                    if set {
                        options.push(' ');
                        options.push_str(name);
                    }
                };
                option("follow-links", copy.follow_symlinks);
                option("contents-only", copy.dir_contents_only);
                option("unpack", copy.unpack_archives);
                option("make-parents", copy.create_dest_path);
                option("wildcard", copy.allow_wildcard);
                option("wildcard-may-be-empty", copy.allow_empty_wildcard);
                if let Some(who) = &copy.owner {
                    options.push_str(&format!(" owner {}", owner(who)));
                }
                match &copy.mode {
                    None => {}
                    Some(CopyMode::Bits(bits)) => options.push_str(&format!(" mode {bits:o}")),
                    Some(CopyMode::Symbolic(text)) => options.push_str(&format!(" mode {text}")),
                }
                if !copy.include_patterns.is_empty() {
                    options.push_str(&format!(" include {:?}", copy.include_patterns));
                }
                if !copy.required_paths.is_empty() {
                    options.push_str(&format!(" required {:?}", copy.required_paths));
                }
                if let Some(time) = copy.timestamp {
                    options.push_str(&format!(" at {time} ns"));
                }
                if copy.replace_other_types {
                    options.push_str(" replace");
                }
                if !copy.exclude_patterns.is_empty() {
                    options.push_str(&format!(" exclude {:?}", copy.exclude_patterns));
                }
                let from = input(action.secondary_input);
                line(out, format_args!("   copy {from} {:?} to {on} {:?}{options}{output}", copy.src, copy.dest));
            }
            FileActionKind::MkFile { path, mode, data, owner: who, .. } => {
                let who = who.as_ref().map(|who| format!(" owner {}", owner(who))).unwrap_or_default();
                let data = String::from_utf8_lossy(data);
                line(out, format_args!("   make file {path:?} in {on} mode {mode:o}{who} {data:?}{output}"));
            }
            FileActionKind::MkDir { path, mode, make_parents, owner: who, .. } => {
                let who = who.as_ref().map(|who| format!(" owner {}", owner(who))).unwrap_or_default();
                let parents = if *make_parents { " parents" } else { "" };
                line(out, format_args!("   make directory {path:?} in {on} mode {mode:o}{parents}{who}{output}"));
            }
            other => line(out, format_args!("   {other:?} on {on}{output}")),
        }
    }
}

fn owner(owner: &Owner) -> String {
    let part = |part: &UserRef| match part {
        UserRef::Name(name) => name.clone(),
        UserRef::Id(id) => format!("#{id}"),
    };
    let who = match &owner.group {
        Some(group) => format!("{}:{}", part(&owner.user), part(group)),
        None => part(&owner.user),
    };
    owner.names_from.map_or_else(|| who.clone(), |input| format!("{who} of input {input}"))
}

/// Findings: each with its line, the text at its place, and the advice.
pub fn diagnostics(text: &str, found: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in found {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let rule = diagnostic.rule.map(|rule| format!("[{}]", rule.name())).unwrap_or_default();
        line(&mut out, format_args!("{severity}{rule}: {}", diagnostic.message));
        if let Some(span) = &diagnostic.span {
            let number = text[..span.start].matches('\n').count() + 1;
            let label = if diagnostic.label.is_empty() { String::new() } else { format!(" {}", diagnostic.label) };
            line(&mut out, format_args!("  at {number}: {:?}{label}", &text[span.clone()]));
        }
        if let Some(help) = &diagnostic.help {
            line(&mut out, format_args!("  help: {help}"));
        }
        for edit in &diagnostic.fix {
            let place = place(Span::new(edit.span.0, edit.span.1));
            line(&mut out, format_args!("  fix: {place} {:?}", edit.replacement));
        }
    }
    out
}

fn place(span: Span) -> String {
    format!("{}..{}", span.start, span.end)
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
    out.push('\n');
}
