use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        variables: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        working_directory: "/here".into(),
        root_user: true,
        ..Environment::default()
    }
}

/// The places in words, or the failure.
fn found(wanted: &Wanted, variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let places = places(wanted, &environment(variables));
    let places = places.map_err(|failure| {
        let problem = &failure.problems[0];
        format!("{} / {}", problem.message, problem.help.clone().unwrap_or_default())
    })?;
    Ok(places.iter().map(|place| format!("{} {place}", place.engine)).collect())
}

fn only(engine: EngineKind) -> Wanted {
    Wanted { engine: Some(engine), ..Wanted::default() }
}

#[test]
fn engines_are_looked_for_in_their_order_where_they_usually_are() {
    let check = |wanted: &Wanted, variables: &[(&str, &str)], expected: &[&str]| {
        assert_eq!(found(wanted, variables).expect("nothing is wrong"), expected, "{wanted:?} {variables:?}");
    };
    let (docker, podman) = ("docker unix:///var/run/docker.sock", "podman unix:///run/podman/podman.sock");
    let containerd = "containerd unix:///run/containerd/containerd.sock, namespace default";
    let k3s = "containerd unix:///run/k3s/containerd/containerd.sock, namespace default";
    check(&Wanted::default(), &[], &[docker, podman, containerd, k3s]);
    check(&Wanted::default(), &[("DOCKER_HOST", "")], &[docker, podman, containerd, k3s]);
    let runtime = ("XDG_RUNTIME_DIR", "/run/user/7");
    check(&only(EngineKind::Docker), &[runtime], &[docker, "docker unix:///run/user/7/docker.sock"]);
    check(&only(EngineKind::Podman), &[], &[podman]);
    check(&only(EngineKind::Containerd), &[], &[containerd, k3s]);
    // What is named is meant, and nothing else.
    let host = ("DOCKER_HOST", "unix:///x/y.sock");
    check(&Wanted::default(), &[host, runtime], &["docker unix:///x/y.sock"]);
    check(&only(EngineKind::Podman), &[host], &[podman]);
    check(&Wanted::default(), &[("CONTAINER_HOST", "tcp://h:1")], &["podman http://h:1"]);
    check(
        &Wanted::default(),
        &[("CONTAINERD_ADDRESS", "/x/c.sock"), ("CONTAINERD_NAMESPACE", "k8s.io")],
        &["containerd unix:///x/c.sock, namespace k8s.io"],
    );
    let named = Wanted { namespace: Some("moby".into()), ..only(EngineKind::Containerd) };
    let address = [("CONTAINERD_ADDRESS", "unix:///x/c.sock"), ("CONTAINERD_NAMESPACE", "k8s.io")];
    check(&named, &address, &["containerd unix:///x/c.sock, namespace moby"]);
}

#[test]
fn user_looks_for_services_of_his_own() {
    let variables = [("XDG_RUNTIME_DIR", "/run/user/7")];
    let environment = Environment { root_user: false, ..environment(&variables) };
    let places = places(&only(EngineKind::Podman), &environment).expect("nothing is wrong");
    assert_eq!(places[0].to_string(), "unix:///run/user/7/podman/podman.sock");
}

#[test]
fn addresses_of_docker_are_understood() {
    let check = |variables: &[(&str, &str)], expected: &str, tls: Option<(&str, bool)>| {
        let places = places(&only(EngineKind::Docker), &environment(variables)).expect("nothing is wrong");
        assert_eq!((places.len(), places[0].to_string()), (1, expected.to_owned()), "{variables:?}");
        let found = match &places[0].way {
            Way::Tcp { tls, .. } => tls.clone(),
            _ => None,
        };
        assert_eq!(found, tls.map(|(directory, verify)| Tls { directory: directory.into(), verify }), "{variables:?}");
    };
    let host = |text| ("DOCKER_HOST", text);
    check(&[host("unix:///var/run/docker.sock")], "unix:///var/run/docker.sock", None);
    check(&[host("unix:///a/b/")], "unix:///a/b", None);
    check(&[host("tcp://10.0.0.1:2375")], "http://10.0.0.1:2375", None);
    check(&[host("tcp://docker")], "http://docker:2375", None);
    check(&[host("docker:99")], "http://docker:99", None);
    check(&[host("tcp://[::1]:99")], "http://[::1]:99", None);
    check(&[host("tcp://[::1]")], "http://[::1]:2375", None);
    check(&[host("http://h:1/base/")], "http://h:1/base", None);
    let verify = ("DOCKER_TLS_VERIFY", "1");
    check(&[host("tcp://h:2376"), verify, ("DOCKER_CERT_PATH", "/certs")], "https://h:2376", Some(("/certs", true)));
    check(&[host("tcp://h"), verify, ("HOME", "/home/u")], "https://h:2376", Some(("/home/u/.docker", true)));
    check(&[host("tcp://h"), ("DOCKER_CERT_PATH", "certs")], "https://h:2376", Some(("/here/certs", false)));
    check(&[host("tcp://h"), verify, ("DOCKER_CONFIG", "/c")], "https://h:2376", Some(("/c", true)));
    // TLS is for the network.
    check(&[host("unix:///a"), verify, ("DOCKER_CERT_PATH", "/certs")], "unix:///a", None);
}

#[test]
fn what_is_no_address_is_refused_with_advice() {
    let check = |name: &str, value: &str, expected: &str| {
        let said = found(&Wanted::default(), &[(name, value)]).expect_err(value);
        assert!(said.contains(expected) && said.contains(&format!("`{name}`")), "{value}: {said}");
    };
    check("DOCKER_HOST", "ssh://user@host", "does not speak to engines over ssh");
    check("CONTAINER_HOST", "ssh://root@host/run/podman/podman.sock", "does not speak to engines over ssh");
    check("DOCKER_HOST", "unix://docker.sock", "a socket's path is absolute");
    check("DOCKER_HOST", "npipe:////./pipe/docker_engine", "no address that rbuild knows");
    check("DOCKER_HOST", "fd://", "no address that rbuild knows");
    check("DOCKER_HOST", "tcp://", "no address that rbuild knows");
    check("DOCKER_HOST", "tcp://a b", "it is no address");
    check("DOCKER_HOST", "tcp://user:secret@h:1", "it is no address");
    check("DOCKER_CONTEXT", "there", "docker has no context `there`");
    assert_eq!("dokcer".parse::<EngineKind>(), Err("`dokcer` is none of docker, podman, containerd".into()));
}

#[test]
fn contexts_of_docker_are_followed() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let folder = home.path().join(".docker");
    let id = oci::model::Digest::of(b"far").hex();
    let meta = folder.join("contexts/meta").join(&id);
    std::fs::create_dir_all(&meta).expect("the folder is ours");
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("the folder is ours");
    write(&meta.join("meta.json"), r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://far:99"}}}"#);
    let home_text = home.path().to_str().expect("the path is ASCII");
    let at = |wanted: &Wanted, more: &[(&str, &str)]| {
        let variables = [&[("HOME", home_text)], more].concat();
        found(&Wanted { engine: Some(EngineKind::Docker), ..wanted.clone() }, &variables)
    };
    let (none, socket) = (Wanted::default(), "docker unix:///var/run/docker.sock".to_owned());
    let context = |name: &str| Wanted { context: Some(name.into()), ..Wanted::default() };
    assert_eq!(at(&none, &[]), Ok(vec![socket.clone()]));
    let far = Ok(vec!["docker http://far:99".to_owned()]);
    assert_eq!(at(&context("far"), &[]), far);
    assert_eq!(at(&context("far"), &[("DOCKER_HOST", "tcp://near:1")]), far);
    assert_eq!(at(&none, &[("DOCKER_CONTEXT", "far")]), far);
    assert_eq!(
        at(&none, &[("DOCKER_CONTEXT", "far"), ("DOCKER_HOST", "tcp://near:1")]),
        Ok(vec!["docker http://near:1".into()])
    );
    assert!(at(&context("nowhere"), &[]).expect_err("there is none").contains("no context `nowhere`"));
    write(&folder.join("config.json"), r#"{"auths":{},"currentContext":"far"}"#);
    assert_eq!(at(&none, &[]), far);
    assert_eq!(at(&context("default"), &[]), Ok(vec![socket.clone()]));
    assert_eq!(at(&none, &[("DOCKER_CONTEXT", "default")]), Ok(vec![socket.clone()]));
    std::fs::create_dir_all(folder.join("contexts/tls").join(&id).join("docker")).expect("the folder is ours");
    assert_eq!(at(&none, &[]), Ok(vec!["docker https://far:99".to_owned()]));
    write(&meta.join("meta.json"), r#"{"Endpoints":{}}"#);
    assert!(at(&none, &[]).expect_err("it names none").contains("names no docker"));
    write(&meta.join("meta.json"), "{");
    assert!(at(&none, &[]).expect_err("it is no JSON").contains("not what docker writes"));
    write(&folder.join("config.json"), "garbage");
    assert_eq!(at(&none, &[]), Ok(vec![socket]));
}
