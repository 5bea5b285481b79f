//! Looking at a Dockerfile instead of building it: `rbuild check`.
//!
//! In come the text, [`PlanOptions`] and whatever is known about images; out come findings ([`mod@check`]), repaired
//! text ([`mod@fix`]). Nothing is ever
//! asked for: an image that is not among the answers is unknown, and then nothing is claimed about what it defines.
//! Absent: how anything looks on a screen.
//!
//! [`PlanOptions`]: crate::PlanOptions

pub mod check;

pub mod fix;

pub use check::{Checked, check};
pub use fix::fix;
