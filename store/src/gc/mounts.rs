//! Cache mounts as things: listed by id, measured when they were used since, held while a step uses them.

use std::collections::HashSet;

use super::census::{measured, thing};
use super::policy::{Holder, Thing};
use crate::mounts::{MountEntry, shown_mount_id};
use crate::{Kind, Store, StoreError};

/// All cache mounts.
pub(crate) fn list(store: &Store) -> Result<Vec<Thing>, StoreError> {
    let mut things = Vec::new();
    for mount in store.mounts()? {
        let bytes = match mount.size_bytes {
            Some(bytes) => bytes,
            None => measure(store, &mount)?,
        };
        things.push(Thing {
            label: format!("cache mount {}", shown_mount_id(&mount.key.id)),
            bytes,
            tick: mount.used_tick,
            used_at: mount.used_at.as_second(),
            holder: store.mount_in_use(&mount.name)?.then_some(Holder::Build),
            ..thing(Kind::Mount, mount.name)
        });
    }
    Ok(things)
}

/// Measures those that this process used (`used`), and those that dead ones left: what other running builds use, these
/// measure at their end. Nothing is done for a process that used none.
pub(super) fn measure_used(store: &Store, used: &HashSet<String>) -> Result<(), StoreError> {
    if used.is_empty() {
        return Ok(());
    }
    for mount in store.mounts()?.iter().filter(|mount| mount.size_bytes.is_none()) {
        if used.contains(&mount.name) || !store.mount_in_use(&mount.name)? {
            measure(store, mount)?;
        }
    }
    Ok(())
}

fn measure(store: &Store, mount: &MountEntry) -> Result<u64, StoreError> {
    let bytes = measured(&store.layout().mounts, &mount.name)?;
    store.set_mount_size(mount, bytes)?;
    Ok(bytes)
}
