//! What is known of an address saves a transfer, and never decides what the bytes are.

use super::*;

#[tokio::test]
async fn an_unchanged_file_is_not_transferred_again() {
    for (header, value, condition) in [
        ("ETag", "\"v1\"", "if-none-match"),
        ("ETag", "W/\"v1\"", "if-none-match"),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT", "if-modified-since"),
    ] {
        let bench = Bench::new();
        let server = Server::new(move |request| match request.header(condition) {
            Some(known) if known == value => Reply::new(304, &[], ""),
            _ => Reply::new(200, &[(header, value), ("Content-Disposition", "attachment; filename=n")], "bytes"),
        });
        let url = server.url("/a?token=secret");
        let first = bench.get(&url).await.unwrap();
        assert_eq!((bench.text(&first).as_str(), first.file_name.as_str()), ("bytes", "n"));
        assert_eq!(first.last_modified, (header == "Last-Modified").then_some(784_111_777));
        assert_eq!(server.asked().len(), 1);
        assert_eq!(bench.get(&url).await.unwrap(), first, "{header}");
        assert_eq!(server.asked()[0].header(condition), Some(value));
        // Gone or damaged, it is asked for without conditions.
        let blob = bench.store.blobs().path(&first.digest);
        for spoil in [
            |blob: &std::path::Path| std::fs::remove_file(blob),
            |blob: &std::path::Path| std::fs::write(blob, "byteZ"),
        ] {
            spoil(&blob).unwrap();
            assert_eq!(bench.get(&url).await.unwrap(), first);
            assert_eq!(bench.text(&first), "bytes");
            assert_eq!(server.asked()[0].header(condition), None);
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_another() {
    let bench = Bench::new();
    let server = in_turn(vec![
        answer(|_| Reply::new(200, &[("ETag", "\"1\"")], "one")),
        answer(|_| Reply::new(200, &[("ETag", "\"2\"")], "two")),
        answer(|request| {
            assert_eq!(request.header("if-none-match"), Some("\"2\""));
            Reply::new(304, &[], "")
        }),
        // One without validators is asked for anew each time.
        answer(|_| Reply::new(200, &[], "three")),
        answer(|request| {
            assert_eq!((request.header("if-none-match"), request.header("if-modified-since")), (None, None));
            Reply::new(200, &[], "four")
        }),
    ]);
    let url = server.url("/a");
    for want in ["one", "two", "two", "three", "four"] {
        let file = bench.get(&url).await.unwrap();
        assert_eq!(bench.text(&file), want);
    }
}

#[tokio::test]
async fn not_modified_means_nothing_to_who_has_nothing() {
    let bench = Bench::new();
    let server = Server::new(|_| Reply::new(304, &[], ""));
    let error = bench.get(&server.url("/a")).await.unwrap_err();
    assert!(matches!(&error, HttpError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn bytes_are_those_of_the_checksum_or_nothing_is_kept() {
    let bench = Bench::new();
    let server = Server::new(|_| Reply::new(200, &[], "bytes"));
    let url = server.url("/a");
    for name in ["sha256", "sha384", "sha512"] {
        let sum = std::process::Command::new("sh").args(["-c", &format!("printf bytes | {name}sum")]).output().unwrap();
        let digits = String::from_utf8(sum.stdout).unwrap().split(' ').next().unwrap().to_owned();
        let good = format!("{name}:{digits}");
        let wrong = format!("{name}:{}", digits.chars().rev().collect::<String>());
        let error = bench.get_as(&url, Some(&wrong)).await.unwrap_err();
        let words = error.to_string();
        assert!(
            matches!(error, HttpError::Mismatch { .. }) && words.contains(&good) && words.contains(&wrong),
            "{words}"
        );
        assert_eq!(bench.blobs(), 0, "{name}");
        let file = bench.get_as(&url, Some(&good)).await.unwrap();
        assert_eq!(bench.text(&file), "bytes");
        std::fs::remove_file(bench.store.blobs().path(&file.digest)).unwrap();
    }
    // What has this checksum and is here needs no asking.
    let file = bench.get(&url).await.unwrap();
    server.asked();
    assert_eq!(bench.get_as(&url, Some(&file.digest.to_string())).await.unwrap(), file);
    assert_eq!(server.asked().len(), 0);
}
