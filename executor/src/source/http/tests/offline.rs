//! Offline, what an earlier build fetched is used, and nobody is asked.

use super::*;

#[tokio::test]
async fn offline_takes_what_was_fetched_and_asks_nobody() {
    let bench = Bench::new();
    let server = Server::new(|_| Reply::new(200, &[("ETag", "\"1\"")], "bytes"));
    let url = server.url("/a?token=secret");
    let offline = async |url: &str, checksum: Option<&str>| {
        let source = HttpSource {
            url: url.to_owned(),
            checksum: checksum.map(|text| text.parse().unwrap()),
            authorization: None,
        };
        fetch(&bench.store, &source, Connectivity::Offline, &Log::default(), &CancellationToken::new()).await
    };
    let is_named = |result: Result<HttpFile, HttpError>| {
        let error = result.expect_err("it is not here");
        assert!(matches!(error, HttpError::Offline { .. }), "{error}");
        let said = format!("{error} {:?}", error.help());
        assert!(said.contains("/a") && said.contains("--offline") && !said.contains("secret"), "{said}");
    };
    is_named(offline(&url, None).await);
    let fetched = bench.get(&url).await.unwrap();
    assert_eq!(server.asked().len(), 1);
    assert_eq!(offline(&url, None).await.unwrap(), fetched);
    let sha256 = "sha256:277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9";
    let sha384 =
        "sha384:b38ac85d5d89e534f6122e015ab30e8d1451434ed255b76e500cc24a06d70c67016b2f7b837e593dc5e7be82de6ddd0b";
    assert_eq!(offline(&url, Some(sha256)).await.unwrap(), fetched);
    is_named(offline(&url, Some(&sha256.replacen(':', ":0", 1)[..71])).await);
    is_named(offline(&url, Some(&sha384.replacen(':', ":0", 1)[..103])).await);
    assert_eq!(offline(&url, Some(sha384)).await.unwrap(), fetched);
    is_named(offline(&server.url("/a/other"), None).await);
    // What is damaged is not here.
    std::fs::write(bench.store.blobs().path(&fetched.digest), "byteZ").unwrap();
    is_named(offline(&url, None).await);
    assert_eq!(server.asked().len(), 0);
}
