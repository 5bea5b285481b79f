//! Who is asked for credentials that stand in no file here: whoever a build is done for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::Credential;

/// An answer; the error is in words for people.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Option<Credential>, String>> + Send + 'a>>;

/// Knows credentials by registry.
pub trait AskCredentials: fmt::Debug + Send + Sync {
    /// What there is for a registry (`ghcr.io`, `docker.io`).
    fn ask<'a>(&'a self, registry: &'a str) -> Answer<'a>;
}
