//! Sockets to serve on: `unix://PATH`, `fd://`.
//!
//! A socket of a path appears under its name when it can be connected to, never before; one that is there and that nobody
//! answers on is replaced, one that somebody answers on is not. It is removed at the end, if it is still this one.
//! `fd://` is what a service manager opened (sd_listen_fds(3)). Deliberately absent: `tcp://`. Next: [`super::opening`].

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::opening::{self, Opening};
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
    /// `fd://`, or `fd://N`: the Nth of what was handed over, from 0.
    Handed(usize),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("write `unix:///PATH/OF/SOCKET` or `fd://`")?;
        match scheme {
            "unix" if Path::new(rest).is_absolute() => Ok(Self::Unix(rest.into())),
            "unix" => Err("the path of a socket is absolute: `unix:///run/rbuild.sock`".into()),
            "fd" if rest.is_empty() => Ok(Self::Handed(0)),
            "fd" => rest.parse().map(Self::Handed).map_err(|_| format!("`{rest}` is no number of a descriptor")),
            "tcp" => Err("`tcp://` is not served by this version of rbuild: clients could not be told apart".into()),
            _ => Err(format!("`{scheme}://` is nothing to serve on; write `unix:///PATH` or `fd://`")),
        }
    }
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    /// As clients write it.
    pub shown: String,
    listener: UnixListener,
    held: Option<Held>,
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
    pub fn incoming(self) -> (impl Stream<Item = io::Result<Opening<UnixStream>>> + Send + 'static, Option<Held>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let incoming = futures_util::stream::unfold((self.listener, places), |(listener, places)| async {
            loop {
                match (listener.accept().await, places.clone().try_acquire_owned()) {
                    (Ok((stream, _)), Ok(place)) => {
                        let opening = Opening::new(stream, opening::PATIENCE, Some(place));
                        return Some((Ok(opening), (listener, places)));
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

/// Listens.
///
/// # Errors
/// When the address is taken or cannot be had.
pub fn listen(address: &Address) -> Result<Listener, Failure> {
    let failed =
        |shown: &str, error: &io::Error| Failure::new(format!("cannot listen on `{shown}`")).note(error.to_string());
    match address {
        Address::Unix(path) => {
            let shown = format!("unix://{}", path.display());
            let (listener, held) = at_path(path)?;
            let listener = UnixListener::from_std(listener).map_err(|error| failed(&shown, &error))?;
            Ok(Listener { shown, listener, held: Some(held) })
        }
        Address::Handed(at) => {
            let shown = format!("fd://{at}");
            let listener = handed(*at)?;
            listener.set_nonblocking(true).map_err(|error| failed(&shown, &error))?;
            let listener = UnixListener::from_std(listener).map_err(|error| failed(&shown, &error))?;
            Ok(Listener { shown, listener, held: None })
        }
    }
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
fn handed(at: usize) -> Result<StdListener, Failure> {
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
    let fd = take().map_err(|error| {
        Failure::new(format!("`fd://{at}`: the socket that was handed over cannot be used")).note(error.to_string())
    })?;
    Ok(StdListener::from(fd))
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
        check("tcp://0.0.0.0:1", Err("not served"));
        check("/run/a.sock", Err("unix:///PATH"));
        check("npipe://x", Err("nothing to serve on"));
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_replaced_and_others_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/a.sock");
        let address = Address::Unix(path.clone());
        let listener = listen(&address).expect("nothing is there");
        assert_eq!(path.metadata().expect("it is there").permissions().mode() & 0o777, SOCKET_MODE);
        let failure = listen(&address).expect_err("somebody serves");
        assert!(failure.problems[0].message.contains("somebody serves"), "{failure:?}");
        let (incoming, held) = listener.incoming();
        drop(incoming);
        // As if it had been killed: the name stays.
        std::mem::forget(held);
        let (_incoming, held) = listen(&address).expect("nobody answers").incoming();
        drop(held);
        assert!(!path.exists(), "its name goes with it");
        std::fs::write(&path, "x").expect("the directory is ours");
        let failure = listen(&address).expect_err("a file is there");
        assert!(failure.problems[0].message.contains("no socket"), "{failure:?}");
        assert_eq!(std::fs::read_dir(dir.path().join("deep")).expect("a directory").count(), 1);
    }
}
