//! Engines that are not there, are full, die or lie: what is said, and that no name means half an image.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

#[test]
fn build_does_not_begin_without_an_engine_to_load_into() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo a-step-ran\n");
    let iid = store.path("iid");
    std::fs::write(&iid, "old").expect("the folder is ours");
    let absent = format!("unix://{}", store.path("absent.sock").display());
    let check = |args: &[&str], variables: &[(&str, &str)], expected: &[&str]| {
        let mut command = store.build_command(&context, args);
        command.args(["--iidfile"]).arg(&iid).envs(variables.iter().copied());
        Outcome::of(&mut command).fails_saying(expected).never_says(&["a-step-ran"]).never_prints(&[""]);
        assert!(!iid.exists(), "an old id outlives a build that fails");
    };
    let help = "-o type=docker,dest=app.tar";
    let host = ("DOCKER_HOST", &*absent);
    check(&["--load"], &[host], &["nobody answers where `DOCKER_HOST` says", "No such file or directory", help]);
    check(&["-o", "type=docker"], &[host], &["nobody answers where `DOCKER_HOST` says", help]);
    check(&["--load=podman"], &[("CONTAINER_HOST", &*absent)], &["nobody answers where `CONTAINER_HOST` says"]);
    check(
        &["-t", "a", "--load=containerd"],
        &[("CONTAINERD_ADDRESS", "/nowhere/c.sock")],
        &["nobody answers where `CONTAINERD_ADDRESS` says", "/nowhere/c.sock"],
    );
    check(&["--load"], &[("DOCKER_HOST", "ssh://far")], &["does not speak to engines over ssh", "ssh -nNTL"]);
    check(&["--load=dokcer"], &[], &["`dokcer` is none of docker, podman, containerd"]);
    assert_eq!(store.rbuild(["images", "-q"]).ok().stdout.lines().count(), 1, "only the base is there");
}

#[test]
fn what_an_engine_does_not_take_gets_no_name_there_and_stays_here() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::fake(&store);
    let check = |fault: Fault, expected: &[&str]| {
        docker.own().set(fault);
        docker.build(&store, &context, &["-t", "app:1", "--load"]).fails_saying(expected).never_says(&["built app:1"]);
        assert_eq!(docker.own().id("app:1"), None, "{fault:?}");
        assert_eq!(docker.own().images(), 0, "{fault:?}");
    };
    check(Fault::FullDisk, &["does not take the image", "write /blobs/sha256/x: no space left on device"]);
    check(Fault::Refuses, &["does not take the image", "no load today"]);
    check(Fault::Garbage, &["its answer is not what engines say: nginx says hello"]);
    check(Fault::Dies, &["the connection to docker (unix://", "broke"]);
    // What was built is known, so another try only loads.
    docker.own().set(Fault::None);
    docker.build(&store, &context, &["-t", "app:1", "--load"]).ok().says(&["2 steps, 2 cached", "sent 3 of 3 layers"]);
}

#[test]
fn engine_that_lost_layers_gets_all_of_them() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::fake(&store);
    docker.build(&store, &context, &["-t", "app:1", "--load"]).ok();
    context.write("top", "two");
    docker.own().set(Fault::LostLayers);
    let built = docker.build(&store, &context, &["-t", "app:1", "--load"]).ok();
    let built = built.says(&["does not take the image without the layers it has: open /", "no such file or directory"]);
    assert!(built.stderr.contains("sent 3 of 3 layers"), "{built}");
    assert_eq!(docker.own().loads().len(), 3);
    assert_eq!(docker.own().id("app:1"), Some(store.image_id(&context, ["-t", "app:1"])));
}

#[test]
fn image_that_an_engine_calls_otherwise_is_an_error() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::fake(&store);
    docker.own().set(Fault::Lies);
    let words = ["has not got the image that it said it took", "has 3 layers there"];
    docker.build(&store, &context, &["-t", "app:1", "--load"]).fails_saying(&words);
    assert_eq!(docker.own().id("app:1"), None, "names come last");
}

#[test]
fn loading_ends_when_it_is_interrupted() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::fake(&store);
    docker.own().set(Fault::Deaf);
    let mut command = store.build_command(&context, ["-t", "app:1", "--load"]);
    command.env("DOCKER_HOST", &docker.host).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    while !said.contains("sending layers") {
        assert_ne!(stderr.read_line(&mut said).expect("it is text"), 0, "the build ended: {said}");
    }
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).expect("it runs");
    stderr.read_to_string(&mut said).expect("it is text");
    assert_eq!(child.wait().expect("it was started").code(), Some(130), "{said}");
    assert_eq!(docker.own().images(), 0);
}
