//! Registries that answer, refuse, stall and are not there. Loopback only, one image.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use oci::content::put_bytes;
use serde_json::json;
use solver::seam::Event;

use super::*;

#[allow(dead_code, reason = "what only the end-to-end tests look at")]
#[path = "../../../tests/support/fake.rs"]
mod fake;

use fake::{Fake, Reply};

/// Keeps what was said.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Progress for Said {
    fn event(&self, event: Event) {
        if let Event::Notice { text, .. } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// No answer at all, for as long as the test lasts.
const STALLS: u16 = 0;

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    said: Arc<Said>,
    fake: Fake,
    /// What is answered; 200 is the image.
    status: Arc<AtomicU16>,
    manifest: Digest,
}

fn config() -> Vec<u8> {
    let native = Platform::native();
    json!({ "os": native.os, "architecture": native.architecture, "variant": native.variant, "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] } })
    .to_string()
    .into_bytes()
}

fn manifest() -> Vec<u8> {
    let (config, kind) = (config(), "application/vnd.oci.image.config.v1+json");
    json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
            "config": { "mediaType": kind, "digest": Digest::of(&config).to_string(), "size": config.len() } })
    .to_string()
    .into_bytes()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let status = Arc::new(AtomicU16::new(200));
        let answered = status.clone();
        let fake = Fake::start(move |request| match answered.load(Ordering::SeqCst) {
            200 if request.path.contains("/manifests/") => Reply::new(200, manifest())
                .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                .header("Docker-Content-Digest", Digest::of(&manifest()).to_string()),
            200 if request.path.contains("/blobs/") => Reply::new(200, config()),
            200 => Reply::new(200, "{}"),
            STALLS => loop {
                std::thread::park();
            },
            status => Reply::new(status, "{}").header("WWW-Authenticate", "Basic realm=\"x\""),
        });
        Self { _dir: dir, store, said: Arc::default(), fake, status, manifest: Digest::of(&manifest()) }
    }

    async fn ask(&self, name: &str, ask: Ask) -> Result<ImageAnswer, Failure> {
        let settings = oci::registry::Settings { offline: ask == Ask::Nobody, ..Default::default() };
        let registry = Client::new(settings).unwrap();
        let patience = Duration::from_millis(300);
        let resolver = Resolver { patience, ..Resolver::new(self.store.clone(), registry, ask, self.said.clone()) };
        let reference = name.parse().unwrap();
        resolver.answer_one(&ImageQuestion { reference, platform: Platform::native(), layout: None }).await
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.0.lock().unwrap())
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_tag_that_cannot_be_asked_about_is_what_it_was_last_and_that_is_said() {
    let bench = Bench::new();
    let name = format!("{}/app:1", bench.fake.address);
    assert_eq!(bench.ask(&name, Ask::Usual).await.unwrap().digest, bench.manifest);
    assert_eq!(bench.ask(&name, Ask::Usual).await.unwrap().digest, bench.manifest);
    assert_eq!(bench.said(), Vec::<String>::new());
    for (status, word) in [(STALLS, "did not answer"), (429, ""), (500, ""), (502, ""), (503, ""), (504, "")] {
        bench.answers(status);
        assert_eq!(bench.ask(&name, Ask::Usual).await.unwrap().digest, bench.manifest, "{status}");
        let said = bench.said();
        let warns = said.len() == 1 && said[0].contains(&name) && said[0].contains(&bench.manifest.to_string());
        assert!(warns && said[0].contains(word), "{status}: {said:?}");
        assert_eq!(bench.ask(&name, Ask::Nobody).await.unwrap().digest, bench.manifest);
        assert_eq!(bench.said(), Vec::<String>::new());
    }
    // An answer is an answer.
    for status in [400, 401, 403, 404] {
        bench.answers(status);
        let failure = bench.ask(&name, Ask::Usual).await.unwrap_err();
        let problem = &failure.problems[0];
        assert!(problem.message.contains(&name), "{status}: {problem:?}");
        assert!(problem.help.as_deref().is_some_and(|help| help.contains("with `--offline`")), "{status}: {problem:?}");
        assert_eq!(bench.said(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_host_without_an_address_is_out_of_reach() {
    let bench = Bench::new();
    // RFC 6761, section 6.4: nobody has such a name.
    let name = "nobody.invalid/app:1";
    let (config, manifest) = (config(), manifest());
    for bytes in [&config, &manifest] {
        put_bytes(bench.store.blobs(), bytes).unwrap();
    }
    let record = ImageRecord {
        manifest: oci::model::Descriptor::new(
            "application/vnd.oci.image.manifest.v1+json",
            bench.manifest,
            manifest.len() as u64,
        ),
        config: Digest::of(&config),
        top: None,
        platform: Platform::native(),
        created: Timestamp::UNIX_EPOCH,
        size_bytes: 0,
    };
    let reference: Reference = name.parse().unwrap();
    bench.store.tag(&reference, &record).unwrap();
    // Made here, it is nobody else's business.
    assert_eq!(bench.ask(name, Ask::Usual).await.unwrap().digest, bench.manifest);
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.store.set_note(NOTES, &reference.to_string(), &bench.manifest.to_string()).unwrap();
    assert_eq!(bench.ask(name, Ask::Usual).await.unwrap().digest, bench.manifest);
    assert_eq!(bench.said().len(), 1);
    let failure = bench.ask(name, Ask::Registry).await.unwrap_err();
    let help = failure.problems[0].help.as_deref().unwrap_or_default();
    assert!(help.contains("without `--pull`"), "{failure:?}");
}

#[tokio::test]
async fn what_is_pinned_or_made_here_or_asked_of_nobody_costs_no_request() {
    let bench = Bench::new();
    let name = format!("{}/app", bench.fake.address);
    let failure = bench.ask(&name, Ask::Nobody).await.unwrap_err();
    assert!(failure.problems[0].message.contains("no connection may be made"), "{failure:?}");
    let pinned = format!("{name}@{}", bench.manifest);
    let failure = bench.ask(&pinned, Ask::Nobody).await.unwrap_err();
    assert!(failure.problems[0].message.contains("no connection may be made"), "{failure:?}");
    assert_eq!(bench.fake.requests().len(), 0);

    bench.ask(&name, Ask::Usual).await.unwrap();
    let asked = bench.fake.requests().len();
    for ask in [Ask::Usual, Ask::Registry, Ask::Nobody] {
        assert_eq!(bench.ask(&pinned, ask).await.unwrap().digest, bench.manifest);
    }
    // Another name for what is here, as `rbuild load` gives it.
    let record = bench.store.image(&name.parse().unwrap()).unwrap().expect("it was asked for");
    let own = format!("{name}:own");
    bench.store.tag(&own.parse().unwrap(), &record).unwrap();
    bench.ask(&own, Ask::Usual).await.unwrap();
    assert_eq!(bench.fake.requests().len(), asked);
    // Nothing has changed: one request.
    bench.ask(&name, Ask::Usual).await.unwrap();
    let requests = bench.fake.requests();
    assert_eq!(requests[asked..].iter().map(|request| request.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
    bench.ask(&own, Ask::Registry).await.unwrap();
    assert!(bench.fake.requests().len() > asked + 1);
}
