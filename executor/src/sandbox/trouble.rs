//! Why an act of a plan failed, as it is told to the builder: a number, when the kernel gave one, and words.

use std::io;

use rustix::io::Errno;

use super::mount::MountError;

/// Why an act failed.
pub struct Trouble {
    /// The kernel's number; 0 when it was not the kernel.
    pub errno: i32,
    /// In words.
    pub detail: String,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self { errno: errno.raw_os_error(), detail: errno.to_string() }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or_default(), detail: error.to_string() }
    }
}

impl From<MountError> for Trouble {
    fn from(error: MountError) -> Self {
        Self { errno: error.errno.raw_os_error(), detail: error.to_string() }
    }
}

impl From<String> for Trouble {
    fn from(detail: String) -> Self {
        Self { errno: 0, detail }
    }
}

/// `(errno) => "words: errno"`.
pub fn with(words: impl std::fmt::Display) -> impl FnOnce(Errno) -> Trouble {
    move |errno| Trouble { errno: errno.raw_os_error(), detail: format!("{words}: {errno}") }
}
