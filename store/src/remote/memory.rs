//! A remote cache in memory, for tests: it counts what it is asked, and can be told to misbehave.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::{Mutex, MutexGuard};

use oci::content::{ContentError, ContentStore as _, open_verified};
use oci::model::{Descriptor, Digest};

use super::{Answer, Remote, RemoteError};
use crate::Blobs;

/// What is in it, and what was asked of it.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub manifest: Option<Vec<u8>>,
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// Digests, in the order of the calls.
    pub fetched: Vec<Digest>,
    pub sent: Vec<Digest>,
    /// How often the manifest was asked for, and set.
    pub manifest_reads: usize,
    pub manifest_writes: usize,
    /// Every call fails.
    pub down: bool,
    /// No call ends.
    pub stuck: bool,
}

/// A place in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    shelf: Mutex<Shelf>,
}

impl Memory {
    pub fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("no test panics while it holds the shelf")
    }

    async fn answers(&self, act: &'static str) -> Result<(), RemoteError> {
        let (down, stuck) = {
            let shelf = self.shelf();
            (shelf.down, shelf.stuck)
        };
        if stuck {
            std::future::pending::<()>().await;
        }
        match down {
            true => {
                Err(RemoteError::Unreachable { act, place: self.place(), source: "nobody answers".to_owned().into() })
            }
            false => Ok(()),
        }
    }
}

impl Remote for Memory {
    fn place(&self) -> String {
        "memory".into()
    }

    fn manifest(&self, most: u64) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            self.shelf().manifest_reads += 1;
            self.answers("read").await?;
            match &self.shelf().manifest {
                Some(bytes) if bytes.len() as u64 > most => {
                    Err(RemoteError::TooLarge { what: "manifest", place: self.place(), most })
                }
                found => Ok(found.clone()),
            }
        })
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        Box::pin(async move {
            self.shelf().fetched.push(blob.digest);
            self.answers("read").await?;
            let bytes = self.shelf().blobs.get(&blob.digest).cloned();
            let bytes = bytes.ok_or_else(|| RemoteError::NoBlob { place: self.place(), digest: blob.digest })?;
            if bytes.len() as u64 != blob.size {
                let (digest, expected, actual) = (blob.digest, blob.size, bytes.len() as u64);
                return Err(ContentError::WrongSize { digest, expected, actual }.into());
            }
            let mut writer = into.writer()?;
            writer.write_all(&bytes).map_err(ContentError::io("write a blob"))?;
            writer.commit(Some(&blob.digest))?;
            heard(blob.size);
            Ok(())
        })
    }

    fn has<'a>(&'a self, blobs: &'a [Descriptor]) -> Answer<'a, Vec<bool>> {
        Box::pin(async move {
            self.answers("read").await?;
            let shelf = self.shelf();
            Ok(blobs.iter().map(|blob| shelf.blobs.contains_key(&blob.digest)).collect())
        })
    }

    fn send<'a>(&'a self, blob: &'a Descriptor, from: &'a Blobs) -> Answer<'a, ()> {
        Box::pin(async move {
            self.answers("write to").await?;
            let mut bytes = Vec::new();
            open_verified(from, blob)?.read_to_end(&mut bytes).map_err(ContentError::io("read a blob"))?;
            let mut shelf = self.shelf();
            shelf.sent.push(blob.digest);
            shelf.blobs.insert(blob.digest, bytes);
            Ok(())
        })
    }

    fn set_manifest<'a>(&'a self, bytes: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.answers("write to").await?;
            let mut shelf = self.shelf();
            shelf.manifest_writes += 1;
            shelf.manifest = Some(bytes.to_vec());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use oci::content::put_bytes;

    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn a_place_keeps_what_it_is_given_and_checks_nothing_but_what_arrives_is_checked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (here, there) = (Store::open(&folder.path().join("a")), Store::open(&folder.path().join("b")));
        let (here, there) = (here.expect("a new store"), there.expect("a new store"));
        let memory = Memory::default();
        let remote: &dyn Remote = &memory;
        assert_eq!(remote.manifest(10).await.expect("it answers"), None);
        let (digest, size) = put_bytes(here.blobs(), b"some bytes").expect("the store takes it");
        let blob = Descriptor::new("text/plain", digest, size);
        assert_eq!(remote.has(std::slice::from_ref(&blob)).await.expect("it answers"), [false]);
        remote.send(&blob, here.blobs()).await.expect("it is there");
        assert_eq!(remote.has(std::slice::from_ref(&blob)).await.expect("it answers"), [true]);
        remote.fetch(&blob, there.blobs(), &|_| {}).await.expect("it is there");
        assert_eq!(there.blobs().size(&digest).expect("a look"), Some(size));
        remote.set_manifest(b"0123456789x").await.expect("it is taken");
        let error = remote.manifest(10).await.expect_err("one byte too many").to_string();
        assert_eq!(error, "the manifest of the cache `memory` has more than 10 bytes");
        assert_eq!(remote.manifest(11).await.expect("it fits").as_deref(), Some(&b"0123456789x"[..]));

        let other = Digest::of(b"what should be there");
        memory.shelf().blobs.insert(other, b"some other bytes....".to_vec());
        let error = remote.fetch(&Descriptor::new("", other, 20), there.blobs(), &|_| {}).await.expect_err("forged");
        assert!(matches!(error, RemoteError::Content(ContentError::WrongDigest { .. })), "{error:?}");
        assert_eq!(there.blobs().size(&other).expect("a look"), None);
        memory.shelf().down = true;
        let error = remote.manifest(10).await.expect_err("it is down").to_string();
        assert_eq!(error, "cannot read the cache `memory`");
    }
}
