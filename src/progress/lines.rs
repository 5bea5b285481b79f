//! The output of a process, cut into lines that are safe to show.
//!
//! A line ends at a line feed, and at a carriage return too: what a progress bar overwrites is shown line by line,
//! because it was printed. Colours are removed, anything else that drives a terminal is escaped. Bytes that are no
//! UTF-8 are shown as `\xff`.

use std::borrow::Cow;

use crate::escape;

/// A line this long is cut into several: a step that prints no line break must not fill the memory.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// Cuts one stream of one process. Time is the caller's.
#[derive(Debug, Default)]
pub struct Lines<T> {
    partial: Vec<u8>,
    /// When the first byte of `partial` came.
    since: Option<T>,
}

impl<T: Copy> Lines<T> {
    /// Takes bytes and calls `line` for every line that they end, with the time of its first byte.
    pub fn push(&mut self, now: T, bytes: &[u8], mut line: impl FnMut(T, String)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_MAX_BYTES - self.partial.len();
            let window = &rest[..rest.len().min(room)];
            let plain = escape::plain_prefix(window);
            let end = window[plain..].iter().position(|byte| matches!(byte, b'\n' | b'\r')).map(|at| plain + at);
            let since = *self.since.get_or_insert(now);
            let Some(end) = end else {
                self.partial.extend_from_slice(window);
                rest = &rest[window.len()..];
                if self.partial.len() >= LINE_MAX_BYTES {
                    self.cut(&mut line);
                }
                continue;
            };
            let carriage_return = window[end] == b'\r';
            self.partial.extend_from_slice(&window[..end]);
            rest = &rest[end + 1..];
            // `\r\n` ends one line, not two; and a bare `\r` at the start of a line ends nothing.
            if carriage_return && self.partial.is_empty() {
                self.since = None;
                continue;
            }
            if carriage_return {
                match rest.first() {
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                    // The line feed may come with the next bytes; until then the line stays open.
                    None => {
                        self.partial.push(b'\r');
                        continue;
                    }
                }
            }
            self.emit(since, &mut line);
        }
    }

    /// When the first byte of the unfinished line came, if there is one.
    pub fn open_since(&self) -> Option<T> {
        self.since.filter(|_| !self.partial.is_empty())
    }

    /// Ends the unfinished line, if there is one.
    pub fn flush(&mut self, mut line: impl FnMut(T, String)) {
        if let Some(since) = self.open_since() {
            self.emit(since, &mut line);
        }
    }

    fn emit(&mut self, since: T, line: &mut impl FnMut(T, String)) {
        let bytes = std::mem::take(&mut self.partial);
        self.since = None;
        line(since, visible(bytes.strip_suffix(b"\r").unwrap_or(&bytes)));
    }

    /// Ends a line that is too long, before a character that is not complete yet.
    fn cut(&mut self, line: &mut impl FnMut(T, String)) {
        let keep = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => self.partial.split_off(error.valid_up_to()),
            _ => Vec::new(),
        };
        let since = self.since;
        if let Some(since) = since {
            self.emit(since, line);
        }
        self.since = since.filter(|_| !keep.is_empty());
        self.partial = keep;
    }
}

/// One line of output as it is shown.
fn visible(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    match escape::line(&without_colors(&text)) {
        Cow::Borrowed(clean) if clean.len() == text.len() => text,
        clean => clean.into_owned(),
    }
}

/// Removes `ESC [ numbers m` (ECMA-48, "SGR"). Colours can hide text, and what they mean is lost between two steps.
fn without_colors(text: &str) -> Cow<'_, str> {
    if !text.contains('\x1b') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        let parameters = &rest[at + 2..];
        let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':').unwrap_or(parameters.len());
        out.push_str(&rest[..at]);
        if parameters[end..].starts_with('m') {
            rest = &parameters[end + 1..];
        } else {
            out.push_str("\x1b[");
            rest = parameters;
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], expected: &[&str]) {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            lines.push(i, piece, |_, line| seen.push(line));
        }
        lines.flush(|_, line| seen.push(line));
        assert_eq!(seen, expected, "{pieces:?}");
    }

    #[test]
    fn output_becomes_lines() {
        check(&[b"a\nb\n"], &["a", "b"]);
        check(&[b"a", b"b\n", b"c"], &["ab", "c"]);
        check(&[b"a\n\nb\n"], &["a", "", "b"]);
        check(&[b"a\r\nb\r", b"\nc\r\n"], &["a", "b", "c"]);
        check(&[b"10%\r20%\r\r30%\n"], &["10%", "20%", "30%"]);
        check(&[b"\rx\n"], &["x"]);
        check(&["ü".as_bytes().split_at(1).0, "ü".as_bytes().split_at(1).1], &["ü"]);
        check(&[b"bad \xff byte\n"], &["bad \\xff byte"]);
        check(&[b"\x1b[1;32mgreen\x1b[0m \x1b[2J\x1b]0;t\x07\n"], &["green \\x1b[2J\\x1b]0;t\\x07"]);
    }

    #[test]
    fn endless_lines_are_cut_without_losing_a_byte() {
        let text = "ü".repeat(LINE_MAX_BYTES);
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in format!("x{text}").as_bytes().chunks(1000) {
            lines.push(0, piece, |_, line| seen.push(line));
        }
        lines.flush(|_, line| seen.push(line));
        assert_eq!(seen.concat(), format!("x{text}"));
        assert!(seen.iter().all(|line| line.len() <= LINE_MAX_BYTES));
    }

    #[test]
    fn a_line_has_the_time_of_its_first_byte() {
        let mut lines = Lines::default();
        let mut times = Vec::new();
        lines.push(1, b"a", |at, _| times.push(at));
        assert_eq!(lines.open_since(), Some(1));
        lines.push(2, b"b\nc\nd", |at, _| times.push(at));
        lines.push(3, b"\n", |at, _| times.push(at));
        assert_eq!(times, [1, 2, 2]);
        assert_eq!(lines.open_since(), None);
    }
}
