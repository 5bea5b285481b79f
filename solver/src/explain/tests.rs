//! Builds written as lists of instructions, edited, and explained.

use super::*;
use crate::graph::{Edge, Graph, Vertex, VertexId};
use crate::key::{self, ContentDigest, InputKey, Key};
use crate::op::{
    ContentCache, CopyAction, ExecOp, FileAction, FileActionKind, FileOp, Mount, MountKind, NetworkMode, Op, OpMeta,
    Platform, SecurityMode, SourceOp,
};
use crate::seam::Pin;

/// One instruction: `FROM name digit`, `RUN [NAME=value]… command`, `COPY path:digit… dest`, `USER`, `WORKDIR`, `SHELL`,
/// `ENV`, `BIND path:digit` (a mount for the RUNs that follow), `STAGE name` (a stage begins), `TAKE stage path`,
/// `PLATFORM architecture`, `FAILED`, `LATE` (how the step above ended, before).
fn steps(text: &str) -> Vec<Step> {
    Toy::default().read(text)
}

#[derive(Default)]
struct Toy {
    graph: Graph,
    keys: Vec<(VertexId, Option<Key>)>,
    steps: Vec<Step>,
    stage: String,
    number: usize,
    top: Option<Edge>,
    tops: Vec<(String, Option<Edge>)>,
    env: Vec<String>,
    user: String,
    cwd: String,
    shell: Vec<String>,
    binds: Vec<(String, u8)>,
    platform: String,
}

impl Toy {
    fn read(mut self, text: &str) -> Vec<Step> {
        self.shell = vec!["/bin/sh".into(), "-c".into()];
        self.platform = "amd64".into();
        for line in text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            self.line(word, rest, line);
        }
        self.steps
    }

    fn line(&mut self, word: &str, rest: &str, line: &str) {
        match word {
            "STAGE" => {
                self.tops.push((self.stage.clone(), self.top.take()));
                self.stage = rest.into();
                (self.number, self.env) = (0, Vec::new());
            }
            "PLATFORM" => self.platform = rest.into(),
            "ENV" => self.env.push(rest.into()),
            "USER" => self.user = rest.into(),
            "WORKDIR" => self.cwd = rest.into(),
            "SHELL" => self.shell = rest.split(' ').map(str::to_owned).collect(),
            "BIND" => self.binds.push(pair(rest)),
            "FAILED" => self.steps.last_mut().expect("a step").fate = Fate::Failed,
            "LATE" => self.steps.last_mut().expect("a step").fate = Fate::NotReached,
            "FROM" => self.from(rest),
            "RUN" => self.run(rest, line),
            "COPY" => self.copy(rest, line),
            "TAKE" => self.take(rest, line),
            other => panic!("{other}"),
        }
    }

    fn add(
        &mut self,
        op: Op,
        inputs: Vec<Edge>,
        digests: Vec<Option<Vec<ContentDigest>>>,
        pin: Option<Pin>,
        text: &str,
    ) {
        self.number += 1;
        let blank = if self.stage.is_empty() { "" } else { " " };
        let name = format!("[{}{blank}{}/9] {text}", self.stage, self.number);
        let machine = Platform { os: "linux".into(), architecture: self.platform.clone(), ..Platform::default() };
        let vertex = Vertex { op, inputs: inputs.clone(), platform: Some(machine) };
        let id =
            self.graph.add(vertex.clone(), OpMeta { description: name.clone(), ..OpMeta::default() }).expect("fits");
        let place = |edge: &Edge| self.keys.iter().position(|(known, _)| *known == edge.vertex).expect("it is there");
        let keys = inputs.iter().zip(digests).map(|(edge, digests)| match digests {
            Some(digests) => InputKey::Selected(digests),
            None => InputKey::Key(self.keys[place(edge)].1.expect("it has a key"), edge.output),
        });
        let (key, parts) = match &pin {
            Some(Pin::Selected) => (None, Vec::new()),
            Some(pin) => key::source_key(&vertex, pin).map(|(key, parts)| (Some(key), parts)).expect("it has a key"),
            None => {
                let (key, parts) = key::definition_key(&vertex, &keys.collect::<Vec<_>>());
                (Some(key), parts)
            }
        };
        let inputs = inputs.iter().map(place).collect();
        self.keys.push((id, key));
        self.steps.push(Step { name, parts: parts.into(), inputs, fate: Fate::Ran });
        self.top = Some(Edge { vertex: id, output: 0 });
    }

    fn source(&mut self, identifier: String, pin: Pin, text: &str) {
        let op = Op::Source(SourceOp { identifier, attrs: std::collections::BTreeMap::new() });
        self.add(op, Vec::new(), Vec::new(), Some(pin), text);
    }

    fn from(&mut self, rest: &str) {
        let (name, digit) = pair(rest);
        let digest = ContentDigest([digit; 32]);
        let full = format!("docker.io/library/{name}@sha256:{digest}");
        self.source(format!("docker-image://{full}"), Pin::Content(digest), &format!("FROM {full}"));
    }

    fn context(&mut self) -> Edge {
        let known = self.steps.iter().position(|step| step.name == "[internal] load build context");
        if let Some(place) = known {
            return Edge { vertex: self.keys[place].0, output: 0 };
        }
        let (top, number) = (self.top, self.number);
        self.source("local://context".into(), Pin::Selected, "");
        self.steps.last_mut().expect("just added").name = "[internal] load build context".into();
        self.number = number;
        std::mem::replace(&mut self.top, top).expect("just added")
    }

    fn run(&mut self, command: &str, line: &str) {
        let root = self.top.expect("a tree");
        let mut mounts = vec![mount("/", Some(0), "", Some(0), false)];
        let (mut inputs, mut digests) = (vec![root], vec![None]);
        if !self.binds.is_empty() {
            inputs.push(self.context());
            digests.push(Some(self.binds.iter().map(|(_, digit)| ContentDigest([*digit; 32])).collect()));
        }
        for (path, _) in &self.binds {
            mounts.push(mount(&format!("/mnt/{path}"), Some(1), &format!("/{path}"), None, true));
        }
        let exec = ExecOp {
            args: self.shell.iter().cloned().chain([command.to_owned()]).collect(),
            env: self.env.clone().into(),
            proxy_env: Vec::new(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            mounts,
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            extra_hosts: Vec::new(),
            hostname: String::new(),
            ulimits: Vec::new(),
            shm_size_bytes: 0,
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            devices: Vec::new(),
        };
        self.add(Op::Exec(Box::new(exec)), inputs, digests, None, line);
    }

    fn copy(&mut self, rest: &str, line: &str) {
        let mut words: Vec<&str> = rest.split(' ').collect();
        let dest = words.pop().expect("a destination");
        let root = self.top.expect("a tree");
        let context = self.context();
        let sources: Vec<(String, u8)> = words.iter().map(|word| pair(word)).collect();
        let count = sources.len();
        let actions = sources.iter().enumerate().map(|(i, (path, _))| FileAction {
            input: Some(if i == 0 { 0 } else { 1 + i }),
            secondary_input: Some(1),
            output: (i + 1 == count).then_some(0),
            kind: FileActionKind::Copy(CopyAction {
                src: format!("/{path}"),
                dest: dest.into(),
                ..CopyAction::default()
            }),
        });
        let op = Op::File(FileOp { actions: actions.collect() });
        let digests = sources.iter().map(|(_, digit)| ContentDigest([*digit; 32])).collect();
        let text: String =
            line.split(' ').map(|word| word.split(':').next().unwrap_or(word)).collect::<Vec<_>>().join(" ");
        self.add(op, vec![root, context], vec![None, Some(digests)], None, &text);
    }

    /// COPY --from of another stage.
    fn take(&mut self, rest: &str, line: &str) {
        let (stage, path) = rest.split_once(' ').expect("a stage and a path");
        let from = self.tops.iter().find(|(name, _)| name == stage).and_then(|(_, top)| *top).expect("a stage");
        let copy = CopyAction { src: format!("/{path}"), dest: "/".into(), ..CopyAction::default() };
        let kind = FileActionKind::Copy(copy);
        let action = FileAction { input: Some(0), secondary_input: Some(1), output: Some(0), kind };
        let root = self.top.expect("a tree");
        self.add(Op::File(FileOp { actions: vec![action] }), vec![root, from], vec![None, None], None, line);
    }
}

fn pair(text: &str) -> (String, u8) {
    let (name, digit) = text.rsplit_once([':', ' ']).expect("name:digit");
    (name.into(), digit.parse().expect("a digit"))
}

fn mount(target: &str, input: Option<usize>, selector: &str, output: Option<u32>, readonly: bool) -> Mount {
    let (target, selector) = (target.into(), selector.into());
    Mount { target, input, selector, output, readonly, kind: MountKind::Bind, content_cache: ContentCache::Default }
}

/// Why the last step of `new` is not what it was: `root: reason; reason`.
#[track_caller]
fn check(old: &str, new: &str, expected: &str) {
    let (old, new) = (steps(old), steps(new));
    let pairs = align(&new, &old);
    let because = explain(&new, &old, &pairs, new.len() - 1);
    let root = &new[because.root].name;
    let is_arg = |name: &str| name.starts_with("ARG_");
    let words: Vec<String> = because.reasons.iter().map(|reason| reason.words(instruction(root), &is_arg)).collect();
    assert_eq!(format!("{root}: {}", words.join("; ")), expected);
}

#[test]
fn the_part_that_differs_is_named_at_the_first_step_that_has_it() {
    let a = "FROM debian:12 1; RUN x; COPY package.json:1 /app; RUN make";
    check(
        a,
        "FROM debian:12 1; RUN x; COPY package.json:1 /app; RUN make all",
        "[4/9] RUN make all: RUN: the command changed",
    );
    check(a, "FROM debian:12 1; RUN y; COPY package.json:1 /app; RUN make", "[2/9] RUN y: RUN: the command changed");
    check(
        a,
        "FROM debian:12 1; RUN x; COPY package.json:2 /app; RUN make",
        "[3/9] COPY package.json /app: COPY package.json: content changed (sha256:010101010101… → sha256:020202020202…)",
    );
    check(
        a,
        "FROM debian:12 2; RUN x; COPY package.json:1 /app; RUN make",
        "[1/9] FROM docker.io/library/debian:12@sha256:0202020202020202020202020202020202020202020202020202020202020202: \
         base image debian:12 moved (sha256:010101010101… → sha256:020202020202…)",
    );
    check(
        a,
        "FROM debian:13 2; RUN x; COPY package.json:1 /app; RUN make",
        "[1/9] FROM docker.io/library/debian:13@sha256:0202020202020202020202020202020202020202020202020202020202020202: \
         the image debian:12 → debian:13",
    );
    check(
        a,
        "FROM debian:12 1; RUN x; COPY package.json:1 /srv; RUN make",
        "[3/9] COPY package.json /srv: the destination of COPY /app → /srv",
    );
    check(
        a,
        "FROM debian:12 1; RUN x; COPY package.json:1 yarn.lock:1 /app; RUN make",
        "[3/9] COPY package.json yarn.lock /app: the sources of COPY package.json → package.json yarn.lock",
    );
    check(
        "FROM a 1; COPY one:1 two:1 three:1 /",
        "FROM a 1; COPY one:1 two:2 three:3 /",
        "[2/9] COPY one two three /: COPY two: content changed (sha256:010101010101… → sha256:020202020202…); \
         COPY three: content changed (sha256:010101010101… → sha256:030303030303…)",
    );
}

#[test]
fn settings_of_a_process_are_called_as_in_the_file() {
    let check = |old: &str, new: &str, expected: &str| {
        check(
            &format!("FROM a 1; {old}; RUN x"),
            &format!("FROM a 1; {new}; RUN x"),
            &format!("[2/9] RUN x: {expected}"),
        );
    };
    check("ENV V=1.2", "ENV V=1.3", "ENV V 1.2 → 1.3");
    check("ENV ARG_V=1.2", "ENV ARG_V=1.3", "ARG ARG_V 1.2 → 1.3");
    check("ENV V=1", "ENV V=", "ENV V 1 → (none)");
    check("ENV V=1", "ENV V=1; ENV W=2", "ENV W is new: 2");
    check("ENV V=1; ENV W=2", "ENV W=2", "ENV V is gone");
    check("ENV V=1; ENV W=2", "ENV W=2; ENV V=1", "variables are set in another order");
    check("ENV A=1; ENV B=1; ENV C=1", "ENV A=2; ENV B=1; ENV C=2", "ENV A 1 → 2; ENV C 1 → 2");
    check("ENV API_TOKEN=hunter2", "ENV API_TOKEN=hunter3", "ENV API_TOKEN changed");
    check("ENV V=1", "ENV V=1; ENV DB_PASSWORD=hunter3", "ENV DB_PASSWORD is new");
    check("ENV DB_PASSWORD=hunter3", "ENV V=1", "ENV V is new: 1; ENV DB_PASSWORD is gone");
    check("ENV V=1", &format!("ENV V={}", "x".repeat(100)), &format!("ENV V 1 → {}…", "x".repeat(60)));
    check("USER root", "USER app", "USER root → app");
    check("WORKDIR /a", "WORKDIR /b", "WORKDIR /a → /b");
    check("SHELL /bin/sh -c", "SHELL /bin/bash -ec", "SHELL /bin/sh -c → /bin/bash -ec");
    check("BIND a:1", "BIND a:2", "RUN a: content changed (sha256:010101010101… → sha256:020202020202…)");
    check("BIND a:1", "BIND a:1; BIND b:1", "the mount at /mnt/b is new");
    check("BIND a:1; BIND b:1", "BIND a:1", "the mount at /mnt/b is gone");
    check("USER a", "USER a; ENV X=1; WORKDIR /w", "ENV X is new: 1; WORKDIR (none) → /w");
}

#[test]
fn steps_that_were_put_in_or_taken_away_are_found_and_the_others_stay_themselves() {
    let a = "FROM a 1; RUN one; RUN two; RUN three";
    check(a, "FROM a 1; RUN zero; RUN one; RUN two; RUN three", "[2/9] RUN zero: this step is new");
    check(a, "FROM a 1; RUN one; RUN more; RUN two; RUN three", "[3/9] RUN more: this step is new");
    check(a, "FROM a 1; RUN one; RUN two; RUN three; RUN four", "[5/9] RUN four: this step is new");
    check(
        a,
        "FROM a 1; RUN one; RUN three",
        "[3/9] RUN three: it stands on `[2/9] RUN one` now, not on `[3/9] RUN two`",
    );
    check(a, "FROM a 1; RUN two; RUN one; RUN three", "[2/9] RUN two: this step is new");
    // A changed one beside a new one: the one that looks alike is the changed one.
    check(
        "FROM a 1; RUN apt-get install gcc; RUN make",
        "FROM a 1; RUN useradd app; RUN apt-get install gcc make; RUN make",
        "[2/9] RUN useradd app: this step is new",
    );
    let (old, new) = (
        steps("FROM a 1; RUN apt-get install gcc; RUN make"),
        steps("FROM a 1; RUN useradd app; RUN apt-get install gcc make; RUN make"),
    );
    assert_eq!(align(&new, &old), [Some(0), None, Some(1), Some(2)]);
}

#[test]
fn another_stage_is_followed_down_to_its_own_reason() {
    let a = "STAGE build; FROM go 1; COPY src:1 /src; RUN make; STAGE final; FROM a 1; TAKE build app; RUN x";
    check(
        a,
        "STAGE build; FROM go 1; COPY src:2 /src; RUN make; STAGE final; FROM a 1; TAKE build app; RUN x",
        "[build 2/9] COPY src /src: COPY src: content changed (sha256:010101010101… → sha256:020202020202…)",
    );
    check(
        a,
        "STAGE compile; FROM go 1; COPY src:1 /src; RUN make -j; STAGE final; FROM a 1; TAKE compile app; RUN x",
        "[compile 3/9] RUN make -j: RUN: the command changed",
    );
    check(
        a,
        "STAGE lint; FROM b 1; RUN lint; STAGE build; FROM go 1; COPY src:1 /src; RUN make; STAGE final; FROM a 1; \
         TAKE lint app; RUN x",
        "[lint 2/9] RUN lint: this step is new",
    );
}

#[test]
fn what_did_not_change_says_how_it_ended() {
    let now = "FROM a 1; RUN x";
    check("FROM a 1; RUN x; FAILED", now, "[2/9] RUN x: it failed last time");
    check("FROM a 1; RUN x; LATE", now, "[2/9] RUN x: the last build did not come to it");
    check(now, now, "[2/9] RUN x: nothing changed, but its result is not there any more");
    check("FROM a 1; PLATFORM arm64; RUN x", now, "[2/9] RUN x: the platform linux/arm64 → linux/amd64");
}

#[test]
fn thousands_of_steps_are_aligned_without_weighing_all_pairs() {
    let lines = |what: &str, count: usize| (0..count).map(|i| format!("; RUN {what} {i}")).collect::<String>();
    let (old, new) = (steps(&format!("FROM a 1{}", lines("a", 3000))), steps(&format!("FROM a 1{}", lines("b", 3000))));
    let began = std::time::Instant::now();
    let pairs = align(&new, &old);
    assert!(pairs.iter().all(Option::is_some));
    explain(&new, &old, &pairs, new.len() - 1);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}
