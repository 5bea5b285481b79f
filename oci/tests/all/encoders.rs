//! The bytes of compressed layers: pinned, the same on every processor, read by others.

use std::io::Write as _;
use std::process::Command;

use rbuild_oci::layer::tar::{Entry, Kind, TarWriter, Time};
use rbuild_oci::layer::{Codec, Compression, Help, estargz};
use rbuild_oci::model::Digest;

use crate::support::run;

/// What layers are made of, in 2.5 MiB: words, noise, zeros, records, and noise that comes again.
fn sample() -> Vec<u8> {
    let mut state = 1u64;
    let mut number = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<String> = (0..800).map(|_| format!("{:x} ", number() >> (20 + number() % 30))).collect();
    let mut bytes = Vec::new();
    let text = |bytes: &mut Vec<u8>, number: &mut dyn FnMut() -> u64, count: usize| {
        let end = bytes.len() + count;
        while bytes.len() < end {
            bytes.extend_from_slice(words[(number() % 800) as usize].as_bytes());
        }
    };
    text(&mut bytes, &mut number, 900_000);
    let noise: Vec<u8> = (0..50_000).flat_map(|_| number().to_le_bytes()).collect();
    bytes.extend_from_slice(&noise);
    bytes.resize(bytes.len() + 400_000, 0);
    for row in 0..20_000u32 {
        bytes.extend_from_slice(&row.to_le_bytes());
        bytes.extend_from_slice(&(number() as u32 % 1000).to_be_bytes());
        bytes.extend_from_slice(b"\0\x7fELF\x02\x01\x01");
    }
    bytes.extend_from_slice(&noise[..200_000]);
    text(&mut bytes, &mut number, 300_000);
    bytes
}

fn packed(bytes: &[u8], compression: Compression, level: i32) -> Vec<u8> {
    let mut out = Vec::new();
    if compression == Compression::Estargz {
        let mut tar = TarWriter::new(Vec::new());
        let kind = Kind::File { size: bytes.len() as u64, sparse: None };
        let mtime = Time::default();
        tar.begin(&Entry { path: b"a".to_vec(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: vec![] }).unwrap();
        tar.write_all(bytes).unwrap();
        let tar = tar.finish().unwrap().0;
        estargz::write(&tar[..], level.unsigned_abs(), 2, &Help::default(), &mut out).unwrap();
        return out;
    }
    let codec = Codec::with_level(compression, level).unwrap();
    let mut encoder = codec.encoder(&mut out).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap();
    out
}

/// Whoever changes one of these changes the digests of all layers that are made from then on, and therefore
/// `Codec::encoder_version`.
#[test]
fn bytes_are_pinned() {
    let sample = sample();
    let expected = [
        (Compression::Gzip, 0, "bb8f6324694d838b"),
        (Compression::Gzip, 1, "dc65f0e918864ab0"),
        (Compression::Gzip, 5, "d2f4c72717d69783"),
        (Compression::Gzip, 6, "66756538eba80675"),
        (Compression::Gzip, 9, "3ee8e7d1b81f454a"),
        (Compression::Estargz, 5, "558946da84b95b8b"),
        (Compression::Zstd, 3, "900c4ae82091f1db"),
    ];
    let found = expected.map(|(compression, level, _)| {
        (compression, level, Digest::of(&packed(&sample, compression, level)).to_string()[7..23].to_owned())
    });
    assert_eq!(found, expected.map(|(compression, level, digest)| (compression, level, digest.to_owned())));
}

/// The same test once more, on a processor without any of the newer instructions: QEMU's, whose oldest x86-64 has SSE2
/// and nothing since.
#[test]
fn an_old_processor_makes_the_same_bytes() {
    if cfg!(not(target_arch = "x86_64")) {
        println!("skipped: other processors have no such choice");
        return;
    }
    let mut emulated = Command::new("qemu-x86_64-static");
    emulated.args(["-cpu", "qemu64"]).arg(std::env::current_exe().unwrap());
    emulated.args(["--exact", "encoders::bytes_are_pinned", "--test-threads=1"]);
    let ran = emulated.output().expect("tests/setup.sh installs it");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn others_read_all_members_of_gzip() {
    let sample = sample();
    let python = "import gzip, sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    for level in [0, 1, 5, 9] {
        let packed = packed(&sample, Compression::Gzip, level);
        assert!(run("gzip", &["-dc"], &packed) == sample, "gzip, level {level}");
        assert!(run("python3", &["-c", python], &packed) == sample, "python, level {level}");
        assert!(run("gzip", &["-t"], &packed).is_empty(), "level {level}");
    }
}
