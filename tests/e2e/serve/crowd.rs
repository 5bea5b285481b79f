//! Fifty sessions at once, among them clients that misbehave in every way, and the command line on the same store: no
//! error but theirs, each step that is shared runs once, and the daemon holds afterwards what it held before. More rounds
//! with `RBUILD_SOAK_SECONDS`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::control::control_client::ControlClient;
use api::control::{SolveRequest, StatusRequest};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use super::client::{Daemon, Entry, Manner, Offer, request, session, session_of};
use super::cost::IDLE_OWN_MAX_KIB;
use super::process::{held, memory_kib, memory_once, settled};
use crate::support::fake::{Fake, Reply};
use crate::support::{Context, Outcome, Store, soak};

/// When nobody soaks; a round of all of them is the least.
const SECONDS: u64 = 1;
const SESSIONS: usize = 50;
/// Long for one build among fifty on a machine of two cores that does other things too.
const LONG: Duration = Duration::from_secs(120);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Session, then build; its status is read.
    Plain,
    /// The build is asked for first.
    SolveFirst,
    /// The status is asked for first.
    StatusFirst,
    /// Its status, which is long, is asked for and never read.
    NeverReads,
    /// Its files are not as large as it says.
    Lies,
    /// Its session ends while its step runs.
    LosesItsSession,
    /// Its connection ends while its step runs.
    LosesItsConnection,
    /// Nothing comes of its context, until it goes.
    SaysNothing,
    /// The list comes, and no file, until it goes.
    SendsNoFile,
}

/// One of ten each, and the rest are plain.
const KINDS: [Kind; 10] = [
    Kind::Plain,
    Kind::SolveFirst,
    Kind::StatusFirst,
    Kind::NeverReads,
    Kind::Lies,
    Kind::LosesItsSession,
    Kind::LosesItsConnection,
    Kind::SaysNothing,
    Kind::SendsNoFile,
    Kind::Plain,
];

/// What all of them build with.
struct Crowd {
    daemon: Daemon,
    server: Fake,
}

impl Crowd {
    /// A step that says to a server that it runs, and is the same for everybody in this round.
    fn shared(&self, round: usize) -> String {
        let address = &self.server.address;
        format!("FROM busybox\nRUN wget -q -O /dev/null http://{address}/{round}/shared && echo {round} > /shared\n")
    }

    /// The shared step, a file of its own, and a step of its own.
    fn offer(&self, client: usize, round: usize, last: &str) -> Offer {
        let dockerfile = format!("{}COPY f /f\nRUN {last}\n", self.shared(round));
        Offer { dockerfile, context: vec![Entry::file("f", &format!("{client} {round}"))] }
    }

    async fn client(&self, client: usize, round: usize) {
        let kind = KINDS[client % KINDS.len()];
        let name = format!("{client}-{round}-{kind:?}");
        let channel = self.daemon.connect().await;
        let plain = self.offer(client, round, &format!("cat /f && echo done-{client}-{round}"));
        match kind {
            Kind::Plain => {
                let _session = session(channel.clone(), &name, plain).await;
                // The daemon may know the session a little later than the client.
                let told = tell(&channel, &name);
                solve(&channel, &name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
                said(told, &name, &format!("done-{client}-{round}")).await;
            }
            Kind::SolveFirst => {
                let solving = tokio::spawn(solving(channel.clone(), name.clone()));
                let told = tell(&channel, &name);
                let _session = session(channel.clone(), &name, plain).await;
                ended(solving, &name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
                said(told, &name, &format!("done-{client}-{round}")).await;
            }
            Kind::StatusFirst => {
                let told = tell(&channel, &name);
                let _session = session(channel.clone(), &name, plain).await;
                solve(&channel, &name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
                said(told, &name, &format!("done-{client}-{round}")).await;
            }
            Kind::NeverReads => {
                let offer = self.offer(client, round, "cat /f && seq 300000");
                let _session = session(channel.clone(), &name, offer).await;
                let solving = tokio::spawn(solving(channel.clone(), name.clone()));
                let unread = ControlClient::new(channel.clone()).status(StatusRequest { r#ref: name.clone() }).await;
                ended(solving, &name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
                drop(unread.unwrap_or_else(|status| panic!("{name}: {status:?}")));
            }
            Kind::Lies => {
                let mut offer = plain;
                offer.context[0].stat.size += 1;
                let _session = session(channel.clone(), &name, offer).await;
                let status = solve(&channel, &name).await.expect_err("it lies");
                assert!(status.message().contains("has not the size that the client said"), "{name}: {status:?}");
            }
            Kind::LosesItsSession | Kind::LosesItsConnection => {
                // Nobody else has this step: who stops in the middle of a shared one leaves it to another.
                let dockerfile = format!("FROM busybox\nRUN echo runs-{client}-{round}; sleep 1000\n");
                let session = session(channel.clone(), &name, Offer { dockerfile, ..Offer::default() }).await;
                let solving = tokio::spawn(solving(channel.clone(), name.clone()));
                runs(&channel, &name).await;
                if kind == Kind::LosesItsSession {
                    drop(session);
                    let status = ended(solving, &name).await.expect_err("its session is gone");
                    assert!(status.message().contains("its session is closed"), "{name}: {status:?}");
                } else {
                    solving.abort();
                    drop((session, channel));
                    // Somebody else may look how it ended.
                    over(&self.daemon.connect().await, &name).await;
                }
            }
            Kind::SaysNothing | Kind::SendsNoFile => {
                let manner = if kind == Kind::SaysNothing { Manner::Silent } else { Manner::Stingy };
                let offer = Offer {
                    dockerfile: "FROM busybox\nCOPY . /c\n".into(),
                    context: vec![Entry::file("f", "never comes")],
                };
                let session = session_of(channel.clone(), &name, offer, manner).await;
                let solving = tokio::spawn(solving(channel.clone(), name.clone()));
                began(&channel, &name, "[internal] receive build context").await;
                drop(session);
                let status = ended(solving, &name).await.expect_err("its session is gone");
                assert!(status.message().contains("its session is closed"), "{name}: {status:?}");
            }
        }
    }
}

/// With the network of this machine, on which the server listens.
fn wanted(name: &str) -> SolveRequest {
    let mut wanted = request(name, name);
    wanted.frontend_attrs.insert("force-network-mode".into(), "host".into());
    wanted.entitlements = vec!["network.host".into()];
    wanted
}

async fn solving(channel: Channel, name: String) -> Result<(), Status> {
    ControlClient::new(channel).solve(wanted(&name)).await.map(|_| ())
}

async fn solve(channel: &Channel, name: &str) -> Result<(), Status> {
    let solving = tokio::time::timeout(LONG, solving(channel.clone(), name.to_owned()));
    solving.await.unwrap_or_else(|_| panic!("{name} hangs"))
}

type Ending<T> = tokio::task::JoinHandle<Result<T, Status>>;

async fn ended<T>(task: Ending<T>, name: &str) -> Result<T, Status> {
    let ended = tokio::time::timeout(LONG, task).await.unwrap_or_else(|_| panic!("{name} hangs"));
    ended.expect("it does not panic")
}

/// All logs of a build.
fn tell(channel: &Channel, name: &str) -> Ending<String> {
    let (channel, name) = (channel.clone(), name.to_owned());
    tokio::spawn(async move {
        let mut stream = ControlClient::new(channel).status(StatusRequest { r#ref: name }).await?.into_inner();
        let mut logs = Vec::new();
        while let Some(status) = stream.message().await? {
            status.logs.iter().for_each(|log| logs.extend_from_slice(&log.msg));
        }
        Ok(String::from_utf8_lossy(&logs).into_owned())
    })
}

async fn said(told: Ending<String>, name: &str, words: &str) {
    let logs = ended(told, name).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    assert!(logs.contains(words), "{name}: {logs}");
}

/// Reads the status of a build until `seen`; panics when it ends before.
async fn watch(channel: &Channel, name: &str, seen: impl Fn(&api::control::StatusResponse) -> bool) {
    let stream = ControlClient::new(channel.clone()).status(StatusRequest { r#ref: name.to_owned() }).await;
    let mut stream = stream.unwrap_or_else(|status| panic!("{name}: {status:?}")).into_inner();
    let watching = tokio::time::timeout(LONG, async {
        while let Some(status) = stream.message().await.expect("it goes on") {
            if seen(&status) {
                return;
            }
        }
        panic!("{name} ended");
    });
    watching.await.unwrap_or_else(|_| panic!("{name} hangs"));
}

async fn runs(channel: &Channel, name: &str) {
    watch(channel, name, |status| status.logs.iter().any(|log| log.msg.starts_with(b"runs-"))).await;
}

async fn began(channel: &Channel, name: &str, vertex: &str) {
    let is_it = |found: &api::control::Vertex| found.name == vertex && found.started.is_some();
    watch(channel, name, |status| status.vertexes.iter().any(is_it)).await;
}

/// Waits until a build is over.
async fn over(channel: &Channel, name: &str) {
    let stream = ControlClient::new(channel.clone()).status(StatusRequest { r#ref: name.to_owned() }).await;
    let mut stream = stream.unwrap_or_else(|status| panic!("{name}: {status:?}")).into_inner();
    let reading = async { while stream.message().await.expect("it has no error").is_some() {} };
    tokio::time::timeout(LONG, reading).await.unwrap_or_else(|_| panic!("{name} hangs"));
}

/// All clients once, and beside them a build without the daemon of what they share.
async fn round(crowd: &Arc<Crowd>, store: &Arc<Store>, round: usize) {
    let mut clients = JoinSet::new();
    for client in 0..SESSIONS {
        let crowd = crowd.clone();
        clients.spawn(async move { crowd.client(client, round).await });
    }
    let dockerfile = crowd.shared(round) + "RUN echo without-the-daemon\n";
    let beside = store.clone();
    let without = tokio::task::spawn_blocking(move || {
        let context = Context::new(&dockerfile);
        let words = ["--network=host"].map(OsString::from);
        Outcome::of(&mut beside.build_command(&context, words)).ok().never_says(&["locked"]);
    });
    while let Some(ended) = clients.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    without.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_build_at_once_share_their_steps_and_leave_nothing() {
    let store = Arc::new(Store::with_busybox());
    let server = Fake::start(|_| Reply::new(200, "counted"));
    let daemon = Daemon::start_with(&store, &["--allow-insecure-entitlement", "network.host"]);
    let (pid, root) = (daemon.pid(), store.root());
    let idle = held(pid, &root);
    let crowd = Arc::new(Crowd { daemon, server });

    let (until, mut resident) = (Instant::now() + soak(SECONDS), Vec::new());
    while resident.len() < 2 || Instant::now() < until {
        round(&crowd, &store, resident.len()).await;
        let after = settled(pid, &root, idle).await;
        let found = (after.descriptors, after.children, after.mounts);
        assert_eq!(found, (idle.descriptors, 0, 0), "round {}", resident.len());
        resident.push(memory_kib(pid).0);
    }
    let rounds = resident.len();
    // What is kept of the last builds goes first; then whatever grew with the rounds is all that is left.
    let (_, own) = memory_once(pid, |(_, own)| own <= IDLE_OWN_MAX_KIB).await;
    assert!(own <= IDLE_OWN_MAX_KIB, "{own} KiB stay after rounds with {resident:?} KiB resident");

    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for request in crowd.server.requests() {
        *ran.entry(request.path).or_default() += 1;
    }
    assert!(ran.len() == rounds && ran.values().all(|count| *count == 1), "{ran:?}");

    let Ok(Crowd { daemon, .. }) = Arc::try_unwrap(crowd) else { panic!("a client is not through") };
    assert_eq!(daemon.stop(), Some(0));
    for folder in ["tmp", "flights", "leases"] {
        let left: Vec<_> = root.join(folder).read_dir().map(|entries| entries.flatten().collect()).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
    store.rbuild(["verify"]).ok();
    println!(
        "{rounds} rounds of {SESSIONS} sessions; KiB resident after each: {resident:?}, and {own} of its own idle"
    );
}
