//! A cache that forgets nothing, shared by builds at the same time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use solver::key::Key;
use solver::seam::{CacheStore, KeyKind, Record, ResultId};
use tokio::sync::Notify;

use super::ToyError;

#[derive(Default)]
pub struct MemoryCache {
    pub keys: Mutex<HashMap<Key, (KeyKind, Vec<ResultId>)>>,
    operations: Mutex<HashMap<Key, Vec<Vec<ResultId>>>>,
    flights: Arc<Flights>,
    /// Lookups take a turn of the runtime.
    pub slow: bool,
    /// No lookup is ever answered.
    pub mute: bool,
    /// Keys that were looked up.
    pub lookups: Mutex<Vec<Key>>,
}

#[derive(Default)]
struct Flights {
    taken: Mutex<HashSet<Key>>,
    freed: Notify,
    awaited: Notify,
}

pub struct Flight(Arc<Flights>, Key);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.taken.lock().unwrap().remove(&self.1);
        self.0.freed.notify_waiters();
    }
}

impl MemoryCache {
    pub fn fly(&self, key: &Key) -> Option<Flight> {
        self.flights.taken.lock().unwrap().insert(*key).then(|| Flight(self.flights.clone(), *key))
    }

    /// Until a build waits for a claim that another has.
    pub async fn is_awaited(&self) {
        self.flights.awaited.notified().await;
    }

    pub fn kinds(&self) -> Vec<KeyKind> {
        self.keys.lock().unwrap().values().map(|(kind, _)| *kind).collect()
    }
}

impl CacheStore for MemoryCache {
    type Error = ToyError;
    type Flight = Flight;

    async fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, ToyError> {
        self.lookups.lock().unwrap().push(*key);
        if self.slow {
            tokio::task::yield_now().await;
        }
        if self.mute {
            std::future::pending::<()>().await;
        }
        Ok(self.keys.lock().unwrap().get(key).map(|(_, results)| results.clone()))
    }

    fn of_operation(&self, operation: &Key) -> Result<Vec<Vec<ResultId>>, ToyError> {
        Ok(self.operations.lock().unwrap().get(operation).cloned().unwrap_or_default())
    }

    fn record(&self, key: &Key, record: &Record<'_>) -> Result<(), ToyError> {
        assert!(!record.parts.is_empty(), "a key is stored with its parts");
        self.keys.lock().unwrap().insert(*key, (record.kind, record.results.to_vec()));
        let mut operations = self.operations.lock().unwrap();
        let known = operations.entry(record.operation).or_default();
        if !known.iter().any(|results| results == record.results) {
            known.insert(0, record.results.to_vec());
        }
        Ok(())
    }

    fn try_claim(&self, key: &Key) -> Result<Option<Flight>, ToyError> {
        Ok(self.fly(key))
    }

    async fn claim(&self, key: &Key) -> Result<Flight, ToyError> {
        loop {
            let mut freed = std::pin::pin!(self.flights.freed.notified());
            freed.as_mut().enable();
            if let Some(flight) = self.fly(key) {
                return Ok(flight);
            }
            self.flights.awaited.notify_one();
            freed.await;
        }
    }
}
