//! What a frontend has asked for: references, and what they stand for.
//!
//! In: requests of [`super::bridge`]. Out: a [`Reference`] per request, and what is built when the frontend returns some of
//! them ([`Wanted`]). A reference costs memory until its build ends, so there is a limit to each kind of cost. A
//! reference is solved when somebody wants to see it before it is returned ([`evaluate`]), and [`files`] looks into it.

pub mod container;
pub mod dockerfile;
mod evaluate;
pub mod files;
pub mod guest;
pub mod nested;
pub mod process;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::control::CacheOptionsEntry;
use api::gateway::{self, result};
use tokio::sync::OnceCell;
use tonic::Status;

use super::Daemon;
use super::definition::{self, Metadata, Results};
use super::frontend::Asked;
use super::llb::Llb;
use crate::engine::Evaluated;

pub use self::dockerfile::Planned;
pub use self::evaluate::evaluated;

/// References of one build. Frontends for many platforms have some hundred.
const REFERENCES_MAX: usize = 4096;
/// Bytes of all definitions of one build.
const BYTES_MAX: usize = 64 << 20;
/// References that are looked into; each holds its result, and files that are open.
const EVALUATED_MAX: usize = 128;

/// What a frontend was given a reference for.
#[derive(Clone, Debug)]
pub enum Reference {
    /// A Dockerfile: the result of that number.
    Dockerfile(Arc<Planned>, usize),
    /// A definition.
    Definition(Arc<Llb>),
}

/// A reference, solved when somebody looks into it.
#[derive(Debug)]
pub struct Known {
    what: Reference,
    evaluated: OnceCell<Arc<Evaluated>>,
}

/// What is built in the end.
#[derive(Debug)]
pub enum Wanted {
    /// A Dockerfile, which may be planned.
    Dockerfile(Asked, Option<Arc<Planned>>),
    /// Definitions.
    Results {
        /// Of what.
        results: Results,
        /// What is said beside.
        metadata: Metadata,
        /// Caches to know from.
        imports: Vec<CacheOptionsEntry>,
    },
}

/// The references of one build.
#[derive(Debug, Default)]
pub struct References {
    known: HashMap<String, Arc<Known>>,
    bytes: usize,
    imports: Vec<CacheOptionsEntry>,
    evaluated: usize,
}

impl References {
    /// A new one, of so many bytes.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add(&mut self, reference: Reference, bytes: usize) -> Result<String, Status> {
        if self.known.len() >= REFERENCES_MAX {
            return Err(Status::resource_exhausted(format!(
                "the build has asked for {REFERENCES_MAX} results already"
            )));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "the definitions of the build have more than {BYTES_MAX} bytes"
            )));
        }
        let id = format!("result-{}", self.known.len());
        self.known.insert(id.clone(), Arc::new(Known { what: reference, evaluated: OnceCell::new() }));
        Ok(id)
    }

    /// Caches that a frontend named beside its definitions.
    pub fn import(&mut self, imports: Vec<CacheOptionsEntry>) {
        for import in imports {
            if self.imports.len() < REFERENCES_MAX && !self.imports.contains(&import) {
                self.imports.push(import);
            }
        }
    }

    /// One more is looked into.
    ///
    /// # Errors
    /// When there are too many.
    pub fn evaluate(&mut self) -> Result<(), Status> {
        if self.evaluated >= EVALUATED_MAX {
            return Err(Status::resource_exhausted(format!(
                "the build has looked into {EVALUATED_MAX} results already"
            )));
        }
        self.evaluated += 1;
        Ok(())
    }

    /// Those caches.
    pub fn imports(&self) -> Vec<CacheOptionsEntry> {
        self.imports.clone()
    }

    /// What an id stands for.
    ///
    /// # Errors
    /// When it stands for nothing.
    pub fn find(&self, id: &str) -> Result<Arc<Known>, Status> {
        self.known
            .get(id)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("there is no result {}", id.escape_debug())))
    }

    /// What a returned result stands for; none is a client that only looked around.
    ///
    /// # Errors
    /// For references that are none, or do not go together.
    pub fn wanted(&self, daemon: &Daemon, result: Option<gateway::Result>) -> Result<Option<Wanted>, Status> {
        let Some(result) = result else { return Ok(None) };
        if result.attestations.values().any(|found| !found.attestation.is_empty()) {
            return Err(Status::unimplemented("attestations are not supported by this version of rbuild"));
        }
        let metadata: Metadata = result.metadata.into_iter().collect();
        let ids: BTreeMap<String, String> = match result.result {
            None if definition::has_image(&metadata) => return Ok(Some(self.results(Results::One(None), metadata))),
            None => return Ok(None),
            Some(result::Result::RefDeprecated(id)) => return self.one(daemon, &id, metadata),
            Some(result::Result::Ref(reference)) => return self.one(daemon, &reference.id, metadata),
            Some(result::Result::RefsDeprecated(map)) => map.refs.into_iter().collect(),
            Some(result::Result::Refs(map)) => map.refs.into_iter().map(|(key, found)| (key, found.id)).collect(),
        };
        let mut found = BTreeMap::new();
        for (key, id) in &ids {
            found.insert(key.as_str(), self.of(id)?);
        }
        if let Some(planned) = one_dockerfile(&found, &metadata) {
            return Ok(Some(Wanted::Dockerfile(planned.asked.clone(), Some(planned))));
        }
        let mut results = BTreeMap::new();
        for (key, reference) in found {
            results.insert(key.to_owned(), reference.map(|reference| reference.definition(daemon)).transpose()?);
        }
        Ok(Some(self.results(Results::Several(results), metadata)))
    }

    fn results(&self, results: Results, metadata: Metadata) -> Wanted {
        Wanted::Results { results, metadata, imports: self.imports.clone() }
    }

    fn one(&self, daemon: &Daemon, id: &str, metadata: Metadata) -> Result<Option<Wanted>, Status> {
        let Some(reference) = self.of(id)? else {
            let has_image = definition::has_image(&metadata);
            return Ok(has_image.then(|| self.results(Results::One(None), metadata)));
        };
        let found = BTreeMap::from([("", Some(reference.clone()))]);
        if let Some(planned) = one_dockerfile(&found, &metadata) {
            return Ok(Some(Wanted::Dockerfile(planned.asked.clone(), Some(planned))));
        }
        Ok(Some(self.results(Results::One(Some(reference.definition(daemon)?)), metadata)))
    }

    /// What an id stands for; no id is the empty tree.
    fn of(&self, id: &str) -> Result<Option<Reference>, Status> {
        if id.is_empty() { Ok(None) } else { self.find(id).map(|known| Some(known.what.clone())) }
    }
}

impl Reference {
    /// As a definition.
    ///
    /// # Errors
    /// When it cannot be said in one.
    pub fn definition(self, daemon: &Daemon) -> Result<Arc<Llb>, Status> {
        match self {
            Self::Definition(llb) => Ok(llb),
            Self::Dockerfile(planned, at) => definition::read(daemon, planned.definition(at)?),
        }
    }
}

/// The Dockerfile whose results these are, as they were told.
fn one_dockerfile(found: &BTreeMap<&str, Option<Reference>>, metadata: &Metadata) -> Option<Arc<Planned>> {
    let mut planned: Option<&Arc<Planned>> = None;
    let mut results = BTreeMap::new();
    for (key, reference) in found {
        let Some(Reference::Dockerfile(of, at)) = reference else { return None };
        if planned.is_some_and(|known| !Arc::ptr_eq(known, of)) {
            return None;
        }
        planned = Some(of);
        results.insert(*key, *at);
    }
    planned.filter(|planned| planned.is_whole(&results, metadata)).cloned()
}
