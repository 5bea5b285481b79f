//! Variables, in the order in which they were first set.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::expand::Lookup;

/// An ordered set of variables. Setting one again keeps its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
    bytes: u64,
    /// What [`Self::lines`] gave.
    lines: OnceCell<Arc<[String]>>,
}

impl Env {
    /// From `NAME=value` lines; a line without `=` is a name with an empty value.
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = &'a String>) -> Self {
        let mut env = Self::default();
        for line in lines {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            env.set(name, value);
        }
        env
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.lines.take();
        match self.index.get(name) {
            Some(&at) => {
                let old = std::mem::replace(&mut self.list[at].1, value.to_owned());
                self.bytes = self.bytes - old.len() as u64 + value.len() as u64;
            }
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value.to_owned()));
                self.bytes += (name.len() + value.len() + 1) as u64;
            }
        }
    }

    /// Takes a variable away. Linear in the number of variables.
    pub fn remove(&mut self, name: &str) {
        self.lines.take();
        let Some(at) = self.index.remove(name) else { return };
        let (name, value) = self.list.remove(at);
        self.bytes -= (name.len() + value.len() + 1) as u64;
        for place in self.index.values_mut().filter(|place| **place > at) {
            *place -= 1;
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|at| self.list[*at].1.as_str())
    }

    /// As `NAME=value` lines, made once for all who ask between two changes.
    pub fn lines(&self) -> Arc<[String]> {
        let make = || {
            crate::meter::tick(self.bytes as usize);
            self.list.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        self.lines.get_or_init(make).clone()
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(name, _)| name.as_str())
    }

    /// How long all lines are together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Lookup for Env {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}
