//! Who is asked for credentials that stand in no file here: whoever a build is done for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::Credential;

/// Knows credentials by registry.
pub trait AskCredentials: fmt::Debug + Send + Sync {
    /// What there is for a registry (`ghcr.io`, `docker.io`); the error is in words for people.
    fn ask<'a>(
        &'a self,
        registry: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Credential>, String>> + Send + 'a>>;
}
