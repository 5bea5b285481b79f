//! Silence, until a step fails: then the end of its output.

use std::time::Duration;

use solver::seam::Event;

use super::Renderer;
use super::trace::Trace;

/// See the module's words.
#[derive(Default)]
pub struct Quiet {
    trace: Trace,
}

impl Quiet {
    /// A display that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Renderer for Quiet {
    fn event(&mut self, now: Duration, event: Event, _: &mut String) {
        self.trace.apply(now, event, |_, _, _| {});
        self.trace.take_notices();
    }

    fn finish(&mut self, _: Duration, out: &mut String) {
        self.trace.write_failures(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::script::{Step, play};

    #[test]
    fn only_a_failure_says_something() {
        let well = [Step::declare(0, 1, "x"), Step::log(1, 1, "out\n"), Step::done(2, 1)];
        assert_eq!(play(&mut Quiet::new(), &well), "");
        let badly = [Step::declare(0, 1, "[1/1] RUN x"), Step::log(1, 1, "out\n"), Step::fail(2, 1, "exit code: 1")];
        assert_eq!(play(&mut Quiet::new(), &badly), "------\n > [1/1] RUN x:\n0.000 out\n------\n");
    }
}
