//! A registry that answers what a test tells it to: errors, wrong bytes. Plain HTTP/1.1 on loopback, one request per
//! connection; every request is kept.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: String,
    /// With the query.
    pub path: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
pub struct Reply {
    /// `200`, …
    pub status: u16,
    /// Beside the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What the head says of the body's length, if it lies.
    pub length: Option<usize>,
    /// How long each byte of the body takes, if it is to take long.
    pub pace: Option<Duration>,
}

impl Reply {
    /// A status with a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None, pace: None }
    }

    /// Says that the body has so many bytes.
    pub fn says(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    /// Sends its body byte by byte, each after so long.
    pub fn paced(mut self, pace: Duration) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A running server; it ends with the test's process.
pub struct Fake {
    /// `127.0.0.1:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Answers by `answer` from now on.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, answer) = (kept.clone(), answer.clone());
                let stream = stream.expect("loopback accepts");
                std::thread::spawn(move || serve(stream, &kept, &*answer));
            }
        });
        Self { address, requests }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test panics with it").clone()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut lines = reader.by_ref().lines();
    // A connection that is closed without a request is a client that changed its mind.
    let Some(Ok(first)) = lines.next() else { return };
    let mut words = first.split(' ').map(String::from);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    let mut headers = Vec::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    // Its body is read, so that it is not refused by a reset; one that breaks off is what it is.
    let _ = std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink());
    let request = Request { method, path, headers };
    let reply = answer(&request);
    let mut head = format!(
        "HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {}\r\n",
        reply.status,
        reply.length.unwrap_or(reply.body.len())
    );
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let silent = request.method == "HEAD";
    kept.lock().expect("no test panics with it").push(request);
    // The client may hang up early: what it then says is what the test looks at.
    let _ = stream.write_all((head + "\r\n").as_bytes());
    if silent {
        return;
    }
    let Some(pace) = reply.pace else {
        let _ = stream.write_all(&reply.body);
        return;
    };
    for byte in reply.body {
        std::thread::sleep(pace);
        if stream.write_all(&[byte]).is_err() {
            return;
        }
    }
}
