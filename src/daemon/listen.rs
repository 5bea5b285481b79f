//! Sockets to serve on: `unix://PATH`, `tcp://HOST:PORT`, `fd://`.
//!
//! A socket of a path appears under its name when it can be connected to, never before; one that is there and that nobody
//! answers on is replaced, one that somebody answers on is not. It is removed at the end, if it is still this one.
//! `fd://` is what a service manager opened (sd_listen_fds(3)). What comes over a network has to show a certificate
//! ([`super::tls`]): without one nobody could be told from anybody. Next: [`super::opening`], [`super::connection`].

use std::io::{self, ErrorKind};
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use rustix::net::{AddressFamily, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::connection::Connection;
use super::opening::{self, Opening};
use super::tls::{self, Identity};
use crate::engine::Failure;

/// The first descriptor that a service manager hands over. sd_listen_fds(3).
const FIRST_DESCRIPTOR: i32 = 3;
/// Who may connect: root's group too, as with other daemons.
const SOCKET_MODE: u32 = 0o660;

/// Connections of one socket at once; more are closed at once. Each takes a descriptor, which builds need too.
const CONNECTIONS_MAX: usize = 1024;
/// After an error of accept(2): it is descriptors that are short, as a rule, and they come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix://PATH`.
    Unix(PathBuf),
    /// `tcp://HOST:PORT`: both.
    Tcp(String),
    /// `fd://`, or `fd://N`: the Nth of what was handed over, from 0.
    Handed(usize),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) =
            text.split_once("://").ok_or("write `unix:///PATH/OF/SOCKET`, `tcp://HOST:PORT` or `fd://`")?;
        match scheme {
            "unix" if Path::new(rest).is_absolute() => Ok(Self::Unix(rest.into())),
            "unix" => Err("the path of a socket is absolute: `unix:///run/rbuild.sock`".into()),
            "fd" if rest.is_empty() => Ok(Self::Handed(0)),
            "fd" => rest.parse().map(Self::Handed).map_err(|_| format!("`{rest}` is no number of a descriptor")),
            "tcp" => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Tcp(rest.to_owned())),
                _ => Err("write `tcp://HOST:PORT`, like `tcp://0.0.0.0:1234`".into()),
            },
            _ => {
                Err(format!("`{scheme}://` is nothing to serve on; write `unix:///PATH`, `tcp://HOST:PORT` or `fd://`"))
            }
        }
    }
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    /// As clients write it.
    pub shown: String,
    source: Source,
    held: Option<Held>,
}

#[derive(Debug)]
enum Source {
    Unix(UnixListener),
    Tcp(TcpListener, Identity),
}

impl Source {
    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Connection::Unix(stream)),
            Self::Tcp(listener, identity) => {
                listener.accept().await.map(|(stream, peer)| Connection::secured(stream, peer, identity))
            }
        }
    }
}

/// The name of a socket, removed with this value if it is still the same socket.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for Held {
    fn drop(&mut self) {
        let same = self.path.symlink_metadata().is_ok_and(|facts| (facts.dev(), facts.ino()) == self.inode);
        if same && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket stays");
        }
    }
}

impl Listener {
    /// Its connections, and what holds its name.
    pub fn incoming(self) -> (impl Stream<Item = io::Result<Opening<Connection>>> + Send + 'static, Option<Held>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let incoming = futures_util::stream::unfold((self.source, places), |(source, places)| async {
            loop {
                match (source.accept().await, places.clone().try_acquire_owned()) {
                    (Ok(connection), Ok(place)) => {
                        let opening = Opening::new(connection, opening::PATIENCE, Some(place));
                        return Some((Ok(opening), (source, places)));
                    }
                    (Ok(_), Err(_)) => tracing::warn!("there are {CONNECTIONS_MAX} connections: one more is closed"),
                    (Err(error), _) => {
                        tracing::warn!(%error, "no connection could be taken");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        (incoming, self.held)
    }
}

/// Listens; `identity` is for networks.
///
/// # Errors
/// When the address is taken or cannot be had, and for a network without an identity.
pub fn listen(address: &Address, identity: Option<&Identity>) -> Result<Listener, Failure> {
    let failed =
        |shown: &str, error: &io::Error| Failure::new(format!("cannot listen on `{shown}`")).note(error.to_string());
    match address {
        Address::Unix(path) => {
            let shown = format!("unix://{}", path.display());
            let (listener, held) = at_path(path)?;
            let listener = UnixListener::from_std(listener).map_err(|error| failed(&shown, &error))?;
            Ok(Listener { shown, source: Source::Unix(listener), held: Some(held) })
        }
        Address::Tcp(name) => {
            let shown = format!("tcp://{name}");
            let identity = identity.ok_or_else(|| unsafe_without(&shown))?;
            let listen = || {
                let listener = StdTcpListener::bind(name)?;
                Ok((listener.local_addr()?, in_runtime(listener, identity)?))
            };
            // The port may have been left to the kernel.
            let (bound, source) = listen().map_err(|error| failed(&shown, &error))?;
            let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
            Ok(Listener { shown: format!("tcp://{host}:{}", bound.port()), source, held: None })
        }
        Address::Handed(at) => {
            let shown = format!("fd://{at}");
            let fd = handed(*at)?;
            let family = sockopt::socket_domain(&fd).map_err(|error| failed(&shown, &error.into()))?;
            let source = match family {
                AddressFamily::UNIX => {
                    let listener = StdListener::from(fd);
                    let set = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
                    set.map(Source::Unix)
                }
                AddressFamily::INET | AddressFamily::INET6 => {
                    in_runtime(fd.into(), identity.ok_or_else(|| unsafe_without(&shown))?)
                }
                _ => Err(io::Error::new(ErrorKind::Unsupported, "it is neither a Unix socket nor one of TCP")),
            };
            let source = source.map_err(|error| failed(&shown, &error))?;
            Ok(Listener { shown, source, held: None })
        }
    }
}

fn in_runtime(listener: StdTcpListener, identity: &Identity) -> io::Result<Source> {
    listener.set_nonblocking(true)?;
    Ok(Source::Tcp(TcpListener::from_std(listener)?, identity.clone()))
}

fn unsafe_without(shown: &str) -> Failure {
    Failure::new(format!("cannot listen on `{shown}` without TLS"))
        .note("whoever reaches it could build as this daemon's user")
        .help(tls::HELP)
}

/// A socket that is made beside its name and gets it when it listens.
fn at_path(path: &Path) -> Result<(StdListener, Held), Failure> {
    let failed = |act: &str, error: io::Error| {
        Failure::new(format!("cannot {act} the socket `{}`", path.display())).note(error.to_string())
    };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::new(format!("`{}` is no name for a socket", path.display())));
    };
    std::fs::create_dir_all(dir).map_err(|error| failed("make the directory of", error))?;
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", error)),
        Ok(facts) if !facts.file_type().is_socket() => {
            return Err(Failure::new(format!("`{}` is there and no socket", path.display()))
                .help("name another path, or remove it"));
        }
        Ok(_) => match StdStream::connect(path) {
            Ok(_) => {
                return Err(Failure::new(format!("somebody serves on `{}` already", path.display()))
                    .help("name another socket with `--addr unix:///PATH`, or end the other daemon"));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed("try", error)),
        },
    }
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}", std::process::id()));
    let aside = dir.join(aside);
    let listener = StdListener::bind(&aside).map_err(|error| failed("make", error))?;
    let named = || {
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        let facts = aside.symlink_metadata()?;
        std::fs::rename(&aside, path)?;
        Ok((facts.dev(), facts.ino()))
    };
    match named() {
        Ok(inode) => Ok((listener, Held { path: path.to_owned(), inode })),
        Err(error) => {
            if let Err(error) = std::fs::remove_file(&aside) {
                tracing::debug!(%error, path = %aside.display(), "a socket that nobody knows stays");
            }
            Err(failed("name", error))
        }
    }
}

/// A socket that whoever started this process opened.
fn handed(at: usize) -> Result<OwnedFd, Failure> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id() as usize);
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    if at >= count {
        return Err(Failure::new(format!("`fd://{at}`: whoever started rbuild has handed over {count} sockets"))
            .help("a service manager hands them over, by `LISTEN_FDS` and `LISTEN_PID`; see sd_listen_fds(3)"));
    }
    let take = || -> io::Result<OwnedFd> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        let descriptor = FIRST_DESCRIPTOR + i32::try_from(at).map_err(io::Error::other)?;
        Ok(pidfd_getfd(this, descriptor, PidfdGetfdFlags::empty())?)
    };
    take().map_err(|error| {
        Failure::new(format!("`fd://{at}`: the socket that was handed over cannot be used")).note(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unix_sockets_or_what_was_handed_over() {
        let check = |text: &str, expected: Result<Address, &str>| match (text.parse::<Address>(), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("unix:///run/a.sock", Ok(Address::Unix("/run/a.sock".into())));
        check("fd://", Ok(Address::Handed(0)));
        check("fd://1", Ok(Address::Handed(1)));
        check("fd://x", Err("is no number"));
        check("unix://a.sock", Err("absolute"));
        check("tcp://0.0.0.0:1", Ok(Address::Tcp("0.0.0.0:1".into())));
        check("tcp://[::1]:0", Ok(Address::Tcp("[::1]:0".into())));
        check("tcp://host", Err("tcp://HOST:PORT"));
        check("tcp://:1", Err("tcp://HOST:PORT"));
        check("tcp://host:70000", Err("tcp://HOST:PORT"));
        check("/run/a.sock", Err("unix:///PATH"));
        check("npipe://x", Err("nothing to serve on"));
    }

    #[tokio::test]
    async fn a_network_is_served_with_tls_or_not_at_all() {
        let address = Address::Tcp("127.0.0.1:0".into());
        let failure = listen(&address, None).expect_err("nobody could be told from anybody");
        let problem = &failure.problems[0];
        assert!(problem.message.contains("without TLS"), "{failure:?}");
        assert!(problem.help.as_ref().is_some_and(|help| help.contains("--tlscacert")), "{failure:?}");
        let identity = Identity::read(&tls::example()).expect("they are whole");
        let listener = listen(&address, identity.as_ref()).expect("there is a port");
        assert!(listener.shown.starts_with("tcp://127.0.0.1:") && !listener.shown.ends_with(":0"), "{listener:?}");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_replaced_and_others_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/a.sock");
        let address = Address::Unix(path.clone());
        let listener = listen(&address, None).expect("nothing is there");
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, SOCKET_MODE);
        let failure = listen(&address, None).expect_err("somebody serves");
        assert!(failure.problems[0].message.contains("somebody serves"), "{failure:?}");
        let (incoming, held) = listener.incoming();
        drop(incoming);
        // As if it had been killed: the name stays.
        std::mem::forget(held);
        let (_incoming, held) = listen(&address, None).expect("nobody answers").incoming();
        drop(held);
        assert!(!path.exists(), "its name goes with it");
        std::fs::write(&path, "x").expect("the directory is ours");
        let failure = listen(&address, None).expect_err("a file is there");
        assert!(failure.problems[0].message.contains("no socket"), "{failure:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("deep")).expect("a directory").count(), 1);
    }
}
