//! A name for images that are in registries: one of them byte for byte, or an index of several.
//!
//! In: names, and what they shall mean. Out: what they mean. Manifests and layers that are in other repositories are
//! brought first, the names come last. Deliberately absent: what an index is made of ([`super::combine`]); names that
//! others change at the same time ([`super::join`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use oci::model::{Descriptor, Platform, Reference};
use oci::registry::{Asked, Client, Condition, Content};
use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use tokio_util::sync::CancellationToken;

use super::combine::{Entries, Replaced, written};
use super::copy::Copier;
use super::join::{State, join_with};
use super::source::{Place, Source};
use crate::engine::task::Task;
use crate::engine::{Failure, Settings, words};

/// Sources that are read at once.
const READ_AT_ONCE: usize = 4;

/// What is to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The names, in one or several repositories.
    pub names: Vec<Reference>,
    /// Of what, in order.
    pub sources: Vec<Place>,
    /// Whether the names keep what they mean, and get this too.
    pub append: bool,
    /// Of the index.
    pub annotations: BTreeMap<String, String>,
    /// Of its entries, perhaps for one platform only.
    pub entry_annotations: Vec<(Option<Platform>, String, String)>,
    /// Only images for these; empty: all.
    pub platforms: Vec<Platform>,
    /// Whether one image becomes an index too.
    pub prefer_index: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// What was made, or would be.
#[derive(Clone, Debug)]
pub struct Created {
    /// Points to it.
    pub document: Descriptor,
    /// Its bytes; those of names that were appended to are [`Created::named`]'s.
    pub bytes: Vec<u8>,
    /// The names, and what each means now.
    pub named: Vec<(Reference, Descriptor)>,
    /// What gave way to something later for the same platform.
    pub replaced: Vec<Replaced>,
}

/// Makes it.
pub async fn create(
    settings: &Settings,
    options: &CreateOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Created, Failure> {
    settings.check_online("imagetools create")?;
    let client = settings.registry(&progress)?;
    let names: Vec<String> = options.names.iter().map(Reference::familiar).collect();
    let task = Task::start(&format!("[internal] create {}", names.join(", ")), &progress);
    let making = Maker { client: &client, options, progress: &progress, task: task.vertex };
    let made = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(words::canceled()),
        made = making.make() => made,
    };
    task.end(made)
}

struct Maker<'a> {
    client: &'a Client,
    options: &'a CreateOptions,
    progress: &'a Arc<dyn Progress>,
    task: VertexId,
}

impl Maker<'_> {
    async fn make(&self) -> Result<Created, Failure> {
        let options = self.options;
        let reads = options.sources.iter().map(|place| Source::read(self.client, place, Asked::Mirrors));
        let sources: Vec<Source> = stream::iter(reads).buffered(READ_AT_ONCE).try_collect().await?;
        if let [only] = &sources[..]
            && self.is_as_it_is(only)
        {
            return self.rename(only).await;
        }
        let mut entries = Entries::default();
        for entry in sources.iter().flat_map(|source| &source.entries.all) {
            entries.add(entry.clone());
        }
        if !options.platforms.is_empty()
            && let [first, ..] = &entries.keep(&options.platforms)[..]
        {
            return Err(Failure::new(format!("none of the sources has an image for `{first}`"))
                .help("`rbuild imagetools inspect NAME` lists the platforms of an image"));
        }
        self.annotate(&mut entries)?;
        if options.append { self.append(&sources, entries).await } else { self.index(&sources, entries).await }
    }

    /// Whether the one source goes on byte for byte.
    fn is_as_it_is(&self, source: &Source) -> bool {
        let CreateOptions { append, annotations, entry_annotations, platforms, prefer_index, .. } = self.options;
        let is_index = matches!(source.document.content, Content::Index(_));
        !append
            && annotations.is_empty()
            && entry_annotations.is_empty()
            && platforms.is_empty()
            && (is_index || !prefer_index)
    }

    /// The same under other names.
    async fn rename(&self, source: &Source) -> Result<Created, Failure> {
        let document = &source.document;
        if !self.options.dry_run {
            for name in &self.options.names {
                self.copier(name).document(&source.at, document).await?;
            }
            self.name(&document.descriptor, &document.bytes).await?;
        }
        Ok(self.created(document.descriptor.clone(), document.bytes.clone(), Vec::new()))
    }

    /// An index under all names.
    async fn index(&self, sources: &[Source], entries: Entries) -> Result<Created, Failure> {
        let (document, bytes) = written(&entries.index(self.options.annotations.clone()));
        self.tell(&entries.replaced);
        if !self.options.dry_run {
            for name in &self.options.names {
                self.bring(name, sources, &entries).await?;
            }
            self.name(&document, &bytes).await?;
        }
        Ok(self.created(document, bytes, entries.replaced))
    }

    /// What each name means, and this too.
    async fn append(&self, sources: &[Source], entries: Entries) -> Result<Created, Failure> {
        let annotations = &self.options.annotations;
        let mut created: Option<Created> = None;
        for name in &self.options.names {
            let (document, bytes, replaced) = if self.options.dry_run {
                let state = State::read(self.client, name).await?;
                let mut merged = state.entries;
                entries.all.iter().for_each(|entry| merged.add(entry.clone()));
                let annotations = state.annotations.into_iter().chain(annotations.clone()).collect();
                let (document, bytes) = written(&merged.index(annotations));
                (document, bytes, merged.replaced)
            } else {
                self.bring(name, sources, &entries).await?;
                let joined =
                    join_with(self.client, name, &entries.all, annotations, &**self.progress, self.task).await?;
                (joined.index, Vec::new(), joined.replaced)
            };
            self.tell(&replaced);
            let created = created.get_or_insert_with(|| Created {
                document: document.clone(),
                bytes,
                named: Vec::new(),
                replaced: Vec::new(),
            });
            created.named.push((name.clone(), document));
            created.replaced.extend(replaced);
        }
        created.ok_or_else(|| Failure::new("nothing says what is appended to").help("name it with `-t NAME`"))
    }

    fn created(&self, document: Descriptor, bytes: Vec<u8>, replaced: Vec<Replaced>) -> Created {
        let named = self.options.names.iter().map(|name| (name.clone(), document.clone())).collect();
        Created { document, bytes, named, replaced }
    }

    fn copier<'a>(&'a self, to: &'a Reference) -> Copier<'a> {
        Copier { client: self.client, to, progress: &**self.progress, task: self.task }
    }

    /// Brings the images of all entries into the repository of a name.
    async fn bring(&self, name: &Reference, sources: &[Source], entries: &Entries) -> Result<(), Failure> {
        for entry in &entries.all {
            // The later wins there too.
            let has = |source: &&Source| source.entries.all.iter().any(|own| own.digest == entry.digest);
            let source = sources.iter().rev().find(has).expect("every entry came from a source");
            self.copier(name).entry(&source.at, entry).await?;
        }
        Ok(())
    }

    /// Gives all names a document whose parts are there.
    async fn name(&self, document: &Descriptor, bytes: &[u8]) -> Result<(), Failure> {
        for name in &self.options.names {
            let put = self.client.put_document(name, document, bytes, &Condition::Always).await;
            put.map_err(|error| words::registry(&error))?;
        }
        Ok(())
    }

    fn annotate(&self, entries: &mut Entries) -> Result<(), Failure> {
        for (platform, key, value) in &self.options.entry_annotations {
            let mut found = false;
            for entry in &mut entries.all {
                let own = entry.platform.as_ref().filter(|own| own.os != "unknown");
                if own.is_some_and(|own| platform.as_ref().is_none_or(|wanted| own.serves(wanted))) {
                    entry.annotations.insert(key.clone(), value.clone());
                    found = true;
                }
            }
            if let (false, Some(platform)) = (found, platform) {
                return Err(Failure::new(format!("nothing is there for `{platform}`, to be annotated with `{key}`"))
                    .help("`rbuild imagetools inspect NAME` lists the platforms of an image"));
            }
        }
        Ok(())
    }

    fn tell(&self, replaced: &[Replaced]) {
        for Replaced { platform, old, new } in replaced {
            let text = format!("`{platform}`: {new} takes the place of {old}");
            self.progress.event(Event::Notice { vertex: self.task, text });
        }
    }
}
