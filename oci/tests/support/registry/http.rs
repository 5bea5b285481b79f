//! HTTP/1.1 as far as the test registry needs it: requests read whole, answers written as told, wrong ones included.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

/// What a connection must do.
pub trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// An answer as it goes.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut_after: Option<usize>,
    /// Nothing moves any more after so many bytes of the body, until the registry is dropped.
    pub stall_after: Option<usize>,
    /// The body goes in pieces of this many bytes with this pause between them.
    pub trickle: Option<(usize, Duration)>,
}

impl Request {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        self.params(name).into_iter().next()
    }

    /// All parameters of the query with a name.
    pub fn params(&self, name: &str) -> Vec<String> {
        form(&self.query).into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }

    /// Name and password of Basic authentication.
    pub fn basic(&self) -> Option<(String, String)> {
        let text = unbase64(self.header("authorization")?.strip_prefix("Basic ")?)?;
        let (name, password) = text.split_once(':')?;
        Some((name.into(), password.into()))
    }
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a header, replacing any of that name.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.headers.push((name.into(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// An error in the registry's form.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\"}}]}}");
        Self::new(status).with("Content-Type", "application/json").body(body)
    }

    /// Sends the answer, without its body after HEAD. `stall` returns when nobody waits any more. Tells whether the
    /// connection can be used again.
    pub fn write(&self, connection: &mut dyn Connection, head_only: bool, stall: impl FnOnce()) -> io::Result<bool> {
        let mut head = format!("HTTP/1.1 {} Test\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let header = |name: &str| self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        let length = header("content-length");
        if length.is_none() && header("transfer-encoding").is_none() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        connection.write_all(format!("{head}\r\n").as_bytes())?;
        if head_only {
            connection.flush()?;
            return Ok(true);
        }
        let end = self.cut_after.or(self.stall_after).unwrap_or(self.body.len());
        let (piece, pause) = self.trickle.unwrap_or((usize::MAX, Duration::ZERO));
        for piece in self.body[..end.min(self.body.len())].chunks(piece) {
            connection.write_all(piece)?;
            connection.flush()?;
            std::thread::sleep(pause);
        }
        connection.flush()?;
        if self.stall_after.is_some() {
            stall();
        }
        let honest = length.is_none_or(|(_, value)| value.parse() == Ok(self.body.len()));
        Ok(honest && self.cut_after.is_none() && self.stall_after.is_none())
    }
}

/// One request but for its body.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Request> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().ok_or_else(bad)?.to_owned(), words.next().ok_or_else(bad)?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request { method, path: path.into(), query: query.into(), ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(request)
}

/// The body of a request whose head was read.
pub fn read_body(reader: &mut impl BufRead, request: &mut Request) -> io::Result<()> {
    let length = request.header("content-length").map_or(Ok(0), str::parse);
    request.body = vec![0; length.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?];
    reader.read_exact(&mut request.body)
}

/// The pairs of a query or form, decoded.
pub fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unescape(k), unescape(v))).collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = || u8::from_str_radix(std::str::from_utf8(after.get(..2)?).ok()?, 16).ok();
        match (first, escaped()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (other, _) => {
                bytes.push(*other);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unbase64(text: &str) -> Option<String> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for byte in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | DIGITS.iter().position(|digit| *digit == byte)? as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    String::from_utf8(bytes).ok()
}
