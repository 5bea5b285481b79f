//! Docker over the network: in the clear, and over TLS, where each shows the other a certificate.

use std::path::{Path, PathBuf};

use super::*;
use crate::support::front::Front;

/// A store, a docker, and where it is.
fn docker() -> (Store, Context, Docker, PathBuf) {
    let store = Store::with_busybox();
    let docker = Docker::fake(&store);
    let socket = PathBuf::from(docker.host.strip_prefix("unix://").expect("a socket"));
    (store, Context::new("FROM busybox\nCOPY top /top\n").file("top", "one"), docker, socket)
}

fn build(store: &Store, context: &Context, variables: &[(&str, &str)]) -> Outcome {
    let mut command = store.build_command(context, ["-t", "app:1", "--load"]);
    Outcome::of(command.envs(variables.iter().copied()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("ASCII")
}

#[test]
fn docker_over_tcp_gets_the_image() {
    let (store, context, docker, socket) = docker();
    let front = Front::plain(&socket);
    let host = format!("tcp://{}", front.address);
    let built = build(&store, &context, &[("DOCKER_HOST", host.as_str())]).ok();
    assert!(built.stderr.contains(&format!("into docker (http://{}): sent 2 of 2 layers", front.address)), "{built}");
    assert_eq!(docker.own().id("app:1"), Some(store.image_id(&context, [""; 0])));
}

#[test]
fn docker_over_tls_gets_the_image_from_who_shows_a_certificate() {
    let (store, context, docker, socket) = docker();
    let front = Front::tls(&socket);
    let host = format!("tcp://{}", front.address);
    let host = ("DOCKER_HOST", host.as_str());
    let (whole, usual) = (store.path("certificates"), store.home().join(".docker"));
    front.write_certificates(&whole);
    let path = ("DOCKER_CERT_PATH", text(&whole));
    let built = build(&store, &context, &[host, path, ("DOCKER_TLS_VERIFY", "1")]).ok();
    assert!(built.stderr.contains(&format!("into docker (https://{}): sent 2 of 2 layers", front.address)), "{built}");
    assert_eq!(docker.own().id("app:1"), Some(store.image_id(&context, [""; 0])));

    // Where docker's own client looks when nothing names a folder.
    front.write_certificates(&usual);
    build(&store, &context, &[host, ("DOCKER_TLS_VERIFY", "1")]).ok().says(&["it had all layers"]);

    // Without `DOCKER_TLS_VERIFY` docker's certificate is not looked at, ours is.
    std::fs::remove_file(whole.join("ca.pem")).expect("it was written");
    build(&store, &context, &[host, path]).ok().says(&["it had all layers"]);
    let verified = build(&store, &context, &[host, path, ("DOCKER_TLS_VERIFY", "1")]);
    verified.fails_saying(&["its certificate is not trusted", "`DOCKER_CERT_PATH` names the folder with its `ca.pem`"]);

    front.write_certificates(&whole);
    std::fs::remove_file(whole.join("cert.pem")).expect("it was written");
    let nobody = build(&store, &context, &[host, path, ("DOCKER_TLS_VERIFY", "1")]);
    nobody.fails_saying(&["wants to see a certificate", "`cert.pem` and `key.pem`"]);
    std::fs::write(whole.join("cert.pem"), "no certificate").expect("the folder is ours");
    let garbage = build(&store, &context, &[host, path, ("DOCKER_TLS_VERIFY", "1")]);
    garbage.fails_saying(&["cert.pem`, for docker (https://127.0.0.1:", "cannot be used"]);
    // In the clear there is no docker at that port.
    build(&store, &context, &[host]).fails_saying(&["the connection to docker (http://127.0.0.1:"]);
}
