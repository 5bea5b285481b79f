//! The networks of steps: `none` is loopback alone, `host` the builder's own, `default` a namespace with a way out.
//!
//! The first two need nothing from here. For `default`, a [`Networks`] starts one helper process per build, which makes
//! a router (a network namespace) with a way out and, ahead of the steps, a namespace per step, which the step joins by
//! descriptor. Everything dies with the processes that hold it; what cannot is noted and swept by the next build.
//!
//! ```text
//!   step ── step ── …      a namespace each
//!     └───────┴── router   a namespace per build: a bridge, masquerade
//!                   └── uplink: `bridge`: a cable to the host, which masquerades (root)
//!                               `pasta`, `slirp4netns`: a program that speaks in the host's name
//! ```
//!
//! Reading order: [`settings`] (what can be asked for), [`networks`] (the builder's side), [`helper`] (the other one),
//! [`router`], the ways out [`bridge`] and [`tap`], [`forwarding`] (what the host is told, and put back), [`dns`] and
//! [`forward`] (names), [`pool`] (addresses), and at the bottom [`link`] and [`rules`] over [`netlink`]. Deliberately
//! absent: which step wants which network.

mod bridge;
mod dns;
mod error;
mod forward;
mod forwarding;
mod helper;
mod link;
mod netlink;
mod networks;
mod pool;
mod router;
mod rules;
mod settings;
mod tap;
mod trouble;

pub use error::NetworkError;
pub(crate) use helper::become_helper_if_asked;
pub(crate) use networks::host_resolv_conf;
pub use networks::{Networks, StepNetwork, drivers_here};
pub use pool::Pool;
pub use settings::{Driver, NetworkSettings, Share};
pub use trouble::Trouble;
