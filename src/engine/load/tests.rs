//! Against an engine that does wrong on demand: every wait has an end, and every refusal its words.

use std::path::Path;
use std::time::Duration;

use super::dockerd::{Dockerd, Fault};
use super::stream::Archive;
use super::unpacked::{Engine as _, Unloaded};
use super::*;
use crate::options::load::Wanted;

const QUICK: Patience =
    Patience { question: Duration::from_secs(5), upload: Duration::from_millis(300), work: Duration::from_millis(400) };

fn place(engine: EngineKind, path: &Path) -> Place {
    Place { engine, way: Way::Socket(path.to_owned()), origin: None }
}

fn socket(docker: &Dockerd) -> std::path::PathBuf {
    docker.host().strip_prefix("unix://").expect("a socket").into()
}

/// Longer than what pipes and sockets hold.
fn long_archive() -> Archive {
    Archive::of(|out| {
        (0..8).try_for_each(|_| out.write_all(&[0; 1 << 20])).map_err(|error| Failure::new(error.to_string()))
    })
}

#[tokio::test]
async fn engine_that_does_wrong_is_given_up_with_its_name_and_its_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let docker = Dockerd::start(folder.path());
    let api = Api::at(&place(EngineKind::Docker, &socket(&docker)), QUICK).expect("a socket is a place");
    let check = async |fault: Fault, expected: &str| {
        docker.set(fault);
        let said = match api.load(long_archive(), &|_| ()).await {
            Ok(()) => panic!("{fault:?} went well"),
            Err(Unloaded::Refused(words)) => format!("refused: {words}"),
            Err(Unloaded::Failed(failure)) => failure.problems[0].message.clone(),
        };
        let said = said.replace(&folder.path().display().to_string(), "");
        assert!(said.contains(expected), "{fault:?}: {said}");
    };
    check(Fault::Deaf, "docker (unix:///docker.sock) takes nothing of the image, for 0 s now").await;
    check(Fault::Mute, "docker (unix:///docker.sock) says nothing of the image that it was sent").await;
    check(Fault::Dies, "the connection to docker (unix:///docker.sock) broke").await;
    check(Fault::Garbage, "docker (unix:///docker.sock): its answer is not what engines say: nginx says hello").await;
    check(Fault::Babbles, "docker (unix:///docker.sock): a line of its answer is longer than 1 MiB").await;
    check(Fault::Refuses, "refused: no load today").await;
}

#[tokio::test]
async fn archive_that_breaks_off_is_no_fault_of_the_engine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let docker = Dockerd::start(folder.path());
    let api = Api::at(&place(EngineKind::Docker, &socket(&docker)), QUICK).expect("a socket is a place");
    let archive = Archive::of(|out| {
        out.write_all(&[0; 1 << 20]).map_err(|error| Failure::new(error.to_string()))?;
        Err(Failure::new("a layer is gone"))
    });
    let Err(Unloaded::Failed(failure)) = api.load(archive, &|_| ()).await else { panic!("it went well") };
    assert_eq!(failure.problems[0].message, "a layer is gone");
    assert_eq!((docker.loads().len(), docker.images()), (0, 0), "half an archive is never a whole one");
}

#[tokio::test]
async fn the_first_that_runs_is_chosen_and_known_for_what_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let docker = Dockerd::start(folder.path());
    let absent = folder.path().join("absent.sock");
    // Left behind by an engine that died.
    let stale = folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("the path is free"));
    let load = |places: &[Place]| LoadOutput { places: places.to_vec(), ..LoadOutput::default() };
    let here = place(EngineKind::Docker, &socket(&docker));
    let (nobody, dead) = (place(EngineKind::Docker, &absent), place(EngineKind::Podman, &stale));
    let found = target(&load(&[nobody.clone(), dead.clone(), here.clone()]), QUICK).await;
    assert_eq!(found.expect("the third"), Target { place: here.clone(), keeps: Keeps::Trees });

    let locked = folder.path().join("locked.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&locked).expect("the path is free");
    let broken = place(EngineKind::Docker, &locked);
    let slow = Patience { question: Duration::from_millis(200), ..QUICK };
    let found = target(&load(&[broken.clone(), here.clone()]), slow).await.expect("another can be used");
    assert_eq!(found.place, here);
    let failure = target(&load(&[nobody.clone(), broken]), slow).await.expect_err("it never answers");
    assert!(failure.problems[0].message.contains("locked.sock) does not answer within"), "{failure:?}");
    assert!(failure.problems[0].notes[0].contains("absent.sock"), "{failure:?}");

    docker.set(Fault::IsPodman);
    let podman = target(&load(std::slice::from_ref(&here)), QUICK).await.expect("it answers");
    assert_eq!(podman.place.engine, EngineKind::Podman, "podman behind docker's socket");
    let wanted = Wanted { engine: Some(EngineKind::Docker), ..Wanted::default() };
    let failure = target(&LoadOutput { wanted, ..load(&[here]) }, QUICK).await.expect_err("docker was asked for");
    assert!(failure.problems[0].notes[0].contains("that is podman"), "{failure:?}");

    let failure = target(&load(&[nobody, dead]), QUICK).await;
    let problem = failure.expect_err("nobody is there").problems.remove(0);
    assert_eq!(problem.message, "there is no docker, podman or containerd to load the image into");
    assert!(problem.notes[0].contains("absent.sock): No such file or directory"), "{problem:?}");
    assert!(problem.notes[1].contains("stale.sock): Connection refused"), "{problem:?}");
    assert!(problem.help.is_some_and(|help| help.contains("-o type=docker,dest=app.tar")));
}

#[tokio::test]
async fn what_an_engine_has_is_asked_in_its_own_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let docker = Dockerd::start(folder.path());
    let api = Api::at(&place(EngineKind::Docker, &socket(&docker)), QUICK).expect("a socket is a place");
    assert_eq!(api.image("docker.io/library/app:1").await.expect("it answers"), None);
    assert_eq!(api.images().await.expect("it answers"), [""; 0]);
    let id = oci::model::Digest::of(b"no image");
    let failure = api.tag(&id, &"app:1".parse().expect("a name")).await.expect_err("there is no image");
    assert!(failure.problems[0].notes[0].contains(&format!("No such image: {id}")), "{failure:?}");
}
