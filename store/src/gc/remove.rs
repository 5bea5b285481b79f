//! Taking things: whatever was chosen, if nobody has begun to use it meanwhile.
//!
//! Things go in small groups. For each the window is closed ([`crate::lease`]), and what tags and processes hold *now*,
//! or have used since the census, is found anew and left alone. Rows go first, then, while the window is still closed,
//! files, trees by being renamed: nobody can have begun to make the same thing again. Whatever dies in between leaves
//! files that no row names, which the next collection throws away ([`tidy`]). What stands on a thing goes in an earlier
//! group.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use oci::model::{Descriptor, Digest};
use rusqlite::{Connection, OptionalExtension, Transaction};
use solver::seam::ResultId;

use super::census::{descriptor, layer_blobs};
use super::policy::Thing;
use crate::index::Trouble;
use crate::journal::{image_file_name, record_file_name};
use crate::layout::{Layout, tree_name};
use crate::lease::Names;
use crate::usage::{self, Window};
use crate::{Kind, Store, StoreError, trash};

/// So many take a few milliseconds, for which builds may have to wait.
const GROUP: usize = 128;
/// Of so many keys it is remembered that they were thrown away.
const PRUNED_MAX: i64 = 10_000;

/// Takes what was chosen, in that order, and returns what is gone.
pub(crate) fn take(store: &Store, chosen: &[&Thing]) -> Result<Vec<usize>, StoreError> {
    let mut gone = Vec::new();
    let mut manifests = HashMap::new();
    // No row ever names what is gone: dependants go first.
    let rounds: [fn(Kind) -> bool; 3] = [
        |kind| matches!(kind, Kind::Key | Kind::Image),
        |kind| kind == Kind::Layer,
        |kind| !matches!(kind, Kind::Key | Kind::Image | Kind::Layer),
    ];
    for is_due in rounds {
        let due: Vec<usize> = (0..chosen.len()).filter(|&at| is_due(chosen[at].kind)).collect();
        for group in due.chunks(GROUP) {
            gone.extend(take_group(store, chosen, group, &mut manifests)?);
        }
    }
    Ok(gone)
}

fn take_group(
    store: &Store,
    chosen: &[&Thing],
    group: &[usize],
    manifests: &mut HashMap<Digest, Vec<String>>,
) -> Result<Vec<usize>, StoreError> {
    let layout = store.layout();
    let mut gone = Vec::new();
    {
        let _window = Window::open(layout)?;
        // In this order: what a process lets go of stands among the uses before its lease goes.
        let mut held = usage::held(layout)?;
        held.extend(usage::used_since(layout)?);
        let (forgotten, files) = store.index().transaction("collect garbage", |transaction| {
            spread(transaction, layout, &mut held, manifests)?;
            let (mut forgotten, mut files) = (Vec::new(), Vec::new());
            for &at in group {
                let Thing { kind, name, .. } = chosen[at];
                if held.contains(&(*kind, name.clone())) {
                    tracing::debug!(%kind, name, "in use by now");
                } else if forget(transaction, *kind, name, &mut files)? {
                    forgotten.push(at);
                }
            }
            Ok((forgotten, files))
        })?;
        for file in &files {
            match file {
                File::Record(id) => layout.records.remove_file(&record_file_name(id))?,
                File::Tree(name) => trash::discard(layout, &layout.layers, name)?,
                File::Image(manifest) => layout.images.remove_file(&image_file_name(None, manifest))?,
            }
        }
        for at in forgotten {
            let Thing { kind, name, .. } = chosen[at];
            let is_gone = match kind {
                Kind::Blob => trash::discard(layout, &layout.blobs, name).map(|()| true)?,
                Kind::Git | Kind::Note | Kind::Context | Kind::Client => super::files::remove(layout, *kind, name)?,
                Kind::Build => store.forget_build_called(name)?,
                Kind::Key | Kind::Image | Kind::Layer => true,
                Kind::Mount | Kind::Node => false,
            };
            if is_gone {
                gone.push(at);
            }
        }
    }
    // These have locks and transactions of their own.
    for &at in group {
        if chosen[at].kind == Kind::Mount && store.drop_mount(&chosen[at].name)? {
            gone.push(at);
        }
    }
    Ok(gone)
}

/// All that tags hold, and all that held things stand on.
fn spread(
    connection: &Connection,
    layout: &Layout,
    held: &mut Names,
    manifests: &mut HashMap<Digest, Vec<String>>,
) -> Result<(), Trouble> {
    let mut tags = connection.prepare_cached("SELECT DISTINCT manifest FROM names")?;
    for manifest in tags.query_map([], |row| row.get(0).map(Digest::from_bytes))? {
        held.insert((Kind::Image, manifest?.hex()));
    }
    let mut todo: Vec<(Kind, String)> = held.iter().cloned().collect();
    while let Some((kind, name)) = todo.pop() {
        for need in needs(connection, layout, kind, &name, manifests)? {
            if held.insert(need.clone()) {
                todo.push(need);
            }
        }
    }
    Ok(())
}

fn needs(
    connection: &Connection,
    layout: &Layout,
    kind: Kind,
    name: &str,
    manifests: &mut HashMap<Digest, Vec<String>>,
) -> Result<Vec<(Kind, String)>, Trouble> {
    let mut needs = Vec::new();
    match kind {
        Kind::Key => {
            let Some(key) = bytes_of(name) else { return Ok(needs) };
            let mut query = connection.prepare_cached("SELECT results FROM keys WHERE key = ?1")?;
            let results: Option<String> = query.query_row([key], |row| row.get(0)).optional()?;
            let results: Vec<String> = results.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            needs.extend(results.into_iter().map(|id| (Kind::Layer, id)));
        }
        Kind::Layer => {
            let mut query = connection.prepare_cached("SELECT parent, origin, blob FROM layers WHERE id = ?1")?;
            type Row = (Option<String>, Option<String>, Option<String>);
            let row: Option<Row> =
                query.query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            let Some((parent, origin, blob)) = row else { return Ok(needs) };
            needs.extend([parent, origin].into_iter().flatten().map(|id| (Kind::Layer, id)));
            if let Some(blob) = blob {
                needs.push((Kind::Blob, descriptor(&blob)?.digest.hex()));
            }
        }
        Kind::Image => {
            let Some(manifest) = bytes_of(name) else { return Ok(needs) };
            let mut query =
                connection.prepare_cached("SELECT descriptor, config, top FROM images WHERE manifest = ?1")?;
            type Row = (String, [u8; 32], Option<String>);
            let row: Option<Row> =
                query.query_row([manifest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
            let Some((text, config, top)) = row else { return Ok(needs) };
            let manifest: Descriptor = descriptor(&text)?;
            let blobs = match manifests.get(&manifest.digest) {
                Some(blobs) => blobs.clone(),
                None => {
                    let blobs = layer_blobs(layout, &manifest)?;
                    manifests.insert(manifest.digest, blobs.clone());
                    blobs
                }
            };
            let digests = blobs.into_iter().chain([manifest.digest.hex(), Digest::from_bytes(config).hex()]);
            needs.extend(digests.map(|hex| (Kind::Blob, hex)));
            needs.extend(top.map(|top| (Kind::Layer, top)));
        }
        _ => {}
    }
    Ok(needs)
}

/// What follows a row.
enum File {
    Record(ResultId),
    Tree(String),
    Image(Digest),
}

/// Deletes a thing's rows, and says which files follow; `false` if it stays: something has come to stand on it.
fn forget(transaction: &Transaction<'_>, kind: Kind, name: &str, files: &mut Vec<File>) -> Result<bool, Trouble> {
    match kind {
        Kind::Key => {
            let Some(key) = bytes_of(name) else { return Ok(false) };
            transaction.prepare_cached("DELETE FROM keys WHERE key = ?1")?.execute([key])?;
            transaction
                .prepare_cached("INSERT OR REPLACE INTO pruned (key, at) VALUES (?1, ?2)")?
                .execute((key, Timestamp::now().as_second()))?;
        }
        Kind::Image => {
            let Some(manifest) = bytes_of(name) else { return Ok(false) };
            transaction.prepare_cached("DELETE FROM images WHERE manifest = ?1")?.execute([manifest])?;
            files.push(File::Image(Digest::from_bytes(manifest)));
        }
        Kind::Layer => {
            let used = "SELECT EXISTS (SELECT 1 FROM layers WHERE parent = ?1 OR origin = ?1)
                OR EXISTS (SELECT 1 FROM images WHERE top = ?1)";
            if transaction.prepare_cached(used)?.query_row([name], |row| row.get(0))? {
                return Ok(false);
            }
            let mut trees = transaction.prepare_cached("DELETE FROM trees WHERE layer = ?1 RETURNING name")?;
            for tree in trees.query_map([name], |row| row.get(0))? {
                files.push(File::Tree(tree?));
            }
            transaction.prepare_cached("DELETE FROM layers WHERE id = ?1")?.execute([name])?;
            files.push(File::Record(ResultId(name.to_owned())));
        }
        _ => {}
    }
    Ok(true)
}

/// Throws away what belongs to nothing: rows about blobs that are gone, directories' nodes that no key's parts lead to,
/// trees, record and image files that no row names. Nobody waits for any of it.
pub(crate) fn tidy(store: &Store) -> Result<(), StoreError> {
    let layout = store.layout();
    let _window = Window::open(layout)?;
    store.index().transaction("tidy up", |transaction| {
        let blobs: HashSet<String> = layout.blobs.names()?.into_iter().collect();
        forget_blobs(transaction, &blobs)?;
        super::nodes::sweep(transaction)?;
        transaction.execute(
            "DELETE FROM pruned WHERE key NOT IN (SELECT key FROM pruned ORDER BY at DESC, key LIMIT ?1)",
            [PRUNED_MAX],
        )?;
        // Whoever makes a layer writes its file and its row in one transaction like this one, and keeps its draft
        // until that is over.
        let records: HashSet<String> = column(transaction, "SELECT id FROM layers")?;
        for name in layout.records.names()? {
            if name.strip_suffix(".jsonl").is_some_and(|id| !records.contains(id)) {
                layout.records.remove_file(&name)?;
            }
        }
        let images: HashSet<String> = image_files(transaction)?;
        for name in layout.images.names()? {
            if name.ends_with(".json") && !images.contains(&name) {
                layout.images.remove_file(&name)?;
            }
        }
        let trees: HashSet<String> = column(transaction, "SELECT name FROM trees")?;
        let drafts = layout.tmp.names()?;
        let drafts: HashSet<&str> = drafts.iter().map(|id| tree_name(id)).collect();
        for name in layout.layers.names()? {
            if !trees.contains(&name) && !drafts.contains(name.as_str()) {
                trash::discard(layout, &layout.layers, &name)?;
            }
        }
        Ok(())
    })
}

/// The files that tags and images have, or may have.
fn image_files(connection: &Connection) -> Result<HashSet<String>, Trouble> {
    let mut files = HashSet::new();
    let mut query = connection.prepare("SELECT name, manifest FROM tags UNION SELECT NULL, manifest FROM images")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (name, manifest): (Option<String>, [u8; 32]) = (row.get(0)?, row.get(1)?);
        files.insert(image_file_name(name.as_deref(), &Digest::from_bytes(manifest)));
    }
    Ok(files)
}

fn forget_blobs(transaction: &Transaction<'_>, blobs: &HashSet<String>) -> Result<(), Trouble> {
    let mut query = transaction.prepare("SELECT rowid, descriptor FROM blob_variants")?;
    let variants: Vec<(i64, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (row, text) in variants {
        if descriptor(&text).is_ok_and(|known| !blobs.contains(&known.digest.hex())) {
            transaction.execute("DELETE FROM blob_variants WHERE rowid = ?1", [row])?;
        }
    }
    // Where a blob can be had is worth knowing as long as a layer wants it.
    let wanted: HashSet<String> = column::<String>(transaction, "SELECT blob FROM layers WHERE blob IS NOT NULL")?
        .iter()
        .filter_map(|text| descriptor(text).ok().map(|known| known.digest.hex()))
        .collect();
    let mut query = transaction.prepare("SELECT rowid, digest FROM blob_sources")?;
    let sources: Vec<(i64, [u8; 32])> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (row, digest) in sources {
        let hex = Digest::from_bytes(digest).hex();
        if !blobs.contains(&hex) && !wanted.contains(&hex) {
            transaction.execute("DELETE FROM blob_sources WHERE rowid = ?1", [row])?;
        }
    }
    let mut query = transaction.prepare("SELECT rowid, name FROM uses WHERE kind = 'blob'")?;
    let uses: Vec<(i64, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (row, name) in uses {
        if !blobs.contains(&name) {
            transaction.execute("DELETE FROM uses WHERE rowid = ?1", [row])?;
        }
    }
    transaction.execute(
        "DELETE FROM uses WHERE kind = 'image' AND name NOT IN (SELECT lower(hex(manifest)) FROM images)",
        [],
    )?;
    Ok(())
}

fn column<T: rusqlite::types::FromSql + std::hash::Hash + Eq>(
    connection: &Connection,
    sql: &str,
) -> Result<HashSet<T>, Trouble> {
    let mut query = connection.prepare(sql)?;
    let rows = query.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The bytes of 64 hexadecimal digits.
pub(crate) fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    format!("sha256:{hex}").parse::<Digest>().ok().map(|digest| *digest.as_bytes())
}
