//! The index comes back: after a reboot without what was never synced, after damage from the store's files.
//!
//! [`settle`] drops what a power loss may have torn and all that stands on it. [`rebuild`] fills a new index with
//! everything that the record and image files say, stamps included, and leaves it to [`settle`] to drop what does not
//! hold. Neither is ever silent: what was lost and what was found again is told in notices.

use std::collections::{BTreeMap, HashMap, HashSet};

use oci::model::{Descriptor, DiffId, Digest, Reference};
use rusqlite::{Params, Row, Transaction};
use solver::canon::Part;
use solver::key::{ContentDigest, Key};
use solver::seam::{self, KeyKind, ResultId};

use crate::durability::{Stamp, Synced};
use crate::index::{Index, STAMPED, Trouble};
use crate::journal::{ImageFile, LayerLine, Line, image_file_name, record_file_name};
use crate::layout::{Layout, is_tree_name};
use crate::{StoreError, cache, images, layers, mounts, provenance, trash};

/// Said of an index that is not there although other files of the store are.
pub(crate) const MISSING: &str = "it was missing";

/// What was dropped; trees, record and image files still have to follow.
#[derive(Debug, Default)]
struct Lost {
    layers: Vec<ResultId>,
    trees: Vec<String>,
    images: Vec<Digest>,
    tags: Vec<(String, Digest)>,
}

/// Makes an index that was last used in another boot fit for this one. Does nothing in the same boot.
pub(crate) fn settle(layout: &Layout, index: &Index, boot: &str, notices: &mut Vec<String>) -> Result<(), StoreError> {
    let seen_boot = |transaction: &rusqlite::Connection| {
        transaction.query_row("SELECT boot FROM state", [], |row| row.get::<_, String>(0))
    };
    if index.read("be read", |connection| Ok(seen_boot(connection)?))? == boot {
        return Ok(());
    }
    let lost = index.transaction("settle after a reboot", |transaction| {
        if seen_boot(transaction)? == boot {
            // Another process was faster.
            return Ok(Lost::default());
        }
        let synced = Synced::read(&layout.root)?;
        let mut lost = Lost::default();
        drop_unsynced(transaction, &synced, boot, &mut lost)?;
        drop_unsupported(transaction, &mut lost)?;
        // The files go before the rows are gone for certain: should this process die here, the next does it again.
        for tree in &lost.trees {
            trash::discard(layout, &layout.layers, tree)?;
        }
        for id in &lost.layers {
            layout.records.remove_file(&record_file_name(id))?;
        }
        for (tag, manifest) in &lost.tags {
            layout.images.remove_file(&image_file_name(Some(tag), manifest))?;
        }
        for manifest in &lost.images {
            layout.images.remove_file(&image_file_name(None, manifest))?;
        }
        synced.compact(&layout.root)?;
        transaction.execute("UPDATE state SET boot = ?1, generation = generation + 1", [boot])?;
        Ok(lost)
    })?;
    if !lost.layers.is_empty() {
        notices.push(format!(
            "{} layers were not yet on disk for certain when the machine went down; they were dropped and are made again when needed",
            lost.layers.len()
        ));
    }
    if !lost.tags.is_empty() {
        let names: Vec<String> = lost.tags.iter().map(|(name, _)| familiar(name)).collect();
        notices.push(format!(
            "these images were not yet on disk for certain when the machine went down and were dropped: {}",
            names.join(", ")
        ));
    }
    Ok(())
}

fn drop_unsynced(transaction: &Transaction<'_>, synced: &Synced, boot: &str, lost: &mut Lost) -> Result<(), Trouble> {
    for table in STAMPED {
        let stamps: Vec<Stamp> =
            collect(transaction, &format!("SELECT DISTINCT boot, generation FROM {table}"), [], |row| {
                Ok(Stamp { boot: row.get(0)?, generation: row.get(1)? })
            })?;
        for Stamp { boot, generation } in stamps.iter().filter(|stamp| !synced.covers(stamp, boot)) {
            let which = "WHERE boot = ?1 AND generation = ?2";
            lost.delete(transaction, table, which, (boot, generation))?;
        }
    }
    Ok(())
}

/// Drops what stands on something that is gone, until everything stands.
fn drop_unsupported(transaction: &Transaction<'_>, lost: &mut Lost) -> Result<(), Trouble> {
    loop {
        let before = lost.layers.len();
        lost.delete(transaction, "layers", "WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM layers)", [])?;
        lost.delete(
            transaction,
            "layers",
            "WHERE NOT empty AND NOT pulled AND origin IS NULL AND blob IS NULL AND id NOT IN (SELECT layer FROM trees)",
            [],
        )?;
        lost.delete(transaction, "layers", "WHERE origin IS NOT NULL AND origin NOT IN (SELECT id FROM layers)", [])?;
        if lost.layers.len() == before {
            break;
        }
    }
    lost.delete(transaction, "trees", "WHERE layer NOT IN (SELECT id FROM layers)", [])?;
    lost.delete(transaction, "images", "WHERE top IS NOT NULL AND top NOT IN (SELECT id FROM layers)", [])?;
    lost.delete(transaction, "tags", "WHERE manifest NOT IN (SELECT manifest FROM images)", [])?;
    // An index stands while all of it does that was here.
    let torn = "WHERE name IN (SELECT name FROM members WHERE manifest NOT IN (SELECT manifest FROM images))";
    lost.delete(transaction, "tags", torn, [])
}

impl Lost {
    /// Deletes rows and remembers which.
    fn delete(
        &mut self,
        transaction: &Transaction<'_>,
        table: &str,
        which: &str,
        params: impl Params,
    ) -> Result<(), Trouble> {
        let returning = match table {
            "layers" => "id",
            "trees" => "name",
            "images" => "manifest",
            "tags" => "name, manifest",
            _ => "1",
        };
        let sql = format!("DELETE FROM {table} {which} RETURNING {returning}");
        let mut statement = transaction.prepare(&sql)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            match table {
                "layers" => self.layers.push(ResultId(row.get(0)?)),
                "trees" => self.trees.push(row.get(0)?),
                "images" => self.images.push(Digest::from_bytes(row.get(0)?)),
                "tags" => self.tags.push((row.get(0)?, Digest::from_bytes(row.get(1)?))),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Everything that one record file says.
#[derive(Debug)]
struct Record {
    layer: LayerLine,
    tree: Option<(String, Option<u64>, Stamp)>,
    tar: Option<(DiffId, u64)>,
    content: Option<ContentDigest>,
    blob: Option<Descriptor>,
    sources: Vec<(Digest, Reference)>,
    keys: Vec<(Key, KeyLine)>,
}

/// What a record file says of one key.
#[derive(Debug)]
struct KeyLine {
    kind: KeyKind,
    operation: Option<Key>,
    results: Vec<ResultId>,
    parts: Vec<Part>,
    stamp: Stamp,
}

/// Makes a new index and fills it from the store's files; the old one is kept under another name. `damage` is what was
/// wrong with it; `None`: it was not there. The caller holds the store alone, and calls [`settle`] next.
pub(crate) fn rebuild(layout: &Layout, damage: Option<&str>, notices: &mut Vec<String>) -> Result<Index, StoreError> {
    let (records, mut unreadable_records) = read_records(layout)?;
    let (image_files, unreadable_images) = read_images(layout)?;
    let aside = Index::move_aside(&layout.root)?;
    let index = Index::make(&layout.root)?;
    let is_new = records.is_empty() && image_files.is_empty() && unreadable_records + unreadable_images == 0;
    let is_new = is_new && layout.mounts.names()?.is_empty();
    if is_new && damage.is_none() {
        return Ok(index);
    }
    let (records, without_parent) = parents_first(records);
    for record in &without_parent {
        tracing::warn!(id = %record.layer.id, "the record of what this layer stands on is gone");
        layout.records.remove_file(&record_file_name(&record.layer.id))?;
        unreadable_records += 1;
    }
    let trees: HashSet<String> = layout.layers.names()?.into_iter().collect();
    let (count, keys, images, mounts) = index.transaction("be rebuilt", |transaction| {
        let mut keys = 0;
        let mut newest = 0;
        for record in &records {
            keys += record.keys.len();
            newest = record.newest_generation().max(newest);
            record.insert(transaction, &trees)?;
        }
        let mut images = 0;
        let mut found = HashSet::new();
        for file in &image_files {
            newest = file.stamp.generation.max(newest);
            if !layout.blobs.has(&file.manifest.digest.hex())? || !layout.blobs.has(&file.config.hex())? {
                let name = file.tag.as_deref().map_or_else(|| file.manifest.digest.to_string(), familiar);
                notices.push(format!("image `{name}` was dropped: its manifest or config is gone from the store"));
                continue;
            }
            let members = file.index.iter().flat_map(|index| &index.members);
            if let Some(gone) = members.into_iter().find(|member| !found.contains(*member)) {
                let name = file.tag.as_deref().map_or_else(|| file.manifest.digest.to_string(), familiar);
                notices.push(format!("image `{name}` was dropped: its image {gone} is gone from the store"));
                continue;
            }
            found.insert(file.manifest.digest);
            images::insert(transaction, file)?;
            images += 1;
        }
        transaction.execute("UPDATE state SET generation = ?1, written = ?1, synced = 0", [newest + 1])?;
        Ok((records.len(), keys, images, mounts::rebuild(layout, transaction)?))
    })?;
    let kept = aside.map_or_else(String::new, |name| format!("; the old one was kept as `{name}`"));
    let mounts = if mounts == 0 { String::new() } else { format!(", and {mounts} cache mounts") };
    notices.push(format!(
        "the store's index had to be rebuilt ({}): {count} layers, {keys} cache keys and {images} images were found again{mounts}{kept}",
        damage.unwrap_or(MISSING)
    ));
    if unreadable_records + unreadable_images > 0 {
        notices.push(format!(
            "{unreadable_records} layer records and {unreadable_images} image records could not be used and were left out"
        ));
    }
    let recorded: HashSet<String> = index.read("be read", |connection| {
        let mut query = connection.prepare("SELECT name FROM trees")?;
        let names = query.query_map([], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    })?;
    let forgotten: Vec<&String> = trees.difference(&recorded).collect();
    if !forgotten.is_empty() {
        for tree in &forgotten {
            trash::discard(layout, &layout.layers, tree)?;
        }
        notices.push(format!("{} trees that no record names were removed", forgotten.len()));
    }
    Ok(index)
}

impl Record {
    fn newest_generation(&self) -> i64 {
        let stamps = self.keys.iter().map(|(_, line)| &line.stamp).chain(self.tree.as_ref().map(|(.., stamp)| stamp));
        stamps.chain([&self.layer.stamp]).map(|stamp| stamp.generation).max().unwrap_or(0)
    }

    fn insert(&self, transaction: &Transaction<'_>, trees: &HashSet<String>) -> Result<(), Trouble> {
        let id = &self.layer.id;
        layers::insert(transaction, &self.layer)?;
        if let Some((name, bytes, stamp)) = &self.tree
            && trees.contains(name)
        {
            layers::insert_tree(transaction, id, name, *bytes, stamp)?;
        }
        if let Some((diff_id, tar_bytes)) = self.tar {
            layers::set_tar(transaction, id, diff_id, tar_bytes)?;
        }
        if let Some(content) = self.content {
            layers::store_content(transaction, id, content)?;
        }
        if let Some(blob) = &self.blob {
            layers::set_blob(transaction, id, blob)?;
        }
        for (digest, name) in &self.sources {
            provenance::remember_source(transaction, digest, name)?;
        }
        for (key, line) in &self.keys {
            let KeyLine { kind, operation, results, parts, stamp } = line;
            let record = seam::Record { kind: *kind, operation: operation.unwrap_or(*key), parts, results };
            cache::insert(transaction, key, operation.as_ref(), &record, stamp)?;
        }
        Ok(())
    }
}

/// Orders records so that each stands after its parent and its origin. Second come those that lack one of these: they
/// stand on nothing.
fn parents_first(records: Vec<Record>) -> (Vec<Record>, Vec<Record>) {
    let mut ordered: Vec<Record> = Vec::with_capacity(records.len());
    let mut placed: HashSet<ResultId> = HashSet::new();
    // By what each waits for next.
    let mut waiting: BTreeMap<ResultId, Vec<Record>> = BTreeMap::new();
    for record in records {
        let mut ready = vec![record];
        while let Some(record) = ready.pop() {
            let needs = [&record.layer.parent, &record.layer.origin];
            let missing = needs.into_iter().flatten().find(|id| !placed.contains(id)).cloned();
            if let Some(missing) = missing {
                waiting.entry(missing).or_default().push(record);
                continue;
            }
            placed.insert(record.layer.id.clone());
            ready.extend(waiting.remove(&record.layer.id).unwrap_or_default());
            ordered.push(record);
        }
    }
    (ordered, waiting.into_values().flatten().collect())
}

fn read_records(layout: &Layout) -> Result<(Vec<Record>, usize), StoreError> {
    let mut records = Vec::new();
    let mut unreadable = 0;
    let mut names = layout.records.names()?;
    names.sort();
    for name in names.iter().filter(|name| name.ends_with(".jsonl")) {
        let path = layout.records.join(name);
        let bytes = std::fs::read(&path).map_err(|source| StoreError::io("read", &path, source))?;
        match parse_record(&bytes).filter(|record| record_file_name(&record.layer.id) == *name) {
            Some(record) => records.push(record),
            None => {
                tracing::warn!(path = %path.display(), "not a layer record");
                unreadable += 1;
            }
        }
    }
    Ok((records, unreadable))
}

/// `None` if the first line does not say what the layer is. Other lines that cannot be read are left out: each is a
/// fact of its own, and a torn one says nothing.
fn parse_record(bytes: &[u8]) -> Option<Record> {
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let Ok(Line::Layer(layer)) = serde_json::from_slice(lines.next()?) else { return None };
    let mut keys = HashMap::new();
    let mut record = Record {
        layer: *layer,
        tree: None,
        tar: None,
        content: None,
        blob: None,
        sources: Vec::new(),
        keys: Vec::new(),
    };
    for line in lines {
        match serde_json::from_slice(line) {
            Ok(Line::Tree { name, bytes, stamp }) if is_tree_name(&name) => record.tree = Some((name, bytes, stamp)),
            Ok(Line::Tar { diff_id, tar_bytes }) => record.tar = Some((diff_id, tar_bytes)),
            Ok(Line::Content { digest }) => match layers::parse_content(&digest) {
                Some(content) => record.content = Some(content),
                None => tracing::warn!(id = %record.layer.id, digest, "not a content digest in a layer record"),
            },
            Ok(Line::Blob(blob)) => record.blob = Some(blob),
            Ok(Line::Source { digest, name }) => match name.parse() {
                Ok(name) => record.sources.push((digest, name)),
                Err(error) => tracing::warn!(id = %record.layer.id, %error, "not an image name in a layer record"),
            },
            Ok(Line::Key { key, kind, operation, results, parts, stamp }) => match parse_key(&key) {
                Some(key) => {
                    keys.insert(key, KeyLine { kind, operation: parse_key(&operation), results, parts, stamp });
                }
                None => tracing::warn!(id = %record.layer.id, key, "not a key in a layer record"),
            },
            Ok(other) => tracing::warn!(id = %record.layer.id, ?other, "an odd line in a layer record"),
            Err(error) => tracing::warn!(id = %record.layer.id, %error, "a torn line in a layer record"),
        }
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by_key(|(key, ..)| *key);
    record.keys = keys;
    Some(record)
}

fn parse_key(hex: &str) -> Option<Key> {
    format!("sha256:{hex}").parse::<Digest>().ok().map(|digest| Key(*digest.as_bytes()))
}

fn read_images(layout: &Layout) -> Result<(Vec<ImageFile>, usize), StoreError> {
    let mut images = Vec::new();
    let mut unreadable = 0;
    let mut names = layout.images.names()?;
    names.sort();
    for name in names {
        let path = layout.images.join(&name);
        if !name.ends_with(".json") {
            // What a process was writing when it died.
            layout.images.remove_file(&name)?;
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|source| StoreError::io("read", &path, source))?;
        match serde_json::from_slice::<ImageFile>(&bytes) {
            Ok(file) if file.file_name() == name => images.push(file),
            Ok(_) | Err(_) => {
                tracing::warn!(path = %path.display(), "not an image record");
                unreadable += 1;
            }
        }
    }
    // Those with names last: their times win. Indexes stand on images.
    images.sort_by_key(|file| (file.tag.is_some(), file.index.is_some()));
    Ok((images, unreadable))
}

fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

fn collect<T>(
    transaction: &Transaction<'_>,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    transaction.prepare(sql)?.query_map(params, read)?.collect()
}
