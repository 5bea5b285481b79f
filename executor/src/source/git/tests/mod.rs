//! Real repositories behind real servers on loopback, honest ones and others.

mod check;
mod hostile;
mod offline;
mod servers;
mod trees;

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::source::test_server::{Reply, Request, Server};
use crate::testing::Log;

/// Repositories in a folder that servers serve, and a store.
pub(in crate::source) struct Bench {
    dir: tempfile::TempDir,
    pub(in crate::source) store: Store,
    cancel: CancellationToken,
}

impl Bench {
    pub(in crate::source) fn new() -> Self {
        // A path that could stand in a reference: no part begins with a dot.
        let dir = tempfile::Builder::new().prefix("git").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("served")).unwrap();
        std::fs::create_dir(dir.path().join("author")).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, cancel: CancellationToken::new() }
    }

    pub(in crate::source) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script with an author's git in `served/`; its output, trimmed.
    pub(in crate::source) fn sh(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-euc", script])
            .current_dir(self.path("served"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("author"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "A")
            .env("GIT_AUTHOR_EMAIL", "a@test")
            .env("GIT_COMMITTER_NAME", "C")
            .env("GIT_COMMITTER_EMAIL", "c@test")
            .env("GIT_AUTHOR_DATE", "1000000000 +0000")
            .env("GIT_COMMITTER_DATE", "1100000000 +0000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes a repository with one commit of what `script` writes, and returns the commit.
    pub(in crate::source) fn repository(&self, name: &str, script: &str) -> String {
        self.sh(&format!(
            "git init -q -b main {name}; cd {name}; {script}\ngit add -A; git commit -q --allow-empty -m one; \
             git rev-parse HEAD"
        ))
    }

    /// Serves `served/` as git servers do.
    pub(in crate::source) fn serve(&self) -> Server {
        let root = self.path("served");
        Server::new(move |request| backend(&root, request))
    }

    async fn resolve(&self, source: &GitSource) -> Result<GitPin, GitError> {
        resolve(&self.store, source, Connectivity::Online, &self.cancel).await
    }

    /// Resolves and checks out into a new folder.
    async fn get(&self, source: &GitSource) -> Result<(PathBuf, GitPin, i64), GitError> {
        let pin = self.resolve(source).await?;
        let (into, time) = self.check_out(source, &pin).await?;
        Ok((into, pin, time))
    }

    async fn check_out(&self, source: &GitSource, pin: &GitPin) -> Result<(PathBuf, i64), GitError> {
        self.check_out_by(source, pin, Connectivity::Online).await
    }

    async fn check_out_by(
        &self,
        source: &GitSource,
        pin: &GitPin,
        connectivity: Connectivity,
    ) -> Result<(PathBuf, i64), GitError> {
        let into = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        let time = checkout(&self.store, source, pin, &into, connectivity, &Log::default(), &self.cancel).await?;
        Ok((into, time))
    }
}

/// git's own server side.
fn backend(root: &Path, request: &Request) -> Reply {
    use std::io::Write as _;
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let mut command = Command::new("git");
    command
        .args(["-c", "safe.directory=*", "http-backend"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_LENGTH", request.body.len().to_string());
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = request.header(header) {
            command.env(variable, value);
        }
    }
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().unwrap().stdout;
    drop(writing.join().unwrap());
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let mut status = 200;
    let mut headers = Vec::new();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", value)) => status = value[..3].parse().unwrap(),
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => {}
        }
    }
    Reply::Plain(status, headers, output.get(end + 4..).unwrap_or_default().to_vec())
}

fn source(url: &str, reference: &str) -> GitSource {
    let reference = (!reference.is_empty()).then(|| reference.to_owned());
    GitSource { url: url.to_owned(), reference, submodules: true, ..GitSource::default() }
}

/// Files as `path=text`, links as `path -> target`, directories as `path/`; what is in `.git` is left out.
pub(in crate::source) fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let shown = path.to_string_lossy().into_owned();
            let kind = std::fs::symlink_metadata(root.join(&path)).unwrap().file_type();
            if shown == ".git" {
                continue;
            } else if kind.is_symlink() {
                found.push(format!("{shown} -> {}", std::fs::read_link(root.join(&path)).unwrap().display()));
            } else if kind.is_dir() {
                found.push(format!("{shown}/"));
                todo.push(path);
            } else {
                found.push(format!("{shown}={}", String::from_utf8_lossy(&std::fs::read(root.join(&path)).unwrap())));
            }
        }
    }
    found.sort();
    found
}

/// Serves the files of `served/`, as a server does that knows nothing of git.
fn dumb(bench: &Bench) -> Server {
    let root = bench.path("served");
    Server::new(move |request| {
        let path = request.target.split('?').next().unwrap_or_default().trim_start_matches('/');
        match std::fs::read(root.join(path)) {
            Ok(bytes) => Reply::new(200, &[("Content-Type", "text/plain")], bytes),
            Err(_) => Reply::new(404, &[], "no such file"),
        }
    })
}

/// Serves `served/` like a git of before 2018: only what references lead to is given.
fn old(bench: &Bench) -> Server {
    let root = bench.path("served");
    Server::new(move |request| {
        let mut request = request.clone();
        request.headers.retain(|(name, _)| name != "git-protocol");
        backend(&root, &request)
    })
}

/// Programs that still run with this text on their command line.
fn running(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(text)).collect()
}

/// An error with its causes.
pub(in crate::source) fn words(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", words(cause)))
}
