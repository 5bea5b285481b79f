//! `userns` and `[userns]` of `config.toml`: whether steps of root have user namespaces of their own, and which ids.

use executor::rootless::ids::Range;
use executor::userns::{Wanted, ids};
use toml::Spanned;
use toml::de::DeValue;

use super::file::Reader;
use super::{Setting, Source};

/// All keys.
pub const KEYS: &[&str] = &["mode", "ids"];

/// What files say of user namespaces.
#[derive(Clone, Debug, Default)]
pub struct UsernsConfig {
    /// `userns`, or `userns.mode`.
    pub mode: Option<Setting<Wanted>>,
    /// `userns.ids`.
    pub ids: Option<Setting<Range>>,
}

impl UsernsConfig {
    pub(super) fn fill(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        let Some(settings) = value.get_ref().as_table() else {
            self.mode = reader.text(value, str::parse);
            return;
        };
        for (key, value) in settings {
            match key.get_ref().as_ref() {
                "mode" => self.mode = reader.text(value, str::parse),
                "ids" => self.ids = reader.text(value, ids::range),
                _ => reader.unknown(key, KEYS),
            }
        }
    }

    /// Key by key, and `other` where this says nothing.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self { mode: self.mode.or(other.mode), ids: self.ids.or(other.ids) }
    }

    /// What counts, as key, text and source.
    pub(super) fn rows(&self) -> [(&'static str, String, &Source); 2] {
        let mode = self.mode.as_ref().map_or(("host", &Source::Default), |mode| (mode.value.name(), &mode.source));
        let ids = self.ids.as_ref().map(|ids| (format!("{}:{}", ids.value.first, ids.value.count), &ids.source));
        let (ids, source) = ids.unwrap_or_else(|| ("some that nobody has".into(), &Source::Default));
        [("userns.mode", mode.0.into(), mode.1), ("userns.ids", ids, source)]
    }
}
