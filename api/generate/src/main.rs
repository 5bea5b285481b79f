//! `rbuild-api-generate PROTO-FOLDER OUT-FOLDER`: Rust of every `*.proto`, `tree.rs` with their modules, and
//! `descriptors.bin`, what a server tells of its services (`google.protobuf.FileDescriptorSet`).

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(protos), Some(out)) = (words.next(), words.next()) else {
        return Err("usage: rbuild-api-generate PROTO-FOLDER OUT-FOLDER".into());
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&protos)? {
        files.push(entry?.path());
    }
    files.sort();
    let descriptors = protox::compile(&files, [&protos])?;
    let mut told = descriptors.clone();
    // Comments are for who reads the definitions.
    told.file.iter_mut().for_each(|file| file.source_code_info = None);
    std::fs::write(out.join("descriptors.bin"), told.encode_to_vec())?;
    tonic_prost_build::configure()
        // Encoded maps are in the order of their keys: the same message gives the same bytes.
        .btree_map(".")
        // Pieces of streams are passed on, not copied.
        .bytes(".moby.buildkit.v1.BytesMessage")
        .bytes(".moby.filesync.v1.BytesMessage")
        .bytes(".moby.sshforward.v1.BytesMessage")
        .bytes(".moby.upload.v1.BytesMessage")
        .bytes(".fsutil.types.Packet")
        .bytes(".containerd.services.content.v1.ReadContentResponse")
        .bytes(".containerd.services.content.v1.WriteContentRequest")
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .include_file("tree.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
