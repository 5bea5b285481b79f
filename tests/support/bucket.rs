//! A bucket for tests that need no look behind it: of the server in `tests/support/s3.rs`, or of any other.

use super::s3::{BUCKET, KEY, S3Server, SECRET};
use super::temp_dir;

/// A bucket that may be written to.
pub struct Bucket {
    /// `http://HOST:PORT`.
    pub endpoint: String,
    /// The server's region.
    pub region: String,
    /// Its name.
    pub name: String,
    /// A key that may read and write it.
    pub key: String,
    /// The key's secret.
    pub secret: String,
    /// The server, if it is ours.
    pub server: Option<S3Server>,
}

impl Bucket {
    /// That of the server which `RBUILD_TEST_S3` names by `ENDPOINT REGION BUCKET KEY SECRET`, or of one of our own.
    pub fn open() -> Self {
        if let Ok(told) = std::env::var("RBUILD_TEST_S3") {
            let words: Vec<String> = told.split(' ').map(str::to_owned).collect();
            let [endpoint, region, name, key, secret] = words.try_into().expect("RBUILD_TEST_S3 has five words");
            return Self { endpoint, region, name, key, secret, server: None };
        }
        let server = S3Server::start(temp_dir());
        let endpoint = server.endpoint.clone();
        let [region, name, key, secret] = ["eu-west-9", BUCKET, KEY, SECRET].map(str::to_owned);
        Self { endpoint, region, name, key, secret, server: Some(server) }
    }

    /// As `--cache-to` and `--cache-from` name it.
    pub fn place(&self, more: &str) -> String {
        let Self { endpoint, region, name, .. } = self;
        format!("type=s3,bucket={name},region={region},endpoint_url={endpoint}{more}")
    }
}
