//! Where requests go, and who sees credentials.

use super::*;

/// `user:secret` as a header.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn with_user(url: &str) -> String {
    url.replacen("://", "://user:secret@", 1)
}

fn to(location: impl Into<String>) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let location = location.into();
    move |_| Reply::new(302, &[("Location", &location)], "elsewhere")
}

#[tokio::test]
async fn credentials_of_an_address_are_for_its_own_host() {
    let bench = Bench::new();
    let own = Server::new(|request| match request.target.as_str() {
        "/a" => Reply::new(301, &[("Location", "b")], ""),
        "/back" => Reply::new(200, &[], "back"),
        _ => Reply::new(200, &[], "own"),
    });
    let file = bench.get(&with_user(&own.url("/a"))).await.unwrap();
    assert_eq!((bench.text(&file).as_str(), file.file_name.as_str()), ("own", "a"));
    assert!(own.asked().iter().all(|request| request.header("authorization") == Some(BASIC)));
    // To another origin: the port decides too. And back again.
    let (elsewhere, back) = (own.url("/x"), own.url("/back"));
    let other = Server::new(move |request| to(if request.target == "/b" { &back } else { &elsewhere })(request));
    let target = other.url("/b");
    let first = Server::new(to(target));
    let file = bench.get(&with_user(&first.url("/a"))).await.unwrap();
    assert_eq!(bench.text(&file), "back");
    assert_eq!(first.asked()[0].header("authorization"), Some(BASIC));
    assert_eq!(other.asked()[0].header("authorization"), None);
    assert_eq!(own.asked()[0].header("authorization"), None);
    // Nobody gets any who was given none.
    bench.get(&own.url("/b")).await.unwrap();
    assert_eq!(own.asked()[0].header("authorization"), None);
    // Nothing in the store holds them.
    let found = std::process::Command::new("grep").args(["-r", "secret"]).arg(bench.store.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test]
async fn redirects_lead_nowhere_worse() {
    let bench = Bench::new();
    let plain = Server::new(|_| Reply::new(200, &[], "plain"));
    let cases = [
        (plain.url("/a?token=secret"), "from HTTPS to plain HTTP"),
        ("ftp://127.0.0.1/a".to_owned(), "only https and http"),
        ("file:///etc/passwd".to_owned(), "only https and http"),
        ("https://u:secret@127.0.0.1/a".to_owned(), "user name or password"),
        ("http://".to_owned(), "no address"),
    ];
    for (location, reason) in cases {
        let server = Server::tls(to(location.clone()));
        let error = bench.get(&server.url("/a")).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{location}: {error}");
        assert_eq!(server.asked().len(), 1, "{location}");
    }
    assert_eq!(plain.asked().len(), 0);
    // From HTTP to HTTPS is fine.
    let secure = Server::tls(|_| Reply::new(200, &[], "secure"));
    let server = Server::new(to(secure.url("/a")));
    assert_eq!(bench.text(&bench.get(&server.url("/a")).await.unwrap()), "secure");
    let server = Server::new(|_| Reply::new(302, &[], ""));
    assert!(bench.get(&server.url("/a")).await.unwrap_err().to_string().contains("without `Location`"));
    let round = Server::new(|_| Reply::new(307, &[("Location", "/a")], ""));
    let error = bench.get(&round.url("/a")).await.unwrap_err();
    assert!(error.to_string().contains("redirect number 11"), "{error}");
    assert_eq!(round.asked().len(), 11);
}

#[tokio::test]
async fn a_stranger_with_a_certificate_of_his_own_is_not_asked_twice() {
    let mut bench = Bench::new();
    bench.clients = Clients::new(USER_AGENT, &[]).unwrap();
    let server = Server::tls(|_| Reply::new(200, &[], "x"));
    let error = bench.get(&with_user(&server.url("/a"))).await.unwrap_err();
    assert!(matches!(error, HttpError::Certificate { .. }), "{error}");
    assert_eq!(server.asked().len(), 0);
}
