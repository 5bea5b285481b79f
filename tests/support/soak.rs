//! How long tests go on that could go on for ever, and chance that is the same every time.

use std::time::Duration;

/// So many seconds, or as many as `RBUILD_SOAK_SECONDS` says.
pub fn soak(seconds: u64) -> Duration {
    let told = std::env::var("RBUILD_SOAK_SECONDS").ok();
    Duration::from_secs(told.map_or(seconds, |text| text.parse().expect("RBUILD_SOAK_SECONDS is a number")))
}

/// Numbers that look random and are not (SplitMix64).
pub struct Seed(u64);

impl Seed {
    /// The sequence of that number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// From 0 to one less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}
