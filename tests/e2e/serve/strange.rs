//! Connections that are no client's: silent, half open, too many, too much. Others are served meanwhile, and afterwards
//! nothing of it is left.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use api::control::InfoRequest;
use api::control::control_client::ControlClient;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::client::Daemon;
use super::process::{held, memory_kib, settled};
use crate::support::Store;

/// Long for what should be quick.
const LONG: Duration = Duration::from_secs(30);
/// RFC 9113, 3.4, and an empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// What may be resident for all that came, while it comes.
const GROWTH_MAX_KIB: u64 = 64 << 10;

/// RFC 9113, 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("tests have small frames").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// `:method POST`, `:scheme http`, `:path /`, from the static table. RFC 7541, appendix A.
const CALL: &[u8] = &[0x83, 0x86, 0x84];

/// So many streams, each of what `each` says of it.
fn streams(count: u32, each: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|at| each(at * 2 + 1)).collect()
}

async fn is_served(daemon: &Daemon, what: &str) {
    let mut control = ControlClient::new(daemon.connect().await);
    let info = tokio::time::timeout(LONG, control.info(InfoRequest {})).await;
    info.unwrap_or_else(|_| panic!("{what}: others wait")).unwrap_or_else(|status| panic!("{what}: {status:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connection_and_nothing_else() {
    let store = Store::new();
    let daemon = Daemon::start(&store);
    is_served(&daemon, "before").await;
    let (pid, root) = (daemon.pid(), store.root());
    let (idle, (before, _)) = (held(pid, &root), memory_kib(pid));
    let long = [&[0x00, 0x01, b'x', 0x7f, 0xe1, 0x7e][..], &[b'a'; 16_352]].concat();
    let first = frame(HEADERS, 0, 1, &[CALL, &long[..]].concat()[..16_000]);
    let cases: [(&str, Vec<u8>); 8] = [
        ("nothing", Vec::new()),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000)),
        ("half a preface", PREFACE[..10].to_vec()),
        ("streams that are never finished", streams(100_000, |id| frame(HEADERS, END_HEADERS, id, CALL))),
        (
            "streams that are reset at once",
            streams(100_000, |id| {
                [frame(HEADERS, END_HEADERS, id, CALL), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
            }),
        ),
        ("headers without an end", [first, frame(CONTINUATION, 0, 1, &[b'a'; 16_000]).repeat(2000)].concat()),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(200_000)),
        ("settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(200_000)),
    ];
    for (what, bytes) in cases {
        let mut stream = UnixStream::connect(&daemon.socket).expect("it serves");
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("it is a socket");
        let begins = matches!(what, "nothing" | "another protocol" | "half a preface");
        let bytes = if begins { bytes } else { [PREFACE, &bytes].concat() };
        // Answers are not read: the daemon may not pile them up either. It may hang up, or let this side wait.
        let wrote = stream.write_all(&bytes);
        is_served(&daemon, what).await;
        let (now, _) = memory_kib(pid);
        assert!(now <= before + GROWTH_MAX_KIB, "{what}: {before} KiB before, {now} KiB now ({wrote:?})");
        // Whoever hung up may not be told.
        let _ = stream.shutdown(Shutdown::Both);
    }
    let after = settled(pid, &root, idle).await;
    assert!(after.descriptors <= idle.descriptors, "{idle:?} before, {after:?} after");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_and_there_is_room_again() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("more descriptors");
    let store = Store::new();
    let daemon = Daemon::start(&store);
    let mut silent: Vec<UnixStream> =
        (0..1024).map(|_| UnixStream::connect(&daemon.socket).expect("it serves")).collect();
    let mut more = UnixStream::connect(&daemon.socket).expect("it serves");
    more.set_read_timeout(Some(LONG)).expect("it is a socket");
    assert_eq!(more.read(&mut [0; 1]).expect("it is not left waiting"), 0, "one more is closed");
    silent.truncate(1000);
    let began = Instant::now();
    // Until the daemon has seen that some are gone, it closes what comes.
    loop {
        let mut probe = UnixStream::connect(&daemon.socket).expect("it serves");
        probe.set_read_timeout(Some(Duration::from_millis(100))).expect("it is a socket");
        match probe.read(&mut [0; 1]) {
            Ok(0) => assert!(began.elapsed() < LONG, "there is no room"),
            // It is left open, and may have been greeted.
            _ => break,
        }
    }
    is_served(&daemon, "a thousand that are silent").await;
    drop(silent);
    assert_eq!(daemon.stop(), Some(0));
}
