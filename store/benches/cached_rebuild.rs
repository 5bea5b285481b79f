//! What the store costs a build in which everything is cached: open, one lookup per step, the chain of the result, the
//! tag it already has, and a sync that finds nothing to do. Prints; asserts nothing about the clock.
//!
//! `cargo bench -p rbuild-store --bench cached_rebuild`

use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci::content::put_bytes;
use oci::model::{Descriptor, Digest, Platform, media_type};
use rbuild_store::{ImageRecord, Store};
use solver::canon::Part;
use solver::key::Key;
use solver::seam::{CacheStore, KeyKind, Record, ResultId};

const STEPS: usize = 20;
/// Builds that the store remembers beside the measured one.
const OTHER_BUILDS: usize = 200;
const RUNS: usize = 50;

fn key(build: usize, step: usize) -> Key {
    Key(*Digest::of(format!("{build} {step}").as_bytes()).as_bytes())
}

fn build(store: &Store, build: usize) -> Result<ResultId, Box<dyn std::error::Error>> {
    let parts: Vec<Part> =
        (0..40).map(|i| Part { name: format!("exec.env[{i}]"), value: "a value of usual length".into() }).collect();
    let mut top = None;
    for step in 0..STEPS {
        let layer = store.add_built_layer(top.as_ref(), Some(store.draft()?), Timestamp::UNIX_EPOCH)?;
        let results = std::slice::from_ref(&layer);
        let kind = KeyKind::Definition;
        store.record(&key(build, step), &Record { kind, operation: key(0, step), parts: &parts, results })?;
        top = Some(layer);
    }
    Ok(top.expect("there are steps"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("store");
    let store = Store::open(&root)?;
    for other in 1..=OTHER_BUILDS {
        build(&store, other)?;
    }
    let top = build(&store, 0)?;
    let (manifest, size) = put_bytes(store.blobs(), b"manifest")?;
    let image = ImageRecord {
        manifest: Descriptor::new(media_type::OCI_MANIFEST, manifest, size),
        config: put_bytes(store.blobs(), b"config")?.0,
        top: Some(top.clone()),
        platform: Platform::native(),
        created: Timestamp::UNIX_EPOCH,
        size_bytes: 0,
    };
    let name = "app:1".parse()?;
    store.tag(&name, &image)?;
    store.sync()?;
    drop(store);

    let mut times: Vec<[Duration; 4]> = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let store = Store::open(&root)?;
        let opened = start.elapsed();
        for step in 0..STEPS {
            store.lookup(&key(0, step))?.ok_or("a key is gone")?;
        }
        let found = start.elapsed();
        store.chain(&top)?;
        put_bytes(store.blobs(), b"manifest")?;
        put_bytes(store.blobs(), b"config")?;
        store.tag(&name, &image)?;
        store.sync()?;
        let done = start.elapsed();
        drop(store);
        times.push([opened, found - opened, done - found, start.elapsed() - done]);
    }
    let median = |part: usize| {
        let mut part: Vec<Duration> = times.iter().map(|times| times[part]).collect();
        part.sort();
        part[part.len() / 2]
    };
    let parts: Vec<Duration> = (0..4).map(median).collect();
    println!(
        "cached rebuild of {STEPS} steps, {} layers in the store, median of {RUNS}: open {:?}, {STEPS} lookups {:?}, \
         chain + put + tag + sync {:?}, close {:?}, in all {:?}",
        (OTHER_BUILDS + 1) * STEPS,
        parts[0],
        parts[1],
        parts[2],
        parts[3],
        parts.iter().sum::<Duration>(),
    );
    Ok(())
}
