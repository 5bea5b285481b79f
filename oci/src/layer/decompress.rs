//! Compressed bytes come in, plain bytes go out, within a bounded memory.
//!
//! The format is told by the first bytes, never by a name. All of it happens in this process, by libraries: no `xz` or
//! `unpigz` from a path or an image is ever run (CVE-2014-9357, CVE-2026-41567). Output is limited by whoever reads it
//! ([`super::tar::Limits`]), memory here: a zstd window or an xz dictionary above [`WINDOW_MAX_BYTES`] is refused.

use std::io::{self, BufRead, Read};

use crate::model::media_type;

/// 128 MiB: what `zstd --ultra -22` and `xz -9` need, and what `zstd -d` allows without asking.
pub const WINDOW_MAX_BYTES: u64 = 1 << WINDOW_MAX_LOG;
const WINDOW_MAX_LOG: u32 = 27;
/// As much as the longest magic needs.
const MAGIC_BYTES: usize = 6;

/// What compressed bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Nothing known: plain bytes.
    Plain,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// RFC 8878.
    Zstd,
}

/// Tells the format by its first bytes; fewer than six are fine.
pub fn detect(first: &[u8]) -> Format {
    match first {
        [0x1f, 0x8b, 0x08, ..] => Format::Gzip,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
        // A skippable frame may come first.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        _ => Format::Plain,
    }
}

/// Reads `input` decompressed, whatever [`detect`] takes it for. Concatenated members and streams are read as one.
pub fn decompress<'a>(mut input: impl BufRead + 'a) -> io::Result<(Format, Box<dyn Read + 'a>)> {
    let mut first = [0; MAGIC_BYTES];
    let mut count = 0;
    while count < MAGIC_BYTES {
        match input.read(&mut first[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let format = detect(&first[..count]);
    let whole = io::Cursor::new(first).take(count as u64).chain(input);
    Ok((format, decoder(format, whole)?))
}

fn decoder<'a>(format: Format, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match format {
        Format::Plain => Box::new(input),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Format::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, (WINDOW_MAX_BYTES / 1024) as u32)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(WINDOW_MAX_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Reads a layer blob decompressed. The media type must be that of a layer; like other clients, the bytes then decide
/// between plain, gzip and zstd, for registries hold layers whose media type is wrong about it (their diff_id is
/// checked either way). image-spec layer.md, "+gzip Media Types".
pub fn decompress_layer<'a>(layer_media_type: &str, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    if !is_layer(layer_media_type) {
        let text = format!("`{}` is not the media type of a layer", layer_media_type.escape_debug());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    match decompress(input)? {
        (Format::Plain | Format::Gzip | Format::Zstd, reader) => Ok(reader),
        (format, _) => {
            let text = format!("a layer is compressed with gzip or zstd, this one with {format:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

/// Layers whose license forbids their distribution; image-spec has deprecated them.
const FOREIGN: [&str; 5] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Whether a media type is that of a layer which must not be distributed. image-spec layer.md, "Non-Distributable
/// Layers".
pub fn is_foreign(layer_media_type: &str) -> bool {
    FOREIGN.contains(&layer_media_type)
}

/// Whether a media type is that of a layer, those that must not be distributed included.
pub fn is_layer(layer_media_type: &str) -> bool {
    use media_type::*;
    [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD]
        .contains(&layer_media_type)
        || is_foreign(layer_media_type)
}
