//! What words expand to: every operator, quotes, escapes, and every way to write it wrong.

use rbuild_frontend::expand::{Budget, ExpandError, Expansion, Lookup, Rules, expand, expand_words};

struct Variables;

impl Lookup for Variables {
    fn value(&self, name: &str) -> Option<&str> {
        Some(match name {
            "A" => "alpha",
            "EMPTY" => "",
            "N1" => "1",
            "PATHY" => "/usr/local/lib/libfoo.so.1",
            "S" => "two words",
            "QUOTE" => "a\"b",
            "DOLLAR" => "$A",
            "U" => "äöü",
            "NL" => "x\ny",
            "BS" => "a\\b",
            "STAR" => "a*b?c",
            "X" => "xxabcxxabcxx",
            "BRACE" => "a}b/c",
            "_u" => "under",
            "7" => "seven",
            "@" => "at",
            _ => return None,
        })
    }
}

fn value(text: &str, rules: Rules) -> Result<Expansion, ExpandError> {
    expand(text, rules, &Variables, &Budget::new(1 << 30))
}

#[track_caller]
fn check(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let found = value(text, Rules::ordinary('\\')).map(|expansion| expansion.text);
        assert_eq!(found.as_deref(), Ok(*expected), "{text}");
    }
}

#[test]
fn words_without_variables() {
    check(&[
        ("", ""),
        ("a", "a"),
        ("a b", "a b"),
        ("  a  ", "  a  "),
        ("'a'", "a"),
        ("\"a\"", "a"),
        ("''", ""),
        ("\"\"", ""),
        ("a'b'c", "abc"),
        ("a\"b\"c", "abc"),
        ("'a b'", "a b"),
        ("'a\"b'", "a\"b"),
        ("\"a'b\"", "a'b"),
        ("'a\\b'", "a\\b"),
        ("'a\\'", "a\\"),
        ("\"a\\b\"", "a\\b"),
        ("\"a\\\"b\"", "a\"b"),
        ("\"a\\\\b\"", "a\\b"),
        ("\"a\\$b\"", "a$b"),
        ("a\\b", "ab"),
        ("a\\ b", "a b"),
        ("a\\\\b", "a\\b"),
        ("a\\'b", "a'b"),
        ("a\\\"b", "a\"b"),
        ("a\\", "a"),
        ("\\", ""),
        ("ä'ö'ü", "äöü"),
        ("\\ä", "ä"),
        ("a#b", "a#b"),
        ("~", "~"),
        ("*", "*"),
        ("`ls`", "`ls`"),
        ("{a,b}", "{a,b}"),
        ("}", "}"),
        ("$", "$"),
        ("a$", "a$"),
        ("$ a", "$ a"),
        ("a$.b", "a$.b"),
        ("$(ls)", "$(ls)"),
        ("\\$A", "$A"),
        ("'$A'", "$A"),
        ("\\${A}", "${A}"),
    ]);
}

#[test]
fn plain_variables() {
    check(&[
        ("$A", "alpha"),
        ("${A}", "alpha"),
        ("$A$A", "alphaalpha"),
        ("${A}x", "alphax"),
        ("$Ax", ""),
        ("$A.x", "alpha.x"),
        ("$A/x", "alpha/x"),
        ("$A-x", "alpha-x"),
        ("x$A", "xalpha"),
        ("$_u", "under"),
        ("\"$A\"", "alpha"),
        ("\"${A} x\"", "alpha x"),
        ("'x'$A\"y\"", "xalphay"),
        ("$EMPTY", ""),
        ("$NOPE", ""),
        ("${NOPE}", ""),
        ("a${NOPE}b", "ab"),
        ("$S", "two words"),
        ("$QUOTE", "a\"b"),
        ("$DOLLAR", "$A"),
        ("$U", "äöü"),
        ("$BS", "a\\b"),
        ("$NL", "x\ny"),
        ("$7", "seven"),
        ("$78", ""),
        ("$7x", "sevenx"),
        ("$@", "at"),
        ("${@}", "at"),
        ("$#x", "x"),
        ("$?", ""),
        ("$!", ""),
        ("$*", ""),
        ("$$", ""),
        ("$$A", "A"),
        ("$-", ""),
        ("$A\\$A", "alpha$A"),
        ("\\\\$A", "\\alpha"),
        ("\\\\\\$A", "\\$A"),
    ]);
}

#[test]
fn defaults_and_alternatives() {
    check(&[
        ("${A-x}", "alpha"),
        ("${A:-x}", "alpha"),
        ("${EMPTY-x}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NOPE-x}", "x"),
        ("${NOPE:-x}", "x"),
        ("${NOPE-}", ""),
        ("${NOPE:-}", ""),
        ("${A+x}", "x"),
        ("${A:+x}", "x"),
        ("${EMPTY+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${NOPE+x}", ""),
        ("${NOPE:+x}", ""),
        ("${A?x}", "alpha"),
        ("${A:?x}", "alpha"),
        ("${EMPTY?x}", ""),
        ("${NOPE:-a b}", "a b"),
        ("${NOPE:-'a b'}", "a b"),
        ("${NOPE:-\"a b\"}", "a b"),
        ("${NOPE:-$A}", "alpha"),
        ("${NOPE:-${A}}", "alpha"),
        ("${NOPE:-${NOPE2:-${A}}}", "alpha"),
        ("${NOPE:-\"${A} x\"}y", "alpha xy"),
        ("${NOPE:-'$A'}", "$A"),
        ("${NOPE:-\\}}", "}"),
        ("${NOPE:-a\\ b}", "a b"),
        ("${NOPE:--x}", "-x"),
        ("${NOPE--x}", "-x"),
        ("${NOPE:-:}", ":"),
        ("${NOPE:-ä}", "ä"),
        ("\"${NOPE:-x}\"", "x"),
        ("${A:+${NOPE:-deep}}", "deep"),
        ("${A:+$A:}rest", "alpha:rest"),
        ("${NOPE:+$A:}rest", "rest"),
        ("a${NOPE:-x}b${A:+y}c", "axbyc"),
        ("${NOPE:-'}'}", "}"),
        ("${NOPE:-\"}\"}", "}"),
        ("${NOPE:-a}b}", "ab}"),
        ("${NOPE:-{a}}", "{a}"),
        ("${NOPE:- a }", " a "),
        ("${NOPE:-a'b c'd}", "ab cd"),
        ("${NOPE:-$DOLLAR}", "$A"),
        ("${NOPE:-\\$A}", "$A"),
        ("${EMPTY:-${EMPTY-x}}", ""),
        ("${EMPTY:+x}${EMPTY-y}", ""),
        ("${A+}", ""),
        ("${A:+'$A'}", "$A"),
        ("${7:-x}", "seven"),
        ("${8:-x}", "x"),
        ("${@:-x}", "at"),
        ("${_u+x}", "x"),
    ]);
}

#[test]
fn prefixes_and_suffixes() {
    check(&[
        ("${A#al}", "pha"),
        ("${A#x}", "alpha"),
        ("${A#}", "alpha"),
        ("${A#*}", "alpha"),
        ("${A##*}", ""),
        ("${A#*a}", "lpha"),
        ("${A##*a}", ""),
        ("${A##*l}", "pha"),
        ("${A#?}", "lpha"),
        ("${A#??}", "pha"),
        ("${A#??????}", "alpha"),
        ("${A%a}", "alph"),
        ("${A%a*}", "alph"),
        ("${A%%a*}", ""),
        ("${A%%p*}", "al"),
        ("${A%x}", "alpha"),
        ("${A%}", "alpha"),
        ("${A%*}", "alpha"),
        ("${A%%*}", ""),
        ("${A%?}", "alph"),
        ("${PATHY##*/}", "libfoo.so.1"),
        ("${PATHY#*/}", "usr/local/lib/libfoo.so.1"),
        ("${PATHY%/*}", "/usr/local/lib"),
        ("${PATHY%%/*}", ""),
        ("${PATHY%.*}", "/usr/local/lib/libfoo.so"),
        ("${PATHY%%.*}", "/usr/local/lib/libfoo"),
        ("${PATHY##*.so.}", "1"),
        ("${PATHY#/usr}", "/local/lib/libfoo.so.1"),
        ("${X#xx}", "abcxxabcxx"),
        ("${X#x*c}", "xxabcxx"),
        ("${X##x*c}", "xx"),
        ("${X%x}", "xxabcxxabcx"),
        ("${X%a*x}", "xxabcxx"),
        ("${X%%a*x}", "xx"),
        ("${X#*a?c}", "xxabcxx"),
        ("${STAR#a\\*}", "b?c"),
        ("${STAR%\\?c}", "a*b"),
        ("${STAR#a?b}", "?c"),
        ("${STAR##*b}", "?c"),
        ("${BS#a\\\\}", "b"),
        ("${BRACE#a\\}}", "b/c"),
        ("${BRACE%\\/c}", "a}b"),
        ("${A#$NOPE}", "alpha"),
        ("${A#${NOPE:-al}}", "pha"),
        ("${A#\"al\"}", "pha"),
        ("${A#'al'}", "pha"),
        ("${A%[a]}", "alpha"),
        ("${A#a.p}", "alpha"),
        ("${U#ä}", "öü"),
        ("${U%?}", "äö"),
        ("${NL#x?}", "x\ny"),
        ("${NL##*}", "\ny"),
        ("${NL%%*}", "x\n"),
        ("${NOPE#x}", ""),
        ("${NOPE%%x}", ""),
        ("${EMPTY#x}", ""),
        ("${EMPTY##*}", ""),
        ("${X##*x}", ""),
        ("${X#*x}", "xabcxxabcxx"),
        ("${X%x*}", "xxabcxxabcx"),
        ("${X%%x*}", ""),
        ("${A#alphabet}", "alpha"),
        ("${A%%alpha}", ""),
        ("${PATHY##*/lib*/}", "libfoo.so.1"),
        ("\"${A#al}\"", "pha"),
        ("${A#?????}", ""),
    ]);
}

#[test]
fn replacements() {
    check(&[
        ("${A/a/o}", "olpha"),
        ("${A//a/o}", "olpho"),
        ("${A/x/o}", "alpha"),
        ("${A//x/o}", "alpha"),
        ("${A/a/}", "lpha"),
        ("${A//a/}", "lph"),
        ("${A/l*h/-}", "a-a"),
        ("${A/?/-}", "-lpha"),
        ("${A//?/-}", "-----"),
        ("${A/*/-}", "-"),
        ("${X/abc/-}", "xx-xxabcxx"),
        ("${X//abc/-}", "xx-xx-xx"),
        ("${X//a*c/-}", "xx-xx"),
        ("${X//x/y}", "yyabcyyabcyy"),
        ("${X//xx/y}", "yabcyabcy"),
        ("${PATHY//\\//-}", "-usr-local-lib-libfoo.so.1"),
        ("${PATHY/\\/usr/\\/opt}", "\\/opt/local/lib/libfoo.so.1"),
        ("${STAR/\\*/-}", "a-b?c"),
        ("${STAR//\\?/-}", "a*b-c"),
        ("${BS/\\\\/-}", "a-b"),
        ("${S/ /_}", "two_words"),
        ("${A/alpha/$S}", "two words"),
        ("${A/$A/x}", "x"),
        ("${A/a/${NOPE:-z}}", "zlpha"),
        ("${U/ö/o}", "äoü"),
        ("${U//?/x}", "xxx"),
        ("${A/a/$DOLLAR}", "$Alpha"),
        ("${A/./-}", "alpha"),
        ("${NOPE/a/b}", ""),
        ("${EMPTY/a/b}", ""),
        ("${A/a/b/c}", "b/clpha"),
    ]);
}

#[test]
fn wrong_words_say_what_is_wrong() {
    let check = |text: &str, expected: &str| {
        let error = value(text, Rules::ordinary('\\')).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    };
    check("'", "a single quote is not closed");
    check("a'b", "a single quote is not closed");
    check("\"", "a double quote is not closed");
    check("\"a\\\"", "a double quote is not closed");
    check("\"a\\", "a double quote is not closed");
    check("${", "`${` is not closed by `}`");
    check("${A", "`${` is not closed by `}`");
    check("${A:", "`${` is not closed by `}`");
    check("${A:-", "`${` is not closed by `}`");
    check("${A:-x", "`${` is not closed by `}`");
    check("${A#x", "`${` is not closed by `}`");
    check("${A:-${B}", "`${` is not closed by `}`");
    check("\"${A\"", "`\"` is no operator of `${A…}`");
    check("${}", "a variable name is expected after `${`");
    check("${:}", "a variable name is expected after `${`");
    check("${:-x}", "a variable name is expected after `${`");
    check("${{A}}", "a variable name is expected after `${`");
    check("${A^}", "`^` is no operator of `${A…}`");
    check("${A,,}", "`,` is no operator of `${A…}`");
    check("${A:}", "`:}` is no operator of `${A…}`");
    check("${A:1}", "`:1` is no operator of `${A…}`");
    check("${A:#x}", "`:#` is no operator of `${A…}`");
    check("${A:%x}", "`:%` is no operator of `${A…}`");
    check("${A:/x/y}", "`:/` is no operator of `${A…}`");
    check("${A B}", "` ` is no operator of `${A…}`");
    check("${ A}", "` ` is no operator of `${…}`");
    check("${A=x}", "`=` is no operator of `${A…}`");
    check("${A/x}", "`${A/` needs a second `/` before the replacement");
    check("${A/x/y", "`${` is not closed by `}`");
    check("${A#\\x}", "the pattern `\\x` escapes `x`");
    check("${A/\\x/y}", "the pattern `\\x` escapes `x`");
    check("${NOPE?}", "`NOPE`: it must be set");
    check("${NOPE:?}", "`NOPE`: it must be set");
    check("${EMPTY:?}", "`EMPTY`: it must not be empty");
    check("${NOPE?say why}", "`NOPE`: say why");
    check("${EMPTY:?say $A}", "`EMPTY`: say alpha");
    check(&"${A:+".repeat(65), "variables are nested more than 64 deep");
}

#[test]
fn escape_can_be_a_backtick() {
    let check = |text: &str, expected: &str| {
        assert_eq!(value(text, Rules::ordinary('`')).map(|found| found.text).as_deref(), Ok(expected), "{text}");
    };
    check("a\\b", "a\\b");
    check("a`b", "ab");
    check("`$A", "$A");
    check("\\$A", "\\alpha");
    check("\"a`\"b\"", "a\"b");
    check("\"C:\\x\"", "C:\\x");
    check("a``b", "a`b");
}

#[test]
fn a_heredoc_keeps_quotes_and_expands() {
    let rules = Rules { plain_quotes: true, ..Rules::ordinary('\\') };
    let check = |text: &str, expected: &str| {
        assert_eq!(value(text, rules).map(|found| found.text).as_deref(), Ok(expected), "{text}");
    };
    check("it's $A\n", "it's alpha\n");
    check("\"$A\"\n", "\"alpha\"\n");
    check("\\$A\n", "$A\n");
    check("'${NOPE:-it's}'", "'it's'");
}

#[test]
fn a_step_name_keeps_quotes_and_unset_variables() {
    let rules = Rules { keep_quotes: true, keep_unset: true, ..Rules::ordinary('\\') };
    let check = |text: &str, expected: &str| {
        assert_eq!(value(text, rules).map(|found| found.text).as_deref(), Ok(expected), "{text}");
    };
    check("echo \"$A\" '$A'", "echo \"alpha\" '$A'");
    check("echo $NOPE ${NOPE}", "echo $NOPE ${NOPE}");
    check("${NOPE:-x} ${NOPE-x} ${NOPE:+x}", "${NOPE:-x} ${NOPE-x} ${NOPE:+x}");
    check("${NOPE#x} ${NOPE%%x}", "${NOPE#x} ${NOPE%%x}");
    check("${NOPE/x/y} ${NOPE//x/y}", "${NOPE/x/y} ${NOPE//x/y}");
    check("${A:-x}", "alpha");
}

#[test]
fn words_are_cut_at_blanks_that_stand_free() {
    let check = |text: &str, expected: &[&str]| {
        let (words, _) = expand_words(text, Rules::ordinary('\\'), &Variables, &Budget::new(1 << 20)).unwrap();
        assert_eq!(words, expected, "{text}");
    };
    check("", &[]);
    check("a b", &["a", "b"]);
    check(" a\tb ", &["a", "b"]);
    check("'a b' c", &["a b", "c"]);
    check("a\\ b c", &["a b", "c"]);
    check("$S", &["two", "words"]);
    check("x$S", &["xtwo", "words"]);
    check("\"$S\"", &["two words"]);
    check("$EMPTY", &[]);
    check("a$EMPTY b", &["a", "b"]);
    check("''", &[]);
    check("${NOPE:-1 2}", &["1", "2"]);
}

#[test]
fn unset_variables_are_told_once_unless_they_have_a_default() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(value(text, Rules::ordinary('\\')).unwrap().unset, expected, "{text}");
    };
    check("$A", &[]);
    check("$NOPE $NOPE ${OTHER}", &["NOPE", "OTHER"]);
    check("${NOPE:-x} ${NOPE-x} ${NOPE+x}", &[]);
    check("${NOPE#x}", &["NOPE"]);
    check("\\$NOPE '$NOPE'", &[]);
}

#[test]
fn a_budget_bounds_the_work_of_patterns() {
    let small = Budget::new(1000);
    let star = format!("${{X//{}/y}}", "*a".repeat(50));
    assert_eq!(expand(&star, Rules::ordinary('\\'), &Variables, &small), Err(ExpandError::TooMuch));
    assert_eq!(expand("a", Rules::ordinary('\\'), &Variables, &small), Err(ExpandError::TooMuch), "it stays spent");
}
