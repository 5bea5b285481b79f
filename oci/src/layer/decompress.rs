//! Compressed bytes come in, plain bytes go out, within a bounded memory.
//!
//! The format is told by the first bytes, never by a name. All of it happens in this process, by libraries: no `xz` or
//! `unpigz` from a path or an image is ever run (CVE-2014-9357, CVE-2026-41567). Output is limited by what the process
//! allows ([`super::bounds`]), memory here: a zstd window or an xz dictionary above [`WINDOW_MAX_BYTES`] is refused.

use std::io::{self, BufRead, Read};

use super::bounds::{Bounded, Bounds, Counted};
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

/// Reads `input` decompressed, whatever [`detect`] takes it for. Concatenated members and streams are read as one. Reading
/// fails with a [`super::Bomb`] when too much comes out of what was read so far.
pub fn decompress<'a>(input: impl BufRead + 'a) -> io::Result<(Format, Box<dyn Read + 'a>)> {
    decompress_sized(input, 0)
}

/// The same of an `input` that is known to have so many bytes: what comes out is compared with all of it.
pub fn decompress_sized<'a>(input: impl BufRead + 'a, size: u64) -> io::Result<(Format, Box<dyn Read + 'a>)> {
    decompress_within(input, size, Bounds::of_process())
}

fn decompress_within<'a>(
    input: impl BufRead + 'a,
    size: u64,
    bounds: Bounds,
) -> io::Result<(Format, Box<dyn Read + 'a>)> {
    let (mut input, read) = Counted::new(input);
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
    let output = decoder(format, whole)?;
    Ok((
        format,
        match format {
            Format::Plain => output,
            _ => Box::new(Bounded { output, bounds, size, read, given: 0 }),
        },
    ))
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

/// Reads a layer blob of `size` bytes decompressed. The media type must be that of a layer; like other clients, the bytes then decide
/// between plain, gzip and zstd, for registries hold layers whose media type is wrong about it (their diff_id is
/// checked either way). image-spec layer.md, "+gzip Media Types".
pub fn decompress_layer<'a>(
    layer_media_type: &str,
    size: u64,
    input: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    if !is_layer(layer_media_type) {
        let text = format!("`{}` is not the media type of a layer", layer_media_type.escape_debug());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    match decompress_sized(input, size)? {
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::layer::{Bomb, Codec, Compression};

    fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut encoder = Codec::new(compression).encoder(&mut packed).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap();
        packed
    }

    /// How many bytes come out, and whether a bomb ends them.
    fn unpacked(packed: &[u8], size: u64, free_bytes: u64) -> (u64, bool) {
        let bounds = Bounds { free_bytes, ..Bounds::DEFAULT };
        let (_, mut reader) = decompress_within(packed, size, bounds).unwrap();
        let (mut count, mut buffer) = (0, [0; 4096]);
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return (count, false),
                Ok(more) => count += more as u64,
                Err(error) => {
                    assert!(error.get_ref().is_some_and(|inner| inner.is::<Bomb>()), "{error}");
                    return (count, true);
                }
            }
        }
    }

    #[test]
    fn a_bomb_ends_where_it_becomes_one() {
        const BYTES: u64 = 8 << 20;
        let zeros = vec![0; BYTES as usize];
        // What no codec makes much smaller.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let dense: Vec<u8> = (0..100_000).map(|_| noise()).collect();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let bomb = packed(compression, &zeros);
            assert_eq!(unpacked(&bomb, 0, BYTES), (BYTES, false), "as much as is free");
            let (count, is_bomb) = unpacked(&bomb, bomb.len() as u64, 1 << 20);
            assert!(is_bomb && count < BYTES, "{compression}: {count}");
            // Zeros, then what is worth its bytes: whoever knows how much comes knows that it is none.
            let late = packed(compression, &[&zeros[..], &dense].concat());
            assert!(unpacked(&late, 0, 1 << 20).1, "{compression}: nobody knows what comes");
            assert!(!unpacked(&late, late.len() as u64, 1 << 20).1, "{compression}: it is known");
            let dense = packed(compression, &dense.repeat(2));
            assert!(!unpacked(&dense, 0, 1000).1, "{compression}: twice is not much");
        }
        assert_eq!(unpacked(&[7; 10_000], 0, 1), (10_000, false), "it is what it is");
    }
}
