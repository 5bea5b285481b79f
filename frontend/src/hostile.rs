//! Hostile files: the work is linear in the text, counted, not timed; and the stack is bounded.

#[path = "../benches/large/variants.rs"]
mod variants;

use crate::meter;
use crate::{Answers, ImageAnswer, PlanOptions, Planned, call, plan};
use oci::model::{DiffId, Digest, ImageConfig, RootFs};

/// A file of a family, about `n` lines long.
type Family = (&'static str, fn(usize) -> String);

const FAMILIES: &[Family] = &[
    ("steps", |n| format!("FROM scratch\n{}", "RUN make all && echo done\n".repeat(n))),
    ("one long line", |n| format!("FROM scratch\nRUN {}\n", "word ".repeat(n))),
    ("continued line", |n| format!("FROM scratch\nRUN a{}\n", " \\\n  && b".repeat(n))),
    ("comments between", |n| format!("FROM scratch\nRUN a \\\n{} b\n", "# comment\n\n".repeat(n))),
    ("comments", |n| "# comment\n".repeat(n)),
    ("blank lines", |n| "\n".repeat(n)),
    ("continuations only", |n| "\\\n".repeat(n)),
    ("no instruction", |n| "nonsense here\n".repeat(n)),
    ("misspelt", |n| "RNU <<EOF\nEOF\n".repeat(n)),
    ("open here-documents", |n| "RUN <<EOF\n".repeat(n)),
    ("here-documents", |n| format!("FROM scratch\n{}", "RUN <<EOF\nbody\nEOF\n".repeat(n))),
    ("here-documents in a line", |n| {
        let names: Vec<String> = (0..n).map(|i| format!("<<f{i}")).collect();
        let bodies: String = (0..n).map(|i| format!("f{i}\n")).collect();
        format!("FROM scratch\nCOPY {} /x/\n{bodies}", names.join(" "))
    }),
    ("open quotes", |n| format!("FROM scratch\n{}", "ENV a=\"b\n".repeat(n))),
    ("a quote of many lines", |n| format!("FROM scratch\nENV a=\"{}\n", "b \\\n".repeat(n))),
    ("words", |n| format!("FROM scratch\nLABEL {}\n", "a=b ".repeat(n))),
    ("flags", |n| format!("FROM scratch\nCOPY {} a b\n", "--exclude=x ".repeat(n))),
    ("unknown flags", |n| format!("FROM scratch\nCOPY {} a b\n", "--exclud=x ".repeat(n))),
    ("mounts", |n| format!("FROM scratch\nRUN {} a\n", "--mount=type=tmpfs,target=/x ".repeat(n))),
    ("mount options", |n| format!("FROM scratch\nRUN --mount=target=/x{} a\n", ",ro".repeat(n))),
    ("json", |n| format!("FROM scratch\nRUN [\"a\"{}]\n", ", \"b\"".repeat(n))),
    ("broken json", |n| format!("FROM scratch\n{}", "RUN [\"a\", \"b\"\n".repeat(n))),
    ("open brackets", |n| format!("FROM scratch\nRUN {}\n", "[".repeat(n))),
    ("sources", |n| format!("FROM scratch\nCOPY {} /x/\n", "a ".repeat(n))),
    ("stages", |n| (0..n).map(|i| format!("FROM scratch AS s{i}\n")).collect()),
    ("stages on stages", |n| {
        let chain: String = (1..n).map(|i| format!("FROM s{} AS s{i}\nRUN x\n", i - 1)).collect();
        format!("FROM scratch AS s0\n{chain}")
    }),
    ("copies from stages", |n| {
        let copies: String = (0..n).map(|i| format!("COPY --from=s{i} /a /b\n")).collect();
        let stages: String = (0..n).map(|i| format!("FROM scratch AS s{i}\nCOPY a a\n")).collect();
        format!("{stages}FROM scratch\n{copies}")
    }),
    ("self references", |n| format!("FROM scratch AS a\n{}", "COPY --from=a x y\n".repeat(n))),
    ("variables", |n| format!("FROM scratch\nENV A=1\n{}", "LABEL x=$A${A}${B:-$A}\n".repeat(n))),
    ("open variables", |n| format!("FROM scratch\n{}", "LABEL x=${A:-${B:-${\n".repeat(n))),
    ("deep variables", |n| format!("FROM scratch\nLABEL x={}\n", "${a:-".repeat(n))),
    ("args", |n| (0..n).map(|i| format!("ARG a{i}=$a{}\n", i.max(1) - 1)).collect::<String>() + "FROM scratch\n"),
    ("ports", |n| format!("FROM scratch\nEXPOSE {}\n", "80 ".repeat(n))),
    ("triggers", |n| format!("FROM scratch\n{}", "ONBUILD RUN x\n".repeat(n))),
    ("chained triggers", |n| format!("FROM scratch\n{} RUN x\n", "ONBUILD ".repeat(n))),
    ("addresses", |n| {
        (0..n).fold("FROM scratch\n".into(), |text, i| {
            text + &format!("ADD https://x.io/{i}.git?ref=a#:b https://x.io/{i} /\n")
        })
    }),
    ("parts of an address", |n| format!("FROM scratch\nADD git://x.io/a#b:{} /x\n", "c/%41/".repeat(n))),
    ("linked copies", |n| format!("FROM scratch\n{}", "COPY --link --parents a/./b* c /x/\n".repeat(n))),
    ("before the first stage", |n| "RUN a \\\n\n b\n".repeat(n)),
    ("badly written stages", |n| "From scratch as A\n".repeat(n)),
    ("badly named stages", |n| (0..n).map(|i| format!("FROM scratch as S{i}\nCOPY --from=S{i} a b\n")).collect()),
    ("old pairs", |n| format!("FROM scratch\n{}", "ENV a b 'c d' e\n".repeat(n))),
    ("an old pair of many words", |n| format!("FROM scratch\nENV a 'b'{}\n", " word".repeat(n))),
    ("relative places", |n| "FROM scratch\nWORKDIR a\nEXPOSE 1:80/TCP\n".repeat(n)),
    ("skipped rules", |n| {
        format!("FROM scratch\n{}LABEL{}\n", "# check=skip=FromAsCasing\n".repeat(n), " a=$B".repeat(n))
    }),
    ("a list of rules", |n| format!("# check=skip={}all\nFROM scratch\n", "FromAsCasing,".repeat(n))),
    ("descriptions", |n| {
        let names: String = (0..n).map(|i| format!(" A{i}")).collect();
        format!("FROM scratch\n{}ARG{names}\n", "# some words\n".repeat(n))
    }),
    ("secrets of one step", |n| {
        let mounts: String = (0..n).map(|i| format!("--mount=type=secret,id=s{i} \\\n ")).collect();
        format!("FROM scratch\nRUN {mounts} x\n")
    }),
];

fn steps(text: &str) -> u64 {
    let options = PlanOptions {
        platform: "linux/amd64".parse().expect("a platform"),
        build_platform: "linux/amd64".parse().expect("a platform"),
        ..PlanOptions::default()
    };
    meter::count(|| {
        // A file of blanks is refused before it is read.
        std::hint::black_box(crate::read(text));
        // Planned or refused, both are fine: what counts is how much work it was.
        let _ = std::hint::black_box(plan(text, &options, &Answers::new()));
        let found = call::check(text, &options, &Answers::new()).findings;
        std::hint::black_box(call::fix(text, &found));
        let _ = std::hint::black_box(call::outline(text, &options, &Answers::new()));
        let _ = std::hint::black_box(call::targets(text, &options));
    })
}

#[test]
fn the_work_is_linear_in_the_text() {
    for (name, family) in FAMILIES {
        let (small, large) = (family(100), family(700));
        let growth = large.len() as f64 / small.len() as f64;
        let (few, many) = (steps(&small), steps(&large));
        assert!(few >= small.len() as u64 / 2, "{name}: {few} steps cannot have seen {} bytes", small.len());
        // A constant part may make it grow slower, never faster.
        assert!(many as f64 <= few as f64 * growth * 1.3, "{name}: {growth} times the text, {few} -> {many} steps");
    }
}

/// The steps that planning takes to the end, whatever image is asked for being a small one.
fn steps_to_the_plan(text: &str) -> u64 {
    let options = PlanOptions { platform: "linux/amd64".parse().expect("a platform"), ..PlanOptions::default() };
    let mut answers = Answers::new();
    meter::count(|| {
        loop {
            match plan(text, &options, &answers) {
                Ok(Planned::Plan(plan)) => return drop(plan),
                Ok(Planned::Need(asked)) => answers.extend(asked.into_iter().map(|asked| {
                    let rootfs = RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() };
                    let config = ImageConfig { rootfs, ..ImageConfig::default() };
                    (asked.question, ImageAnswer { name: None, digest: Digest::of(b"image"), config })
                })),
                Err(found) => panic!("the file is well-formed, but {:?}", found.first()),
            }
        }
    })
}

#[test]
fn twice_the_instructions_are_twice_the_work() {
    for (name, variant) in variants::VARIANTS {
        let (small, large) = (variant(500, 50_000), variant(1_000, 100_000));
        let (few, many) = (steps_to_the_plan(&small), steps_to_the_plan(&large));
        assert!(few >= small.len() as u64, "{name}: {few} steps cannot have seen {} bytes", small.len());
        assert!(many as f64 <= few as f64 * 2.3, "{name}: {few} -> {many} steps");
    }
}

#[test]
fn values_that_double_with_every_line_are_refused() {
    let text = format!("FROM scratch\nENV A=0123456789\n{}", "ENV A=$A$A\n".repeat(64));
    let found = plan(&text, &PlanOptions::default(), &Answers::new()).expect_err("2^64 bytes fit nowhere");
    assert!(found[0].message.contains("longer than"), "{}", found[0].message);
}

#[test]
fn many_variables_in_many_steps_are_refused() {
    let variables: String = (0..200).map(|i| format!("ENV V{i}={}\n", "x".repeat(1_000))).collect();
    let text = format!("FROM scratch\n{variables}{}", "RUN x\n".repeat(200));
    let found = plan(&text, &PlanOptions::default(), &Answers::new()).expect_err("40 MB of environment");
    assert!(found.iter().any(|fault| fault.message.contains("hold in memory")), "{:?}", found.last());
}
