//! The architectures that can be emulated: how their programs begin, and the smallest program of each.
//!
//! Pure. In: a platform. Out: an [`Arch`], from which come the header of its programs (by which handlers are found, and
//! registered) and a program of a few instructions that ends with [`STATUS`]. Whoever can run that one can run others.
//! Deliberately absent: Windows, and anything else that is not ELF. System V ABI, "Object Files".

use oci::model::Platform;

/// How a trial program ends.
pub const STATUS: i32 = 42;

/// Bytes of a header that tell what a program is for: up to and with `e_machine`.
pub const TELLING: usize = 20;
/// Where trial programs are loaded: above what no program may map, and a multiple of every page size.
const ADDRESS: u64 = 0x40_0000;
/// The largest pages that Linux has here and there.
const PAGE: u64 = 0x1_0000;

/// An architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// As images have it.
    pub name: &'static str,
    /// As QEMU has it.
    pub qemu: &'static str,
    wide: bool,
    little: bool,
    machine: u16,
    flags: u32,
    /// `exit(42)`.
    code: &'static [u8],
}

const fn arch(name: &'static str, qemu: &'static str, form: (bool, bool, u16, u32), code: &'static [u8]) -> Arch {
    let (wide, little, machine, flags) = form;
    Arch { name, qemu, wide, little, machine, flags, code }
}

/// Those that Debian has or has had, and that QEMU runs.
pub const ALL: [Arch; 10] = [
    arch("amd64", "x86_64", (true, true, 62, 0), &[0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]),
    arch("386", "i386", (false, true, 3, 0), &[0xbb, 42, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]),
    arch("arm64", "aarch64", (true, true, 183, 0), &[0x40, 5, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4]),
    arch("arm", "arm", (false, true, 40, 0x0500_0200), &[42, 0, 0xa0, 0xe3, 1, 0x70, 0xa0, 0xe3, 0, 0, 0, 0xef]),
    arch("riscv64", "riscv64", (true, true, 243, 0), &[0x13, 5, 0xa0, 2, 0x93, 8, 0xd0, 5, 0x73, 0, 0, 0]),
    arch("s390x", "s390x", (true, false, 22, 0), &[0xa7, 0x29, 0, 42, 0x0a, 1]),
    arch("ppc64le", "ppc64le", (true, true, 21, 2), &[1, 0, 0, 0x38, 42, 0, 0x60, 0x38, 2, 0, 0, 0x44]),
    arch("mips64le", "mips64el", (true, true, 8, 0x8000_0007), &[0xc2, 0x13, 2, 0x24, 42, 0, 4, 0x24, 0x0c, 0, 0, 0]),
    arch("mipsle", "mipsel", (false, true, 8, 0x7000_1007), &[0xa1, 0x0f, 2, 0x24, 42, 0, 4, 0x24, 0x0c, 0, 0, 0]),
    arch("loong64", "loongarch64", (true, true, 258, 0x43), &[0x0b, 0x74, 0xc1, 2, 4, 0xa8, 0xc0, 2, 0, 0, 0x2b, 0]),
];

impl Arch {
    /// That of a platform; `None` where there is nothing to emulate.
    pub fn of(platform: &Platform) -> Option<&'static Self> {
        ALL.iter().find(|arch| platform.os == "linux" && arch.name == platform.architecture)
    }

    /// Names under which its emulator is installed, the usual one first.
    pub fn emulators(&self) -> [String; 3] {
        ["qemu-NAME-static", "qemu-NAME", "buildkit-qemu-NAME"].map(|name| name.replace("NAME", self.qemu))
    }

    /// How its programs begin.
    pub fn header(&self) -> [u8; TELLING] {
        let mut header = [0; TELLING];
        header[..4].copy_from_slice(b"\x7fELF");
        header[4..7].copy_from_slice(&[if self.wide { 2 } else { 1 }, if self.little { 1 } else { 2 }, 1]);
        header[16..18].copy_from_slice(&self.half(2));
        header[18..20].copy_from_slice(&self.half(self.machine));
        header
    }

    /// Which bits of [`Self::header`] all its programs have: not the operating system, which differs without meaning
    /// anything, nor whether a program must be at a fixed address.
    pub fn mask(&self) -> [u8; TELLING] {
        let mut mask = [0xff; TELLING];
        mask[7..16].fill(0);
        mask[if self.little { 16 } else { 17 }] = 0xfe;
        mask
    }

    /// The smallest program: it ends with [`STATUS`].
    pub fn program(&self) -> Vec<u8> {
        let (file_header, program_header) = if self.wide { (64, 56) } else { (52, 32) };
        let start = file_header + program_header;
        let length = u64::from(start) + self.code.len() as u64;
        let mut out = self.header().to_vec();
        let mut put = |parts: &[Vec<u8>]| parts.iter().for_each(|part| out.extend(part));
        let (word, long, half) = (|n: u32| self.word(n), |n: u64| self.long(n), |n: u16| self.half(n).to_vec());
        put(&[word(1), long(ADDRESS + u64::from(start)), long(file_header.into()), long(0), word(self.flags)]);
        put(&[half(file_header), half(program_header), half(1), half(0), half(0), half(0)]);
        // One segment, which is all of the file, to be read and executed.
        let (load, access) = (word(1), word(5));
        match self.wide {
            true => put(&[load, access, long(0), long(ADDRESS), long(ADDRESS), long(length), long(length), long(PAGE)]),
            false => {
                put(&[load, long(0), long(ADDRESS), long(ADDRESS), long(length), long(length), access, long(PAGE)])
            }
        }
        out.extend(self.code);
        out
    }

    fn half(&self, number: u16) -> [u8; 2] {
        if self.little { number.to_le_bytes() } else { number.to_be_bytes() }
    }

    fn word(&self, number: u32) -> Vec<u8> {
        if self.little { number.to_le_bytes().to_vec() } else { number.to_be_bytes().to_vec() }
    }

    /// An address or size: as many bytes as its registers have.
    fn long(&self, number: u64) -> Vec<u8> {
        match (self.wide, self.little) {
            (true, true) => number.to_le_bytes().to_vec(),
            (true, false) => number.to_be_bytes().to_vec(),
            (false, _) => self.word(number as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> &'static Arch {
        ALL.iter().find(|arch| arch.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn headers_are_those_of_the_architectures_programs() {
        let check = |name: &str, expected: &str, mask: &str| {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(hex(&named(name).header()), expected, "{name}");
            assert_eq!(hex(&named(name).mask()), mask, "{name}");
        };
        let (little, big) = ("ffffffffffffff000000000000000000feffffff", "ffffffffffffff000000000000000000fffeffff");
        check("arm64", "7f454c46020101000000000000000000 0200b700".replace(' ', "").as_str(), little);
        check("s390x", "7f454c46020201000000000000000000 00020016".replace(' ', "").as_str(), big);
        check("arm", "7f454c46010101000000000000000000 02002800".replace(' ', "").as_str(), little);
        check("loong64", "7f454c46020101000000000000000000 02000201".replace(' ', "").as_str(), little);
    }

    #[test]
    fn platforms_have_the_architecture_of_their_name() {
        let check = |text: &str, expected: Option<&str>| {
            let platform: Platform = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(Arch::of(&platform).map(|arch| arch.qemu), expected, "{text}");
        };
        check("linux/arm64", Some("aarch64"));
        check("linux/arm/v7", Some("arm"));
        check("linux/s390x", Some("s390x"));
        check("linux/vax", None);
        check("windows/amd64", None);
        assert_eq!(named("s390x").emulators(), ["qemu-s390x-static", "qemu-s390x", "buildkit-qemu-s390x"]);
    }
}
