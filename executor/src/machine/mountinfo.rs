//! Lines of `/proc/self/mountinfo`. proc_pid_mountinfo(5).

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// The directory of the file system that is at [`Self::place`].
    pub root: String,
    /// Where it is mounted, as this process sees it.
    pub place: String,
    /// Whether the mount refuses writes; its file system may as well.
    pub readonly: bool,
    /// Type of the file system.
    pub kind: &'a str,
    /// The file system's own options.
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// The file system's own options, one by one.
    pub fn options(&self) -> impl Iterator<Item = &'a str> {
        self.options.split(',')
    }
}

/// All mounts in the order of the text; a line that is none is passed over.
pub fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(mount)
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, place, mut flags) = (fields.next()?, fields.next()?, fields.next()?.split(','));
    let mut fields = file_system.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    let readonly = flags.any(|flag| flag == "ro");
    Some(Mount { root: unescape(root), place: unescape(place), readonly, kind, options })
}

/// Blanks and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => out.push(code.into()),
            None => out.push('\\'),
        }
        rest = if code.is_some() { &after[3..] } else { after };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_as_the_kernel_writes_them() {
        // `root place kind options`, and ` ro`.
        let check = |line: &str, expected: &str| {
            let shown = |mount: Mount| {
                let options: Vec<_> = mount.options().collect();
                let readonly = if mount.readonly { " ro" } else { "" };
                format!("{} {} {} {}{readonly}", mount.root, mount.place, mount.kind, options.join("+"))
            };
            assert_eq!(mounts(line).map(shown).collect::<String>(), expected, "{line}");
        };
        check("23 1 8:1 / / rw - ext4 /dev/sda rw,discard", "/ / ext4 rw+discard");
        check("23 1 8:1 /a /b ro,nosuid shared:4 master:2 - tmpfs none rw", "/a /b tmpfs rw ro");
        check(r"23 1 8:1 /a\040b /c\011d\134e rw - ext4 - rw", "/a b /c\td\\e ext4 rw");
        check(r"23 1 8:1 /\9 /\77 rw - ext4 - rw", r"/\9 /\77 ext4 rw");
        check(r"23 1 8:1 /\ÿ€ /\377 rw - ext4 - rw", r"/\ÿ€ /\377 ext4 rw");
        for nonsense in ["", " - ", "1 2 3 - cgroup2", "1 2 3:4 / / - ext4", "1 2 3:4 / / rw ext4 - rw"] {
            check(nonsense, "");
        }
    }
}
