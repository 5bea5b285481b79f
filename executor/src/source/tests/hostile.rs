//! A context that somebody changes all the while: what is copied is what was digested, or nothing is.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use solver::op::CopyAction;
use store::Store;

use super::{action, patterns};
use crate::ops::file::copy::{self, CopySource};
use crate::source::local::LocalSource;
use crate::source::look::Moment;
use crate::testing::{Log, build, open};
use crate::tree::Root;

/// Builds that a test tries while somebody changes the context, and how long that may take; `RBUILD_SOAK_SECONDS` makes it
/// go on for so long.
const BUILDS: usize = 60;
const BUILDS_FOR: Duration = Duration::from_secs(20);

/// A number that is hard to foresee and always the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const FILES: [&str; 4] = ["a", "d/b", "d/e/c", "big"];

/// Changes one thing in a context in one of the ways in which people and programs do. What is gone meanwhile is made anew.
fn change(context: &Path, dice: &mut Dice) -> std::io::Result<()> {
    let path = context.join(FILES[dice.roll(FILES.len() as u64) as usize]);
    let letter = b'a' + dice.roll(4) as u8;
    let length = if path.ends_with("big") { 300_000 } else { 100 };
    let aside = context.join("aside");
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    match dice.roll(12) {
        // In place, the same length.
        0 | 1 if path.is_file() => {
            let file = OpenOptions::new().write(true).open(&path)?;
            for at in (0..length).step_by(length / 4) {
                file.write_all_at(&vec![letter; length / 4], at as u64)?;
            }
        }
        2 if path.is_file() => File::options().write(true).open(&path)?.set_len(dice.roll(length as u64))?,
        3 if path.is_file() => OpenOptions::new().append(true).open(&path)?.write_all(b"more")?,
        // Another in its place.
        4..=6 => {
            fs::write(&aside, vec![letter; length])?;
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            }
            fs::rename(&aside, &path)?;
        }
        7 if path.is_file() => fs::remove_file(&path)?,
        8 if path.is_file() => {
            fs::remove_file(&path)?;
            symlink(format!("target{letter}"), &path)?;
        }
        9 if path.is_file() => fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + u32::from(letter % 2)))?,
        10 => {
            let (from, to) = (context.join("d"), context.join("moved"));
            if from.is_dir() && !to.exists() {
                fs::rename(from, to)?;
            } else if to.exists() {
                fs::remove_dir_all(to)?;
            }
        }
        _ => {
            if path.is_symlink() || path.is_file() {
                fs::remove_file(&path)?;
            }
            fs::write(&path, vec![letter; length])?;
        }
    }
    Ok(())
}

fn everything() -> CopyAction {
    CopyAction { dir_contents_only: true, ..action("/") }
}

fn digest_of(dir: &Path) -> String {
    let local = LocalSource::open("context", dir).unwrap();
    local.digest_selected(&patterns(&[]), &copy::selection(&everything()), &|| false).unwrap().digest.to_string()
}

/// Digests and copies the context as one build does. What was copied, if anything was, has the digest that was made.
fn build_once(local: LocalSource, work: &Path) -> Result<(), String> {
    let causes = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    };
    let (local, patterns) = (Arc::new(local), Arc::new(patterns(&[])));
    let made = local.digest_selected(&patterns, &copy::selection(&everything()), &|| false);
    let digest = made.map_err(|error| causes(&error))?.digest.to_string();
    let root = tempfile::tempdir_in(work).unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copied = copy::perform(
        &everything(),
        &CopySource::Local(local, patterns),
        &Root::new(open(root.path())),
        &Log::default(),
    );
    copied.map_err(|error| causes(&error))?;
    assert_eq!(digest_of(root.path()), digest, "a copy is what was digested");
    Ok(())
}

#[test]
fn what_is_copied_is_what_was_digested_whatever_happens_meanwhile() {
    let soak = std::env::var("RBUILD_SOAK_SECONDS").ok().map(|text| Duration::from_secs(text.parse().unwrap()));
    let work = tempfile::tempdir().unwrap();
    let context = work.path().join("context");
    build(&context, &["a=A", "d/b=B", "d/e/c=C", "big=B", "still/1=1", "still/2=2"]);
    let store = Store::open(&work.path().join("store")).unwrap();
    // Whoever changes something shares it; whoever needs peace has it alone.
    let (peace, over) = (RwLock::new(()), AtomicBool::new(false));
    let source = |clock: fn() -> Moment| {
        let local = LocalSource::open("context", &context).unwrap().with_clock(clock);
        local.remember_in(&store).unwrap();
        local
    };
    let (mut copied, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(7);
            while !over.load(Ordering::Relaxed) {
                let _changing = peace.read().unwrap();
                // Two who change the same may be in each other's way; so may we and who reads: neither matters.
                if let Err(error) = change(&context, &mut dice) {
                    tracing::debug!(%error, "not changed");
                }
            }
        });
        // Also when this thread panics: the other one would go on for ever.
        let _over = SetOnDrop(&over);
        let start = Instant::now();
        for i in 0.. {
            let is_over = match soak {
                Some(soak) => start.elapsed() > soak,
                None => i >= BUILDS || start.elapsed() > BUILDS_FOR,
            };
            if is_over {
                break;
            }
            // A clock that does not go on proves nothing by looks: then bytes are compared.
            match build_once(source(if i % 2 == 0 { Moment::now } else { Moment::long_ago }), work.path()) {
                Ok(()) => copied += 1,
                Err(error) => {
                    assert!(error.contains("changed while it was read"), "{error}");
                    refused += 1;
                }
            }
            if i % 5 == 0 {
                let _peace = peace.write().unwrap();
                let made =
                    source(Moment::now).digest_selected(&patterns(&[]), &copy::selection(&everything()), &|| false);
                assert_eq!(
                    made.unwrap().digest.to_string(),
                    digest_of(&context),
                    "what is remembered is what is there"
                );
                build_once(source(Moment::now), work.path()).expect("nobody changes anything");
            }
        }
    });
    println!("{copied} copied, {refused} refused");
    assert!(refused > 0, "somebody changed something all the while");
}

#[test]
fn equal_digests_are_equal_copies() {
    let work = tempfile::tempdir().unwrap();
    let lines = [
        "a=1",
        "a=2",
        "a=1 600",
        "a/",
        "a -> b",
        "a|",
        "b=1",
        "b=1 @user.x=1",
        "d/a=1",
        "d/a=2",
        "d/b=1",
        "d/ 700",
        "d/e/",
        "d/e/a=1",
        "d/e/a -> a",
        "e/a=1",
        "e/d/a=1",
        "m -> d",
        "m -> e",
        "n:1:3",
        "n:1:5",
    ];
    let mut dice = Dice(11);
    let (mut equal, mut different) = (0, 0);
    let mut seen: Vec<(CopyAction, String, Vec<String>)> = Vec::new();
    for i in 0..400 {
        let context = work.path().join(format!("context{i}"));
        let mut chosen: Vec<&str> = Vec::new();
        for _ in 0..1 + dice.roll(4) {
            let line = lines[dice.roll(lines.len() as u64) as usize];
            let name = |line: &str| line.split(['=', ' ', '|', ':']).next().unwrap().trim_end_matches('/').to_owned();
            let (mine, prefix) = (name(line), format!("{}/", name(line)));
            let clashes = |other: &&str| {
                let other = name(other);
                other == mine || other.starts_with(&prefix) || mine.starts_with(&format!("{other}/"))
            };
            if !chosen.iter().any(clashes) {
                chosen.push(line);
            }
        }
        build(&context, &chosen);
        let of = |src: &str, dir_contents_only: bool, exclude: &[&str]| CopyAction {
            dir_contents_only,
            dest: "/to/".into(),
            exclude_patterns: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..action(src)
        };
        let actions = [of("/", true, &[]), of("/?", true, &[]), of("/?", false, &["**/b"]), of("/*/a", true, &["a"])];
        let action = &actions[dice.roll(4) as usize];
        let (local, patterns) = (Arc::new(LocalSource::open("context", &context).unwrap()), Arc::new(patterns(&[])));
        let made = local.digest_selected(&patterns, &copy::selection(action), &|| false).unwrap();
        let root = work.path().join(format!("root{i}"));
        build(&root, &["to/"]);
        let source = CopySource::Local(local, patterns);
        // What the first match leaves in the way of the second is an error of the copy, not of the digest.
        let Ok(_) = copy::perform(action, &source, &Root::new(open(&root)), &Log::default()) else { continue };
        let copy = crate::testing::show(std::os::fd::AsFd::as_fd(&open(&root)), false);
        seen.push((action.clone(), made.digest.to_string(), copy));
    }
    for (i, (action, digest, copy)) in seen.iter().enumerate() {
        for (_, other_digest, other_copy) in seen[..i].iter().filter(|(other, ..)| other == action) {
            // Several matches may lead to one copy in several ways; then digests may differ.
            if digest == other_digest {
                equal += 1;
                assert_eq!(copy, other_copy);
            } else if action.src == "/" {
                different += 1;
                assert_ne!(copy, other_copy, "{digest} {other_digest}");
            }
        }
    }
    assert!(equal > 100 && different > 100, "{equal} {different}");
}
