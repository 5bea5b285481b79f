//! `[limits]` of `config.toml`: what each step may use, unless a flag says otherwise.

use std::time::Duration;

use executor::limits::{Pids, Room, Swap};
use toml::Spanned;
use toml::de::DeValue;

use super::file::Reader;
use super::{Setting, Source};
use crate::cli::values;
use crate::options::limits;

/// All keys.
pub const KEYS: &[&str] = &["memory", "memory_swap", "cpus", "cpu_shares", "pids", "timeout", "disk", "min_free"];

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// What it means.
    pub value: T,
    /// As it stands in the file.
    pub text: String,
}

type Line<T> = Option<Setting<Written<T>>>;

/// What files say of limits.
#[derive(Clone, Debug, Default)]
pub struct LimitConfig {
    /// `memory`, in bytes.
    pub memory: Line<u64>,
    /// `memory_swap`.
    pub memory_swap: Line<Swap>,
    /// `cpus`: microseconds of processor time in every 100 ms.
    pub cpus: Line<u64>,
    /// `cpu_shares`.
    pub cpu_shares: Line<u64>,
    /// `pids`.
    pub pids: Line<Pids>,
    /// `timeout`.
    pub timeout: Line<Duration>,
    /// `disk`, in bytes.
    pub disk: Line<u64>,
    /// `min_free`.
    pub min_free: Line<Room>,
}

impl LimitConfig {
    pub(super) fn fill(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        fn written<T>(
            parse: impl FnOnce(&str) -> Result<T, String>,
        ) -> impl FnOnce(&str) -> Result<Written<T>, String> {
            move |text| Ok(Written { value: parse(text)?, text: text.to_owned() })
        }
        let Some(settings) = value.get_ref().as_table() else {
            return reader.problem("a table is expected: `[limits]`", value.span());
        };
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "memory" => self.memory = reader.text(value, written(limits::memory)),
                "memory_swap" => self.memory_swap = reader.text(value, written(limits::swap)),
                "cpus" => self.cpus = reader.text(value, written(limits::cpus)),
                "cpu_shares" => self.cpu_shares = reader.text(value, written(limits::shares)),
                "pids" => self.pids = reader.text(value, written(limits::pids)),
                "timeout" => self.timeout = reader.text(value, written(values::duration)),
                "disk" => self.disk = reader.text(value, written(limits::disk)),
                "min_free" => self.min_free = reader.text(value, written(limits::room)),
                _ => reader.unknown(key, KEYS),
            }
        }
    }

    /// Key by key, and `other` where this says nothing.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.or(other.memory),
            memory_swap: self.memory_swap.or(other.memory_swap),
            cpus: self.cpus.or(other.cpus),
            cpu_shares: self.cpu_shares.or(other.cpu_shares),
            pids: self.pids.or(other.pids),
            timeout: self.timeout.or(other.timeout),
            disk: self.disk.or(other.disk),
            min_free: self.min_free.or(other.min_free),
        }
    }

    /// What is set, as key, text and source.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, String, &Source)> {
        fn row<'a, T>(key: &'static str, line: &'a Line<T>) -> Option<(&'static str, String, &'a Source)> {
            line.as_ref().map(|setting| (key, setting.value.text.clone(), &setting.source))
        }
        [
            row("limits.memory", &self.memory),
            row("limits.memory_swap", &self.memory_swap),
            row("limits.cpus", &self.cpus),
            row("limits.cpu_shares", &self.cpu_shares),
            row("limits.pids", &self.pids),
            row("limits.timeout", &self.timeout),
            row("limits.disk", &self.disk),
            row("limits.min_free", &self.min_free),
        ]
        .into_iter()
        .flatten()
    }
}
