//! `RUN --mount=type=…,target=…`: cut into fields here, understood once variables are known (`lower::mounts`).

use crate::ast::Flag;
use crate::error::Diagnostic;
use crate::span::{Span, Word};
use crate::suggest;

/// One `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Its fields, in order.
    pub fields: Vec<MountField>,
    /// All of the flag.
    pub span: Span,
}

/// One field of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountField {
    /// Which option.
    pub key: MountKey,
    /// The option as written.
    pub name: Word,
    /// After the `=`, unexpanded.
    pub value: Option<Word>,
}

/// The options of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the options")]
pub enum MountKey {
    Type,
    From,
    Source,
    Target,
    ReadOnly,
    ReadWrite,
    Id,
    Sharing,
    Required,
    Size,
    Mode,
    Uid,
    Gid,
    Env,
}

const KEYS: &[(&str, MountKey)] = &[
    ("type", MountKey::Type),
    ("from", MountKey::From),
    ("source", MountKey::Source),
    ("src", MountKey::Source),
    ("target", MountKey::Target),
    ("dst", MountKey::Target),
    ("destination", MountKey::Target),
    ("readonly", MountKey::ReadOnly),
    ("ro", MountKey::ReadOnly),
    ("readwrite", MountKey::ReadWrite),
    ("rw", MountKey::ReadWrite),
    ("id", MountKey::Id),
    ("sharing", MountKey::Sharing),
    ("required", MountKey::Required),
    ("size", MountKey::Size),
    ("mode", MountKey::Mode),
    ("uid", MountKey::Uid),
    ("gid", MountKey::Gid),
    ("env", MountKey::Env),
];

impl MountSpec {
    /// Words whose variables are expanded: every value but that of `from`.
    pub fn expandable(&self) -> impl Iterator<Item = &Word> {
        self.fields.iter().filter(|field| field.key != MountKey::From).filter_map(|field| field.value.as_ref())
    }

    /// The last value of an option.
    pub fn value(&self, key: MountKey) -> Option<&Word> {
        self.fields.iter().rev().find(|field| field.key == key)?.value.as_ref()
    }

    /// Where its tree comes from: the value of `from`, unless the type has no use for it. The type is read as
    /// written; one that is a variable counts as a bind mount, whose `from` matters.
    pub fn from(&self) -> Option<&Word> {
        let kind = self.value(MountKey::Type).map_or("bind", |word| word.text.as_str());
        self.value(MountKey::From).filter(|from| !kind.eq_ignore_ascii_case("tmpfs") && !from.text.is_empty())
    }
}

/// Reads one `--mount` flag.
pub fn read(flag: &Flag, found: &mut Vec<Diagnostic>) -> Option<MountSpec> {
    let value = flag.value.as_ref()?;
    let before = found.len();
    let place = |from: usize, to: usize| {
        // A field's end is one past the place of its last byte: after that, quotes may follow.
        let start = flag.value_map.get(from).copied().unwrap_or(flag.span.end);
        let end = if to > from { flag.value_map[to - 1] + 1 } else { start };
        Span::new(start, end)
    };
    let mut fields = Vec::new();
    for (text, start) in csv(&value.text) {
        let end = start + text.len();
        let (name, field_value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        let span = place(start, end.min(value.text.len()));
        let name_span = place(start, (start + name.len()).min(value.text.len()));
        if text.is_empty() {
            let message = "an option of the mount is empty";
            found.push(Diagnostic::error(flag.span, message, "").help("remove the comma too many"));
            continue;
        }
        let Some((_, key)) = KEYS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            let help = suggest::did_you_mean(name, KEYS.iter().map(|(known, _)| *known)).unwrap_or_else(|| {
                "a mount is written `--mount=type=bind,source=dir,target=/dir`, without blanks".into()
            });
            let message = format!("`{name}` is no option of a mount");
            found.push(Diagnostic::error(name_span, message, "unknown option").help(help));
            continue;
        };
        let bare = matches!(key, MountKey::ReadOnly | MountKey::ReadWrite | MountKey::Required);
        if field_value.is_none() && !bare {
            let message = format!("`{name}` needs a value");
            found.push(Diagnostic::error(span, message, "no `=` follows").help(format!("write `{name}=value`")));
            continue;
        }
        let value = field_value.map(|text| Word {
            text: text.to_owned(),
            span: if text.is_empty() { span } else { Span::new((name_span.end + 1).min(span.end), span.end) },
        });
        if *key == MountKey::From && value.as_ref().is_some_and(|value| value.text.contains('$')) {
            found.push(
                Diagnostic::error(span, "variables are not expanded in `from`", "")
                    .help("define a stage `FROM $NAME AS files` and write `from=files`"),
            );
            continue;
        }
        fields.push(MountField { key: *key, name: Word { text: name.to_owned(), span: name_span }, value });
    }
    (found.len() == before).then_some(MountSpec { fields, span: flag.span })
}

/// Comma-separated fields, each with its start; a field in double quotes may hold commas, a doubled quote is one.
fn csv(text: &str) -> Vec<(String, usize)> {
    let mut fields = Vec::new();
    let mut pos = 0;
    loop {
        let rest = &text[pos..];
        if let Some(inner) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = inner.char_indices().peekable();
            let mut end = inner.len();
            while let Some((at, c)) = chars.next() {
                if c != '"' {
                    field.push(c);
                } else if chars.next_if(|(_, next)| *next == '"').is_some() {
                    field.push('"');
                } else {
                    end = at + 1;
                    break;
                }
            }
            fields.push((field, pos + 1));
            pos += 1 + end;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            fields.push((rest[..end].to_owned(), pos));
            pos += end;
        }
        match text[pos..].find(',') {
            Some(comma) => pos += comma + 1,
            None => return fields,
        }
    }
}
