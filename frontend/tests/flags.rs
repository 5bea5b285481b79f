//! Flags of every instruction: how they are cut off the line, which instruction takes which, what is said of the rest.

use rbuild_frontend::parse::parse;
use rbuild_frontend::read;

/// The flags of the only statement and its arguments: `chown=1:2 link | a b`.
#[track_caller]
fn cut(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let (ast, _) = parse(text);
        let [statement] = &ast.statements[..] else { panic!("{text:?} is no single statement") };
        let mut shown = String::new();
        for flag in &statement.flags {
            shown.push_str(&flag.name.text);
            if let Some(value) = &flag.value {
                shown.push_str(&format!("={}", value.text));
            }
            shown.push(' ');
            assert!(text[flag.span.range()].starts_with("--"), "{text:?}");
        }
        assert_eq!(format!("{shown}| {}", statement.text()), *expected, "{text:?}");
    }
}

/// What is said of an instruction, and what stands at the place of each finding.
#[track_caller]
fn said(rows: &[(&str, &[(&str, &str)])]) {
    for (text, expected) in rows {
        let file = format!("FROM a\n{text}\n");
        let (_, found) = read(&file);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|fault| (fault.message.as_str(), fault.span.clone().map_or("", |span| &file[span])))
            .collect();
        assert_eq!(found, *expected, "{text}");
    }
}

#[test]
fn flags_stand_in_front_of_the_arguments() {
    cut(&[
        ("COPY a b", "| a b"),
        ("COPY --link a b", "link | a b"),
        ("COPY --link=false a b", "link=false | a b"),
        ("COPY --from=x --chown=1:2 a b", "from=x chown=1:2 | a b"),
        ("COPY   --link \t --parents   a b", "link parents | a b"),
        ("COPY a --link b", "| a --link b"),
        ("COPY -- --link b", "| --link b"),
        ("COPY --link -- --link b", "link | --link b"),
        ("COPY -a b", "| -a b"),
        ("COPY - b", "| - b"),
        ("COPY --link", "link | "),
        ("COPY --", "| "),
        ("COPY --- a b", "- | a b"),
        ("COPY --=x a b", "=x | a b"),
        ("COPY --from= a b", "from= | a b"),
        ("COPY --from=a=b a b", "from=a=b | a b"),
        ("COPY --from=\"x y\" a b", "from=x y | a b"),
        ("COPY --from='x y' a b", "from=x y | a b"),
        ("COPY --from=x\\ y a b", "from=x y | a b"),
        ("COPY --from=\"x\\\"y\" a b", "from=x\"y | a b"),
        ("COPY --from='x\\'y' a b", "from=x'y | a b"),
        ("COPY --fr\"om\"=x a b", "from=x | a b"),
        ("COPY \"--link\" a b", "| \"--link\" a b"),
        ("COPY --\"\" --link b", "| --link b"),
        ("COPY --from=x\\", "from=x | "),
        ("COPY --from=\"x", "from=x | "),
        ("COPY --from=ä a b", "from=ä | a b"),
        ("COPY --from=x\\\n  --link \\\n  a b", "from=x link | a b"),
        ("COPY --fr\\\nom=x a b", "from=x | a b"),
        ("# escape=`\nCOPY --from=x\\ y a b", "from=x y | a b"),
        (
            "RUN --mount=type=bind,target=/x --mount=type=tmpfs,target=/y a",
            "mount=type=bind,target=/x mount=type=tmpfs,target=/y | a",
        ),
        ("RUN --network=none [\"a\", \"--b\"]", "network=none | [\"a\", \"--b\"]"),
        ("FROM --platform=linux/arm64 a AS b", "platform=linux/arm64 | a AS b"),
        ("HEALTHCHECK --interval=5s CMD a --b", "interval=5s | CMD a --b"),
        ("USER --x", "x | "),
    ]);
}

#[test]
fn an_instruction_takes_the_flags_of_the_language() {
    for line in [
        "COPY --from=a --chown=1:2 --chmod=755 --link --parents --exclude=x --exclude=y a b",
        "COPY --link=true --parents=FALSE a b",
        "COPY --link=True a b",
        "ADD --chown=a:b --chmod=u=rwX --link --exclude=x --keep-git-dir --checksum=sha256:x --unpack=false a b",
        "ADD --keep-git-dir=false --unpack a b",
        "RUN --mount=target=/x --mount=target=/y --network=host --security=sandbox a",
        "RUN --network=default a",
        "RUN --network=none --security=insecure a",
        "RUN --device=vendor.com/class=name --device=b,required=false a",
        "HEALTHCHECK --interval=5s --timeout=1m --start-period=0s --start-interval=1ms --retries=3 CMD a",
        "FROM --platform=$BUILDPLATFORM b",
    ] {
        said(&[(line, &[])]);
    }
}

#[test]
fn what_is_wrong_with_a_flag_is_said_at_its_place() {
    said(&[
        ("COPY --chowm=1 a b", &[("COPY has no flag `--chowm`", "--chowm")]),
        ("COPY --LINK a b", &[("COPY has no flag `--LINK`", "--LINK")]),
        ("COPY --checksum=x a b", &[("COPY has no flag `--checksum`", "--checksum")]),
        ("ADD --from=x a b", &[("ADD has no flag `--from`", "--from")]),
        ("ADD --parents a b", &[("ADD has no flag `--parents`", "--parents")]),
        ("RUN --from=x a", &[("RUN has no flag `--from`", "--from")]),
        ("USER --x a", &[("USER has no flag `--x`", "--x")]),
        ("ENV --x a=b", &[("ENV has no flag `--x`", "--x")]),
        ("ONBUILD --x RUN a", &[("ONBUILD has no flag `--x`", "--x")]),
        ("ONBUILD COPY --x a b", &[("COPY has no flag `--x`", "--x")]),
        ("FROM --x a", &[("FROM has no flag `--x`", "--x")]),
        ("COPY --=x a b", &[("COPY has no flag `--`", "--")]),
        ("COPY --from=a --from=b a b", &[("`--from` is given twice", "--from=b")]),
        ("COPY --link --link=false a b", &[("`--link` is given twice", "--link=false")]),
        ("RUN --network=none --network=host a", &[("`--network` is given twice", "--network=host")]),
        ("COPY --chown a b", &[("`--chown` needs a value", "--chown")]),
        ("COPY --exclude a b", &[("`--exclude` needs a value", "--exclude")]),
        ("RUN --mount a", &[("`--mount` needs a value", "--mount")]),
        ("COPY --link=yes a b", &[("`yes` is neither true nor false", "yes")]),
        ("COPY --link= a b", &[("`` is neither true nor false", "")]),
        ("ADD --unpack=1 a b", &[("`1` is neither true nor false", "1")]),
        ("RUN --network=bridge a", &[("`bridge` is no value of `--network`", "bridge")]),
        ("RUN --security=root a", &[("`root` is no value of `--security`", "root")]),
        ("HEALTHCHECK --interval=5 CMD a", &[("`5` is no time", "5")]),
        ("HEALTHCHECK --interval=1us CMD a", &[("`--interval=1us` is less than a millisecond", "1us")]),
        ("HEALTHCHECK --retries=-1 CMD a", &[("`-1` is no number of retries", "-1")]),
        ("HEALTHCHECK --interval=5s NONE", &[("HEALTHCHECK NONE takes no flags", "--interval=5s")]),
        (
            "COPY --a --b=c --from=x --from=y a b",
            &[
                ("COPY has no flag `--a`", "--a"),
                ("COPY has no flag `--b`", "--b"),
                ("`--from` is given twice", "--from=y"),
            ],
        ),
    ]);
}
