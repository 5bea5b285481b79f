//! Digests: image-spec descriptor.md, "Digests". Only SHA-256 is made and taken.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 of bytes as they are stored or sent; written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits, safe as a file name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", &self.hex()[..12])
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bad = || DigestError { text: text.chars().take(100).collect() };
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 };
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text that is no digest: wrong algorithm, length, or characters (upper case included).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest: `sha256:` and 64 lower-case hexadecimal digits are expected")]
pub struct DigestError {
    /// The text, shortened.
    pub text: String,
}

/// Digest of a layer's uncompressed tar. image-spec config.md, "Layer DiffID".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiffId({})", &self.0.hex()[..12])
    }
}

/// The chain id after each layer, bottom first: a name for a layer together with all beneath it.
/// image-spec config.md, "Layer ChainID".
pub fn chain_ids(diff_ids: &[DiffId]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.0,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn only_lower_case_sha256_is_a_digest() {
        let check = |text: &str, fine: bool| {
            let parsed: Result<Digest, _> = text.parse();
            assert_eq!(parsed.as_ref().is_ok_and(|digest| digest.to_string() == text), fine, "{text}");
            assert_eq!(serde_json::from_value::<Digest>(text.into()).is_ok(), fine, "{text}");
        };
        check(EMPTY, true);
        check(&EMPTY.to_uppercase(), false);
        check(&EMPTY.replace("e3b0", "E3B0"), false);
        check(&EMPTY[..70], false);
        check(&format!("{EMPTY}0"), false);
        check(&EMPTY.replace("sha256", "sha512"), false);
        check(&EMPTY["sha256:".len()..], false);
        check("sha256:../../x", false);
        check("sha256:", false);
        check("", false);
        check(&EMPTY.replace("e3", "\u{e9}"), false);
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(Digest::from_bytes(*Digest::of(b"x").as_bytes()), Digest::of(b"x"));
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|bytes| DiffId(Digest::of(bytes)));
        let chain = chain_ids(&[a, b, c]);
        let ab = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain, [a.0, ab, Digest::of(format!("{ab} {c}").as_bytes())]);
        assert_eq!(chain_ids(&[]), []);
    }
}
