//! The way to an image: its endpoints, one after the other.
//!
//! A name and an act come in; a [`Route`] goes out, which always stands at one [`Place`]. Whoever resolves or fetches
//! asks there, and either [arrives](Route::arrived) or [passes on](Route::pass) with the error; the last place is the
//! registry itself, and its error is final. A mirror that is out of reach is left alone for the rest of the build.
//! What a person should know of it is told once. Deliberately absent: what is asked; which endpoints there are
//! ([`crate::hosts`]).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::auth::Site;
use super::error::RegistryError;
use super::{Shared, locked};
use crate::hosts::{Act, Endpoint, Hosts};
use crate::model::Reference;

/// Reads the settings of hosts, when they are first needed.
pub type ReadHosts = Arc<dyn Fn() -> Hosts + Send + Sync>;

/// Settings of hosts, read when they are first needed.
#[derive(Default)]
pub(super) struct HostTable {
    read: Option<ReadHosts>,
    hosts: OnceLock<Hosts>,
    /// Hosts (`host` or `host:port`) of registries that may be spoken to without TLS because a name or a mirror says
    /// them.
    plain: Mutex<HashSet<String>>,
}

impl HostTable {
    pub(super) fn new(read: Option<ReadHosts>) -> Self {
        Self { read, ..Self::default() }
    }

    pub(super) fn get(&self) -> &Hosts {
        self.hosts.get_or_init(|| self.read.as_ref().map(|read| read()).unwrap_or_default())
    }

    /// Whether a host may be spoken to over plain HTTP.
    pub(super) fn permits_plain(&self, authority: &str) -> bool {
        locked(&self.plain).contains(authority) || self.get().trust_of(authority).permits_plain()
    }

    pub(super) fn permit_plain(&self, authority: String) {
        locked(&self.plain).insert(authority);
    }
}

/// Where an image is asked for.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    /// The image as it is called there.
    pub(super) image: Reference,
    /// Whether its site was needed. What the store has is asked of nobody.
    pub(super) asked: AtomicBool,
}

/// The way to an image.
pub(super) struct Route<'a> {
    shared: &'a Shared,
    /// As the name says.
    registry: String,
    places: Vec<Place>,
    at: usize,
    /// Why mirrors were passed over, unless they just do not have it.
    failures: Vec<String>,
}

impl Shared {
    /// The way to an image. It begins at a place that is not known to be out of reach.
    pub(super) fn route(&self, image: &Reference, act: Act) -> Result<Route<'_>, RegistryError> {
        let endpoints = self.wire.rules.hosts.get().endpoints(image, act)?;
        let lost = locked(&self.lost_mirrors);
        let near = endpoints.into_iter().filter(|endpoint| !endpoint.is_mirror || !lost.contains(&key(endpoint)));
        let places = near.map(|endpoint| {
            let image = image.at(&endpoint.registry, &endpoint.repository);
            Place { endpoint, image, asked: AtomicBool::new(false) }
        });
        let places = places.collect();
        Ok(Route { shared: self, registry: image.registry().to_owned(), places, at: 0, failures: Vec::new() })
    }

    /// The registry itself, and the image as it is called there: for whatever no mirror may be asked.
    pub(super) async fn origin(&self, image: &Reference) -> Result<(Arc<Site>, Reference), RegistryError> {
        let mut route = self.route(image, Act::Push)?;
        let place = route.places.pop().expect("the last place of a route is the registry itself");
        Ok((self.site(&place).await?, place.image))
    }

    /// Tells something once.
    fn tell_once(&self, text: String) {
        if locked(&self.told).insert(text.clone()) {
            (self.tell)(&text);
        }
    }
}

impl Route<'_> {
    /// Where to ask now.
    pub(super) fn place(&self) -> &Place {
        &self.places[self.at]
    }

    /// Goes on to the next place, or gives the error back if there is none, or if it is not the place's.
    pub(super) fn pass(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let endpoint = &self.places[self.at].endpoint;
        if self.at + 1 == self.places.len() || error.is_local() {
            return Err(error);
        }
        tracing::debug!(mirror = endpoint.registry, %error, "a mirror is passed over");
        if error.is_out_of_reach() {
            locked(&self.shared.lost_mirrors).insert(key(endpoint));
        }
        // Not to have an image is a mirror's right.
        if !error.is_not_found() {
            self.failures.push(error.to_string());
        }
        self.at += 1;
        Ok(())
    }

    /// The place gave what it was asked for.
    pub(super) fn arrived(self) {
        let Place { endpoint, asked, .. } = &self.places[self.at];
        if !asked.load(Ordering::Relaxed) {
            return;
        }
        if endpoint.is_mirror {
            let said = endpoint.source.as_deref().unwrap_or("settings");
            self.shared.tell_once(format!(
                "images of `{}` come from the mirror `{}` ({said})",
                self.registry, endpoint.registry
            ));
        } else if let Some(first) = self.failures.first() {
            let more = match self.failures.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            self.shared
                .tell_once(format!("no mirror of `{}` helped, so it is asked itself: {first}{more}", self.registry));
        }
    }
}

/// What makes a site of an endpoint.
pub(super) fn key(endpoint: &Endpoint) -> Endpoint {
    Endpoint { repository: String::new(), source: None, ..endpoint.clone() }
}
