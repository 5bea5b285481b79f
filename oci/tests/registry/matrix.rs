//! Every kind of trouble at every kind of request: a proxy makes it, in front of the registry.
//!
//! A row is a trouble, a column a request of a push or a pull; a cell says what must come of it. Whatever that is, a
//! push leaves no tag at something incomplete and a pull nothing that is not whole; once the trouble is over the same
//! thing goes well, and what is there already is not sent again. Waiting is virtual ([`TestPace`]), stillness real.

use super::server::proxy::{Proxy, Trouble};
use super::server::{Auth, Request, Response};
use super::*;
use rbuild_oci::registry::{Credential, Credentials, Secret};

const CHUNK: usize = 16 << 10;
/// How long nothing may move.
const IDLE: Duration = Duration::from_millis(300);

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Token,
    HeadManifest,
    GetManifest,
    GetBlob,
    HeadBlob,
    Open,
    Chunk,
    Finish,
    PutManifest,
}

use Ask::*;

const ALL: [Ask; 9] = [Token, HeadManifest, GetManifest, GetBlob, HeadBlob, Open, Chunk, Finish, PutManifest];

impl Ask {
    /// Its method, and what stands in its path and that of no other with this method.
    fn request(self) -> (&'static str, &'static str) {
        match self {
            Token => ("GET", "/token"),
            HeadManifest => ("HEAD", "/manifests/"),
            GetManifest => ("GET", "/manifests/"),
            GetBlob => ("GET", "/blobs/sha256:"),
            HeadBlob => ("HEAD", "/blobs/"),
            Open => ("POST", "/blobs/uploads/"),
            Chunk => ("PATCH", "/blobs/uploads/"),
            Finish => ("PUT", "/blobs/uploads/"),
            PutManifest => ("PUT", "/manifests/"),
        }
    }

    fn is_pull(self) -> bool {
        matches!(self, Token | HeadManifest | GetManifest | GetBlob)
    }

    /// Whether the body of its answer is read.
    fn has_answer(self) -> bool {
        matches!(self, Token | GetManifest | GetBlob)
    }
}

/// A registry behind a proxy, that wants tokens, and who asks them.
struct World {
    registry: Arc<Registry>,
    proxy: Proxy,
    image: Image,
    client: Client,
    pace: Arc<TestPace>,
}

impl World {
    fn new() -> Self {
        let registry = Arc::new(start());
        let proxy = Proxy::start(&registry.host());
        registry.require(Auth::Bearer { realm: format!("http://{}/token", proxy.host()), service: "test".into() });
        registry.know_user("bob", "pw");
        // Three chunks and a bit.
        let layer = (0..3 * CHUNK + 100).map(|n| ((n * n) >> 7) as u8).collect();
        let (client, pace) = client_of(&proxy);
        Self { registry, image: Image::with_layer(layer, "amd64", ""), client, pace, proxy }
    }

    fn name(&self) -> Reference {
        format!("{}/app:1", self.proxy.host()).parse().unwrap()
    }

    async fn push(&self, client: &Client) -> Result<(), RegistryError> {
        push(client, &self.name(), &self.image).await.map(drop)
    }

    async fn pull(&self, client: &Client) -> Result<(), RegistryError> {
        let (resolved, _) = resolve(client, &self.name()).await?;
        assert_eq!(resolved.manifest_bytes, self.image.manifest);
        assert_eq!(resolved.config_bytes, self.image.config);
        fetch(client, &self.name(), &self.image).await
    }

    /// Digests of the image's blobs that are there.
    fn there(&self) -> Vec<String> {
        let blobs = [&self.image.config, &self.image.layer].map(|bytes| digest_of(bytes));
        blobs.into_iter().filter(|digest| self.registry.blob("app", digest).is_some()).collect()
    }

    fn is_complete(&self) -> bool {
        self.registry.manifest("app", "1").as_ref() == Some(&self.image.manifest) && self.there().len() == 2
    }

    /// The trouble is over: everything goes well, and what is there is not sent again.
    async fn recovers(&self, case: &str) {
        self.proxy.calm();
        self.proxy.forget();
        let there = self.there();
        let (client, _) = client_of(&self.proxy);
        self.push(&client).await.unwrap_or_else(|error| panic!("{case}, again: {}", words(&error)));
        assert!(self.is_complete(), "{case}, again");
        for sent in self.proxy.seen().iter().filter(|r| r.method == "PUT").filter_map(|r| r.param("digest")) {
            assert!(!there.contains(&sent), "{case}: {sent} is sent again");
        }
        self.pull(&client).await.unwrap_or_else(|error| panic!("{case}, again: {}", words(&error)));
    }
}

fn client_of(proxy: &Proxy) -> (Client, Arc<TestPace>) {
    let bob = Credential::Password { username: "bob".into(), password: Secret::new("pw") };
    client(|settings| {
        settings.credentials = Credentials::none().with(&proxy.host(), bob);
        settings.chunk_bytes = CHUNK as u64;
        settings.idle_timeout = IDLE;
        // One after the other, so that what goes wrong at a request meets that request alone.
        settings.connections_per_host = 1;
    })
}

/// What must come of a cell.
type Want = Result<(), &'static [&'static str]>;
const FINE: Want = Ok(());

/// One row: the trouble, so many times, at every request.
async fn row(case: &str, times: usize, trouble: impl Fn(&World) -> Trouble, want: impl Fn(Ask) -> Want) {
    for ask in ALL {
        let case = format!("{case} at {ask:?}");
        let world = World::new();
        let (method, part) = ask.request();
        if ask.is_pull() {
            world.image.serve(&world.registry, "app", "1");
        }
        world.proxy.trouble(method, part, times, trouble(&world));
        let result = if ask.is_pull() { world.pull(&world.client).await } else { world.push(&world.client).await };
        let fine = result.is_ok();
        if let Err(error) = &result {
            assert!(words(error).contains(method), "{case}: the request is not named: {}", words(error));
        }
        check(&case, result, want(ask));
        if !ask.is_pull() {
            assert_eq!(world.is_complete(), fine, "{case}");
            assert!(fine || world.registry.manifest("app", "1").is_none(), "{case}: the tag names an incomplete image");
        }
        let asked = world.proxy.count(method, part);
        assert!((1..=20).contains(&asked), "{case}: asked {asked} times");
        assert!(world.pace.slept().iter().sum::<Duration>() <= Duration::from_secs(300), "{case}");
        world.recovers(&case).await;
    }
}

/// The registry's words, which no error loses. Answers to HEAD have none.
fn said(status: u16) -> Response {
    Response::error(status, "TROUBLE", "in the cellar")
}

fn instead(status: u16) -> impl Fn(&World) -> Trouble {
    move |_| Trouble::Instead(said(status))
}

fn change(change: fn(&Request, &mut Response)) -> impl Fn(&World) -> Trouble {
    move |_| Trouble::Change(Box::new(change))
}

fn always(want: Want) -> impl Fn(Ask) -> Want {
    move |_| want
}

/// What HEAD does not tell of a manifest, GET does.
fn but_head(want: Want) -> impl Fn(Ask) -> Want {
    move |ask| if ask == HeadManifest { FINE } else { want }
}

/// Answers that are of no use where their bodies are read.
fn where_read(want: Want) -> impl Fn(Ask) -> Want {
    move |ask| if ask.has_answer() { want } else { FINE }
}

#[tokio::test]
async fn limits_are_waited_out_as_long_as_the_registry_asks() {
    let limited = |after: &'static str| move |_: &World| Trouble::Instead(said(429).with("Retry-After", after));
    row("429 with seconds", 1, limited("7"), always(FINE)).await;
    row("429 with a date", 1, limited("Sun, 06 Nov 1994 08:49:57 GMT"), always(FINE)).await;
    row("429 with a date that is past", 1, limited("Sun, 06 Nov 1994 08:00:00 GMT"), always(FINE)).await;
    row("429 with 10 hours", 1, limited("36000"), always(FINE)).await;
    row("429 without", 3, instead(429), always(FINE)).await;
    row("429 for ever", 99, instead(429), but_head(Err(&["answered with 429 in 6 attempts"]))).await;
}

#[tokio::test]
async fn passing_errors_are_outlived_and_lasting_ones_named() {
    row("500 once", 1, instead(500), always(FINE)).await;
    row("502 thrice", 3, instead(502), always(FINE)).await;
    row("503 once, although done", 1, |_| Trouble::Afterwards(said(503)), always(FINE)).await;
    row("504 for ever", 999, instead(504), but_head(Err(&["answered with 504 in 6 attempts"]))).await;
    let teapot = |ask| match ask {
        // GET will tell.
        HeadManifest => FINE,
        HeadBlob => Err(&["answered with 418"] as &[_]),
        _ => Err(&["answered with 418: TROUBLE: in the cellar"] as &[_]),
    };
    row("418", 999, instead(418), teapot).await;
    let range = |ask| match ask {
        // Another session, or another way to send it.
        HeadManifest | Chunk | Finish => FINE,
        _ => Err(&["answered with 416"] as &[_]),
    };
    row("416", 1, instead(416), range).await;
}

#[tokio::test]
async fn broken_connections_are_made_anew() {
    row("hung up", 2, |_| Trouble::HangUp, always(FINE)).await;
    row("hung up although done", 1, |_| Trouble::HangUpAfterwards, always(FINE)).await;
    row("half a head", 1, |_| Trouble::HalfHead, always(FINE)).await;
    row("hung up for ever", 999, |_| Trouble::HangUp, always(Err(&["got no complete answer in 6 attempts"]))).await;
}

#[tokio::test]
async fn cut_answers_are_read_on_and_wrong_ones_refused() {
    row("cut at 0", 1, change(|_, a| a.cut_after = Some(0)), always(FINE)).await;
    row("cut at 1", 1, change(|_, a| a.cut_after = Some(1)), always(FINE)).await;
    row("cut at half", 1, change(|_, a| a.cut_after = Some(a.body.len() / 2)), always(FINE)).await;
    row("cut before the last", 1, change(|_, a| a.cut_after = a.body.len().checked_sub(1)), always(FINE)).await;
    let lasting: Want = Err(&["got no complete answer in 6 attempts"]);
    row("cut for ever", 999, change(|_, a| a.cut_after = Some(0)), where_read(lasting)).await;
    row("an extra byte", 999, change(|_, a| a.body.push(b'!')), where_read(Err(&[]))).await;
    let long = change(|_, a| a.set("Content-Length", (a.body.len() + 5).to_string()));
    row("a length that is too long", 999, long, where_read(Err(&[]))).await;
    let short = change(|_, a| a.set("Content-Length", (a.body.len() / 2).to_string()));
    row("a length that is too short", 999, short, where_read(Err(&[]))).await;
    // The config comes first, in one piece; then the layer in two.
    let ranges = change(|request, answer| match request.header("range") {
        Some(_) => answer.set("Content-Range", "bytes 0-1/2"),
        None if answer.body.len() > CHUNK => answer.cut_after = Some(answer.body.len() / 2),
        None => {}
    });
    row("a wrong range", 3, ranges, always(FINE)).await;
    let ignored = change(|request, answer| match request.header("range") {
        Some(_) => *answer = Response::new(200).body(vec![b'x'; 5]),
        None if answer.body.len() > CHUNK => answer.cut_after = Some(answer.body.len() / 2),
        None => {}
    });
    let refused = |ask| if ask == GetBlob { Err(&["gave 5 bytes where"] as &[_]) } else { FINE };
    row("a range ignored, with other bytes", 3, ignored, refused).await;
}

#[tokio::test]
async fn silence_ends_and_slowness_does_not() {
    row("silence", 1, |_| Trouble::Silence, always(FINE)).await;
    row("silence in the body", 1, change(|_, a| a.stall_after = Some(1)), always(FINE)).await;
    let slow = change(|_, a| a.trickle = Some(((a.body.len() / 12).max(1), IDLE / 8)));
    row("slow", 1, slow, always(FINE)).await;
}

#[tokio::test]
async fn proof_that_ends_in_the_middle_is_renewed_once() {
    let revoke = |world: &World| {
        let registry = world.registry.clone();
        Trouble::First(Box::new(move || registry.revoke_tokens()))
    };
    row("a token that ends", 1, revoke, always(FINE)).await;
    let refused = |world: &World| {
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", world.proxy.host());
        Trouble::Instead(said(401).with("WWW-Authenticate", challenge))
    };
    let nobody = |ask| match ask {
        // GET will tell, and is let in.
        HeadManifest => FINE,
        _ => Err(&["wants credentials for"] as &[_]),
    };
    row("401 for ever", 999, refused, nobody).await;
    let denied = |ask| match ask {
        HeadManifest => FINE,
        Token => Err(&["wants credentials for", "TROUBLE: in the cellar"] as &[_]),
        HeadBlob => Err(&["is denied"] as &[_]),
        _ => Err(&["is denied: TROUBLE: in the cellar"] as &[_]),
    };
    row("403", 999, instead(403), denied).await;
    let lose = |world: &World| {
        let registry = world.registry.clone();
        Trouble::First(Box::new(move || registry.lose_sessions()))
    };
    row("sessions that are lost", 1, lose, always(FINE)).await;
}

/// Pushes until the request with that number (from 0) has come and is not answered, and kills it there. Tells whether it
/// came so far.
async fn killed_at(world: &World, number: usize, trouble: Trouble) -> bool {
    world.proxy.trouble_after("", "", number, 1, trouble);
    let reached = async {
        while world.proxy.seen().len() <= number {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // What goes beside it may go on for a moment.
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tokio::select! {
        biased;
        () = reached => true,
        pushed = world.push(&world.client) => {
            pushed.unwrap();
            false
        }
    }
}

#[tokio::test]
async fn a_push_killed_at_any_request_leaves_no_tag_and_is_finished_by_the_next() {
    let troubles: [(&str, fn() -> Trouble); 2] =
        [("before", || Trouble::Silence), ("after", || Trouble::SilenceAfterwards)];
    for (case, trouble) in troubles {
        let mut number = 0;
        loop {
            let world = World::new();
            let case = format!("killed {case} request {number}");
            if !killed_at(&world, number, trouble()).await {
                break;
            }
            let tagged = world.registry.manifest("app", "1").is_some();
            assert!(!tagged || world.is_complete(), "{case}: the tag names an incomplete image");
            world.recovers(&case).await;
            number += 1;
        }
        assert!(number >= 12, "{case}: only {number} requests");
    }
}
