//! The attributes of one `-o`: taken out as they are understood; what is left over is refused.

use std::collections::BTreeMap;

use oci::layer::{Codec, Compression};
use oci::model::Reference;

use crate::engine::Failure;
use crate::options::annotation::{Annotations, annotations};

/// What the levels of annotations are called in attributes, and in `--annotation`.
const LEVELS: [(&str, &str); 5] = [
    ("annotation-manifest-descriptor", "manifest-descriptor"),
    ("annotation-index-descriptor", "index-descriptor"),
    ("annotation-manifest", "manifest"),
    ("annotation-index", "index"),
    ("annotation", "manifest"),
];

/// Attributes that are for some types only, and for which.
const ELSEWHERE: [(&str, &str); 22] = [
    ("name", "an image"),
    ("push", "type=image"),
    ("push-by-digest", "type=image and type=registry"),
    ("registry.insecure", "type=image and type=registry"),
    ("unpack", "type=image"),
    ("store", "type=image"),
    ("name-canonical", "type=image"),
    ("dangling-name-prefix", "type=image"),
    ("danging-name-empty-only", "type=image"),
    ("oci-mediatypes", "an image"),
    ("compression", "an image"),
    ("compression-level", "an image"),
    ("force-compression", "an image"),
    ("rewrite-timestamp", "an image"),
    ("prefer-nondist-layers", "an image"),
    ("tar", "type=oci and type=docker"),
    ("to", "type=docker without dest"),
    ("context", "type=docker without dest"),
    ("namespace", "type=docker without dest"),
    ("platform-split", "type=local and type=tar"),
    ("mode", "type=local"),
    ("attestation-prefix", "type=local and type=tar"),
];

/// What stands in one `-o`.
pub(super) struct Attributes {
    text: String,
    bare: Option<String>,
    values: BTreeMap<String, String>,
    /// As `--annotation` would say them.
    annotations: Vec<String>,
    /// Keys that were asked for: what else could have been meant.
    asked: Vec<&'static str>,
}

impl Attributes {
    pub fn read(text: &str) -> Result<Self, Failure> {
        let mut read = Self {
            text: text.to_owned(),
            bare: None,
            values: BTreeMap::new(),
            annotations: Vec::new(),
            asked: Vec::new(),
        };
        let fields = fields(text).ok_or_else(|| read.wrong("a quote is not closed"))?;
        if let [only] = fields.as_slice()
            && !only.contains('=')
        {
            read.bare = Some(only.clone());
            return Ok(read);
        }
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(read
                    .wrong(format!("`{field}` is not of the form name=value"))
                    .help("write `type=TYPE,dest=PATH`; a value with a comma stands in quotes: `\"name=a,b\"`"));
            };
            let key = key.trim();
            match annotation(key) {
                Some(level) => read.annotations.push(format!("{level}={value}")),
                None => drop(read.values.insert(key.to_ascii_lowercase(), value.to_owned())),
            }
        }
        Ok(read)
    }

    /// The whole of it, if it is one word.
    pub fn bare(&self) -> Option<&str> {
        self.bare.as_deref()
    }

    pub fn set(&mut self, key: &str, value: String) {
        self.values.insert(key.to_owned(), value);
    }

    pub fn wrong(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::new(format!("`-o {}`: {reason}", self.text))
    }

    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.asked.push(key);
        self.values.remove(key)
    }

    pub fn peek(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    pub fn switch(&mut self, key: &'static str) -> Result<Option<bool>, Failure> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            // As buildx writes it: a key alone is not one, but an empty value is true there.
            "true" | "t" | "1" | "" => Ok(Some(true)),
            "false" | "f" | "0" => Ok(Some(false)),
            _ => Err(self.wrong(format!("`{key}={value}` is neither true nor false"))),
        }
    }

    pub fn number(&mut self, key: &'static str) -> Result<Option<i64>, Failure> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.parse().map_err(|_| self.wrong(format!("`{key}={value}` is no number")))?;
        Ok(Some(number))
    }

    pub fn name(&self, text: &str) -> Result<Reference, Failure> {
        text.parse().map_err(|error| self.wrong(format!("{error}")))
    }

    pub fn dest(&mut self) -> Result<Option<String>, Failure> {
        let dest = self.take("dest");
        if dest.as_deref() == Some("") {
            return Err(self.wrong("`dest` is empty"));
        }
        Ok(dest)
    }

    pub fn codec(&mut self) -> Result<Codec, Failure> {
        let compression = match self.take("compression").as_deref() {
            None | Some("") => Compression::Gzip,
            Some(name) => name.parse().map_err(|error| {
                let wrong = self.wrong(format!("{error}"));
                match frontend::did_you_mean(name, ["gzip", "zstd", "estargz", "uncompressed"]) {
                    Some(help) => wrong.help(help),
                    None => wrong,
                }
            })?,
        };
        match self.take("compression-level") {
            None => Ok(Codec::new(compression)),
            // BuildKit takes one and does nothing with it.
            Some(_) if compression == Compression::None => Ok(Codec::new(compression)),
            Some(text) => {
                let level = text.parse().map_err(|_| self.wrong(format!("`compression-level={text}` is no number")))?;
                Codec::with_level(compression, level).map_err(|error| self.wrong(format!("{error}")))
            }
        }
    }

    pub fn annotations(&mut self) -> Result<Annotations, Failure> {
        let given = std::mem::take(&mut self.annotations);
        annotations(&given).map_err(|failure| {
            let problem = failure.problems.into_iter().next();
            let wrong = self.wrong("an annotation is none");
            match problem {
                Some(problem) => {
                    let wrong = wrong.note(problem.message);
                    if let Some(help) = problem.help { wrong.help(help) } else { wrong }
                }
                None => wrong,
            }
        })
    }

    /// Refuses what nobody asked for.
    pub fn end(self) -> Result<(), Failure> {
        if !self.annotations.is_empty() {
            return Err(self.wrong("annotations are for an image, and this is a file system").help("leave them out"));
        }
        let Some(key) = self.values.keys().next() else { return Ok(()) };
        let wrong = self.wrong(format!("`{key}` is not supported here"));
        if let Some((_, place)) = ELSEWHERE.iter().find(|(known, _)| known == key) {
            return Err(wrong.help(format!("it is for {place}")));
        }
        let known = self.asked.iter().chain(&["type", "dest", "annotation.KEY"]).copied();
        Err(match frontend::did_you_mean(key, known) {
            Some(help) => wrong.help(help),
            None => wrong.help("leave it out; docs/outputs.md lists what every type takes"),
        })
    }
}

/// An attribute's name as `--annotation` says it, if it is one: `annotation-manifest[linux/amd64].key`. Keys keep their
/// case.
fn annotation(key: &str) -> Option<String> {
    LEVELS.iter().find_map(|(attribute, level)| {
        let (rest, platform) = match key.strip_prefix(attribute)?.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(platform, rest)| (rest, format!("[{platform}]")))?,
            None => (key.strip_prefix(attribute)?, String::new()),
        };
        rest.strip_prefix('.').map(|name| format!("{level}{platform}:{name}"))
    })
}

/// The fields of one line of comma-separated values (RFC 4180, section 2); `None` when a quote is not closed.
pub fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        let field = &mut fields[last];
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}
