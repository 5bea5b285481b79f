//! Merge, diff and build: operations on whole trees.

use api::pb;
use solver::op::{BuildOp, DiffOp};

use super::bounds::{NONE, index, number};
use super::error::Fault;

/// The builder that is the engine itself.
const LLB: &str = "llb";

/// Of a merge: which of so many inputs stands where, the lowest first.
pub(super) fn read_merge(merge: &pb::MergeOp, inputs: usize) -> Result<Vec<usize>, Fault> {
    let mut order = Vec::with_capacity(merge.inputs.len());
    for input in &merge.inputs {
        order.extend(index("a merge's input", input.input, inputs)?);
    }
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..inputs) {
        return Err(Fault::malformed(format!("it merges other trees than its {inputs} inputs")));
    }
    Ok(order)
}

/// Of so many inputs in their order.
pub(super) fn write_merge(inputs: usize) -> pb::MergeOp {
    pb::MergeOp { inputs: (0..inputs).map(|input| pb::MergeInput { input: number(Some(input)) }).collect() }
}

/// Reads a diff.
pub(super) fn read_diff(diff: &pb::DiffOp, inputs: usize) -> Result<DiffOp, Fault> {
    let (Some(lower), Some(upper)) = (&diff.lower, &diff.upper) else {
        return Err(Fault::malformed("it lacks one of the two trees"));
    };
    Ok(DiffOp {
        lower: index("the lower tree", lower.input, inputs)?,
        upper: index("the upper tree", upper.input, inputs)?,
    })
}

/// Writes a diff.
pub(super) fn write_diff(diff: &DiffOp) -> pb::DiffOp {
    pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: number(diff.lower) }),
        upper: Some(pb::UpperDiffInput { input: number(diff.upper) }),
    }
}

/// Reads a build in a build. Its definition comes from an input, never from the operation itself.
pub(super) fn read_build(build: &pb::BuildOp, inputs: usize) -> Result<BuildOp, Fault> {
    if build.builder != NONE {
        return Err(Fault::unsupported("a builder other than LLB"));
    }
    if build.def.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
        return Err(Fault::unsupported("a build with a definition in itself"));
    }
    let mut named = std::collections::BTreeMap::new();
    for (name, input) in &build.inputs {
        let found = index("a build's input", input.input, inputs)?;
        let found = found.ok_or_else(|| Fault::malformed(format!("the input `{}` is nothing", name.escape_debug())))?;
        named.insert(name.clone(), found);
    }
    Ok(BuildOp { builder: LLB.into(), inputs: named, attrs: build.attrs.clone().into_iter().collect() })
}

/// Writes a build in a build.
pub(super) fn write_build(build: &BuildOp) -> Result<pb::BuildOp, Fault> {
    if build.builder != LLB {
        return Err(Fault::unsupported(format!("the builder `{}`", build.builder)));
    }
    let input = |(name, input): (&String, &usize)| (name.clone(), pb::BuildInput { input: number(Some(*input)) });
    Ok(pb::BuildOp {
        builder: NONE,
        inputs: build.inputs.iter().map(input).collect(),
        def: None,
        attrs: build.attrs.clone().into_iter().collect(),
    })
}
