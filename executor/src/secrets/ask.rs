//! Who is asked for secrets and agents whose names nobody knows before: whoever stands behind a build from elsewhere.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// An answer; `None`: there is none of that name. The error is in words for people.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Option<T>, String>> + Send + 'a>>;

/// Knows secrets and agents by name.
pub trait AskSecrets: fmt::Debug + Send + Sync {
    /// The value of a secret. Asked once per build and name.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Vec<u8>>;

    /// The socket of an agent, the same for the whole build.
    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, PathBuf>;
}

/// Who is asked; two are the same only if they are one.
#[derive(Clone, Debug)]
pub struct Asking(pub Arc<dyn AskSecrets>);

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Asking {}
