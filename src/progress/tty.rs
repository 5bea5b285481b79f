//! The display for a person at a terminal: redrawn in place, at most ten times a second.
//!
//! ```text
//! [+] Building 1.2s (5/9)
//!  => CACHED [build 2/4] COPY . .                    0.0s
//!  => [build 3/4] RUN make                           0.9s
//!  => => # cc -c main.c
//! ```
//! While it runs, a frame fits the terminal: the eldest ended vertices give way first. The last frame shows all of
//! them and stays. Every frame begins by moving the cursor to where the one before began.

use std::time::Duration;

use solver::seam::Event;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::Renderer;
use super::terminal::{self, Size};
use super::trace::{Change, State, Trace, Vertex};
use crate::amount;

/// Ten frames a second are as many as a person sees.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);

/// See the module's words.
pub struct Tty {
    trace: Trace,
    color: bool,
    log_lines: usize,
    size: Box<dyn Fn() -> Size + Send>,
    /// Lines of the frame on the screen.
    drawn: usize,
    /// When the frame on the screen was drawn.
    drawn_at: Option<Duration>,
    /// Lines for the user that stand above the frame.
    notices: Vec<String>,
}

impl Tty {
    /// A display that has shown nothing; `size` is asked before every frame.
    pub fn new(color: bool, log_lines: usize, size: Box<dyn Fn() -> Size + Send>) -> Self {
        Self { trace: Trace::default(), color, log_lines, size, drawn: 0, drawn_at: None, notices: Vec::new() }
    }

    fn draw(&mut self, now: Duration, last: bool, out: &mut String) {
        let size = (self.size)();
        if self.drawn_at.is_none() {
            terminal::hide_cursor(out);
        }
        if self.drawn > 0 {
            *out = std::mem::take(out) + "\x1b[" + &self.drawn.to_string() + "A";
        }
        out.push('\r');
        for notice in std::mem::take(&mut self.notices) {
            self.color_of(Tone::Warning).wrap(&format!("WARN: {notice}"), out);
            out.push_str("\x1b[K\n");
        }
        let frame = self.frame(now, last, size);
        for (tone, line) in &frame {
            self.color_of(*tone).wrap(line, out);
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        self.drawn = frame.len();
        self.drawn_at = Some(now);
    }

    /// Whether there is nothing to draw.
    fn is_empty(&self) -> bool {
        self.trace.vertices().is_empty() && self.notices.is_empty()
    }

    fn color_of(&self, tone: Tone) -> Paint {
        Paint(if self.color { tone.code() } else { None })
    }

    /// The lines of a frame, none wider than the terminal.
    fn frame(&self, now: Duration, last: bool, size: Size) -> Vec<(Tone, String)> {
        // A line as wide as the terminal moves the cursor to the next one on some terminals.
        let width = size.columns.saturating_sub(1).max(20);
        let vertices = self.trace.vertices();
        let ended = vertices.iter().filter(|vertex| vertex.state.ended()).count();
        let mut title = format!("[+] Building {} ({ended}/{})", amount::seconds(now), vertices.len());
        if last {
            title += if vertices.iter().all(|vertex| matches!(vertex.state, State::Done(_) | State::Cached)) {
                " FINISHED"
            } else {
                " STOPPED"
            };
        }
        let mut shown: Vec<&Vertex> = vertices.iter().filter(|vertex| vertex.number > 0).collect();
        shown.sort_by_key(|vertex| vertex.number);
        let mut blocks: Vec<Vec<(Tone, String)>> = Vec::new();
        for vertex in &shown {
            blocks.push(self.block(vertex, now, width));
        }
        if !last {
            make_room(&shown, &mut blocks, size.rows.saturating_sub(2).max(1));
        }
        std::iter::once((Tone::Title, fit(&title, width))).chain(blocks.into_iter().flatten()).collect()
    }

    /// The lines of one vertex: its own, and while it runs its transfers and the end of its output.
    fn block(&self, vertex: &Vertex, now: Duration, width: usize) -> Vec<(Tone, String)> {
        let (tone, word) = match vertex.state {
            State::Waiting | State::Running => (Tone::Running, ""),
            State::Done(_) => (Tone::Ended, ""),
            State::Cached => (Tone::Ended, "CACHED "),
            State::Canceled(_) => (Tone::Warning, "CANCELED "),
            State::Failed(..) => (Tone::Error, "ERROR "),
        };
        let time = amount::seconds(vertex.time(now));
        let name = fit(&format!(" => {word}{}", vertex.name), width.saturating_sub(time.width() + 1));
        let gap = width.saturating_sub(name.width() + time.width());
        let mut block = vec![(tone, format!("{name}{}{time}", " ".repeat(gap)))];
        if let Some(why) = &vertex.why {
            let runs = if vertex.state.ended() { "ran" } else { "runs" };
            block.push((Tone::Log, fit(&format!(" => => {runs} because {why}"), width)));
        }
        if vertex.state == State::Running {
            let transfers = vertex.transfers.iter().filter(|transfer| transfer.ended.is_none());
            block.extend(transfers.map(|each| (Tone::Running, fit(&format!(" => => {}", each.text(now)), width))));
            let tail = vertex.tail.iter().skip(vertex.tail.len().saturating_sub(self.log_lines));
            block.extend(tail.map(|line| (Tone::Log, fit(&format!(" => => # {line}"), width))));
        }
        block
    }
}

/// Takes away until `rows` lines are left: first the eldest ended vertices, then details of running ones, then running
/// ones from the front.
fn make_room(vertices: &[&Vertex], blocks: &mut [Vec<(Tone, String)>], rows: usize) {
    let mut surplus = blocks.iter().map(Vec::len).sum::<usize>().saturating_sub(rows);
    for (_, block) in vertices.iter().zip(blocks.iter_mut()).filter(|(vertex, _)| vertex.state.ended()) {
        if surplus == 0 {
            return;
        }
        surplus = surplus.saturating_sub(block.len());
        block.clear();
    }
    for keep in [1, 0] {
        for block in blocks.iter_mut() {
            let cut = surplus.min(block.len().saturating_sub(keep));
            block.truncate(block.len() - cut);
            surplus -= cut;
        }
    }
}

impl Renderer for Tty {
    fn event(&mut self, now: Duration, event: Event, _: &mut String) {
        let notices = &mut self.notices;
        self.trace.apply(now, event, |_, vertex, change| {
            if let Change::Notice(text) = change {
                notices.push(format!("{}: {text}", vertex.name));
            }
        });
        self.notices.extend(self.trace.take_notices());
    }

    fn tick(&mut self, now: Duration, out: &mut String) {
        self.trace.flush_old(now, Duration::from_secs(1), |_, _, _| {});
        let due = self.drawn_at.is_none_or(|at| now.saturating_sub(at) >= FRAME_INTERVAL);
        if due && !self.is_empty() {
            self.draw(now, false, out);
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(FRAME_INTERVAL)
    }

    fn finish(&mut self, now: Duration, out: &mut String) {
        if !self.is_empty() {
            self.draw(now, true, out);
        }
        self.trace.write_failures(out);
    }
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Title,
    Running,
    Ended,
    Log,
    Warning,
    Error,
}

impl Tone {
    /// ECMA-48 "SGR" numbers.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Title | Self::Running => None,
            Self::Ended => Some("34"),
            Self::Log => Some("2"),
            Self::Warning => Some("33"),
            Self::Error => Some("31"),
        }
    }
}

struct Paint(Option<&'static str>);

impl Paint {
    fn wrap(&self, text: &str, out: &mut String) {
        match self.0 {
            Some(code) => {
                for part in ["\x1b[", code, "m", text, "\x1b[0m"] {
                    out.push_str(part);
                }
            }
            None => out.push_str(text),
        }
    }
}

/// The beginning of a text, no wider than `width`; tabs count and are shown as one blank.
pub fn fit(text: &str, width: usize) -> String {
    let text = text.replace('\t', " ");
    if text.width() <= width {
        return text;
    }
    let mut used = 0;
    let mut out = String::new();
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used + 1 > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::script::{Step, play};

    /// The frames one below the other, with the codes that move the cursor made visible.
    fn check(size: Size, color: bool, steps: &[Step]) -> String {
        let mut tty = Tty::new(color, 2, Box::new(move || size));
        let text = play(&mut tty, steps).replace("\x1b[?25l", "<hide>").replace("\x1b[K\n", "\n");
        let text = text.replace("\x1b[J", "<end>\n").replace('\r', "").replace('\x1b', "<esc>");
        text.lines().map(|line| format!("{line}\n")).collect()
    }

    const SIZE: Size = Size { columns: 50, rows: 8 };

    #[test]
    fn frames_show_what_runs_and_the_last_one_shows_all() {
        let text = check(
            SIZE,
            false,
            &[
                Step::declare(0, 1, "[1/3] FROM docker.io/library/debian:12@sha256:0123456789"),
                Step::declare(0, 2, "[2/3] COPY . ."),
                Step::declare(0, 3, "[3/3] RUN make"),
                Step::start(10, 1),
                Step::transfer(20, 1, "sha256:12ab", 1_200_000, 3_400_000, false),
                Step::tick(120),
                Step::done(200, 1),
                Step::cached(200, 2),
                Step::start(200, 3),
                Step::log(210, 3, "one\ntwo\nthree\tis a line that is much longer than the terminal is wide\n"),
                Step::tick(1200),
                Step::done(1210, 3),
            ],
        );
        insta::assert_snapshot!(text, @"
        <hide>[+] Building 0.0s (0/1)
        <end>
        <esc>[1A[+] Building 0.1s (0/3)
         => [1/3] FROM docker.io/library/debian:12@… 0.1s
         => => sha256:12ab 1.20MB / 3.40MB 0.1s
        <end>
        <esc>[3A[+] Building 1.2s (2/3)
         => [1/3] FROM docker.io/library/debian:12@… 0.2s
         => CACHED [2/3] COPY . .                    0.0s
         => [3/3] RUN make                           1.0s
         => => # 0.010 two
         => => # 0.010 three is a line that is much long…
        <end>
        <esc>[6A[+] Building 1.2s (3/3) FINISHED
         => [1/3] FROM docker.io/library/debian:12@… 0.2s
         => CACHED [2/3] COPY . .                    0.0s
         => [3/3] RUN make                           1.0s
        <end>
        ");
    }

    #[test]
    fn frames_fit_the_terminal_and_the_last_one_need_not() {
        let mut steps: Vec<Step> = (1..=9).map(|i| Step::declare(0, i, &format!("step {i}"))).collect();
        steps.extend((1..=6).map(|i| Step::cached(0, i)));
        steps.extend((7..=9).map(|i| Step::start(0, i)));
        steps.extend((7..=9).map(|i| Step::log(0, i, "one\ntwo\nthree\n")));
        steps.push(Step::tick(500));
        steps.extend([Step::fail(600, 9, "exit code: 1"), Step::cancel(600, 7), Step::cancel(600, 8)]);
        insta::assert_snapshot!(check(SIZE, false, &steps), @"
        <hide>[+] Building 0.0s (0/1)
        <end>
        <esc>[1A[+] Building 0.5s (6/9)
         => step 7                                   0.5s
         => step 8                                   0.5s
         => => # 0.000 two
         => step 9                                   0.5s
         => => # 0.000 two
         => => # 0.000 three
        <end>
        <esc>[7A[+] Building 0.6s (7/9)
         => step 7                                   0.6s
         => => # 0.000 two
         => => # 0.000 three
         => step 8                                   0.6s
         => => # 0.000 two
         => => # 0.000 three
        <end>
        <esc>[7A[+] Building 0.6s (9/9) STOPPED
         => CACHED step 1                            0.0s
         => CACHED step 2                            0.0s
         => CACHED step 3                            0.0s
         => CACHED step 4                            0.0s
         => CACHED step 5                            0.0s
         => CACHED step 6                            0.0s
         => CANCELED step 7                          0.6s
         => CANCELED step 8                          0.6s
         => ERROR step 9                             0.6s
        <end>
        ------
         > step 9:
        0.000 one
        0.000 two
        0.000 three
        ------
        ");
    }

    #[test]
    fn frames_are_drawn_at_most_ten_times_a_second() {
        let mut steps = vec![Step::declare(0, 1, "x"), Step::start(0, 1)];
        steps.extend((0..1000).map(|at| Step::log(at, 1, "line\n")));
        let frames = check(SIZE, false, &steps).matches("[+] Building").count();
        assert!((10..=11).contains(&frames), "{frames} frames in a second");
    }

    #[test]
    fn the_reason_stands_beneath_its_step_while_it_runs_and_after() {
        let steps = [
            Step::declare(0, 1, "[1/2] COPY a ."),
            Step::declare(0, 2, "[2/2] RUN make"),
            Step::cached(0, 1),
            Step::start(0, 2),
            Step::why(10, 2, "RUN: the command\x1b changed, and this is longer than the line"),
            Step::log(110, 2, "cc\n"),
            Step::tick(200),
            Step::done(1200, 2),
        ];
        insta::assert_snapshot!(check(SIZE, false, &steps), @"
        <hide>[+] Building 0.0s (0/1)
        <end>
        <esc>[1A[+] Building 0.1s (1/2)
         => CACHED [1/2] COPY a .                    0.0s
         => [2/2] RUN make                           0.1s
         => => runs because RUN: the command\\x1b changed…
         => => # 0.110 cc
        <end>
        <esc>[5A[+] Building 1.2s (2/2)
         => CACHED [1/2] COPY a .                    0.0s
         => [2/2] RUN make                           1.2s
         => => ran because RUN: the command\\x1b changed,…
        <end>
        <esc>[4A[+] Building 1.2s (2/2) FINISHED
         => CACHED [1/2] COPY a .                    0.0s
         => [2/2] RUN make                           1.2s
         => => ran because RUN: the command\\x1b changed,…
        <end>
        ");
    }

    #[test]
    fn colours_come_only_when_asked() {
        let steps = [Step::declare(0, 1, "x"), Step::cached(0, 1), Step::notice(0, 7, "careful")];
        let plain = check(SIZE, false, &steps);
        assert!(!plain.contains('m'), "{plain}");
        assert!(check(SIZE, true, &steps).contains("<esc>[34m => CACHED x"));
    }

    #[test]
    fn text_is_cut_by_its_width() {
        let check = |text: &str, width: usize, expected: &str| {
            assert_eq!(fit(text, width), expected, "{text}");
            assert!(fit(text, width).width() <= width, "{text}");
        };
        check("abc", 3, "abc");
        check("abcd", 3, "ab…");
        check("表表表", 6, "表表表");
        check("表表表", 5, "表表…");
        check("表表表", 4, "表…");
        check("a\tb", 3, "a b");
    }
}
