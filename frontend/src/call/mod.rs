//! Looking at a Dockerfile instead of building it: `rbuild check`, `--call=outline`, `--call=targets`.
//!
//! In come the text, [`PlanOptions`] and whatever is known about images; out come findings ([`mod@check`]), repaired
//! text ([`mod@fix`]), the parameters of a target ([`mod@outline`]) or the targets ([`mod@targets`]). Nothing is ever
//! asked for: an image that is not among the answers is unknown, and then nothing is claimed about what it defines.
//! Absent: how anything looks on a screen.
//!
//! [`PlanOptions`]: crate::PlanOptions

pub mod check;

pub mod fix;

pub mod outline;

pub mod targets;

mod document;

pub use check::{Checked, check};
pub use document::{LineRange, Location, Position};
pub use fix::fix;
pub use outline::{Outline, outline};
pub use targets::{Targets, targets};
