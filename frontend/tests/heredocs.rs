//! Here-documents in every form: which words open one, what is in it, where it ends, what follows it.

use rbuild_frontend::ast::Statement;
use rbuild_frontend::parse::parse;

/// `RUN EOF="a\n"`; `-` in front of the name when tabs are stripped, `'` when nothing is expanded.
fn show(statement: &Statement) -> String {
    let mut shown = statement.keyword.name().to_owned();
    for heredoc in &statement.heredocs {
        let tabs = if heredoc.strip_tabs { "-" } else { "" };
        let quoted = if heredoc.expand { "" } else { "'" };
        shown.push_str(&format!(" {tabs}{quoted}{}={:?}", heredoc.name, heredoc.content()));
    }
    if let Some(trigger) = &statement.trigger {
        shown.push_str(&format!(" of {}", trigger.keyword.name()));
    }
    shown
}

#[track_caller]
fn check(rows: &[(&str, &[&str])]) {
    for (text, expected) in rows {
        let (ast, found) = parse(text);
        let faults = found.iter().map(|fault| format!("! {}", fault.message));
        let shown: Vec<String> = ast.statements.iter().map(show).chain(faults).collect();
        assert_eq!(shown, *expected, "{text:?}");
        for heredoc in ast.statements.iter().flat_map(|statement| &statement.heredocs) {
            assert_eq!(&text[heredoc.body.span.range()], heredoc.body.text, "{text:?}");
        }
    }
}

#[test]
fn a_body_reaches_to_its_terminator() {
    check(&[
        ("RUN <<EOF\na\nEOF\nUSER b", &["RUN EOF=\"a\\n\"", "USER"]),
        ("RUN <<EOF\nEOF\nUSER b", &["RUN EOF=\"\"", "USER"]),
        ("RUN <<EOF\n\n\nEOF\nUSER b", &["RUN EOF=\"\\n\\n\"", "USER"]),
        ("RUN <<EOF\na\nEOF", &["RUN EOF=\"a\\n\""]),
        ("RUN <<EOF\n EOF\nEOF \nEOFX\nEOF\n", &["RUN EOF=\" EOF\\nEOF \\nEOFX\\n\""]),
        ("RUN <<EOF\n\tEOF\nEOF\n", &["RUN EOF=\"\\tEOF\\n\""]),
        ("RUN <<EOF\r\na\r\nEOF\r\nUSER b", &["RUN EOF=\"a\\r\\n\"", "USER"]),
        ("RUN <<EOF\neof\nEOF\n", &["RUN EOF=\"eof\\n\""]),
        ("RUN <<ä\nö\nä\n", &["RUN ä=\"ö\\n\""]),
        ("RUN <<1\n2\n1\n", &["RUN 1=\"2\\n\""]),
        ("run <<EOF\na\nEOF\nuser b", &["RUN EOF=\"a\\n\"", "USER"]),
    ]);
}

#[test]
fn a_body_is_kept_as_it_stands() {
    check(&[
        ("RUN <<EOF\n# a\nEOF\n", &["RUN EOF=\"# a\\n\""]),
        ("RUN <<EOF\na \\\nEOF\n", &["RUN EOF=\"a \\\\\\n\""]),
        ("RUN <<EOF\nRUN <<X\nX\nEOF\n", &["RUN EOF=\"RUN <<X\\nX\\n\""]),
        ("RUN <<EOF\n\"'$A\nEOF\n", &["RUN EOF=\"\\\"'$A\\n\""]),
        ("# escape=`\nRUN <<EOF\na `\nEOF\n", &["RUN EOF=\"a `\\n\""]),
        ("RUN <<EOF\n\ta\nEOF\n", &["RUN EOF=\"\\ta\\n\""]),
    ]);
}

#[test]
fn a_dash_strips_tabs_of_body_and_terminator() {
    check(&[
        ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF\nUSER b", &["RUN -EOF=\"a\\nb\\n\"", "USER"]),
        ("RUN <<-EOF\n  a\n\t b\nEOF\n", &["RUN -EOF=\"  a\\n b\\n\""]),
        ("RUN <<-EOF\na\tb\n\t\t\tEOF\n", &["RUN -EOF=\"a\\tb\\n\""]),
        ("RUN <<-\"EOF\"\n\ta\n\tEOF\n", &["RUN -'EOF=\"a\\n\""]),
        ("RUN <<-EOF\n  EOF\n", &["RUN", "! the here-document `EOF` does not end"]),
        ("RUN <<--EOF\n\ta\n-EOF\n", &["RUN --EOF=\"a\\n\""]),
    ]);
}

#[test]
fn a_quote_anywhere_in_the_name_keeps_variables() {
    check(&[
        ("COPY <<\"a\" /\n$A\na\n", &["COPY 'a=\"$A\\n\""]),
        ("COPY <<'a' /\n$A\na\n", &["COPY 'a=\"$A\\n\""]),
        ("COPY <<a\"b\" /\n$A\nab\n", &["COPY 'ab=\"$A\\n\""]),
        ("COPY <<\"\"a /\n$A\na\n", &["COPY 'a=\"$A\\n\""]),
        ("COPY <<\\a /\n$A\na\n", &["COPY 'a=\"$A\\n\""]),
        ("COPY <<a\\b /\n$A\nab\n", &["COPY 'ab=\"$A\\n\""]),
        ("COPY <<a /\n$A\na\n", &["COPY a=\"$A\\n\""]),
        ("COPY <<$A /\nx\n$A\n", &["COPY $A=\"x\\n\""]),
        ("COPY <<${A} /\nx\n${A}\n", &["COPY ${A}=\"x\\n\""]),
    ]);
}

#[test]
fn several_bodies_follow_each_other() {
    check(&[
        ("COPY <<a <<b /x/\n1\na\n2\nb\nUSER c", &["COPY a=\"1\\n\" b=\"2\\n\"", "USER"]),
        ("COPY <<b <<a /x/\n1\na\n2\nb\na\n", &["COPY b=\"1\\na\\n2\\n\" a=\"\""]),
        ("COPY <<a <<a /x/\n1\na\n2\na\n", &["COPY a=\"1\\n\" a=\"2\\n\""]),
        ("COPY <<-a <<'b' /x/\n\t1\n\ta\n\t2\nb\n", &["COPY -a=\"1\\n\" 'b=\"\\t2\\n\""]),
        ("COPY x <<a y /z/\n1\na\n", &["COPY a=\"1\\n\""]),
        ("ADD <<a /z\n1\na\n", &["ADD a=\"1\\n\""]),
        ("RUN cat 3<<A 45<<B <<C\n1\nA\n2\nB\n3\nC\n", &["RUN A=\"1\\n\" B=\"2\\n\" C=\"3\\n\""]),
        ("RUN <<A cat | sort && x <<B\n1\nA\n2\nB\n", &["RUN A=\"1\\n\" B=\"2\\n\""]),
        ("RUN <<A \\\n# c\n <<B\n1\nA\n2\nB\n", &["RUN A=\"1\\n\" B=\"2\\n\""]),
        ("RUN --network=none <<A\n1\nA\n", &["RUN A=\"1\\n\""]),
    ]);
}

#[test]
fn what_only_looks_like_an_opening_is_none() {
    check(&[
        ("RUN cat << EOF\nUSER b", &["RUN", "USER"]),
        ("RUN cat <<<EOF\nUSER b", &["RUN", "USER"]),
        ("RUN cat <EOF\nUSER b", &["RUN", "USER"]),
        ("RUN echo \"<<EOF\"\nUSER b", &["RUN", "USER"]),
        ("RUN echo '<<EOF'\nUSER b", &["RUN", "USER"]),
        ("RUN echo \\<<EOF\nUSER b", &["RUN", "USER"]),
        ("RUN cat<<EOF\nUSER b", &["RUN", "USER"]),
        ("RUN x=$((1<<2))\nUSER b", &["RUN", "USER"]),
        ("RUN echo it's <<EOF\nUSER b", &["RUN", "USER"]),
        ("RUN <<\nUSER b", &["RUN", "USER"]),
        ("RUN <<-\nUSER b", &["RUN", "USER"]),
        ("RUN <<\"\"\nUSER b", &["RUN", "USER"]),
        ("RUN [\"cat\", \"<<EOF\"]\nUSER b", &["RUN", "USER"]),
        ("COPY [\"<<a\", \"/b\"]\nUSER b", &["COPY", "USER"]),
        ("ENV a=<<EOF\nUSER b", &["ENV", "USER"]),
        ("CMD cat <<EOF\nUSER b", &["CMD", "USER"]),
        ("# <<EOF\nUSER b", &["USER"]),
    ]);
}

#[test]
fn triggers_have_bodies_too() {
    check(&[
        ("ONBUILD RUN <<EOF\na\nEOF\nUSER b", &["ONBUILD EOF=\"a\\n\" of RUN", "USER"]),
        ("ONBUILD COPY <<-a <<'b' /x/\n\t1\na\n2\nb\n", &["ONBUILD -a=\"1\\n\" 'b=\"2\\n\" of COPY"]),
        ("ONBUILD ADD <<a /x\n1\na\n", &["ONBUILD a=\"1\\n\" of ADD"]),
        ("onbuild run <<EOF\nEOF\n", &["ONBUILD EOF=\"\" of RUN"]),
        ("ONBUILD ENV a=<<EOF\nUSER b", &["ONBUILD of ENV", "USER"]),
        ("ONBUILD RUN [\"<<EOF\"]\nUSER b", &["ONBUILD of RUN", "USER"]),
    ]);
}

#[test]
fn a_body_without_an_end_is_one_error() {
    check(&[
        ("RUN <<EOF\na\nUSER b", &["RUN", "! the here-document `EOF` does not end"]),
        ("RUN <<EOF", &["RUN", "! the here-document `EOF` does not end"]),
        ("COPY <<a <<b /x/\n1\na\n2\n", &["COPY a=\"1\\n\"", "! the here-document `b` does not end"]),
        ("ONBUILD RUN <<EOF\n", &["ONBUILD of RUN", "! the here-document `EOF` does not end"]),
        ("RNU <<EOF\nCOPY\nEOF\nUSER b", &["USER", "! unknown instruction `RNU`"]),
    ]);
}
