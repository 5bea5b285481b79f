//! What the kernel says of this process's surroundings in `/proc`: mounts, and control groups. Pure but for the reading.
//!
//! In: the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`; proc(5), cgroups(7). Out: [`Mount`]s, [`Membership`]s
//! and what both say together, [`ControlGroups`]. What cannot be understood is left out. Deliberately absent: what is
//! made of it: limits of steps ([`crate::limits`]), the memory that is left and what a user should mend (the hall's).

mod groups;
mod mountinfo;

pub use groups::{ControlGroups, Hierarchy, Membership, Version, memberships};
pub use mountinfo::{Mount, mounts};
