//! Whether everything in the store is still what it was: disks forget.
//!
//! Out: every [`Damage`] with what uses the thing. Blobs are hashed; record and image files are compared with the index,
//! line by line; the index checks itself; what must be there is looked for. Trees are hashed by whoever can
//! (the executor's `layers::check`), and dropped here. What is damaged is taken away where the next pull or build makes
//! it anew, files that say what the index knows are written anew, and a healthy thing is never touched. Deliberately
//! absent: git repositories, which git checks (the executor's `source::git`), and what steps keep in cache mounts, which
//! only their programs understand.

mod files;
mod records;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci::model::{Digest, Reference};
use rusqlite::Transaction;
use solver::seam::ResultId;

use crate::index::Trouble;
use crate::usage::Window;
use crate::{Kind, Node, Store, StoreError, trash, usage};

/// Something that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// What kind of thing.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What is wrong with it, in words.
    pub what: String,
    /// What uses it, in words.
    pub used_by: Vec<String>,
    /// What was done about it, in words; `None`: nothing.
    pub healed: Option<String>,
}

impl Store {
    /// Hashes every blob, on `threads` threads; `heard` is told the bytes of each. A damaged one is put aside: from now on
    /// it is missing. Blobs that an image or a layer needs and that are not here, nor anywhere known, are damage too.
    pub fn verify_blobs(&self, threads: usize, heard: &(dyn Fn(u64) + Sync)) -> Result<Vec<Damage>, StoreError> {
        let names = self.layout().blobs.names()?;
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || -> Result<(), StoreError> {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                    trash::discard(self.layout(), &self.layout().blobs, name)?;
                    found.lock().expect("no panic here").push((name.clone(), "not the name of a blob"));
                    continue;
                };
                let content = |error| crate::blobs::store_error(self.blobs().path(&digest), error);
                let size = self.blobs().size(&digest).map_err(content)?;
                if !self.blobs().verify(&digest).map_err(content)? && size.is_some() {
                    found.lock().expect("no panic here").push((name.clone(), "its bytes are not those of its digest"));
                }
                heard(size.unwrap_or_default());
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        let mut found = found.into_inner().expect("no panic here");
        found.sort();
        let users = self.users_of_blobs()?;
        let mut damages: Vec<Damage> = found
            .into_iter()
            .map(|(name, what)| Damage {
                kind: Kind::Blob,
                used_by: users.get(&name).map(|user| user.words.clone()).unwrap_or_default(),
                name,
                what: what.into(),
                healed: Some("dropped; it is made or fetched again when it is needed".into()),
            })
            .collect();
        for (name, user) in users {
            let digest: Digest = format!("sha256:{name}").parse().map_err(|_| StoreError::bad("digest", &name))?;
            let is_damaged = damages.iter().any(|damage| damage.name == name);
            if user.needed && !is_damaged && !self.layout().blobs.has(&name)? && self.blob_sources(&digest)?.is_empty()
            {
                let what = "it is missing, and no registry is known that has it".into();
                damages.push(Damage { kind: Kind::Blob, name, what, used_by: user.words, healed: None });
            }
        }
        Ok(damages)
    }

    /// Bytes of all blobs.
    pub fn blob_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for name in self.layout().blobs.names()? {
            if let Some(stat) = crate::gc::look(&self.layout().blobs, &name)? {
                bytes += stat.st_size.unsigned_abs();
            }
        }
        Ok(bytes)
    }

    /// The size of a blob as layers and images describe it, whether or not it is here.
    pub fn size_of_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let descriptors: Vec<String> = self.index().read("find a blob", |connection| {
            let mut query = connection.prepare(
                "SELECT blob FROM layers WHERE instr(blob, ?1) UNION SELECT descriptor FROM images WHERE instr(descriptor, ?1)",
            )?;
            Ok(query.query_map([digest.to_string()], |row| row.get(0))?.collect::<Result<_, _>>()?)
        })?;
        for text in descriptors {
            let known = crate::gc::descriptor(&text)?;
            if known.digest == *digest {
                return Ok(Some(known.size));
            }
        }
        Ok(None)
    }

    /// Names under which registries have a blob of these digits.
    pub fn sources_of(&self, blob: &str) -> Result<Vec<Reference>, StoreError> {
        let digest: Digest = format!("sha256:{blob}").parse().map_err(|_| StoreError::bad("digest", blob))?;
        self.blob_sources(&digest)
    }

    /// Checks the index itself, the directories' nodes in it, and the record and image files against it: these say
    /// nothing that the index does not know, so a damaged one is written anew. Then notes, contexts and cache mounts.
    pub fn verify_records(&self) -> Result<Vec<Damage>, StoreError> {
        let mut damages = self.verify_index()?;
        damages.extend(self.verify_nodes()?);
        damages.extend(self.verify_layer_records()?);
        damages.extend(self.verify_image_files()?);
        damages.extend(self.verify_files()?);
        Ok(damages)
    }

    fn verify_index(&self) -> Result<Vec<Damage>, StoreError> {
        let verdict: String = self.index().read("be checked", |connection| {
            Ok(connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?)
        })?;
        if verdict == "ok" {
            return Ok(Vec::new());
        }
        self.index().mark_damaged()?;
        Ok(vec![Damage {
            kind: Kind::Key,
            name: "index.db".into(),
            what: verdict,
            used_by: Vec::new(),
            healed: Some("the next command rebuilds it from the store's files".into()),
        }])
    }

    fn verify_nodes(&self) -> Result<Vec<Damage>, StoreError> {
        let bad: Vec<[u8; 32]> = self.index().transaction("check directories' nodes", |transaction| {
            let mut query = transaction.prepare("SELECT digest, body FROM nodes")?;
            let mut rows = query.query([])?;
            let mut bad = Vec::new();
            while let Some(row) = rows.next()? {
                let digest: [u8; 32] = row.get(0)?;
                let body = row.get_ref(1)?.as_blob().unwrap_or_default();
                if *Digest::of(body).as_bytes() != digest || Node::entries(body).is_none() {
                    bad.push(digest);
                }
            }
            for digest in &bad {
                transaction.execute("DELETE FROM nodes WHERE digest = ?1", [digest])?;
            }
            Ok(bad)
        })?;
        let damage = |digest: [u8; 32]| Damage {
            kind: Kind::Node,
            name: Digest::from_bytes(digest).hex(),
            what: "its bytes are not those of its digest".into(),
            used_by: Vec::new(),
            healed: Some("dropped; nothing but explanations needs it".into()),
        };
        Ok(bad.into_iter().map(damage).collect())
    }

    /// Layers whose own trees are to be hashed, with what they take.
    pub fn own_trees(&self) -> Result<Vec<(ResultId, u64)>, StoreError> {
        self.index().read("list the layers", |connection| {
            let sql = "SELECT id, coalesce(tree_bytes, 0) FROM layers JOIN trees ON layer = id ORDER BY id";
            let mut query = connection.prepare(sql)?;
            let rows = query.query_map([], |row| Ok((ResultId(row.get(0)?), row.get::<_, i64>(1)?.unsigned_abs())))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Takes a damaged tree from its layer, which is then unpacked or built again, with all that stands on it: what a
    /// step has made cannot be made again beneath the layers above it. Lets go of what this process used.
    /// `false`: a running process stands on it, so it stays.
    pub fn drop_tree(&self, id: &ResultId) -> Result<bool, StoreError> {
        self.lease().end()?;
        let layout = self.layout();
        let _window = Window::open(layout)?;
        let held = usage::held(layout)?;
        let trees = self.index().transaction("drop a tree", |transaction| {
            let mut todo = vec![id.0.clone()];
            let mut broken: HashSet<String> = HashSet::new();
            while let Some(id) = todo.pop() {
                if !broken.insert(id.clone()) {
                    continue;
                }
                if held.contains(&(Kind::Layer, id.clone())) {
                    return Ok(None);
                }
                let mut above = transaction.prepare_cached("SELECT id FROM layers WHERE parent = ?1 OR origin = ?1")?;
                for id in above.query_map([id], |row| row.get(0))? {
                    todo.push(id?);
                }
            }
            if is_built(transaction, id)? {
                forget_keys(transaction, &broken)?;
            }
            let mut trees = transaction.prepare_cached("DELETE FROM trees WHERE layer = ?1 RETURNING name")?;
            Ok(Some(trees.query_map([id.as_str()], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?))
        })?;
        for tree in trees.iter().flatten() {
            trash::discard(layout, &layout.layers, tree)?;
        }
        Ok(trees.is_some())
    }

    /// What stands on a layer, in words: names of images, else how many layers.
    pub fn users_of_layer(&self, id: &ResultId) -> Result<Vec<String>, StoreError> {
        self.index().read("find what uses a layer", |connection| {
            let sql = "WITH RECURSIVE above (id) AS (
                    SELECT ?1 UNION SELECT layers.id FROM above JOIN layers ON parent = above.id OR origin = above.id
                )
                SELECT name FROM above JOIN images ON top = above.id JOIN names ON names.manifest = images.manifest
                ORDER BY name";
            let mut query = connection.prepare(sql)?;
            let names = query.query_map([id.as_str()], |row| row.get::<_, String>(0))?;
            Ok(names.map(|name| name.map(|name| format!("image {name}"))).collect::<Result<_, _>>()?)
        })
    }

    /// By digits what uses a blob.
    fn users_of_blobs(&self) -> Result<HashMap<String, User>, StoreError> {
        let mut users: HashMap<String, User> = HashMap::new();
        let layout = self.layout();
        let (layers, images) = self.index().read("find what uses a blob", |connection| {
            let sql =
                "SELECT id, blob, EXISTS (SELECT 1 FROM trees WHERE layer = id) FROM layers WHERE blob IS NOT NULL";
            let mut query = connection.prepare(sql)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let layers: Vec<(String, String, bool)> = rows.collect::<Result<_, _>>()?;
            let sql = "SELECT descriptor, config, coalesce(name, '') FROM images
                LEFT JOIN names ON names.manifest = images.manifest";
            let mut query = connection.prepare(sql)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let images: Vec<(String, [u8; 32], String)> = rows.collect::<Result<_, _>>()?;
            Ok::<_, Trouble>((layers, images))
        })?;
        for (id, blob, has_tree) in layers {
            let user = users.entry(crate::gc::descriptor(&blob)?.digest.hex()).or_default();
            user.words.push(format!("layer {id}"));
            // What a cache of another machine knows (`i-…`) is brought from there when it is needed.
            user.needed |= !has_tree && !id.starts_with("i-");
        }
        for (manifest, config, name) in images {
            let manifest = crate::gc::descriptor(&manifest)?;
            let config = Digest::from_bytes(config);
            let words = if name.is_empty() { format!("image {config}") } else { format!("image {name}") };
            for hex in [manifest.digest.hex(), config.hex()] {
                let user = users.entry(hex).or_default();
                user.words.push(words.clone());
                user.needed = true;
            }
            for hex in crate::gc::layer_blobs(layout, &manifest)? {
                users.entry(hex).or_default().words.push(words.clone());
            }
        }
        Ok(users)
    }
}

/// Whether a layer's tree is all there is of it.
fn is_built(transaction: &Transaction<'_>, id: &ResultId) -> Result<bool, Trouble> {
    let sql = "SELECT NOT pulled AND blob IS NULL AND origin IS NULL FROM layers WHERE id = ?1";
    Ok(transaction.prepare_cached(sql)?.query_row([id.as_str()], |row| row.get(0))?)
}

/// Forgets the keys that lead to any of these layers.
fn forget_keys(transaction: &Transaction<'_>, layers: &HashSet<String>) -> Result<(), Trouble> {
    let mut query = transaction.prepare("SELECT rowid, results FROM keys")?;
    let keys = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let keys: Vec<(i64, String)> = keys.collect::<Result<_, _>>()?;
    for (row, results) in keys {
        let results: Vec<String> = serde_json::from_str(&results).unwrap_or_default();
        if results.iter().any(|id| layers.contains(id)) {
            transaction.prepare_cached("DELETE FROM keys WHERE rowid = ?1")?.execute([row])?;
        }
    }
    Ok(())
}

#[derive(Clone, Debug, Default)]
struct User {
    words: Vec<String>,
    /// Whether nothing else stands in for it.
    needed: bool,
}
