//! Repositories that git itself serves over HTTP on loopback.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::temp_dir;

/// A folder of repositories, served; it ends with the test's process.
pub struct GitServer {
    dir: TempDir,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl GitServer {
    /// No repository yet.
    pub fn start() -> Self {
        let dir = temp_dir();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let root = dir.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let root = root.clone();
                std::thread::spawn(move || serve(stream.expect("loopback accepts"), &root));
            }
        });
        Self { dir, address }
    }

    /// Runs a script in a new repository `name.git`, or in one that is there, and commits what it leaves.
    pub fn commit(&self, name: &str, script: &str) -> String {
        let script = format!(
            "git init -q -b main {name}.git; cd {name}.git; {script}\n\
             git add -A; git commit -q --allow-empty -m x; git rev-parse HEAD"
        );
        let output = Command::new("sh")
            .args(["-euc", &script])
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@test")])
            .envs([("GIT_COMMITTER_NAME", "A"), ("GIT_COMMITTER_EMAIL", "a@test")])
            .envs([("GIT_AUTHOR_DATE", "1000000000 +0000"), ("GIT_COMMITTER_DATE", "1100000000 +0000")])
            .output()
            .expect("sh is installed");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a commit").trim().to_owned()
    }

    /// Its address.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}.git", self.address)
    }
}

/// One request, by git's own server side. git-http-backend(1).
fn serve(mut stream: TcpStream, root: &Path) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        // A client that goes away is none of the server's business.
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        let mut headers = lines[1..].iter().filter_map(|line| line.split_once(':'));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let mut body = Vec::new();
    match header("content-length").map(|length| length.parse().expect("a number")) {
        Some(length) => {
            reader.take(length).read_to_end(&mut body).expect("the body is whole");
        }
        None if header("transfer-encoding").is_some() => loop {
            let mut size = String::new();
            reader.read_line(&mut size).expect("a chunk");
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).expect("a whole chunk");
            body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        },
        None => {}
    }
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*", "http-backend"]).env_clear().env("PATH", "/usr/bin:/bin");
    command.env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("REQUEST_METHOD", method);
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("CONTENT_LENGTH", body.len().to_string());
    command.envs(header("content-type").map(|value| ("CONTENT_TYPE", value)));
    command.envs(header("content-encoding").map(|value| ("HTTP_CONTENT_ENCODING", value)));
    command.envs(header("git-protocol").map(|value| ("GIT_PROTOCOL", value)));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let writing = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().expect("it ends").stdout;
    // The backend may answer without reading everything.
    drop(writing.join().expect("no panic"));
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let body = output.get(end + 4..).unwrap_or_default();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let headers: String = head.lines().filter(|l| !l.starts_with("Status: ")).map(|l| format!("{l}\r\n")).collect();
    let reply = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    // The client may hang up early: what it then says is what the test looks at.
    let _ = stream.write_all(reply.as_bytes()).and_then(|()| stream.write_all(body));
}
