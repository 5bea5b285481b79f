//! Pushing, in good and bad weather. Whatever happens, the tag names a complete image or nothing.

use super::server::{Request, Response};
use super::*;

type Change = fn(&Request, &mut Response);

fn complete(registry: &Registry, repository: &str, tag: &str, image: &Image) -> bool {
    let blobs = [&image.config, &image.layer];
    registry.manifest(repository, tag).as_ref() == Some(&image.manifest)
        && blobs.iter().all(|blob| registry.blob(repository, &digest_of(blob)).as_ref() == Some(blob))
}

#[tokio::test]
async fn image_is_pushed_blobs_first_and_pushed_again_without_bytes() {
    let registry = start();
    let image = Image::new("a");
    let (client, _) = client(|_| {});
    let told = Mutex::new(Vec::new());
    let tell = |digest: &Digest, bytes| told.lock().unwrap().push((*digest, bytes));
    let reference = name(&registry, "team/app:1");
    let digest = push_image(&client, &reference, &image.to_push(&[]), &image.store(), &tell).await.unwrap();
    assert_eq!(digest, Digest::of(&image.manifest));
    assert!(complete(&registry, "team/app", "1", &image));
    assert_eq!(registry.log().last().unwrap(), "PUT /v2/team/app/manifests/1");
    let told = told.into_inner().unwrap();
    for bytes in [&image.config, &image.layer] {
        assert!(told.contains(&(Digest::of(bytes), bytes.len() as u64)), "{told:?}");
    }
    let sent =
        registry.seen().into_iter().find(|request| request.method == "PUT" && request.body == image.layer).unwrap();
    assert_eq!(sent.header("content-length"), Some("1000"), "sent in one piece of known length");
    registry.forget();
    push(&client, &reference, &image).await.unwrap();
    assert_eq!((registry.count("POST", ""), registry.count("PUT", "/blobs/")), (0, 0));
}

#[tokio::test]
async fn a_reference_with_a_digest_is_pushed_by_digest_and_must_be_the_image() {
    let registry = start();
    let image = Image::new("a");
    let (client, _) = client(|_| {});
    let pinned: Reference = format!("{}/app@{}", registry.host(), digest_of(&image.manifest)).parse().unwrap();
    push(&client, &pinned, &image).await.unwrap();
    assert_eq!(registry.log().last().unwrap(), &format!("PUT /v2/app/manifests/{}", digest_of(&image.manifest)));
    registry.forget();
    let result = push(&client, &pinned, &Image::new("b")).await;
    check("other", result, Err(&["cannot push", "the image has the digest"]));
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    let mut image = Image::new("a");
    let what = image.to_push(&[]);
    image.manifest.push(b' ');
    let what = PushImage { manifest_bytes: image.manifest.clone(), ..what };
    let result = push_image(&client, &name(&registry, "app:1"), &what, &image.store(), &|_, _| {}).await;
    check("descriptor", result, Err(&["not those of its descriptor"]));
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
}

#[tokio::test]
async fn blobs_are_mounted_from_neighbours_where_the_registry_allows_it() {
    let cases: &[(&str, bool, Option<Change>, (usize, usize))] = &[
        // POSTs and PUTs of the layer.
        ("201", true, None, (1, 0)),
        ("202", false, None, (1, 1)),
        ("denied", true, Some(|_, a| *a = Response::error(403, "DENIED", "no")), (2, 1)),
        ("unknown", true, Some(|_, a| *a = Response::error(404, "NAME_UNKNOWN", "no")), (2, 1)),
        ("once more", true, Some(|_, a| *a = Response::error(503, "BUSY", "no")), (2, 0)),
    ];
    for (case, allowed, change, (posts, puts)) in cases {
        let registry = start();
        let image = Image::new("a");
        registry.put_blob("base/debian", &image.layer);
        registry.put_blob("app", &image.config);
        registry.allow_mounts(*allowed);
        if let Some(change) = change {
            registry.refuse("POST", "/blobs/uploads/", 1, *change);
        }
        let (client, _) = client(|_| {});
        let elsewhere: Reference = "quay.io/base/debian:12".parse().unwrap();
        let neighbours = [elsewhere, name(&registry, "app:old"), name(&registry, "base/debian:12")];
        let result =
            push_image(&client, &name(&registry, "app:1"), &image.to_push(&neighbours), &image.store(), &|_, _| {})
                .await;
        check(case, result, Ok(()));
        assert!(complete(&registry, "app", "1", &image), "{case}");
        assert_eq!((registry.count("POST", "uploads"), registry.count("PUT", "uploads")), (*posts, *puts), "{case}");
        let first = registry.seen().into_iter().find(|request| request.method == "POST").unwrap();
        assert_eq!(first.param("from").as_deref(), Some("base/debian"), "{case}");
    }
}

/// One fault during a push. When it fails the tag must not be there; when it succeeds the image must be whole.
async fn check_push(case: &str, fault: impl FnOnce(&Registry), want: Result<(), &[&str]>) {
    let registry = start();
    let image = Image::new("a");
    fault(&registry);
    let (client, _) = client(|_| {});
    let result = push(&client, &name(&registry, "app:1"), &image).await;
    let fine = result.is_ok();
    check(case, result, want);
    assert_eq!(complete(&registry, "app", "1", &image), fine, "{case}");
    assert!(fine || registry.manifest("app", "1").is_none(), "{case}: the tag names an incomplete image");
}

fn status(status: u16) -> Response {
    Response::error(status, "TROUBLE", "in the cellar")
}

#[tokio::test]
async fn every_request_of_a_push_survives_passing_trouble() {
    let requests =
        [("HEAD", "/blobs/"), ("POST", "/blobs/uploads/"), ("PUT", "/blobs/uploads/"), ("PUT", "/manifests/")];
    for (method, part) in requests {
        let check = async |code: u16, times, want: Result<(), &[&str]>| {
            let case = format!("{method} {part} {code} {times}");
            let fault = |registry: &Registry| {
                registry.refuse(method, part, times, move |_, answer| *answer = status(code).with("Retry-After", "3"));
            };
            check_push(&case, fault, want).await;
        };
        check(500, 1, Ok(())).await;
        check(429, 3, Ok(())).await;
        // The answer to HEAD has no words.
        let said = if method == "HEAD" { "" } else { ": TROUBLE: in the cellar" };
        check(502, 999, Err(&[method, part, &format!("502 in 6 attempts{said}")])).await;
        check(400, 999, Err(&[method, part, &format!("answered with 400{said}")])).await;
    }
    // The registry did it but could not say so.
    for (method, part) in [("PUT", "/blobs/uploads/"), ("POST", "/blobs/uploads/"), ("PUT", "/manifests/")] {
        check_push("done", |r| r.fault(method, part, 1, |_, answer| *answer = status(500)), Ok(())).await;
        check_push("cut", |r| r.fault(method, part, 1, |_, answer| *answer = cut()), Ok(())).await;
    }
}

/// An answer whose body never comes.
fn cut() -> Response {
    Response { cut_after: Some(0), ..status(500) }
}

#[tokio::test]
async fn lost_sessions_begin_again() {
    let lose = |code, times| {
        move |registry: &Registry| {
            registry.refuse("PUT", "/blobs/uploads/", times, move |_, answer| *answer = status(code));
        }
    };
    check_push("404", lose(404, 1), Ok(())).await;
    check_push("416", lose(416, 1), Ok(())).await;
    check_push("404 for ever", lose(404, 999), Err(&["PUT", "404 in 6 attempts"])).await;
    let manifest = |r: &Registry| r.refuse("PUT", "/manifests/", 99, |_, answer| *answer = status(404));
    check_push("manifest", manifest, Err(&["PUT", "/manifests/1", "answered with 404: TROUBLE"])).await;
}

#[tokio::test]
async fn answers_against_the_protocol_are_told_and_end_it() {
    let wrong_digest: Change = |_, a| a.set("Docker-Content-Digest", format!("sha256:{}", "0".repeat(64)));
    let cases: &[(&str, &str, Change, &[&str])] = &[
        ("no location", "POST", |_, a| a.remove("Location"), &["POST", "has no `Location`"]),
        ("bad location", "POST", |_, a| a.set("Location", "http://["), &["is no URL"]),
        ("200 for 202", "POST", |_, a| a.status = 200, &["200 means nothing here"]),
        ("201 unasked", "POST", |_, a| a.status = 201, &["201 means nothing here"]),
        ("ftp", "POST", |_, a| a.set("Location", "ftp://127.0.0.1/x"), &["only HTTPS and HTTP are spoken"]),
        (
            "plain stranger",
            "POST",
            |_, a| a.set("Location", "http://192.0.2.1/x?sig=s3cret"),
            &["points to `http://192.0.2.1/x`", "listed as insecure"],
        ),
        ("202 for 201", "PUT", |_, a| a.status = 202, &["202 means nothing here"]),
        ("other blob", "PUT", wrong_digest, &["gave other bytes than asked for"]),
        ("too large", "PUT", |_, a| *a = Response::new(413), &["413", "limits the size of an upload"]),
    ];
    for (case, method, change, want) in cases {
        let method: &'static str = method;
        check_push(case, |r| r.fault(method, "/blobs/uploads/", 99, *change), Err(want)).await;
    }
    let other_manifest = |r: &Registry| {
        r.refuse("PUT", "/manifests/", 99, move |request, answer| {
            answer.status = 201;
            wrong_digest(request, answer);
        })
    };
    check_push("other manifest", other_manifest, Err(&["gave other bytes than asked for"])).await;
}

#[tokio::test]
async fn locations_may_be_absolute_and_elsewhere() {
    let image = Image::new("a");
    // Absolute, same registry.
    let registry = start();
    let base = format!("http://{}", registry.host());
    registry.fault("POST", "/uploads/", 99, move |_, answer| {
        let location = answer.headers.iter_mut().find(|(name, _)| name == "Location").unwrap();
        location.1 = format!("{base}{}", location.1);
    });
    let (client, _) = client(|_| {});
    push(&client, &name(&registry, "app:1"), &image).await.unwrap();
    assert!(complete(&registry, "app", "1", &image));
    // On another host: a storage that knows the session, but nobody's name.
    let (registry, storage) = (start(), start());
    registry.require(server::Auth::Basic("bob".into(), "pw".into()));
    storage.fault("PUT", "/store/", 99, |request, answer| {
        let digest = digest_of(&request.body);
        *answer = Response::new(if request.param("digest") == Some(digest) { 201 } else { 400 });
    });
    let there = format!("http://{}/store/1?sig=s3cret", storage.host());
    registry.fault("POST", "/uploads/", 99, move |request, answer| {
        if request.header("authorization").is_some() {
            answer.set("Location", there.clone());
        }
    });
    let (client, _) = super::client(|settings| {
        let bob = rbuild_oci::registry::Credential::Password {
            username: "bob".into(),
            password: rbuild_oci::registry::Secret::new("pw"),
        };
        settings.credentials = rbuild_oci::registry::Credentials::none().with(&registry.host(), bob);
    });
    push(&client, &name(&registry, "app:1"), &image).await.unwrap();
    let stored = storage.seen();
    assert_eq!(stored.len(), 2);
    for request in stored {
        assert_eq!(request.header("authorization"), None);
        assert!(request.query.starts_with("sig=s3cret&digest=sha256:"), "{}", request.query);
    }
}

#[tokio::test]
async fn uploads_are_read_again_after_a_redirect() {
    let (registry, image) = (start(), Image::new("a"));
    registry.fault("POST", "/uploads/", 99, |_, answer| {
        let location = answer.headers.iter_mut().find(|(name, _)| name == "Location").unwrap();
        location.1.insert_str(0, "/hop");
    });
    registry.refuse("PUT", "/hop/", 99, |request, answer| {
        let target = format!("{}?{}", request.path.strip_prefix("/hop").unwrap(), request.query);
        *answer = Response::new(307).with("Location", target);
    });
    let (client, _) = client(|_| {});
    push(&client, &name(&registry, "app:1"), &image).await.unwrap();
    assert!(complete(&registry, "app", "1", &image));
    assert_eq!(registry.count("PUT", "/uploads/"), 4, "each of two blobs was sent twice");
    let moved = |r: &Registry| r.refuse("PUT", "/uploads/", 99, |_, a| *a = Response::new(302).with("Location", "/x"));
    check_push("302", moved, Err(&["a redirect with 302 is not followed"])).await;
}

#[tokio::test]
async fn what_the_store_lacks_or_has_spoilt_is_not_pushed() {
    let (registry, image) = (start(), Image::new("a"));
    let (client, _) = client(|_| {});
    let store = MemoryStore::default();
    put_bytes(&store, &image.config).unwrap();
    let result = push_image(&client, &name(&registry, "app:1"), &image.to_push(&[]), &store, &|_, _| {}).await;
    check("missing", result, Err(&["is to be pushed but is not in the store"]));
    let mut what = image.to_push(&[]);
    what.blobs[1].descriptor.size += 1;
    let result = push_image(&client, &name(&registry, "app:1"), &what, &image.store(), &|_, _| {}).await;
    check("size", result, Err(&["has 1000 bytes, but 1001 were promised"]));
    let result =
        push_image(&client, &name(&registry, "app:1"), &image.to_push(&[]), &Spoilt(image.store()), &|_, _| {}).await;
    check("spoilt", result, Err(&["cannot read `sha256:", "from the store", "was promised"]));
    assert_eq!(registry.manifest("app", "1"), None);
}

/// A store whose bytes have rotted.
pub(super) struct Spoilt(pub(super) MemoryStore);

impl ContentStore for Spoilt {
    fn open(
        &self,
        digest: &Digest,
    ) -> Result<Option<Box<dyn rbuild_oci::content::BlobReader>>, rbuild_oci::content::ContentError> {
        let bytes = bytes_of(&self.0, digest).map(|mut bytes| {
            bytes[5] ^= 1;
            bytes
        });
        let rotten = MemoryStore::default();
        let bytes = bytes.unwrap();
        let (digest, _) = put_bytes(&rotten, &bytes)?;
        rotten.open(&digest)
    }

    fn writer(&self) -> Result<Box<dyn rbuild_oci::content::BlobWriter>, rbuild_oci::content::ContentError> {
        self.0.writer()
    }
}

/// Reads no further than a mebibyte until the gate is opened.
struct Gated {
    socket: std::net::TcpStream,
    read: usize,
    gate: Arc<(Mutex<bool>, std::sync::Condvar)>,
}

impl std::io::Read for Gated {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.read > 1 << 20 {
            let open = self.gate.0.lock().unwrap();
            drop(self.gate.1.wait_while(open, |open| !*open).unwrap());
        }
        let count = self.socket.read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

impl std::io::Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

#[tokio::test]
async fn a_large_upload_that_nobody_reads_ends() {
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let inner = gate.clone();
    let registry = Registry::start_with(
        digest_of,
        Arc::new(move |socket| Ok(Box::new(Gated { socket, read: 0, gate: inner.clone() }))),
    );
    // More than the buffers of two sockets take.
    let image = Image::with_layer(vec![7; 32 << 20], "amd64", "");
    let (client, _) = client(|settings| settings.idle_timeout = Duration::from_millis(200));
    let result = push(&client, &name(&registry, "app:1"), &image).await;
    check("stall", result, Err(&["PUT", "/blobs/uploads/", "stood still for 0.2 s in 6 attempts"]));
    assert_eq!(registry.manifest("app", "1"), None);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[tokio::test]
async fn storage_that_knows_no_head_does_not_hinder() {
    let (registry, storage, image) = (start(), start(), Image::new("a"));
    image.serve(&registry, "app", "1");
    storage.fault("HEAD", "", 99, |_, answer| *answer = Response::new(403));
    let target = format!("http://{}/signed", storage.host());
    registry.fault("HEAD", "/blobs/", 99, move |_, a| *a = Response::new(307).with("Location", target.clone()));
    let (client, _) = client(|_| {});
    push(&client, &name(&registry, "app:2"), &image).await.unwrap();
    assert!(complete(&registry, "app", "2", &image));
}

#[test]
fn a_client_can_be_used_from_spawned_tasks() {
    fn send<T: Send>(_: T) {}
    let (client, _) = client(|_| {});
    let (image, store) = (Image::new("a"), MemoryStore::default());
    let (reference, what) = ("localhost/app:1".parse().unwrap(), image.to_push(&[]));
    send(client.resolve(&reference, &linux(), &store));
    send(client.fetch_blob(&reference, &what.manifest, &store, &|_| {}));
    send(client.push_blob(&reference, &what.blobs[0], &store, &|_, _| {}));
    send(client.copy_blob(&reference, &reference, &what.manifest, &|_, _| {}));
    send(client.put_document(&reference, &what.manifest, &what.manifest_bytes, &Condition::Always));
}
