//! A file of credentials that is changed: one entry of `auths`, and nothing else.
//!
//! The file's bytes come in, and go out with every other member as it was written, byte for byte and in its order:
//! what other programs keep there is theirs. Writing is done aside, for the owner alone, and becomes visible by a
//! rename; whoever else writes in this way waits (a lock on the folder). A link is followed: it is the file that is
//! changed. Deliberately absent: what an entry means ([`super::file`]).

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{CredentialError, place};

/// Members of a JSON object, in their order, each as it was written.
#[derive(Debug, Default)]
pub(super) struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }

            fn visit_unit<E>(self) -> Result<Members, E> {
                Ok(Members::default())
            }
        }
        deserializer.deserialize_any(All)
    }
}

impl Members {
    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Takes the place of a member of that name, or comes last.
    fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some(member) => member.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn text(&self, indent: &str) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let lines = self.0.iter().map(|(key, value)| {
            let key = serde_json::Value::from(key.as_str());
            format!("{indent}\t{key}: {}", value.get())
        });
        format!("{{\n{}\n{indent}}}", lines.collect::<Vec<_>>().join(",\n"))
    }
}

/// A file of credentials in memory.
#[derive(Debug, Default)]
pub(super) struct Document {
    members: Members,
    auths: Members,
    /// Whether the file is the inside of `auths`.
    bare: bool,
}

impl Document {
    /// Reads one. The error says where, never what.
    pub(super) fn parse(bytes: &[u8], bare: bool) -> Result<Self, String> {
        let read = |bytes: &[u8]| serde_json::from_slice::<Members>(bytes).map_err(|error| place(&error));
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { bare, ..Self::default() });
        }
        let members = read(bytes)?;
        if bare {
            return Ok(Self { members: Members::default(), auths: members, bare });
        }
        let auths = match members.get("auths") {
            Some(auths) => serde_json::from_str(auths.get()).map_err(|_| "its `auths` is not an object".to_owned())?,
            None => Members::default(),
        };
        Ok(Self { members, auths, bare })
    }

    /// The keys of all entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.auths.0.iter().map(|(key, _)| key.as_str())
    }

    /// Adds an entry in place of all that mean the same.
    pub(super) fn put(&mut self, key: &str, entry: &serde_json::Value, same: impl Fn(&str) -> bool) {
        let entry = serde_json::value::to_raw_value(entry).expect("a JSON value is always JSON");
        self.auths.0.retain(|(other, _)| other == key || !same(other));
        self.auths.set(key, entry);
    }

    /// Removes entries; how many there were.
    pub(super) fn remove(&mut self, mut which: impl FnMut(&str) -> bool) -> usize {
        let before = self.auths.0.len();
        self.auths.0.retain(|(key, _)| !which(key));
        before - self.auths.0.len()
    }

    /// As it is written.
    pub(super) fn text(mut self) -> String {
        if self.bare {
            return self.auths.text("") + "\n";
        }
        let auths = RawValue::from_string(self.auths.text("\t")).expect("what was read and made here is JSON");
        if !self.auths.0.is_empty() || self.members.get("auths").is_some() {
            self.members.set("auths", auths);
        }
        self.members.text("") + "\n"
    }
}

/// Changes a file. `change` returns whether there is anything to write. A file that is not there is empty; it and its
/// folder are made when there is.
///
/// # Errors
/// When it cannot be read, understood or written; then it is as it was.
pub(super) fn change<T>(
    path: &Path,
    bare: bool,
    change: impl FnOnce(&mut Document) -> Result<(bool, T), CredentialError>,
) -> Result<T, CredentialError> {
    let write = |source| CredentialError::Write { path: path.to_owned(), source };
    // A link that leads nowhere is replaced by a file.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::DirBuilder::new_private().create(&folder).map_err(write)?;
    let lock = std::fs::File::open(&folder).map_err(write)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| write(error.into()))?;
    let (bytes, owner) = match std::fs::read(&target) {
        Ok(bytes) => {
            let found = target.metadata().map_err(write)?;
            (bytes, Some((found.uid(), found.gid())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), None),
        Err(source) => return Err(CredentialError::Read { path: path.to_owned(), source }),
    };
    let malformed = |reason| CredentialError::Malformed { path: path.to_owned(), reason };
    let mut document = Document::parse(&bytes, bare).map_err(malformed)?;
    let (is_changed, result) = change(&mut document)?;
    if !is_changed {
        return Ok(result);
    }
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        // Nobody else makes one while the folder is locked; what a dead process left may go.
        if let Err(error) = std::fs::remove_file(&aside)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(document.text().as_bytes())?;
        if let Some((uid, gid)) = owner {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (uid, gid) {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
        }
        file.sync_all()?;
        std::fs::rename(&aside, &target)
    })();
    if let Err(source) = written {
        if let Err(error) = std::fs::remove_file(&aside)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(file = %aside.display(), %error, "an unfinished file of credentials stays");
        }
        return Err(write(source));
    }
    Ok(result)
}

/// Folders of credentials are for their owner.
trait Private {
    fn new_private() -> Self;
}

impl Private for std::fs::DirBuilder {
    fn new_private() -> Self {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut builder = Self::new();
        builder.recursive(true).mode(0o700);
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, change: impl FnOnce(&mut Document), want: &str) {
        let mut document = Document::parse(text.as_bytes(), false).expect("it is JSON");
        change(&mut document);
        assert_eq!(document.text(), want, "{text}");
    }

    #[test]
    fn one_entry_changes_and_the_rest_stays_as_it_was_written() {
        let entry = serde_json::json!({ "auth": "eA==" });
        check("", |_| {}, "{}\n");
        check(
            "",
            |d| d.put("r.example", &entry, |_| false),
            "{\n\t\"auths\": {\n\t\t\"r.example\": {\"auth\":\"eA==\"}\n\t}\n}\n",
        );
        check(
            "{\"auths\":null}",
            |d| d.put("a", &entry, |_| false),
            "{\n\t\"auths\": {\n\t\t\"a\": {\"auth\":\"eA==\"}\n\t}\n}\n",
        );
        // Numbers that no float holds, escapes and blanks of others are kept.
        let other = "{\"z\": 12345678901234567890.10,\"auths\": {\"b\": { \"auth\" : \"\\u0041\"}, \"a\": {}},\"HttpHeaders\":{ \"X\":1}}";
        check(
            other,
            |d| d.put("a", &entry, |_| false),
            "{\n\t\"z\": 12345678901234567890.10,\n\t\"auths\": {\n\t\t\"b\": { \"auth\" : \"\\u0041\"},\n\t\t\"a\": {\"auth\":\"eA==\"}\n\t},\n\t\"HttpHeaders\": { \"X\":1}\n}\n",
        );
        check(
            other,
            |d| assert_eq!(d.remove(|key| key == "b"), 1),
            "{\n\t\"z\": 12345678901234567890.10,\n\t\"auths\": {\n\t\t\"a\": {}\n\t},\n\t\"HttpHeaders\": { \"X\":1}\n}\n",
        );
        check(
            other,
            |d| assert_eq!(d.remove(|_| true), 2),
            "{\n\t\"z\": 12345678901234567890.10,\n\t\"auths\": {},\n\t\"HttpHeaders\": { \"X\":1}\n}\n",
        );
        // Keys that mean the same as the new one go.
        check(
            r#"{"auths":{"https://r.example/v2/":{},"r.example":{},"x":{}}}"#,
            |d| d.put("r.example", &entry, |key| key.contains("r.example")),
            "{\n\t\"auths\": {\n\t\t\"r.example\": {\"auth\":\"eA==\"},\n\t\t\"x\": {}\n\t}\n}\n",
        );
    }

    #[test]
    fn what_is_no_object_is_refused_without_being_quoted() {
        for text in ["[\"s3cret\"]", "{s3cret", "\"s3cret\"", "{\"auths\":\"s3cret\"}", "{} s3cret"] {
            let error = Document::parse(text.as_bytes(), false).expect_err("this is no file of credentials");
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }
}
