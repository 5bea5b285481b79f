//! Proof of identity: who is asked for it, who gets it, and above all who does not.

use rbuild_oci::registry::{Credential, Credentials, Secret};

use super::server::{Auth, Request, Response};
use super::*;

fn bob() -> Credential {
    Credential::Password { username: "bob".into(), password: Secret::new("pa:ss") }
}

/// A registry with an image `app:1` that wants tokens of `token_server`, which knows bob.
fn bearer(registry: &Registry, token_server: &Registry, scheme: &str) {
    Image::new("a").serve(registry, "app", "1");
    token_server.know_user("bob", "pa:ss");
    token_server.know_identity("id-token");
    let realm = format!("{scheme}://{}/token", token_server.host());
    registry.require(Auth::Bearer { realm, service: "test service".into() });
}

fn with(registry: &Registry, credential: Credential) -> Client {
    client(|settings| settings.credentials = Credentials::none().with(&registry.host(), credential)).0
}

fn anybody() -> Client {
    client(|_| {}).0
}

/// Everything that a server was shown in an `Authorization` header.
fn shown(registry: &Registry) -> Vec<String> {
    registry.seen().iter().filter_map(|request| request.header("authorization").map(str::to_owned)).collect()
}

#[tokio::test]
async fn tokens_are_fetched_once_and_shared() {
    let registry = start();
    bearer(&registry, &registry, "http");
    let client = with(&registry, bob());
    resolve(&client, &name(&registry, "app:1")).await.unwrap();
    let log = registry.log();
    let want = ["HEAD /v2/app/manifests/1", "GET /token", "HEAD /v2/app/manifests/1", "GET /v2/app/manifests/sha256:"];
    for (line, want) in log.iter().zip(want) {
        assert!(line.starts_with(want), "{log:#?}");
    }
    let token = registry.seen().into_iter().find(|request| request.path == "/token").unwrap();
    assert_eq!(token.basic(), Some(("bob".into(), "pa:ss".into())));
    assert_eq!(token.param("service").as_deref(), Some("test service"));
    assert_eq!(token.params("scope"), ["repository:app:pull"]);
    // Many at once, of another repository: no 401 is needed any more, and one token serves all.
    let image = Image::new("b");
    image.serve(&registry, "other", "1");
    registry.forget();
    let reference = name(&registry, "other:1");
    futures_util::future::join_all((0..8).map(|_| fetch(&client, &reference, &image))).await;
    assert_eq!((registry.count("GET", "/token"), registry.count("GET", "/blobs/")), (1, 8));
}

#[tokio::test]
async fn proof_is_given_as_it_is_asked_for() {
    let registry_token = Credential::RegistryToken(Secret::new("77.repository:app:pull+push"));
    let cases: &[(&str, Auth, Option<Credential>, Result<(), &[&str]>)] = &[
        ("open", Auth::Open, None, Ok(())),
        ("basic", Auth::Basic("bob".into(), "pa:ss".into()), Some(bob()), Ok(())),
        (
            "basic without",
            Auth::Basic("bob".into(), "pa:ss".into()),
            None,
            Err(&[
                "wants credentials for `GET",
                "UNAUTHORIZED: authentication required",
                "help: rbuild found no credentials for `127.0.0.1:",
                "rbuild login",
            ]),
        ),
        (
            "basic with others",
            Auth::Basic("eve".into(), "x".into()),
            Some(bob()),
            Err(&["the credentials of `bob` from the command line were not accepted"]),
        ),
        (
            "basic with a token",
            Auth::Basic("bob".into(), "x".into()),
            Some(Credential::IdentityToken(Secret::new("id-token"))),
            Err(&["not an identity token"]),
        ),
        ("bearer without", Auth::default(), None, Ok(())),
        ("bearer", Auth::default(), Some(bob()), Ok(())),
        (
            "bearer with an identity token",
            Auth::default(),
            Some(Credential::IdentityToken(Secret::new("id-token"))),
            Ok(()),
        ),
        ("bearer with a registry token", Auth::default(), Some(registry_token), Ok(())),
        (
            "bearer with a wrong password",
            Auth::default(),
            Some(Credential::Password { username: "bob".into(), password: Secret::new("s3cret") }),
            Err(&["wants credentials for `GET", "/token`: incorrect username or password", "of `bob`"]),
        ),
        (
            "bearer with a wrong identity token",
            Auth::default(),
            Some(Credential::IdentityToken(Secret::new("s3cret"))),
            Err(&["wants credentials for `POST", "/token`: invalid_grant", "the identity token from the command line"]),
        ),
    ];
    for (case, auth, credential, want) in cases {
        let registry = start();
        bearer(&registry, &registry, "http");
        if !case.starts_with("bearer") {
            registry.require(auth.clone());
        }
        let client = credential.clone().map_or_else(anybody, |credential| with(&registry, credential));
        let result = resolve(&client, &name(&registry, "app:1")).await;
        if let Err(error) = &result {
            assert!(!format!("{error:?}{}", words(error)).contains("s3cret"), "{case}: a secret is shown");
        }
        check(case, result, *want);
    }
}

#[tokio::test]
async fn tokens_that_ended_are_renewed_once() {
    let registry = start();
    bearer(&registry, &registry, "http");
    let (client, pace) = client(|settings| settings.credentials = Credentials::none().with(&registry.host(), bob()));
    let reference = name(&registry, "app:1");
    let image = Image::new("a");
    fetch(&client, &reference, &image).await.unwrap();
    // Renewed before its end (300 s less a margin).
    pace.pass(295);
    registry.forget();
    fetch(&client, &reference, &image).await.unwrap();
    assert_eq!((registry.count("GET", "/token"), registry.count("GET", "/blobs/")), (1, 1));
    // A clock that jumps back does no harm.
    pace.pass(-3600);
    fetch(&client, &reference, &image).await.unwrap();
    // Revoked: one 401, one new token.
    registry.revoke_tokens();
    registry.forget();
    fetch(&client, &reference, &image).await.unwrap();
    assert_eq!((registry.count("GET", "/token"), registry.count("GET", "/blobs/")), (1, 2));
    // Refused for ever: no loop.
    registry.forget();
    let challenge = format!("Bearer realm=\"http://{}/token\"", registry.host());
    registry.fault("GET", "/blobs/", 99, move |_, answer| {
        *answer = Response::error(401, "UNAUTHORIZED", "never").with("WWW-Authenticate", challenge.clone());
    });
    check("never", fetch(&client, &reference, &image).await, Err(&["UNAUTHORIZED: never", "`bob`"]));
    assert_eq!((registry.count("GET", "/token"), registry.count("GET", "/blobs/")), (1, 2));
}

#[tokio::test]
async fn a_token_that_ends_during_a_push_is_renewed_and_the_upload_sent_again() {
    let registry = start();
    bearer(&registry, &registry, "http");
    let client = with(&registry, bob());
    let image = Image::new("b");
    registry.refuse("PUT", "/blobs/uploads/", 1, {
        let realm = format!("http://{}/token", registry.host());
        move |_, answer| *answer = Response::new(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    });
    let tokens = || registry.count("GET", "/token");
    push(&client, &name(&registry, "app:2"), &image).await.unwrap();
    assert_eq!(registry.manifest("app", "2"), Some(image.manifest.clone()));
    assert_eq!(registry.count("PUT", "/blobs/uploads/"), 3, "two blobs, one of them twice");
    assert!(tokens() >= 2, "{}", tokens());
    let scopes: Vec<_> = registry.seen().iter().flat_map(|request| request.params("scope")).collect();
    assert!(scopes.iter().all(|scope| scope == "repository:app:pull,push"), "{scopes:?}");
}

#[tokio::test]
async fn a_mount_asks_for_the_neighbour_too() {
    let registry = start();
    bearer(&registry, &registry, "http");
    let image = Image::new("b");
    registry.put_blob("base", &image.layer);
    let client = with(&registry, bob());
    let what = image.to_push(&[name(&registry, "base:1")]);
    push_image(&client, &name(&registry, "app:2"), &what, &image.store(), &|_, _| {}).await.unwrap();
    let mount = registry.seen().into_iter().find(|request| request.param("mount").is_some()).unwrap();
    let scopes = mount.header("authorization").unwrap();
    assert!(scopes.contains("repository:app:pull+push") && scopes.contains("repository:base:pull"), "{scopes}");
}

#[tokio::test]
async fn denied_is_told_with_what_was_tried() {
    let registry = start();
    bearer(&registry, &registry, "http");
    registry.fault("", "/manifests/", 99, |_, answer| {
        if answer.status == 200 {
            *answer = Response::new(403);
        }
    });
    let result = resolve(&with(&registry, bob()), &name(&registry, "app:1")).await;
    check(
        "403",
        result,
        Err(&["`GET 127.0.0.1:", "is denied", "the credentials of `bob` from the command line do not allow it"]),
    );
    // Who has no account may pull, but not push.
    let result = push(&anybody(), &name(&registry, "app:2"), &Image::new("b")).await;
    check("push", result, Err(&["wants credentials for `", "rbuild found no credentials"]));
}

#[tokio::test]
async fn token_servers_in_bad_weather() {
    let check_token = async |case: &str, times, change: fn(&Request, &mut Response), want: Result<(), &[&str]>| {
        let registry = start();
        bearer(&registry, &registry, "http");
        registry.fault("GET", "/token", times, change);
        check(case, resolve(&with(&registry, bob()), &name(&registry, "app:1")).await, want);
    };
    check_token("500 twice", 2, |_, a| *a = Response::new(500), Ok(())).await;
    check_token("429", 1, |_, a| *a = Response::new(429).with("Retry-After", "1"), Ok(())).await;
    check_token("500", 99, |_, a| *a = Response::new(500), Err(&["/token` was answered with 500 in 6 attempts"])).await;
    check_token("no json", 9, |_, a| a.body = b"s3cret".to_vec(), Err(&["the token server's answer is not a token"]))
        .await;
    check_token("no token", 9, |_, a| a.body = b"{}".to_vec(), Err(&["holds no token"])).await;
    let newline = |_: &Request, a: &mut Response| a.body = br#"{"token":"a\r\nX-Evil: 1"}"#.to_vec();
    check_token("header in a token", 9, newline, Err(&["cannot stand in a header"])).await;
    check_token("large", 9, |_, a| a.body = vec![b' '; 2 << 20], Err(&["larger than 1048576 bytes"])).await;
    let old = |_: &Request, a: &mut Response| {
        a.body = String::from_utf8_lossy(&a.body).replace("token", "access_token").into_bytes()
    };
    check_token("access_token", 9, old, Ok(())).await;
    let short =
        |_: &Request, a: &mut Response| a.body = String::from_utf8_lossy(&a.body).replace("300", "0").into_bytes();
    check_token("ends at once", 9, short, Ok(())).await;
}

#[tokio::test]
async fn a_realm_elsewhere_gets_no_credentials_unless_listed() {
    // Another address is another host, even if both are loopback.
    let elsewhere = |registry: &Registry| format!("http://localhost:{}/token", registry.port());
    for (case, listed) in [("not listed", false), ("listed", true)] {
        let (registry, token_server) = (start(), start());
        bearer(&registry, &token_server, "http");
        registry.require(Auth::Bearer { realm: elsewhere(&token_server), service: "s".into() });
        let (client, _) = client(|settings| {
            settings.credentials = Credentials::none().with(&registry.host(), bob());
            if listed {
                settings.token_servers = vec![(registry.host(), format!("localhost:{}", token_server.port()))];
            }
        });
        resolve(&client, &name(&registry, "app:1")).await.expect("anybody may pull");
        assert_eq!(shown(&token_server).len(), usize::from(listed), "{case}");
        let result = push(&client, &name(&registry, "app:2"), &Image::new("b")).await;
        let want = ["the credentials of `bob`", "were not sent: the registry names a token server of another domain"];
        check(case, result, if listed { Ok(()) } else { Err(&want) });
    }
    // The identity token is as precious.
    let (registry, token_server) = (start(), start());
    bearer(&registry, &token_server, "http");
    registry.require(Auth::Bearer { realm: elsewhere(&token_server), service: "s".into() });
    let client = with(&registry, Credential::IdentityToken(Secret::new("id-token")));
    resolve(&client, &name(&registry, "app:1")).await.unwrap();
    assert_eq!(token_server.count("POST", ""), 0);
}

#[tokio::test]
async fn hostile_realms_are_not_asked() {
    let cases: &[(&str, &str)] = &[
        ("http://192.0.2.1/token", "plain HTTP is only spoken to loopback"),
        ("http://eve@HOST/token", "carries a user name"),
        ("https://:pw@HOST/token", "carries a user name"),
        ("file:///etc/passwd", "only HTTPS and HTTP"),
        ("/token", "is no URL"),
    ];
    for (realm, want) in cases {
        let registry = start();
        bearer(&registry, &registry, "http");
        let realm = realm.replace("HOST", &registry.host());
        registry.require(Auth::Bearer { realm, service: "s".into() });
        let result = resolve(&with(&registry, bob()), &name(&registry, "app:1")).await;
        check(want, result, Err(&[want]));
        assert_eq!((registry.count("", "/token"), shown(&registry)), (0, vec![]));
    }
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_beyond_the_origin() {
    for code in [301, 302, 303, 307, 308] {
        let (registry, storage) = (start(), start());
        let image = Image::new("a");
        bearer(&registry, &registry, "http");
        // Another port is another origin.
        let target = format!("http://{}/v2/app/blobs/{}?sig=s3cret", storage.host(), digest_of(&image.layer));
        storage.put_blob("app", &image.layer);
        registry.fault("GET", "/blobs/", 99, move |_, answer| {
            if answer.status == 200 {
                *answer = Response::new(code).with("Location", target.clone());
            }
        });
        fetch(&with(&registry, bob()), &name(&registry, "app:1"), &image).await.unwrap();
        assert_eq!((shown(&storage), storage.seen().len()), (vec![], 1), "{code}");
        // A storage that asks for proof gets none, and its query is not shown.
        storage.require(Auth::Basic("bob".into(), "pa:ss".into()));
        let error = fetch(&with(&registry, bob()), &name(&registry, "app:1"), &image).await.unwrap_err();
        assert!(!format!("{error:?}{}", words(&error)).contains("s3cret"), "{error:?}");
        assert_eq!(shown(&storage), [""; 0], "{code}");
        // It may send back; the credentials stay away.
        storage.require(Auth::Open);
        let back = format!("http://{}/v2/open/blobs/x", registry.host());
        storage.fault("GET", "", 1, move |_, answer| *answer = Response::new(302).with("Location", back.clone()));
        registry.forget();
        fetch(&with(&registry, bob()), &name(&registry, "app:1"), &image).await.unwrap_err();
        let returned = registry.seen().into_iter().find(|request| request.path.contains("/open/")).unwrap();
        assert_eq!(returned.header("authorization"), None);
    }
}

#[tokio::test]
async fn redirects_end() {
    let registry = start();
    let image = Image::new("a");
    image.serve(&registry, "app", "1");
    let client = anybody();
    let reference = name(&registry, "app:1");
    let hop = |_: &Request, answer: &mut Response| {
        let location = format!("/v2/app/blobs/{}", digest_of(&Image::new("a").layer));
        *answer = Response::new(307).with("Location", location);
    };
    registry.fault("GET", "/blobs/", 10, hop);
    fetch(&client, &reference, &image).await.expect("ten redirects are followed");
    registry.fault("GET", "/blobs/", 11, hop);
    registry.forget();
    check("11", fetch(&client, &reference, &image).await, Err(&["redirect number 11"]));
    assert_eq!(registry.seen().len(), 11);
    registry.fault("GET", "/blobs/", 1, |_, a| *a = Response::new(302));
    check("none", fetch(&client, &reference, &image).await, Err(&["has no `Location`"]));
    registry.fault("GET", "/blobs/", 1, |_, a| *a = Response::new(302).with("Location", "http://192.0.2.1/"));
    check("plain", fetch(&client, &reference, &image).await, Err(&["`http://192.0.2.1/`", "plain HTTP is only"]));
    registry.fault("GET", "/blobs/", 1, |_, a| *a = Response::new(302).with("Location", "http://u:p@127.0.0.1/"));
    check("userinfo", fetch(&client, &reference, &image).await, Err(&["carries a user name"]));
}

#[tokio::test]
async fn https_is_spoken_verified_and_never_left() {
    let secure = Registry::start_with(digest_of, tls::wrap());
    let plain = start();
    let image = Image::new("a");
    bearer(&secure, &secure, "https");
    let trusting = |credential: bool| {
        client(|settings| {
            settings.ca_certificates = vec![tls::AUTHORITY.to_vec()];
            settings.idle_timeout = Duration::from_secs(30);
            if credential {
                settings.credentials = Credentials::none().with(&secure.host(), bob());
            }
        })
        .0
    };
    let reference = name(&secure, "app:1");
    fetch(&trusting(true), &reference, &image).await.unwrap();
    // Who does not know the authority goes no further, and does not fall back to plain HTTP.
    let result = fetch(&anybody(), &reference, &image).await;
    check("unknown authority", result, Err(&["shows a certificate that is not trusted", "SSL_CERT_FILE"]));
    // From HTTPS to plain HTTP: neither for blobs nor for tokens nor for uploads.
    let target = format!("http://{}/v2/app/blobs/x", plain.host());
    secure.fault("GET", "/blobs/", 1, move |_, a| *a = Response::new(302).with("Location", target.clone()));
    let client = trusting(true);
    check("blob", fetch(&client, &reference, &image).await, Err(&["from HTTPS to plain HTTP"]));
    let realm = format!("http://{}/token", plain.host());
    secure.require(Auth::Bearer { realm, service: "s".into() });
    check(
        "token",
        fetch(&trusting(true), &reference, &image).await,
        Err(&["as its token server: that leads from HTTPS"]),
    );
    secure.require(Auth::Open);
    let target = format!("http://{}/upload", plain.host());
    secure.fault("POST", "/uploads/", 99, move |_, answer| answer.set("Location", target.clone()));
    let result = push(&trusting(true), &name(&secure, "app:2"), &Image::new("b")).await;
    check("upload", result, Err(&["from HTTPS to plain HTTP"]));
    assert_eq!(plain.log(), [""; 0]);
}

#[tokio::test]
async fn a_bad_certificate_of_the_token_server_is_not_excused_by_insecure() {
    let (registry, token_server) = (start(), Registry::start_with(digest_of, tls::wrap()));
    bearer(&registry, &token_server, "https");
    let (client, _) = client(|settings| {
        settings.insecure = vec![registry.host(), "127.0.0.1".into()];
        settings.credentials = Credentials::none().with(&registry.host(), bob());
    });
    let result = resolve(&client, &name(&registry, "app:1")).await;
    check("certificate", result, Err(&["shows a certificate that is not trusted"]));
    assert_eq!(token_server.seen().len(), 0);
}

#[tokio::test]
async fn a_token_server_that_redirects_elsewhere_takes_no_credentials_along() {
    for code in [301, 302, 303, 307, 308] {
        let (registry, elsewhere) = (start(), start());
        bearer(&registry, &registry, "http");
        // An address of its own, and another port: neither is the realm's origin.
        for target in
            [format!("http://localhost:{}/token", elsewhere.port()), format!("http://{}/token", elsewhere.host())]
        {
            elsewhere.forget();
            registry.fault("GET", "/token", 1, move |_, a| *a = Response::new(code).with("Location", target.clone()));
            resolve(&with(&registry, bob()), &name(&registry, "app:1")).await.expect("anybody may pull");
            assert_eq!((shown(&elsewhere), elsewhere.count("GET", "/token")), (vec![], 1), "{code}");
        }
        // What is exchanged stands in a form: it goes nowhere else at all.
        let target = format!("http://{}/token", elsewhere.host());
        registry.fault("POST", "/token", 99, move |_, a| *a = Response::new(code).with("Location", target.clone()));
        elsewhere.forget();
        let identity = Credential::IdentityToken(Secret::new("id-token"));
        let result = resolve(&with(&registry, identity), &name(&registry, "app:1")).await;
        check("form", result, Err(&["is not followed for this request"]));
        assert_eq!(elsewhere.log(), [""; 0], "{code}");
    }
}

#[tokio::test]
async fn uploads_that_are_sent_elsewhere_take_no_credentials_along() {
    for (method, code, works) in [
        ("POST", 301, false),
        ("POST", 302, false),
        ("POST", 303, false),
        ("POST", 307, true),
        ("POST", 308, true),
        ("PUT", 301, false),
        ("PUT", 302, false),
        ("PUT", 303, false),
        ("PUT", 307, true),
        ("PUT", 308, true),
    ] {
        let (registry, elsewhere) = (start(), start());
        bearer(&registry, &registry, "http");
        let host = elsewhere.host();
        registry.refuse(method, "/blobs/uploads/", 99, move |request, a| {
            let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
            *a = Response::new(code).with("Location", format!("http://{host}{}{query}", request.path));
        });
        let result = push(&with(&registry, bob()), &name(&registry, "app:2"), &Image::new("b")).await;
        assert_eq!(shown(&elsewhere), [""; 0], "{method} {code}");
        assert_eq!(elsewhere.log().is_empty(), !works, "{method} {code}: {result:?}");
        if !works {
            check(method, result, Err(&["is not followed for this request"]));
        }
    }
}

#[tokio::test]
async fn an_identity_token_serves_token_servers_from_before_oauth_too() {
    for code in [404, 405] {
        let registry = start();
        bearer(&registry, &registry, "http");
        registry.know_user("", "id-token");
        registry.refuse("POST", "/token", 99, move |_, a| *a = Response::new(code));
        let client = with(&registry, Credential::IdentityToken(Secret::new("id-token")));
        push(&client, &name(&registry, "app:2"), &Image::new("b")).await.unwrap();
        assert!(registry.manifest("app", "2").is_some());
    }
}

#[tokio::test]
async fn what_a_ci_system_gives_is_no_obstacle_to_what_is_open() {
    let registry = start();
    bearer(&registry, &registry, "http");
    let (host, variables) = (registry.host(), [("CI_REGISTRY_USER", "bob"), ("CI_REGISTRY_PASSWORD", "s3cret")]);
    let credentials = Credentials::from_variables(|name| {
        let found = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        found.or_else(|| (name == "CI_REGISTRY").then(|| host.clone())).map(Into::into)
    });
    let (client, _) = client(|settings| settings.credentials = credentials);
    resolve(&client, &name(&registry, "app:1")).await.expect("anybody may pull");
    let error = push(&client, &name(&registry, "app:2"), &Image::new("b")).await.unwrap_err();
    check(
        "push",
        Err::<(), _>(error),
        Err(&[
            "/token`: incorrect username or password",
            "the credentials of `bob` from the variable `CI_REGISTRY_PASSWORD`",
        ]),
    );
    // Credentials that somebody chose are not silently left out.
    let wrong = Credential::Password { username: "bob".into(), password: Secret::new("s3cret") };
    assert!(resolve(&with(&registry, wrong), &name(&registry, "app:1")).await.is_err());
}

#[tokio::test]
async fn clocks_that_disagree_cost_nothing() {
    // The test's own clock says 08:49:37.
    for issued in ["1994-11-06T07:49:37Z", "1994-11-06T09:49:37Z", "1994-11-06T08:49:37Z", "nonsense"] {
        let registry = start();
        bearer(&registry, &registry, "http");
        let issued_at = format!("\"issued_at\":\"{issued}\",\"expires_in\"");
        registry.fault("GET", "/token", 99, move |_, a| {
            a.body = String::from_utf8_lossy(&a.body).replace("\"expires_in\"", &issued_at).into_bytes();
        });
        let client = with(&registry, bob());
        let reference = name(&registry, "app:1");
        for _ in 0..3 {
            fetch(&client, &reference, &Image::new("a")).await.unwrap();
        }
        assert_eq!(registry.count("GET", "/token"), 1, "{issued}");
    }
    // A token that its registry holds for older than we do: one more is fetched, and no loop.
    let registry = start();
    bearer(&registry, &registry, "http");
    let client = with(&registry, bob());
    let reference = name(&registry, "app:1");
    fetch(&client, &reference, &Image::new("a")).await.unwrap();
    registry.revoke_tokens();
    fetch(&client, &reference, &Image::new("a")).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[tokio::test]
async fn a_token_for_less_than_asked_is_told_and_asked_for_once() {
    let registry = start();
    bearer(&registry, &registry, "http");
    // The token server thinks that bob may only pull.
    registry.fault("GET", "/token", 99, |_, a| {
        a.body = String::from_utf8_lossy(&a.body).replace("+push", "").into_bytes();
    });
    let result = push(&with(&registry, bob()), &name(&registry, "app:2"), &Image::new("b")).await;
    check(
        "narrowed",
        result,
        Err(&["wants credentials", "the credentials of `bob` from the command line were not accepted"]),
    );
    assert!(registry.count("GET", "/token") <= 4, "{:#?}", registry.log());
}
