//! What of the user's a fetch may use: an ssh agent, and what servers over HTTP ask for.
//!
//! Every [`Authorization`] is for one host. Whatever an address brings along stands above it.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// What of the user's a fetch may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Keys for ssh.
    pub agent: Agent,
    /// For servers over HTTP, by host; with its port if that is not the usual one.
    pub hosts: Vec<(String, Authorization)>,
}

/// Keys for ssh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Agent {
    /// None.
    #[default]
    Nobody,
    /// The agent that listens here.
    Socket(PathBuf),
}

impl Agent {
    /// Where it listens.
    pub(super) fn socket(&self) -> Option<OsString> {
        match self {
            Self::Nobody => None,
            Self::Socket(path) => Some(path.into()),
        }
    }
}

/// What a server over HTTP asks for. It shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(pub(super) Kind);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Password { user: String, password: Zeroizing<String> },
    Header(Zeroizing<String>),
}

impl Authorization {
    /// User and password.
    pub fn password(user: &str, password: &str) -> Self {
        Self(Kind::Password { user: user.into(), password: Zeroizing::new(password.into()) })
    }

    /// The value of the header `Authorization`.
    pub fn header(value: &str) -> Self {
        Self(Kind::Header(Zeroizing::new(value.into())))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}
