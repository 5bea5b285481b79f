//! How many steps may run at once while memory is short.
//!
//! In: the number that was asked for, and once a second how memory stands. Out: the number for now, in a channel that
//! the solver watches. Steps that run go on; lowering only lets fewer begin. Deliberately absent: which steps take the
//! memory. [`memory`] reads how it stands.

mod memory;

use std::sync::Arc;
use std::time::Duration;

use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use tokio::sync::watch;

use self::memory::{Meter, Reading};

/// How often memory is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// The kernel's averages are over ten seconds: what a change has brought shows only after some.
const LOWER_AGAIN_AFTER: u32 = 5;
const RAISE_AGAIN_AFTER: u32 = 2;
/// Something waited for memory in so much of the last ten seconds.
const STALLED_PERCENT: f64 = 20.0;
const EASY_PERCENT: f64 = 5.0;
/// So much of the memory can still be had.
const SHORT_PERCENT: u64 = 5;
const AMPLE_PERCENT: u64 = 15;

/// The number of steps at once: `jobs` while there is memory, fewer while it is short. Watched until the receiver is
/// dropped; where nothing can be read it stays as it is.
pub(super) fn places(jobs: usize, progress: Arc<dyn Progress>) -> watch::Receiver<usize> {
    let (sender, receiver) = watch::channel(jobs);
    let Some(meter) = Meter::of_this_process() else {
        tracing::debug!("nothing says how memory stands: the number of steps at once does not change");
        return receiver;
    };
    tokio::spawn(async move {
        let mut governor = Governor::new(jobs);
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let before = governor.places;
            let places = governor.next(&meter.read());
            if places != before {
                tracing::debug!(places, "steps at once");
                // The receiver is there: this is where it was seen to be gone.
                sender.send_replace(places);
            }
            if places < before && before == jobs {
                let text = format!("memory is short: {places} RUN steps at once instead of {jobs}, until it is not");
                progress.event(Event::Notice { vertex: VertexId::of_name("memory"), text });
            }
        }
    });
    receiver
}

/// Decides how many steps may run, reading by reading.
#[derive(Debug)]
struct Governor {
    most: usize,
    places: usize,
    /// Readings since the last change.
    quiet: u32,
}

impl Governor {
    fn new(jobs: usize) -> Self {
        Self { most: jobs.max(1), places: jobs.max(1), quiet: u32::MAX }
    }

    /// Half as many when memory is short, one more when it is ample, never fewer than one.
    fn next(&mut self, reading: &Reading) -> usize {
        self.quiet = self.quiet.saturating_add(1);
        let places = match reading.verdict() {
            Verdict::Short if self.quiet >= LOWER_AGAIN_AFTER => (self.places / 2).max(1),
            Verdict::Ample if self.quiet >= RAISE_AGAIN_AFTER => (self.places + 1).min(self.most),
            _ => self.places,
        };
        if places != self.places {
            self.places = places;
            self.quiet = 0;
        }
        places
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Short,
    /// Neither: nothing changes.
    Fair,
    Ample,
}

impl Reading {
    fn verdict(&self) -> Verdict {
        let stalled = self.stalled_percent.unwrap_or(0.0);
        let free = self.free.map_or(100, |free| free.percent());
        if stalled >= STALLED_PERCENT || free < SHORT_PERCENT {
            Verdict::Short
        } else if stalled < EASY_PERCENT && free >= AMPLE_PERCENT {
            Verdict::Ample
        } else {
            Verdict::Fair
        }
    }
}

#[cfg(test)]
mod tests {
    use super::memory::Free;
    use super::*;

    fn reading(stalled_percent: impl Into<Option<f64>>, free: impl Into<Option<u64>>) -> Reading {
        let free = free.into().map(|available| Free { available, total: 100 });
        Reading { stalled_percent: stalled_percent.into(), free }
    }

    #[test]
    fn memory_is_short_when_anything_says_so_and_ample_when_everything_does() {
        let cases = [
            (reading(0.0, None), Verdict::Ample),
            (reading(4.9, None), Verdict::Ample),
            (reading(5.0, None), Verdict::Fair),
            (reading(19.9, None), Verdict::Fair),
            (reading(20.0, None), Verdict::Short),
            (reading(None, 4), Verdict::Short),
            (reading(None, 5), Verdict::Fair),
            (reading(None, 15), Verdict::Ample),
            (reading(0.0, 4), Verdict::Short),
            (reading(0.0, 10), Verdict::Fair),
            (reading(90.0, 90), Verdict::Short),
            (reading(None, None), Verdict::Ample),
        ];
        for (reading, verdict) in cases {
            assert_eq!(reading.verdict(), verdict, "{reading:?}");
        }
    }

    /// What each of these seconds gives: `!` memory is short, `-` it is fair, `+` it is ample.
    fn course(jobs: usize, seconds: &str) -> Vec<usize> {
        let mut governor = Governor::new(jobs);
        let each = seconds.chars().map(|second| match second {
            '!' => governor.next(&reading(50.0, None)),
            '-' => governor.next(&reading(10.0, None)),
            _ => governor.next(&reading(0.0, None)),
        });
        each.collect()
    }

    #[test]
    fn places_are_halved_while_memory_is_short_and_come_back_one_by_one() {
        let cases: [(usize, &str, &[usize]); 6] = [
            (16, "+++", &[16, 16, 16]),
            (16, "!!!!!!", &[8, 8, 8, 8, 8, 4]),
            (16, "!-----", &[8, 8, 8, 8, 8, 8]),
            (4, "!++++++++", &[2, 2, 3, 3, 4, 4, 4, 4, 4]),
            (3, "!!!!!!!!!!!", &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            (0, "+!", &[1, 1]),
        ];
        for (jobs, seconds, expected) in cases {
            assert_eq!(course(jobs, seconds), expected, "{jobs} {seconds}");
        }
    }
}
