//! Large Dockerfiles: each variant is a family of files with a given number of instructions and bytes.
//!
//! Used by the bench (by the clock) and by `hostile.rs` (by counted work). Deterministic: no clock, no randomness.

use std::fmt::Write as _;

/// A family of files: its name, and the file of `instructions` instructions and about `bytes` bytes.
pub type Variant = (&'static str, fn(instructions: usize, bytes: usize) -> String);

/// All of them. `mixture` is what people write; the others are each as one-sided as can be.
pub const VARIANTS: &[Variant] = &[
    ("mixture", mixture),
    ("runs", runs),
    ("runs with variables", runs_with_variables),
    ("copies", copies),
    ("stages", stages),
    ("stages on stages", stages_on_stages),
    ("env", |n, bytes| one_kind(n, bytes, |i| format!("ENV VARIABLE_{i}="))),
    ("arg", |n, bytes| one_kind(n, bytes, |i| format!("ARG VARIABLE_{i}="))),
    ("label", |n, bytes| one_kind(n, bytes, |i| format!("LABEL org.example.label.{i}="))),
    ("workdir", |n, bytes| one_kind(n, bytes, |i| format!("WORKDIR /srv/directory-{i}/"))),
    ("comments", comments),
];

/// Appends a shell command until the text has `until` bytes; `\` and a line feed stand in it now and then.
fn command(text: &mut String, until: usize, i: usize) {
    let parts = [
        "apt-get install --yes --no-install-recommends ca-certificates",
        "make -C /src/component all",
        "rm -rf /var/lib/apt/lists/*",
        "test -e \"$HOME/.config\" || mkdir -p \"${HOME}/.config\"",
        "curl --fail --silent 'https://example.com/a b' | tar -xz",
    ];
    write!(text, "echo step-{i}").expect("writing to a String cannot fail");
    for part in parts.iter().cycle().skip(i % parts.len()) {
        if text.len() + part.len() > until {
            break;
        }
        text.push_str(if text.len().is_multiple_of(3) { " && \\\n    " } else { " && " });
        text.push_str(part);
    }
    text.push('\n');
}

/// Steps, copies, variables, comments, here-documents; a stage of about twenty instructions stands on one of four
/// images or on an earlier stage, and copies from an earlier one.
fn mixture(instructions: usize, bytes: usize) -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG VERSION=12\n");
    for i in 1..instructions {
        let until = bytes * (i + 1) / instructions;
        let stage = i / 20;
        let line = match i % 20 {
            1 if stage % 3 == 2 => format!("\n# the next component\nFROM stage-{} AS stage-{stage}\n", stage - 1),
            1 => format!("\n# the next component\nFROM image-{}:$VERSION AS stage-{stage}\n", stage % 4),
            2 => "ARG VERSION TARGETARCH=amd64\n".into(),
            3 => format!(
                "ENV PATH=/opt/component-{stage}/bin:$PATH COMPONENT=component-{stage} \\\n    # why\n    MODE=\"production mode\"\n"
            ),
            4 => format!("LABEL org.example.component=\"component {stage}\" org.example.version=$VERSION\n"),
            5 => format!("WORKDIR /src/component-{stage}\n"),
            7 => format!("COPY --chown=1000:1000 package.json package-lock.json /src/component-{stage}/\n"),
            9 if stage > 0 => format!("COPY --from=stage-{} /out/ /usr/local/component/\n", stage - 1),
            11 => format!(
                "RUN --mount=type=bind,source=src,target=/mnt/src make COMPONENT=component-{stage} VERSION=$VERSION\n"
            ),
            13 => format!("RUN <<EOF\nset -e\necho component-{stage} $VERSION\nmake install\nEOF\n"),
            15 => format!(
                "COPY <<config.toml /etc/component/\n[component]\nname = \"component-{stage}\"\nversion = \"${{VERSION:-none}}\"\nconfig.toml\n"
            ),
            16 => "EXPOSE 8080 8443/tcp\n".into(),
            17 => "USER 1000:1000\n".into(),
            18 => format!("ENTRYPOINT [\"/usr/local/bin/component\", \"--name\", \"component-{stage}\"]\n"),
            19 => "CMD [\"serve\"]\n".into(),
            _ => "RUN ".into(),
        };
        text.push_str(&line);
        if line == "RUN " {
            // Nine of twenty are longer than the average, to make up for the others.
            let until = until.max(text.len() + 40);
            command(&mut text, until, i);
        }
    }
    text
}

fn runs(instructions: usize, bytes: usize) -> String {
    let mut text = String::from("FROM image-0\n");
    for i in 1..instructions {
        text.push_str("RUN ");
        command(&mut text, bytes * (i + 1) / instructions, i);
    }
    text
}

/// Every step has all variables: forty of them, two kilobytes.
fn runs_with_variables(instructions: usize, bytes: usize) -> String {
    let mut text = String::from("FROM image-0\n");
    for i in 1..instructions.min(41) {
        writeln!(text, "ENV VARIABLE_{i}=/opt/component/lib/value-of-the-variable-{i}").expect("cannot fail");
    }
    for i in instructions.min(41)..instructions {
        text.push_str("RUN ");
        command(&mut text, bytes * (i + 1) / instructions, i);
    }
    text
}

fn copies(instructions: usize, bytes: usize) -> String {
    let mut text = String::from("FROM image-0 AS files\nFROM image-1\n");
    for i in 2..instructions {
        let from = if i % 2 == 0 { "--from=files " } else { "" };
        write!(text, "COPY {from}--chown=1000:1000 source-{i}").expect("cannot fail");
        while text.len() + 30 < bytes * (i + 1) / instructions {
            write!(text, " source-{}", text.len()).expect("cannot fail");
        }
        writeln!(text, " /destination-{i}/").expect("cannot fail");
    }
    text
}

/// Stages beside each other; the last one copies from every thousandth.
fn stages(instructions: usize, bytes: usize) -> String {
    let mut text = String::new();
    for i in 0..instructions - 1 {
        writeln!(text, "FROM image-{}:12 AS stage-{i}", i % 4).expect("cannot fail");
        fill(&mut text, bytes * (i + 1) / instructions);
    }
    text.push_str("FROM image-0\n");
    for i in (0..instructions - 1).step_by(1000) {
        writeln!(text, "COPY --from=stage-{i} /out /out-{i}").expect("cannot fail");
    }
    text
}

/// Each stage stands on the one before and adds a step.
fn stages_on_stages(instructions: usize, bytes: usize) -> String {
    let mut text = String::from("FROM image-0 AS stage-0\nRUN make\n");
    for i in 1..instructions / 2 {
        writeln!(text, "FROM stage-{} AS stage-{i}", i - 1).expect("cannot fail");
        text.push_str("RUN ");
        command(&mut text, bytes * (i + 1) / (instructions / 2), i);
    }
    text
}

fn one_kind(instructions: usize, bytes: usize, start: fn(usize) -> String) -> String {
    let mut text = String::from("FROM image-0\n");
    for i in 1..instructions {
        text.push_str(&start(i));
        text.push_str("value");
        let missing = (bytes * (i + 1) / instructions).saturating_sub(text.len() + 1);
        text.extend(std::iter::repeat_n('v', missing));
        text.push('\n');
    }
    text
}

/// Much is said and little done: long comments, also inside steps, and blank lines.
fn comments(instructions: usize, bytes: usize) -> String {
    let mut text = String::from("FROM image-0\n");
    for i in 1..instructions {
        fill(&mut text, (bytes * (i + 1) / instructions).saturating_sub(40));
        text.push_str("RUN make \\\n  # why\n\n  all\n");
    }
    text
}

/// Comments until the text has about that many bytes.
fn fill(text: &mut String, until: usize) {
    while text.len() + 60 < until {
        text.push_str("# one of the comments that explain what comes next\n");
    }
}
