//! Did you mean: the known word nearest to a mistyped one.

/// The candidate that `word` was most likely meant to be, if one is near enough to be worth saying. Among equally near
/// ones the first wins.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in a short word, two in a longer one; more would suggest words that share nothing.
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(super::nearest(word, ["build", "images", "import", "rmi", "run"]), expected, "{word}");
        };
        check("imgaes", Some("images"));
        check("buld", Some("build"));
        check("rni", Some("rmi"));
        check("prune", None);
        check("x", None);
    }
}
