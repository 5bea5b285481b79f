//! Where files and texts come from: standard input, archives, repositories, addresses, named contexts.

mod local;

mod remote;

mod named;

mod flags;

mod ssh;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::fake::{Fake, Reply};
use crate::support::git::GitServer;
use crate::support::{Archive, Context, Outcome, Store, temp_dir, tree};

const DOCKERFILE: &str = "FROM scratch\nCOPY . /all/\n";

/// Builds with these words, standard input given, and returns what was said.
fn build_from(store: &Store, words: &[&str], stdin: &[u8]) -> Outcome {
    let mut command = store.command(["build", "--progress=plain"].iter().chain(words));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}");
    let mut child = command.spawn().expect("the binary under test starts");
    let mut pipe = child.stdin.take().expect("it is piped");
    let bytes = stdin.to_vec();
    // The build may end without reading everything.
    let writing = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic");
    Outcome::from_output(shown, &output)
}

/// What the build put into `/` of its last stage, one path per line.
#[track_caller]
fn files_of(store: &Store, words: &[&str], stdin: &[u8]) -> Vec<String> {
    let out = temp_dir();
    let dest = format!("type=local,dest={}", out.path().join("tree").display());
    build_from(store, &[&["-o", &dest], words].concat(), stdin).ok();
    let mut files = Vec::new();
    walk(&out.path().join("tree"), Path::new(""), &mut files);
    files.sort();
    files
}

fn walk(root: &Path, at: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(at)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = at.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            walk(root, &path, files);
        } else {
            files.push(path.display().to_string());
        }
    }
}

/// A tar of these files; a name that ends in `@` is a link to the contents.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        append(&mut tar, name, contents);
    }
    tar.into_inner().expect("memory takes everything")
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, contents: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(1234);
    header.set_mtime(1_000_000_000);
    let (name, data) = match name.strip_suffix('@') {
        Some(name) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(contents).expect("a short target");
            header.set_size(0);
            (name, "")
        }
        None => {
            header.set_size(contents.len() as u64);
            (name, contents)
        }
    };
    // Not by the archive's own ways, which refuse hostile names.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, data.as_bytes()).expect("memory takes everything");
}

/// `bytes` by a program of the machine.
fn by(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut pipe = child.stdin.take().expect("it is piped");
    let input = bytes.to_vec();
    let writing = std::thread::spawn(move || pipe.write_all(&input).expect("it reads"));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic");
    output.stdout
}

fn layers(store: &Store, words: &[&str], stdin: &[u8]) -> Archive {
    let out = temp_dir();
    let dest = format!("type=oci,dest={}", out.path().join("a.tar").display());
    build_from(store, &[&["-o", &dest], words].concat(), stdin).ok();
    Archive::read(&out.path().join("a.tar"))
}
