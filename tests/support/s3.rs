//! A real S3 server (the crate `s3s-fs`) on a free loopback port: buckets are folders, objects are files. Its threads
//! end with the test's process.

use std::path::PathBuf;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;

/// The only key that the server knows.
pub const KEY: &str = "AKIDTEST";
/// Its secret.
pub const SECRET: &str = "canary/secret+of=the bucket";
/// The bucket that is there.
pub const BUCKET: &str = "cache";

/// A running server.
pub struct S3Server {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    dir: TempDir,
}

impl S3Server {
    /// Serves a bucket without objects, from a folder in `dir`.
    pub fn start(dir: TempDir) -> Self {
        std::fs::create_dir(dir.path().join(BUCKET)).expect("the directory is new");
        let files = FileSystem::new(dir.path()).expect("the directory is there");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be asked to");
        let endpoint = format!("http://{}", listener.local_addr().expect("it listens"));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("it listens");
                let http = Builder::new(TokioExecutor::new());
                loop {
                    let (socket, _) = listener.accept().await.expect("loopback accepts");
                    let connection = http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
                    // A client that goes away is no business of the server's.
                    tokio::spawn(async move { drop(connection.await) });
                }
            });
        });
        Self { endpoint, dir }
    }

    /// Where an object is.
    pub fn object(&self, key: &str) -> PathBuf {
        self.dir.path().join(BUCKET).join(key)
    }

    /// The keys of all objects, sorted.
    pub fn keys(&self) -> Vec<String> {
        let root = self.dir.path().join(BUCKET);
        let mut keys = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("the server's folder is there") {
                let path = entry.expect("it can be listed").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => keys.push(path.strip_prefix(&root).expect("it is inside").display().to_string()),
                }
            }
        }
        keys.sort();
        keys
    }
}
