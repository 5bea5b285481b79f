//! What makes two runs the same.

use crate::canon;

/// A cache key: SHA-256 over everything that decides a result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// SHA-256 over content: of files, of a tree, of a manifest. How it is computed is its maker's business; equal
/// digests mean equal content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest(pub [u8; 32]);

macro_rules! shown_as_hex {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&canon::hex(&self.0))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), &canon::hex(&self.0)[..12])
            }
        }
    };
}
shown_as_hex!(Key);
shown_as_hex!(ContentDigest);
