//! Time on the clock: the least and the median of many runs.
//!
//! In: cases. Out: a table. It asserts nothing: clocks of shared machines lie.

use std::time::{Duration, Instant};

use crate::cases::{Case, Scratch, Unit};

/// A case runs at least so often, and so long.
const RUNS_MIN: usize = 10;
const TIME_MIN: Duration = Duration::from_millis(500);

/// Measures and prints.
pub fn measure<'a>(cases: impl Iterator<Item = &'a Case>) {
    println!("{:<24} {:>12} {:>12} {:>16} {:>6}", "", "minimum", "median", "per unit", "runs");
    for case in cases {
        let scratch = Scratch::default();
        let mut work = (case.prepare)(&scratch);
        // What is done once per process is not what is measured.
        work();
        let (mut times, begun) = (Vec::new(), Instant::now());
        while times.len() < RUNS_MIN || begun.elapsed() < TIME_MIN {
            let begun = Instant::now();
            work();
            times.push(begun.elapsed());
        }
        times.sort();
        let (least, median) = (times[0], times[times.len() / 2]);
        let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
        println!(
            "{:<24} {:>12} {:>12} {:>16} {:>6}",
            case.name,
            ms(least),
            ms(median),
            per(case.unit, least),
            times.len()
        );
    }
}

fn per(unit: Unit, time: Duration) -> String {
    match unit {
        Unit::Bytes(bytes) => format!("{:.0} MB/s", bytes as f64 / 1e6 / time.as_secs_f64()),
        Unit::Items(count, name) => format!("{:.2} µs/{name}", time.as_secs_f64() * 1e6 / count as f64),
    }
}
