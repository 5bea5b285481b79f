//! Why a definition is not taken or cannot be written: which operation, what is wrong with it, and what that is to a client.

use std::fmt;

use oci::model::Digest;

/// What a fault is to a client; the names are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The definition is wrong, here and everywhere.
    InvalidArgument,
    /// It may be right, but nobody here can do it.
    Unimplemented,
    /// It is larger than what is taken.
    ResourceExhausted,
}

/// Which operation of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position among the definition's operations, from 0.
    pub position: usize,
    /// Of its bytes.
    pub digest: Digest,
    /// What people call it; empty when it cannot be told.
    pub name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} ", self.position)?;
        if !self.name.is_empty() {
            write!(f, "`{}` ", self.name.escape_debug())?;
        }
        write!(f, "({})", self.digest)
    }
}

/// What is wrong with one operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An index leads nowhere.
    #[error("{what} is {index}, and there are {limit}")]
    Index {
        /// Which index.
        what: &'static str,
        /// What it says.
        index: i64,
        /// What it may say at most, exclusive.
        limit: usize,
    },
    /// It contradicts itself, or lacks something.
    #[error("{what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// It asks for something that nobody here can do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What it asks for.
        what: String,
    },
}

impl Fault {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

/// Why a definition is not taken, or a graph not written.
#[derive(Debug, thiserror::Error)]
pub enum LlbError {
    /// Nothing in it.
    #[error("the definition is empty")]
    Empty,
    /// Its last operation does something, or wants nothing.
    #[error("the definition does not end with what is wanted: {op} is the last one, and should only name its inputs")]
    NoTerminal {
        /// The last operation.
        op: Place,
    },
    /// Too much of something.
    #[error("the definition has {found} {what}, and {limit} are the limit")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes that are no operation.
    #[error("{op} cannot be decoded: {source}")]
    Undecodable {
        /// Which.
        op: Place,
        /// Why.
        source: prost::DecodeError,
    },
    /// The same operation twice.
    #[error("{op} is there twice, first as operation {first}")]
    Duplicate {
        /// The later one.
        op: Place,
        /// Position of the earlier one.
        first: usize,
    },
    /// An input that is not in the definition.
    #[error("{op} stands on `{input}`, which is not in the definition")]
    MissingInput {
        /// Whose input.
        op: Place,
        /// What it says.
        input: String,
    },
    /// An output that its operation does not have.
    #[error("{op} stands on output {output} of operation {input}, which has {outputs}")]
    NoSuchOutput {
        /// Who.
        op: Place,
        /// The output.
        output: i64,
        /// Position of the operation that lacks it.
        input: usize,
        /// How many there are.
        outputs: u32,
    },
    /// An operation that stands on itself.
    #[error("{op} stands on itself")]
    Cycle {
        /// One on the circle.
        op: Place,
    },
    /// An operation that is not known here.
    #[error("{op} is of an unknown kind")]
    UnknownOperation {
        /// Which.
        op: Place,
    },
    /// A capability that is not known here.
    #[error("{op} needs the capability `{cap}`, which this builder does not have")]
    UnknownCapability {
        /// Which.
        op: Place,
        /// What it needs.
        cap: String,
    },
    /// Something else is wrong with an operation.
    #[error("{op}: {fault}")]
    Operation {
        /// Which.
        op: Place,
        /// What.
        fault: Fault,
    },
    /// The graph refuses a vertex.
    #[error("{op}: {source}")]
    Graph {
        /// Which.
        op: Place,
        /// Why.
        source: solver::graph::GraphError,
    },
    /// A vertex that a definition cannot say.
    #[error("`{name}` cannot be written as a definition: {fault}")]
    Unwritable {
        /// The vertex as people see it.
        name: String,
        /// Why.
        fault: Fault,
    },
}

impl LlbError {
    /// What a client is told.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::UnknownOperation { .. }
            | Self::UnknownCapability { .. }
            | Self::Unwritable { .. }
            | Self::Operation { fault: Fault::Unsupported { .. }, .. } => Code::Unimplemented,
            Self::Empty
            | Self::NoTerminal { .. }
            | Self::Undecodable { .. }
            | Self::Duplicate { .. }
            | Self::MissingInput { .. }
            | Self::NoSuchOutput { .. }
            | Self::Cycle { .. }
            | Self::Operation { .. }
            | Self::Graph { .. } => Code::InvalidArgument,
        }
    }
}
