//! The display that people search with grep, in the grammar of BuildKit's printer.
//!
//! ```text
//! #5 [build 2/4] RUN make      a vertex begins, or is taken up again
//! #5 0.123 cc -c main.c        its output, after the seconds since it began
//! #5 sha256:12ab 1.20MB / 3.40MB 0.5s done
//! #5 WARN: …                   a line for the user
//! #5 runs because …            why its result was not known; of the first such vertex only
//! #5 ...                       another vertex is shown next
//! #5 DONE 1.2s                 or CACHED, CANCELED, ERROR: …
//! #0 WARN: …                   a line for the user about no vertex that runs
//! ```
//! Numbers follow the order in which vertices start. Of several that run at once one holds the display until it ends,
//! or until another has waited for [`TURN`]; what the others print meanwhile is kept, nothing is clipped.

use std::collections::VecDeque;
use std::time::Duration;

use solver::seam::Event;

use super::Renderer;
use super::trace::{Change, State, Trace, Vertex};
use crate::amount;

/// How long output waits while another vertex holds the display.
const TURN: Duration = Duration::from_secs(5);
/// An unfinished line is shown after this time.
const PARTIAL_LINE_WAIT: Duration = Duration::from_secs(2);
/// More output than this does not wait: it would fill the memory.
const WAITING_MAX_BYTES: usize = 1024 * 1024;
/// A transfer is shown again after this time …
const TRANSFER_INTERVAL: Duration = Duration::from_secs(5);
/// … or after so many percent.
const TRANSFER_PERCENT: u64 = 5;

/// See the module's words.
#[derive(Default)]
pub struct Plain {
    trace: Trace,
    /// What is not shown yet, by the index of the vertex.
    waiting: Vec<Waiting>,
    /// The vertex that holds the display.
    current: Option<usize>,
    /// Whether anything was shown.
    begun: bool,
}

#[derive(Default)]
struct Waiting {
    /// Lines without the number in front.
    lines: VecDeque<String>,
    /// How long they are together.
    bytes: usize,
    /// When the first of them came.
    since: Duration,
    /// Whether the vertex has ended and that is not shown yet.
    ended: bool,
    /// What of each transfer was shown last.
    transfers: Vec<Option<(Duration, u64)>>,
}

impl Plain {
    /// A display that has shown nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn print(&mut self, now: Duration, out: &mut String) {
        if let Some(current) = self.current {
            self.show(current, out);
        }
        // What has ended is shown at once, whoever holds the display.
        for index in 0..self.waiting.len() {
            if self.waiting[index].ended {
                self.show(index, out);
            }
        }
        let eldest = self.waiting.iter().enumerate().filter(|(_, waiting)| !waiting.lines.is_empty());
        let eldest = eldest.min_by_key(|(index, waiting)| (waiting.since, self.trace.vertices()[*index].number));
        if let Some((index, waiting)) = eldest
            && (self.current.is_none() || now.saturating_sub(waiting.since) >= TURN)
        {
            self.show(index, out);
        }
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.bytes > WAITING_MAX_BYTES) {
            self.show(index, out);
        }
    }

    /// Shows what waits of one vertex, which then holds the display unless it has ended.
    fn show(&mut self, index: usize, out: &mut String) {
        if self.waiting[index].lines.is_empty() && !self.waiting[index].ended {
            return;
        }
        if self.current != Some(index) {
            self.release(out);
            self.separate(out);
            line(out, self.trace.vertices()[index].number, &self.trace.vertices()[index].name);
        }
        let vertex = &self.trace.vertices()[index];
        let number = vertex.number;
        let waiting = &mut self.waiting[index];
        waiting.bytes = 0;
        for text in waiting.lines.drain(..).filter(|text| !text.is_empty()) {
            line(out, number, &text);
        }
        self.current = Some(index);
        if std::mem::take(&mut waiting.ended) {
            line(out, number, &end(vertex));
            self.current = None;
        }
    }

    /// Takes the display from the vertex that holds it.
    fn release(&mut self, out: &mut String) {
        if let Some(old) = self.current.take() {
            line(out, self.trace.vertices()[old].number, "...");
        }
    }

    /// A blank line between two blocks.
    fn separate(&mut self, out: &mut String) {
        if std::mem::replace(&mut self.begun, true) {
            out.push('\n');
        }
    }
}

impl Renderer for Plain {
    fn event(&mut self, now: Duration, event: Event, out: &mut String) {
        let waiting = &mut self.waiting;
        let mut late = None;
        self.trace.apply(now, event, |index, vertex, change| match change {
            Change::Why if vertex.state.ended() => late = Some(index),
            change => note(waiting, now, index, vertex, change),
        });
        if let Some(index) = late {
            self.show(index, out);
            self.release(out);
            self.separate(out);
            let vertex = &self.trace.vertices()[index];
            line(out, vertex.number, &format!("ran because {}", vertex.why.as_deref().unwrap_or_default()));
        }
        for notice in self.trace.take_notices() {
            self.release(out);
            self.separate(out);
            line(out, 0, &format!("WARN: {notice}"));
        }
        self.print(now, out);
    }

    fn tick(&mut self, now: Duration, out: &mut String) {
        let waiting = &mut self.waiting;
        self.trace.flush_old(now, PARTIAL_LINE_WAIT, |index, vertex, change| note(waiting, now, index, vertex, change));
        self.print(now, out);
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(500))
    }

    fn finish(&mut self, now: Duration, out: &mut String) {
        let waiting = &mut self.waiting;
        let change = |index, vertex: &Vertex, change| note(waiting, now, index, vertex, change);
        self.trace.flush_old(now, Duration::ZERO, change);
        self.print(now, out);
        for index in 0..self.waiting.len() {
            self.show(index, out);
        }
        self.trace.write_failures(out);
    }
}

/// Keeps a change until it is shown.
fn note(all: &mut Vec<Waiting>, now: Duration, index: usize, vertex: &Vertex, change: Change) {
    if all.len() <= index {
        all.resize_with(index + 1, Waiting::default);
    }
    let waiting = &mut all[index];
    let before = waiting.lines.len();
    if before == 0 {
        waiting.since = now;
    }
    match change {
        // An empty line stands for the heading alone.
        Change::Started => {
            waiting.lines.push_back(String::new());
            waiting.transfers.clear();
        }
        Change::Line(at, text) => waiting.lines.push_back(format!("{} {text}", amount::log_time(at))),
        Change::Notice(text) => waiting.lines.push_back(format!("WARN: {text}")),
        Change::Why => {
            let why = vertex.why.as_deref().unwrap_or_default();
            waiting.lines.push_back(format!("runs because {why}"));
        }
        Change::Transfer(transfer) => {
            let slot = &vertex.transfers[transfer];
            if waiting.transfers.len() <= transfer {
                waiting.transfers.resize(transfer + 1, None);
            }
            let shown = &mut waiting.transfers[transfer];
            let worth = slot.ended.is_some()
                || shown.is_none_or(|(at, bytes)| {
                    let more = slot.current_bytes.saturating_sub(bytes);
                    let much = slot.total_bytes.is_some_and(|total| {
                        u128::from(more) * 100 >= u128::from(total) * u128::from(TRANSFER_PERCENT)
                    });
                    much || now.saturating_sub(at) >= TRANSFER_INTERVAL
                });
            if worth {
                *shown = Some((now, slot.current_bytes));
                waiting.lines.push_back(slot.text(now));
            }
        }
        Change::Ended => waiting.ended = true,
    }
    let added = waiting.lines.iter().skip(before).map(String::len).sum::<usize>();
    waiting.bytes += added;
}

fn end(vertex: &Vertex) -> String {
    match &vertex.state {
        State::Cached => "CACHED".into(),
        State::Canceled(_) => "CANCELED".into(),
        State::Failed(_, error) => format!("ERROR: {error}"),
        State::Done(end) => format!("DONE {}", amount::seconds(end.saturating_sub(vertex.started))),
        State::Waiting | State::Running => "...".into(),
    }
}

fn line(out: &mut String, number: usize, text: &str) {
    use std::fmt::Write as _;
    writeln!(out, "#{number} {text}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use solver::graph::VertexId;
    use solver::seam::Stream;

    use super::*;
    use crate::progress::script::{self, Step};

    fn check(steps: &[Step]) -> String {
        script::play(&mut Plain::new(), steps)
    }

    #[test]
    fn steps_one_after_the_other() {
        let text = check(&[
            Step::declare(0, 1, "[internal] load build definition from Dockerfile"),
            Step::declare(0, 2, "[1/3] FROM debian:12"),
            Step::declare(0, 3, "[2/3] COPY . ."),
            Step::declare(0, 4, "[3/3] RUN make"),
            Step::start(0, 1),
            Step::done(20, 1),
            Step::start(20, 2),
            Step::transfer(30, 2, "sha256:12ab", 0, 3_400_000, false),
            Step::transfer(40, 2, "sha256:12ab", 10_000, 3_400_000, false),
            Step::transfer(530, 2, "sha256:12ab", 1_200_000, 3_400_000, false),
            Step::transfer(1030, 2, "sha256:12ab", 3_400_000, 3_400_000, true),
            Step::done(1100, 2),
            Step::cached(1100, 3),
            Step::start(1100, 4),
            Step::log(1223, 4, "cc -c main.c\ncc -c "),
            Step::log(1300, 4, "other.c\n"),
            Step::done(2300, 4),
        ]);
        insta::assert_snapshot!(text, @"
        #1 [internal] load build definition from Dockerfile
        #1 DONE 0.0s

        #2 [1/3] FROM debian:12
        #2 sha256:12ab 0B / 3.40MB
        #2 sha256:12ab 1.20MB / 3.40MB 0.5s
        #2 sha256:12ab 3.40MB / 3.40MB 1.0s done
        #2 DONE 1.1s

        #3 [2/3] COPY . .
        #3 CACHED

        #4 [3/3] RUN make
        #4 0.123 cc -c main.c
        #4 0.123 cc -c other.c
        #4 DONE 1.2s
        ");
    }

    #[test]
    fn a_cached_step_that_runs_after_all_is_shown_again() {
        let text = check(&[
            Step::declare(0, 1, "[1/1] RUN make"),
            Step::cached(0, 1),
            Step::log(5, 1, "not heard\n"),
            Step::start(10, 1),
            Step::log(20, 1, "cc\n"),
            Step::done(110, 1),
        ]);
        insta::assert_snapshot!(text, @"
        #1 [1/1] RUN make
        #1 CACHED

        #1 [1/1] RUN make
        #1 0.010 cc
        #1 DONE 0.1s
        ");
    }

    #[test]
    fn concurrent_steps_take_turns_and_lose_nothing() {
        let text = check(&[
            Step::declare(0, 1, "[a 1/1] RUN a"),
            Step::declare(0, 2, "[b 1/1] RUN b"),
            Step::start(0, 1),
            Step::start(1, 2),
            Step::log(100, 1, "a one\n"),
            Step::log(200, 2, "b one\n"),
            Step::log(300, 1, "a two\n"),
            Step::log(4000, 2, "b two\n"),
            Step::tick(5100),
            Step::log(5200, 1, "a three\n"),
            Step::log(5300, 2, "b three\n"),
            Step::done(5400, 1),
            Step::log(5500, 2, "b four"),
            Step::done(5600, 2),
        ]);
        insta::assert_snapshot!(text, @"
        #1 [a 1/1] RUN a
        #1 0.100 a one
        #1 0.300 a two
        #1 ...

        #2 [b 1/1] RUN b
        #2 0.199 b one
        #2 3.999 b two
        #2 5.299 b three
        #2 ...

        #1 [a 1/1] RUN a
        #1 5.200 a three
        #1 DONE 5.4s

        #2 [b 1/1] RUN b
        #2 5.499 b four
        #2 DONE 5.6s
        ");
    }

    #[test]
    fn a_failure_repeats_the_end_of_its_output() {
        let mut steps = vec![
            Step::declare(0, 1, "[1/2] RUN sleep"),
            Step::declare(0, 2, "[2/2] RUN make"),
            Step::declare(0, 3, "exporting to image"),
            Step::start(0, 1),
            Step::start(0, 2),
        ];
        steps.extend((1..=12).map(|i| Step::log(i * 100, 2, &format!("line {i}\n"))));
        steps.extend([Step::log(1300, 2, "no rule"), Step::fail(1400, 2, "exit code: 2"), Step::cancel(1500, 1)]);
        steps.push(Step::cancel(1500, 3));
        insta::assert_snapshot!(check(&steps), @"
        #1 [1/2] RUN sleep
        #1 ...

        #2 [2/2] RUN make
        #2 0.100 line 1
        #2 0.200 line 2
        #2 0.300 line 3
        #2 0.400 line 4
        #2 0.500 line 5
        #2 0.600 line 6
        #2 0.700 line 7
        #2 0.800 line 8
        #2 0.900 line 9
        #2 1.000 line 10
        #2 1.100 line 11
        #2 1.200 line 12
        #2 1.300 no rule
        #2 ERROR: exit code: 2

        #1 [1/2] RUN sleep
        #1 CANCELED
        ------
         > [2/2] RUN make:
        0.400 line 4
        0.500 line 5
        0.600 line 6
        0.700 line 7
        0.800 line 8
        0.900 line 9
        1.000 line 10
        1.100 line 11
        1.200 line 12
        1.300 no rule
        ------
        ");
    }

    #[test]
    fn lines_for_the_user_are_shown_wherever_they_belong() {
        let text = check(&[
            Step::notice(0, 9, "the index was rebuilt"),
            Step::declare(1, 1, "[1/1] RUN x"),
            Step::notice(2, 1, "not yet running"),
            Step::start(3, 1),
            Step::notice(4, 1, "running"),
            Step::notice(5, 9, "about nothing"),
            Step::log(6, 1, "x\n"),
            Step::done(7, 1),
        ]);
        insta::assert_snapshot!(text, @"
        #0 WARN: the index was rebuilt

        #0 WARN: not yet running

        #1 [1/1] RUN x
        #1 WARN: running
        #1 ...

        #0 WARN: about nothing

        #1 [1/1] RUN x
        #1 0.003 x
        #1 DONE 0.0s
        ");
    }

    #[test]
    fn why_a_step_runs_is_told_while_it_runs_or_after_it() {
        let steps = |at| {
            let mut steps = vec![
                Step::declare(1, 1, "[1/2] COPY a /"),
                Step::declare(1, 2, "[2/2] RUN x"),
                Step::start(2, 1),
                Step::done(20, 1),
                Step::start(20, 2),
                Step::log(30, 2, "x\n"),
                Step::done(40, 2),
            ];
            steps.insert(at, Step::why(5 * at as u64, 1, "COPY a: content\x1b changed"));
            check(&steps)
        };
        insta::assert_snapshot!(steps(3), @r"
        #1 [1/2] COPY a /
        #1 runs because COPY a: content\x1b changed
        #1 DONE 0.0s

        #2 [2/2] RUN x
        #2 0.010 x
        #2 DONE 0.0s
        ");
        insta::assert_snapshot!(steps(5), @r"
        #1 [1/2] COPY a /
        #1 DONE 0.0s

        #2 [2/2] RUN x
        #2 ...

        #1 ran because COPY a: content\x1b changed

        #2 [2/2] RUN x
        #2 0.010 x
        #2 DONE 0.0s
        ");
    }

    #[test]
    fn an_unfinished_line_is_shown_after_a_while() {
        let text = check(&[
            Step::declare(0, 1, "[1/1] RUN ask"),
            Step::start(0, 1),
            Step::log(100, 1, "continue? [y/n]"),
            Step::tick(1000),
            Step::tick(2200),
            Step::log(9000, 1, "y\n"),
        ]);
        insta::assert_snapshot!(text, @"
        #1 [1/1] RUN ask
        #1 0.100 continue? [y/n]
        #1 9.000 y
        ");
    }

    #[test]
    fn output_cannot_pretend_to_be_another_step() {
        let text = check(&[
            Step::declare(0, 1, "[1/1] RUN evil\n#2 [x]"),
            Step::start(0, 1),
            Step::log(0, 1, "x\n#2 DONE 0.0s\r#3 CACHED\x1b[2K\n"),
            Step::fail(1, 1, "it\n#4 DONE"),
        ]);
        let forged = |line: &str| ["#2 ", "#3 ", "#4 "].iter().any(|number| line.starts_with(number));
        assert!(!text.lines().any(forged), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn much_waiting_output_does_not_fill_the_memory() {
        let mut plain = Plain::new();
        let mut out = String::new();
        let [one, two] = ["1", "2"].map(VertexId::of_name);
        for vertex in [one, two] {
            plain.event(Duration::ZERO, Event::Started(vertex), &mut out);
        }
        let bytes = vec![b'\n'; 1000].into_iter().flat_map(|end| [b"0123456789".as_slice(), &[end]].concat()).collect();
        let log = Event::Log { vertex: two, stream: Stream::Stdout, bytes };
        for _ in 0..200 {
            plain.event(Duration::ZERO, log.clone(), &mut out);
        }
        assert!(plain.waiting.iter().all(|waiting| waiting.bytes <= WAITING_MAX_BYTES));
        assert!(out.len() > WAITING_MAX_BYTES);
    }
}
