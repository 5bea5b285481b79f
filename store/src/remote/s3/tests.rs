//! A real S3 server for what is promised, a toy for what servers do wrong. Nothing here waits for a pause.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci::content::{ContentStore as _, put_bytes};
use oci::model::Digest;

use jiff::Timestamp;

use super::*;
use crate::Store;
use crate::remote::PATIENCE;

#[allow(dead_code, reason = "what only the end-to-end tests look at")]
#[path = "../../../../tests/support/fake.rs"]
mod fake;
#[allow(dead_code, reason = "what only the end-to-end tests look at")]
#[path = "../../../../tests/support/s3.rs"]
mod server;

use fake::{Fake, Reply, Request as Asked};
use server::{BUCKET, KEY, S3Server, SECRET};

/// Remembers how long it should have waited.
#[derive(Default)]
struct Hurry(Mutex<Vec<Duration>>);

impl Pace for Hurry {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn chance(&self) -> f64 {
        0.0
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.lock().unwrap().push(duration);
        Box::pin(std::future::ready(()))
    }
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    pace: Arc<Hurry>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, pace: Arc::default() }
    }

    fn blob(&self, bytes: &[u8]) -> Descriptor {
        let (digest, size) = put_bytes(self.store.blobs(), bytes).unwrap();
        Descriptor::new("application/octet-stream", digest, size)
    }

    fn other_store(&self) -> Store {
        Store::open(&self.dir.path().join("other")).unwrap()
    }

    fn place(&self, settings: &S3Settings) -> S3 {
        self.place_with(PATIENCE, settings)
    }

    /// Whose patience a server that answers may wear out, on a machine that is busy with something else.
    fn place_with(&self, patience: Duration, settings: &S3Settings) -> S3 {
        S3::with(settings, PATIENCE, patience, self.pace.clone()).unwrap()
    }
}

fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        bucket: BUCKET.into(),
        region: "eu-west-9".into(),
        names: Vec::new(),
        prefix: "team/".into(),
        blobs_prefix: None,
        manifests_prefix: None,
        endpoint_url: Some(endpoint.to_owned()),
        keys: Some(keys(SECRET)),
        use_path_style: None,
        upload_parallelism: 2,
        touch_refresh: Duration::from_secs(24 * 3600),
    }
}

fn keys(secret: &str) -> S3Keys {
    S3Keys {
        access_key_id: Secret::new(KEY),
        secret_access_key: Secret::new(secret),
        session_token: Some(Secret::new("canary-token")),
    }
}

/// The error, which shows no secret.
fn error<T: std::fmt::Debug>(result: Result<T, RemoteError>) -> String {
    let error = result.expect_err("it cannot be");
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let all = format!("{said} {error:?}");
    assert!(!all.contains("canary") && !all.contains("X-Amz"), "{all}");
    said
}

const DEAF: &(dyn Fn(u64) + Sync) = &|_| {};

#[tokio::test]
async fn what_is_sent_is_there_and_comes_back() {
    let bench = Bench::new();
    let server = S3Server::start(tempfile::tempdir().unwrap());
    // The server's library has no use for tokens.
    let keys = S3Keys { session_token: None, ..keys(SECRET) };
    let names = vec!["main".to_owned(), "pull/7".to_owned()];
    let place = bench.place(&S3Settings { names, keys: Some(keys), ..settings(&server.endpoint) });
    assert_eq!(place.place(), format!("s3://{BUCKET}/team/manifests/main;team/manifests/pull/7"));
    let small = bench.blob(b"small");
    // Three parts, the last a short one.
    let mut large = vec![7; (2 * upload::part_bytes(0) + 5) as usize];
    large[12_345_678] = 8;
    let large = bench.blob(&large);
    let blobs = [small.clone(), large.clone(), bench.blob(b"other")];
    assert_eq!(place.has(&blobs).await.unwrap(), [false, false, false]);
    assert_eq!(place.manifest(1000).await.unwrap(), None);
    for blob in &blobs[..2] {
        place.send(blob, bench.store.blobs()).await.unwrap();
        place.send(blob, bench.store.blobs()).await.unwrap();
    }
    assert_eq!(place.has(&blobs).await.unwrap(), [true, true, false]);
    place.set_manifest(b"old").await.unwrap();
    place.set_manifest(b"{}").await.unwrap();
    assert_eq!(place.manifest(2).await.unwrap().as_deref(), Some(&b"{}"[..]));
    place.places()[1].set_manifest(b"[]").await.unwrap();
    assert_eq!(place.manifest(2).await.unwrap(), None, "they do not agree");
    place.set_manifest(b"{}").await.unwrap();
    for one in place.places() {
        assert_eq!(one.manifest(2).await.unwrap().as_deref(), Some(&b"{}"[..]), "{}", one.place());
        assert!(matches!(one.manifest(1).await, Err(RemoteError::TooLarge { most: 1, .. })));
    }
    let blob_key = |blob: &Descriptor| format!("team/blobs/{}", blob.digest);
    let mut expected = vec![blob_key(&small), blob_key(&large)];
    expected.sort();
    expected.extend(["team/manifests/main".into(), "team/manifests/pull/7".into()]);
    let keys: Vec<String> = server.keys().into_iter().filter(|key| !key.starts_with('.')).collect();
    assert_eq!(keys, expected);

    let other = bench.other_store();
    for blob in &blobs[..2] {
        place.fetch(blob, other.blobs(), DEAF).await.unwrap();
        assert!(other.blobs().verify(&blob.digest).unwrap());
    }
    assert!(matches!(place.fetch(&blobs[2], other.blobs(), DEAF).await, Err(RemoteError::NoBlob { .. })));
    assert!(bench.pace.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_refuses_says_why_and_no_secret_is_shown() {
    let bench = Bench::new();
    let server = S3Server::start(tempfile::tempdir().unwrap());
    let wrong = S3Keys { session_token: None, ..keys("canary/wrong") };
    let place = bench.place(&S3Settings { keys: Some(wrong), ..settings(&server.endpoint) });
    let said = error(place.manifest(1000).await);
    assert!(said.contains("SignatureDoesNotMatch") && said.contains("s3://cache/team/manifests/rbuild"), "{said}");
    let blob = bench.blob(b"x");
    assert!(error(place.send(&blob, bench.store.blobs()).await).contains("403"));
    let said = error(bench.place(&S3Settings { keys: None, ..settings(&server.endpoint) }).manifest(1000).await);
    assert!(said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert!(bench.pace.0.lock().unwrap().is_empty());
}

/// Answers by what number of request it is, the last answer for all that follow.
fn in_turn(answers: Vec<fn(&Asked) -> Reply>) -> Fake {
    let count = AtomicUsize::new(0);
    Fake::start(move |request| answers[count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)](request))
}

fn endpoint(fake: &Fake) -> String {
    format!("http://{}", fake.address)
}

fn slow_down(_: &Asked) -> Reply {
    Reply::new(503, "<Error><Code>SlowDown</Code><Message>Reduce \u{1b}[31myour rate.</Message></Error>")
}

fn good(_: &Asked) -> Reply {
    Reply::new(200, "bytes")
}

fn stalls(_: &Asked) -> Reply {
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_a_bounded_number_of_times() {
    let bench = Bench::new();
    let fake = in_turn(vec![slow_down, slow_down, good]);
    let place = bench.place(&settings(&endpoint(&fake)));
    assert_eq!(place.manifest(100).await.unwrap().as_deref(), Some(&b"bytes"[..]));
    assert_eq!(fake.requests().len(), 3);
    let pauses = std::mem::take(&mut *bench.pace.0.lock().unwrap());
    assert!(pauses.len() == 2 && pauses[0] < pauses[1], "{pauses:?}");
    let fake = in_turn(vec![slow_down]);
    let said = error(bench.place(&settings(&endpoint(&fake))).set_manifest(b"{}").await);
    assert!(said.contains("503 SlowDown") && !said.contains('\u{1b}'), "{said}");
    assert_eq!(fake.requests().len(), 6);
    // What will not pass is not tried again.
    for (status, code) in
        [(507, "QuotaExceeded"), (403, "AccessDenied"), (400, "EntityTooLarge"), (404, "NoSuchBucket")]
    {
        let fake = Fake::start(move |_| Reply::new(status, format!("<Error><Code>{code}</Code></Error>")));
        let said = error(bench.place(&settings(&endpoint(&fake))).set_manifest(b"{}").await);
        assert!(said.contains(&format!("{status} {code}")), "{said}");
        assert_eq!(fake.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_stands_still_or_is_not_there_takes_bounded_time() {
    let bench = Bench::new();
    let fake = in_turn(vec![stalls]);
    let place = bench.place_with(Duration::from_millis(300), &settings(&endpoint(&fake)));
    let blob = bench.blob(&vec![1; 1 << 20]);
    assert!(matches!(place.manifest(100).await, Err(RemoteError::Slow { .. })));
    assert!(matches!(place.send(&blob, bench.store.blobs()).await, Err(RemoteError::Slow { .. })));
    assert!(matches!(place.has(std::slice::from_ref(&blob)).await, Err(RemoteError::Slow { .. })));
    // The head comes, the body does not.
    let fake = Fake::start(|_| Reply::new(200, "by").says(5).header("Connection", "keep-alive"));
    assert!(bench.place(&settings(&endpoint(&fake))).manifest(100).await.is_err());
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let place = bench.place(&settings(&nobody));
    assert!(matches!(place.manifest(100).await, Err(RemoteError::Unreachable { .. })));
    assert!(error(place.send(&blob, bench.store.blobs()).await).contains("write to"));
}

#[tokio::test]
async fn a_signature_follows_no_redirect() {
    let bench = Bench::new();
    let elsewhere = Fake::start(|_| Reply::new(200, "bytes"));
    let target = endpoint(&elsewhere);
    for status in [301, 302, 307, 308] {
        let target = target.clone();
        let fake = Fake::start(move |_| {
            Reply::new(status, "").header("Location", format!("{target}/x")).header("x-amz-bucket-region", "eu-north-1")
        });
        let place = bench.place(&settings(&endpoint(&fake)));
        let said = error(place.manifest(100).await);
        assert!(said.contains(&status.to_string()), "{said}");
        if matches!(status, 301 | 307) {
            assert!(said.contains("eu-north-1"), "{said}");
        }
        assert!(place.send(&bench.blob(b"x"), bench.store.blobs()).await.is_err());
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn other_bytes_than_promised_are_never_kept() {
    let bench = Bench::new();
    let blob = Descriptor::new("application/octet-stream", Digest::of(b"bytes"), 5);
    let check = async |answers: Vec<fn(&Asked) -> Reply>, expected: Option<&str>| {
        let fake = in_turn(answers);
        let place = bench.place(&settings(&endpoint(&fake)));
        let store = bench.other_store();
        let fetched = place.fetch(&blob, store.blobs(), DEAF).await;
        let kept = store.blobs().open(&blob.digest).unwrap().is_some();
        match expected {
            None => assert!(fetched.is_ok() && kept, "{fetched:?}"),
            Some(expected) => {
                let said = error(fetched);
                assert!(said.contains(expected) && !kept, "{said}");
            }
        }
        assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0, "a draft is left");
        drop(store);
        std::fs::remove_dir_all(bench.dir.path().join("other")).unwrap();
    };
    check(vec![good], None).await;
    check(vec![|_| Reply::new(200, "bytez")], Some("digest")).await;
    check(vec![|_| Reply::new(200, "byte")], Some("4")).await;
    check(vec![|_| Reply::new(200, vec![0; 9 << 20])], Some("bytes")).await;
    check(vec![|_| Reply::new(200, "bytes and more").says(5)], None).await;
    check(vec![|_| Reply::new(404, "")], Some("does not have the blob")).await;
    // What breaks off goes on where it stopped, or from the start with a server that cannot.
    let cut = |_: &Asked| Reply::new(200, "by").says(5);
    check(vec![cut, |_| Reply::new(206, "tes").header("Content-Range", "bytes 2-4/5")], None).await;
    check(vec![cut, good], None).await;
    check(vec![cut, |_| Reply::new(206, "xes").header("Content-Range", "bytes 2-4/5")], Some("digest")).await;
    check(vec![cut, |_| Reply::new(206, "bytes").header("Content-Range", "bytes 0-4/5")], Some("another part")).await;
    check(vec![cut], Some("cannot read the cache")).await;
}

#[tokio::test]
async fn a_blob_that_is_damaged_here_is_not_sent() {
    let bench = Bench::new();
    let server = S3Server::start(tempfile::tempdir().unwrap());
    let keys = S3Keys { session_token: None, ..keys(SECRET) };
    let place = bench.place(&S3Settings { keys: Some(keys), ..settings(&server.endpoint) });
    for size in [10, (upload::part_bytes(0) + 10) as usize] {
        let blob = bench.blob(&vec![1; size]);
        let path = bench.store.blobs().path(&blob.digest);
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(b"damage").unwrap();
        assert!(error(place.send(&blob, bench.store.blobs()).await).contains("digest"));
    }
    let keys: Vec<String> = server.keys().into_iter().filter(|key| key.contains("sha256")).collect();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn an_old_blob_is_touched_and_sent_again_where_that_cannot_be() {
    let bench = Bench::new();
    let blob = bench.blob(b"bytes");
    let head = |_: &Asked| Reply::new(200, "bytes").header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    let check = async |answers: Vec<fn(&Asked) -> Reply>, there: bool, requests: usize| {
        let fake = in_turn(answers);
        let place = bench.place(&settings(&endpoint(&fake)));
        assert_eq!(place.has(std::slice::from_ref(&blob)).await.unwrap(), [there]);
        let asked = fake.requests();
        assert_eq!(asked.len(), requests, "{asked:?}");
        if let Some(copy) = asked.get(1) {
            let source = format!("/{BUCKET}/team/blobs/{}", blob.digest);
            assert_eq!((copy.method.as_str(), copy.header("x-amz-copy-source")), ("PUT", Some(source.as_str())));
        }
    };
    check(vec![head, |_| Reply::new(200, "<CopyObjectResult/>")], true, 2).await;
    check(vec![head, |_| Reply::new(200, "<Error><Code>InternalError</Code></Error>")], false, 2).await;
    check(vec![head, |_| Reply::new(403, "")], false, 2).await;
    check(vec![good], true, 1).await;
    check(vec![|_| Reply::new(200, "byte")], false, 1).await;
    check(vec![|_| Reply::new(403, "")], false, 1).await;
    check(vec![|_| Reply::new(404, "")], false, 1).await;
}

#[test]
fn addresses_are_those_of_the_bucket() {
    let key = |settings: &S3Settings| {
        let place = S3::new(settings, PATIENCE, Arc::new(Hurry::default())).map_err(|error| error.to_string())?;
        Ok::<_, String>(place.shared.bucket.object_url(&place.manifests[0]).to_string())
    };
    let aws = S3Settings { endpoint_url: None, prefix: String::new(), ..settings("") };
    let named = |bucket: &str| S3Settings { bucket: bucket.into(), ..aws.clone() };
    assert_eq!(key(&aws).unwrap(), "https://cache.s3.eu-west-9.amazonaws.com/manifests/rbuild");
    assert_eq!(key(&named("a.b")).unwrap(), "https://s3.eu-west-9.amazonaws.com/a.b/manifests/rbuild");
    let china = S3Settings { region: "cn-north-1".into(), ..aws.clone() };
    assert_eq!(key(&china).unwrap(), "https://cache.s3.cn-north-1.amazonaws.com.cn/manifests/rbuild");
    let own = S3Settings { endpoint_url: Some("https://minio:9000".into()), ..aws.clone() };
    assert_eq!(key(&own).unwrap(), "https://minio:9000/cache/manifests/rbuild");
    let hosted = S3Settings { use_path_style: Some(false), ..own };
    assert_eq!(key(&hosted).unwrap(), "https://cache.minio:9000/manifests/rbuild");
    let prefixed = S3Settings { prefix: "/a b/".into(), manifests_prefix: Some("m-".into()), ..aws.clone() };
    assert_eq!(key(&prefixed).unwrap(), "https://cache.s3.eu-west-9.amazonaws.com//a%20b/m-rbuild");
    for wrong in [
        S3Settings { prefix: "../other/".into(), ..aws.clone() },
        S3Settings { names: vec!["a".into(), "../../b".into()], ..aws.clone() },
        S3Settings { blobs_prefix: Some("./".into()), ..aws.clone() },
        S3Settings { endpoint_url: Some("ftp://host".into()), ..aws.clone() },
        S3Settings { endpoint_url: Some("host".into()), ..aws.clone() },
        named("a/b"),
    ] {
        assert!(key(&wrong).is_err(), "{wrong:?}");
    }
}
