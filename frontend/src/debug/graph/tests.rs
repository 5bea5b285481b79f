//! No label can leave its quotes: what is written is read back by strict small readers of both languages.

use std::collections::BTreeMap;

use super::*;

/// Signs that mean something in DOT, Mermaid, HTML, Markdown or to a terminal.
const HOSTILE: [&str; 14] = [
    "\"",
    "\\",
    "a\\\"b",
    "ends with \\",
    "\"];\n}\ndigraph evil { x",
    "%%{init: {\"theme\": \"x\"}}%%",
    "&quot;&#34;#quot;#34;",
    "<b onclick=alert(1)>",
    "`**markdown**`",
    "style x fill:#fff;",
    "end",
    "\x1b[2J\r\n\u{9b}\u{202e}",
    "]]) ]} --> n1",
    "ünïcode 表 …",
];

fn drawing(words: &str) -> Drawing {
    let node = |number, uses| Node { number, kind: "exec", label: label(words), uses };
    let uses = vec![Use { from: 1, role: String::new() }, Use { from: 1, role: label(words) }];
    Drawing {
        groups: vec![
            Group { stage: None, nodes: vec![node(1, Vec::new())] },
            Group { stage: Some(Stage { index: 0, name: Some(words.into()) }), nodes: vec![node(2, uses)] },
        ],
        output: Some(2),
    }
}

/// A token of DOT.
#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    /// What a quoted label shows.
    Text(String),
    Sign(&'static str),
}

/// Reads DOT into tokens: identifiers, quoted strings, and the signs that [`dot`] writes.
fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: [&str; 8] = ["->", "{", "}", "[", "]", "=", ";", ","];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let mut shown = String::new();
            let mut chars = rest.char_indices().skip(1);
            let end = loop {
                match chars.next().expect("the string ends") {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().expect("an escape has a second sign").1 {
                        sign @ ('"' | '\\') => shown.push(sign),
                        other => panic!("the escape `\\{other}` means something in labels"),
                    },
                    (_, '\n') => panic!("a line break in a string"),
                    (_, c) => shown.push(c),
                }
            };
            assert!(!shown.replace("&amp;", "").contains('&'), "a character by name in {shown:?}");
            tokens.push(Token::Text(shown.replace("&amp;", "&")));
            rest = &rest[end + 1..];
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            assert!(length > 0, "no token of DOT: {rest:?}");
            tokens.push(Token::Word(rest[..length].to_owned()));
            rest = &rest[length..];
        }
        rest = rest.trim_start();
    }
    tokens
}

/// An arrow of DOT: from, to, label.
type Arrow = (String, String, Option<String>);

/// Reads a `digraph`: the labels of its nodes and clusters, and its arrows. Anything else is a fault.
fn read_dot(text: &str) -> (BTreeMap<String, String>, Vec<Arrow>) {
    let tokens = tokens(text);
    let mut tokens = tokens.into_iter().peekable();
    let mut labels = BTreeMap::new();
    let mut arrows = Vec::new();
    let mut open = Vec::new();
    assert_eq!(tokens.next(), Some(Token::Word("digraph".into())));
    while let Some(token) = tokens.next() {
        let Token::Word(word) = token else {
            assert_eq!(token, Token::Sign("}"), "a statement begins with a word");
            open.pop().expect("a brace that was opened");
            continue;
        };
        let mut attributes = BTreeMap::new();
        let mut target = None;
        match tokens.next().expect("a statement goes on") {
            Token::Word(name) if word == "subgraph" => {
                assert_eq!(tokens.next(), Some(Token::Sign("{")));
                open.push(name);
                continue;
            }
            Token::Sign("{") if open.is_empty() => {
                open.push("plan".into());
                continue;
            }
            Token::Sign("=") => {
                let name = open.last().expect("inside of something").clone();
                if let Some(Token::Text(text)) = tokens.next() {
                    assert!(labels.insert(name, text).is_none(), "two labels");
                }
                assert_eq!(tokens.next(), Some(Token::Sign(";")));
                continue;
            }
            Token::Sign(";") => continue,
            Token::Sign("[") => {}
            Token::Sign("->") => {
                let Some(Token::Word(name)) = tokens.next() else { panic!("an arrow ends at a node") };
                target = Some(name);
                tokens.next_if_eq(&Token::Sign("["));
            }
            other => panic!("{other:?} after {word}"),
        }
        loop {
            match tokens.next().expect("a list ends") {
                Token::Sign(";") => break,
                Token::Sign("]" | ",") => {}
                Token::Word(name) => {
                    assert_eq!(tokens.next(), Some(Token::Sign("=")));
                    attributes.insert(name, tokens.next().expect("an attribute has a value"));
                }
                other => panic!("{other:?} in a list"),
            }
        }
        let text = match attributes.remove("label") {
            Some(Token::Text(text)) => Some(text),
            None => None,
            other => panic!("a label that is no string: {other:?}"),
        };
        match target {
            Some(target) => arrows.push((word, target, text)),
            None if word == "node" => {}
            None => assert!(labels.insert(word, text.expect("a node has a label")).is_none(), "a node twice"),
        }
    }
    assert!(open.is_empty(), "an open brace");
    (labels, arrows)
}

/// What Mermaid shows of the quoted label between two parts of a line.
fn read_mermaid(line: &str, start: &str, end: &str) -> String {
    let text = line.strip_prefix(start).unwrap_or_else(|| panic!("{line:?} does not begin with {start:?}"));
    let text = text.strip_prefix('"').expect("a quoted label");
    let (inside, rest) = text.split_once('"').expect("it ends");
    assert_eq!(rest, end, "{line:?}");
    assert!(!inside.contains(['<', '>', '&', '%', '{', '`', ':', '\\', '\n']), "{inside:?}");
    let mut shown = String::new();
    let mut parts = inside.split('#');
    shown.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (number, after) = part.split_once(';').expect("a character by number ends with a semicolon");
        shown.push(char::from_u32(number.parse().expect("a number")).expect("a character"));
        shown.push_str(after);
    }
    shown
}

#[test]
fn hostile_words_stay_inside_their_quotes() {
    for words in HOSTILE {
        let drawn = drawing(words);
        let (shown, title) = (label(words), format!("stage {}", visible(words)));
        let (labels, arrows) = read_dot(&drawn.dot());
        let expected = [("n1", &shown), ("n2", &shown), ("cluster_1", &title)];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.clone()));
        assert_eq!(labels, BTreeMap::from(expected), "{}", drawn.dot());
        let arrow = |role| ("n1".to_owned(), "n2".to_owned(), role);
        assert_eq!(arrows, [arrow(None), arrow(Some(shown.clone()))]);

        let text = drawn.mermaid();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let &["flowchart TB", first, stage, second, "end", "n1 --> n2", arrow] = lines.as_slice() else {
            panic!("{words:?} makes {text}")
        };
        assert_eq!(read_mermaid(first, "n1[", "]"), shown);
        assert_eq!(read_mermaid(stage, "subgraph s1[", "]"), title);
        assert_eq!(read_mermaid(second, "n2[[", "]]"), shown);
        assert_eq!(read_mermaid(arrow, "n1 -.->|", "| n2"), shown);
    }
}

#[test]
fn labels_are_short_and_visible() {
    let check = |text: &str, expected: &str| assert_eq!(label(text), expected);
    check("[1/2] FROM a:1@sha256:0123456789abcdef0123", "[1/2] FROM a:1@sha256:0123456789ab");
    check("@sha256: @sha256:12", "@sha256: @sha256:12");
    check("a\x1bb\u{202e}\n\"\\", "a\\u{1b}b\\u{202e}\\n\"\\");
    assert_eq!(label(&"表".repeat(65)).chars().count(), 64);
    assert_eq!(label(&"表".repeat(64)), "表".repeat(64));
}
