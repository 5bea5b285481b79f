//! Mirrors: asked first, passed over when they do not help, never pushed to, believed as little as everybody else.

use rbuild_oci::hosts::{Hosts, Location, Mirror, Prefix, Rule, Said, Trust};
use rbuild_oci::registry::{Credential, Credentials, Login, Secret};

use super::server::{Auth, Request, Response};
use super::*;

/// Settings in which mirrors stand in for `origin`.
fn mirrored(origin: &Registry, mirrors: &[String]) -> Hosts {
    let mut rule = Rule::new(Prefix::of_host(&origin.host()), "test.toml:1".into());
    rule.mirrors = mirrors.iter().map(|text| Mirror::new(Location::parse(text).unwrap())).collect();
    let mut hosts = Hosts::default();
    hosts.add(Said { rules: vec![rule], ..Said::default() });
    hosts
}

/// A client with these settings, and what it told.
fn with_hosts(hosts: Hosts, change: impl FnOnce(&mut Settings)) -> (Client, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let (client, _) = client(|settings| {
        settings.hosts = Some(Arc::new(move || hosts.clone()));
        settings.tell = Arc::new(move |text| kept.lock().unwrap().push(text.to_owned()));
        change(settings);
    });
    (client, told)
}

#[tokio::test]
async fn a_mirror_serves_names_and_blobs_and_the_registry_is_not_asked() {
    let (origin, mirror) = (start(), start());
    let image = Image::new("a");
    image.serve(&mirror, "hub/app", "1");
    let (client, told) = with_hosts(mirrored(&origin, &[format!("{}/hub", mirror.host())]), |_| {});
    let reference = name(&origin, "app:1");
    let (resolved, _) = resolve(&client, &reference).await.unwrap();
    assert_eq!(resolved.manifest_bytes, image.manifest);
    fetch(&client, &reference, &image).await.unwrap();
    assert_eq!(origin.log(), [""; 0]);
    let said = format!("images of `{}` come from the mirror `{}` (test.toml:1)", origin.host(), mirror.host());
    assert_eq!(*told.lock().unwrap(), [said]);
    // Pushes go to the registry itself.
    mirror.forget();
    push(&client, &name(&origin, "app:2"), &Image::new("b")).await.unwrap();
    assert_eq!(mirror.log(), [""; 0]);
    assert!(origin.manifest("app", "2").is_some());
}

#[tokio::test]
async fn a_mirror_that_does_not_help_is_passed_over() {
    let cases: &[(&str, fn(&Registry), Option<&str>)] = &[
        ("404", |_| {}, None),
        (
            "500",
            |m| m.fault("", "/v2/", 99, |_, a| *a = Response::error(500, "X", "broken")),
            Some("was answered with 500"),
        ),
        (
            "429",
            |m| m.fault("", "/v2/", 99, |_, a| *a = Response::new(429).with("Retry-After", "9")),
            Some("was answered with 429"),
        ),
        ("401", |m| m.require(Auth::Basic("a".into(), "b".into())), Some("wants credentials")),
        ("403", |m| m.fault("", "/v2/", 99, |_, a| *a = Response::new(403)), Some("is denied")),
        (
            "wrong bytes",
            |m| {
                Image::new("a").serve(m, "app", "1");
                m.fault("GET", "/v2/", 99, |_, a| {
                    if let Some(last) = a.body.last_mut() {
                        *last ^= 1;
                    }
                });
            },
            Some("gave other bytes"),
        ),
        (
            "redirect to plain HTTP",
            |m| m.fault("", "/v2/", 99, |_, a| *a = Response::new(302).with("Location", "http://192.0.2.1/")),
            Some("plain HTTP is only"),
        ),
    ];
    for (case, ail, want) in cases {
        let (origin, mirror) = (start(), start());
        let image = Image::new("a");
        image.serve(&origin, "app", "1");
        ail(&mirror);
        let (client, told) = with_hosts(mirrored(&origin, &[mirror.host()]), |_| {});
        let reference = name(&origin, "app:1");
        resolve(&client, &reference).await.unwrap_or_else(|error| panic!("{case}: {}", words(&error)));
        fetch(&client, &reference, &image).await.unwrap_or_else(|error| panic!("{case}: {}", words(&error)));
        assert!(!mirror.log().is_empty(), "{case}");
        let told = told.lock().unwrap().join("\n");
        match want {
            Some(want) => assert!(told.contains("no mirror of") && told.contains(want), "{case}: {told}"),
            // Not to have an image is a mirror's right.
            None => assert_eq!(told, "", "{case}"),
        }
    }
}

#[tokio::test]
async fn a_mirror_that_is_gone_is_not_asked_again_and_the_next_one_is() {
    let (origin, second) = (start(), start());
    let image = Image::new("a");
    image.serve(&second, "app", "1");
    let gone = start();
    let address = gone.host();
    drop(gone);
    let (client, told) = with_hosts(mirrored(&origin, &[address.clone(), second.host()]), |_| {});
    let reference = name(&origin, "app:1");
    resolve(&client, &reference).await.unwrap();
    fetch(&client, &reference, &image).await.unwrap();
    assert_eq!(origin.log(), [""; 0]);
    assert_eq!(told.lock().unwrap().len(), 1, "{told:?}");
}

#[tokio::test]
async fn what_no_place_has_is_the_registrys_answer() {
    let (origin, mirror) = (start(), start());
    let (client, _) = with_hosts(mirrored(&origin, &[mirror.host()]), |_| {});
    let result = resolve(&client, &name(&origin, "app:1")).await;
    check("404", result, Err(&["app:1` is not found", "MANIFEST_UNKNOWN"]));
    assert_eq!((mirror.log().len(), origin.log().len()), (2, 2), "HEAD and GET at each");
}

#[tokio::test]
async fn credentials_belong_to_the_host_that_is_asked() {
    let (origin, mirror) = (start(), start());
    let image = Image::new("a");
    for registry in [&origin, &mirror] {
        image.serve(registry, "app", "1");
    }
    origin.require(Auth::Basic("bob".into(), "pa:ss".into()));
    mirror.require(Auth::Basic("eve".into(), "x".into()));
    let password = |username: &str, password: &str| Credential::Password {
        username: username.into(),
        password: Secret::new(password),
    };
    let only_bob = Credentials::none().with(&origin.host(), password("bob", "pa:ss"));
    let both = only_bob.clone().with(&mirror.host(), password("eve", "x"));
    for (case, credentials, at_origin) in [("bob", only_bob, true), ("both", both, false)] {
        origin.forget();
        mirror.forget();
        let hosts = mirrored(&origin, &[mirror.host()]);
        let (client, _) = with_hosts(hosts, |settings| settings.credentials = credentials);
        resolve(&client, &name(&origin, "app:1")).await.unwrap();
        assert_eq!(!origin.log().is_empty(), at_origin, "{case}");
        let shown = |registry: &Registry| {
            registry.seen().iter().filter_map(Request::basic).map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert!(shown(&mirror).iter().all(|name| name == "eve"), "{case}: {:?}", shown(&mirror));
        assert!(shown(&origin).iter().all(|name| name == "bob"), "{case}: {:?}", shown(&origin));
    }
}

#[tokio::test]
async fn mirrors_of_containerd_are_told_whom_they_stand_in_for() {
    let (origin, mirror) = (start(), start());
    let mut hosts = mirrored(&origin, &[]);
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.host());
    hosts.add(rbuild_oci::hosts::hosts_toml::parse(std::path::Path::new("hosts.toml"), &origin.host(), &text));
    Image::new("a").serve(&mirror, "app", "1");
    let (client, _) = with_hosts(hosts, |_| {});
    resolve(&client, &name(&origin, "app:1")).await.unwrap();
    assert!(mirror.seen().iter().all(|request| request.param("ns") == Some(origin.host())), "{:?}", mirror.seen());
}

#[tokio::test]
async fn a_registry_may_be_somewhere_else_or_blocked() {
    let (named, real) = (start(), start());
    let image = Image::new("a");
    image.serve(&real, "org/app", "1");
    let mut rule = Rule::new(Prefix::parse(&format!("{}/team", named.host())).unwrap(), "test.toml:1".into());
    rule.location = Some(Location::parse(&format!("{}/org", real.host())).unwrap());
    let mut blocked = Rule::new(Prefix::parse(&format!("{}/bad", named.host())).unwrap(), "test.toml:9".into());
    blocked.blocked = Some(true);
    let mut hosts = Hosts::default();
    hosts.add(Said { rules: vec![rule, blocked], ..Said::default() });
    let (client, _) = with_hosts(hosts, |_| {});
    resolve(&client, &name(&named, "team/app:1")).await.unwrap();
    fetch(&client, &name(&named, "team/app:1"), &image).await.unwrap();
    push(&client, &name(&named, "team/new:1"), &Image::new("b")).await.unwrap();
    assert!(real.manifest("org/new", "1").is_some());
    let result = resolve(&client, &name(&named, "bad/app:1")).await;
    check("blocked", result, Err(&["is blocked by `test.toml:9`", "help: name the image at another registry"]));
    assert_eq!(named.log(), [""; 0]);
}

/// Settings that trust one registry.
fn trusting(registry: &Registry, trust: Trust) -> Hosts {
    let rule = Rule { trust, ..Rule::new(Prefix::of_host(&registry.host()), "test.toml:1".into()) };
    let mut hosts = Hosts::default();
    hosts.add(Said { rules: vec![rule], ..Said::default() });
    hosts
}

#[tokio::test]
async fn trust_in_one_host_is_no_trust_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("ca.crt");
    std::fs::write(&authority, tls::AUTHORITY).unwrap();
    let secure = || Registry::start_with(digest_of, tls::wrap());
    let insecure = Trust { insecure: Some(true), ..Trust::default() };
    let with_authority = Trust { authorities: vec![authority], ..Trust::default() };
    for (case, trust) in [("insecure", insecure), ("authority", with_authority)] {
        let (registry, other) = (secure(), secure());
        let image = Image::new("a");
        image.serve(&registry, "app", "1");
        let (client, _) = with_hosts(trusting(&registry, trust), |_| {});
        let reference = name(&registry, "app:1");
        resolve(&client, &reference).await.unwrap_or_else(|error| panic!("{case}: {}", words(&error)));
        fetch(&client, &reference, &image).await.unwrap_or_else(|error| panic!("{case}: {}", words(&error)));
        // Neither where it redirects to …
        let target = format!("https://{}/v2/app/blobs/x", other.host());
        registry.fault("GET", "/blobs/", 1, move |_, a| *a = Response::new(307).with("Location", target.clone()));
        let result = fetch(&client, &reference, &image).await;
        check(case, result, Err(&["shows a certificate that is not trusted"]));
        // … nor a registry that is named …
        check(case, resolve(&client, &name(&other, "app:1")).await, Err(&["shows a certificate that is not trusted"]));
        // … nor its token server, but for an authority that vouches for both.
        let realms = [
            (format!("https://localhost:{}/token", other.port()), false),
            (format!("https://127.0.0.1:{}/token", other.port()), case == "authority"),
        ];
        for (realm, works) in realms {
            registry.require(Auth::Bearer { realm, service: "s".into() });
            let want: Result<(), &[&str]> = if works { Ok(()) } else { Err(&["certificate that is not trusted"]) };
            check(case, fetch(&client, &reference, &image).await, want);
        }
        assert_eq!(other.log().len(), usize::from(case == "authority"), "{case}: {:?}", other.log());
    }
    let registry = secure();
    let missing = Trust { authorities: vec![dir.path().join("none.crt")], ..Trust::default() };
    let (client, _) = with_hosts(trusting(&registry, missing), |_| {});
    let result = resolve(&client, &name(&registry, "app:1")).await;
    check("missing", result, Err(&["the certificate of an authority `", "none.crt` for `", "cannot be used"]));
}

#[tokio::test]
async fn a_login_is_good_only_if_the_registry_says_so() {
    let bob = |password: &str| Credential::Password { username: "bob".into(), password: Secret::new(password) };
    let elsewhere = start();
    elsewhere.know_user("bob", "pa:ss");
    let cases: &[(&str, &dyn Fn(&Registry) -> Auth, &str, Result<Login, &[&str]>)] = &[
        ("open", &|_| Auth::Open, "pa:ss", Ok(Login::NotAsked)),
        ("basic", &|_| Auth::Basic("bob".into(), "pa:ss".into()), "pa:ss", Ok(Login::Accepted)),
        ("wrong", &|_| Auth::Basic("bob".into(), "pa:ss".into()), "no", Err(&["wants credentials for `GET", "`bob`"])),
        (
            "token",
            &|r| Auth::Bearer { realm: format!("http://{}/token", r.host()), service: "s".into() },
            "pa:ss",
            Ok(Login::Accepted),
        ),
        (
            "wrong for a token",
            &|r| Auth::Bearer { realm: format!("http://{}/token", r.host()), service: "s".into() },
            "no",
            Err(&["incorrect username or password"]),
        ),
        // Anybody gets a token there, which proves nothing.
        (
            "a token server of somebody else",
            &|_| Auth::Bearer { realm: format!("http://localhost:{}/token", elsewhere.port()), service: "s".into() },
            "pa:ss",
            Err(&["were not sent: the registry names a token server of another domain"]),
        ),
    ];
    for (case, auth, password, want) in cases {
        let registry = start();
        registry.know_user("bob", "pa:ss");
        registry.require(auth(&registry));
        let (client, _) =
            client(|settings| settings.credentials = Credentials::none().with(&registry.host(), bob(password)));
        match (client.check_login(&registry.host()).await, want) {
            (Ok(login), Ok(want)) => assert_eq!(login, *want, "{case}"),
            (result, want) => check(case, result, want.map(|_| ())),
        }
    }
    let gone = start();
    let host = gone.host();
    drop(gone);
    let (client, _) = client(|settings| settings.credentials = Credentials::none().with(&host, bob("x")));
    check("gone", client.check_login(&host).await, Err(&["got no complete answer"]));
}
