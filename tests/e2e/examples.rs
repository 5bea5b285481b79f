//! The projects in `examples/`, built with packages from the machine's registries, run and asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Archive, Outcome, Store, readers, temp_dir};

/// Builds the example twice, runs it, asks it for `path`, stops it; gives the answer's body and the image.
fn build_and_ask(name: &str, path: &str) -> (String, Archive) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let dir = temp_dir();
    let context = dir.path().join(name);
    Outcome::of(Command::new("cp").arg("-r").arg(examples.join(name)).arg(&context)).ok();
    Outcome::of(Command::new(examples.join("host.sh")).arg(context.join("host"))).ok();

    let store = Store::with_debian();
    let (tag, file) = (format!("{name}:1"), store.path("app.tar"));
    let words = |extra: &[&str]| {
        let mut words =
            vec!["--progress=plain", "--network=host", "-t", &tag].into_iter().map(String::from).collect::<Vec<_>>();
        words.extend(extra.iter().map(|word| (*word).to_owned()));
        words.push(context.display().to_string());
        words
    };
    store.rbuild(words(&[])).ok();
    let again = store.rbuild(words(&["-o", &format!("type=oci,dest={}", file.display())])).ok();
    assert!(!again.stderr.lines().any(|line| line.contains("] RUN ") && line.contains("DONE")), "{again}");
    let archive = Archive::read(&file);
    readers::inspect(&format!("oci-archive:{}", file.display()));

    let mut command = store.command(["run", "--rm", "--network=host", "-e", "HOST=127.0.0.1", "-e", "PORT=0", &tag]);
    let mut service =
        Service(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts"));
    let mut line = String::new();
    BufReader::new(service.0.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("it is text");
    let Some(address) = line.trim().strip_prefix("listening on ") else {
        service.0.kill().expect("it is ours, and waited for later");
        panic!("the service said `{line}`: {}", service.rest());
    };
    let body = get(address, path);
    kill_process(Pid::from_child(&service.0), Signal::TERM).expect("it is running");
    let said = service.rest();
    // The signal is passed on, and each service ends well by itself.
    assert!(service.0.wait().expect("it ends").success(), "{said}");
    (body, archive)
}

/// A running image, which does not outlive its test.
struct Service(Child);

impl Service {
    /// What it still says on standard error, until it ends.
    fn rest(&mut self) -> String {
        let mut said = String::new();
        self.0.stderr.take().expect("it is piped and read once").read_to_string(&mut said).expect("it is text");
        said
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // After a good end there is nothing left to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of `GET path`.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("it listens");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("the reply is text");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {reply}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

/// Nothing of how this machine reaches its registries is in the image.
fn nothing_of_the_machine_is_in(archive: &Archive) {
    for index in 0..archive.len() {
        let names = archive.names(index);
        let left = names.iter().find(|name| name.starts_with("mnt/") || name.as_str() == "etc/resolv.conf");
        assert_eq!(left, None, "in layer {index}");
    }
    let text = archive.config.to_string();
    for word in ["SSL_CERT_FILE=", "PIP_CERT=", "NODE_EXTRA_CA_CERTS="] {
        assert!(!text.contains(word), "{word} is in {text}");
    }
}

#[test]
fn python_web_service_answers() {
    let (body, archive) = build_and_ask("python-web", "/");
    let said: serde_json::Value = serde_json::from_str(&body).expect("the service speaks JSON");
    assert_eq!((&said["uid"], &said["visit"]), (&10001.into(), &1.into()), "{body}");
    nothing_of_the_machine_is_in(&archive);
    let config = &archive.config["config"];
    assert_eq!(config["User"], "app");
    assert_eq!(config["Healthcheck"]["Interval"], 10_000_000_000_u64);
}

#[test]
fn c_service_is_alone_in_its_image() {
    let (body, archive) = build_and_ask("c-static", "/");
    assert_eq!(body, "hello from scratch\n");
    assert_eq!(archive.len(), 1);
    assert_eq!(archive.names(0), ["server"]);
}

#[test]
fn node_service_answers() {
    let (body, archive) = build_and_ask("node-web", "/hello/you");
    assert_eq!(body, "hello, you\n");
    nothing_of_the_machine_is_in(&archive);
}
