//! What is read is what was written, and what is wrong is said.

mod clients;
mod hostile;
mod plans;
mod random;

use api::pb;
use oci::model::Digest;
use prost::Message as _;
use solver::graph::{Edge, Graph};

use super::{Llb, LlbError, Options, read, write};

/// Definitions of operations by hand, as a client makes them.
#[derive(Clone, Debug, Default)]
struct Client {
    definition: pb::Definition,
}

impl Client {
    /// Adds an operation on these outputs of earlier ones, and says what it is called.
    fn add(&mut self, op: pb::op::Op, inputs: &[(&str, i64)]) -> String {
        self.add_op(pb::Op { op: Some(op), inputs: inputs_of(inputs), ..pb::Op::default() })
    }

    fn add_op(&mut self, op: pb::Op) -> String {
        let bytes = op.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        self.definition.def.push(bytes);
        digest
    }

    fn meta(&mut self, digest: &str) -> &mut pb::OpMetadata {
        self.definition.metadata.entry(digest.to_owned()).or_default()
    }

    /// The definition, when that is wanted.
    fn want(mut self, digest: &str, output: i64) -> pb::Definition {
        self.add_op(pb::Op { inputs: inputs_of(&[(digest, output)]), ..pb::Op::default() });
        self.definition
    }
}

fn inputs_of(inputs: &[(&str, i64)]) -> Vec<pb::Input> {
    inputs.iter().map(|(digest, index)| pb::Input { digest: (*digest).to_owned(), index: *index }).collect()
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::op::Op {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pb::op::Op::Source(pb::SourceOp { identifier: identifier.to_owned(), attrs })
}

/// A process on its first input, as clients write it.
fn exec(args: &[&str]) -> pb::ExecOp {
    let meta = pb::Meta {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        cwd: "/".into(),
        remove_mount_stubs_recursive: true,
        ..pb::Meta::default()
    };
    let root = pb::Mount { dest: "/".into(), ..pb::Mount::default() };
    pb::ExecOp { meta: Some(meta), mounts: vec![root], ..pb::ExecOp::default() }
}

fn read_default(definition: &pb::Definition) -> Result<Llb, LlbError> {
    read(definition, &Options::default())
}

/// What is written of a graph is read as the same graph, and written again as the same bytes.
fn check_round_trip(graph: &Graph, wants: &[Edge], what: &str) {
    let written = write(graph, wants, None).unwrap_or_else(|error| panic!("{what}: {error}"));
    if wants.is_empty() {
        assert!(written.definition.def.is_empty(), "{what}");
        return;
    }
    let bytes = written.definition.encode_to_vec();
    let sent = pb::Definition::decode(bytes.as_slice()).expect("it was encoded");
    let llb = read_default(&sent).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(llb.wants, wants, "{what}");
    let needed: std::collections::HashSet<_> = wants.iter().flat_map(|want| graph.beneath(*want)).collect();
    let known: Vec<_> = graph.iter().filter(|(id, _, _)| needed.contains(id)).collect();
    let found: Vec<_> = llb.graph.iter().collect();
    assert_eq!(found.len(), known.len(), "{what}");
    for (known, found) in known.iter().zip(&found) {
        assert_eq!((known.1, known.2), (found.1, found.2), "{what}");
        assert_eq!(known.0, found.0, "{what}");
        let digest = written.digests[&known.0];
        assert_eq!(llb.operation(&digest).map(|operation| operation.vertex), Some(known.0), "{what}");
    }
    let again = write(&llb.graph, &llb.wants, None).expect("it was written before");
    assert_eq!(again.definition, written.definition, "{what}");
}
