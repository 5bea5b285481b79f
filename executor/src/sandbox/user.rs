//! `user[:group]` resolved in the root's `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's, so they are hostile: regular, bounded, opened beneath the root, parsed leniently (a
//! malformed line is no entry). Numbers are numbers: a user whose *name* is `1000` is never found by `USER 1000`.

use std::io::Read;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::beneath::{Root, file_type};

/// A large organisation's passwd fits; a hostile image might bring gigabytes.
const ACCOUNTS_MAX_BYTES: u64 = 10 << 20;
/// Larger ids are refused: some tools treat them as negative, and -1 means "leave as it is" to the kernel.
const ID_MAX: u32 = i32::MAX as u32;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Resolves `user[:group]` in `root`. The error is in words.
pub fn resolve(root: &Root, user: &str) -> Result<Identity, String> {
    identity(user, &accounts(root, "/etc/passwd")?, &accounts(root, "/etc/group")?)
}

fn accounts(root: &Root, path: &str) -> Result<String, String> {
    let words = |error: Errno| format!("`{path}` in the image: {error}");
    // First the type by a place, which opens nothing: opening a device or a pipe may act.
    let place = match root.place(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        place => place.map_err(words)?,
    };
    if file_type(&place).map_err(words)? != FileType::RegularFile {
        return Err(format!("`{path}` in the image is not a regular file"));
    }
    let file = std::fs::File::from(root.open(path, OFlags::RDONLY).map_err(words)?);
    if file_type(&file).map_err(words)? != FileType::RegularFile {
        return Err(format!("`{path}` in the image is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| format!("`{path}` in the image: {e}"))?;
    if bytes.len() as u64 > ACCOUNTS_MAX_BYTES {
        return Err(format!("`{path}` in the image is larger than {} MiB", ACCOUNTS_MAX_BYTES >> 20));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The decision, on texts.
fn identity(wanted: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, group),
        None => (wanted, ""),
    };
    let users = || {
        passwd.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
            Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
        })
    };
    let groups = || {
        group.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields[..] else { return None };
            Some(Group { name, gid: gid.parse().ok()?, members })
        })
    };
    let number = if user.is_empty() { Some(0) } else { id(user, "user")? };
    let entry = match number {
        Some(uid) => users().find(|entry| entry.uid == uid),
        None => Some(
            users()
                .find(|entry| entry.name == user)
                .ok_or_else(|| format!("no user `{user}` in the image's `/etc/passwd`"))?,
        ),
    };
    let uid = checked(number.or(entry.as_ref().map(|entry| entry.uid)).unwrap_or(0), "user")?;
    let gid = match wanted_group {
        "" => entry.as_ref().map_or(0, |entry| entry.gid),
        name => match id(name, "group")? {
            Some(gid) => gid,
            None => {
                groups()
                    .find(|entry| entry.name == name)
                    .ok_or_else(|| format!("no group `{name}` in the image's `/etc/group`"))?
                    .gid
            }
        },
    };
    let mut list = vec![checked(gid, "group")?];
    // A group that is named replaces the user's own groups, as everywhere in the field.
    if let (Some(entry), "") = (&entry, wanted_group) {
        for group in groups().filter(|group| group.members.split(',').any(|member| member == entry.name)) {
            if !list.contains(&group.gid) {
                list.push(checked(group.gid, "group")?);
            }
        }
    }
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid: list[0], groups: list, home })
}

/// A number that is written, or `None` when it is a name.
fn id(text: &str, what: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse::<u32>().map_err(|_| out_of_range(text, what))?;
    checked(number, what).map(Some)
}

fn checked(number: u32, what: &str) -> Result<u32, String> {
    if number > ID_MAX { Err(out_of_range(&number.to_string(), what)) } else { Ok(number) }
}

fn out_of_range(text: &str, what: &str) -> String {
    format!("{what} id `{text}` is out of range (0 to {ID_MAX})")
}

#[cfg(test)]
mod tests {
    use super::identity;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n1000:x:0:0::/evil:/bin/sh\n\
        bob:x:1001:1002:Bob:/home/bob:/bin/sh\nbroken\nbig:x:2147483648:5::/:\nnohome:x:7:7:::\n";
    const GROUP: &str = "root:x:0:root\nwheel:x:10:root,bob\nbob:x:1002:\naudio:x:29:alice,bob\nbobby:x:30:bobby\n";

    #[track_caller]
    fn check(wanted: &str, expected: &str) {
        let found = match identity(wanted, PASSWD, GROUP) {
            Ok(id) => format!("{}:{} {:?} {}", id.uid, id.gid, id.groups, id.home),
            Err(words) => format!("error: {words}"),
        };
        assert_eq!(found, expected, "for {wanted:?}");
    }

    #[test]
    fn users_are_resolved_as_container_users_expect() {
        check("", "0:0 [0, 10] /root");
        check("root", "0:0 [0, 10] /root");
        check("bob", "1001:1002 [1002, 10, 29] /home/bob");
        check("1001", "1001:1002 [1002, 10, 29] /home/bob");
        check("bob:audio", "1001:29 [29] /home/bob");
        check("bob:5", "1001:5 [5] /home/bob");
        check("4242", "4242:0 [0] /");
        check("4242:4343", "4242:4343 [4343] /");
        check(":audio", "0:29 [29] /root");
        check("nohome", "7:7 [7] /");
    }

    #[test]
    fn a_number_is_never_taken_for_a_name() {
        check("1000", "1000:0 [0] /");
    }

    #[test]
    fn ids_that_wrap_around_are_refused() {
        check("4294967296", "error: user id `4294967296` is out of range (0 to 2147483647)");
        check("2147483648", "error: user id `2147483648` is out of range (0 to 2147483647)");
        check("big", "error: user id `2147483648` is out of range (0 to 2147483647)");
        check("0:4294967295", "error: group id `4294967295` is out of range (0 to 2147483647)");
        check("-1", "error: no user `-1` in the image's `/etc/passwd`");
        check("ghost", "error: no user `ghost` in the image's `/etc/passwd`");
        check("bob:ghosts", "error: no group `ghosts` in the image's `/etc/group`");
    }
}
