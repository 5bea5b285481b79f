//! The system calls that rustix does not wrap: the only unsafe code of the sandbox.
//!
//! Everything here is for processes without threads (A and B of the drawing in [`super`]) unless it says otherwise.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::seccomp::Insn;

/// Result of [`clone_into`].
pub enum Cloned {
    /// This is the new process.
    Child,
    /// This is the old one, and these name the new one.
    Parent {
        /// Its process id as the caller sees it.
        pid: i32,
        /// A descriptor that means this process even after its id is reused.
        pidfd: OwnedFd,
    },
}

/// Like fork(2), with the new process in the new namespaces that `flags` (`CLONE_NEW*`) name.
///
/// # Safety
/// The calling process must have exactly one thread: the copy keeps the state of every lock.
pub unsafe fn clone_into(flags: libc::c_int) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let flags = (flags | libc::CLONE_PIDFD | libc::SIGCHLD) as libc::c_ulong;
    // clone(2), not clone3(2): default container filters answer ENOSYS to the latter. The pidfd comes through the
    // third argument on every architecture that we build for.
    // SAFETY: without CLONE_VM and with a null stack the call behaves as fork(2); `pidfd` outlives it; the caller
    // promises a single thread.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            std::ptr::null_mut::<libc::c_void>(),
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just opened `pidfd` for us and nobody else knows it.
        pid => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// clone3(2); the constant of libc does not fit into its own type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// As [`clone_into`], with the new process in the control group of version 2 whose directory is `group` from its first
/// moment on. clone3(2) with `CLONE_INTO_CGROUP`, Linux 5.7.
///
/// # Safety
/// As for [`clone_into`].
pub unsafe fn clone_into_group(flags: libc::c_int, group: BorrowedFd<'_>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero clone_args is a valid one.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (flags | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM and with a null stack the call behaves as fork(2); `arguments` and `pidfd` outlive it;
    // the caller promises a single thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just opened `pidfd` for us and nobody else knows it.
        pid => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Makes the control groups of this process the roots of what it sees of control groups.
pub fn unshare_control_groups() -> Result<(), Errno> {
    // SAFETY: no memory and no descriptor is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
}

/// Sets `MOUNT_ATTR_*` on the mount of `tree`, and on all below it when `recursive`. mount_setattr(2), Linux 5.12.
pub fn set_mount_attributes(tree: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    change_mount(tree, libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 }, recursive)
}

/// As [`set_mount_attributes`] for one mount that is nowhere yet, and maps the ids of its files as the user namespace
/// does: what is 0 on disk is its root's. Linux 5.12, as far as the file system can.
pub fn map_mount(tree: impl AsFd, set: u64, users: BorrowedFd<'_>) -> io::Result<()> {
    let (attr_set, userns_fd) = (set | libc::MOUNT_ATTR_IDMAP, users.as_raw_fd() as u64);
    change_mount(tree, libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd }, false)
}

fn change_mount(tree: impl AsFd, attributes: libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a literal, `attributes` outlives the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// From now on files that this process makes are `uid`'s and `gid`'s. The kernel takes the rights over files away with
/// that. setfsuid(2)
pub fn set_file_owner(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. Both calls answer with what was before, so the second of each tells.
    let done = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX) as u32, libc::setfsgid(u32::MAX) as u32)
    };
    if done == (uid, gid) { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// Gives this process a mount namespace and a host name of its own, which belong to its user namespace.
pub fn unshare_mounts_and_hostname() -> Result<(), Errno> {
    // SAFETY: no memory and no descriptor is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWUTS) }
}

/// Marks every descriptor from `first` on to be closed by exec. close_range(2), Linux 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is passed, and marking closes nothing that Rust owns.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts every signal's action back to the default: the Rust runtime ignores SIGPIPE, a `nohup` before us SIGHUP.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid action for every signal; KILL and STOP answer EINVAL, which changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Becomes another program; returns only the reason why not.
pub fn execute(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers =
        |list: &[CString]| list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and, like what they point to, outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Has the kernel judge every further call of this process, and of what it starts, by `program`. seccomp(2).
pub fn install_filter(program: &[Insn]) -> io::Result<()> {
    let copied = |&Insn { code, jt, jf, k }: &Insn| libc::sock_filter { code, jt, jf, k };
    let mut filter: Vec<_> = program.iter().map(copied).collect();
    let len = filter.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call, which copies them; the length is theirs.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends this process at once: no destructors, no exit handlers of a copied parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// What wait4(2) tells of a dead child.
pub struct Waited {
    /// Its status word, for `WIFEXITED` and friends.
    pub status: i32,
    /// Time in user code, of it and of all that it waited for.
    pub user: Duration,
    /// Time in the kernel likewise.
    pub system: Duration,
    /// The largest resident set among them, in bytes.
    pub max_rss_bytes: u64,
}

/// Waits for the child `pid`.
pub fn wait_for(pid: i32) -> io::Result<Waited> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to locals that outlive the call.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
            return Ok(Waited {
                status,
                user: time(usage.ru_utime),
                system: time(usage.ru_stime),
                max_rss_bytes: usage.ru_maxrss as u64 * 1024,
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Lets the async runtime wait until `file` can be read. For the builder, threads or not.
pub fn watch(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch_for(file, Interest::READABLE)
}

/// The same, for what is asked of it.
pub fn watch_for(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same descriptor and keeps it open until the runtime has let go of it.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(Into::into)
}

/// Switches the loopback interface of this network namespace on.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is one that SIOCSIFFLAGS reads, and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
