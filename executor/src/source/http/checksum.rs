//! Checksums as people write them: `sha256:…`, `sha384:…`, `sha512:…`.

use std::fmt;
use std::io::Read as _;
use std::str::FromStr;

use oci::content::ContentStore as _;
use oci::model::Digest;
use sha2::{Digest as _, Sha384, Sha512};

use store::Store;

use super::HttpError;

/// What bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The digest that is also a blob's name.
    Sha256(Digest),
    /// 48 bytes.
    Sha384(Vec<u8>),
    /// 64 bytes.
    Sha512(Vec<u8>),
}

impl FromStr for Checksum {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        let malformed = || HttpError::Checksum { text: crate::tree::shown(text.as_bytes()) };
        let (algorithm, digits) = text.split_once(':').ok_or_else(malformed)?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !digits.bytes().all(lower) {
            return Err(malformed());
        }
        let bytes = |count: usize| -> Result<Vec<u8>, HttpError> {
            let pairs = digits.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
            let bytes: Vec<u8> = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
            if digits.len() == 2 * count { Ok(bytes) } else { Err(malformed()) }
        };
        match algorithm {
            "sha256" => text.parse().map(Self::Sha256).map_err(|_| malformed()),
            "sha384" => bytes(48).map(Self::Sha384),
            "sha512" => bytes(64).map(Self::Sha512),
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Sha256(digest) => return write!(f, "{digest}"),
            Self::Sha384(bytes) => ("sha384", bytes),
            Self::Sha512(bytes) => ("sha512", bytes),
        };
        write!(f, "{name}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Checksum {
    /// Whether a blob of the store has it. Blocking: all of the blob is read.
    pub(super) fn is_of(&self, store: &Store, digest: &Digest) -> Result<bool, HttpError> {
        if let Self::Sha256(own) = self {
            return Ok(own == digest);
        }
        let Some(mut blob) = store.blobs().open(digest)? else { return Ok(false) };
        let mut sum = Summing::new(Some(self));
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = blob.read(&mut buffer).map_err(|source| HttpError::Read { digest: *digest, source })?;
            if count == 0 {
                return Ok(sum.finish().as_ref() == Some(self));
            }
            sum.update(&buffer[..count]);
        }
    }
}

/// A checksum while it is made. SHA-256 is the blob store's own business.
pub(super) enum Summing {
    Blob,
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Summing {
    pub fn new(checksum: Option<&Checksum>) -> Self {
        match checksum {
            Some(Checksum::Sha384(_)) => Self::Sha384(Sha384::new()),
            Some(Checksum::Sha512(_)) => Self::Sha512(Sha512::new()),
            _ => Self::Blob,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blob => {}
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The checksum of everything, when it is not the blob's own.
    pub fn finish(self) -> Option<Checksum> {
        match self {
            Self::Blob => None,
            Self::Sha384(hash) => Some(Checksum::Sha384(hash.finalize().to_vec())),
            Self::Sha512(hash) => Some(Checksum::Sha512(hash.finalize().to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_a_known_name_and_all_their_digits() {
        for (name, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            let text = format!("{name}:{}", "0a".repeat(digits / 2));
            assert_eq!(text.parse::<Checksum>().unwrap().to_string(), text);
            for wrong in [format!("{name}:{}", "a".repeat(digits - 1)), format!("{name}:{}", "A".repeat(digits))] {
                assert!(matches!(wrong.parse::<Checksum>(), Err(HttpError::Checksum { .. })), "{wrong}");
            }
        }
        for wrong in ["", "sha256", "sha256:", "md5:aa", "sha1:aa", "SHA256:aa", "sha256:é"] {
            assert!(wrong.parse::<Checksum>().is_err(), "{wrong}");
        }
    }
}
