//! Who is asked for credentials that stand in no file here: whoever a build is done for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{Credential, Secret};

/// An answer; the error is in words for people.
pub type Answer<'a, T = Credential> = Pin<Box<dyn Future<Output = Result<Option<T>, String>> + Send + 'a>>;

/// What a token is wanted for, as the registry's challenge says it. distribution's token specification.
#[derive(Clone, Copy, Debug)]
pub struct TokenWish<'a> {
    /// As [`AskCredentials::ask`] has it.
    pub registry: &'a str,
    /// Who makes tokens: an address that may be given the credentials of this registry.
    pub realm: &'a str,
    /// For whom.
    pub service: Option<&'a str>,
    /// What for: `repository:library/debian:pull`.
    pub scopes: &'a [String],
}

/// A token for requests to a registry.
#[derive(Clone, Debug)]
pub struct FetchedToken {
    /// What stands behind `Bearer`.
    pub token: Secret,
    /// How long it lives; zero is not known.
    pub life: Duration,
}

/// Knows credentials by registry.
pub trait AskCredentials: fmt::Debug + Send + Sync {
    /// What there is for a registry (`ghcr.io`, `docker.io`).
    fn ask<'a>(&'a self, registry: &'a str) -> Answer<'a>;

    /// A token that whoever is asked fetches with credentials that stay there. `None`: it fetches none, so it is asked
    /// for the credentials.
    fn fetch_token<'a>(&'a self, wish: TokenWish<'a>) -> Answer<'a, FetchedToken>;
}
