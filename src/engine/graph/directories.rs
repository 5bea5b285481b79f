//! The directories of a graph that lie with whoever sent it: `local://<name>` with attributes that say how its files come.
//!
//! In: a graph and, per such source, who brings its files. Out: the same graph, whose sources name what is brought and say
//! nothing else, with the list of it. One name may be asked for with several patterns; each is brought for itself. Where a
//! tree is needed that has layers (beneath a step, in a merge, as what is wanted), a copy of the directory takes its place.
//! Deliberately absent: bringing them ([`crate::engine::context`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{FileActionKind, FileOp, Op, OpMeta, SourceOp, attr};

use crate::engine::Failure;
use crate::options::theirs::{Files, TheirDirectory};

/// Only these paths, and what links among them lead to.
const FOLLOW_PATHS: &str = "local.followpaths";
/// Each is a transfer of its own.
const DIRECTORIES_MAX: usize = 256;

/// What is brought.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its name in the graph.
    pub name: String,
    /// The source that means it.
    pub vertex: VertexId,
    /// What people see.
    pub description: String,
    /// The directory.
    pub theirs: TheirDirectory,
    /// What of it.
    pub patterns: Patterns,
}

/// What of a directory is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// Only what matches one of these, if there are any.
    pub include: Vec<String>,
    /// Not what matches one of these.
    pub exclude: Vec<String>,
    /// Beside what is included, these paths with what links among them lead to.
    pub follow: Vec<String>,
}

impl Patterns {
    fn of(source: &SourceOp) -> Result<Self, Failure> {
        let list = |name: &str| match source.attrs.get(name).filter(|text| !text.is_empty()) {
            None => Ok(Vec::new()),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                Failure::new(format!("`{name}` of `{}` is no JSON list of texts", source.identifier.escape_debug()))
                    .note(error.to_string())
            }),
        };
        Ok(Self {
            include: list(attr::INCLUDE_PATTERNS)?,
            exclude: list(attr::EXCLUDE_PATTERNS)?,
            follow: list(FOLLOW_PATHS)?,
        })
    }
}

/// A graph whose directories are settled.
#[derive(Debug)]
pub struct Settled {
    /// The graph.
    pub graph: Graph,
    /// What is wanted of it, in the order asked.
    pub wants: Vec<Edge>,
    /// What every vertex of the given graph is now.
    pub vertices: HashMap<VertexId, VertexId>,
    /// What is to be brought.
    pub directories: Vec<Directory>,
}

/// Settles them. `files` has an entry for every source that is one; what stands `before` their names keeps them apart from
/// those of other graphs of the same build.
///
/// # Errors
/// For patterns that are none, and for too many directories.
pub fn settle(
    graph: &Graph,
    wants: &[Edge],
    files: &HashMap<VertexId, Arc<dyn Files>>,
    before: &str,
) -> Result<Settled, Failure> {
    let mut settling = Settling { made: Graph::new(), vertices: HashMap::new(), directories: Vec::new(), before };
    for (id, vertex, meta) in graph.iter() {
        let settled = match &vertex.op {
            Op::Source(source) if source.scheme() == "local" => settling.directory(&id, source, meta, files)?,
            op => {
                let inputs = vertex.inputs.iter().enumerate();
                let edge = |(at, edge): (usize, &Edge)| settling.edge(edge, reads_in_place(op, at));
                let inputs = inputs.map(edge).collect::<Result<_, _>>()?;
                settling.add(Vertex { op: op.clone(), inputs, platform: vertex.platform.clone() }, meta.clone())?
            }
        };
        settling.vertices.insert(id, settled);
    }
    let wants = wants.iter().map(|want| settling.edge(want, false)).collect::<Result<_, _>>()?;
    let Settling { made, vertices, directories, .. } = settling;
    Ok(Settled { graph: made, wants, vertices, directories })
}

/// Whether an operation takes a directory as it is from that input: it is copied from, or mounted beneath the root.
fn reads_in_place(op: &Op, input: usize) -> bool {
    match op {
        Op::File(file) => file.actions.iter().all(|action| {
            action.input != Some(input)
                && action.names_from() != Some(input)
                && (action.secondary_input != Some(input) || matches!(action.kind, FileActionKind::Copy(_)))
        }),
        Op::Exec(exec) => exec.mounts.iter().all(|mount| mount.input != Some(input) || mount.target != "/"),
        Op::Source(_) | Op::Merge(_) | Op::Diff(_) | Op::Build(_) => false,
    }
}

struct Settling<'a> {
    made: Graph,
    vertices: HashMap<VertexId, VertexId>,
    directories: Vec<Directory>,
    before: &'a str,
}

impl Settling<'_> {
    fn add(&mut self, vertex: Vertex, meta: OpMeta) -> Result<VertexId, Failure> {
        self.made.add(vertex, meta).map_err(|error| Failure::from_error(&error))
    }

    fn directory(
        &mut self,
        id: &VertexId,
        source: &SourceOp,
        meta: &OpMeta,
        files: &HashMap<VertexId, Arc<dyn Files>>,
    ) -> Result<VertexId, Failure> {
        let name = source.reference();
        let files = files.get(id).ok_or_else(|| Failure::new(format!("nobody brings the directory `{name}`")))?;
        let theirs = TheirDirectory { name: name.to_owned(), files: files.clone() };
        let patterns = Patterns::of(source)?;
        let same = |known: &&Directory| known.theirs == theirs && known.patterns == patterns;
        if let Some(known) = self.directories.iter().find(same) {
            return Ok(known.vertex);
        }
        if self.directories.len() >= DIRECTORIES_MAX {
            return Err(Failure::new(format!("these are more than {DIRECTORIES_MAX} directories of the client")));
        }
        let others = self.directories.iter().filter(|known| known.theirs.name == name).count();
        // Behind that letter stands a mark in names of results.
        let name = format!("{}{name}", self.before).replace('@', "_");
        let name = if others == 0 { name } else { format!("{name} #{}", others + 1) };
        let op = Op::Source(SourceOp { identifier: format!("local://{name}"), attrs: BTreeMap::new() });
        let vertex = self.add(Vertex { op, inputs: Vec::new(), platform: None }, meta.clone())?;
        if self.directories.iter().any(|known| known.vertex == vertex) {
            return Err(Failure::new(format!("there are two directories `{}`", name.escape_debug())));
        }
        let description = meta.description.clone();
        self.directories.push(Directory { name, vertex, description, theirs, patterns });
        Ok(vertex)
    }

    /// The edge in the graph that is made.
    fn edge(&mut self, edge: &Edge, in_place: bool) -> Result<Edge, Failure> {
        let vertex = *self
            .vertices
            .get(&edge.vertex)
            .ok_or_else(|| Failure::new(format!("what is wanted is not in the graph: {}", edge.vertex)))?;
        let is_directory = matches!(
            self.made.get(&vertex).map(|vertex| &vertex.op),
            Some(Op::Source(source)) if source.scheme() == "local"
        );
        if in_place || !is_directory {
            return Ok(Edge { vertex, output: edge.output });
        }
        let inputs = vec![Edge { vertex, output: 0 }];
        let op = Op::File(FileOp::copy_of_tree());
        let meta = OpMeta { description: "[internal] copy of the directory".into(), ..OpMeta::default() };
        Ok(Edge { vertex: self.add(Vertex { op, inputs, platform: None }, meta)?, output: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::BorrowedFd;

    use futures_util::future::BoxFuture;
    use solver::op::{CopyAction, FileAction, MergeOp};
    use solver::seam::LogSink;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::options::theirs::Wanted;

    struct Nobody;

    impl Files for Nobody {
        fn kept_as(&self, _: Wanted<'_>) -> Option<String> {
            None
        }

        fn bring<'a>(
            &'a self,
            _: Wanted<'a>,
            _: BorrowedFd<'a>,
            _: &'a (dyn LogSink + 'a),
        ) -> BoxFuture<'a, Result<(), Failure>> {
            Box::pin(async { Err(Failure::new("nobody")) })
        }

        fn stream(&self, _: &str, _: CancellationToken) -> io::Result<Box<dyn io::Read + Send>> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn local(graph: &mut Graph, name: &str, attrs: &[(&str, &str)]) -> Edge {
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        add(graph, Op::Source(SourceOp { identifier: format!("local://{name}"), attrs }), &[])
    }

    fn add(graph: &mut Graph, op: Op, inputs: &[Edge]) -> Edge {
        let vertex = Vertex { op, inputs: inputs.to_vec(), platform: None };
        Edge { vertex: graph.add(vertex, OpMeta::default()).expect("the graph is one"), output: 0 }
    }

    fn copy(graph: &mut Graph, from: Edge) -> Edge {
        let kind = FileActionKind::Copy(CopyAction { src: "/a".into(), dest: "/".into(), ..CopyAction::default() });
        let action = FileAction { input: None, secondary_input: Some(0), output: Some(0), kind };
        add(graph, Op::File(FileOp { actions: vec![action] }), &[from])
    }

    #[test]
    fn each_directory_is_brought_once_by_what_is_wanted_of_it() {
        let mut graph = Graph::new();
        let ids = [
            local(&mut graph, "context", &[("local.session", "s"), (FOLLOW_PATHS, r#"["a"]"#)]),
            local(&mut graph, "context", &[("local.session", "s"), (FOLLOW_PATHS, r#"["a"]"#), ("local.unique", "x")]),
            local(&mut graph, "context", &[(attr::EXCLUDE_PATTERNS, r#"["*.o"]"#)]),
            local(&mut graph, "other", &[(attr::INCLUDE_PATTERNS, r#"["b"]"#)]),
        ];
        let copies: Vec<Edge> = ids.iter().map(|id| copy(&mut graph, *id)).collect();
        let stacked = add(&mut graph, Op::Merge(MergeOp {}), &[copies[0], ids[3]]);
        let nobody: Arc<dyn Files> = Arc::new(Nobody);
        let files = ids.iter().map(|id| (id.vertex, nobody.clone())).collect();
        let settled = settle(&graph, &[stacked, copies[2], ids[0]], &files, "").expect("all is well formed");
        let found: Vec<_> =
            settled.directories.iter().map(|found| (found.name.as_str(), found.patterns.clone())).collect();
        let list = |path: &str| vec![path.to_owned()];
        assert_eq!(
            found,
            [
                ("context", Patterns { follow: list("a"), ..Patterns::default() }),
                ("context #2", Patterns { exclude: list("*.o"), ..Patterns::default() }),
                ("other", Patterns { include: list("b"), ..Patterns::default() }),
            ]
        );
        let op = |edge: &Edge| &settled.graph.get(&edge.vertex).expect("it is there").op;
        let merged = settled.graph.get(&settled.wants[0].vertex).expect("it is wanted");
        assert!(
            merged.inputs.iter().all(|input| matches!(op(input), Op::File(_))),
            "only trees with layers are stacked"
        );
        assert!(matches!(op(&settled.wants[2]), Op::File(_)), "and only those are results");
        let copied = settled.graph.get(&settled.wants[1].vertex).expect("it is wanted");
        assert!(matches!(op(&copied.inputs[0]), Op::Source(source) if source.attrs.is_empty()));
        assert_eq!(settled.vertices[&ids[0].vertex], settled.vertices[&ids[1].vertex], "they are one");

        let mut graph = Graph::new();
        let bad = local(&mut graph, "context", &[(FOLLOW_PATHS, "a")]);
        let failure = settle(&graph, &[bad], &[(bad.vertex, nobody)].into(), "").expect_err("this is no list");
        assert!(failure.problems[0].message.contains("is no JSON list"), "{failure:?}");
    }
}
