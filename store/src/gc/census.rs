//! What there is: every thing of the store with its size, its last use, what it stands on and who holds it.
//!
//! In: the index and the folders. Out: a [`Census`]. It is a picture of a moment; others go on meanwhile, so whoever
//! takes something looks again ([`super::remove`]). Sizes are those on disk; what rows take is part of the index.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::Path;

use jiff::Timestamp;
use oci::model::{Descriptor, Digest, Manifest};
use rusqlite::Connection;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use solver::seam::ResultId;

use super::measure;
use super::policy::{Holder, Thing, spread_holders};
use crate::index::Trouble;
use crate::journal::{image_file_name, record_file_name};
use crate::layout::{Folder, Layout};
use crate::{Kind, Store, StoreError, usage};

/// A manifest; what is larger is none.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// A row's own columns and its share of the database's indices, roughly.
const ROW_BYTES: u64 = 200;
/// Folders whose contents are things, and files that are counted by what they hold.
const COUNTED: [&str; 12] = [
    "blobs", "layers", "records", "images", "git", "notes", "contexts", "clients", "mounts", "leases", "flights",
    "history",
];

/// Everything under the store's root.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) things: Vec<Thing>,
    /// What is no thing that could go: the index, the trash, drafts; in bytes.
    pub(crate) other: Vec<(String, u64)>,
    pub(crate) total_bytes: u64,
    at: HashMap<(Kind, String), usize>,
}

impl Census {
    pub(crate) fn take(store: &Store) -> Result<Self, StoreError> {
        let layout = store.layout();
        let mut census = Self::default();
        let mut links = Vec::new();
        // Blobs first: what a record that is newer than this listing stands on is not seen as nobody's by that.
        census.blobs(layout)?;
        let unmeasured = census.layers(store, &mut links)?;
        census.keys(store, &mut links)?;
        census.images(store, &mut links)?;
        census.rows_of_files(store, layout)?;
        let used: HashMap<(Kind, String), (i64, i64)> = store.index().read("tell what was used", |connection| {
            let mut query = connection.prepare("SELECT kind, name, used_tick, used_at FROM uses")?;
            let rows = query.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, (row.get(2)?, row.get(3)?)))
            })?;
            let mut used = HashMap::new();
            for row in rows {
                let (kind, name, at) = row?;
                if let Ok(kind) = kind.parse::<Kind>() {
                    used.insert((kind, name), at);
                }
            }
            Ok(used)
        })?;
        for (thing, (tick, at)) in used {
            if let Some(&known) = census.at.get(&thing) {
                let thing = &mut census.things[known];
                (thing.tick, thing.used_at) = (thing.tick.max(tick), thing.used_at.max(at));
            }
        }
        for (from, kind, name) in links {
            match census.at.get(&(kind, name)) {
                Some(&to) if to != from => census.things[from].needs.push(to),
                _ => {}
            }
        }
        for thing in &mut census.things {
            thing.needs.sort_unstable();
            thing.needs.dedup();
        }
        store_sizes(store, &unmeasured)?;
        census.order_files();
        census.spread_dangling();
        census.hold(store)?;
        census.count_other(store)?;
        Ok(census)
    }

    fn add(&mut self, thing: Thing) -> usize {
        let at = self.things.len();
        self.at.insert((thing.kind, thing.name.clone()), at);
        self.things.push(thing);
        at
    }

    fn blobs(&mut self, layout: &Layout) -> Result<(), StoreError> {
        for name in layout.blobs.names()? {
            let Some(stat) = look(&layout.blobs, &name)? else { continue };
            let label = format!("sha256:{}", short(&name));
            let thing =
                Thing { label, bytes: measure::of_stat(&stat), used_at: stat.st_mtime, ..thing(Kind::Blob, name) };
            self.add(thing);
        }
        Ok(())
    }

    /// Returns sizes that the index does not know.
    fn layers(
        &mut self,
        store: &Store,
        links: &mut Vec<(usize, Kind, String)>,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        struct Row {
            id: String,
            parent: Option<String>,
            origin: Option<String>,
            tree: Option<String>,
            tree_bytes: Option<i64>,
            blob: Option<String>,
            tick: i64,
            used_at: i64,
            created: String,
            built: bool,
        }
        let layout = store.layout();
        let rows: Vec<Row> = store.index().read("list the layers", |connection| {
            let mut query = connection.prepare(
                "SELECT id, parent, origin, name, tree_bytes, blob, used_tick, used_at, layers.created,
                     NOT empty AND NOT pulled AND origin IS NULL
                 FROM layers LEFT JOIN trees ON layer = id",
            )?;
            let rows = query.query_map([], |row| {
                Ok(Row {
                    id: row.get(0)?,
                    parent: row.get(1)?,
                    origin: row.get(2)?,
                    tree: row.get(3)?,
                    tree_bytes: row.get(4)?,
                    blob: row.get(5)?,
                    tick: row.get(6)?,
                    used_at: row.get(7)?,
                    created: row.get(8)?,
                    built: row.get(9)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })?;
        let trees: HashSet<String> = layout.layers.names()?.into_iter().collect();
        let mut unmeasured = Vec::new();
        for row in rows {
            let tree = row.tree.as_ref().filter(|tree| trees.contains(*tree));
            let tree_bytes = match (tree, row.tree_bytes) {
                (None, _) => 0,
                (Some(_), Some(bytes)) => bytes.unsigned_abs(),
                (Some(tree), None) => {
                    let bytes = measured(&layout.layers, tree)?;
                    unmeasured.push((row.id.clone(), bytes));
                    bytes
                }
            };
            let record = look(&layout.records, &record_file_name(&ResultId(row.id.clone())))?;
            let created = row.created.parse::<Timestamp>().map_or(0, Timestamp::as_second);
            let at = self.add(Thing {
                label: if row.built { "built layer".into() } else { "layer of an image".into() },
                bytes: tree_bytes + record.as_ref().map_or(0, measure::of_stat),
                tick: row.tick,
                used_at: if row.used_at == 0 { created } else { row.used_at },
                // Its tree is gone, and there is nothing to make it of.
                dangling: row.built && tree.is_none() && row.blob.is_none(),
                ..thing(Kind::Layer, row.id)
            });
            links.extend([row.parent, row.origin].into_iter().flatten().map(|id| (at, Kind::Layer, id)));
            if tree.is_none()
                && let Some(blob) = row.blob
            {
                links.push((at, Kind::Blob, descriptor(&blob)?.digest.hex()));
            }
        }
        Ok(unmeasured)
    }

    fn keys(&mut self, store: &Store, links: &mut Vec<(usize, Kind, String)>) -> Result<(), StoreError> {
        let rows: Vec<(Vec<u8>, String, u64, i64, i64)> = store.index().read("list the keys", |connection| {
            let sql = "SELECT key, results, length(parts) + length(results), used_tick, used_at FROM keys";
            let mut query = connection.prepare(sql)?;
            let rows = query.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.unsigned_abs(), row.get(3)?, row.get(4)?))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })?;
        for (key, results, bytes, tick, used_at) in rows {
            let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let results: Vec<String> = serde_json::from_str(&results).unwrap_or_default();
            // A key whose results are gone leads nowhere; so does one whose results cannot be read.
            let dangling = results.is_empty()
                || results.iter().any(|id| self.thing(Kind::Layer, id).is_none_or(|layer| layer.dangling));
            let label = format!("cache key {}", short(&name));
            let key = Thing { label, bytes: bytes + ROW_BYTES, tick, used_at, dangling, ..thing(Kind::Key, name) };
            let at = self.add(key);
            links.extend(results.into_iter().map(|id| (at, Kind::Layer, id)));
        }
        Ok(())
    }

    fn images(&mut self, store: &Store, links: &mut Vec<(usize, Kind, String)>) -> Result<(), StoreError> {
        let layout = store.layout();
        type Row = (String, [u8; 32], Option<String>, String);
        type Names = HashMap<[u8; 32], Vec<String>>;
        let names = |connection: &Connection, table: &str| {
            let mut names = Names::new();
            let mut query = connection.prepare(&format!("SELECT manifest, name FROM {table} ORDER BY name"))?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                names.entry(row.get(0)?).or_default().push(row.get(1)?);
            }
            Ok::<_, Trouble>(names)
        };
        let (rows, tags, holders): (Vec<Row>, Names, Names) = store.index().read("list the images", |connection| {
            let mut query = connection.prepare("SELECT descriptor, config, top, created FROM images")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            let rows = rows.collect::<Result<_, _>>()?;
            // The file of a name counts once; whatever the name leads to is held.
            Ok((rows, names(connection, "tags")?, names(connection, "names")?))
        })?;
        for (text, config, top, created) in rows {
            let manifest = descriptor(&text)?;
            let own = tags.get(manifest.digest.as_bytes()).map_or(&[][..], Vec::as_slice);
            let holder = holders.get(manifest.digest.as_bytes()).and_then(|names| names.first());
            let mut bytes = 0;
            for name in own.iter().map(|name| Some(name.as_str())).chain([None]) {
                let file = look(&layout.images, &image_file_name(name, &manifest.digest))?;
                bytes += file.as_ref().map_or(0, measure::of_stat);
            }
            let hex = manifest.digest.hex();
            let config = Digest::from_bytes(config);
            let at = self.add(Thing {
                label: format!("image {}", short(&config.hex())),
                bytes,
                used_at: created.parse::<Timestamp>().map_or(0, Timestamp::as_second),
                holder: holder.map(|name| Holder::Tag(familiar(name))),
                ..thing(Kind::Image, hex.clone())
            });
            links.extend([hex, config.hex()].map(|hex| (at, Kind::Blob, hex)));
            links.extend(top.map(|top| (at, Kind::Layer, top)));
            links.extend(layer_blobs(layout, &manifest)?.into_iter().map(|hex| (at, Kind::Blob, hex)));
        }
        Ok(())
    }

    /// Things that are files or folders and stand on nothing.
    fn rows_of_files(&mut self, store: &Store, layout: &Layout) -> Result<(), StoreError> {
        for (folder, name) in super::files::notes(layout)? {
            let Some(stat) = look(&folder, &name)? else { continue };
            let kind = folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let note = thing(Kind::Note, format!("{kind}/{name}"));
            let label = format!("note about {kind}");
            self.add(Thing { label, bytes: measure::of_stat(&stat), used_at: stat.st_mtime, ..note });
        }
        for kind in [Kind::Context, Kind::Client, Kind::Git] {
            for (folder, name) in super::files::list(layout, kind)? {
                let Some(stat) = look(&folder, &name)? else { continue };
                let bytes = measured(&folder, &name)?;
                let label = match kind {
                    Kind::Git => "git repository",
                    Kind::Client => "directory of a client",
                    _ => "what is known of a context's files",
                };
                self.add(Thing { label: label.into(), bytes, used_at: stat.st_mtime, ..thing(kind, name) });
            }
        }
        for mount in super::mounts::list(store)? {
            self.add(mount);
        }
        for build in super::builds::list(store)? {
            self.add(build);
        }
        Ok(())
    }

    /// What stands on something that is of no use is of none either: a layer on one whose tree is gone, and its key.
    fn spread_dangling(&mut self) {
        for at in super::policy::leaves_first(&self.things).into_iter().rev() {
            let broken = |need: &usize| self.things[*need].kind == Kind::Layer && self.things[*need].dangling;
            if self.things[at].needs.iter().any(broken) {
                self.things[at].dangling = true;
            }
        }
    }

    /// Files of whose uses nothing was counted get the count that stood when they were written last.
    fn order_files(&mut self) {
        let counted = self.things.iter().filter(|thing| thing.tick > 0);
        let mut counted: Vec<(i64, i64)> = counted.map(|thing| (thing.used_at, thing.tick)).collect();
        counted.sort_unstable();
        let mut highest = 0;
        for (_, tick) in &mut counted {
            highest = highest.max(*tick);
            *tick = highest;
        }
        for thing in &mut self.things {
            if thing.tick == 0
                && matches!(
                    thing.kind,
                    Kind::Blob | Kind::Git | Kind::Note | Kind::Context | Kind::Client | Kind::Build
                )
            {
                let before = counted.partition_point(|(at, _)| *at <= thing.used_at);
                thing.tick = before.checked_sub(1).map_or(0, |last| counted[last].1);
            }
        }
    }

    /// Marks what tags and running processes hold.
    fn hold(&mut self, store: &Store) -> Result<(), StoreError> {
        for (kind, name) in usage::held(store.layout())? {
            if let Some(&at) = self.at.get(&(kind, name)) {
                self.things[at].holder.get_or_insert(Holder::Build);
            }
        }
        spread_holders(&mut self.things);
        Ok(())
    }

    fn count_other(&mut self, store: &Store) -> Result<(), StoreError> {
        let layout = store.layout();
        let mut index = 0;
        for name in layout.root.names()? {
            if COUNTED.contains(&name.as_str()) {
                continue;
            }
            let bytes = measured(&layout.root, &name)?;
            if name.starts_with("index.db") && !name.contains(".damaged-") {
                index += bytes;
            } else if bytes > 0 {
                self.other.push((name, bytes));
            }
        }
        // Rows are things of their own; what is left is what goes with none of them.
        let rows: u64 = self.things.iter().filter(|thing| thing.kind == Kind::Key).map(|thing| thing.bytes).sum();
        self.other.push(("index".into(), index.saturating_sub(rows)));
        self.other.sort();
        let others: u64 = self.other.iter().map(|(_, bytes)| bytes).sum();
        self.total_bytes = others + self.things.iter().map(|thing| thing.bytes).sum::<u64>();
        Ok(())
    }

    fn thing(&self, kind: Kind, name: &str) -> Option<&Thing> {
        self.at.get(&(kind, name.to_owned())).map(|&at| &self.things[at])
    }
}

/// Remembers what trees take, which their makers did not say.
fn store_sizes(store: &Store, sizes: &[(String, u64)]) -> Result<(), StoreError> {
    if sizes.is_empty() {
        return Ok(());
    }
    store.index().transaction("note what trees take", |transaction| {
        let mut update =
            transaction.prepare_cached("UPDATE layers SET tree_bytes = ?2 WHERE id = ?1 AND tree_bytes IS NULL")?;
        for (id, bytes) in sizes {
            update.execute((id, bytes.cast_signed()))?;
        }
        Ok(())
    })
}

/// A thing of which nothing is known.
pub(crate) fn thing(kind: Kind, name: String) -> Thing {
    Thing {
        kind,
        name,
        label: String::new(),
        bytes: 0,
        tick: 0,
        used_at: 0,
        needs: Vec::new(),
        holder: None,
        dangling: false,
    }
}

/// Digits of the layers' blobs that a manifest of the store names. A manifest that is gone or damaged names none:
/// nothing can be made of that image any more.
pub(crate) fn layer_blobs(layout: &Layout, manifest: &Descriptor) -> Result<Vec<String>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = layout.blobs.join(&manifest.digest.hex());
    let file = match rustix::fs::openat(&layout.blobs, manifest.digest.hex(), flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::io("open", path, source)),
    };
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MANIFEST_MAX_BYTES), &mut bytes)
        .map_err(|source| StoreError::io("read", path, source))?;
    match serde_json::from_slice::<Manifest>(&bytes) {
        Ok(manifest) => Ok(manifest.layers.iter().map(|layer| layer.digest.hex()).collect()),
        Err(error) => {
            tracing::debug!(digest = %manifest.digest, %error, "not a manifest");
            Ok(Vec::new())
        }
    }
}

pub(crate) fn descriptor(text: &str) -> Result<Descriptor, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::bad("descriptor", text))
}

/// Twelve digits, as people know them.
pub(crate) fn short(hex: &str) -> &str {
    hex.get(..12).unwrap_or(hex)
}

fn familiar(name: &str) -> String {
    name.parse::<oci::model::Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// What is known of an entry; `None` if it is gone.
pub(crate) fn look(folder: &impl Place, name: &str) -> Result<Option<rustix::fs::Stat>, StoreError> {
    match rustix::fs::statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(StoreError::io("look at", folder.path().join(name), source)),
    }
}

pub(crate) fn measured(folder: &impl Place, name: &str) -> Result<u64, StoreError> {
    measure::of_entry(folder.as_fd(), name)
        .map_err(|source| StoreError::io("measure", folder.path().join(name), source))
}

/// A folder by descriptor, with its path for messages.
pub(crate) trait Place: AsFd {
    fn path(&self) -> &Path;
}

impl Place for Folder {
    fn path(&self) -> &Path {
        &self.path
    }
}
