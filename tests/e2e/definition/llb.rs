//! Definitions by hand, as clients of the low-level builder marshal them.

use api::pb;
use api::pb::file_action::Action;
use api::pb::op::Op;
use oci::model::Digest;
use prost::Message as _;

/// A definition that grows.
#[derive(Clone, Debug, Default)]
pub struct Llb {
    pub definition: pb::Definition,
}

/// An output of an operation.
pub type Output = (String, i64);

impl Llb {
    /// Adds an operation on these outputs, and returns its first one.
    pub fn add(&mut self, op: Op, inputs: &[&Output]) -> Output {
        let inputs = inputs.iter().map(|(digest, index)| pb::Input { digest: digest.clone(), index: *index });
        let bytes = pb::Op { op: Some(op), inputs: inputs.collect(), ..pb::Op::default() }.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        self.definition.def.push(bytes);
        (digest, 0)
    }

    pub fn source(&mut self, identifier: &str, attrs: &[(&str, &str)]) -> Output {
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.add(Op::Source(pb::SourceOp { identifier: identifier.to_owned(), attrs }), &[])
    }

    pub fn busybox(&mut self) -> Output {
        self.source("docker-image://docker.io/library/busybox:latest", &[])
    }

    /// `sh -c SCRIPT` on a tree.
    pub fn run(&mut self, on: &Output, script: &str) -> Output {
        let args = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let meta = pb::Meta { args, cwd: "/".into(), ..pb::Meta::default() };
        let root = pb::Mount { dest: "/".into(), ..pb::Mount::default() };
        self.add(Op::Exec(pb::ExecOp { meta: Some(meta), mounts: vec![root], ..pb::ExecOp::default() }), &[on])
    }

    /// Files onto a tree.
    pub fn copy(&mut self, onto: &Output, from: &Output, src: &str, dest: &str) -> Output {
        let copy = pb::FileActionCopy {
            src: src.into(),
            dest: dest.into(),
            mode: -1,
            timestamp: -1,
            create_dest_path: true,
            dir_copy_contents: true,
            ..pb::FileActionCopy::default()
        };
        let action = pb::FileAction { input: 0, secondary_input: 1, output: 0, action: Some(Action::Copy(copy)) };
        self.add(Op::File(pb::FileOp { actions: vec![action] }), &[onto, from])
    }

    /// A tree of one file.
    pub fn file(&mut self, path: &str, data: &str) -> Output {
        let mkfile = pb::FileActionMkFile {
            path: path.into(),
            mode: 0o640,
            data: data.into(),
            timestamp: -1,
            ..pb::FileActionMkFile::default()
        };
        let action = pb::FileAction { input: -1, secondary_input: -1, output: 0, action: Some(Action::Mkfile(mkfile)) };
        self.add(Op::File(pb::FileOp { actions: vec![action] }), &[])
    }

    /// How people see an operation.
    pub fn name(&mut self, output: &Output, name: &str) {
        let meta = self.definition.metadata.entry(output.0.clone()).or_default();
        meta.description.insert("llb.customname".into(), name.into());
    }

    /// The definition, when this is wanted.
    pub fn want(mut self, (digest, index): &Output) -> pb::Definition {
        let input = pb::Input { digest: digest.clone(), index: *index };
        self.definition.def.push(pb::Op { inputs: vec![input], ..pb::Op::default() }.encode_to_vec());
        self.definition
    }
}
