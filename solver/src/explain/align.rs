//! Which step of an earlier build a step corresponds to.
//!
//! Stages are matched by name, those that are left by what they have in common. Within a stage the steps are aligned
//! like the lines of two texts: equal operations first, then operations of the same kind that look alike, so that an
//! instruction put in between leaves everything else where it was. Each step has at most one partner, and no two pairs
//! of one stage cross.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::{Place, Step, instruction, parts};

/// An equal operation outweighs whatever else could be paired.
const EQUAL: u32 = 1000;
/// The same instruction.
const ALIKE: u32 = 10;
/// More pairs of steps than this are not weighed against each other: they are paired in order.
const WEIGHED_MAX: usize = 1_000_000;
/// More stages without a namesake than this are paired in order.
const STAGES_MAX: usize = 64;

/// What one step is compared by.
struct Mark<'a> {
    place: usize,
    operation: u64,
    instruction: &'a str,
    text: &'a str,
}

/// The steps of one stage, in order.
type Stage<'a> = (&'a str, Vec<Mark<'a>>);

/// Per step of `new` the place of its partner in `old`.
pub fn align(new: &[Step], old: &[Step]) -> Vec<Option<usize>> {
    let mut pairs = vec![None; new.len()];
    let (new, old) = (stages(new), stages(old));
    for (a, b) in pair_stages(&new, &old) {
        pair_steps(&new[a].1, &old[b].1, &mut pairs);
    }
    pairs
}

fn stages(steps: &[Step]) -> Vec<Stage<'_>> {
    let mut stages: Vec<Stage<'_>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (place, step) in steps.iter().enumerate() {
        let at = Place::of(&step.name);
        // What has no place is a group of its own: `[internal]`, `[context x]`, images of `--from`.
        let stage = at.map_or("\0", |at| at.stage);
        let mut hash = DefaultHasher::new();
        for part in parts::own(&step.parts) {
            (&part.name, &part.value).hash(&mut hash);
        }
        let text = at.map_or(step.name.as_str(), |at| at.text);
        let mark = Mark { place, operation: hash.finish(), instruction: instruction(&step.name), text };
        let index = *known.entry(stage).or_insert_with(|| {
            stages.push((stage, Vec::new()));
            stages.len() - 1
        });
        stages[index].1.push(mark);
    }
    stages
}

fn pair_stages(new: &[Stage<'_>], old: &[Stage<'_>]) -> Vec<(usize, usize)> {
    let by_name: HashMap<&str, usize> = old.iter().enumerate().map(|(place, (name, _))| (*name, place)).collect();
    let mut pairs: Vec<(usize, usize)> =
        new.iter().enumerate().filter_map(|(a, (name, _))| by_name.get(name).map(|b| (a, *b))).collect();
    let mut free_new: Vec<usize> = (0..new.len()).filter(|a| pairs.iter().all(|pair| pair.0 != *a)).collect();
    let mut free_old: Vec<usize> = (0..old.len()).filter(|b| pairs.iter().all(|pair| pair.1 != *b)).collect();
    if free_new.len().max(free_old.len()) <= STAGES_MAX {
        let common = |a: usize, b: usize| {
            let known: std::collections::HashSet<u64> = old[b].1.iter().map(|mark| mark.operation).collect();
            new[a].1.iter().filter(|mark| known.contains(&mark.operation)).count()
        };
        while let Some((most, a, b)) = free_new
            .iter()
            .flat_map(|a| free_old.iter().map(|b| (common(*a, *b), *a, *b)))
            .max_by_key(|(count, a, b)| (*count, std::cmp::Reverse((*a, *b))))
        {
            if most == 0 {
                break;
            }
            pairs.push((a, b));
            free_new.retain(|other| *other != a);
            free_old.retain(|other| *other != b);
        }
    }
    pairs.extend(free_new.into_iter().zip(free_old));
    pairs
}

fn pair_steps(mut new: &[Mark<'_>], mut old: &[Mark<'_>], pairs: &mut [Option<usize>]) {
    while let ([a, rest_new @ ..], [b, rest_old @ ..]) = (new, old)
        && a.operation == b.operation
    {
        pairs[a.place] = Some(b.place);
        (new, old) = (rest_new, rest_old);
    }
    while let ([rest_new @ .., a], [rest_old @ .., b]) = (new, old)
        && a.operation == b.operation
    {
        pairs[a.place] = Some(b.place);
        (new, old) = (rest_new, rest_old);
    }
    if new.len().saturating_mul(old.len()) > WEIGHED_MAX {
        let alike = new.iter().zip(old).filter(|(a, b)| a.instruction == b.instruction);
        for (a, b) in alike {
            pairs[a.place] = Some(b.place);
        }
        return;
    }
    weigh(new, old, pairs);
}

/// The heaviest alignment (Needleman and Wunsch, without a price for gaps).
fn weigh(new: &[Mark<'_>], old: &[Mark<'_>], pairs: &mut [Option<usize>]) {
    let width = old.len() + 1;
    let mut best = vec![0_u32; (new.len() + 1) * width];
    for a in (0..new.len()).rev() {
        for b in (0..old.len()).rev() {
            let skipped = best[(a + 1) * width + b].max(best[a * width + b + 1]);
            let weight = weight(&new[a], &old[b]);
            let paired = if weight == 0 { 0 } else { weight + best[(a + 1) * width + b + 1] };
            best[a * width + b] = skipped.max(paired);
        }
    }
    let (mut a, mut b) = (0, 0);
    while a < new.len() && b < old.len() {
        let here = best[a * width + b];
        let weight = weight(&new[a], &old[b]);
        if weight > 0 && here == weight + best[(a + 1) * width + b + 1] {
            pairs[new[a].place] = Some(old[b].place);
            (a, b) = (a + 1, b + 1);
        } else if here == best[(a + 1) * width + b] {
            a += 1;
        } else {
            b += 1;
        }
    }
}

fn weight(a: &Mark<'_>, b: &Mark<'_>) -> u32 {
    if a.operation == b.operation {
        return EQUAL;
    }
    if a.instruction != b.instruction {
        return 0;
    }
    let common = a.text.bytes().zip(b.text.bytes()).take_while(|(a, b)| a == b).count();
    let longest = a.text.len().max(b.text.len()).max(1);
    // A share of ten, so that it is never more than an equal operation.
    ALIKE + u32::try_from(common * 10 / longest).unwrap_or(10)
}
