//! The store as others see it: records, crashes, damage, several processes at once.

mod content;
mod derived;
mod flights;
mod gc;
mod gc_processes;
mod mounts;
mod processes;
mod records;
mod recovery;
mod several;
mod support;
mod verify;
