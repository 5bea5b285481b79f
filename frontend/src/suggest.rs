//! "Did you mean": the known word that is nearest to an unknown one.

use crate::meter;

/// Longer words are no typos of anything; this also bounds the work per pair.
const WORD_MAX_CHARS: usize = 40;
/// Hostile files have thousands of names; the first few hundred are enough to help people.
const CANDIDATES_MAX: usize = 300;

/// The candidate nearest to `word`, when one is near enough to be a slip of the finger: one edit in short words, two
/// from five letters on, three from nine. Case does not count. Edits are insertions, deletions, replacements and swaps of neighbours.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = word.chars().take(WORD_MAX_CHARS + 1).flat_map(char::to_lowercase).collect();
    if wanted.len() > WORD_MAX_CHARS || wanted.is_empty() {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().take(CANDIDATES_MAX) {
        let known: Vec<char> = candidate.chars().take(WORD_MAX_CHARS + 1).flat_map(char::to_lowercase).collect();
        let allowed = match wanted.len().min(known.len()) {
            0..=1 => 0,
            2..=4 => 1,
            5..=8 => 2,
            _ => 3,
        };
        if known.len() > WORD_MAX_CHARS || wanted.len().abs_diff(known.len()) > allowed {
            continue;
        }
        let distance = distance(&wanted, &known);
        // Equal words differ in case only: that is no typo to point at unless the caller asks about case.
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", when there is such an x.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|found| format!("did you mean `{found}`?"))
}

/// Optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    meter::tick(a.len() * b.len());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_and_never_far() {
        let instructions = ["RUN", "COPY", "ADD", "ENTRYPOINT", "EXPOSE", "CMD", "ENV", "ARG", "WORKDIR", "USER"];
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(nearest(word, instructions), expected, "{word}");
        };
        check("COYP", Some("COPY"));
        check("copi", Some("COPY"));
        check("RNU", Some("RUN"));
        check("ENTRYPONT", Some("ENTRYPOINT"));
        check("ENTRIPONIT", Some("ENTRYPOINT"));
        check("EXPOSED", Some("EXPOSE"));
        check("WORKDR", Some("WORKDIR"));
        check("apt-get", None);
        check("&&", None);
        check("", None);
        check("X", None);
        check(&"R".repeat(5000), None);
    }
}
