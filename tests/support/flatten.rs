//! Layers applied to an empty tree in memory: what an unpacked image would hold, as one line of text per path.
//!
//! image-spec layer.md, "Whiteouts" and "Hardlinks". Nothing is unpacked and no code of rbuild is used. Times are left
//! out: no two builds have the same. Where two images are compared: `compare`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;

use super::archive::hex;

/// Contents up to this size are shown as they are, if they are text.
const SHOWN_BYTES: u64 = 80;

/// Path from the root, without the leading slash; the root itself is empty.
type Name = Vec<u8>;

struct Node {
    /// `d`, `-`, `l`, `c`, `b`, `p`.
    kind: char,
    /// Mode, owner, contents or target, extended attributes: everything but the other names of the same file.
    text: String,
    /// Equal for names of the same file.
    file: usize,
}

/// Describes what the layers make together, by path (`/etc/passwd`): `kind mode uid:gid contents [= first name]`.
#[track_caller]
pub fn flatten(layers: &[Vec<u8>]) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::from([(Name::new(), Node { kind: 'd', text: "d 0755 0:0".into(), file: 0 })]);
    let mut files = 0;
    for layer in layers {
        apply(&mut tree, layer, &mut files);
    }

    let mut first_names: HashMap<usize, String> = HashMap::new();
    let mut shown = BTreeMap::new();
    for (name, node) in &tree {
        let path = format!("/{}", name.escape_ascii());
        let first = first_names.entry(node.file).or_insert_with(|| path.clone());
        let link = if *first == path { String::new() } else { format!(" = {first}") };
        shown.insert(path, format!("{}{link}", node.text));
    }
    shown
}

fn apply(tree: &mut BTreeMap<Name, Node>, layer: &[u8], files: &mut usize) {
    // Whiteouts mean what lies beneath this layer, wherever in it they stand.
    for entry in tar::Archive::new(layer).entries().expect("a layer is a tar") {
        let name = name_of(&entry.expect("an entry").path_bytes());
        let (dir, last) = split(&name);
        if last == b".wh..wh..opq" {
            remove_beneath(tree, dir);
        } else if let Some(hidden) = last.strip_prefix(b".wh.") {
            remove(tree, &join(dir, hidden));
        }
    }
    for entry in tar::Archive::new(layer).entries().expect("a layer is a tar") {
        let mut entry = entry.expect("an entry");
        let name = name_of(&entry.path_bytes());
        let (dir, last) = split(&name);
        if last.starts_with(b".wh.") {
            continue;
        }
        let above = tree.get(dir).unwrap_or_else(|| panic!("{} has no directory", name.escape_ascii()));
        assert_eq!(above.kind, 'd', "{} is beneath what is no directory", name.escape_ascii());

        let node = if entry.header().entry_type().is_hard_link() {
            let target = name_of(&entry.link_name_bytes().expect("a hard link has a target"));
            let target = tree.get(&target).unwrap_or_else(|| panic!("{} has no target", name.escape_ascii()));
            Node { kind: target.kind, text: target.text.clone(), file: target.file }
        } else {
            *files += 1;
            let (kind, text) = describe(&mut entry);
            Node { kind, text, file: *files }
        };
        if node.kind != 'd' || tree.get(&name).is_some_and(|old| old.kind != 'd') {
            remove(tree, &name);
        }
        tree.insert(name, node);
    }
}

fn describe(entry: &mut tar::Entry<'_, impl std::io::Read>) -> (char, String) {
    let header = entry.header();
    let owner = format!("{}:{}", header.uid().expect("an owner"), header.gid().expect("a group"));
    let facts = format!("{:04o} {owner}", header.mode().expect("a mode") & 0o7777);
    let device = || {
        let part = |number: std::io::Result<Option<u32>>| number.expect("a number").expect("a device has numbers");
        format!("{}:{}", part(header.device_major()), part(header.device_minor()))
    };
    let (kind, text) = match header.entry_type() {
        tar::EntryType::Directory => ('d', facts),
        // A link has no permissions of its own.
        tar::EntryType::Symlink => {
            ('l', format!("{owner} -> {}", entry.link_name_bytes().expect("a link has a target").escape_ascii()))
        }
        tar::EntryType::Char => ('c', format!("{facts} {}", device())),
        tar::EntryType::Block => ('b', format!("{facts} {}", device())),
        tar::EntryType::Fifo => ('p', facts),
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
            ('-', format!("{facts} {}", contents(entry)))
        }
        other => panic!("a layer with an entry of type {other:?}"),
    };
    (kind, format!("{kind} {text}{}", attributes(entry)))
}

fn contents(entry: &mut tar::Entry<'_, impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).expect("the entry is whole");
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() as u64 <= SHOWN_BYTES => format!("{text:?}"),
        _ => format!("{} bytes {}", bytes.len(), &hex(&bytes)[..12]),
    }
}

/// Extended attributes, sorted, but those of the security modules of this machine.
fn attributes(entry: &mut tar::Entry<'_, impl std::io::Read>) -> String {
    let Some(records) = entry.pax_extensions().expect("the records can be read") else { return String::new() };
    let mut found = BTreeMap::new();
    for record in records {
        let record = record.expect("a record");
        if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.")
            && name != b"security.selinux"
        {
            found.insert(name.escape_ascii().to_string(), record.value_bytes().escape_ascii().to_string());
        }
    }
    found.into_iter().map(|(name, value)| format!(" {name}={value}")).collect()
}

fn name_of(path: &[u8]) -> Name {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    assert!(!parts.contains(&&b".."[..]), "{} leaves the layer", path.escape_ascii());
    parts.join(&b'/')
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

fn join(dir: &[u8], last: &[u8]) -> Name {
    if dir.is_empty() { last.to_vec() } else { [dir, last].join(&b'/') }
}

fn remove(tree: &mut BTreeMap<Name, Node>, name: &[u8]) {
    tree.remove(name);
    remove_beneath(tree, name);
}

fn remove_beneath(tree: &mut BTreeMap<Name, Node>, dir: &[u8]) {
    let prefix = join(dir, b"");
    tree.retain(|name, _| name.is_empty() || !name.starts_with(&prefix));
}

#[test]
fn layers_are_applied_as_the_specification_says() {
    /// Name, kind, contents or target.
    type Entries<'a> = &'a [(&'a str, char, &'a str)];
    let layer = |entries: Entries<'_>| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, contents) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(match kind {
                'd' => tar::EntryType::Directory,
                'h' => tar::EntryType::Link,
                'l' => tar::EntryType::Symlink,
                _ => tar::EntryType::Regular,
            });
            header.set_mode(0o644);
            header.set_uid(1);
            header.set_gid(2);
            header.set_size(if *kind == '-' { contents.len() as u64 } else { 0 });
            match kind {
                'h' | 'l' => builder.append_link(&mut header, name, contents).expect("memory takes it"),
                _ => builder.append_data(&mut header, name, contents.as_bytes()).expect("memory takes it"),
            }
        }
        builder.into_inner().expect("memory takes it")
    };
    let first = [("d", 'd', ""), ("d/a", '-', "a"), ("d/b", 'h', "d/a"), ("d/s", 'd', ""), ("d/s/x", '-', "x")];
    let cases: &[(Entries<'_>, &[&str])] = &[
        (&[], &["/d d", "/d/a - \"a\"", "/d/b - \"a\" = /d/a", "/d/s d", "/d/s/x - \"x\""]),
        (&[("d/.wh.a", '-', "")], &["/d d", "/d/b - \"a\"", "/d/s d", "/d/s/x - \"x\""]),
        (&[("d/s", '-', "now")], &["/d d", "/d/a - \"a\"", "/d/b - \"a\" = /d/a", "/d/s - \"now\""]),
        (&[("d/new", '-', "n"), ("d/.wh..wh..opq", '-', "")], &["/d d", "/d/new - \"n\""]),
        (&[("d", 'l', "/e")], &["/d l -> /e"]),
        (&[(".wh.d", '-', "")], &[]),
        (&[("d/a", '-', "2")], &["/d d", "/d/a - \"2\"", "/d/b - \"a\"", "/d/s d", "/d/s/x - \"x\""]),
    ];
    for (second, expected) in cases {
        let found: Vec<String> = flatten(&[layer(&first), layer(second)])
            .into_iter()
            .filter(|(path, _)| path != "/")
            .map(|(path, text)| format!("{path} {}", text.replace(" 0644 1:2", "").replace(" 1:2", "")))
            .collect();
        assert_eq!(found, *expected, "{second:?}");
    }
}
