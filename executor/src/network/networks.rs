//! The builder's side: one network per build, begun by the first step that needs it, and namespaces for steps, made
//! ahead of them.
//!
//! In come [`NetworkSettings`], out goes a [`StepNetwork`] per step. A thread keeps a few namespaces ready, so that a
//! step does not wait for one. When the last user of a [`Networks`] goes, everything is removed before the drop returns;
//! [`Networks::end`] lets that begin while other things are done.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock, PoisonError};
use std::thread::JoinHandle;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::{Mutex, OnceCell, mpsc};

use super::dns::{Resolver, Said};
use super::error::NetworkError;
use super::forward::Forwarder;
use super::helper::{ARGV0, Reply, Request, ask};
use super::router::{Ready, Start};
use super::settings::{Driver, NetworkSettings, Share};
use super::trouble::Trouble;
use crate::sandbox;
use crate::steps::Dns;
use crate::userns::IdMap;

/// Namespaces that wait for steps, beside the one that is made meanwhile and waits for room. Each costs some milliseconds
/// when it is made, and again when the build ends and none wants it.
const AHEAD: usize = 1;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers that systemd's stub asks itself.
const RESOLV_CONF_OF_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// A page of comments fits too.
const RESOLV_CONF_MAX_BYTES: u64 = 64 << 10;

/// The networks of one build's steps. Nothing is begun before a step asks.
pub struct Networks {
    settings: NetworkSettings,
    dns: Dns,
    /// Whether steps share the builder's network, once it is known.
    shared: OnceCell<bool>,
    /// The ids of the user namespaces that they belong to, if steps have some.
    users: OnceLock<IdMap>,
    started: Mutex<Option<Arc<Started>>>,
    /// Networks that are being taken down.
    ending: std::sync::Mutex<Vec<Arc<Started>>>,
}

/// A step's own network: a namespace with a way out.
pub struct StepNetwork {
    namespace: OwnedFd,
    /// Text of its `/etc/resolv.conf`.
    pub resolv_conf: Arc<str>,
    /// An address that means the builder's machine, where there is one.
    pub host: Option<Ipv4Addr>,
}

impl StepNetwork {
    /// The namespace, to be joined.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl Networks {
    /// For one build.
    pub fn new(settings: NetworkSettings, dns: Dns) -> Self {
        Self {
            settings,
            dns,
            users: OnceLock::new(),
            shared: OnceCell::new(),
            started: Mutex::default(),
            ending: std::sync::Mutex::default(),
        }
    }

    /// For steps that have user namespaces of their own with these ids, if any.
    #[must_use]
    pub fn of_users(self, users: Option<IdMap>) -> Self {
        users.into_iter().for_each(|users| self.belong_to(users));
        self
    }

    /// As [`Self::of_users`], before the first step has one. Steps without a user namespace of their own can use such a
    /// network as well: it belongs to one beneath theirs.
    pub fn belong_to(&self, users: IdMap) {
        self.users.get_or_init(|| users);
    }

    /// Whether steps that want a network of their own get the builder's, to which the user consents. Otherwise they can
    /// get out by their own. The first who asks is told, by `notice`, of a consent that is used.
    ///
    /// # Errors
    /// When no driver works here, and nobody consents.
    pub async fn is_shared(&self, helper: &sandbox::Settings, notice: impl Fn(&str)) -> Result<bool, NetworkError> {
        let share = self.settings.share;
        let find_out = async || match share {
            Share::Always => Ok(true),
            Share::Never => self.begin(helper).await.map(|()| false),
            Share::WithoutDriver => match self.begin(helper).await {
                Err(error @ NetworkError::NoWayOut { .. }) => {
                    let why = error.notes().join("; ");
                    notice(&format!("{error}: they share this machine's, its loopback services included ({why})"));
                    Ok(true)
                }
                begun => begun.map(|()| false),
            },
        };
        self.shared.get_or_try_init(find_out).await.copied()
    }

    /// Makes sure that steps can get out.
    ///
    /// # Errors
    /// When no driver works here.
    pub async fn begin(&self, helper: &sandbox::Settings) -> Result<(), NetworkError> {
        self.started(helper).await.map(drop)
    }

    /// A network for one step.
    ///
    /// # Errors
    /// When no driver works here, or no namespace can be made.
    pub async fn step(&self, helper: &sandbox::Settings) -> Result<StepNetwork, NetworkError> {
        let started = self.started(helper).await?;
        let next = started.ahead.lock().await.recv().await;
        let namespace = next.unwrap_or_else(|| Err(gone()))?;
        Ok(StepNetwork { namespace, resolv_conf: Arc::clone(&started.resolv_conf), host: started.host })
    }

    /// Begins to take down what there is, as no step is expected any more; the end of this waits for it. A step that comes
    /// all the same gets a new network.
    pub async fn end(&self) {
        let Some(started) = self.started.lock().await.take() else { return };
        started.end().await;
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).push(started);
    }

    async fn started(&self, helper: &sandbox::Settings) -> Result<Arc<Started>, NetworkError> {
        let mut started = self.started.lock().await;
        if let Some(started) = &*started {
            return Ok(Arc::clone(started));
        }
        let new = Started::start(&self.settings, &self.dns, self.users.get().cloned(), helper).await?;
        Ok(Arc::clone(started.insert(Arc::new(new))))
    }
}

/// The helper's end, whoever ended it.
fn gone() -> NetworkError {
    NetworkError::Step { trouble: Trouble::new("the helper process of the network has died") }
}

struct Started {
    /// `None` only while it is dropped.
    ahead: Mutex<mpsc::Receiver<Result<OwnedFd, NetworkError>>>,
    resolv_conf: Arc<str>,
    host: Option<Ipv4Addr>,
    _forwarder: Option<Forwarder>,
    thread: Option<JoinHandle<()>>,
    helper: Child,
}

impl Started {
    async fn start(
        settings: &NetworkSettings,
        dns: &Dns,
        users: Option<IdMap>,
        helper: &sandbox::Settings,
    ) -> Result<Self, NetworkError> {
        let (start, helper) = (Start { users, ..wish(settings)? }, helper.clone());
        let begun = tokio::task::spawn_blocking(move || Begun::begin(start, &helper)).await;
        let Begun { helper, socket, ready, udp, tcp } =
            begun.map_err(|error| NetworkError::Helper { act: "start", source: io::Error::other(error) })??;
        for (driver, trouble) in &ready.passed_over {
            tracing::debug!("network: not over {driver}: {trouble}");
        }
        tracing::debug!("network: steps get out over {}, their gateway is {}", ready.driver, ready.gateway);
        let Resolver { resolv_conf, forward_to } = whom_to_ask(dns, &ready.own_addresses, ready.gateway)?;
        let forwarder = if forward_to.is_empty() {
            None
        } else {
            tracing::debug!("network: name servers {forward_to:?} are asked in the name of steps");
            let started = Forwarder::start(udp, tcp, forward_to);
            Some(started.map_err(|source| NetworkError::Helper { act: "serve names for steps", source })?)
        };
        let (sender, ahead) = mpsc::channel(AHEAD);
        let thread = std::thread::Builder::new().name("network".into()).spawn(move || make_ahead(&socket, &sender));
        let thread = thread.map_err(|source| NetworkError::Helper { act: "start a thread for", source })?;
        Ok(Self {
            ahead: Mutex::new(ahead),
            resolv_conf: resolv_conf.into(),
            host: ready.host,
            _forwarder: forwarder,
            thread: Some(thread),
            helper,
        })
    }
}

/// The thread's next namespace finds nobody, it lets go of the socket, and the helper cleans up and ends.
fn close(ahead: &mut mpsc::Receiver<Result<OwnedFd, NetworkError>>) {
    ahead.close();
    while ahead.try_recv().is_ok() {}
}

impl Started {
    /// Lets the helper clean up, and does not wait for it.
    async fn end(&self) {
        close(&mut *self.ahead.lock().await);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        close(self.ahead.get_mut());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::debug!("network: the thread that makes namespaces ahead failed");
        }
        match self.helper.wait() {
            Ok(status) if status.success() => {}
            // What it left is removed by the next build.
            ended => tracing::debug!("network: the helper could not clean up: {ended:?}"),
        }
    }
}

/// Keeps namespaces ready until nobody takes them any more, or none can be made.
fn make_ahead(socket: &OwnedFd, sender: &mpsc::Sender<Result<OwnedFd, NetworkError>>) {
    loop {
        let made = match ask(socket, &Request::Step) {
            Ok((Reply::Step, descriptors)) => descriptors.into_iter().next().ok_or_else(gone),
            Ok((Reply::StepFailed(trouble), _)) => Err(NetworkError::Step { trouble }),
            Ok(_) => Err(gone()),
            Err(error) => {
                tracing::debug!("network: {error}");
                Err(gone())
            }
        };
        if sender.blocking_send(made).is_err() {
            return;
        }
    }
}

/// A helper that has found a way out.
struct Begun {
    helper: Child,
    socket: OwnedFd,
    ready: Ready,
    udp: OwnedFd,
    tcp: OwnedFd,
}

impl Begun {
    fn begin(start: Start, settings: &sandbox::Settings) -> Result<Self, NetworkError> {
        let failed = |act| move |source| NetworkError::Helper { act, source };
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair.map_err(io::Error::from).map_err(failed("talk to"))?;
        let mut command = Command::new(settings.helper_path());
        // A process group of its own: an interrupt at the terminal must not keep it from cleaning up.
        command.arg0(ARGV0).env_clear().process_group(0).stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let mut helper = command.spawn().map_err(failed("start"))?;
        // The command holds the other end of the socket, whose end must be the helper's.
        drop(command);
        let asked = match ask(&socket, &Request::Start(start)) {
            Ok((Reply::Ready(ready), descriptors)) => match <[OwnedFd; 2]>::try_from(descriptors) {
                Ok([udp, tcp]) => return Ok(Self { helper, socket, ready, udp, tcp }),
                Err(_) => failed("talk to")(io::ErrorKind::InvalidData.into()),
            },
            Ok((Reply::Failed(tried), _)) => NetworkError::NoWayOut { tried },
            Ok(_) => failed("talk to")(io::ErrorKind::InvalidData.into()),
            Err(error) => failed("talk to")(error),
        };
        drop(socket);
        helper.wait().map_err(failed("wait for"))?;
        Err(asked)
    }
}

fn wish(settings: &NetworkSettings) -> Result<Start, NetworkError> {
    let mut id = [0; 4];
    let filled = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty());
    filled.map_err(|errno| NetworkError::Helper { act: "choose a name for", source: errno.into() })?;
    let with_program = |driver: Driver| (driver, driver.program().and_then(|(name, _)| program(name)));
    Ok(Start {
        candidates: settings.drivers().into_iter().map(with_program).collect(),
        pools: settings.pools(),
        id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
        users: None,
    })
}

/// Looks a program up, as a shell does, and where administrators' programs are.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut files = directories.filter(|directory| directory.is_absolute()).map(|directory| directory.join(name));
    files.find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

fn whom_to_ask(user: &Dns, own: &[Ipv4Addr], gateway: Ipv4Addr) -> Result<Resolver, NetworkError> {
    let (host, behind_stub) = (read(Path::new(RESOLV_CONF))?, read(Path::new(RESOLV_CONF_OF_STUB))?);
    Ok(Said { host: &host, behind_stub: &behind_stub, user }.for_own_network(own, gateway))
}

/// Text of `/etc/resolv.conf` for steps in the host's network. A host without one has no resolver, and so has the step.
pub fn host_resolv_conf(user: &Dns) -> Result<String, NetworkError> {
    Ok(Said { host: &read(Path::new(RESOLV_CONF))?, behind_stub: "", user }.for_host_network())
}

/// The text of a file; none if it is not there.
fn read(path: &Path) -> Result<String, NetworkError> {
    use std::io::Read as _;

    let failed = |source| NetworkError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(RESOLV_CONF_MAX_BYTES).read_to_string(&mut text).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    Ok(text)
}

/// Tries every driver, sets each up and removes it again: what works here, and why the others do not.
///
/// # Errors
/// When not even the helper can be started.
pub async fn drivers_here(
    settings: &NetworkSettings,
    helper: &sandbox::Settings,
) -> Result<Vec<(Driver, Result<(), Trouble>)>, NetworkError> {
    let mut found = Vec::new();
    for driver in Driver::ALL {
        let alone = NetworkSettings { driver: Some(driver), ..settings.clone() };
        found.push((
            driver,
            match Networks::new(alone, Dns::default()).begin(helper).await {
                Ok(()) => Ok(()),
                Err(NetworkError::NoWayOut { tried }) => {
                    let trouble = tried.into_iter().next().map(|(_, trouble)| trouble);
                    Err(trouble.unwrap_or_else(|| Trouble::new("it was not tried")))
                }
                Err(error) => return Err(error),
            },
        ));
    }
    Ok(found)
}
