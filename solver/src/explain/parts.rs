//! Two lists of parts compared: what differs of the operation itself, in the order of how much it tells.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Reason, Step, instruction};
use crate::canon::Part;

/// The parts of the operation itself: all but those of its inputs. What is selected from a source without a key counts.
pub fn own(parts: &[Part]) -> impl Iterator<Item = &Part> {
    parts.iter().filter(|part| !part.name.starts_with("input["))
}

/// What input `index` contributes, if it has a key of its own.
pub fn input(parts: &[Part], index: usize) -> Option<&str> {
    let name = format!("input[{index}]");
    // They stand at the end.
    let inputs = parts.iter().rev().take_while(|part| part.name.starts_with("input["));
    inputs.into_iter().find(|part| part.name == name).map(|part| part.value.as_str())
}

/// How many parts of two keys differ.
pub fn differing(a: &[Part], b: &[Part]) -> usize {
    let (a, b) = (by_name(a), by_name(b));
    let names: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
    names.into_iter().filter(|name| a.get(name) != b.get(name)).count()
}

/// What is different of a step itself, not of those beneath it; the most telling first.
pub fn reasons(new: &Step, old: &Step) -> Vec<Reason> {
    let mut both = Both { new: by_name(&new.parts), old: by_name(&old.parts), found: Vec::new() };
    both.source(&new.name, &old.name);
    both.command();
    both.variables();
    both.sources_of_copies(instruction(&new.name));
    both.contents();
    both.mounts();
    both.platform();
    both.rest(instruction(&new.name));
    both.found
}

type Parts<'a> = BTreeMap<&'a str, &'a str>;

fn by_name(parts: &[Part]) -> Parts<'_> {
    parts.iter().map(|part| (part.name.as_str(), part.value.as_str())).collect()
}

/// Two lists of parts; what has been compared is taken out of both.
struct Both<'a> {
    new: Parts<'a>,
    old: Parts<'a>,
    found: Vec<Reason>,
}

impl<'a> Both<'a> {
    /// Takes one part out; `None` when it is the same.
    fn take(&mut self, name: &str) -> Option<Change> {
        let (new, old) = (self.new.remove(name), self.old.remove(name));
        changed(old, new)
    }

    /// Takes a list (`name[0]`, `name[1]`, …) out of both: (old, new).
    fn take_list(&mut self, name: &str) -> (Vec<&'a str>, Vec<&'a str>) {
        let take = |parts: &mut Parts<'a>| {
            parts.remove(format!("{name}.len").as_str());
            let mut values = Vec::new();
            while let Some(value) = parts.remove(format!("{name}[{}]", values.len()).as_str()) {
                values.push(value);
            }
            values
        };
        (take(&mut self.old), take(&mut self.new))
    }

    fn source(&mut self, new_name: &str, old_name: &str) {
        self.take("source.scheme");
        let scheme_is_image = |name: &str| name.contains("@sha256:");
        let Some(digest) = self.take("source.content") else { return };
        let name = source_name(new_name);
        self.found.push(if scheme_is_image(new_name) || scheme_is_image(old_name) {
            // Another name in FROM is no moved image.
            let (was, is) = (image_name(source_name(old_name)), image_name(name));
            match was == is {
                true => Reason::Image { name: is.to_owned(), digest },
                false => {
                    let value = Change { old: Some(was.to_owned()), new: Some(is.to_owned()) };
                    Reason::Setting { what: "the image".into(), value }
                }
            }
        } else {
            Reason::Source { name: name.to_owned(), digest }
        });
    }

    fn command(&mut self) {
        let (old, new) = self.take_list("exec.args");
        if old == new {
            return;
        }
        match (old.split_last(), new.split_last()) {
            (Some((old_last, old_shell)), Some((new_last, new_shell)))
                if !old_shell.is_empty() && old_shell.len() == new_shell.len() || old_last == new_last =>
            {
                if old_last != new_last {
                    self.found.push(Reason::Command(both(*old_last, *new_last)));
                }
                if old_shell != new_shell {
                    self.found.push(Reason::Shell(both(old_shell.join(" "), new_shell.join(" "))));
                }
            }
            _ => self.found.push(Reason::Command(both(old.join(" "), new.join(" ")))),
        }
    }

    fn variables(&mut self) {
        let (old, new) = self.take_list("exec.env");
        if old == new {
            return;
        }
        let values = |lines: &[&'a str]| -> BTreeMap<&'a str, &'a str> {
            lines.iter().map(|line| line.split_once('=').unwrap_or((line, ""))).collect()
        };
        let (old_values, new_values) = (values(&old), values(&new));
        let before = self.found.len();
        // In the order in which they are set, then those that are gone.
        let names = new.iter().chain(&old).map(|line| line.split_once('=').map_or(*line, |(name, _)| name));
        let mut seen = BTreeSet::new();
        for name in names.filter(|name| seen.insert(*name)) {
            if let Some(value) = changed(old_values.get(name).copied(), new_values.get(name).copied()) {
                self.found.push(Reason::Variable { name: name.to_owned(), value });
            }
        }
        if self.found.len() == before {
            self.found.push(Reason::VariableOrder);
        }
    }

    /// The paths that a COPY names, as one list.
    fn sources_of_copies(&mut self, instruction: &str) {
        let paths = |parts: &Parts<'a>| -> Vec<&'a str> {
            (0..)
                .map_while(|i| action(parts, i).then(|| parts.get(format!("file[{i}].copy.src").as_str())))
                .flatten()
                .copied()
                .collect()
        };
        let (old, new) = (paths(&self.old), paths(&self.new));
        if old.is_empty() || new.is_empty() || old == new {
            return;
        }
        let shown = |paths: &[&str]| paths.iter().map(|path| relative(path)).collect::<Vec<_>>().join(" ");
        let what = format!("the sources of {instruction}");
        self.found.push(Reason::Setting { what, value: both(shown(&old), shown(&new)) });
        // What is read from where is another matter now: what else differs between the actions tells nothing more, but
        // for what all of them have in common.
        for parts in [&mut self.old, &mut self.new] {
            parts.retain(|name, _| {
                let of_another = name.starts_with("file[") && !name.starts_with("file[0].");
                let wiring = name.ends_with(".copy.src") || *name == "file[0].output" || *name == "file.actions";
                !of_another && !wiring && !name.starts_with("input[")
            });
        }
    }

    /// What is selected from sources without a key, path by path: what is read newly, or no more, is told elsewhere.
    fn contents(&mut self) {
        let (old, new) = (selected(&self.old), selected(&self.new));
        let known: BTreeMap<&str, &str> = old.into_iter().collect();
        for (path, digest) in new {
            if let Some(was) = known.get(path)
                && *was != digest
            {
                self.found.push(Reason::Content { path: path.to_owned(), digest: both(*was, digest) });
            }
        }
        for parts in [&mut self.old, &mut self.new] {
            parts.retain(|name, _| !name.starts_with("input["));
        }
    }

    fn mounts(&mut self) {
        let mounts = |parts: &mut Parts<'a>| -> BTreeMap<&'a str, String> {
            let mut mounts = BTreeMap::new();
            parts.remove("exec.mounts");
            for i in 0.. {
                let mut field = |name: &str| parts.remove(format!("exec.mount[{i}].{name}").as_str());
                let Some(target) = field("target") else { break };
                let (selector, readonly, kind) = (field("selector"), field("readonly"), field("kind"));
                let (output, input) = (field("output"), field("input"));
                let mut how = kind.unwrap_or_default().to_owned();
                if let Some(path) = selector.filter(|path| !matches!(*path, "" | "/")) {
                    how = format!("{how} source={path}");
                }
                if readonly == Some("true") {
                    how += " ro";
                }
                if input == Some("none") && kind == Some("bind") {
                    how += " of nothing";
                }
                if output != Some("none") && target != "/" {
                    how += " kept";
                }
                mounts.insert(target, how);
            }
            mounts
        };
        let (old, new) = (mounts(&mut self.old), mounts(&mut self.new));
        let targets: BTreeSet<&str> = new.keys().chain(old.keys()).copied().collect();
        for target in targets {
            let get = |mounts: &BTreeMap<&str, String>| mounts.get(target).cloned();
            if let Some(how) = changed(get(&old), get(&new)) {
                let target = target.to_owned();
                self.found.push(match target.as_str() {
                    "/" => Reason::Setting { what: "the root file system".into(), value: how },
                    _ => Reason::Mount { target, how },
                });
            }
        }
    }

    fn platform(&mut self) {
        let take = |parts: &mut Parts<'a>| {
            let mut get = |name: &str| parts.remove(name).unwrap_or_default();
            let os = get("platform.os");
            let rest = [get("platform.architecture"), get("platform.variant"), get("platform.os_version")];
            let all: Vec<&str> = std::iter::once(os).chain(rest).filter(|word| !word.is_empty()).collect();
            (!all.is_empty()).then(|| all.join("/"))
        };
        let (old, new) = (take(&mut self.old), take(&mut self.new));
        if let Some(value) = changed(old, new) {
            self.found.push(Reason::Setting { what: "the platform".into(), value });
        }
    }

    /// Everything else, by the words of whoever wrote it, as far as there are some.
    fn rest(&mut self, instruction: &str) {
        let names: Vec<&'a str> = self.new.keys().chain(self.old.keys()).copied().collect();
        let mut seen = BTreeSet::new();
        for name in names {
            let Some(value) = self.take(name) else { continue };
            let Some(what) = setting(name, instruction) else { continue };
            // Every source of one COPY says the same.
            if seen.insert(what.clone()) {
                self.found.push(Reason::Setting { what, value });
            }
        }
    }
}

fn action(parts: &Parts<'_>, index: usize) -> bool {
    parts.contains_key(format!("file[{index}].input").as_str())
}

/// What is selected, by the paths in the instruction, in its order: selections stand in the order of the actions, or
/// mounts, that read there.
fn selected<'a>(parts: &Parts<'a>) -> Vec<(&'a str, &'a str)> {
    let get = |name: String| parts.get(name.as_str()).copied();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = Vec::new();
    let mut take = |input: Option<&'a str>, path: Option<&'a str>| {
        let Some(input) = input.filter(|input| *input != "none") else { return };
        let count = counts.entry(input).or_insert(0);
        if let Some(digest) = get(format!("input[{input}].selected[{count}]")) {
            found.push((relative(path.unwrap_or_default()), digest));
        }
        *count += 1;
    };
    for i in (0..).take_while(|i| action(parts, *i)) {
        take(get(format!("file[{i}].input")), None);
        take(get(format!("file[{i}].secondary_input")), get(format!("file[{i}].copy.src")));
    }
    for i in 0.. {
        let Some(input) = get(format!("exec.mount[{i}].input")) else { break };
        // A cache mount begins as what is mounted.
        if get(format!("exec.mount[{i}].kind")).is_some_and(|kind| kind == "bind" || kind.starts_with("cache ")) {
            take(Some(input), get(format!("exec.mount[{i}].selector")));
        }
    }
    found
}

/// A path of the context as a Dockerfile has it.
fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

/// What a part is called in a Dockerfile or on the command line. `None`: it says nothing that another part does not.
fn setting(name: &str, instruction: &str) -> Option<String> {
    let field = name.rsplit_once('.').map_or(name, |(_, field)| field);
    Some(match name {
        "exec.user" => "USER".into(),
        "exec.cwd" => "WORKDIR".into(),
        "exec.network" => "--network".into(),
        "exec.security" => "--security".into(),
        "exec.hostname" => "the host name".into(),
        "exec.shm_size" => "--shm-size".into(),
        "exec.cgroup_parent" => "--cgroup-parent".into(),
        _ if name.ends_with(".len") => return None,
        _ if name.starts_with("exec.secret_env.") => format!("the secret variable {field}"),
        _ if name.starts_with("exec.host.") => format!("--add-host {}", &name["exec.host.".len()..]),
        _ if name.starts_with("exec.ulimit.") => format!("--ulimit {field}"),
        _ if name.starts_with("exec.device.") => format!("the device {}", &name["exec.device.".len()..]),
        _ if name.starts_with("exec.exit_codes") => "the exit codes that count as success".into(),
        _ if name.starts_with("file") => match field {
            "src" => format!("the source of {instruction}"),
            "dest" => format!("the destination of {instruction}"),
            "path" => instruction.into(),
            "owner" => "--chown".into(),
            "mode" => "--chmod".into(),
            "sha256" => "the text".into(),
            "unpack_archives" => "whether archives are unpacked".into(),
            "timestamp" => "the time of files".into(),
            field if field.starts_with("exclude") => "--exclude".into(),
            field if field.starts_with("include") || field.starts_with("required") => "the paths of --parents".into(),
            // How trees are wired: what stands on what tells of it.
            "input" | "secondary_input" | "output" | "actions" => return None,
            _ => name.into(),
        },
        _ => name.into(),
    })
}

/// `FROM x` without its keyword and place.
fn source_name(name: &str) -> &str {
    let text = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(name, |(_, text)| text);
    text.strip_prefix("FROM ").unwrap_or(text)
}

/// An image's name without its digest, and without what everybody leaves out.
fn image_name(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn both(old: impl Into<String>, new: impl Into<String>) -> Change {
    Change { old: Some(old.into()), new: Some(new.into()) }
}

fn changed<T: Into<String> + PartialEq>(old: Option<T>, new: Option<T>) -> Option<Change> {
    (old != new).then(|| Change { old: old.map(Into::into), new: new.map(Into::into) })
}
