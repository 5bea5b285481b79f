//! The critical path of a build: the steps that it waited for, one after the other.
//!
//! In: when every step ran, and what it stands on. Out: [`Link`]s in the order of time, of which the last is the step that
//! ended last. A step waited for whatever ended last before it began: the last of its inputs; or, where it did not begin
//! then, the step that gave its place free; or, where it stands on nothing, what came before it. To make any other step
//! faster makes no build faster. Linear but for one sorting; deliberately absent: what a step did meanwhile.

/// A step begins so soon after what it waits for; the rest is looking up and handing over.
const AT_ONCE_US: u64 = 5_000;

/// When a step ran, in microseconds since the build began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub began_us: u64,
    /// When it ended.
    pub ended_us: u64,
    /// What it stands on, by their places in the list.
    pub inputs: Vec<usize>,
}

/// Why a step of the path began when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is the first.
    First,
    /// What it stands on was there then.
    Input,
    /// It could have begun before, and did when the step before it on the path had ended.
    Place,
    /// It stands on nothing that took time, and came after that.
    Order,
}

/// A step of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which.
    pub place: usize,
    /// Why it began then.
    pub cause: Cause,
    /// How long after the end of the one before it, or after the beginning of the build.
    pub gap_us: u64,
}

/// The critical path; `None` are those that took no time.
pub fn critical(spans: &[Option<Span>]) -> Vec<Link> {
    let mut by_end: Vec<usize> = (0..spans.len()).filter(|place| spans[*place].is_some()).collect();
    let span = |place: usize| spans[place].as_ref().expect("only those with a time are listed");
    by_end.sort_by_key(|place| (span(*place).ended_us, *place));
    let Some(mut at) = by_end.len().checked_sub(1) else { return Vec::new() };
    let (mut path, mut place) = (Vec::new(), by_end[at]);
    // What ended at the moment in which it began may not be its own reason.
    let mut taken = vec![false; spans.len()];
    loop {
        taken[place] = true;
        let own = span(place);
        let input = last_input(spans, own).filter(|input| !taken[*input]);
        // Ever further back: so it is linear.
        while at > 0 && (taken[by_end[at]] || span(by_end[at]).ended_us > own.began_us) {
            at -= 1;
        }
        let before = Some(by_end[at]).filter(|last| !taken[*last] && span(*last).ended_us <= own.began_us);
        let (next, cause) = match (input, before) {
            (Some(input), Some(before)) => {
                let waited = own.began_us - span(input).ended_us > AT_ONCE_US;
                let later = span(before).ended_us > span(input).ended_us;
                if waited && later { (before, Cause::Place) } else { (input, Cause::Input) }
            }
            (Some(input), None) => (input, Cause::Input),
            (None, Some(before)) => (before, Cause::Order),
            (None, None) => {
                path.push(Link { place, cause: Cause::First, gap_us: own.began_us });
                break;
            }
        };
        path.push(Link { place, cause, gap_us: own.began_us - span(next).ended_us });
        place = next;
    }
    path.reverse();
    path
}

/// The input that ended last, of those that had when it began.
fn last_input(spans: &[Option<Span>], of: &Span) -> Option<usize> {
    let timed = of.inputs.iter().copied().filter_map(|input| Some((input, spans.get(input)?.as_ref()?)));
    let ended = timed.filter(|(_, span)| span.ended_us <= of.began_us);
    ended.max_by_key(|(place, span)| (span.ended_us, *place)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::Cause::{First, Input, Order, Place};
    use super::{Cause, Link, Span, critical};

    /// Milliseconds in, milliseconds out.
    fn check(spans: &[(u64, u64, &[usize])], expected: &[(usize, Cause, u64)]) {
        // One that began and ended at 0 took no time.
        let spans = spans.iter().map(|(began, ended, inputs)| {
            let span = Span { began_us: began * 1000, ended_us: ended * 1000, inputs: inputs.to_vec() };
            (*ended > 0).then_some(span)
        });
        let found = critical(&spans.collect::<Vec<_>>());
        let expected =
            expected.iter().map(|(place, cause, gap)| Link { place: *place, cause: *cause, gap_us: gap * 1000 });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_chain_is_its_own_path() {
        check(&[], &[]);
        check(&[(0, 0, &[])], &[]);
        check(&[(3, 10, &[])], &[(0, First, 3)]);
        check(&[(0, 10, &[]), (10, 30, &[0]), (31, 40, &[1])], &[(0, First, 0), (1, Input, 0), (2, Input, 1)]);
    }

    #[test]
    fn of_parallel_steps_the_later_end_counts() {
        // Two stages side by side on one base, and a step that stands on both.
        let base: (u64, u64, &[usize]) = (0, 10, &[]);
        check(
            &[base, (10, 50, &[0]), (10, 90, &[0]), (90, 95, &[1, 2])],
            &[(0, First, 0), (2, Input, 0), (3, Input, 0)],
        );
        check(
            &[base, (10, 91, &[0]), (10, 90, &[0]), (91, 95, &[1, 2])],
            &[(0, First, 0), (1, Input, 0), (3, Input, 0)],
        );
        // What is longest alone is not on the path when nothing waits for it at the end.
        check(&[base, (10, 80, &[0]), (10, 20, &[0]), (20, 95, &[2])], &[(0, First, 0), (2, Input, 0), (3, Input, 0)]);
    }

    #[test]
    fn a_step_that_had_to_wait_for_a_place_follows_whoever_gave_it_free() {
        let base: (u64, u64, &[usize]) = (0, 10, &[]);
        check(&[base, (10, 60, &[0]), (60, 90, &[0])], &[(0, First, 0), (1, Input, 0), (2, Place, 0)]);
        // It was handed over at once, and what else ended then is not the reason.
        check(&[base, (0, 12, &[]), (14, 60, &[0])], &[(0, First, 0), (2, Input, 4)]);
        // It waited, but nothing had ended meanwhile.
        check(&[base, (10, 99, &[0]), (60, 100, &[0])], &[(0, First, 0), (2, Input, 50)]);
    }

    #[test]
    fn what_stands_on_nothing_follows_what_came_before() {
        // Resolving, a step on cached ones, the export.
        let steps: [(u64, u64, &[usize]); 4] = [(0, 20, &[]), (0, 0, &[]), (25, 60, &[1]), (61, 80, &[])];
        check(&steps, &[(0, First, 0), (2, Order, 5), (3, Order, 1)]);
        // An input that ended after it began says nothing.
        check(&[(0, 50, &[]), (10, 60, &[0])], &[(1, First, 10)]);
    }

    #[test]
    fn steps_without_length_end_the_search_all_the_same() {
        check(&[(5, 5, &[1]), (5, 5, &[0])], &[(0, First, 5), (1, Input, 0)]);
        let many: Vec<(u64, u64, &[usize])> = (0..50_000).map(|_| (7, 7, &[] as &[usize])).collect();
        let spans =
            many.iter().map(|(began, ended, _)| Some(Span { began_us: *began, ended_us: *ended, inputs: Vec::new() }));
        assert_eq!(critical(&spans.collect::<Vec<_>>()).len(), many.len());
    }
}
