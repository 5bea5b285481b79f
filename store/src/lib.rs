//! The store on disk: what was built, pulled, imported and loaded, found again by any `rbuild` process.
//!
//! Trees, blobs, keys and names come in; the same come out, in this process or another, now or after a crash.
//! Deliberately absent: running anything, reading the contents of a layer, talking to a registry, deciding what may be
//! thrown away.
//!
//! ```text
//! <root>/                 0700, owned by the user of the store
//!   lock                  held shared by every process that uses the store
//!   index.lock            held for an instant while the index is opened; exclusively while it is made or rebuilt
//!   index.db              SQLite, WAL; `user_version` is the schema. Only an index: see `records/` and `images/`
//!   synced                per line a boot and a generation: up to where everything is on disk (see `durability`)
//!   blobs/sha256/<hex>    blobs, named by digest; made in tmp/, fsynced, renamed
//!   layers/<name>/        one tree each, overlayfs form; <name> is 8 characters; its record's alone, and shared by those
//!                         that are derived from it
//!   records/<id>.jsonl    what the index knows of a layer, to rebuild the index from; only ever appended to
//!   images/<hex>.json     what the index knows of a tag or of an image without one, likewise
//!   notes/<kind>/         small texts that may be lost, see `notes`
//!   contexts/<hex>        what is remembered of the files of a build context, see `contexts`
//!   clients/<hex>/        directories of the daemon's clients, as they came last, see `clients`
//!   git/                  repositories of git sources; the executor's, drawn there
//!   history/              the last builds, drawn in `history`
//!   mounts/<name>/        a cache mount: fs/ and about.json, see `mounts`; flocked while used
//!   flights/<hex of a key>  locks: one build at a time works on a key, see `flight`
//!   leases/<random>       what a running process relies on, see `lease`; `uses` what ended ones did
//!   tmp/<layer id>/       a draft: fs/ and work/; flocked by its maker, swept by the next start once it is dead
//!   tmp/<random>.blob     a blob being written; flocked likewise; so is tmp/<random>.note
//!   trash/                trees on their way out: renamed here, then deleted
//! ```
//!
//! Read in this order: [`layout`] the folders and their locks, [`draft`] how a tree is made aside, [`blobs`] how bytes
//! are, [`store`] how a store is opened, [`layers`], [`derived`], [`images`], [`cache`] what it remembers, [`flight`] who works on
//! it, [`lease`] who relies on what, [`mounts`] what steps keep for later builds, [`notes`], [`contexts`] and [`clients`]
//! what it may forget, [`nodes`] what digests were made of, [`index`] the database, [`journal`] and [`rebuild`] how it comes back, [`durability`] what a power loss
//! may take, [`early`] what is on the disk before that, [`gc`] what is given back, [`verify`] what is damaged, [`trash`] how trees go, [`remote`] caches elsewhere.

#![forbid(unsafe_code)]

mod blobs;
mod cache;
mod clients;
mod contexts;
mod derived;
mod draft;
mod durability;
mod early;
mod error;
mod flight;
mod gc;
pub mod history;
mod images;
mod index;
mod journal;
mod layers;
mod layout;
mod lease;
mod mounts;
mod nodes;
mod notes;
mod provenance;
mod rebuild;
mod recall;
pub mod remote;
mod store;
mod trash;
mod usage;
mod verify;

pub use blobs::{Blob, Blobs};
pub use clients::ClientTree;
pub use contexts::{ContextFile, Remembered};
pub use derived::TimeRule;
pub use draft::{Draft, LentTree};
pub use error::StoreError;
pub use flight::Flight;
pub use gc::{Collected, Holder, Limit, Usage, Used, Wish};
pub use images::{FoundImage, ImageRecord, StoredIndex};
pub use layers::{Imported, Layer, Made};
pub use layout::flock_unless;
pub use lease::Kind;
pub use mounts::{BusyMount, HeldMount, MountEntry, MountKey, MountSeed, MountTurn, MountWish, Taken, shown_mount_id};
pub use nodes::{NODE_MAX_BYTES, Node, NodeEntry, NodeKind, attributes_digest};
pub use store::Store;
pub use verify::Damage;
