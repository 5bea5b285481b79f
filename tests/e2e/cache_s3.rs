//! A cache in a bucket: a real S3 server (`s3s-fs`; in the soak run garage as well), then servers that are hostile,
//! slow, full or gone.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::bucket::Bucket;
use crate::support::fake::{Fake, Reply};
use crate::support::s3::{BUCKET, KEY, S3Server, SECRET};
use crate::support::{Context, Outcome, Store, bases, temp_dir};

const STEPS: usize = 20;
/// A cache that does not answer costs at most so much: its patience, and the rest of a build beside others.
const BOUND: Duration = Duration::from_secs(60);

/// So many steps, each of which says that it runs.
fn steps(count: usize) -> Context {
    let steps: String = (0..count).map(|i| format!("RUN echo ran && echo {i} > /file-{i}\n")).collect();
    on_base(&steps)
}

/// Steps on a base that is the same image in every store: its archive is part of the context.
fn on_base(steps: &str) -> Context {
    let base = std::fs::read(bases::busybox()).expect("the base is there");
    Context::new(&format!("FROM scratch\nADD base.tar /\nENV PATH=/bin\n{steps}")).file("base.tar", base)
}

fn place(endpoint: &str, more: &str) -> String {
    format!("type=s3,bucket={BUCKET},region=eu-west-9,endpoint_url={endpoint}{more}")
}

/// Builds with keys in the environment.
fn build<A: AsRef<OsStr>>(store: &Store, context: &Context, args: impl IntoIterator<Item = A>) -> Outcome {
    Outcome::of(with_keys(&mut store.build_command(context, args)))
}

fn with_keys(command: &mut Command) -> &mut Command {
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET)
}

fn iid(store: &Store) -> String {
    std::fs::read_to_string(store.path("iid")).expect("`--iidfile` was asked for")
}

#[test]
fn bucket_gives_a_build_of_twenty_steps_without_running_any() {
    let bucket = Bucket::open();
    let Bucket { key, secret, server, .. } = &bucket;
    let context = steps(STEPS);
    let first = Store::new();
    let iidfile = |store: &Store| format!("--iidfile={}", store.path("iid").display());
    // Beside what an earlier run may have left there.
    let prefix = format!("team-{}/", std::process::id());
    let to = bucket.place(&format!(",prefix={prefix},name=main;pull-7,access_key_id={key},mode=max"));
    // Half of the credentials are none.
    first.build(&context, ["--cache-to", &to]).fails_saying(&["credentials"]).never_says(&[secret]);
    let to = format!("{to},secret_access_key={secret}");
    let built = first.build(&context, ["--cache-to", &to, &iidfile(&first)]).ok().never_says(&[secret, "WARN: the"]);
    assert_eq!(built.lines_of_steps("ran"), STEPS, "{built}");
    // What is there is not sent again.
    let written = || {
        let server = server.as_ref()?;
        let at = |key: &String| std::fs::metadata(server.object(key)).unwrap().modified().unwrap();
        let keys = server.keys();
        Some(keys.iter().map(|key| (key.clone(), at(key))).collect::<Vec<_>>())
    };
    let before = written();
    for name in ["main", "pull-7"].map(|name| format!("{prefix}manifests/{name}")) {
        let is_there = before.as_ref().is_none_or(|keys| keys.iter().any(|(key, _)| *key == name));
        assert!(is_there, "{name}: {before:?}");
    }
    first.build(&context, ["--cache-to", &to]).ok().says(&["nothing was sent"]);
    assert_eq!(before, written());

    for name in ["main", "other;pull-7"] {
        let second = Store::new();
        let from = bucket.place(&format!(",prefix={prefix},name={name}"));
        let build = |args: &[&str]| {
            let mut command = second.build_command(&context, args);
            Outcome::of(command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret)).ok()
        };
        let built = build(&["--cache-from", &from, &iidfile(&second)]);
        assert_eq!(built.lines_of_steps("ran"), 0, "{name}: {built}");
        assert_eq!(iid(&second), iid(&first), "{name}");
        // What an output needed is here, and then nobody needs the bucket.
        let tar = format!("--output=type=tar,dest={}", second.path("out.tar").display());
        assert_eq!(build(&["--cache-from", &from, &tar]).lines_of_steps("ran"), 0);
        let again = second.build(&context, ["--offline"]).ok();
        assert_eq!(again.lines_of_steps("ran"), 0, "{again}");
    }
}

#[test]
fn bucket_opens_to_the_keys_of_a_profile_too() {
    let bucket = Bucket::open();
    let Bucket { key, secret, server, .. } = &bucket;
    let (context, store) = (on_base("RUN echo ran > /ran\n"), Store::new());
    let aws = store.home().join(".aws");
    std::fs::create_dir(&aws).expect("the home is ours");
    let text = format!(
        "[default]\naws_access_key_id=x\naws_secret_access_key=y\n\
        [ci]\naws_access_key_id={key}\naws_secret_access_key={secret}\n"
    );
    std::fs::write(aws.join("credentials"), text).expect("the home is ours");
    let to = bucket.place("");
    let refused = store.build(&context, ["--cache-to", &to]).ok();
    refused.says(&["s3://", "403"]).never_says(&[secret]);
    let mut command = store.build_command(&context, ["--cache-to", &to]);
    Outcome::of(command.env("AWS_PROFILE", "ci")).ok().never_says(&["WARN: the"]);
    for keys in server.iter().map(S3Server::keys) {
        assert!(keys.iter().any(|key| key == "manifests/rbuild"), "{keys:?}");
    }
}

/// How often a build warned of its cache.
fn warnings(outcome: &Outcome) -> usize {
    outcome.stderr.lines().filter(|line| line.contains("WARN") && line.contains("s3://")).count()
}

#[test]
fn hostile_bucket_costs_a_warning_and_never_a_wrong_layer() {
    let context = steps(5);
    let (honest, sender) = (Store::new(), Store::new());
    let expected = honest.image_id(&context, ["--source-date-epoch=1"]);
    let check = |spoil: &dyn Fn(&S3Server)| {
        let server = S3Server::start(temp_dir());
        let to = place(&server.endpoint, ",mode=max");
        build(&sender, &context, ["--source-date-epoch=1", "--cache-to", &to]).ok();
        spoil(&server);
        let store = Store::new();
        let began = Instant::now();
        let args = [
            "--source-date-epoch=1".into(),
            format!("--cache-from={}", place(&server.endpoint, "")),
            // So that every layer is wanted.
            format!("--output=type=tar,dest={}", store.path("out.tar").display()),
            format!("--iidfile={}", store.path("iid").display()),
        ];
        build(&store, &context, args).ok().never_says(&["panicked", SECRET]);
        assert_eq!(iid(&store), expected);
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    };
    let each_blob = |server: &S3Server, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        for key in server.keys().iter().filter(|key| key.starts_with("blobs/")) {
            let path = server.object(key);
            let bytes = std::fs::read(&path).expect("it is there");
            std::fs::write(&path, change(bytes)).expect("the folder is ours");
        }
    };
    check(&|_| {});
    check(&|server| each_blob(server, &|bytes| bytes.iter().map(|byte| byte ^ 1).collect()));
    check(&|server| each_blob(server, &|bytes| bytes[..bytes.len() / 2].to_vec()));
    check(&|server| each_blob(server, &|bytes| [bytes, vec![0; 1 << 20]].concat()));
    check(&|server| each_blob(server, &|_| Vec::new()));
    check(&|server| {
        server.keys().iter().filter(|key| key.starts_with("blobs/")).for_each(|key| {
            std::fs::remove_file(server.object(key)).expect("it is there");
        })
    });
    let manifest = |text: &'static [u8]| {
        move |server: &S3Server| std::fs::write(server.object("manifests/rbuild"), text).expect("the folder is ours")
    };
    check(&manifest(b""));
    check(&manifest(b"{\"schemaVersion\":2,\"config\":{}}"));
    check(&manifest(&[b'['; 100_000]));
    check(&|server| {
        std::fs::write(server.object("manifests/rbuild"), vec![b' '; 64 << 20]).expect("the folder is ours")
    });
}

#[test]
fn bucket_that_is_down_slow_or_full_costs_one_warning_and_bounded_time() {
    let context = on_base("RUN echo ran > /ran\n");
    let check = |endpoint: &str, unread: usize, words: &str| {
        let store = Store::new();
        // Nothing here answers more slowly than that, but what never does.
        let place = place(endpoint, ",timeout=2s");
        let began = Instant::now();
        let from = build(&store, &context, ["--cache-from", &place]).ok().never_says(&[SECRET, "X-Amz"]);
        assert_eq!(warnings(&from), unread, "{from}");
        let to = build(&store, &context, ["--cache-to", &place]).ok().says(&[words]).never_says(&[SECRET, "X-Amz"]);
        assert_eq!(warnings(&to), 1, "{to}");
        assert!(began.elapsed() < 2 * BOUND, "{:?}", began.elapsed());
        build(&store, &context, ["--cache-to", &format!("{place},ignore-error=false")]).exits(1);
    };
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        format!("http://{}", listener.local_addr().expect("it listens"))
    };
    let full = |status: u16, code: &'static str| {
        Fake::start(move |request| match request.method.as_str() {
            "PUT" | "POST" => Reply::new(status, format!("<Error><Code>{code}</Code></Error>")),
            _ => Reply::new(404, ""),
        })
    };
    let (no_room, no_quota) = (full(507, "InsufficientStorage"), full(403, "QuotaExceeded"));
    let cuts = Fake::start(|request| match request.method.as_str() {
        "GET" => Reply::new(200, "{").says(100),
        _ => Reply::new(200, "").says(100),
    });
    let stalls = Fake::start(|_| {
        loop {
            std::thread::park();
        }
    });
    let at = |fake: &Fake| format!("http://{}", fake.address);
    // All at the same time: they wait for somebody's patience.
    std::thread::scope(|scope| {
        scope.spawn(|| check(&nobody, 1, "cannot"));
        scope.spawn(|| check(&at(&no_room), 0, "507"));
        scope.spawn(|| check(&at(&no_quota), 0, "403"));
        scope.spawn(|| check(&at(&cuts), 1, "s3://"));
        scope.spawn(|| check(&at(&stalls), 1, "took longer"));
    });
}

#[test]
fn cache_of_buildkit_is_recognised_and_told_in_one_line() {
    let server = S3Server::start(temp_dir());
    let config = r#"{"layers":[{"blob":"sha256:aa","parent":-1,"annotations":{"mediaType":"m","diffID":"sha256:bb"}}],
        "records":[{"digest":"sha256:cc","layers":[{"layer":0}]}]}"#;
    std::fs::create_dir_all(server.object("manifests")).expect("the folder is ours");
    std::fs::write(server.object("manifests/buildkit"), config).expect("the folder is ours");
    let (store, context) = (Store::new(), on_base("RUN echo ran\n"));
    let from = place(&server.endpoint, ",name=buildkit");
    let built = build(&store, &context, ["--cache-from", &from]).ok().says(&["a cache of BuildKit"]);
    assert_eq!((built.lines_of_steps("ran"), warnings(&built)), (1, 1), "{built}");
}
