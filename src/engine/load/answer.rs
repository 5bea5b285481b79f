//! What an engine says while it takes an image: a JSON text per line, one of which may be an error.
//!
//! In: bytes as they come. Out: the engine's own words, if it refuses. Nothing is kept but a line, and lines are
//! bounded, as their number is: an engine tells of its progress, it does not fill our memory.

use serde::Deserialize;

/// Docker's longest line is an error with a path in it.
const LINE_MAX_BYTES: usize = 1 << 20;
/// Docker writes a line of progress per layer ten times a second at most.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Why an image was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The engine's own words.
    Said(String),
    /// It said what no engine says.
    Strange(String),
}

/// Reads an answer.
#[derive(Default)]
pub struct Answer {
    line: Vec<u8>,
    bytes: u64,
}

/// A line, of docker and of podman.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    error: Option<String>,
    #[serde(default, rename = "errorDetail")]
    detail: Option<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    message: Option<String>,
}

impl Answer {
    /// Takes more of it.
    ///
    /// # Errors
    /// When a line is an error, or none that an engine writes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.bytes += bytes.len() as u64;
        if self.bytes > ANSWER_MAX_BYTES {
            return Err(Refusal::Strange(format!("its answer is longer than {} MiB", ANSWER_MAX_BYTES >> 20)));
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.end_line()?;
        }
        self.line.extend_from_slice(rest);
        if self.line.len() > LINE_MAX_BYTES {
            return Err(Refusal::Strange(format!("a line of its answer is longer than {} MiB", LINE_MAX_BYTES >> 20)));
        }
        Ok(())
    }

    /// There is no more.
    ///
    /// # Errors
    /// As of [`Answer::push`].
    pub fn end(mut self) -> Result<(), Refusal> {
        self.end_line()
    }

    fn end_line(&mut self) -> Result<(), Refusal> {
        let line = std::mem::take(&mut self.line);
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let strange = || {
            let shown = oci::http::first_line(&line).unwrap_or_else(|| "no text".into());
            Refusal::Strange(format!("its answer is not what engines say: {shown}"))
        };
        let read: Line = serde_json::from_slice(&line).map_err(|_| strange())?;
        match read.detail.and_then(|detail| detail.message).or(read.error) {
            Some(words) => Err(Refusal::Said(oci::http::harmless(words.trim()))),
            None => Ok(()),
        }
    }
}

/// Of several lines the one that tells most: podman tries one format after the other and complains of each, and ours is a
/// layout in a tar; else the last.
pub fn telling(text: &str) -> Option<&str> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let ours = lines().find_map(|line| line.strip_prefix("* oci-archive: "));
    ours.or(lines().next_back())
}

/// An engine's words in an answer that is an error.
pub fn words(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        message: String,
    }
    match serde_json::from_slice::<Said>(body) {
        Ok(said) => telling(&said.message).map(oci::http::harmless),
        Err(_) => oci::http::first_line(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer in pieces of every length up to 7.
    fn read(text: &str) -> Result<(), Refusal> {
        let mut outcomes = (1..8).map(|length| {
            let mut answer = Answer::default();
            text.as_bytes().chunks(length).try_for_each(|piece| answer.push(piece))?;
            answer.end()
        });
        let first = outcomes.next().expect("there is one");
        assert!(outcomes.all(|other| other == first), "{text}");
        first
    }

    #[test]
    fn errors_are_found_wherever_they_stand() {
        let said = |text: &str| Err(Refusal::Said(text.into()));
        let strange = |text: &str| Err(Refusal::Strange(format!("its answer is not what engines say: {text}")));
        let check = |text: &str, expected: Result<(), Refusal>| assert_eq!(read(text), expected, "{text}");
        check("", Ok(()));
        check("{\"stream\":\"Loaded image ID: sha256:1\\n\"}\r\n", Ok(()));
        check(
            "{\"status\":\"Loading layer\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"a\"}\r\n\r\n",
            Ok(()),
        );
        check("{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no\"}\r\n", said("no space"));
        check("{\"stream\":\"a\"}\n{\"error\":\"no space\"}", said("no space"));
        check("{\"error\":\"a\\u001b[31mb\"}\n", said("a\\u{1b}[31mb"));
        check("{}\n{\"error\":\"first\"}\n{\"error\":\"second\"}\n", said("first"));
        check("404 page\n", strange("404 page"));
        check("[1]\n", strange("[1]"));
        check("{\"error\":7}", strange("{\"error\":7}"));
        check("{\"stream\":\"cut", strange("{\"stream\":\"cut"));
    }

    #[test]
    fn answers_are_bounded() {
        let mut answer = Answer::default();
        let mut push = || answer.push(&[b' '; 64 << 10]);
        assert!(std::iter::repeat_with(&mut push).take(17).any(|pushed| pushed.is_err()), "a line without end");
        // Nearly all of it has come: every line counts, not the longest.
        let line = "{\"stream\":\"x\"}\n";
        let mut answer = Answer { bytes: ANSWER_MAX_BYTES - 9 * line.len() as u64, ..Answer::default() };
        assert_eq!((0..9).find_map(|_| answer.push(line.as_bytes()).err()), None);
        let refused = answer.push(b"\n").err();
        assert_eq!(refused, Some(Refusal::Strange("its answer is longer than 64 MiB".into())));
    }

    #[test]
    fn words_of_an_error_are_quoted() {
        let check =
            |body: &str, expected: Option<&str>| assert_eq!(words(body.as_bytes()).as_deref(), expected, "{body}");
        check(r#"{"message":"no such image: x"}"#, Some("no such image: x"));
        check(r#"{"cause":"c","message":"payload does not match","response":500}"#, Some("payload does not match"));
        let tried = "no known format:\\n * oci: x\\n * oci-archive: reading blob y: no such file\\n * dir: z";
        check(&format!("{{\"message\":\"{tried}\"}}"), Some("reading blob y: no such file"));
        check("404 page not found\n", Some("404 page not found"));
        check("<html>", None);
        check("", None);
    }
}
