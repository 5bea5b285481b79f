//! Performs a plan, act by act, as the first process of the new namespaces, and becomes the command.
//!
//! In come the acts and the socket to the builder. Out go stubs, the terminal and, when an act fails, which one and
//! why. Nothing here decides what is done or in which order: that is [`super::plan`]'s. Until the pivot every place
//! of the image is reached through [`Root`], never by a path from `/`; whatever a hostile image puts at `/dev`,
//! `/proc` or `/etc/hosts` ends inside the root or in an error.

use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, Timespec};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, Uid, move_into_link_name_space};

use super::ahead::Ahead;
use super::beneath::{Root, file_type};
use super::execute::execute;
use super::hide::{self, Covers};
use super::mount::{self, Stage};
use super::plan::{Act, FileSystem, Flags, Plan};
use super::secret::Given;
use super::spec::{Bind, Handed, RootFs, WindowSize};
use super::stub::{Stub, StubKind};
use super::trouble::{Trouble, with};
use super::user::{self, Identity};
use super::userns::Users;
use super::wire::{self, Failure, Report};
use super::{cgroup, groups, host, privilege, seccomp, sys};
use crate::userns::make::Made;

/// What a process that never became the command exits with; the report says more.
const SETUP_FAILED: i32 = 255;

/// What a new process begins with.
pub struct Begun<'a> {
    /// The memory file that the plan is in.
    pub plan: OwnedFd,
    /// The command's standard input, if it gets one.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// What travelled with the plan.
    pub handed: Vec<OwnedFd>,
    /// The user namespace that it ends up in, if it is one of its own.
    pub users: Option<Made>,
    /// Whether it was born in its control group.
    pub born: bool,
    /// What it mounted while it waited.
    pub ahead: Ahead,
    /// The way to the builder.
    pub socket: &'a OwnedFd,
    /// The helper, by a pidfd.
    pub helper: &'a OwnedFd,
}

/// Performs the plan and does not return: either this process becomes the command, or it reports and exits.
pub fn perform(begun: Begun<'_>) -> ! {
    let Begun { plan, stdin, stdout, stderr, handed, users, born, ahead, socket, helper } = begun;
    let mut step = Step {
        socket,
        born,
        ahead,
        users: Users::of(users),
        helper,
        stdin,
        handed: &handed,
        given: Given::default(),
        stage: None,
        root: None,
        dev: None,
        pts: None,
        covers: None,
        proc_device: None,
        terminal: None,
        identity: None,
        reported: 0,
        stubs: Vec::new(),
    };
    let (act, is_exec, trouble) = match read(plan, stdout, stderr) {
        Ok(plan) => step.acts(&plan),
        Err(trouble) => ("read the plan".to_owned(), false, trouble),
    };
    let failure = Failure { act, is_exec, detail: trouble.detail, errno: trouble.errno };
    // When the builder is gone there is nobody to tell, and the exit code is all that is left.
    let _ = wire::report(socket, &Report::Failed(failure), None);
    sys::exit_now(SETUP_FAILED)
}

/// Takes over the standard streams, and reads what is to be done.
fn read(plan: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Result<Plan, Trouble> {
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    let (mut file, mut text) = (std::fs::File::from(plan), Vec::new());
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).map_err(io::Error::from)?)
}

/// What earlier acts left for later ones.
struct Step<'a> {
    socket: &'a OwnedFd,
    born: bool,
    ahead: Ahead,
    users: Users,
    helper: &'a OwnedFd,
    stdin: Option<OwnedFd>,
    /// What travelled with the plan.
    handed: &'a [OwnedFd],
    given: Given,
    stage: Option<Stage>,
    root: Option<Root>,
    dev: Option<OwnedFd>,
    pts: Option<OwnedFd>,
    /// What masks are made of.
    covers: Option<Covers>,
    /// Device number of the new `/proc`, on which nothing may be mounted for the step.
    proc_device: Option<u64>,
    terminal: Option<OwnedFd>,
    identity: Option<Identity>,
    stubs: Vec<Stub>,
    reported: usize,
}

impl Step<'_> {
    /// Performs all acts. What comes back is which one failed, whether it was the last, and why.
    fn acts(&mut self, plan: &Plan) -> (String, bool, Trouble) {
        // Modes of what is made here are the ones that are written here.
        rustix::process::umask(Mode::empty());
        for act in &plan.0 {
            let trouble = match catch_unwind(AssertUnwindSafe(|| self.act(act))) {
                Ok(Ok(())) => continue,
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble { errno: 0, detail: "a bug in rbuild; please report it".into() },
            };
            return (act.to_string(), matches!(act, Act::Exec { .. }), trouble);
        }
        ("the plan".into(), false, "it does not end with a command".to_owned().into())
    }

    fn act(&mut self, act: &Act) -> Result<(), Trouble> {
        match act {
            Act::Namespaces(_) | Act::UserNamespace(_) | Act::Handlers(_) => {} // The helper's, done.
            Act::FilesOfItsRoot(ids) => self.users.own_files(ids)?,
            Act::JoinItsNetwork => {
                self.ahead.network_is_left();
                self.users.join_network()?;
            }
            Act::ControlGroup(group) => cgroup::enter(group, self.handed, self.born)?,
            Act::JoinControlGroup(group) => cgroup::join(group, self.handed)?,
            Act::ChangeRoot(tree) => self.root = Some(crate::chroot::change_root(tree)?),
            Act::DieWithHelper => self.die_with_helper()?,
            Act::NewSession => drop(rustix::process::setsid()?),
            Act::PrivateMounts => mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?,
            Act::JoinNetwork(namespace) => {
                self.ahead.network_is_left();
                let namespace = self.handed(*namespace)?;
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            }
            Act::Loopback => sys::loopback_up()?,
            Act::Hostname(name) => rustix::system::sethostname(name.as_bytes())?,
            Act::Stage => self.stage = Some(Stage::of(self.ahead.stage()?)?),
            Act::Root(root) => self.mount_root(root)?,
            Act::FileSystem(file_system) => self.mount_file_system(file_system)?,
            Act::ControlGroups { readonly } => groups::show(self.root(), *readonly)?,
            Act::Device { .. } | Act::DeviceLink { .. } => self.make_in_dev(act)?,
            Act::HostDevice { name, major, minor } => host::bind_device(self.dev(), name, *major, *minor)?,
            Act::HostSys => host::bind_sys(self.real_directory("/sys")?)?,
            Act::GeneratedFile { target, text } => self.bind_generated(target, text)?,
            Act::Bind { target, bind } => self.bind(target, bind)?,
            Act::SecretFile { target, file } => {
                let file = self.users.file(file)?;
                let (given, handed, stage) = self.giving();
                let file = given.file(&file, handed, stage)?;
                self.attach_file(file, target)?;
            }
            Act::AgentSocket { target, socket } => {
                let socket = self.users.socket(socket)?;
                let (given, handed, stage) = self.giving();
                let socket = given.agent(&socket, handed, stage)?;
                self.attach_file(socket, target)?;
            }
            Act::SecretVariable(variable) => self.given.variable(variable, self.handed)?,
            Act::Terminal(size) => self.open_terminal(*size)?,
            Act::ReadOnly(path) => hide::make_read_only(self.root(), path)?,
            Act::Mask(pattern) => {
                if self.covers.is_none() {
                    let null = self.null(OFlags::PATH)?;
                    self.covers = Some(Covers::new(null, self.stage())?);
                }
                let covers = self.covers.as_ref().expect("they were just made");
                hide::mask(self.root(), covers, pattern)?;
            }
            Act::Pivot => self.pivot()?,
            Act::Limit(limit) => privilege::set_limit(limit)?,
            Act::Stdio { .. } => self.arrange_stdio()?,
            Act::EnterUserNamespace { owning } => self.root = Some(self.users.enter(*owning, self.terminal.is_some())?),
            Act::WorkingDirectory(path) => self.enter(path)?,
            Act::BoundCapabilities(names) => privilege::bound(names)?,
            Act::Filter(program) => seccomp::install(program)?,
            Act::User { user, groups } => self.become_user(user, *groups)?,
            Act::Capabilities(names) => privilege::keep(names, self.identity.as_ref())?,
            Act::CloseDescriptors => sys::close_on_exec_from(3)?,
            Act::Exec { args, env, through } => {
                let home = self.identity.as_ref().map_or("/", |identity| &identity.home);
                execute(args, env, home, std::mem::take(&mut self.given.variables), through.as_deref())?;
            }
        }
        self.report_stubs()
    }

    fn handed(&self, which: Handed) -> Result<BorrowedFd<'_>, Trouble> {
        which.among(self.handed).ok_or_else(|| "a descriptor did not arrive".to_owned().into())
    }

    fn root(&self) -> &Root {
        self.root.as_ref().expect("a plan mounts the root before anything in it")
    }

    fn dev(&self) -> &OwnedFd {
        self.dev.as_ref().expect("a plan mounts /dev before anything in it")
    }

    fn stage(&mut self) -> &mut Stage {
        self.stage.as_mut().expect("a plan makes the stage before anything on it")
    }

    fn giving(&mut self) -> (&mut Given, &[OwnedFd], &mut Stage) {
        (&mut self.given, self.handed, self.stage.as_mut().expect("a plan makes the stage before anything on it"))
    }

    fn attach_file(&mut self, file: OwnedFd, target: &str) -> Result<(), Trouble> {
        let place = self.place(target, StubKind::File)?;
        Ok(mount::attach(file, place)?)
    }

    fn report_stubs(&mut self) -> Result<(), Trouble> {
        for stub in &self.stubs[self.reported..] {
            wire::report(self.socket, &Report::Stub(stub.clone()), None)?;
        }
        self.reported = self.stubs.len();
        Ok(())
    }

    fn die_with_helper(&self) -> Result<(), Trouble> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before we asked.
        let mut polled = [PollFd::new(self.helper, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now))? > 0 {
            sys::exit_now(SETUP_FAILED)
        }
        Ok(())
    }

    fn mount_root(&mut self, root: &RootFs) -> Result<(), Trouble> {
        let stage = self.stage.as_mut().expect("a plan makes the stage before the root");
        let tree = mount::root(root, stage, self.users.mapping())?;
        mount::over_host_root(&tree)?;
        self.root = Some(Root::new(tree)?);
        Ok(())
    }

    fn mount_file_system(&mut self, wanted: &FileSystem) -> Result<(), Trouble> {
        let tree = self.ahead.file_system(wanted)?;
        let place = if wanted.no_links {
            self.real_directory(&wanted.target)?
        } else {
            self.place(&wanted.target, StubKind::Directory)?
        };
        mount::attach(&tree, place)?;
        match wanted.target.as_str() {
            "/proc" => self.proc_device = Some(rustix::fs::fstat(&tree)?.st_dev),
            "/dev" => self.dev = Some(tree),
            "/dev/pts" => self.pts = Some(tree),
            _ => {}
        }
        Ok(())
    }

    /// A directory that no link leads to. Masks below it rely on that.
    fn real_directory(&mut self, target: &str) -> Result<OwnedFd, Trouble> {
        let root = self.root.as_ref().expect("a plan mounts the root first");
        match root.place_without_links(target) {
            Err(Errno::NOENT) => drop(root.place_or_make(target, StubKind::Directory, &mut self.stubs)?),
            Err(Errno::LOOP) => return Err(format!("`{target}` is a symbolic link in the image").into()),
            found => drop(found?),
        }
        let place = self.root().place_without_links(target)?;
        if file_type(&place)? != FileType::Directory {
            return Err(format!("`{target}` is not a directory in the image").into());
        }
        Ok(place)
    }

    /// A mount point for the step's own mounts.
    fn place(&mut self, target: &str, kind: StubKind) -> Result<OwnedFd, Trouble> {
        let root = self.root.as_ref().expect("a plan mounts the root first");
        let place = root.place_or_make(target, kind, &mut self.stubs).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::ISDIR => with(format_args!("`{target}` in the image"))(errno),
            Errno::ROFS => with(format_args!("make the mount point `{target}` in a read-only mount"))(errno),
            errno => errno.into(),
        })?;
        let found = rustix::fs::fstat(&place)?;
        let top = rustix::fs::fstat(root.as_fd())?;
        if (found.st_dev, found.st_ino) == (top.st_dev, top.st_ino) {
            return Err(format!("`{target}` is the root itself").into());
        }
        if self.proc_device == Some(found.st_dev) {
            return Err(format!("`{target}` is inside `/proc`").into());
        }
        Ok(place)
    }

    fn make_in_dev(&mut self, wanted: &Act) -> Result<(), Trouble> {
        let dev = self.dev.as_ref().expect("a plan mounts /dev before anything in it");
        Ok(self.ahead.in_dev(dev, wanted)?)
    }

    /// `/dev/null` of the new `/dev`, proven to be it.
    fn null(&self, flags: OFlags) -> Result<OwnedFd, Trouble> {
        let null = rustix::fs::openat(self.dev(), "null", flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if !is_null(&null)? {
            return Err("`/dev/null` is not the null device".to_owned().into());
        }
        Ok(null)
    }

    fn bind_generated(&mut self, target: &str, text: &str) -> Result<(), Trouble> {
        let file = self.stage().file(text.as_bytes())?;
        let flags = Flags { readonly: true, nosuid: true, nodev: true, noexec: true };
        self.attach_file(mount::clone_of(file, flags, false)?, target)
    }

    fn bind(&mut self, target: &str, bind: &Bind) -> Result<(), Trouble> {
        let stage = self.stage.as_mut().expect("a plan makes the stage before anything on it");
        let tree = mount::bind(bind, stage, self.users.mapping())?;
        let kind = if file_type(&tree)? == FileType::Directory { StubKind::Directory } else { StubKind::File };
        let place = self.place(target, kind)?;
        Ok(mount::attach(tree, place)?)
    }

    fn open_terminal(&mut self, size: WindowSize) -> Result<(), Trouble> {
        let pts = self.pts.as_ref().expect("a plan mounts /dev/pts before the terminal");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // From the mount itself: the image has no say in what `/dev/ptmx` is.
        let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty())?;
        let winsize = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, winsize)?;
        rustix::pty::unlockpt(&master)?;
        let flags =
            rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        wire::report(self.socket, &Report::Terminal, Some(master.as_fd()))?;
        // The first terminal of a fresh devpts is 0; the comparison proves it.
        let node = rustix::fs::openat(pts, "0", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::fs::fstat(&node)?.st_rdev != rustix::fs::fstat(&slave)?.st_rdev {
            return Err("`/dev/pts/0` is not the terminal".to_owned().into());
        }
        let console = mount::clone_of(node, Flags { nosuid: true, noexec: true, ..Flags::default() }, false)?;
        let place = self.place("/dev/console", StubKind::File)?;
        mount::attach(console, place)?;
        self.terminal = Some(slave);
        Ok(())
    }

    fn pivot(&mut self) -> Result<(), Trouble> {
        let stage = self.stage.take().expect("a plan makes the stage before the pivot");
        self.covers = None;
        let place = host::place("/proc")?;
        rustix::process::fchdir(self.root().as_fd())?;
        // Both names are the new root: the old one ends up stacked on it, and on that one the stage.
        rustix::process::pivot_root(".", ".").map_err(with("pivot_root"))?;
        // Into the host's tree, so that one detaching takes both: each waits until no processor looks at them any more.
        mount::attach(stage.as_fd(), place).map_err(with("move the stage"))?;
        unmount(".", UnmountFlags::DETACH).map_err(with("detach the host's root"))?;
        Ok(rustix::process::chdir("/")?)
    }

    fn arrange_stdio(&mut self) -> Result<(), Trouble> {
        if let Some(terminal) = &self.terminal {
            rustix::process::ioctl_tiocsctty(terminal)?;
            rustix::stdio::dup2_stdin(terminal)?;
            rustix::stdio::dup2_stdout(terminal)?;
            rustix::stdio::dup2_stderr(terminal)?;
            return Ok(());
        }
        match self.stdin.take() {
            Some(stdin) => rustix::stdio::dup2_stdin(stdin)?,
            None => rustix::stdio::dup2_stdin(self.null(OFlags::RDONLY)?)?,
        }
        Ok(())
    }

    fn enter(&mut self, path: &str) -> Result<(), Trouble> {
        // Made when missing, as builders do; it is no mount point, so it stays.
        let place =
            self.root().place_or_make(path, StubKind::Directory, &mut Vec::new()).map_err(|errno| match errno {
                Errno::LOOP => with("a link of procfs, or links without end")(errno),
                errno => errno.into(),
            })?;
        Ok(rustix::process::fchdir(place)?)
    }

    fn become_user(&mut self, user: &str, groups: bool) -> Result<(), Trouble> {
        let identity = user::resolve(self.root(), user)?;
        // `/dev/stdout` is opened anew by name; a pipe or terminal that belonged to root would refuse the user.
        for stdio in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
            if self.terminal.is_some() || file_type(stdio)? == FileType::Fifo {
                match rustix::fs::fchown(stdio, Some(Uid::from_raw(identity.uid)), None) {
                    // Of whoever started a builder without the rights of root; the descriptor works all the same.
                    Err(Errno::PERM) => {}
                    given => given.map_err(privilege::no_such_id(format_args!("be the user {}", identity.uid)))?,
                }
            }
        }
        privilege::become_user(&identity, groups)?;
        self.identity = Some(identity);
        Ok(())
    }
}

fn is_null(file: impl AsFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3))
}
