//! Foreign text made safe to show.
//!
//! In come names, answers and logs that other people wrote; out comes text that moves no cursor, sets no title and
//! reorders no line. What would do so is shown as an escape (`\x1b`, `\u{202e}`) instead of being dropped, so that the
//! reader sees that it was there. Deliberately absent: colours of our own, which the renderers add afterwards.

use std::borrow::Cow;

/// One line: line breaks are escaped as well.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |c| drives(c) || c == '\n')
}

/// Several lines: line breaks stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, drives)
}

/// A value as JSON for programs, ended by a line break. What drives a terminal is written by number.
pub fn json(value: &impl serde::Serialize) -> String {
    numbered(&serde_json::to_string_pretty(value).expect("texts, numbers, lists and objects are JSON"))
}

/// The same in a single line.
pub fn json_line(value: &impl serde::Serialize) -> String {
    numbered(&serde_json::to_string(value).expect("texts, numbers, lists and objects are JSON"))
}

fn numbered(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if !drives(c) {
            out.push(c);
            continue;
        }
        // It stands inside a string: everything else that is written is ASCII.
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(out, "\\u{unit:04x}").expect("writing to a String cannot fail");
        }
    }
    out.push('\n');
    out
}

/// Whether a character changes how others are shown rather than being shown itself. Tabs and line feeds do not count.
pub fn drives(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Directional marks and overrides, and line separators: they reorder or break what follows.
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        // Tag characters and the zero-width no-break space: text that nobody sees.
        '\u{feff}' | '\u{e0000}'..='\u{e007f}' => true,
        other => other.is_control(),
    }
}

/// Appends `c` in its escaped form.
pub fn push(c: char, out: &mut String) {
    use std::fmt::Write as _;
    let code = u32::from(c);
    let written = match c {
        '\n' => write!(out, "\\n"),
        '\r' => write!(out, "\\r"),
        _ if code < 0x100 => write!(out, "\\x{code:02x}"),
        _ => write!(out, "\\u{{{code:x}}}"),
    };
    written.expect("writing to a String cannot fail");
}

/// How many bytes in front are printable ASCII, as nearly all are that steps print: looked at in words of eight, and
/// perhaps told too small by less than one.
pub fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks::<8>();
    let is_plain = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        // A borrow sets the highest bit of a byte that was too small; one that comes from beneath sets one too many.
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let deletes = (word ^ (ONES * 0x7f)).wrapping_sub(ONES) & !(word ^ (ONES * 0x7f));
        (word | controls | deletes) & HIGH == 0
    };
    match words.iter().position(|word| !is_plain(word)) {
        Some(word) => word * 8,
        None => bytes.len() - rest.len() + rest.iter().take_while(|byte| (0x20..0x7f).contains(*byte)).count(),
    }
}

fn escape(text: &str, wanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if plain_prefix(text.as_bytes()) == text.len() || !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if wanted(c) { push(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_would_drive_a_terminal_is_shown_instead() {
        let check = |text: &str, expected: &str| assert_eq!(super::line(text), expected, "{text:?}");
        check("plain, ünïcode, 表, tab\t", "plain, ünïcode, 表, tab\t");
        check("\x1b]0;title\x07", "\\x1b]0;title\\x07");
        check("a\nb\rc", "a\\nb\\rc");
        check("\u{9b}31m", "\\x9b31m");
        check("\u{202e}gpj.exe", "\\u{202e}gpj.exe");
        check("\u{e0041}", "\\u{e0041}");
        assert_eq!(super::lines("a\nb\x08"), "a\nb\\x08");
    }

    #[test]
    fn plain_is_what_no_byte_of_drives_a_terminal() {
        for byte in 0..=255_u8 {
            let plain = (0x20..0x7f).contains(&byte);
            for (before, after) in [(0, 0), (3, 0), (0, 4), (7, 0), (0, 7), (5, 30), (16, 8)] {
                let bytes = [vec![b'x'; before], vec![byte], vec![b' '; after]].concat();
                let found = super::plain_prefix(&bytes);
                if plain {
                    assert_eq!(found, bytes.len(), "{bytes:?}");
                } else {
                    assert!(found <= before && before - found < 8, "{bytes:?}: {found}");
                }
            }
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "a\u{9b}": "\x1b\u{202e}\u{e0041}\n\"ü表" });
        let text = super::json(&value);
        assert!(!text.contains(super::drives), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON"), value);
        assert!(text.ends_with("}\n"));
    }
}
