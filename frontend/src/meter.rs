//! Counts the work of inner loops in tests and fuzz targets, so that "linear" is a number and not a clock. Costs nothing otherwise.

#[cfg(any(test, feature = "fuzzing"))]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Says that `n` elementary steps (bytes, characters, cells) were done.
#[inline(always)]
pub fn tick(n: usize) {
    #[cfg(any(test, feature = "fuzzing"))]
    STEPS.with(|steps| steps.set(steps.get() + n as u64));
    #[cfg(not(any(test, feature = "fuzzing")))]
    let _ = n;
}

/// The steps that `work` takes on this thread.
#[cfg(any(test, feature = "fuzzing"))]
pub fn count(work: impl FnOnce()) -> u64 {
    let before = STEPS.with(std::cell::Cell::get);
    work();
    STEPS.with(std::cell::Cell::get) - before
}
