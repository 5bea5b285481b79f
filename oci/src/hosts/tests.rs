use super::*;

fn image(text: &str) -> Reference {
    text.parse().expect("the name of an image")
}

fn said(rules: Vec<Rule>) -> Said {
    Said { rules, ..Said::default() }
}

fn rule(prefix: &str, mirrors: &[&str]) -> Rule {
    let mirrors = mirrors.iter().map(|text| Mirror::new(Location::parse(text).expect("an address"))).collect();
    Rule { mirrors, ..Rule::new(Prefix::parse(prefix).expect("a prefix"), format!("of {prefix}").into()) }
}

/// `registry/repository` of each endpoint, with `!` after mirrors and what is not usual behind.
fn shown(hosts: &Hosts, name: &str, act: Act) -> String {
    let endpoints = match hosts.endpoints(&image(name), act) {
        Ok(endpoints) => endpoints,
        Err(blocked) => return blocked.to_string(),
    };
    let shown = endpoints.iter().map(|endpoint| {
        let scheme = endpoint.scheme.map(|scheme| format!("{scheme:?}:")).unwrap_or_default();
        let api = endpoint.api.clone().unwrap_or_default();
        let mark = if endpoint.is_mirror { "!" } else { "" };
        let insecure = if endpoint.trust.insecure == Some(true) { " insecure" } else { "" };
        format!("{scheme}{}{api}/{}{mark}{insecure}", endpoint.registry, endpoint.repository)
    });
    shown.collect::<Vec<_>>().join(" > ")
}

#[test]
fn mirrors_come_first_and_the_longest_prefix_has_the_say() {
    let mut hosts = Hosts::default();
    let mut moved = rule("old.example/team", &[]);
    moved.location = Some(Location::parse("http://new.example:5000/org").expect("an address"));
    let mut blocked = rule("evil.example", &["m.example"]);
    blocked.blocked = Some(true);
    hosts.add(said(vec![
        rule("docker.io", &["a.example", "https://b.example:5000/hub"]),
        rule("docker.io/library", &["c.example/lib"]),
        rule("*.corp.example", &["m.corp.example/cache"]),
        moved,
        blocked,
    ]));
    hosts.add(said(vec![rule("docker.io", &["never.example"]), rule("quay.io", &["q.example"])]));
    let check = |name: &str, act: Act, want: &str| assert_eq!(shown(&hosts, name, act), want, "{name} {act:?}");
    check("me/app", Act::Resolve, "a.example/me/app! > Https:b.example:5000/hub/me/app! > docker.io/me/app");
    check("debian", Act::Pull, "c.example/lib/debian! > docker.io/library/debian");
    check("debian", Act::Push, "docker.io/library/debian");
    check("quay.io/a/b", Act::Resolve, "q.example/a/b! > quay.io/a/b");
    check("r.corp.example/a", Act::Resolve, "m.corp.example/cache/a! > r.corp.example/a");
    check("r.corp.example:5000/a", Act::Resolve, "m.corp.example/cache/a! > r.corp.example:5000/a");
    check("corp.example/a", Act::Resolve, "corp.example/a");
    check("old.example/team/app", Act::Resolve, "Http:new.example:5000/org/app");
    check("old.example/team/app", Act::Push, "Http:new.example:5000/org/app");
    check("old.example/team", Act::Pull, "Http:new.example:5000/org");
    check("old.example/teams/app", Act::Resolve, "old.example/teams/app");
    check("evil.example/a", Act::Pull, "`evil.example/a:latest` is blocked by `of evil.example`");
    check("ghcr.io/a/b", Act::Resolve, "ghcr.io/a/b");
}

#[test]
fn mirrors_are_asked_for_what_they_serve() {
    const PIN: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let mut hosts = Hosts::default();
    let mut all = rule("r.example", &["digests.example", "tags.example", "blobs.example", "names.example"]);
    all.mirrors[0].digests = Digests::Only;
    all.mirrors[1].digests = Digests::Never;
    all.mirrors[2].resolves = false;
    all.mirrors[3].pulls = false;
    hosts.add(said(vec![all]));
    let asked = |name: &str, act: Act| {
        let shown = shown(&hosts, name, act);
        shown.split(" > ").map(|place| place.split('.').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(asked("r.example/a:1", Act::Resolve), ["tags", "names", "r"]);
    assert_eq!(asked(&format!("r.example/a@{PIN}"), Act::Resolve), ["digests", "names", "r"]);
    assert_eq!(asked(&format!("r.example/a@{PIN}"), Act::Pull), ["digests", "blobs", "r"]);
    assert_eq!(asked("r.example/a:1", Act::Pull), ["digests", "tags", "blobs", "r"]);
    assert_eq!(asked("r.example/a:1", Act::Push), ["r"]);
}

#[test]
fn trust_belongs_to_one_host_and_adds_up() {
    let trusting = |prefix: &str, insecure: Option<bool>, authority: &str| {
        let mut rule = rule(prefix, &[]);
        rule.trust.insecure = insecure;
        rule.trust.authorities = vec![authority.into()];
        rule
    };
    let mut hosts = Hosts::default();
    hosts.add(said(vec![
        trusting("r.example:5000", Some(false), "own.pem"),
        trusting("r.example:5000/team", Some(true), "team.pem"),
        rule("docker.io", &["r.example:5000"]),
    ]));
    let network = Prefix::network("10.0.0.0/8").expect("a network");
    let lan = Trust { insecure: Some(true), ..Trust::default() };
    hosts.add(said(vec![trusting("r.example:5000", Some(true), "late.pem")]));
    hosts.add(said(vec![Rule { trust: lan, ..Rule::new(network, "daemon.json".into()) }]));
    let trust = |name: &str| {
        let endpoints = hosts.endpoints(&image(name), Act::Pull).expect("nothing is blocked");
        let trust = &endpoints[0].trust;
        (trust.insecure, trust.authorities.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(trust("r.example:5000/a"), (Some(false), "own.pem late.pem".to_owned()));
    assert_eq!(trust("r.example:5000/team/a"), (Some(true), "team.pem late.pem own.pem".to_owned()));
    assert_eq!(trust("debian"), (Some(false), "own.pem late.pem".to_owned()), "the mirror's host");
    assert_eq!(trust("r.example/a"), (None, String::new()), "another port is another host");
    assert_eq!(trust("10.1.2.3:5000/a"), (Some(true), String::new()));
    assert_eq!(trust("11.1.2.3:5000/a"), (None, String::new()));
    assert_eq!(hosts.trust_of("r.example:5000").insecure, Some(false), "parts of a registry are no host");

    hosts.trust_named(Trust { insecure: Some(true), ..Trust::default() });
    let named = hosts.endpoints(&image("quay.io/a"), Act::Push).expect("nothing is blocked");
    assert_eq!(named[0].trust.insecure, Some(true));
    assert_eq!(hosts.trust_of("auth.quay.io"), Trust::default(), "only what a name says is meant");
}

#[test]
fn networks_are_compared_by_their_bits() {
    for (network, address, want) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "8.8.8.8:443", true),
        ("192.0.2.7/32", "192.0.2.7:5000", true),
        ("192.0.2.7/32", "192.0.2.8", false),
        ("2001:db8::/32", "[2001:db8::1]:5000", true),
        ("2001:db8::/32", "[2001:db9::1]", false),
        ("::/0", "10.0.0.1", false),
        ("10.0.0.0/8", "r.example", false),
    ] {
        let prefix = Prefix::network(network).expect("a network");
        assert_eq!(prefix.is_host(address), want, "{network} {address}");
    }
    for wrong in ["10.0.0.0/33", "10.0.0.0", "r.example/8", "::/129", "10.0.0.0/-1"] {
        assert_eq!(Prefix::network(wrong), None, "{wrong}");
    }
}

#[test]
fn addresses_are_hosts_with_a_path() {
    let check = |text: &str, want: Result<&str, &str>| match (Location::parse(text), want) {
        (Ok(location), Ok(want)) => assert_eq!(location.to_string(), want, "{text}"),
        (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{text}: {error}"),
        (got, want) => panic!("{text}: got {got:?}, wanted {want:?}"),
    };
    check("r.example", Ok("r.example"));
    check("mirror", Ok("mirror"));
    check("mirror:5000/", Ok("mirror:5000"));
    check("https://r.example/v2/", Ok("https://r.example"));
    check("http://r.example:80/a/b/", Ok("http://r.example:80/a/b"));
    check("[::1]:5000/x", Ok("[::1]:5000/x"));
    check("https://r.example/v2/proxy", Ok("https://r.example/proxy"));
    check("ftp://r.example", Err("only http and https"));
    check("https://u:s3cret@r.example", Err("credentials stand in auth files"));
    check("r.example?x=1", Err("a host, perhaps a port and a path"));
    check("", Err("does not begin with the name of a host"));
    check("/path", Err("does not begin with the name of a host"));
    check("r.example:port", Err("does not begin with the name of a host"));
    check("r.example/a/../b", Err("empty parts or dots"));
    let error = Location::parse("https://u:s3cret@r.example").expect_err("it holds credentials");
    assert!(!format!("{error:?}{error}").contains("s3cret"));
}
