//! Resolving names and fetching blobs, in good and bad weather.

use super::server::{Request, Response};
use super::*;

type Change = fn(&Request, &mut Response);

/// A fault for requests of a method to a part of the path, so many times.
type Fault = (&'static str, &'static str, usize, Change);

#[tokio::test]
async fn image_is_resolved_verified_and_stored() {
    let registry = start();
    let image = Image::new("a");
    image.serve(&registry, "team/app", "1");
    let (client, pace) = client(|_| {});
    let (resolved, store) = resolve(&client, &name(&registry, "team/app:1")).await.unwrap();
    assert_eq!(resolved.manifest, image.manifest_descriptor());
    assert_eq!((resolved.manifest_bytes, resolved.config_bytes), (image.manifest.clone(), image.config.clone()));
    assert_eq!(resolved.index, None);
    let mut want = vec![Digest::of(&image.manifest), Digest::of(&image.config)];
    want.sort();
    assert_eq!(store.digests(), want, "the layer is not fetched");
    assert_eq!(pace.slept(), []);
    // A second time only the tag is asked for; by digest nobody is.
    registry.forget();
    client.resolve(&name(&registry, "team/app:1"), &linux(), &store).await.unwrap();
    assert_eq!(registry.log(), ["HEAD /v2/team/app/manifests/1"]);
    let pinned = name(&registry, "team/app").with_digest(Digest::of(&image.manifest));
    client.resolve(&pinned, &linux(), &store).await.unwrap();
    assert_eq!(registry.seen().len(), 1);
}

fn index(entries: &[(Option<&str>, &Image)]) -> Vec<u8> {
    let entries: Vec<String> = entries
        .iter()
        .map(|(platform, image)| {
            let mut entry = image.manifest_descriptor();
            entry.platform = platform.map(|text| {
                let mut parts = text.split('/').map(str::to_owned);
                let mut next = || parts.next().unwrap_or_default();
                Platform { os: next(), architecture: next(), variant: next(), ..Platform::default() }
            });
            json(&entry)
        })
        .collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media_type::OCI_INDEX, entries.join(","))
        .into_bytes()
}

#[tokio::test]
async fn index_gives_the_image_for_the_platform() {
    let cases: &[(&str, &[Option<&str>], Option<usize>)] = &[
        ("linux/amd64", &[Some("linux/arm64/v8"), Some("linux/amd64")], Some(1)),
        ("linux/amd64", &[Some("unknown/unknown"), Some("linux/amd64"), Some("linux/amd64")], Some(1)),
        ("linux/amd64", &[Some("linux/amd64/v3"), Some("linux/amd64")], Some(1)),
        ("linux/amd64/v3", &[Some("linux/amd64"), Some("linux/amd64/v2"), Some("linux/amd64/v4")], Some(1)),
        ("linux/amd64/v3", &[Some("linux/amd64/v2"), Some("linux/amd64/v3")], Some(1)),
        ("linux/arm64", &[Some("linux/arm/v7"), Some("linux/arm64/v8")], Some(1)),
        ("linux/arm/v7", &[Some("linux/arm/v5"), Some("linux/arm/v6"), Some("linux/arm64")], Some(1)),
        ("linux/arm/v6", &[Some("linux/arm/v7")], None),
        ("linux/amd64", &[Some("windows/amd64")], None),
        ("linux/amd64", &[None], Some(0)),
        ("linux/amd64", &[], None),
    ];
    let registry = start();
    let (client, _) = client(|_| {});
    for (wanted, platforms, chosen) in cases {
        let images: Vec<Image> = (0..platforms.len()).map(|n| Image::new(&format!("layer {n}"))).collect();
        for image in &images {
            image.serve(&registry, "multi", "part");
        }
        let entries: Vec<_> = platforms.iter().copied().zip(&images).collect();
        let bytes = index(&entries);
        registry.put_manifest("multi", "1", media_type::OCI_INDEX, &bytes);
        let store = MemoryStore::default();
        let result = client.resolve(&name(&registry, "multi:1"), &wanted.parse().unwrap(), &store).await;
        match chosen {
            Some(chosen) => {
                let resolved = result.unwrap_or_else(|error| panic!("{wanted} of {platforms:?}: {}", words(&error)));
                assert_eq!(resolved.manifest_bytes, images[*chosen].manifest, "{wanted} of {platforms:?}");
                assert_eq!(resolved.index, Some(descriptor(media_type::OCI_INDEX, &bytes)));
                assert_eq!(bytes_of(&store, &Digest::of(&bytes)), Some(bytes));
            }
            None => check(wanted, result, Err(&[&format!("has no image for `{wanted}`"), "help: "])),
        }
    }
}

#[tokio::test]
async fn manifests_have_one_reading_or_are_refused() {
    let image = Image::new("a");
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let config = json(&descriptor(media_type::OCI_CONFIG, &image.config));
    let oci = media_type::OCI_MANIFEST;
    let with_charset = format!("{oci}; charset=utf-8");
    let cases: Vec<(&str, &str, String, Result<(), &[&str]>)> = vec![
        ("good", oci, text.clone(), Ok(())),
        ("without a type", oci, text.replace(&format!("\"mediaType\":\"{oci}\",\"config"), "\"config"), Ok(())),
        ("served as json", "application/json", text.clone(), Ok(())),
        ("served with a charset", &with_charset, text.clone(), Ok(())),
        ("served as index", media_type::OCI_INDEX, text.clone(), Err(&["the registry calls it", "it calls itself"])),
        ("served as docker's", media_type::DOCKER_MANIFEST, text.clone(), Err(&["the registry calls it"])),
        ("both", oci, text.replace("\"layers\"", "\"manifests\":[],\"layers\""), Err(&["both `manifests` and"])),
        ("neither", oci, "{\"schemaVersion\":2}".into(), Err(&["neither `manifests` nor"])),
        ("twice", oci, text.replace("\"layers\"", "\"layers\":[],\"layers\""), Err(&["`layers` stands twice"])),
        ("two spellings", oci, text.replace("\"layers\"", "\"Layers\":[],\"layers\""), Err(&["stands twice"])),
        (
            "schema 1",
            oci,
            text.replace("\"schemaVersion\":2", "\"schemaVersion\":1"),
            Err(&["`schemaVersion` is not 2"]),
        ),
        (
            "schema 1 by type",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "{}".into(),
            Err(&["is not a container image", "schema 1"]),
        ),
        ("another type inside", oci, text.replace(oci, media_type::OCI_INDEX), Err(&["do not fit its media type"])),
        ("hostile digest", oci, text.replace("sha256:", "sha256:../"), Err(&["is malformed", "is not a digest"])),
        ("negative size", oci, text.replace("\"size\":", "\"size\":-"), Err(&["is malformed"])),
        ("deep", oci, format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), Err(&["recursion limit"])),
        ("not json", oci, "<html>".into(), Err(&["is malformed"])),
        (
            "artifact",
            oci,
            text.replace(media_type::OCI_CONFIG, "application/vnd.oci.empty.v1+json"),
            Err(&["is not a container image", "vnd.oci.empty"]),
        ),
        (
            "more layers than diff ids",
            oci,
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#),
            Err(&["config `sha256:", "1 diff ids for 0 layers"]),
        ),
    ];
    for (case, media_type, bytes, want) in cases {
        let registry = start();
        image.serve(&registry, "app", "other");
        registry.put_manifest("app", "1", media_type, bytes.as_bytes());
        let (client, _) = client(|_| {});
        let result = resolve(&client, &name(&registry, "app:1")).await;
        check(case, result, want);
    }
}

#[tokio::test]
async fn documents_are_bounded_and_match_their_digests() {
    let cases: &[(&str, Fault, &[&str])] = &[
        (
            "manifest of 5 MiB",
            ("GET", "/manifests/", 9, |_, answer| answer.body = vec![b' '; 5 << 20]),
            &["larger than 4194304 bytes"],
        ),
        (
            "flipped byte",
            ("GET", "/manifests/", 9, |_, answer| answer.body[0] ^= 1),
            &["other bytes than asked for: expected `sha256:", "found `sha256:", "nothing was kept"],
        ),
        (
            "flipped byte in the config",
            ("GET", "/blobs/", 9, |_, answer| answer.body[0] ^= 1),
            &["other bytes than asked for"],
        ),
        ("longer config", ("GET", "/blobs/", 9, |_, answer| answer.body.push(b' ')), &["bytes where `sha256:"]),
    ];
    for (case, (method, part, times, change), want) in cases {
        let registry = start();
        Image::new("a").serve(&registry, "app", "1");
        registry.fault(method, part, *times, *change);
        let (client, pace) = client(|_| {});
        let store = MemoryStore::default();
        let result = client.resolve(&name(&registry, "app:1"), &linux(), &store).await;
        check(case, result, Err(want));
        assert_eq!(pace.slept(), [], "{case}: what is wrong stays wrong");
    }
    // The tag's own digest counts too, when HEAD was of no use.
    let registry = start();
    Image::new("a").serve(&registry, "app", "1");
    registry.fault("HEAD", "/manifests/", 1, |_, answer| *answer = Response::new(405));
    registry.fault("GET", "/manifests/", 1, |_, answer| answer.body[0] ^= 1);
    let (client, _) = client(|_| {});
    check("tag", resolve(&client, &name(&registry, "app:1")).await, Err(&["other bytes than asked for"]));
    resolve(&client, &name(&registry, "app:1")).await.expect("the second time the bytes are right");
}

#[tokio::test]
async fn image_for_another_platform_is_refused() {
    let registry = start();
    Image::for_platform("a", "arm64", "v8").serve(&registry, "app", "1");
    let (client, _) = client(|_| {});
    let result = resolve(&client, &name(&registry, "app:1")).await;
    check("arm64", result, Err(&["has no image for `linux/amd64`", "it has images for `linux/arm64`"]));
    // A config that says nothing of platforms is taken as it is.
    Image::for_platform("a", "", "").serve(&registry, "app", "2");
    resolve(&client, &name(&registry, "app:2")).await.unwrap();
}

#[tokio::test]
async fn missing_images_and_blobs_are_named() {
    let registry = start();
    let image = Image::new("a");
    image.serve(&registry, "app", "1");
    let (client, _) = client(|_| {});
    let host = registry.host();
    let result = resolve(&client, &name(&registry, "nope:1")).await;
    let want = format!("image `{host}/nope:1` is not found: MANIFEST_UNKNOWN: manifest unknown");
    check("image", result, Err(&[&want, "help: check the name"]));
    let result = fetch(&client, &name(&registry, "app:1"), &Image::new("b")).await;
    check("blob", result, Err(&["blob `sha256:", "BLOB_UNKNOWN: blob unknown"]));
}

/// One fault while a layer is fetched: what happens, and in which pauses (milliseconds).
async fn check_fetch(case: &str, times: usize, change: Change, want: Result<(), &[&str]>, pauses: &[u128]) {
    let registry = start();
    let image = Image::new("layer");
    image.serve(&registry, "app", "1");
    registry.fault("GET", "/blobs/", times, change);
    let (client, pace) = client(|settings| settings.idle_timeout = Duration::from_millis(1500));
    let result = fetch(&client, &name(&registry, "app:1"), &image).await;
    check(case, result, want);
    assert_eq!(pace.slept().iter().map(Duration::as_millis).collect::<Vec<_>>(), pauses, "{case}");
}

fn status(status: u16) -> Response {
    Response::error(status, "TROUBLE", "in the cellar")
}

#[tokio::test]
async fn passing_trouble_is_waited_out_and_lasting_trouble_is_named() {
    let all = [250, 500, 1000, 2000, 4000];
    check_fetch("nothing", 0, |_, _| {}, Ok(()), &[]).await;
    check_fetch("500 once", 1, |_, a| *a = status(500), Ok(()), &all[..1]).await;
    check_fetch("502 thrice", 3, |_, a| *a = status(502), Ok(()), &all[..3]).await;
    check_fetch("503 five times", 5, |_, a| *a = status(503), Ok(()), &all).await;
    let lasting = ["`GET 127.0.0.1:", "/blobs/sha256:", "answered with 504 in 6 attempts: TROUBLE: in the cellar"];
    check_fetch("504 for ever", 99, |_, a| *a = status(504), Err(&lasting), &all).await;
    check_fetch("408", 1, |_, a| *a = status(408), Ok(()), &all[..1]).await;
    check_fetch("418", 99, |_, a| *a = status(418), Err(&["answered with 418: TROUBLE"]), &[]).await;
    check_fetch(
        "429 for ever",
        99,
        |_, a| *a = status(429),
        Err(&["429 in 6 attempts", "help: the registry limits"]),
        &all,
    )
    .await;
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_a_cap() {
    check_fetch("seconds", 1, |_, a| *a = status(429).with("Retry-After", "7"), Ok(()), &[7000]).await;
    let date = "Sun, 06 Nov 1994 08:49:57 GMT";
    check_fetch(
        "date",
        1,
        |_, a| *a = status(503).with("Retry-After", "Sun, 06 Nov 1994 08:49:57 GMT"),
        Ok(()),
        &[20_000],
    )
    .await;
    assert!(retry_in(date) > 0, "the date is in the future of the test's clock");
    check_fetch(
        "past",
        1,
        |_, a| *a = status(429).with("Retry-After", "Sun, 06 Nov 1994 08:00:00 GMT"),
        Ok(()),
        &[250],
    )
    .await;
    check_fetch("hours", 1, |_, a| *a = status(429).with("Retry-After", "36000"), Ok(()), &[60_000]).await;
    check_fetch("nonsense", 1, |_, a| *a = status(429).with("Retry-After", "later"), Ok(()), &[250]).await;
}

fn retry_in(date: &str) -> i64 {
    let at = jiff::fmt::rfc2822::parse(date).unwrap().timestamp();
    at.as_second() - TestPace::default().now().as_second()
}

#[tokio::test]
async fn cut_bodies_go_on_where_they_stopped() {
    check_fetch("cut at 0", 1, |_, a| a.cut_after = Some(0), Ok(()), &[250]).await;
    check_fetch("cut at 1", 1, |_, a| a.cut_after = Some(1), Ok(()), &[250]).await;
    check_fetch("cut at half", 1, |_, a| a.cut_after = Some(a.body.len() / 2), Ok(()), &[250]).await;
    check_fetch("cut at n-1", 1, |_, a| a.cut_after = Some(a.body.len() - 1), Ok(()), &[250]).await;
    let lasting = ["got no complete answer in 6 attempts"];
    check_fetch("cut for ever", 99, |_, a| a.cut_after = Some(0), Err(&lasting), &[250, 500, 1000, 2000, 4000]).await;
    for (case, second) in [
        ("range ignored", (|_: &Request, a: &mut Response| *a = whole("layer")) as Change),
        ("wrong range", |_, a| {
            *a = whole("layer").with("Content-Range", "bytes 0-4999/5000");
            a.status = 206;
        }),
        ("416", |_, a| *a = status(416)),
    ] {
        let registry = start();
        let image = Image::new("layer");
        image.serve(&registry, "app", "1");
        registry.fault("GET", "/blobs/", 2, move |request, answer| {
            if request.header("range").is_none() { answer.cut_after = Some(10) } else { second(request, answer) }
        });
        let (client, _) = client(|_| {});
        check(case, fetch(&client, &name(&registry, "app:1"), &image).await, Ok(()));
        let ranges: Vec<_> = registry.seen().iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
        assert_eq!(ranges, ["bytes=10-"], "{case}");
    }
}

fn whole(text: &str) -> Response {
    Response::new(200).body(text.repeat(1000))
}

#[tokio::test]
async fn wrong_bytes_and_lengths_leave_nothing() {
    let mismatch = ["gave other bytes than asked for: expected `sha256:", "found `sha256:"];
    check_fetch("flipped byte", 99, |_, a| a.body[7] ^= 1, Err(&mismatch), &[]).await;
    let short = ["gave 4999 bytes where `sha256:", "has 5000"];
    check_fetch(
        "one byte less",
        99,
        |_, a| {
            a.body.pop();
        },
        Err(&short),
        &[],
    )
    .await;
    let long = ["gave 5001 bytes where"];
    check_fetch("one byte more", 99, |_, a| a.body.push(0), Err(&long), &[]).await;
    let endless = ["gave too many bytes where"];
    check_fetch(
        "one byte more in chunks",
        99,
        |_, a| {
            a.set("Transfer-Encoding", "chunked");
            a.body = [b"1389\r\n", &*vec![b'x'; 5001], b"\r\n0\r\n\r\n"].concat();
        },
        Err(&endless),
        &[],
    )
    .await;
    check_fetch("wrong header", 1, |_, a| a.set("Content-Length", "6000"), Err(&["gave 6000 bytes where"]), &[]).await;
    check_fetch("206 unasked", 99, |_, a| a.status = 206, Err(&["206 means nothing here"]), &[]).await;
}

#[tokio::test]
async fn a_resumed_transfer_that_came_out_wrong_starts_again() {
    let registry = start();
    let image = Image::new("layer");
    image.serve(&registry, "app", "1");
    registry.fault("GET", "/blobs/", 1, |_, answer| {
        answer.body[3] ^= 1;
        answer.cut_after = Some(100);
    });
    let (client, _) = client(|_| {});
    fetch(&client, &name(&registry, "app:1"), &image).await.unwrap();
    assert_eq!(registry.count("GET", "/blobs/"), 3, "cut, resumed, once more");
}

#[tokio::test]
async fn stillness_ends_a_transfer_and_slowness_does_not() {
    let still = ["stood still for 0.3 s in 6 attempts"];
    let registry = start();
    let image = Image::new("layer");
    image.serve(&registry, "app", "1");
    registry.fault("GET", "/blobs/", 99, |_, answer| answer.stall_after = Some(0));
    let (client, _) = client(|settings| settings.idle_timeout = Duration::from_millis(300));
    check("stall", fetch(&client, &name(&registry, "app:1"), &image).await, Err(&still));
    // 20 pieces with pauses take longer than the timeout together, but none of them does.
    let slow: Change = |_, a| a.trickle = Some((a.body.len() / 20, Duration::from_millis(100)));
    check_fetch("slow", 1, slow, Ok(()), &[]).await;
}

#[tokio::test]
async fn progress_counts_to_the_size_and_a_blob_that_is_there_is_not_fetched() {
    let registry = start();
    let image = Image::with_layer(vec![7; 3 << 20], "amd64", "");
    image.serve(&registry, "app", "1");
    registry.fault("GET", "/blobs/", 1, |_, answer| answer.cut_after = Some(2 << 20));
    let (client, _) = client(|_| {});
    let (reference, store) = (name(&registry, "app:1"), MemoryStore::default());
    let told = Mutex::new(Vec::new());
    let tell = |bytes| told.lock().unwrap().push(bytes);
    client.fetch_blob(&reference, &image.layer_descriptor(), &store, &tell).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted() && told.last() == Some(&(3 << 20)), "{told:?}");
    registry.forget();
    client.fetch_blob(&reference, &image.layer_descriptor(), &store, &|_| {}).await.unwrap();
    assert_eq!(registry.log(), [""; 0]);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named_soon() {
    let gone = start().host();
    let (client, pace) = client(|_| {});
    let result = resolve(&client, &format!("{gone}/app:1").parse().unwrap()).await;
    check("gone", result, Err(&[&gone, "got no complete answer in 3 attempts", "refused", "can be reached from here"]));
    assert_eq!(pace.slept().len(), 2);
}

#[tokio::test]
async fn requests_to_one_registry_are_bounded() {
    let registry = start();
    let images: Vec<Image> = (0..12).map(|n| Image::new(&format!("layer {n}"))).collect();
    for image in &images {
        image.serve(&registry, "app", "1");
    }
    registry.fault("GET", "/blobs/", 99, |_, answer| answer.stall_after = Some(0));
    let (client, _) = client(|settings| settings.connections_per_host = 3);
    let reference = name(&registry, "app:1");
    let fetches = futures_util::future::join_all(images.iter().map(|image| fetch(&client, &reference, image)));
    let asked = || registry.count("GET", "/blobs/");
    let all_that_come = async {
        while asked() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Time for those that must not come.
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        _ = fetches => panic!("a stalled transfer ended"),
        () = all_that_come => {}
    }
    assert_eq!(asked(), 3);
}
