//! Lists that are well formed arrive; lists that are not leave nothing outside of their directory.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::*;

fn stat(path: &str, mode: u32, size: i64) -> Packet {
    let stat = Stat { path: path.into(), mode, size, mod_time: 1_500_000_000, ..Stat::default() };
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
}

fn link(path: &str, mode: u32, to: &str) -> Packet {
    let stat = Stat { path: path.into(), mode, linkname: to.into(), ..Stat::default() };
    Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() }
}

fn end() -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() }
}

fn data(id: u32, bytes: &'static [u8]) -> Packet {
    Packet { r#type: PacketType::PacketData.into(), id, data: bytes.into(), ..Packet::default() }
}

fn fin() -> Packet {
    Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() }
}

/// Gives packets to a receiver into `dir`; what it said, or why it stopped.
fn play(dir: &Path, packets: Vec<Packet>) -> Result<(bool, Vec<(i32, u32)>), String> {
    let root = File::open(dir).expect("it is there");
    let mut receiver = Receiver::new(root.as_fd()).expect("there are descriptors");
    let (mut out, mut ended) = (Vec::new(), false);
    for packet in packets {
        ended = receiver.take(packet, &mut out).map_err(|error| error.to_string())?;
    }
    Ok((ended, out.iter().map(|packet| (packet.r#type, packet.id)).collect()))
}

#[test]
fn a_directory_arrives_as_it_was_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (req, finish) = (PacketType::PacketReq as i32, PacketType::PacketFin as i32);
    let said = play(
        dir.path(),
        vec![
            stat("a", mode::DIR | 0o750, 0),
            stat("a/empty", 0o600, 0),
            stat("a/f", 0o755 | mode::SETUID, 5),
            link("a/hard", 0o755, "a/f"),
            stat("a.b", 0o644, 3),
            link("l", mode::SYMLINK | 0o777, "../../etc/passwd"),
            end(),
            data(2, b"he"),
            data(4, b"abc"),
            data(2, b"llo"),
            data(2, b""),
            data(4, b""),
            fin(),
        ],
    );
    assert_eq!(said, Ok((true, vec![(req, 2), (req, 4), (finish, 0)])));
    let file = dir.path().join("a/f");
    assert_eq!(std::fs::read(&file).expect("it came"), b"hello");
    let facts = file.metadata().expect("it came");
    assert_eq!((facts.permissions().mode() & 0o7777, facts.mtime(), facts.nlink()), (0o4755, 1, 2));
    assert_eq!(dir.path().join("a").metadata().expect("it came").permissions().mode() & 0o7777, 0o750);
    assert_eq!(dir.path().join("a").metadata().expect("it came").mtime_nsec(), 500_000_000);
    assert_eq!(std::fs::read_link(dir.path().join("l")).expect("it came"), Path::new("../../etc/passwd"));
}

#[test]
fn a_list_that_lies_is_refused_and_nothing_leaves_its_directory() {
    let (dir_mode, link_mode) = (mode::DIR | 0o755, mode::SYMLINK | 0o777);
    let check = |packets: Vec<Packet>, expected: &str| {
        let above = tempfile::tempdir().expect("a directory");
        let dir = above.path().join("into");
        std::fs::create_dir(&dir).expect("made");
        let said = play(&dir, packets).expect_err(expected);
        assert!(said.contains(expected), "{said} / {expected}");
        assert_eq!(std::fs::read_dir(above.path()).expect("it is there").count(), 1, "{expected}");
    };
    check(vec![stat("../x", 0o644, 1)], "leads out of the directory");
    check(vec![stat("a", dir_mode, 0), stat("a/../../x", 0o644, 1)], "leads out of the directory");
    check(vec![stat("..", dir_mode, 0)], "leads out of the directory");
    check(vec![stat("/x", 0o644, 1)], "is absolute");
    check(vec![stat("", 0o644, 1)], "is empty");
    check(vec![stat("a//b", 0o644, 1)], "is not plain");
    check(vec![stat("./a", 0o644, 1)], "is not plain");
    check(vec![stat("a\0b", 0o644, 1)], "has a zero byte");
    check(vec![stat(&"x".repeat(5000), 0o644, 1)], "is too long");
    check(vec![stat("b", 0o644, 0), stat("a", 0o644, 0)], "does not stand behind");
    check(vec![stat("a", 0o644, 0), stat("a", 0o644, 0)], "does not stand behind");
    check(vec![stat("a", dir_mode, 0), stat("a.b", 0o644, 0), stat("a/b", 0o644, 0)], "does not stand behind");
    check(vec![stat("a/b", 0o644, 1)], "is in no directory that came");
    check(vec![stat("a", 0o644, 0), stat("a/b", 0o644, 0)], "is in no directory that came");
    check(vec![link("a", link_mode, ".."), stat("a/x", 0o644, 1)], "is in no directory that came");
    check(vec![stat("a", dir_mode, 0), stat("b", 0o644, 0), stat("b/c", 0o644, 0)], "is in no directory");
    check(vec![link("a", 0o644, "../x")], "leads out of the directory");
    check(vec![link("a", 0o644, "missing")], "did not come");
    check(vec![stat("a", dir_mode, 0), link("b", 0o644, "a")], "no file");
    check(vec![link("a", link_mode, "/etc"), link("b", 0o644, "a/passwd")], "did not come");
    check(vec![link("a", dir_mode, "x")], "a link and something else");
    check(vec![stat("a", mode::DEVICE | 0o644, 0)], "a device or something unknown");
    check(vec![stat("a", mode::IRREGULAR, 0)], "a device or something unknown");
    check(vec![stat("a", 0o644, -1)], "has not the size");
    check(vec![stat("a", 0o644, 2), data(0, b"abc")], "has not the size that the client said: 2 bytes");
    check(vec![stat("a", 0o644, 2), data(0, b"a"), data(0, b"")], "has not the size that the client said");
    check(vec![stat("a", 0o644, 2), data(1, b"a")], "which nobody asked for");
    check(vec![stat("a", 0o644, 0), data(0, b"a")], "which nobody asked for");
    check(vec![link("a", 0o644, "a")], "did not come");
    check(vec![link("a", 0o644, "/etc/passwd")], "is absolute");
    let through_link = vec![stat("d", dir_mode, 0), stat("d/f", 0o644, 0), link("l", link_mode, "d")];
    check([through_link, vec![link("m", 0o644, "l/f")]].concat(), "did not come");
    check(vec![link("a", link_mode, "")], "cannot make `a`");
    check(vec![link("a", link_mode, "b\0c")], "cannot make `a`");
    check(vec![stat(&"x".repeat(300), 0o644, 0)], "cannot make");
    check(vec![stat("a", 0o644, i64::MAX), data(0, b"a"), data(0, b"")], "has not the size");
    check(vec![stat("a", 0o644, i64::MIN)], "has not the size");
    check(vec![stat("a", 0o644, 1), data(u32::MAX, b"a")], "which nobody asked for");
    check(vec![stat("a", 0o644, 1), data(0, b"a"), data(0, b""), data(0, b"b")], "which nobody asked for");
    check(vec![stat("a", 0o644, 1), end(), end()], "an entry behind the end");
    check(vec![end(), stat("a", 0o644, 0)], "an entry behind the end");
    check(vec![stat("a", 0o644, 1), end(), fin()], "before everything had come");
    check(vec![fin()], "before everything had come");
    check(vec![Packet { r#type: 77, ..Packet::default() }], "type 77");
    check(vec![Packet { r#type: 1, ..Packet::default() }], "a request");
    check(vec![Packet { r#type: 4, data: b"disk is gone"[..].into(), ..Packet::default() }], "disk is gone");
    let deep: Vec<Packet> = (1..300).map(|depth| stat(&vec!["d"; depth].join("/"), dir_mode, 0)).collect();
    check(deep, "is in too many directories");
}

#[test]
fn files_are_asked_for_a_few_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = File::open(dir.path()).expect("it is there");
    let mut receiver = Receiver::new(root.as_fd()).expect("there are descriptors");
    let mut out = Vec::new();
    for at in 0..200 {
        receiver.take(stat(&format!("{at:03}"), 0o644, 1), &mut out).expect("a plain list");
    }
    receiver.take(end(), &mut out).expect("a plain list");
    assert_eq!(out.len(), OPEN_MAX);
    let (mut answered, mut seen) = (0, BTreeMap::new());
    while answered < out.len() && out[answered].r#type == PacketType::PacketReq as i32 {
        let id = out[answered].id;
        answered += 1;
        assert_eq!(seen.insert(id, ()), None, "asked twice");
        receiver.take(data(id, b"x"), &mut out).expect("it was asked for");
        receiver.take(data(id, b""), &mut out).expect("it was asked for");
    }
    assert_eq!((seen.len(), receiver.bytes()), (200, 200));
    assert_eq!(receiver.take(fin(), &mut out).ok(), Some(true));
    assert_eq!(std::fs::read(dir.path().join("199")).expect("it came"), b"x");
}

#[test]
fn files_may_come_in_any_order_and_in_pieces_between_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let pieces: [&'static [u8]; 3] = [b"one ", b"two ", b"three"];
    let list = (0..3).map(|at| stat(&format!("f{at}"), 0o644, 13));
    let rounds = pieces.iter().flat_map(|piece| (0..3).rev().map(move |id| data(id, piece)));
    let ends = [1, 2, 0].map(|id| data(id, b""));
    let (ended, said) = play(dir.path(), list.chain([end()]).chain(rounds).chain(ends).chain([fin()]).collect())
        .expect("it is a plain directory");
    assert!(ended && said.len() == 4, "three requests and the end: {said:?}");
    for at in 0..3 {
        assert_eq!(std::fs::read(dir.path().join(format!("f{at}"))).expect("it came"), b"one two three");
    }
}

#[test]
fn times_of_any_size_and_modes_that_close_a_directory_are_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |packet: Packet, mod_time: i64| {
        let stat = packet.stat.map(|stat| Stat { mod_time, ..stat });
        Packet { stat, ..packet }
    };
    let list = vec![
        at(stat("closed", mode::DIR, 0), i64::MIN),
        at(stat("closed/f", 0, 0), i64::MAX),
        at(stat("z", mode::DIR | mode::STICKY | 0o777, 0), -1),
        end(),
        fin(),
    ];
    assert_eq!(play(dir.path(), list), Ok((true, vec![(PacketType::PacketFin as i32, 0)])));
    let facts = |path: &str| dir.path().join(path).symlink_metadata().expect("it came");
    assert_eq!((facts("closed").mode() & 0o7777, facts("closed/f").mode() & 0o7777), (0, 0));
    assert_eq!((facts("z").mode() & 0o7777, facts("z").mtime(), facts("z").mtime_nsec()), (0o1777, -1, 999_999_999));
}

/// A file whose time nobody set, long before it came.
fn old(path: &str, mode: u32, size: i64) -> Packet {
    let mut packet = stat(path, mode, size);
    packet.stat.as_mut().expect("it has one").mod_time = 1_600_000_000_123_456_789;
    packet
}

/// Likewise, but of a whole second.
fn even(path: &str, mode: u32, size: i64) -> Packet {
    let mut packet = stat(path, mode, size);
    packet.stat.as_mut().expect("it has one").mod_time = 1_600_000_000_000_000_000;
    packet
}

#[test]
fn what_is_the_same_is_not_asked_for_and_what_does_not_come_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (req, finish) = (PacketType::PacketReq as i32, PacketType::PacketFin as i32);
    let dir_mode = mode::DIR | 0o755;
    let first = vec![
        old("a", 0o644, 1),
        stat("d", dir_mode, 0),
        old("d/same", 0o600, 2),
        old("d/shrinks", 0o644, 2),
        even("even", 0o644, 1),
        old("goes", 0o644, 1),
        stat("tree", dir_mode, 0),
        stat("tree/in", dir_mode, 0),
        old("tree/in/f", 0o644, 1),
        old("turns", 0o644, 1),
        end(),
        data(0, b"a"),
        data(0, b""),
        data(2, b"ab"),
        data(2, b""),
        data(3, b"ab"),
        data(3, b""),
        data(4, b"e"),
        data(4, b""),
        data(5, b"g"),
        data(5, b""),
        data(8, b"f"),
        data(8, b""),
        data(9, b"t"),
        data(9, b""),
        fin(),
    ];
    assert!(play(dir.path(), first).expect("a plain list").0);
    let inode = |path: &str| dir.path().join(path).metadata().expect("it is there").ino();
    let (a, same) = (inode("a"), inode("d/same"));
    let second = vec![
        old("a", 0o644, 1),
        stat("d", mode::DIR | 0o700, 0),
        old("d/mode", 0o644, 0),
        old("d/same", 0o600, 2),
        old("d/shrinks", 0o644, 1),
        even("even", 0o644, 1),
        link("tree", mode::SYMLINK | 0o777, "d"),
        stat("turns", dir_mode, 0),
        end(),
        data(4, b"x"),
        data(4, b""),
        data(5, b"E"),
        data(5, b""),
        fin(),
    ];
    assert_eq!(play(dir.path(), second), Ok((true, vec![(req, 4), (req, 5), (finish, 0)])));
    assert_eq!((inode("a"), inode("d/same")), (a, same), "they stayed");
    assert_eq!(std::fs::read(dir.path().join("d/shrinks")).expect("it came"), b"x");
    assert_eq!(std::fs::read(dir.path().join("even")).expect("it came"), b"E");
    assert!(!dir.path().join("goes").exists() && dir.path().join("turns").is_dir());
    assert_eq!(std::fs::read_link(dir.path().join("tree")).expect("it is a link"), Path::new("d"));
    assert_eq!(dir.path().join("d").metadata().expect("it is there").permissions().mode() & 0o7777, 0o700);
    // Nothing of the last time can be linked to before it comes again.
    let third = vec![old("a", 0o644, 1), link("b", 0o644, "turns/x"), end()];
    assert!(play(dir.path(), third).expect_err("it did not come").contains("did not come"));
    // Modes and attributes count.
    let fourth = play(dir.path(), vec![old("a", 0o755, 1), end()]);
    assert_eq!(fourth, Ok((false, vec![(req, 0)])));
    assert!(play(dir.path(), vec![end(), fin()]).expect("an empty list").0);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
}
