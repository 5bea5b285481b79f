//! What a client gives beside its files: a context on its standard input, tokens of registries.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::control::{Exporter, SolveRequest};

use super::client::{Daemon, Offer, request, session_with};
use super::extras::{Extras, Login, Pieces, Pipe};
use super::solve;
use crate::support::Store;
use crate::support::registry::{AUTHORITY, Guard, PASSWORD, Registry, USER};

/// Asks for a build whose context is a stream, as docker buildx does for `docker buildx build -`.
fn of_stream(name: &str) -> SolveRequest {
    let asked = request(name, name);
    let context = ("context".to_owned(), format!("http://buildkit-session/{name}"));
    SolveRequest { frontend_attrs: asked.frontend_attrs.into_iter().chain([context]).collect(), ..asked }
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).expect("memory takes everything");
    }
    tar.into_inner().expect("memory takes everything")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_on_the_clients_standard_input_is_an_archive_or_a_dockerfile() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let tar = archive(&[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f\n"), ("f", "came by a pipe")]);
    let pieces = |bytes: &[u8]| bytes.chunks(1000).map(|piece| Some(piece.to_vec())).collect::<Vec<_>>();
    let broken = [pieces(&tar[..1000]), vec![None]].concat();
    let cases: [(&str, Pieces, Result<&str, &str>); 5] = [
        ("tar", pieces(&tar), Ok("came by a pipe")),
        ("text", pieces(b"FROM busybox\nRUN echo alone\n"), Ok("alone")),
        ("broken", broken, Err("the pipe broke")),
        ("half", pieces(&tar[..1000]), Err("cannot unpack the archive on the client's standard input")),
        ("endless", vec![Some(vec![b'#'; 1 << 20]); 65], Err("Dockerfile")),
    ];
    for (name, pieces, expected) in cases {
        let extras = Extras { stream: Some(Pipe::new(name, pieces)), ..Extras::default() };
        let open = session_with(channel.clone(), name, Offer::default(), extras).await;
        match (solve(&channel, of_stream(name)).await, expected) {
            (Ok(told), Ok(words)) => assert!(told.iter().any(|line| line.contains(words)), "{name}: {told:?}"),
            (Err(status), Err(words)) => assert!(status.message().contains(words), "{name}: {status:?}"),
            (found, _) => panic!("{name}: {found:?}"),
        }
        drop(open);
    }
    // Neither one that the client does not know, nor one of a client that has none.
    let extras = Extras { stream: Some(Pipe::new("other", Vec::new())), ..Extras::default() };
    for (name, extras, words) in
        [("absent", extras, "there is no stream"), ("none", Extras::default(), "streams nothing")]
    {
        let open = session_with(channel.clone(), name, Offer::default(), extras).await;
        let status = solve(&channel, of_stream(name)).await.expect_err(words);
        assert!(status.message().contains(words), "{status:?}");
        drop(open);
    }
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fetches_tokens_keeps_its_password_and_one_without_is_told_to_log_in() {
    let store = Store::with_busybox();
    let registry = Registry::secure(Guard::Token);
    let (authority, config) = (store.path("authority.pem"), store.path("buildkitd.toml"));
    std::fs::write(&authority, AUTHORITY).expect("the directory is ours");
    let text = format!("[registry.\"{}\"]\nca = [{authority:?}]\n", registry.address);
    std::fs::write(&config, text).expect("the directory is ours");
    let daemon = Daemon::start_with(&store, &["--config", config.to_str().expect("tests have plain paths")]);
    let channel = daemon.connect().await;
    let name = registry.name("team/app:1");
    let push = |id: &str| {
        let attrs = BTreeMap::from([("name".to_owned(), name.clone()), ("push".to_owned(), "true".to_owned())]);
        SolveRequest { exporters: vec![Exporter { r#type: "image".into(), attrs }], ..request(id, id) }
    };
    let offer = Offer { dockerfile: "FROM busybox\nRUN echo made >/made\n".into(), context: Vec::new() };

    let login = |password: &str| {
        let user = (USER.to_owned(), password.to_owned());
        Arc::new(Login { authority: authority.clone(), user, asked: Mutex::default() })
    };
    let known = login(PASSWORD);
    let extras = Extras { login: Some(known.clone()), ..Extras::default() };
    let open = session_with(channel.clone(), "known", offer.clone(), extras).await;
    solve(&channel, push("known")).await.expect("it may push");
    let asked = known.asked.lock().expect("nobody panicked").clone();
    assert!(!asked.is_empty() && asked.iter().all(|what| what.starts_with("token 127.0.0.1:")), "{asked:?}");
    assert!(asked.iter().any(|what| what.contains("repository:team/app:pull,push")), "{asked:?}");
    drop(open);

    let open = session_with(channel.clone(), "nobody", offer, Extras::default()).await;
    let status = solve(&channel, push("nobody")).await.expect_err("nobody may push");
    let words = format!("`docker login {}`", registry.address);
    assert!(status.message().contains(&words) && !status.message().contains("rbuild login"), "{status:?}");
    drop(open);
    assert_eq!(daemon.stop(), Some(0));
}
