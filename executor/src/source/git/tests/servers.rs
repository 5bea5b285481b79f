//! Servers of every kind.
