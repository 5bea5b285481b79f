//! The few system calls that need `unsafe`: all of this room's unsafe code stands here.
//!
//! In: plain arguments. Out: plain results. Everything else goes through rustix's safe calls. Deliberately absent:
//! decisions. Next: [`crate::snapshot::overlay`], the sandbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use rustix::thread::UnshareFlags;

/// Gives the calling thread a working directory of its own, so that changing it moves no other thread.
pub(crate) fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: only CLONE_FILES could make descriptors of other threads invisible; it is not asked for.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(Into::into)
}

/// Gives the calling thread a mount namespace (and a working directory) of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: as above; CLONE_NEWNS touches no descriptor.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }.map_err(Into::into)
}

/// Interrupts the system call that a thread is in, which then fails with `EINTR`. One that it is about to make is not.
/// signal(7), "Interruption of system calls by signal handlers".
pub(crate) fn interrupt<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SIGURG does nothing to whom it reaches by mistake. The handler is the same every time, so it may be set again.
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a `sigaction` of zeros is valid: an empty mask, and no flags, so calls are not begun again.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing, which is safe in any thread at any time; the structure lives until the return.
    if unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle has neither been joined nor detached, so the id is still this thread's.
    match unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGURG) } {
        0 | libc::ESRCH => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Gives memory that nothing uses back to the system: what the allocator keeps of what was freed, and this program's own
/// text, which is read again from the kernel's cache as it is needed. For a process that has done much and waits now.
pub fn give_back_memory() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and frees only what is free.
    unsafe {
        libc::malloc_trim(0)
    };
    let program = std::fs::read_link("/proc/self/exe")?;
    let program = program.to_str().unwrap_or_default();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        // `START-END r-xp OFFSET DEVICE INODE  PATH`; proc(5). What may be written to, or was while it was relocated, is
        // no copy of a file.
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp")) = (words.next(), words.next()) else { continue };
        let (true, Some((start, end))) = (words.nth(3) == Some(program), range.split_once('-')) else { continue };
        let number = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
        let (start, end) = (number(start)?, number(end)?);
        // SAFETY: nothing ever wrote to these pages: they are the file's, and come back as the same bytes when the next
        // instruction is fetched, which may be that of this very loop.
        if unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives the calling thread a new network namespace; for helper processes, which have a single thread.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET touches no descriptor; sockets stay in the namespace that they were opened in.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

/// Adds the attributes `set` (`MOUNT_ATTR_*`) to the mount that `mount` is the root of. mount_setattr(2), Linux 5.12.
pub(crate) fn add_mount_attributes(mount: impl AsFd, set: u64) -> io::Result<()> {
    // How access times are kept is one value of several bits: the old one must be cleared for a new one.
    let access_time = set & libc::MOUNT_ATTR__ATIME;
    let clear = if access_time == 0 { 0 } else { libc::MOUNT_ATTR__ATIME };
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is an empty C string, the structure lives until the call returns and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user namespace that another namespace belongs to. ioctl_ns(2), `NS_GET_USERNS`.
pub(crate) fn owner_of_namespace(namespace: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no argument and gives a new descriptor or -1.
    let owner = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), libc::NS_GET_USERNS) };
    // SAFETY: it is open, and nobody else's.
    if owner < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(owner) }) }
}

/// Gives this process a user namespace of its own, in which it has all capabilities, and a mount namespace with it. The
/// kernel refuses it to processes with several threads.
pub(crate) fn unshare_user_and_mounts() -> io::Result<()> {
    // SAFETY: as above; CLONE_NEWUSER touches no descriptor either.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }.map_err(Into::into)
}

/// Gives this process a user namespace of its own. The kernel refuses it to processes with several threads.
pub(crate) fn unshare_user() -> io::Result<()> {
    // SAFETY: as above.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(Into::into)
}

/// Like fork(2), with the new process in new namespaces (`CLONE_NEW*`), for a process that was seen to have one thread.
/// `None` in the new one.
pub(crate) fn fork_single_threaded(flags: libc::c_int) -> io::Result<Option<i32>> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("this process has {threads} threads")));
    }
    // SAFETY: the only thread is this one, so nobody can start another between the look and the call.
    match unsafe { crate::sandbox::sys::clone_into(flags) }? {
        crate::sandbox::sys::Cloned::Child => Ok(None),
        crate::sandbox::sys::Cloned::Parent { pid, .. } => Ok(Some(pid)),
    }
}
