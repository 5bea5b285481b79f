//! Servers of the web that answer as each test wants. Nothing here waits: the pace is a toy.

mod bodies;
mod offline;
mod redirects;
mod validators;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::source::test_server::{AUTHORITY, Reply, Request, Server};
use crate::testing::Log;

/// Remembers how long it should have waited.
#[derive(Default)]
struct Hurry(Mutex<Vec<Duration>>);

impl Pace for Hurry {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn chance(&self) -> f64 {
        0.0
    }

    fn sleep(&self, duration: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.lock().unwrap().push(duration);
        Box::pin(std::future::ready(()))
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    clients: Clients,
    pace: Arc<Hurry>,
    idle_timeout: Duration,
}

const LIMIT: u64 = 1 << 20;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let clients = Clients::new(USER_AGENT, &[AUTHORITY.to_vec()]).unwrap();
        Self { _dir: dir, store, clients, pace: Arc::default(), idle_timeout: Duration::from_secs(30) }
    }

    async fn get(&self, url: &str) -> Result<HttpFile, HttpError> {
        self.get_as(url, None).await
    }

    async fn get_as(&self, url: &str, checksum: Option<&str>) -> Result<HttpFile, HttpError> {
        let source = HttpSource {
            url: url.to_owned(),
            checksum: checksum.map(|text| text.parse().unwrap()),
            authorization: None,
        };
        let web = Web {
            clients: &self.clients,
            pace: self.pace.clone(),
            idle_timeout: self.idle_timeout,
            file_max_bytes: LIMIT,
        };
        let result = web.fetch(&self.store, &source, &Log::default(), &CancellationToken::new()).await;
        if let Err(error) = &result {
            let all = format!("{error:?} {error} {:?}", error.help());
            assert!(!all.contains("secret"), "{all}");
        }
        result
    }

    fn text(&self, file: &HttpFile) -> String {
        let path = self.store.blobs().path(&file.digest);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file.size_bytes);
        std::fs::read_to_string(path).unwrap()
    }

    fn blobs(&self) -> usize {
        std::fs::read_dir(self.store.root().join("blobs/sha256")).unwrap().count()
    }
}

type Handler = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Answers by what number of request it is, the last answer for all that follow.
fn in_turn(answers: Vec<Handler>) -> Server {
    let count = AtomicUsize::new(0);
    Server::new(move |request| {
        let turn = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        answers[turn](request)
    })
}

/// A closure as a handler.
fn answer(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Handler {
    Box::new(handler)
}

/// A body that says to have `says` bytes, and ends after what it has.
fn cut(headers: &str, says: usize, body: &'static str) -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {says}\r\n{headers}\r\n");
    Reply::raw(move |out| out.write_all(format!("{head}{body}").as_bytes()))
}
