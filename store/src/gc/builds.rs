//! Records of builds as things: measured with what their steps printed, held while the build runs.

use super::census::{measured, thing};
use super::policy::{Holder, Thing};
use crate::{Kind, Store, StoreError};

/// The records of all builds.
pub(crate) fn list(store: &Store) -> Result<Vec<Thing>, StoreError> {
    let mut things = Vec::new();
    for name in store.build_names()? {
        let Some(runs) = store.build_runs(&name)? else { continue };
        let (begun, id) = name.split_once('-').unwrap_or(("", &name));
        // What has no such name is none of ours, and old.
        let used_at = i64::from_str_radix(begun, 16).map_or(0, |micros| micros / 1_000_000);
        things.push(Thing {
            label: format!("record of build {id}"),
            bytes: measured(&store.layout().history, &name)?,
            used_at,
            holder: match runs {
                true => Some(Holder::Build),
                false if store.build_is_pinned(&name)? == Some(true) => Some(Holder::Pin),
                false => None,
            },
            ..thing(Kind::Build, name)
        });
    }
    Ok(things)
}
