//! Inputs before those that stand on them, whatever the order of a definition.
//!
//! A digest cannot name itself, so a circle would be a broken hash; it is found all the same, as nothing of a client is
//! believed. No recursion: depth is the client's choice.

/// What `start` stands on, itself included, inputs first; in the order of the numbers if that will do.
///
/// # Errors
/// A number on a circle.
pub(super) fn order(count: usize, start: &[usize], inputs: impl Fn(usize) -> Vec<usize>) -> Result<Vec<usize>, usize> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Seen {
        Not,
        Open,
        Done,
    }
    let mut seen = vec![Seen::Not; count];
    let mut done = Vec::new();
    for &start in start {
        if seen[start] != Seen::Not {
            continue;
        }
        seen[start] = Seen::Open;
        let mut way = vec![(start, inputs(start).into_iter())];
        while let Some((at, rest)) = way.last_mut() {
            match rest.next() {
                Some(next) => match seen[next] {
                    Seen::Done => {}
                    Seen::Open => return Err(next),
                    Seen::Not => {
                        seen[next] = Seen::Open;
                        way.push((next, inputs(next).into_iter()));
                    }
                },
                None => {
                    seen[*at] = Seen::Done;
                    done.push(*at);
                    way.pop();
                }
            }
        }
    }
    if done.iter().all(|&at| inputs(at).iter().all(|input| *input < at)) {
        done.sort_unstable();
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::order;

    fn check(graph: &[&[usize]], start: &[usize], expected: Result<&[usize], usize>) {
        let found = order(graph.len(), start, |at| graph[at].to_vec());
        assert_eq!(found.as_deref().map_err(|at| *at), expected, "{graph:?}");
    }

    #[test]
    fn inputs_come_first_and_circles_are_found() {
        check(&[&[]], &[0], Ok(&[0]));
        check(&[&[], &[0], &[0, 1, 1]], &[2], Ok(&[0, 1, 2]));
        check(&[&[], &[], &[0], &[1]], &[3], Ok(&[1, 3]));
        // Written the other way round.
        check(&[&[1], &[2], &[]], &[0], Ok(&[2, 1, 0]));
        check(&[&[2], &[], &[1]], &[0, 1], Ok(&[1, 2, 0]));
        check(&[&[0]], &[0], Err(0));
        check(&[&[1], &[2], &[1]], &[0], Err(1));
        check(&[&[1], &[2], &[1], &[]], &[3], Ok(&[3]));
        check(&[], &[], Ok(&[]));
    }

    #[test]
    fn depth_takes_no_stack() {
        let count = 300_000;
        let found = order(count, &[count - 1], |at| at.checked_sub(1).into_iter().collect());
        assert_eq!(found.map(|order| order.len()), Ok(count));
    }
}
