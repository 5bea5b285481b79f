//! Devices of this machine by CDI name (Container Device Interface), for `RUN --device`.
//!
//! In come names (`vendor.com/class=name`; `=*` is all of the class, no name its first) and the directories that
//! describe devices; out come the variables, device nodes and binds that a step gets. Later directories win over earlier
//! ones. A description is JSON, or YAML ([`yaml`]). Deliberately absent: edits that run programs of the host (hooks) or reach beyond the
//! step's own file tree: whoever needs one is refused, not served with less.

mod yaml;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use solver::op::Device;

use crate::sandbox::{Bind, BindSource, Mount, MountKind};

/// Where devices are described, unless told otherwise. CDI specification, "Location".
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A description of a machine full of devices fits many times.
const DESCRIPTION_MAX_BYTES: u64 = 8 << 20;
/// Options of a mount that are how we bind anyway, or take nothing away by being left out.
const OPTIONS: [&str; 11] =
    ["ro", "rw", "bind", "rbind", "private", "rprivate", "slave", "rslave", "nosuid", "nodev", "noexec"];

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nobody describes it.
    #[error("there is no device `{name}`: none of {places} describes it")]
    Unknown {
        /// Its name.
        name: String,
        /// The directories.
        places: String,
    },
    /// A description cannot be read.
    #[error("could not read the devices in `{}`", path.display())]
    Unreadable {
        /// Which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A description asks for what steps cannot get.
    #[error("the device `{name}` cannot be given to a step: `{}` {asks}", path.display())]
    Refused {
        /// Its name.
        name: String,
        /// The description.
        path: PathBuf,
        /// What it asks for.
        asks: String,
    },
}

/// What a step gets with its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gifts {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes and binds.
    pub mounts: Vec<Mount>,
    /// Names of optional devices that are not there.
    pub missing: Vec<String>,
}

/// Looks devices up in `directories`.
///
/// # Errors
/// When a required one is not described, when one cannot be given whole, and when a description cannot be read.
pub fn gifts(devices: &[Device], directories: &[PathBuf]) -> Result<Gifts, DeviceError> {
    let mut gifts = Gifts::default();
    if devices.is_empty() {
        return Ok(gifts);
    }
    let known = descriptions(directories)?;
    for device in devices {
        let found = find(&known, &device.name);
        if found.is_empty() && device.required {
            let places: Vec<_> = directories.iter().map(|path| format!("`{}`", path.display())).collect();
            return Err(DeviceError::Unknown { name: device.name.clone(), places: places.join(", ") });
        }
        if found.is_empty() {
            gifts.missing.push(device.name.clone());
        }
        for (description, edits) in found {
            let refused =
                |asks| DeviceError::Refused { name: device.name.clone(), path: description.path.clone(), asks };
            // What all devices of a description have comes once, before the first of them.
            for edits in [&description.spec.container_edits, edits] {
                apply(edits, &mut gifts).map_err(refused)?;
            }
        }
    }
    Ok(gifts)
}

/// One file.
struct Description {
    path: PathBuf,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    devices: Vec<Described>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bound>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: Option<PathBuf>,
    /// Some of `r`, `w` and `m`; all if not said.
    permissions: Option<String>,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Node {
    /// What it asks for that a bind of the host's node does not give: that keeps its mode and owner, and is for reading
    /// and writing.
    fn not_given(&self) -> Option<&'static str> {
        let permissions = self.permissions.as_deref().filter(|text| !text.is_empty());
        if permissions.is_some_and(|text| !(text.contains('r') && text.contains('w'))) {
            return Some("permissions");
        }
        let settings = [("fileMode", self.file_mode), ("uid", self.uid), ("gid", self.gid)];
        settings.into_iter().find(|(_, value)| value.is_some()).map(|(name, _)| name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// All descriptions, those that win last.
fn descriptions(directories: &[PathBuf]) -> Result<Vec<Description>, DeviceError> {
    let mut known = Vec::new();
    for directory in directories {
        let unreadable = |source| DeviceError::Unreadable { path: directory.clone(), source };
        let entries = match directory.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(unreadable)?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(unreadable)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json" || extension == "yaml"));
        paths.sort();
        for path in paths {
            let spec = read(&path).map_err(|source| DeviceError::Unreadable { path: path.clone(), source })?;
            known.push(Description { path, spec });
        }
    }
    Ok(known)
}

fn read(path: &Path) -> io::Result<Spec> {
    let size = path.metadata()?.len();
    if size > DESCRIPTION_MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {} MiB", DESCRIPTION_MAX_BYTES >> 20)));
    }
    let text = std::fs::read(path)?;
    match path.extension().is_some_and(|extension| extension == "yaml") {
        true => yaml::spec(&text),
        false => Ok(serde_json::from_slice(&text)?),
    }
}

/// The devices that `name` means, each once.
fn find<'a>(known: &'a [Description], name: &str) -> Vec<(&'a Description, &'a Edits)> {
    let (kind, one) = name.split_once('=').map_or((name, None), |(kind, one)| (kind, Some(one)));
    let mut found: Vec<(&str, (&Description, &Edits))> = Vec::new();
    for description in known.iter().rev().filter(|description| description.spec.kind == kind) {
        for device in &description.spec.devices {
            let is_meant = one.is_none_or(|one| one == "*" || one == device.name);
            if is_meant && !found.iter().any(|(name, _)| *name == device.name) {
                found.push((&device.name, (description, &device.container_edits)));
            }
        }
    }
    found.sort_by_key(|(name, _)| *name);
    if one.is_none() {
        found.truncate(1);
    }
    found.into_iter().map(|(_, edits)| edits).collect()
}

/// Adds what `edits` gives; the error is what cannot be given.
fn apply(edits: &Edits, gifts: &mut Gifts) -> Result<(), String> {
    let given = |value: &serde_json::Value| !(value.is_null() || value.as_array().is_some_and(Vec::is_empty));
    if let Some((name, _)) = edits.others.iter().find(|(_, value)| given(value)) {
        return Err(format!("asks for `{name}`, which rbuild does not do"));
    }
    let mut add = |target: &str, source: PathBuf, readonly| {
        let bind = Bind { source: BindSource::Path(source), subpath: String::new(), readonly };
        let mount = Mount { target: target.to_owned(), kind: MountKind::Bind(bind) };
        if !gifts.mounts.contains(&mount) {
            gifts.mounts.push(mount);
        }
    };
    for node in &edits.device_nodes {
        if let Some(name) = node.not_given() {
            return Err(format!("asks for a device node with `{name}`, which rbuild does not do"));
        }
        add(&node.path, node.host_path.clone().unwrap_or_else(|| node.path.clone().into()), false);
    }
    for bound in &edits.mounts {
        if let Some(kind) = bound.kind.as_deref().filter(|kind| !matches!(*kind, "" | "bind" | "none")) {
            return Err(format!("asks for a mount of type `{kind}`, which rbuild does not do"));
        }
        if let Some(option) = bound.options.iter().find(|option| !OPTIONS.contains(&option.as_str())) {
            return Err(format!("asks for a mount with `{option}`, which rbuild does not do"));
        }
        add(&bound.container_path, bound.host_path.clone(), bound.options.iter().any(|option| option == "ro"));
    }
    gifts.env.extend(edits.env.iter().filter(|pair| !gifts.env.contains(pair)).cloned().collect::<Vec<_>>());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: &str = r#"{"cdiVersion": "0.6.0", "kind": "v.com/gpu",
        "containerEdits": {"env": ["ALL=1"], "mounts": [{"hostPath": "/lib/x", "containerPath": "/opt/x", "options": ["ro", "nosuid", "bind"]}]},
        "devices": [
            {"name": "1", "containerEdits": {"env": ["ONE=low"], "deviceNodes": [{"path": "/dev/gpu1"}]}},
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}]}}]}"#;
    const HIGH: &str = r#"{"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": [{"name": "1", "containerEdits": {"env": ["ONE=high"]}}]}"#;
    const HOOKS: &str = r#"{"cdiVersion": "0.6.0", "kind": "v.com/hooked", "devices": [
        {"name": "a", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}},
        {"name": "b", "containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs"}]}},
        {"name": "c", "containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["suid"]}]}},
        {"name": "d", "containerEdits": {"hooks": [], "env": ["D=1"]}},
        {"name": "e", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "permissions": "r"}]}},
        {"name": "f", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "fileMode": 384}]}},
        {"name": "g", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "gid": 5}]}}]}"#;

    /// What devices give, as lines.
    fn check(names: &[(&str, bool)], expected: &str) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [low, high] = ["etc", "run"].map(|name| directory.path().join(name));
        for path in [&low, &high] {
            std::fs::create_dir(path).expect("it is new");
        }
        for (path, text) in [
            (low.join("gpu.json"), LOW),
            (low.join("hooks.json"), HOOKS),
            (high.join("gpu.json"), HIGH),
            (high.join("readme"), "{"),
        ] {
            std::fs::write(path, text).expect("the directory is there");
        }
        let devices: Vec<_> = names.iter().map(|&(name, required)| Device { name: name.into(), required }).collect();
        let directories = [low, directory.path().join("missing"), high];
        let text = match gifts(&devices, &directories) {
            Err(error) => error.to_string().replace(directory.path().to_str().expect("it is text"), ""),
            Ok(gifts) => {
                let mounts = gifts.mounts.iter().map(|mount| match &mount.kind {
                    MountKind::Bind(Bind { source: BindSource::Path(source), readonly, .. }) => {
                        format!("{} from {}{}", mount.target, source.display(), if *readonly { " ro" } else { "" })
                    }
                    other => panic!("{other:?}"),
                });
                let missing = gifts.missing.iter().map(|name| format!("no {name}"));
                gifts.env.iter().cloned().chain(mounts).chain(missing).collect::<Vec<_>>().join("; ")
            }
        };
        assert_eq!(text, expected, "{names:?}");
    }

    #[test]
    fn a_device_gives_what_it_and_its_description_say_once() {
        check(&[("v.com/gpu=0", true)], "ALL=1; /opt/x from /lib/x ro; /dev/gpu0 from /dev/null");
        check(&[("v.com/gpu=1", true)], "ONE=high");
        check(&[("v.com/gpu=*", true)], "ALL=1; ONE=high; /opt/x from /lib/x ro; /dev/gpu0 from /dev/null");
        check(&[("v.com/gpu", true)], "ALL=1; /opt/x from /lib/x ro; /dev/gpu0 from /dev/null");
        check(
            &[("v.com/gpu=0", true), ("v.com/gpu=*", false)],
            "ALL=1; ONE=high; /opt/x from /lib/x ro; /dev/gpu0 from /dev/null",
        );
        check(&[("v.com/hooked=d", true)], "D=1");
        check(&[], "");
    }

    #[test]
    fn a_missing_device_fails_unless_it_is_optional() {
        check(&[("v.com/gpu=7", false), ("v.com/gpu=1", true)], "ONE=high; no v.com/gpu=7");
        check(
            &[("v.com/gp=0", true)],
            "there is no device `v.com/gp=0`: none of `/etc`, `/missing`, `/run` describes it",
        );
    }

    #[test]
    fn what_cannot_be_given_whole_is_not_given() {
        let refused = |name: &str, asks: &str| {
            check(
                &[(name, false)],
                &format!(
                    "the device `{name}` cannot be given to a step: `/etc/hooks.json` asks for {asks}, which rbuild does not do"
                ),
            );
        };
        refused("v.com/hooked=a", "`hooks`");
        refused("v.com/hooked=b", "a mount of type `tmpfs`");
        refused("v.com/hooked=c", "a mount with `suid`");
        refused("v.com/hooked=e", "a device node with `permissions`");
        refused("v.com/hooked=f", "a device node with `fileMode`");
        refused("v.com/hooked=g", "a device node with `gid`");
        refused("v.com/hooked", "`hooks`");
    }

    /// A folder with one description.
    fn alone(name: &str, text: &str) -> Result<Gifts, DeviceError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join(name), text).expect("the directory is there");
        gifts(&[Device { name: "a/b=c".into(), required: true }], &[directory.path().to_owned()])
    }

    #[test]
    fn a_description_in_yaml_gives_and_is_refused_what_one_in_json_is() {
        let head = "cdiVersion: \"0.6.0\"\nkind: a/b\ndevices:\n- name: c\n  containerEdits:\n";
        let given = format!(
            "{head}    env: [ONE=1, 'TWO=a b']\n    hooks: []\n    deviceNodes:\n    - path: /dev/x\n      hostPath: /dev/null\n\
                             containerEdits:\n  mounts:\n  - {{hostPath: /lib/x, containerPath: /opt/x, options: [ro]}}\n"
        );
        let gifts = alone("x.yaml", &given).expect("it is complete");
        assert_eq!(gifts.env, ["ONE=1", "TWO=a b"]);
        assert_eq!(gifts.mounts.iter().map(|mount| mount.target.as_str()).collect::<Vec<_>>(), ["/opt/x", "/dev/x"]);
        for (edits, expected) in [
            ("hooks: [{hookName: createContainer, path: /bin/true}]", "asks for `hooks`"),
            ("mounts: [{hostPath: /a, containerPath: /b, type: tmpfs}]", "a mount of type `tmpfs`"),
            ("mounts: [{hostPath: /a, containerPath: /b, options: [suid]}]", "a mount with `suid`"),
            ("deviceNodes: [{path: /dev/null, fileMode: 384}]", "`fileMode`"),
            ("additionalGids: [5]", "asks for `additionalGids`"),
        ] {
            let error = alone("x.yaml", &format!("{head}    {edits}\n")).expect_err(edits);
            assert!(error.to_string().contains(expected), "{edits}: {error}");
        }
    }

    #[test]
    fn a_description_that_is_none_is_named() {
        let bomb = format!("a: &a [x, x, x, x, x, x, x, x, x]\n{}", ('b'..'k').map(|next| {
            let last = char::from(next as u8 - 1);
            format!("{next}: &{next} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n")
        }).collect::<String>());
        for (name, text) in [
            ("x.json", "{"),
            ("x.yaml", "{"),
            ("x.yaml", "kind: a/b\nkind: a/b\ndevices: []\n"),
            ("x.yaml", "kind: a/b\ndevices: []\n---\nkind: a/b\ndevices: []\n"),
            ("x.yaml", "kind: a/b\n"),
            ("x.yaml", &format!("kind: a/b\ndevices: []\nother: {}{}", "[".repeat(10_000), "]".repeat(10_000))),
            ("x.yaml", &format!("{bomb}kind: a/b\ndevices: []\n")),
            ("x.yaml", "kind: \0"),
        ] {
            let error = alone(name, text).expect_err("it is none");
            assert!(error.to_string().ends_with(&format!("/{name}`")), "{name}: {error}");
        }
        // Of another kind of file nothing is read.
        assert!(matches!(alone("x.yml", "{"), Err(DeviceError::Unknown { .. })));
    }
}
