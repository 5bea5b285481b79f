//! Graphs in few words; every vertex is named by its description.

use std::collections::{BTreeMap, HashMap};

use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{
    ContentCache, CopyAction, ExecOp, FileAction, FileActionKind, FileOp, MergeOp, Mount, MountKind, Op, OpMeta,
    SourceOp,
};

#[derive(Default)]
pub struct Sketch {
    pub graph: Graph,
    names: HashMap<String, VertexId>,
}

impl Sketch {
    /// The output 0 of `name`, or `name:2` for another.
    pub fn edge(&self, name: &str) -> Edge {
        if let Some(vertex) = self.names.get(name) {
            return Edge { vertex: *vertex, output: 0 };
        }
        let (name, output) = name.rsplit_once(':').expect("a vertex of that name");
        Edge { vertex: self.names[name], output: output.parse().expect("an output is a number") }
    }

    fn add(&mut self, name: &str, op: Op, inputs: &[&str], ignore_cache: bool) -> &mut Self {
        let inputs = inputs.iter().map(|input| self.edge(input)).collect();
        let meta = OpMeta { description: name.into(), ignore_cache, ..OpMeta::default() };
        let id = self.graph.add(Vertex { op, inputs, platform: None }, meta).expect("a sketch is a graph");
        self.names.insert(name.into(), id);
        self
    }

    pub fn source(&mut self, identifier: &str) -> &mut Self {
        let op = Op::Source(SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() });
        self.add(identifier, op, &[], false)
    }

    pub fn run(&mut self, name: &str, inputs: &[&str]) -> &mut Self {
        self.run_with(name, inputs, |_| {}, false)
    }

    /// The first input is the root, the others are mounted read-only.
    pub fn run_with(
        &mut self,
        name: &str,
        inputs: &[&str],
        change: impl FnOnce(&mut ExecOp),
        ignore_cache: bool,
    ) -> &mut Self {
        let mounts = (0..inputs.len().max(1)).map(|i| Mount {
            target: if i == 0 { "/".into() } else { format!("/in{i}") },
            input: (i < inputs.len()).then_some(i),
            selector: String::new(),
            output: (i == 0).then_some(0),
            readonly: i > 0,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        });
        let mut exec = ExecOp {
            args: vec!["/bin/sh".into(), "-c".into(), name.into()],
            env: [].into(),
            proxy_env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            mounts: mounts.collect(),
            network: Default::default(),
            security: Default::default(),
            secret_env: Vec::new(),
            extra_hosts: Vec::new(),
            hostname: String::new(),
            ulimits: Vec::new(),
            shm_size_bytes: 0,
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            devices: Vec::new(),
        };
        change(&mut exec);
        self.add(name, Op::Exec(Box::new(exec)), inputs, ignore_cache)
    }

    /// A process with two outputs: the root, and a second tree that it writes to.
    pub fn run_twofold(
        &mut self,
        name: &str,
        inputs: &[&str],
        change: impl FnOnce(&mut ExecOp),
        ignore: bool,
    ) -> &mut Self {
        let written = Mount {
            target: "/second".into(),
            input: None,
            selector: String::new(),
            output: Some(1),
            readonly: false,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        };
        let both = |exec: &mut ExecOp| {
            exec.mounts.push(written);
            change(exec);
        };
        self.run_with(name, inputs, both, ignore)
    }

    /// Copies `src` of the second input onto the first, or of the only one onto nothing.
    pub fn copy(&mut self, name: &str, src: &str, inputs: &[&str]) -> &mut Self {
        let (input, secondary) = if inputs.len() == 2 { (Some(0), 1) } else { (None, 0) };
        let copy = CopyAction { src: src.into(), dest: "/".into(), ..CopyAction::default() };
        let action =
            FileAction { input, secondary_input: Some(secondary), output: Some(0), kind: FileActionKind::Copy(copy) };
        self.add(name, Op::File(FileOp { actions: vec![action] }), inputs, false)
    }

    pub fn merge(&mut self, name: &str, inputs: &[&str]) -> &mut Self {
        self.add(name, Op::Merge(MergeOp::default()), inputs, false)
    }
}
