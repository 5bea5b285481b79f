//! Images added to what a tag means, while others do the same.
//!
//! In: a tag, and entries whose images are in its repository. Out: an index under that tag with these entries, and with
//! those of everybody else. Registries have no transactions, so a tag that two change at once has what the later wrote:
//!
//! 1. read the tag; nothing to do if our entries are in it;
//! 2. write the merged index by its digest, and learn thereby whether the registry heeds `If-Match`;
//! 3. write the tag: if it still means what was read, where the registry heeds that, and then it is done;
//! 4. else look again until the tag has kept our entries for [`SETTLED`], or for four times as long as a round took
//!    here: whoever had read before we wrote has written by then. What is missing, ours or what others had in, is merged
//!    in again, after a pause that is longer each time and never the same.
//!
//! Of two that join different images for one platform at once, one has it in the end: who finds an image there that was
//! not there when it wrote has been followed by another, and lets it be.
//!
//! A process that stands still for longer than that between its reading and its writing can still undo what others wrote;
//! it is itself then done only when its own entries are in. Deliberately absent: where entries come from.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci::model::{Descriptor, Digest, Reference};
use oci::registry::{Asked, Client, Condition, Content, Document, Put, RegistryError};
use solver::graph::VertexId;
use solver::seam::{Event, Progress};

use super::combine::{Entries, Replaced, written};
use super::source;
use crate::engine::{Failure, words};

/// How long a tag must have kept what it was given.
const SETTLED: Duration = Duration::from_millis(1500);
/// However slow a registry is, longer nobody waits.
const SETTLED_MAX: Duration = Duration::from_secs(30);
/// Looks in that time.
const LOOKS: u32 = 4;
/// How often the tag is written before it is given up: sixteen writers at once need about four.
const WRITES_MAX: u32 = 30;
/// The most of the first pause; it grows by as much each time.
const PAUSE: Duration = Duration::from_millis(300);
/// Longer no pause gets.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What joining came to.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The index that the tag means.
    pub index: Descriptor,
    /// What it has.
    pub entries: Vec<Descriptor>,
    /// What gave way to ours.
    pub replaced: Vec<Replaced>,
    /// How often the tag was written; 0 if all was in already.
    pub writes: u32,
}

/// Adds entries to what the tag means; see above. What is not there yet becomes an index, and so does a single image.
pub async fn join(
    client: &Client,
    name: &Reference,
    ours: Vec<Descriptor>,
    progress: &Arc<dyn Progress>,
    task: VertexId,
) -> Result<Joined, Failure> {
    join_with(client, name, &ours, &BTreeMap::new(), &**progress, task).await
}

/// The same, and the index gets annotations.
pub async fn join_with(
    client: &Client,
    name: &Reference,
    ours: &[Descriptor],
    annotations: &BTreeMap<String, String>,
    progress: &dyn Progress,
    task: VertexId,
) -> Result<Joined, Failure> {
    if name.digest().is_some() {
        return Err(Failure::new(format!("`{name}` has a digest, and what has one never changes"))
            .help("name a tag: images are joined under one"));
    }
    let ours = Entries::of(ours.to_vec());
    let (others, known) = (Entries::default(), HashSet::new());
    Join { client, name, ours, annotations, progress, task, others, known, writes: 0, heeds: None }.run().await
}

/// The entries and annotations of what a name means.
pub struct State {
    pub document: Option<Document>,
    pub entries: Entries,
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// Asks the registry.
    pub async fn read(client: &Client, name: &Reference) -> Result<Self, Failure> {
        let document = match client.document(name, Asked::ToPush).await {
            Ok(document) => document,
            Err(error) if error.is_not_found() => {
                return Ok(Self { document: None, entries: Entries::default(), annotations: BTreeMap::new() });
            }
            Err(error) => return Err(words::registry(&error)),
        };
        let annotations = match &document.content {
            Content::Index(index) => index.annotations.clone(),
            Content::Manifest(_) => BTreeMap::new(),
        };
        let entries = source::entries(client, name, &document).await?;
        Ok(Self { document: Some(document), entries, annotations })
    }

    fn is_index(&self) -> bool {
        matches!(&self.document, Some(Document { content: Content::Index(_), .. }))
    }
}

struct Join<'a> {
    client: &'a Client,
    name: &'a Reference,
    ours: Entries,
    annotations: &'a BTreeMap<String, String>,
    progress: &'a dyn Progress,
    task: VertexId,
    /// What was seen in the tag, the latest of every platform.
    others: Entries,
    /// All that was there when we wrote.
    known: HashSet<Digest>,
    writes: u32,
    /// Whether the registry heeds conditions.
    heeds: Option<bool>,
}

impl Join<'_> {
    async fn run(mut self) -> Result<Joined, Failure> {
        let pace = self.client.pace();
        let mut replaced = Vec::new();
        let mut settled = SETTLED;
        let mut wrote: Option<Instant> = None;
        let mut rested = true;
        loop {
            let read = Instant::now();
            let state = State::read(self.client, self.name).await?;
            if self.writes > 0 {
                self.give_way(&state);
            }
            let merged = self.merged(&state);
            if state.is_index() && self.is_in(&state, &merged) {
                match wrote.and_then(|wrote| settled.checked_sub(wrote.elapsed())) {
                    Some(left) => {
                        pace.sleep(left.min(settled / LOOKS)).await;
                        continue;
                    }
                    None => {
                        let index = state.document.expect("it is an index").descriptor;
                        return Ok(Joined { index, entries: state.entries.all, replaced, writes: self.writes });
                    }
                }
            }
            if self.writes == WRITES_MAX {
                return Err(Failure::new(format!("`{}` does not keep what is written to it", self.name))
                    .note(format!("it was written {WRITES_MAX} times, and others changed it each time"))
                    .help("try again when fewer write to it at once"));
            }
            if !std::mem::take(&mut rested) {
                // What is read after the pause is written at once.
                let longest = PAUSE.saturating_mul(self.writes.max(1)).min(PAUSE_MAX);
                pace.sleep(longest.mul_f64(pace.chance())).await;
                rested = true;
                continue;
            }
            if self.writes > 0 {
                let text = format!("others write to `{}` too: merging again", self.name.familiar());
                self.progress.event(Event::Notice { vertex: self.task, text });
            }
            self.known.extend(state.entries.all.iter().map(|entry| entry.digest));
            let put = self.write(&state, &merged).await.map_err(|error| words::registry(&error))?;
            self.writes += 1;
            for one in &merged.replaced {
                if !replaced.contains(one) {
                    replaced.push(one.clone());
                }
            }
            if let (Put::Done, Some(true)) = (put, self.heeds) {
                let (index, _) = written(&self.index(&state, &merged));
                return Ok(Joined { index, entries: merged.all, replaced, writes: self.writes });
            }
            wrote = Some(Instant::now());
            settled = settled.max(read.elapsed() * 4).min(SETTLED_MAX);
        }
    }

    /// Everybody's entries with ours, and what others had in and lost.
    fn merged(&mut self, state: &State) -> Entries {
        let mut merged = Entries::of(state.entries.all.clone());
        for seen in &self.others.all {
            if !merged.needs_not(seen) {
                merged.add(seen.clone());
            }
        }
        self.others = Entries::of(merged.all.clone());
        for entry in &self.ours.all {
            merged.add(entry.clone());
        }
        merged
    }

    /// Lets be what others wrote after us for our platforms.
    fn give_way(&mut self, state: &State) {
        let mut ours = std::mem::take(&mut self.ours);
        ours.all.retain(|entry| match state.entries.in_place_of(entry) {
            Some(there) if there != entry.digest && !self.known.contains(&there) => {
                let text = format!("{there} took the place of {} meanwhile, for the same platform", entry.digest);
                self.progress.event(Event::Notice { vertex: self.task, text });
                false
            }
            _ => true,
        });
        self.ours = ours.without_orphans();
    }

    /// Whether the tag has all of it.
    fn is_in(&self, state: &State, merged: &Entries) -> bool {
        let annotated = self.annotations.iter().all(|(key, value)| state.annotations.get(key) == Some(value));
        annotated && merged.all.iter().all(|entry| state.entries.has(entry))
    }

    fn index(&self, state: &State, merged: &Entries) -> oci::model::Index {
        let mut annotations = state.annotations.clone();
        annotations.extend(self.annotations.clone());
        merged.index(annotations)
    }

    async fn write(&mut self, state: &State, merged: &Entries) -> Result<Put, RegistryError> {
        let (descriptor, bytes) = written(&self.index(state, merged));
        let heeds = match self.heeds {
            Some(heeds) => heeds,
            None => *self.heeds.insert(self.client.put_by_digest(self.name, &descriptor, &bytes).await?),
        };
        let condition = match &state.document {
            _ if !heeds => Condition::Always,
            None => Condition::Absent,
            Some(Document { etag: Some(etag), .. }) => Condition::Still(etag.clone()),
            // It heeds conditions, and gives nothing to make one of.
            Some(_) => {
                self.heeds = Some(false);
                Condition::Always
            }
        };
        self.client.put_document(self.name, &descriptor, &bytes, &condition).await
    }
}
