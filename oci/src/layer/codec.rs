//! Which compression, how hard, and by which encoder.
//!
//! A [`Codec`] names everything that decides the bytes of a compressed layer, so that a blob can be remembered by
//! (diff_id, codec, level, encoder version) and never be made twice. Deliberately absent: reading, see
//! [`super::decompress`].

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use super::estargz;
use super::gzip::{BLOCK_BYTES, GzipEncoder};
use super::help::Help;
use super::zstd::{JOB_BYTES, USUAL_LEVEL, ZstdEncoder};
use crate::model::media_type;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all: its digest is its diff_id.
    None,
    /// gzip, what every reader has.
    Gzip,
    /// gzip in members, with a table of contents: see [`super::estargz`].
    Estargz,
    /// zstd.
    Zstd,
}

/// Whose names are used for the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// The OCI image specification.
    #[default]
    Oci,
    /// Docker's image manifest version 2, schema 2.
    Docker,
}

impl Compression {
    /// The media type of a layer so compressed.
    pub fn layer_media_type(self, dialect: Dialect) -> &'static str {
        match (dialect, self) {
            (Dialect::Oci, Self::None) => media_type::OCI_LAYER,
            (Dialect::Oci, Self::Gzip | Self::Estargz) => media_type::OCI_LAYER_GZIP,
            (Dialect::Oci, Self::Zstd) => media_type::OCI_LAYER_ZSTD,
            (Dialect::Docker, Self::None) => media_type::DOCKER_LAYER,
            (Dialect::Docker, Self::Gzip | Self::Estargz) => media_type::DOCKER_LAYER_GZIP,
            (Dialect::Docker, Self::Zstd) => media_type::DOCKER_LAYER_ZSTD,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Estargz => "estargz",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Compression {
    type Err = CodecError;

    /// The words of `-o …,compression=`.
    fn from_str(text: &str) -> Result<Self, CodecError> {
        match text {
            "uncompressed" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "estargz" => Ok(Self::Estargz),
            "zstd" => Ok(Self::Zstd),
            other => Err(CodecError::Unknown { name: other.to_owned() }),
        }
    }
}

/// A compression that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No such name.
    #[error("unknown compression `{name}`: `gzip`, `estargz`, `zstd` or `uncompressed` is expected")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// No such level.
    #[error("{compression} has no level {level}: {min} to {max} is expected")]
    Level {
        /// Of which compression.
        compression: Compression,
        /// What was asked for.
        level: i32,
        /// The lowest.
        min: i32,
        /// The highest.
        max: i32,
    },
}

/// A compression and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codec {
    compression: Compression,
    level: i32,
}

impl Codec {
    /// The usual level: zstd 3, as [`super::zstd`] has it; gzip and eStargz 5, at which layers become about as small as by
    /// gzip -6, in a third of its time.
    pub const fn new(compression: Compression) -> Self {
        let level = match compression {
            Compression::None => 0,
            Compression::Gzip | Compression::Estargz => 5,
            Compression::Zstd => USUAL_LEVEL,
        };
        Self { compression, level }
    }

    /// gzip and eStargz take 0 to 9, zstd 1 to 22 and 0 for the usual one, no compression takes 0.
    pub fn with_level(compression: Compression, level: i32) -> Result<Self, CodecError> {
        let (min, max) = match compression {
            Compression::None => (0, 0),
            Compression::Gzip | Compression::Estargz => (0, 9),
            Compression::Zstd if level == 0 => return Ok(Self::new(compression)),
            Compression::Zstd => (0, 22),
        };
        if !(min..=max).contains(&level) {
            return Err(CodecError::Level { compression, level, min, max });
        }
        Ok(Self { compression, level })
    }

    /// Which compression.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// How hard.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Names the program that makes the bytes: the same input, codec, level and encoder version give the same bytes.
    pub fn encoder_version(&self) -> String {
        match self.compression {
            Compression::None => "1".to_owned(),
            Compression::Gzip => format!("4 libdeflate {LIBDEFLATE_VERSION} blocks {BLOCK_BYTES}"),
            Compression::Estargz => {
                format!("{} libdeflate {LIBDEFLATE_VERSION} pieces {}", estargz::FORM, estargz::FORM_CHUNK_BYTES)
            }
            Compression::Zstd => format!("2 libzstd {} jobs {JOB_BYTES}", zstd::zstd_safe::version_number()),
        }
    }

    /// An encoder that writes to `out`, with as many threads as the machine has processors. Their number changes
    /// nothing but speed.
    ///
    /// # Errors
    /// Of eStargz, which is made of a tar as a whole: see [`super::estargz::write`].
    pub fn encoder<W: Write>(&self, out: W) -> io::Result<Encoder<W>> {
        self.encoder_helped(out, &Help::default())
    }

    /// The same; of gzip one that `help` helps.
    ///
    /// # Errors
    /// As [`Codec::encoder`].
    pub fn encoder_helped<W: Write>(&self, out: W, help: &Help) -> io::Result<Encoder<W>> {
        let threads = threads();
        Ok(match self.compression {
            Compression::Estargz => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "eStargz holds tars, and nothing else"));
            }
            Compression::None => Encoder::None(out),
            // A level that fits no u32 cannot be made: see `with_level`.
            Compression::Gzip => {
                Encoder::Gzip(GzipEncoder::new(out, self.level.unsigned_abs(), threads).helped_by(help))
            }
            Compression::Zstd => Encoder::Zstd(ZstdEncoder::new(out, self.level, threads)?),
        })
    }
}

/// As many as the machine has processors.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

/// The deflate library decides the bytes, so its version is part of [`Codec::encoder_version`]; a test compares it
/// with the lock file.
const LIBDEFLATE_VERSION: &str = "1.26.1";

/// Compresses what is written to it. Nothing is complete before [`Encoder::finish`].
pub enum Encoder<W: Write> {
    /// Passes bytes through.
    None(W),
    /// See [`GzipEncoder`].
    Gzip(GzipEncoder<W>),
    /// See [`ZstdEncoder`].
    Zstd(ZstdEncoder<W>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is left and gives the destination back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(mut out) => out.flush().map(|()| out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoder_version_names_the_locked_deflate_library() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        let wanted = format!("name = \"libdeflate-sys\"\nversion = \"{LIBDEFLATE_VERSION}\"\n");
        assert!(lock.contains(&wanted), "libdeflate moved: set LIBDEFLATE_VERSION, the digests of new layers change");
    }

    #[test]
    fn levels_outside_a_compression_are_refused() {
        for (name, level, fine) in [
            ("gzip", 0, true),
            ("gzip", 9, true),
            ("gzip", 10, false),
            ("gzip", -1, false),
            ("zstd", 22, true),
            ("zstd", 0, true),
            ("zstd", 23, false),
            ("estargz", 9, true),
            ("estargz", 10, false),
            ("uncompressed", 0, true),
            ("uncompressed", 1, false),
        ] {
            assert_eq!(Codec::with_level(name.parse().unwrap(), level).is_ok(), fine, "{name} {level}");
        }
        assert_eq!(Codec::with_level(Compression::Zstd, 0), Ok(Codec::new(Compression::Zstd)), "0 is the usual one");
        assert!("brotli".parse::<Compression>().unwrap_err().to_string().contains("`estargz`"));
    }
}
