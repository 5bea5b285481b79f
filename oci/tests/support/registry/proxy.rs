//! A proxy on loopback, in front of the test registry or a real one, that makes requests in its way go wrong.
//!
//! Rules come in, each with the requests that it is for and how often; what no rule is for passes as it is. What has
//! passed can be looked at afterwards. Both sides speak HTTP/1; every request has a connection of its own to the
//! registry behind, bodies are held in memory.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::http::{Request, Response, read_body, read_head};

/// Changes the answer to a request.
pub type Change = Box<dyn Fn(&Request, &mut Response) + Send>;

/// What goes wrong.
pub enum Trouble {
    /// The registry is not asked; this is the answer.
    Instead(Response),
    /// The registry does it; this is the answer.
    Afterwards(Response),
    /// The registry does it; its answer is changed.
    Change(Change),
    /// Something happens first; then everything goes its way.
    First(Box<dyn Fn() + Send>),
    /// The connection ends before the body of the request is read; the registry is not asked.
    HangUp,
    /// The registry does it; the connection ends without an answer.
    HangUpAfterwards,
    /// The registry does it; the connection ends in the middle of the answer's head.
    HalfHead,
    /// The registry is not asked, and nothing more is heard.
    Silence,
    /// The registry does it, and nothing more is heard.
    SilenceAfterwards,
}

struct Rule {
    method: &'static str,
    part: String,
    skip: usize,
    times: usize,
    trouble: Trouble,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Request>,
    sockets: Vec<TcpStream>,
    stopping: bool,
}

struct Shared {
    upstream: String,
    state: Mutex<State>,
    stop: Condvar,
}

/// A running proxy; it ends with the value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of the registry at `upstream` (`host:port`), on a free port of 127.0.0.1.
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { upstream: upstream.into(), state: Mutex::default(), stop: Condvar::new() });
        let inner = shared.clone();
        let acceptor = std::thread::spawn(move || {
            let mut serving = Vec::new();
            for socket in listener.incoming() {
                let Ok(socket) = socket else { break };
                {
                    let mut state = inner.lock();
                    if state.stopping {
                        break;
                    }
                    state.sockets.push(socket.try_clone().expect("a socket can be cloned"));
                }
                let shared = inner.clone();
                serving.push(std::thread::spawn(move || {
                    // Whoever hangs up early is the one whom the test looks at.
                    let _ = shared.serve(&socket);
                    let _ = socket.shutdown(Shutdown::Both);
                }));
            }
            for thread in serving {
                thread.join().expect("the proxy does not panic");
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Makes trouble of the next `times` requests with this method and `part` in their path.
    pub fn trouble(&self, method: &'static str, part: &str, times: usize, trouble: Trouble) {
        self.trouble_after(method, part, 0, times, trouble);
    }

    /// The same, after the first `skip` of these requests.
    pub fn trouble_after(&self, method: &'static str, part: &str, skip: usize, times: usize, trouble: Trouble) {
        self.shared.lock().rules.push(Rule { method, part: part.into(), skip, times, trouble });
    }

    /// No rule is left.
    pub fn calm(&self) {
        self.shared.lock().rules.clear();
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.lock().seen.clone()
    }

    /// How many requests so far have this method and `part` in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.shared.lock().seen.iter().filter(|r| r.method == method && r.path.contains(part)).count()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.lock().seen.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            for socket in &state.sockets {
                // Already closed ones say so.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.shared.stop.notify_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// What the client gets.
enum Deed {
    Answer(Response),
    HalfHead,
    HangUp,
    Silence,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, socket: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(socket.try_clone()?);
        loop {
            match reader.fill_buf()?.first() {
                None => return Ok(()),
                Some(first) if first.is_ascii_uppercase() => {}
                // Somebody greets in TLS.
                Some(_) => return write_all(socket, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
            }
            let mut request = read_head(&mut reader)?;
            if self.hangs_up(&request) {
                self.lock().seen.push(request);
                return Ok(());
            }
            read_body(&mut reader, &mut request)?;
            let head_only = request.method == "HEAD";
            let deed = self.handle(request)?;
            let until_stopped = || drop(self.stop.wait_while(self.lock(), |state| !state.stopping));
            let response = match deed {
                Deed::HangUp => return Ok(()),
                Deed::Silence => {
                    until_stopped();
                    return Ok(());
                }
                Deed::HalfHead => return write_all(socket, b"HTTP/1.1 200 OK\r\nContent-Len"),
                Deed::Answer(response) => response,
            };
            let mut connection = socket.try_clone()?;
            if !response.write(&mut connection, head_only, until_stopped)? {
                return Ok(());
            }
        }
    }

    /// Whether the first rule for the request is that its connection ends.
    fn hangs_up(&self, request: &Request) -> bool {
        let mut state = self.lock();
        let Some(hit) = state.hit(request) else { return false };
        let ends = matches!(state.rules[hit].trouble, Trouble::HangUp) && state.rules[hit].skip == 0;
        if ends {
            state.rules[hit].times -= 1;
        }
        ends
    }

    fn handle(&self, request: Request) -> io::Result<Deed> {
        let mut state = self.lock();
        state.seen.push(request.clone());
        let Some(hit) = state.hit(&request) else {
            drop(state);
            return Ok(Deed::Answer(self.forward(&request)?));
        };
        if state.rules[hit].skip > 0 {
            state.rules[hit].skip -= 1;
            drop(state);
            return Ok(Deed::Answer(self.forward(&request)?));
        }
        state.rules[hit].times -= 1;
        Ok(match &state.rules[hit].trouble {
            Trouble::Instead(response) => Deed::Answer(response.clone()),
            Trouble::Afterwards(response) => {
                self.forward(&request)?;
                Deed::Answer(response.clone())
            }
            Trouble::Change(change) => {
                let mut response = self.forward(&request)?;
                change(&request, &mut response);
                Deed::Answer(response)
            }
            Trouble::First(first) => {
                first();
                Deed::Answer(self.forward(&request)?)
            }
            Trouble::HangUp => Deed::HangUp,
            Trouble::HangUpAfterwards => {
                self.forward(&request)?;
                Deed::HangUp
            }
            Trouble::HalfHead => {
                self.forward(&request)?;
                Deed::HalfHead
            }
            Trouble::Silence => Deed::Silence,
            Trouble::SilenceAfterwards => {
                self.forward(&request)?;
                Deed::Silence
            }
        })
    }

    /// The registry's own answer.
    fn forward(&self, request: &Request) -> io::Result<Response> {
        let mut upstream = TcpStream::connect(&self.upstream)?;
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        // HTTP/1.0: the answer's body ends with the connection and is never in chunks.
        let mut head = format!("{} {}{query} HTTP/1.0\r\n", request.method, request.path);
        for (name, value) in request.headers.iter().filter(|(name, _)| name != "connection") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        upstream.write_all(format!("{head}\r\n").as_bytes())?;
        upstream.write_all(&request.body)?;
        upstream.flush()?;
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let mut reader = BufReader::new(upstream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
        let mut response = Response::new(status);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if !name.eq_ignore_ascii_case("connection") {
                response.headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        if request.method != "HEAD" {
            let length = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            match length.and_then(|(_, length)| length.parse().ok()) {
                Some(length) => {
                    response.body = vec![0; length];
                    reader.read_exact(&mut response.body)?;
                }
                None if status == 204 => {}
                None => drop(reader.read_to_end(&mut response.body)?),
            }
            // What is said of the body is said by whoever writes it, unless a rule lies about it.
            response.remove("content-length");
        }
        Ok(response)
    }
}

impl State {
    fn hit(&self, request: &Request) -> Option<usize> {
        self.rules.iter().position(|rule| {
            rule.times > 0
                && (rule.method.is_empty() || rule.method == request.method)
                && request.path.contains(&rule.part)
        })
    }
}

fn write_all(mut socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(bytes)?;
    socket.flush()
}
