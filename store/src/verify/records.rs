//! Record and image files against the index: every line must be one that the index would write.

use std::collections::HashSet;

use oci::model::{Descriptor, DiffId, Digest};
use rusqlite::{Connection, OptionalExtension, Transaction};
use solver::canon::Part;
use solver::key::{ContentDigest, Key};
use solver::seam::{KeyKind, ResultId};

use super::Damage;
use crate::durability::{Stamp, write_file};
use crate::index::Trouble;
use crate::journal::{ImageFile, IndexFile, LayerLine, Line, encode, image_file_name, record_file_name, write_image};
use crate::{Kind, Store, StoreError};

/// What the index knows of a layer, as its record file says it.
struct Known {
    layer: LayerLine,
    tree: Option<(String, Option<u64>, Stamp)>,
    tar: Option<(DiffId, u64)>,
}

impl Store {
    pub(super) fn verify_layer_records(&self) -> Result<Vec<Damage>, StoreError> {
        let ids: Vec<String> = self.index().read("list the layers", |connection| {
            let mut query = connection.prepare("SELECT id FROM layers ORDER BY id")?;
            Ok(query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
        })?;
        let mut damages = Vec::new();
        for id in ids {
            // In a transaction: whoever adds to a file does so in one.
            let what = self.index().transaction("check a layer's record", |transaction| {
                let Some(known) = known(transaction, &id)? else { return Ok(None) };
                if let Some(what) = self.wrong_with(transaction, &known)? {
                    self.write_record(transaction, &known)?;
                    return Ok(Some(what));
                }
                Ok(None)
            })?;
            if let Some(what) = what {
                let id = ResultId(id);
                damages.push(Damage {
                    kind: Kind::Layer,
                    name: id.0.clone(),
                    what: format!("its record file {what}"),
                    used_by: self.users_of_layer(&id)?,
                    healed: Some("written anew from the index".into()),
                });
            }
        }
        Ok(damages)
    }

    /// In words; `None` if nothing is wrong.
    fn wrong_with(&self, connection: &Connection, known: &Known) -> Result<Option<String>, Trouble> {
        let name = record_file_name(&known.layer.id);
        let path = self.layout().records.join(&name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some("is missing".into())),
            Err(source) => return Err(StoreError::io("read", path, source).into()),
        };
        let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut facts: Vec<Line> = Vec::new();
        for line in &mut lines {
            match serde_json::from_slice::<Line>(line) {
                Ok(fact) if encode(&fact).trim_ascii() == line => facts.push(fact),
                _ => return Ok(Some("holds a line that is none".into())),
            }
        }
        let Some((Line::Layer(first), rest)) = facts.split_first() else {
            return Ok(Some("does not say what the layer is".into()));
        };
        let blob_is_replaced = rest.iter().any(|line| matches!(line, Line::Blob(_)));
        if !is_same(first, &known.layer, blob_is_replaced) {
            return Ok(Some("says another layer".into()));
        }
        let latest = |at: usize, is_same: &dyn Fn(&Line) -> bool| !rest[at + 1..].iter().any(is_same);
        for (at, line) in rest.iter().enumerate() {
            let fits = match line {
                Line::Layer(_) => false,
                Line::Tree { name, bytes, stamp } if latest(at, &|line| matches!(line, Line::Tree { .. })) => {
                    known.tree.as_ref().is_none_or(|tree| {
                        tree.0 == *name && tree.2 == *stamp && bytes.is_none_or(|bytes| tree.1 == Some(bytes))
                    })
                }
                Line::Tar { diff_id, tar_bytes } => known.tar.is_none_or(|tar| tar == (*diff_id, *tar_bytes)),
                Line::Content { digest } if latest(at, &|line| matches!(line, Line::Content { .. })) => {
                    known.layer.content.as_ref().is_none_or(|known| known == digest)
                }
                Line::Blob(blob) if latest(at, &|line| matches!(line, Line::Blob(_))) => {
                    known.layer.blob.as_ref().is_none_or(|known| known == blob)
                }
                Line::Key { key, .. }
                    if latest(at, &|line| matches!(line, Line::Key { key: later, .. } if later == key)) =>
                {
                    fits_key(connection, line)?
                }
                _ => true,
            };
            if !fits {
                return Ok(Some("does not say what the index does".into()));
            }
        }
        if known.tree.is_some() && !rest.iter().any(|line| matches!(line, Line::Tree { .. })) {
            return Ok(Some("does not know of its tree".into()));
        }
        Ok(None)
    }

    fn write_record(&self, transaction: &Transaction<'_>, known: &Known) -> Result<(), Trouble> {
        let LayerLine { id, blob, .. } = &known.layer;
        let mut lines = vec![Line::Layer(Box::new(clone(&known.layer)))];
        if let Some((name, bytes, stamp)) = &known.tree {
            lines.push(Line::Tree { name: name.clone(), bytes: *bytes, stamp: stamp.clone() });
        }
        lines.extend(known.tar.map(|(diff_id, tar_bytes)| Line::Tar { diff_id, tar_bytes }));
        if let Some(blob) = blob {
            let mut query =
                transaction.prepare_cached("SELECT name FROM blob_sources WHERE digest = ?1 ORDER BY rowid")?;
            for name in query.query_map([blob.digest.as_bytes()], |row| row.get(0))? {
                lines.push(Line::Source { digest: blob.digest, name: name? });
            }
        }
        let first = serde_json::to_string(&[id]).expect("plain data becomes JSON");
        let first = first.trim_end_matches(']');
        let mut query = transaction.prepare_cached("SELECT key FROM keys WHERE instr(results, ?1) = 1")?;
        for key in query.query_map([first], |row| row.get::<_, [u8; 32]>(0))? {
            lines.extend(key_line(transaction, &Key(key?))?);
        }
        let bytes: Vec<u8> = lines.iter().flat_map(encode).collect();
        let name = record_file_name(id);
        let aside = format!("{name}.new");
        write_file(&self.layout().records, &aside, &bytes, true)?;
        rustix::fs::renameat(&self.layout().records, aside.as_str(), &self.layout().records, name.as_str())
            .map_err(|source| StoreError::io("rename", self.layout().records.join(&aside), source).into())
    }

    pub(super) fn verify_image_files(&self) -> Result<Vec<Damage>, StoreError> {
        let (files, members): (Vec<ImageFile>, HashSet<Digest>) =
            self.index().read("list the images", |connection| {
                let sql =
                "SELECT name, descriptor, config, top, platform, size_bytes, coalesce(tags.created, images.created),
                    coalesce(tags.boot, images.boot), coalesce(tags.generation, images.generation), document
                FROM images LEFT JOIN tags ON tags.manifest = images.manifest ORDER BY name, images.rowid";
                let mut query = connection.prepare(sql)?;
                let mut rows = query.query([])?;
                let mut files = Vec::new();
                while let Some(row) = rows.next()? {
                    let (manifest, platform): (String, String) = (row.get(1)?, row.get(4)?);
                    files.push(ImageFile {
                        tag: row.get(0)?,
                        manifest: crate::gc::descriptor(&manifest)?,
                        config: Digest::from_bytes(row.get(2)?),
                        top: row.get::<_, Option<String>>(3)?.map(ResultId),
                        platform: serde_json::from_str(&platform)
                            .map_err(|_| StoreError::bad("platform", &platform))?,
                        created: row.get(6)?,
                        size_bytes: row.get::<_, i64>(5)?.unsigned_abs(),
                        index: row
                            .get::<_, Option<String>>(9)?
                            .map(|document| IndexFile { document, members: Vec::new() }),
                        stamp: Stamp { boot: row.get(7)?, generation: row.get(8)? },
                    });
                }
                let mut query = connection.prepare("SELECT manifest FROM members WHERE name = ?1 ORDER BY position")?;
                for file in &mut files {
                    let Some(index) = &mut file.index else { continue };
                    let members = query.query_map([&file.tag], |row| row.get(0).map(Digest::from_bytes))?;
                    index.members = members.collect::<Result<_, _>>()?;
                }
                // Members of indexes have files of their own beside those of their names.
                let sql = "SELECT DISTINCT manifest FROM members";
                let mut query = connection.prepare(sql)?;
                let members = query.query_map([], |row| row.get(0).map(Digest::from_bytes))?;
                let members: HashSet<Digest> = members.collect::<Result<_, _>>()?;
                let nameless = |file: &ImageFile| ImageFile { tag: None, index: None, ..file.clone() };
                let mut own: Vec<ImageFile> = files.iter().filter(|file| file.tag.is_some()).map(nameless).collect();
                let mut seen = HashSet::new();
                own.retain(|file| members.contains(&file.manifest.digest) && seen.insert(file.manifest.digest));
                files.extend(own);
                Ok((files, members))
            })?;
        let mut damages = Vec::new();
        for file in files {
            let name = image_file_name(file.tag.as_deref(), &file.manifest.digest);
            let path = self.layout().images.join(&name);
            let what = match std::fs::read(&path) {
                Ok(bytes) => match serde_json::from_slice::<ImageFile>(&bytes) {
                    Ok(found)
                        if serde_json::to_vec(&found).is_ok_and(|again| again == bytes)
                            && is_same_image(&found, &file) =>
                    {
                        continue;
                    }
                    Ok(_) => "does not say what the index does",
                    Err(_) => "cannot be read",
                },
                // One that lost its name to another has none of its own.
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound
                        && file.tag.is_none()
                        && !members.contains(&file.manifest.digest) =>
                {
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is missing",
                Err(source) => return Err(StoreError::io("read", path, source)),
            };
            write_image(self.layout(), &file)?;
            damages.push(Damage {
                kind: Kind::Image,
                name: file.manifest.digest.hex(),
                what: format!("its file `{name}` {what}"),
                used_by: file.tag.iter().map(|tag| format!("image {tag}")).collect(),
                healed: Some("written anew from the index".into()),
            });
        }
        Ok(damages)
    }
}

fn is_same_image(found: &ImageFile, known: &ImageFile) -> bool {
    // Time and stamp may be those of the name or of the image.
    (&found.tag, &found.manifest, found.config, &found.top, &found.platform, found.size_bytes, &found.index)
        == (&known.tag, &known.manifest, known.config, &known.top, &known.platform, known.size_bytes, &known.index)
        && found.created.parse::<jiff::Timestamp>().is_ok()
}

fn known(connection: &Connection, id: &str) -> Result<Option<Known>, Trouble> {
    let sql = "SELECT parent, empty, pulled, diff_id, blob, created, origin, times, started, from_context, on_base,
            content, layers.boot, layers.generation, tar_bytes, name, tree_bytes, trees.boot, trees.generation
        FROM layers LEFT JOIN trees ON layer = id WHERE id = ?1";
    let mut query = connection.prepare_cached(sql)?;
    let mut rows = query.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let blob: Option<String> = row.get(4)?;
    let times: Option<String> = row.get(7)?;
    let times = times.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::bad("rule for times", &text)));
    let diff_id = row.get::<_, Option<[u8; 32]>>(3)?.map(|bytes| DiffId(Digest::from_bytes(bytes)));
    let tar_bytes: Option<i64> = row.get(14)?;
    let name: Option<String> = row.get(15)?;
    let tree = match name {
        Some(name) => Some((
            name,
            row.get::<_, Option<i64>>(16)?.map(i64::unsigned_abs),
            Stamp { boot: row.get(17)?, generation: row.get(18)? },
        )),
        None => None,
    };
    Ok(Some(Known {
        tar: diff_id.zip(tar_bytes.map(i64::unsigned_abs)),
        tree,
        layer: LayerLine {
            id: ResultId(id.to_owned()),
            parent: row.get::<_, Option<String>>(0)?.map(ResultId),
            empty: row.get(1)?,
            pulled: row.get(2)?,
            diff_id,
            blob: blob.map(|text| crate::gc::descriptor(&text)).transpose()?,
            created: row.get(5)?,
            origin: row.get::<_, Option<String>>(6)?.map(ResultId),
            times: times.transpose()?,
            started: row.get(8)?,
            from_context: row.get(9)?,
            on_base: row.get(10)?,
            content: row.get::<_, Option<[u8; 32]>>(11)?.map(|bytes| ContentDigest(bytes).to_string()),
            stamp: Stamp { boot: row.get(12)?, generation: row.get(13)? },
        },
    }))
}

/// Whether a first line says the layer of the index; what a layer learns later stands in lines of its own.
fn is_same(line: &LayerLine, known: &LayerLine, blob_is_replaced: bool) -> bool {
    fn learnt<T: PartialEq>(line: &Option<T>, known: &Option<T>) -> bool {
        line.is_none() || line == known
    }
    (&line.id, &line.parent, line.empty, line.pulled, &line.created, &line.origin)
        == (&known.id, &known.parent, known.empty, known.pulled, &known.created, &known.origin)
        && (&line.times, &line.started, line.from_context, line.on_base, &line.stamp)
            == (&known.times, &known.started, known.from_context, known.on_base, &known.stamp)
        && learnt(&line.diff_id, &known.diff_id)
        && learnt(&line.content, &known.content)
        && (blob_is_replaced || learnt::<Descriptor>(&line.blob, &known.blob))
}

fn clone(line: &LayerLine) -> LayerLine {
    let json = serde_json::to_value(line).expect("plain data becomes JSON");
    serde_json::from_value(json).expect("and is read again")
}

/// A key that the index has forgotten, or that led elsewhere once, is nobody's business.
fn fits_key(connection: &Connection, line: &Line) -> Result<bool, Trouble> {
    let Line::Key { key, .. } = line else { return Ok(true) };
    let Ok(digest) = format!("sha256:{key}").parse::<Digest>() else { return Ok(false) };
    match key_line(connection, &Key(*digest.as_bytes()))? {
        None => Ok(true),
        Some(known) => {
            let results = |line: &Line| match line {
                Line::Key { results, .. } => results.clone(),
                _ => Vec::new(),
            };
            Ok(results(&known) != results(line) || encode(&known) == encode(line))
        }
    }
}

fn key_line(connection: &Connection, key: &Key) -> Result<Option<Line>, Trouble> {
    let mut query = connection
        .prepare_cached("SELECT kind, operation, results, parts, boot, generation FROM keys WHERE key = ?1")?;
    type Row = (String, Option<[u8; 32]>, String, String, String, i64);
    let row: Option<Row> = query
        .query_row([&key.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))
        .optional()?;
    let Some((kind, operation, results, parts, boot, generation)) = row else { return Ok(None) };
    let parts: Vec<Part> = serde_json::from_str(&parts).map_err(|_| StoreError::bad("list of parts", &parts))?;
    let results: Vec<ResultId> =
        serde_json::from_str(&results).map_err(|_| StoreError::bad("list of results", &results))?;
    let kind = if kind == "content" { KeyKind::Content } else { KeyKind::Definition };
    let operation = operation.map_or_else(String::new, |operation| Key(operation).to_string());
    Ok(Some(Line::Key { key: key.to_string(), kind, operation, results, parts, stamp: Stamp { boot, generation } }))
}
