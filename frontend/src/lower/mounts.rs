//! One `--mount`, understood: fields into values, defaults filled in, contradictions refused.
//!
//! Used twice: on fields without variables before anything is asked, and on expanded fields when lowering.

use solver::op::CacheSharing;

use crate::error::{Diagnostic, Refusal};
use crate::instr::{MountField, MountKey, MountSpec};
use crate::span::Word;
use crate::suggest;

/// What a mount asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// Which type.
    pub kind: RequestKind,
    /// Where the tree comes from, as written.
    pub from: Option<Word>,
    /// Path inside it.
    pub source: String,
    /// Where it is mounted; `None` when it was not said.
    pub target: Option<String>,
    /// Whether writes are refused.
    pub readonly: bool,
    /// `id`.
    pub id: Option<String>,
    /// `sharing`.
    pub sharing: CacheSharing,
    /// `required`.
    pub required: bool,
    /// `size` in bytes; 0 is unlimited.
    pub size_bytes: u64,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `env`.
    pub env: Option<String>,
}

/// The types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the types")]
pub enum RequestKind {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl RequestKind {
    const ALL: [(&'static str, Self); 5] = [
        ("bind", Self::Bind),
        ("cache", Self::Cache),
        ("tmpfs", Self::Tmpfs),
        ("secret", Self::Secret),
        ("ssh", Self::Ssh),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Understands a mount; `expand` gives the value of a word.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn understand(
    spec: &MountSpec,
    mut expand: impl FnMut(&Word) -> Result<String, Diagnostic>,
) -> Result<MountRequest, Diagnostic> {
    let mut values: Vec<(&MountField, String)> = Vec::with_capacity(spec.fields.len());
    for field in &spec.fields {
        let value = match &field.value {
            None => String::new(),
            Some(word) if field.key == MountKey::From => word.text.clone(),
            Some(word) => expand(word)?,
        };
        values.push((field, value));
    }
    let mut kind = RequestKind::Bind;
    for (field, value) in values.iter().filter(|(field, _)| field.key == MountKey::Type) {
        let known = RequestKind::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
        kind = known.map(|(_, kind)| *kind).ok_or_else(|| {
            let help = suggest::did_you_mean(value, RequestKind::ALL.iter().map(|(name, _)| *name));
            let help = help.unwrap_or_else(|| "types are `bind`, `cache`, `tmpfs`, `secret` and `ssh`".into());
            Refusal::new(format!("`{value}` is no type of a mount")).help(help).at(place(field))
        })?;
    }
    let mut request = MountRequest {
        kind,
        from: None,
        source: String::new(),
        target: None,
        readonly: !matches!(kind, RequestKind::Cache | RequestKind::Tmpfs),
        id: None,
        sharing: CacheSharing::Shared,
        required: false,
        size_bytes: 0,
        mode: None,
        uid: None,
        gid: None,
        env: None,
    };
    for (field, value) in values {
        let wrong = |help: &str| {
            Refusal::new(format!("`{value}` is no value of `{}`", field.name.text)).help(help).at(place(field))
        };
        let only_for = |kinds: &[RequestKind]| {
            if kinds.contains(&kind) {
                return Ok(());
            }
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            let message = format!("a {} mount has no option `{}`", kind.name(), field.name.text);
            Err(Refusal::new(message).help(format!("it belongs to type={}", names.join(", type="))).at(field.name.span))
        };
        match field.key {
            MountKey::Type => {}
            MountKey::From => {
                if kind == RequestKind::Secret || kind == RequestKind::Ssh {
                    only_for(&[RequestKind::Bind, RequestKind::Cache])?;
                }
                request.from = field.value.clone().filter(|from| !from.text.is_empty());
            }
            MountKey::Source => request.source = value,
            MountKey::Target => request.target = Some(value).filter(|target| !target.is_empty()),
            MountKey::ReadOnly => request.readonly = truth(field, &value).ok_or_else(|| wrong("true or false"))?,
            MountKey::ReadWrite => request.readonly = !truth(field, &value).ok_or_else(|| wrong("true or false"))?,
            MountKey::Id => request.id = Some(value).filter(|id| !id.is_empty()),
            MountKey::Sharing => {
                only_for(&[RequestKind::Cache])?;
                request.sharing = match value.to_ascii_lowercase().as_str() {
                    "shared" => CacheSharing::Shared,
                    "private" => CacheSharing::Private,
                    "locked" => CacheSharing::Locked,
                    _ => {
                        let nearest = suggest::did_you_mean(&value, ["shared", "private", "locked"]);
                        return Err(wrong(&nearest.unwrap_or_else(|| "it is `shared`, `private` or `locked`".into())));
                    }
                };
            }
            MountKey::Required => {
                only_for(&[RequestKind::Secret, RequestKind::Ssh])?;
                request.required = truth(field, &value).ok_or_else(|| wrong("true or false"))?;
            }
            MountKey::Size => {
                only_for(&[RequestKind::Tmpfs])?;
                request.size_bytes =
                    super::values::size(&value).ok_or_else(|| wrong("write a size like `64m` or `1g`"))?;
            }
            MountKey::Mode => {
                only_for(&[RequestKind::Cache, RequestKind::Secret, RequestKind::Ssh])?;
                let mode = u32::from_str_radix(&value, 8).ok().filter(|mode| *mode <= 0o7777);
                request.mode = Some(mode.ok_or_else(|| wrong("write an octal number like `0700`"))?);
            }
            MountKey::Uid | MountKey::Gid => {
                only_for(&[RequestKind::Cache, RequestKind::Secret, RequestKind::Ssh])?;
                let number = value.parse().map_err(|_| wrong("write a number like `1000`"))?;
                let slot = if field.key == MountKey::Uid { &mut request.uid } else { &mut request.gid };
                *slot = Some(number);
            }
            MountKey::Env => {
                only_for(&[RequestKind::Secret])?;
                request.env = Some(value).filter(|env| !env.is_empty());
            }
        }
    }
    complete(&request).map_err(|refusal| refusal.at(spec.span))?;
    Ok(request)
}

/// What the fields say together.
fn complete(request: &MountRequest) -> Result<(), Refusal> {
    let name = request.kind.name();
    match request.kind {
        RequestKind::Secret => {
            if request.id.is_some() && !request.source.is_empty() {
                return Err(Refusal::new("a secret has either `id` or `source`").help("remove one of them"));
            }
            if request.id.is_none() && request.source.is_empty() && request.target.is_none() {
                return Err(Refusal::new("which secret is meant?").help("write `--mount=type=secret,id=name`"));
            }
        }
        RequestKind::Ssh => {}
        _ if request.target.is_none() => {
            return Err(Refusal::new(format!("a {name} mount needs a target"))
                .help(format!("write `--mount=type={name},target=/path`")));
        }
        _ => {}
    }
    if request.target.as_deref().is_some_and(|target| super::paths::join("/x", target) == "/") {
        return Err(Refusal::new("nothing can be mounted over `/`").help("choose a directory as the target"));
    }
    Ok(())
}

fn place(field: &MountField) -> crate::span::Span {
    field.value.as_ref().map_or(field.name.span, |value| value.span)
}

fn truth(field: &MountField, value: &str) -> Option<bool> {
    match value {
        _ if field.value.is_none() => Some(true),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
