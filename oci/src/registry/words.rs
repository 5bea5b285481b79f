//! What registries say, and how it may be shown.
//!
//! The body of an error answer comes in, one harmless line goes out. Deliberately absent: which error it belongs to.

/// How much of a registry's words is shown, in characters.
const WORDS_MAX_CHARS: usize = 500;

/// A registry's words from the body of an error answer. distribution-spec, "Error Codes"; token servers and proxies
/// have shapes of their own, plain text included.
pub(super) fn words_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        detail: serde_json::Value,
    }
    fn entry(entry: Entry) -> String {
        let code = entry.code.as_str().map(str::to_owned);
        let detail = entry.detail.as_str().map(str::to_owned);
        let parts: Vec<String> =
            [code, entry.message, detail].into_iter().flatten().filter(|p| !p.is_empty()).collect();
        parts.join(": ")
    }
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(serde_json::Value::Object(mut object)) => {
            let errors = object.remove("errors").and_then(|errors| serde_json::from_value::<Vec<Entry>>(errors).ok());
            match errors {
                Some(errors) => errors.into_iter().map(entry).collect::<Vec<_>>().join("; "),
                None => ["message", "details", "error_description", "error"]
                    .iter()
                    .find_map(|key| object.get(*key).and_then(|value| value.as_str()))
                    .unwrap_or_default()
                    .to_owned(),
            }
        }
        Ok(_) => String::new(),
        Err(_) => return first_line(body),
    };
    let words = harmless(text.trim());
    (!words.is_empty()).then_some(words)
}

/// The first line of a body, made harmless; `None` when there is none, or only a page for a browser, which says nothing
/// in its first line.
pub fn first_line(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let line = text.trim_start().lines().next().unwrap_or_default().trim();
    (!line.is_empty() && !line.starts_with('<')).then(|| harmless(line))
}

/// Text from elsewhere for a terminal or a log: one line, control characters escaped, bounded.
pub fn harmless(text: &str) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == WORDS_MAX_CHARS {
            shown.push('…');
            break;
        }
        // Bidirectional overrides can make a line read as another.
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_registry_are_found_and_made_harmless() {
        let cases: &[(&str, Option<&str>)] = &[
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
                Some("MANIFEST_UNKNOWN: manifest unknown"),
            ),
            (r#"{"errors":[{"code":"A"},{"message":"b","detail":"c"}]}"#, Some("A; b: c")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, Some("expired")),
            (r#"{"errors":"text"}"#, None),
            (r#"[]"#, None),
            ("404 page not found\nmore", Some("404 page not found")),
            ("<html><body>x", None),
            ("", None),
            ("a\u{1b}[31mb\u{202e}c", Some("a\\u{1b}[31mb\\u{202e}c")),
        ];
        for (body, want) in cases {
            assert_eq!(words_of(body.as_bytes()).as_deref(), *want, "{body}");
        }
        assert_eq!(harmless(&"x".repeat(9000)).chars().count(), WORDS_MAX_CHARS + 1);
    }
}
