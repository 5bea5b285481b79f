//! Large blobs into a registry: in chunks, resumed, and in the ways of registries that know no chunks.

use super::server::{Chunks, Response};
use super::*;

const CHUNK: usize = 64 << 10;
/// Six chunks and a bit.
const LAYER: usize = 6 * CHUNK + 1000;

fn large() -> Image {
    let mut state = 7_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    Image::with_layer(bytes.take(LAYER).collect(), "amd64", "")
}

/// Chunks as (first byte, bytes), of all PATCH requests so far.
fn chunks(registry: &Registry) -> Vec<(usize, usize)> {
    let patches = registry.seen().into_iter().filter(|request| request.method == "PATCH");
    patches
        .map(|request| {
            let range = request.header("content-range").expect("chunks have a range").to_owned();
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            (first, last + 1 - first)
        })
        .collect()
}

fn complete(registry: &Registry, image: &Image) -> bool {
    registry.manifest("app", "1").as_ref() == Some(&image.manifest)
        && [&image.config, &image.layer]
            .iter()
            .all(|blob| registry.blob("app", &digest_of(blob)).as_ref() == Some(blob))
}

/// Pushes a large layer to a registry that was made so, and compares what was sent.
async fn check_push(
    case: &str,
    make: impl FnOnce(&Registry),
    want: Result<(), &[&str]>,
    sent: &[(usize, usize)],
    whole: usize,
) {
    let registry = start();
    let image = large();
    make(&registry);
    let (client, pace) = client(|settings| {
        settings.chunk_bytes = CHUNK as u64;
        settings.idle_timeout = Duration::from_secs(5);
    });
    let result = push(&client, &name(&registry, "app:1"), &image).await;
    let fine = result.is_ok();
    check(case, result, want);
    assert_eq!(complete(&registry, &image), fine, "{case}");
    assert!(fine || registry.manifest("app", "1").is_none(), "{case}: the tag names an incomplete image");
    assert_eq!(chunks(&registry), sent, "{case}");
    let puts = registry.seen().into_iter().filter(|r| r.method == "PUT" && r.body.len() == LAYER).count();
    assert_eq!(puts, whole, "{case}");
    assert!(pace.slept().iter().sum::<Duration>() < Duration::from_secs(300), "{case}");
}

const ALL: [(usize, usize); 7] = [
    (0, CHUNK),
    (CHUNK, CHUNK),
    (2 * CHUNK, CHUNK),
    (3 * CHUNK, CHUNK),
    (4 * CHUNK, CHUNK),
    (5 * CHUNK, CHUNK),
    (6 * CHUNK, 1000),
];

#[tokio::test]
async fn a_large_blob_goes_in_chunks_of_the_size_that_the_registry_wants() {
    check_push("plain", |_| {}, Ok(()), &ALL, 0).await;
    let min = |min| move |r: &Registry| r.take_chunks(Chunks { min: Some(min), ..Chunks::default() });
    check_push("a smaller minimum", min(1000), Ok(()), &ALL, 0).await;
    check_push("a larger minimum", min(4 * CHUNK), Ok(()), &[(0, 4 * CHUNK), (4 * CHUNK, 2 * CHUNK + 1000)], 0).await;
    check_push("all of it", min(9 * CHUNK), Ok(()), &[(0, LAYER)], 0).await;
    // ECR's way to say 202.
    check_push("201", |r| r.take_chunks(Chunks { status: 201, ..Chunks::default() }), Ok(()), &ALL, 0).await;
}

#[tokio::test]
async fn a_cut_chunk_goes_on_where_it_was_cut() {
    let cut = |times, after| move |r: &Registry| r.cut_uploads("PATCH", "/uploads/", times, after);
    let resumed = [&[(0, CHUNK), (1000, CHUNK)], &[(CHUNK + 1000, CHUNK)][..]].concat();
    let rest: Vec<_> = (2..=5).map(|n| (n * CHUNK + 1000, CHUNK)).collect();
    check_push("once", cut(1, 1000), Ok(()), &[resumed, rest].concat(), 0).await;
    let nothing = [&ALL[..1], &ALL[..]].concat();
    check_push("before the first byte", cut(1, 0), Ok(()), &nothing, 0).await;
    // Five cuts in a row bring a little each time.
    let five: Vec<_> = (0..5).map(|n| (n * 10, CHUNK)).collect();
    let rest: Vec<_> = (0..=6).map(|n| (n * CHUNK + 50, CHUNK.min(LAYER - n * CHUNK - 50))).collect();
    check_push("five times", cut(5, 10), Ok(()), &[five, rest].concat(), 0).await;
    let six = [(0, CHUNK); 6];
    check_push("for ever", cut(99, 0), Err(&["PATCH", "got no complete answer in 6 attempts"]), &six, 0).await;
}

#[tokio::test]
async fn the_registry_has_the_last_word_on_where_an_upload_stands() {
    let twice = [&ALL[..1], &ALL[..1], &ALL[..1], &ALL[..]].concat();
    let busy = |r: &Registry| r.refuse("PATCH", "/uploads/", 3, |_, answer| *answer = Response::new(503));
    check_push("503 thrice", busy, Ok(()), &twice, 0).await;
    // 416 although nothing is wrong: it does not want chunks.
    let unwanted = |r: &Registry| r.refuse("PATCH", "/uploads/", 99, |_, a| *a = Response::error(416, "X", "no"));
    check_push("416", unwanted, Ok(()), &ALL[..1], 1).await;
    // The registry did it but could not say so: it is asked, and nothing is sent twice.
    let done = |r: &Registry| {
        let mut count = 0;
        r.fault("PATCH", "/uploads/", 2, move |_, answer| {
            count += 1;
            if count == 2 {
                *answer = Response { cut_after: Some(0), ..Response::error(500, "X", "late") };
            }
        });
    };
    check_push("done, not said", done, Ok(()), &ALL, 0).await;
}

#[tokio::test]
async fn lost_sessions_are_opened_anew() {
    let lost = |method, times| {
        move |r: &Registry| {
            r.refuse(method, "/uploads/", times, |_, a| *a = Response::error(404, "BLOB_UPLOAD_UNKNOWN", "lost"));
        }
    };
    check_push("once", lost("PATCH", 1), Ok(()), &[&ALL[..1], &ALL[..]].concat(), 0).await;
    let end = ["PATCH", "404 in 6 attempts: BLOB_UPLOAD_UNKNOWN: lost"];
    check_push("for ever", lost("PATCH", 99), Err(&end), &[(0, CHUNK); 6], 0).await;
    // Nobody says how far it is: from the start.
    let silent = |r: &Registry| {
        r.take_chunks(Chunks { tells: false, ..Chunks::default() });
        r.cut_uploads("PATCH", "/uploads/", 1, 1000);
    };
    check_push("no word", silent, Ok(()), &[&ALL[..1], &ALL[..]].concat(), 0).await;
}

#[tokio::test]
async fn registries_that_take_no_chunks_get_large_blobs_whole() {
    const GHCR: &str = "the request body is too large and exceeds the maximum permissible limit of 4.00MiB";
    let limit = |status| {
        move |r: &Registry| {
            r.take_chunks(Chunks { max: Some((CHUNK / 2, status, GHCR)), ..Chunks::default() });
        }
    };
    check_push("GHCR", limit(416), Ok(()), &ALL[..1], 1).await;
    check_push("refused", limit(400), Ok(()), &ALL[..1], 1).await;
    check_push("unknown", limit(405), Ok(()), &ALL[..1], 1).await;
    // ECR loses every chunk but the first.
    let lossy = |r: &Registry| r.take_chunks(Chunks { status: 201, only_first: true, ..Chunks::default() });
    check_push("ECR", lossy, Ok(()), &ALL[..2], 1).await;
    // Neither chunks nor the whole: the words of the second are told.
    let neither = |r: &Registry| {
        limit(400)(r);
        r.fault("PUT", "/uploads/", 99, |request, answer| {
            if request.body.len() > 1000 {
                *answer = Response::error(413, "TOO_LARGE", "no more than that");
            }
        });
    };
    check_push("neither", neither, Err(&["413", "TOO_LARGE: no more than that"]), &ALL[..1], 1).await;
}

#[tokio::test]
async fn what_has_rotted_in_the_store_is_never_finished() {
    let registry = start();
    let image = large();
    let (client, _) = client(|settings| settings.chunk_bytes = CHUNK as u64);
    let store = super::push::Spoilt(image.store());
    let mut what = image.to_push(&[]);
    what.blobs.remove(0);
    let result = push_image(&client, &name(&registry, "app:1"), &what, &store, &|_, _| {}).await;
    check("spoilt", result, Err(&["cannot read `sha256:", "from the store", "was promised"]));
    assert_eq!(registry.count("PUT", ""), 0);
}

#[tokio::test]
async fn progress_of_chunks_counts_the_whole_blob() {
    let registry = start();
    let image = large();
    let (client, _) = client(|settings| settings.chunk_bytes = CHUNK as u64);
    let told = Mutex::new(Vec::new());
    let digest = Digest::of(&image.layer);
    let tell = |of: &Digest, bytes| {
        if *of == digest {
            told.lock().unwrap().push(bytes);
        }
    };
    push_image(&client, &name(&registry, "app:1"), &image.to_push(&[]), &image.store(), &tell).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted() && told.last() == Some(&(LAYER as u64)), "{told:?}");
}

#[tokio::test]
async fn every_neighbour_is_asked_and_the_last_session_is_used() {
    let registry = start();
    let image = Image::new("a");
    registry.put_blob("third", &image.layer);
    registry.put_blob("app", &image.config);
    let (client, _) = client(|_| {});
    let neighbours: Vec<Reference> =
        ["first:1", "second:1", "first:2", "third:1"].iter().map(|rest| name(&registry, rest)).collect();
    let push = async |neighbours: &[Reference]| {
        push_image(&client, &name(&registry, "app:1"), &image.to_push(neighbours), &image.store(), &|_, _| {})
            .await
            .unwrap();
        let asked: Vec<_> = registry.seen().iter().filter_map(|request| request.param("from")).collect();
        (asked, registry.count("POST", ""), registry.count("PUT", "/blobs/"))
    };
    let all = ["first", "second", "third"].map(str::to_owned).to_vec();
    assert_eq!(push(&neighbours).await, (all, 3, 0));
    registry.forget();
    let image = Image::new("b");
    registry.put_blob("app", &image.config);
    let what = image.to_push(&neighbours[..2]);
    push_image(&client, &name(&registry, "app:1"), &what, &image.store(), &|_, _| {}).await.unwrap();
    assert_eq!((registry.count("POST", ""), registry.count("PUT", "/blobs/")), (2, 1), "no third session is opened");
    assert_eq!(registry.blob("app", &digest_of(&image.layer)), Some(image.layer));
}

#[tokio::test]
async fn long_pauses_are_said_with_their_reason() {
    let registry = start();
    let image = Image::new("a");
    image.serve(&registry, "app", "1");
    registry.fault("GET", "/blobs/", 1, |_, answer| {
        *answer = Response::error(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", "17");
    });
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = heard.clone();
    let (client, _) = client(|settings| {
        settings.tell = Arc::new(move |line| kept.lock().unwrap().push(line.to_owned()));
    });
    fetch(&client, &name(&registry, "app:1"), &image).await.unwrap();
    let heard = heard.lock().unwrap().clone();
    let [line] = &heard[..] else { panic!("{heard:?}") };
    for part in ["waiting 17 s: `GET 127.0.0.1:", "/blobs/sha256:", "answered with 429", "TOOMANYREQUESTS: slow down"] {
        assert!(line.contains(part), "{line}");
    }
}
