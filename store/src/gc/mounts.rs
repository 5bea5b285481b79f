//! Cache mounts as things: listed by id, measured when they were used since, held while a step uses them.

use super::census::{measured, thing};
use super::policy::{Holder, Thing};
use crate::{Kind, Store, StoreError};

/// All cache mounts.
pub(crate) fn list(store: &Store) -> Result<Vec<Thing>, StoreError> {
    let mut things = Vec::new();
    for mount in store.mounts()? {
        let bytes = match mount.size_bytes {
            Some(bytes) => bytes,
            None => {
                let bytes = measured(&store.layout().mounts, &mount.name)?;
                store.set_mount_size(&mount, bytes)?;
                bytes
            }
        };
        things.push(Thing {
            label: format!("cache mount {}", mount.key.id),
            bytes,
            tick: mount.used_tick,
            used_at: mount.used_at.as_second(),
            holder: store.mount_in_use(&mount.name)?.then_some(Holder::Build),
            ..thing(Kind::Mount, mount.name)
        });
    }
    Ok(things)
}
