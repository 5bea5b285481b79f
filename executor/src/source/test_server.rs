//! A small HTTP(S) server on loopback for tests of sources: it answers as its handler says, and remembers who asked
//! what. For TLS it shows the certificate of the registry tests.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Certificate of the authority that signed the TLS server's, in PEM form.
pub(super) const AUTHORITY: &[u8] = include_bytes!("../../../oci/tests/support/tls/authority.pem");

/// A connection.
pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What a client asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What it gets.
pub(super) enum Reply {
    /// Status, headers, body; the length is added.
    Plain(u16, Vec<(String, String)>, Vec<u8>),
    /// Whatever the function writes, then the end of the connection.
    Raw(Writing),
}

type Writing = Box<dyn FnOnce(&mut dyn Stream) -> std::io::Result<()> + Send>;

impl Reply {
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::Plain(status, headers.collect(), body.into())
    }

    pub fn raw(write: impl FnOnce(&mut dyn Stream) -> std::io::Result<()> + Send + 'static) -> Self {
        Self::Raw(Box::new(write))
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// Stops listening when dropped; connections end with their clients.
pub(super) struct Server {
    scheme: &'static str,
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn new(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(handler, None)
    }

    /// Over TLS.
    pub fn tls(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!("../../../oci/tests/support/tls/localhost.pem"));
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../../oci/tests/support/tls/localhost-key.pem"));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect::<Result<Vec<_>, _>>().unwrap(), key.unwrap())
            .unwrap();
        Self::start(handler, Some(Arc::new(config)))
    }

    fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static, tls: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::default());
        let (handler, memory): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (handler, memory, tls) = (handler.clone(), memory.clone(), tls.clone());
                let stream = stream.unwrap();
                std::thread::spawn(move || match tls {
                    None => serve(stream, &*handler, &memory),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        serve(StreamOwned::new(connection, stream), &*handler, &memory);
                    }
                });
            }
        });
        Self { scheme, address, asked }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn serve(stream: impl Stream, handler: &Handler, memory: &Mutex<Vec<Request>>) {
    let mut stream = BufReader::new(stream);
    // A client that goes away in the middle is none of the server's business.
    while let Ok(Some(request)) = read(&mut stream) {
        memory.lock().unwrap().push(request.clone());
        let done = match handler(&request) {
            Reply::Raw(write) => {
                drop(write(stream.get_mut()).and_then(|()| stream.get_mut().flush()));
                return;
            }
            Reply::Plain(status, headers, body) => answer(stream.get_mut(), &request, status, &headers, &body),
        };
        if done.is_err() {
            return;
        }
    }
}

fn answer(
    out: &mut dyn Stream,
    request: &Request,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Words\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if status != 304 && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out.write_all(format!("{text}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        out.write_all(body)?;
    }
    out.flush()
}

fn read(reader: &mut BufReader<impl Stream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        ..Request::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.header("expect").is_some() {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut request.body)?;
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
            reader.read_exact(&mut chunk)?;
            if chunk.len() == 2 {
                break;
            }
            request.body.extend_from_slice(&chunk[..chunk.len() - 2]);
        }
    }
    Ok(Some(request))
}
