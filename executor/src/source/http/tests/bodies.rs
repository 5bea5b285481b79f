//! Bodies that break, never end, or never come.

use super::*;

const ETAG: &str = "ETag: \"v\"\r\n";

/// Answers a range of `0123456789` as a server should.
fn rest(request: &Request) -> Reply {
    assert_eq!(request.header("if-range"), Some("\"v\""));
    let start: usize = request.header("range").unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    let range = format!("bytes {start}-9/10");
    Reply::new(206, &[("ETag", "\"v\""), ("Content-Range", &range)], &"0123456789"[start..])
}

fn whole() -> Handler {
    answer(|_| Reply::new(200, &[("ETag", "\"v\"")], "0123456789"))
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_or_begins_anew() {
    let cases: Vec<(&str, Vec<Handler>, usize)> = vec![
        ("goes on", vec![answer(|_| cut(ETAG, 10, "0123")), answer(rest)], 2),
        (
            "goes on twice",
            vec![
                answer(|_| cut(ETAG, 10, "0123")),
                answer(|_| {
                    Reply::raw(|out| {
                        out.write_all(b"HTTP/1.1 206 P\r\nContent-Length: 6\r\nContent-Range: bytes 4-9/10\r\n\r\n45")
                    })
                }),
                answer(rest),
            ],
            3,
        ),
        (
            "no strong name",
            vec![
                answer(|_| cut("ETag: W/\"v\"\r\n", 10, "0123")),
                answer(|request| {
                    assert_eq!(request.header("range"), None);
                    Reply::new(200, &[], "0123456789")
                }),
            ],
            2,
        ),
        ("another version", vec![answer(|_| cut(ETAG, 10, "abcd")), whole()], 2),
        (
            "another range",
            vec![
                answer(|_| cut(ETAG, 10, "0123")),
                answer(|_| Reply::new(206, &[("Content-Range", "bytes 3-9/10")], "3456789")),
                whole(),
            ],
            3,
        ),
        (
            "another length",
            vec![
                answer(|_| cut(ETAG, 10, "0123")),
                answer(|_| Reply::new(206, &[("Content-Range", "bytes 4-10/11")], "456789a")),
                whole(),
            ],
            3,
        ),
        ("no range", vec![answer(|_| cut(ETAG, 10, "0123")), answer(|_| Reply::new(206, &[], "456789")), whole()], 3),
        ("no longer", vec![answer(|_| cut(ETAG, 10, "0123")), answer(|_| Reply::new(416, &[], "")), whole()], 3),
        (
            "an error in between",
            vec![answer(|_| cut(ETAG, 10, "0123")), answer(|_| Reply::new(502, &[], "")), answer(rest)],
            3,
        ),
        ("nothing at all", vec![answer(|_| Reply::raw(|_| Ok(()))), whole()], 2),
        ("no head", vec![answer(|_| Reply::raw(|out| out.write_all(b"HTTP/1.1 200 O"))), whole()], 2),
    ];
    for (name, turns, requests) in cases {
        let bench = Bench::new();
        let server = in_turn(turns);
        let file = bench.get(&server.url("/a")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bench.text(&file), "0123456789", "{name}");
        assert_eq!(server.asked().len(), requests, "{name}");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
    for (status, tries) in [
        (408, 6),
        (429, 6),
        (500, 6),
        (502, 6),
        (503, 6),
        (504, 6),
        (400, 1),
        (401, 1),
        (403, 1),
        (404, 1),
        (410, 1),
        (501, 1),
    ] {
        let bench = Bench::new();
        let server = Server::new(move |_| Reply::new(status, &[], "so\u{1b}rry\nand more"));
        let error = bench.get(&server.url("/a?token=secret")).await.unwrap_err();
        assert_eq!(server.asked().len(), tries, "{status}");
        let words = error.to_string();
        assert!(words.contains(&status.to_string()) && words.contains("so\\u{1b}rry"), "{words}");
        assert!(!words.contains("and more") && words.contains("/a?***"), "{words}");
        assert_eq!(bench.blobs(), 0);
    }
    let bench = Bench::new();
    let server = in_turn(vec![
        answer(|_| Reply::new(429, &[("Retry-After", "7")], "")),
        answer(|_| Reply::new(503, &[("Retry-After", "99999")], "")),
        answer(|_| Reply::new(200, &[], "ok")),
    ]);
    assert_eq!(bench.text(&bench.get(&server.url("/a")).await.unwrap()), "ok");
    assert_eq!(*bench.pace.0.lock().unwrap(), [Duration::from_secs(7), Duration::from_secs(60)]);
}

#[tokio::test]
async fn a_server_that_breaks_off_for_ever_is_given_up() {
    for headers in [ETAG, ""] {
        let bench = Bench::new();
        let server = Server::new(move |_| cut(headers, 10, "0123"));
        let error = bench.get(&server.url("/a")).await.unwrap_err();
        assert!(matches!(error, HttpError::Transport { attempts: 6, connecting: false, .. }), "{error}");
        assert_eq!(server.asked().len(), 6);
    }
    // Not even when it gives a lot each time, but always the same.
    let bench = Bench::new();
    let server = Server::new(|_| {
        Reply::raw(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n")?;
            out.write_all(&vec![b'x'; (LIMIT - 1) as usize])
        })
    });
    bench.get(&server.url("/a")).await.unwrap_err();
    assert_eq!(server.asked().len(), 6);
}

#[tokio::test]
async fn nobody_there_is_soon_said() {
    let bench = Bench::new();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = bench.get(&format!("http://user:secret@{gone}/a")).await.unwrap_err();
    assert!(matches!(error, HttpError::Transport { attempts: 3, connecting: true, .. }), "{error}");
    assert!(error.help().unwrap().contains("check the address"));
}

#[tokio::test]
async fn a_body_without_end_stops_at_the_limit() {
    let endless: fn(&Request) -> Reply = |_| {
        Reply::raw(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                out.write_all(&[b'x'; 4096])?;
            }
        })
    };
    let long: fn(&Request) -> Reply = |_| cut("", (LIMIT + 1) as usize, "");
    for handler in [endless, long] {
        let bench = Bench::new();
        let server = Server::new(handler);
        let error = bench.get(&server.url("/a")).await.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge { limit_bytes: LIMIT, .. }), "{error}");
        assert_eq!((server.asked().len(), bench.blobs()), (1, 0));
    }
    let bench = Bench::new();
    let server = Server::new(|_| Reply::new(200, &[], vec![b'x'; LIMIT as usize]));
    assert_eq!(bench.get(&server.url("/a")).await.unwrap().size_bytes, LIMIT);
}

#[tokio::test]
async fn a_server_that_stands_still_is_given_up() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let silent = move |_: &Request| {
        let held = held.clone();
        Reply::raw(move |out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123")?;
            out.flush()?;
            // Until the test is over.
            held.lock().unwrap().recv().ok();
            Ok(())
        })
    };
    let mut bench = Bench::new();
    bench.idle_timeout = Duration::from_millis(100);
    let server = Server::new(silent);
    let error = bench.get(&server.url("/a")).await.unwrap_err();
    assert!(matches!(error, HttpError::Idle { attempts: 6, .. }), "{error}");
    drop(hold);
}

#[tokio::test]
async fn a_canceled_download_leaves_nothing() {
    let bench = Bench::new();
    let cancel = CancellationToken::new();
    let (begun, beginning) = tokio::sync::mpsc::unbounded_channel::<()>();
    let mut beginning = beginning;
    let server = Server::new(move |_| {
        let begun = begun.clone();
        Reply::raw(move |out| {
            out.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            loop {
                out.write_all(&[b'x'; 10])?;
                out.flush()?;
                begun.send(()).ok();
                std::thread::yield_now();
            }
        })
    });
    let source = HttpSource { url: server.url("/a"), checksum: None, authorization: None };
    let log = Log::default();
    let fetching = fetch(&bench.store, &source, Connectivity::Online, &log, &cancel);
    let stopping = async {
        beginning.recv().await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(fetching, stopping);
    assert!(matches!(result, Err(HttpError::Canceled)));
    assert_eq!(bench.blobs(), 0);
    assert_eq!(bench.store.note(NOTES, &server.url("/a")).unwrap(), None);
}
