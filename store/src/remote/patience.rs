//! How long a cache may take: a build that waits longer for it than it saves has no use for it.
//!
//! In: an exchange with a place. Out: the same, or [`RemoteError::Slow`]. A small answer has a fixed time; a transfer has
//! none on the whole, but must move.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oci::model::Descriptor;

use super::{Remote, RemoteError};
use crate::Blobs;

/// For an answer that fits into memory, and for a transfer to move on, unless the user says another time.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// What must come in that time, and in proportion in another: a connection by modem did.
const STEADY_BYTES: u64 = 32 << 10;

/// What must come in that time.
fn steady_bytes(patience: Duration) -> u64 {
    let share = patience.as_millis().saturating_mul(u128::from(STEADY_BYTES)) / PATIENCE.as_millis();
    u64::try_from(share).unwrap_or(u64::MAX).max(1)
}

/// What `exchange` gives, if that is soon enough. `act` is `read` or `written to`.
pub async fn within<T>(
    patience: Duration,
    act: &'static str,
    place: &dyn Remote,
    exchange: impl Future<Output = Result<T, RemoteError>>,
) -> Result<T, RemoteError> {
    match tokio::time::timeout(patience, exchange).await {
        Ok(given) => given,
        Err(_) => Err(RemoteError::Slow { act, place: place.place(), patience }),
    }
}

/// Time for a blob to be sent to a place of that patience: nothing tells how far it is.
pub(crate) fn time_to_send(blob: &Descriptor, patience: Duration) -> Duration {
    times(patience, 3 + blob.size / steady_bytes(patience))
}

/// So many times that time.
pub(crate) fn times(patience: Duration, count: u64) -> Duration {
    patience.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// [`Remote::fetch`] that ends when nothing much comes any more.
pub async fn fetch_steadily(
    place: &dyn Remote,
    blob: &Descriptor,
    into: &Blobs,
    heard: &(dyn Fn(u64) + Sync),
) -> Result<(), RemoteError> {
    let most = AtomicU64::new(0);
    let hear = |bytes: u64| {
        most.fetch_max(bytes, Ordering::Relaxed);
        heard(bytes);
    };
    let patience = place.patience();
    let mut fetching = place.fetch(blob, into, &hear);
    let mut before = 0;
    loop {
        tokio::select! {
            biased;
            fetched = &mut fetching => return fetched,
            () = tokio::time::sleep(patience) => {}
        }
        let now = most.load(Ordering::Relaxed);
        // Once all is there, what is left is the disk's business.
        if now < blob.size && now - before < steady_bytes(patience) {
            return Err(RemoteError::Slow { act: "read", place: place.place(), patience });
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use oci::model::Digest;

    use super::super::memory::Memory;
    use super::*;
    use crate::Store;

    #[tokio::test(start_paused = true)]
    async fn a_place_that_stands_still_is_given_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("store")).expect("a new store");
        let memory = Memory::default();
        memory.shelf().stuck = true;
        let began = tokio::time::Instant::now();
        let asked = within(PATIENCE, "read", &memory, memory.manifest(10)).await.expect_err("it says nothing");
        assert_eq!(asked.to_string(), "the cache `memory` took longer than 10 s to be read");
        let blob = Descriptor::new("", Digest::of(b"x"), 1 << 30);
        let fetched = fetch_steadily(&memory, &blob, store.blobs(), &|_| {}).await.expect_err("nothing comes");
        assert!(matches!(fetched, RemoteError::Slow { .. }), "{fetched:?}");
        assert_eq!(began.elapsed(), 2 * PATIENCE);
    }
}
