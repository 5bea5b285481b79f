//! A definition for people and programs: one operation per line, as JSON.
//!
//! Names are those of the interface definition, as other tools print them (`buildctl debug dump-llb`); what is not set is
//! left out. Bytes are Base64.

use std::collections::BTreeMap;

use api::pb;
use api::pb::file_action::Action;
use api::pb::user_opt::User;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::model::Digest;
use prost::Message as _;
use serde_json::{Map, Value, json};

/// One value per operation: `Op`, `Digest`, `OpMetadata`.
///
/// # Errors
/// When bytes are no operation.
pub fn lines(definition: &pb::Definition) -> Result<Vec<Value>, prost::DecodeError> {
    let line = |bytes: &Vec<u8>| {
        let digest = Digest::of(bytes).to_string();
        let meta = definition.metadata.get(&digest).map_or(json!({}), metadata);
        Ok(json!({ "Op": op(&pb::Op::decode(bytes.as_slice())?), "Digest": digest, "OpMetadata": meta }))
    };
    definition.def.iter().map(line).collect()
}

/// Without what is not set: zeros, empty texts, lists and objects.
fn set(fields: Value) -> Value {
    let Value::Object(fields) = fields else { return fields };
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Object(_) | Value::Bool(true) => true,
    };
    Value::Object(fields.into_iter().filter(|(_, value)| is_set(value)).collect())
}

fn map<V: Clone + Into<Value>>(entries: &BTreeMap<String, V>) -> Value {
    match entries.is_empty() {
        true => Value::Null,
        false => Value::Object(entries.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()),
    }
}

fn list<T>(items: &[T], shown: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(shown).collect())
}

fn metadata(meta: &pb::OpMetadata) -> Value {
    set(json!({
        "ignore_cache": meta.ignore_cache,
        "description": map(&meta.description),
        "export_cache": meta.export_cache.as_ref().map(|export| json!({ "Value": export.value })),
        "caps": map(&meta.caps),
        "progress_group": meta.progress_group.as_ref().map(|group| set(json!({
            "id": group.id, "name": group.name, "weak": group.weak,
        }))),
    }))
}

fn op(op: &pb::Op) -> Value {
    let kind = match &op.op {
        None => Map::new(),
        Some(kind) => {
            let (name, fields) = match kind {
                pb::op::Op::Exec(op) => ("exec", exec(op)),
                pb::op::Op::Source(source) => {
                    ("source", set(json!({ "identifier": source.identifier, "attrs": map(&source.attrs) })))
                }
                pb::op::Op::File(file) => ("file", json!({ "actions": list(&file.actions, action) })),
                pb::op::Op::Build(op) => ("build", build(op)),
                pb::op::Op::Merge(merge) => {
                    ("merge", json!({ "inputs": list(&merge.inputs, |input| set(json!({ "input": input.input }))) }))
                }
                pb::op::Op::Diff(diff) => {
                    let lower = diff.lower.as_ref().map(|lower| set(json!({ "input": lower.input })));
                    let upper = diff.upper.as_ref().map(|upper| set(json!({ "input": upper.input })));
                    ("diff", set(json!({ "lower": lower, "upper": upper })))
                }
            };
            Map::from_iter([(name.to_owned(), fields)])
        }
    };
    let platform = |platform: &pb::Platform| {
        set(json!({
            "Architecture": platform.architecture,
            "OS": platform.os,
            "Variant": platform.variant,
            "OSVersion": platform.os_version,
            "OSFeatures": platform.os_features,
        }))
    };
    set(json!({
        "inputs": list(&op.inputs, |input| set(json!({ "digest": input.digest, "index": input.index }))),
        "Op": kind,
        "platform": op.platform.as_ref().map(platform),
        "constraints": op.constraints.as_ref().map(|constraints| set(json!({ "filter": constraints.filter }))),
    }))
}

fn exec(exec: &pb::ExecOp) -> Value {
    set(json!({
        "meta": exec.meta.as_ref().map(process),
        "mounts": list(&exec.mounts, mount),
        "network": exec.network,
        "security": exec.security,
        "secretenv": list(&exec.secretenv, |secret| set(json!({
            "ID": secret.id, "name": secret.name, "optional": secret.optional,
        }))),
        "cdiDevices": list(&exec.cdi_devices, |device| set(json!({
            "name": device.name, "optional": device.optional,
        }))),
    }))
}

fn process(meta: &pb::Meta) -> Value {
    let proxies = |proxies: &pb::ProxyEnv| {
        set(json!({
            "http_proxy": proxies.http_proxy,
            "https_proxy": proxies.https_proxy,
            "ftp_proxy": proxies.ftp_proxy,
            "no_proxy": proxies.no_proxy,
            "all_proxy": proxies.all_proxy,
        }))
    };
    set(json!({
        "args": meta.args,
        "env": meta.env,
        "cwd": meta.cwd,
        "user": meta.user,
        "proxy_env": meta.proxy_env.as_ref().map(proxies),
        "extraHosts": list(&meta.extra_hosts, |host| set(json!({ "Host": host.host, "IP": host.ip }))),
        "hostname": meta.hostname,
        "ulimit": list(&meta.ulimit, |limit| set(json!({
            "Name": limit.name, "Soft": limit.soft, "Hard": limit.hard,
        }))),
        "cgroupParent": meta.cgroup_parent,
        "removeMountStubsRecursive": meta.remove_mount_stubs_recursive,
        "validExitCodes": meta.valid_exit_codes,
    }))
}

fn mount(mount: &pb::Mount) -> Value {
    let secret = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        set(json!({ "ID": id, "uid": uid, "gid": gid, "mode": mode, "optional": optional }))
    };
    set(json!({
        "input": mount.input,
        "selector": mount.selector,
        "dest": mount.dest,
        "output": mount.output,
        "readonly": mount.readonly,
        "mountType": mount.mount_type,
        "TmpfsOpt": mount.tmpfs_opt.as_ref().map(|tmpfs| set(json!({ "size": tmpfs.size }))),
        "cacheOpt": mount.cache_opt.as_ref().map(|cache| set(json!({ "ID": cache.id, "sharing": cache.sharing }))),
        "secretOpt": mount.secret_opt.as_ref().map(|of| secret(&of.id, of.uid, of.gid, of.mode, of.optional)),
        "SSHOpt": mount.ssh_opt.as_ref().map(|of| secret(&of.id, of.uid, of.gid, of.mode, of.optional)),
        "resultID": mount.result_id,
        "contentCache": mount.content_cache,
    }))
}

fn build(build: &pb::BuildOp) -> Value {
    let inputs = build.inputs.iter().map(|(name, input)| (name.clone(), set(json!({ "input": input.input }))));
    set(json!({
        "builder": build.builder,
        "inputs": Value::Object(inputs.collect()),
        "attrs": map(&build.attrs),
    }))
}

fn action(action: &pb::FileAction) -> Value {
    let kind = action.action.as_ref().map(|kind| match kind {
        Action::Copy(copy) => json!({ "copy": self::copy(copy) }),
        Action::Mkfile(file) => json!({ "mkfile": set(json!({
            "path": file.path,
            "mode": file.mode,
            "data": STANDARD.encode(&file.data),
            "owner": file.owner.as_ref().map(owner),
            "timestamp": file.timestamp,
        })) }),
        Action::Mkdir(dir) => json!({ "mkdir": set(json!({
            "path": dir.path,
            "mode": dir.mode,
            "makeParents": dir.make_parents,
            "owner": dir.owner.as_ref().map(owner),
            "timestamp": dir.timestamp,
        })) }),
        Action::Rm(rm) => json!({ "rm": set(json!({
            "path": rm.path, "allowNotFound": rm.allow_not_found, "allowWildcard": rm.allow_wildcard,
        })) }),
        Action::Symlink(link) => json!({ "symlink": set(json!({
            "oldpath": link.oldpath,
            "newpath": link.newpath,
            "owner": link.owner.as_ref().map(owner),
            "timestamp": link.timestamp,
        })) }),
    });
    // Indices are always there: 0 is one.
    json!({
        "input": action.input,
        "secondaryInput": action.secondary_input,
        "output": action.output,
        "Action": kind,
    })
}

fn copy(copy: &pb::FileActionCopy) -> Value {
    set(json!({
        "src": copy.src,
        "dest": copy.dest,
        "owner": copy.owner.as_ref().map(owner),
        "mode": copy.mode,
        "followSymlink": copy.follow_symlink,
        "dirCopyContents": copy.dir_copy_contents,
        "attemptUnpackDockerCompatibility": copy.attempt_unpack_docker_compatibility,
        "createDestPath": copy.create_dest_path,
        "allowWildcard": copy.allow_wildcard,
        "allowEmptyWildcard": copy.allow_empty_wildcard,
        "timestamp": copy.timestamp,
        "include_patterns": copy.include_patterns,
        "exclude_patterns": copy.exclude_patterns,
        "alwaysReplaceExistingDestPaths": copy.always_replace_existing_dest_paths,
        "modeStr": copy.mode_str,
        "required_paths": copy.required_paths,
    }))
}

fn owner(owner: &pb::ChownOpt) -> Value {
    let who = |who: &pb::UserOpt| {
        let user = who.user.as_ref().map(|user| match user {
            User::ByName(named) => json!({ "byName": set(json!({ "name": named.name, "input": named.input })) }),
            User::ById(id) => json!({ "byId": id }),
        });
        json!({ "User": user.unwrap_or(json!({})) })
    };
    set(json!({ "user": owner.user.as_ref().map(who), "group": owner.group.as_ref().map(who) }))
}
