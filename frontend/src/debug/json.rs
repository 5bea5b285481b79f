//! ASTs and plans as JSON, for programs.
//!
//! Every value is there, defaults too; keys are in a fixed order, and vertices are named by their number in the plan as
//! in the text form. Places are bytes of the Dockerfile, `[start, end]`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde_json::{Value, json};
use solver::graph::{Edge, Vertex, VertexId};
use solver::op::{
    CacheSharing, CopyAction, CopyMode, ExecOp, FileAction, FileActionKind, FileOp, Mount, MountKind, NetworkMode, Op,
    OpMeta, Owner, SecurityMode, UserRef,
};

use solver::redact;

use crate::ast::{Ast, Flag, Statement};
use crate::heredoc::Heredoc;
use crate::plan::{HistoryStep, Plan};
use crate::span::{Span, Word};

/// A parsed file.
pub fn ast(ast: &Ast) -> Value {
    let directives = &ast.directives;
    json!({
        "directives": {
            "syntax": directives.syntax.as_ref().map(word),
            "escape": directives.escape.as_ref().map(word),
            "check": directives.check.as_ref().map(word),
        },
        "escape": ast.escape.to_string(),
        "statements": ast.statements.iter().map(statement).collect::<Vec<_>>(),
    })
}

fn statement(statement: &Statement) -> Value {
    json!({
        "keyword": statement.keyword.name(),
        "written": statement.keyword_word.text,
        "span": place(statement.span()),
        "comments": statement.line.comments.iter().map(word).collect::<Vec<_>>(),
        "empty_continuations": statement.line.empty_continuations.iter().map(|span| place(*span)).collect::<Vec<_>>(),
        "flags": statement.flags.iter().map(flag).collect::<Vec<_>>(),
        "arguments": { "text": statement.text(), "span": place(statement.arguments_span()) },
        "json": match &statement.json {
            crate::json::Json::Strings(words) => Value::from(words.iter().map(word).collect::<Vec<_>>()),
            _ => Value::Null,
        },
        "heredocs": statement.heredocs.iter().map(heredoc).collect::<Vec<_>>(),
        "trigger": statement.trigger.as_deref().map(self::statement),
    })
}

fn flag(flag: &Flag) -> Value {
    json!({ "name": word(&flag.name), "value": flag.value.as_ref().map(word), "span": place(flag.span) })
}

fn heredoc(heredoc: &Heredoc) -> Value {
    json!({
        "name": heredoc.name,
        "expand": heredoc.expand,
        "strip_tabs": heredoc.strip_tabs,
        "body": word(&heredoc.body),
    })
}

fn word(word: &Word) -> Value {
    json!({ "text": word.text, "span": place(word.span) })
}

fn place(span: Span) -> Value {
    json!([span.start, span.end])
}

fn range(range: &Range<usize>) -> Value {
    json!([range.start, range.end])
}

/// A plan.
pub fn plan(plan: &Plan) -> Value {
    let numbers = super::numbers(plan);
    let edge = |edge: &Edge| json!({ "vertex": numbers[&edge.vertex], "output": edge.output });
    let vertices: Vec<Value> = plan.graph.iter().map(|found| vertex(plan, found, &numbers)).collect();
    let output = &plan.output;
    let history = |step: &HistoryStep| {
        json!({
            "created_by": step.created_by,
            "comment": step.comment,
            "author": step.author,
            "layer": step.edge.as_ref().map(edge),
        })
    };
    json!({
        "vertices": vertices,
        "output": {
            "edge": output.edge.as_ref().map(edge),
            "platform": output.platform.to_string(),
            "config": output.config,
            "history": output.history.iter().map(history).collect::<Vec<_>>(),
            "epoch": output.epoch,
        },
        "skipped_stages": plan.skipped_stages,
    })
}

fn vertex(plan: &Plan, (id, vertex, meta): (VertexId, &Vertex, &OpMeta), numbers: &HashMap<VertexId, usize>) -> Value {
    json!({
        "number": numbers[&id],
        "id": id.to_string(),
        "description": meta.description,
        "ignore_cache": meta.ignore_cache,
        "span": plan.spans.get(&id).map(range),
        "platform": vertex.platform.as_ref().map(|platform| json!({
            "os": platform.os,
            "architecture": platform.architecture,
            "variant": platform.variant,
            "os_version": platform.os_version,
            "os_features": platform.os_features,
        })),
        "inputs": vertex.inputs.iter()
            .map(|edge| json!({ "vertex": numbers[&edge.vertex], "output": edge.output }))
            .collect::<Vec<_>>(),
        "op": op(&vertex.op),
    })
}

fn op(op: &Op) -> Value {
    match op {
        Op::Source(source) => {
            let attrs = source.attrs.iter().map(|(name, value)| (name.as_str(), redact::addresses(value)));
            let attrs: BTreeMap<_, _> = attrs.collect();
            json!({ "source": { "identifier": redact::addresses(&source.identifier), "attrs": attrs } })
        }
        Op::Exec(op) => json!({ "exec": exec(op) }),
        Op::File(op) => json!({ "file": file(op) }),
        Op::Merge(_) => json!({ "merge": {} }),
        Op::Diff(diff) => json!({ "diff": { "lower": diff.lower, "upper": diff.upper } }),
        Op::Build(build) => {
            json!({ "build": { "builder": build.builder, "inputs": build.inputs, "attrs": build.attrs } })
        }
    }
}

fn exec(exec: &ExecOp) -> Value {
    json!({
        "args": exec.args,
        "env": *exec.env,
        "proxy_env": exec.proxy_env,
        "secret_env": exec.secret_env.iter()
            .map(|secret| json!({ "id": secret.id, "name": secret.name, "optional": secret.optional }))
            .collect::<Vec<_>>(),
        "cwd": exec.cwd,
        "user": exec.user,
        "mounts": exec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "network": match exec.network {
            NetworkMode::Default => "default",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
        },
        "security": match exec.security {
            SecurityMode::Sandbox => "sandbox",
            SecurityMode::Insecure => "insecure",
        },
        "extra_hosts": exec.extra_hosts,
        "hostname": exec.hostname,
        "ulimits": exec.ulimits,
        "shm_size_bytes": exec.shm_size_bytes,
        "cgroup_parent": exec.cgroup_parent,
        "valid_exit_codes": exec.valid_exit_codes,
        "devices": exec.devices.iter()
            .map(|device| json!({ "name": device.name, "required": device.required }))
            .collect::<Vec<_>>(),
    })
}

fn mount(mount: &Mount) -> Value {
    let kind = match &mount.kind {
        MountKind::Bind => json!({ "type": "bind" }),
        MountKind::Cache { id, sharing } => json!({ "type": "cache", "id": id, "sharing": match sharing {
            CacheSharing::Shared => "shared",
            CacheSharing::Private => "private",
            CacheSharing::Locked => "locked",
        } }),
        MountKind::Tmpfs { size_bytes } => json!({ "type": "tmpfs", "size_bytes": size_bytes }),
        MountKind::Secret { id, uid, gid, mode, optional } => {
            json!({ "type": "secret", "id": id, "uid": uid, "gid": gid, "mode": octal(*mode), "optional": optional })
        }
        MountKind::Ssh { id, uid, gid, mode, optional } => {
            json!({ "type": "ssh", "id": id, "uid": uid, "gid": gid, "mode": octal(*mode), "optional": optional })
        }
    };
    json!({
        "target": mount.target,
        "input": mount.input,
        "selector": mount.selector,
        "output": mount.output,
        "readonly": mount.readonly,
        "kind": kind,
    })
}

fn file(file: &FileOp) -> Value {
    Value::from(file.actions.iter().map(action).collect::<Vec<_>>())
}

fn action(action: &FileAction) -> Value {
    let kind = match &action.kind {
        FileActionKind::Copy(action) => json!({ "copy": copy(action) }),
        FileActionKind::MkFile { path, mode, data, owner, timestamp } => json!({ "make_file": {
            "path": path,
            "mode": octal(*mode),
            "data": data_text(data),
            "owner": owner.as_ref().map(self::owner),
            "timestamp_ns": timestamp,
        } }),
        FileActionKind::MkDir { path, mode, make_parents, owner, timestamp } => json!({ "make_directory": {
            "path": path,
            "mode": octal(*mode),
            "make_parents": make_parents,
            "owner": owner.as_ref().map(self::owner),
            "timestamp_ns": timestamp,
        } }),
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => json!({ "remove": {
            "path": path,
            "allow_not_found": allow_not_found,
            "allow_wildcard": allow_wildcard,
        } }),
        FileActionKind::Symlink { target, path, owner, timestamp } => json!({ "symlink": {
            "target": target,
            "path": path,
            "owner": owner.as_ref().map(self::owner),
            "timestamp_ns": timestamp,
        } }),
    };
    json!({
        "input": action.input,
        "secondary_input": action.secondary_input,
        "output": action.output,
        "do": kind,
    })
}

fn copy(copy: &CopyAction) -> Value {
    json!({
        "src": copy.src,
        "dest": copy.dest,
        "owner": copy.owner.as_ref().map(owner),
        "mode": copy.mode.as_ref().map(|mode| match mode {
            CopyMode::Bits(bits) => octal(*bits),
            CopyMode::Symbolic(text) => text.clone(),
        }),
        "follow_symlinks": copy.follow_symlinks,
        "dir_contents_only": copy.dir_contents_only,
        "unpack_archives": copy.unpack_archives,
        "create_dest_path": copy.create_dest_path,
        "allow_wildcard": copy.allow_wildcard,
        "allow_empty_wildcard": copy.allow_empty_wildcard,
        "include_patterns": copy.include_patterns,
        "exclude_patterns": copy.exclude_patterns,
        "required_paths": copy.required_paths,
        "timestamp_ns": copy.timestamp,
        "replace_other_types": copy.replace_other_types,
    })
}

fn owner(owner: &Owner) -> Value {
    let part = |part: &UserRef| match part {
        UserRef::Name(name) => Value::from(name.clone()),
        UserRef::Id(id) => Value::from(*id),
    };
    json!({ "user": part(&owner.user), "group": owner.group.as_ref().map(part), "names_from": owner.names_from })
}

/// Permission bits as people write them.
fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

/// Text as text, other bytes as a list of numbers.
fn data_text(data: &[u8]) -> Value {
    match std::str::from_utf8(data) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(data),
    }
}
