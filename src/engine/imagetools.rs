//! Images that are in registries already: looked at, joined, renamed, without the local store.
//!
//! In: names of registries. Out: what they mean, or a name that means something else now. [`inspect()`] looks;
//! [`create()`] makes an index of what there is, or gives it another name, byte for byte; [`join()`] adds images to what a
//! name means, while others do the same. [`combine`] decides what an index has, [`copy`] brings what it names into its
//! repository, layers streamed or mounted, never kept. Deliberately absent: requests ([`oci::registry`]), the words of the
//! command line ([`crate::options::imagetools`]).

mod combine;
mod copy;
mod create;
mod inspect;
mod join;
mod source;

pub use combine::Replaced;
pub use create::{CreateOptions, Created, create};
pub use inspect::{Inspection, inspect};
pub use join::{Joined, join};
pub use source::Place;
