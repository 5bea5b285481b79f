//! Archives made by hand, right or wrong: every field is what a test says. Nothing but the standard library is used, so
//! that any crate's tests can include this file.

#![allow(dead_code, missing_docs)]

/// An archive made field by field, right or wrong.
#[derive(Default)]
pub struct RawTar(pub Vec<u8>);

/// One header block.
pub struct RawHeader<'a> {
    pub name: &'a [u8],
    pub flag: u8,
    pub size: u64,
    pub link: &'a [u8],
    pub mode: u32,
    pub magic: &'a [u8; 8],
}

impl Default for RawHeader<'_> {
    fn default() -> Self {
        Self { name: b"f", flag: b'0', size: 0, link: b"", mode: 0o644, magic: b"ustar\x0000" }
    }
}

impl RawTar {
    pub fn header(&mut self, header: RawHeader<'_>) -> &mut Self {
        let mut block = [0; 512];
        block[..header.name.len()].copy_from_slice(header.name);
        block[100..108].copy_from_slice(format!("{:07o}\0", header.mode).as_bytes());
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        if header.size < 1 << 33 {
            block[124..136].copy_from_slice(format!("{:011o}\0", header.size).as_bytes());
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&header.size.to_be_bytes());
        }
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = header.flag;
        block[157..157 + header.link.len()].copy_from_slice(header.link);
        block[257..265].copy_from_slice(header.magic);
        self.block(block)
    }

    /// Any block, sealed with the right checksum.
    pub fn block(&mut self, mut block: [u8; 512]) -> &mut Self {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// Bytes, filled up to a whole block.
    pub fn data(&mut self, data: &[u8]) -> &mut Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(&mut self, name: &[u8], data: &[u8]) -> &mut Self {
        self.header(RawHeader { name, size: data.len() as u64, ..Default::default() }).data(data)
    }

    pub fn member(&mut self, name: &[u8], flag: u8, link: &[u8]) -> &mut Self {
        self.header(RawHeader { name, flag, link, mode: 0o755, ..Default::default() })
    }

    /// An extension header of type `flag` with this content.
    pub fn extension(&mut self, flag: u8, content: &[u8]) -> &mut Self {
        let magic: &[u8; 8] = if flag == b'x' || flag == b'g' { b"ustar\x0000" } else { b"ustar  \0" };
        let size = content.len() as u64;
        self.header(RawHeader { name: b"extension", flag, size, magic, ..Default::default() }).data(content)
    }

    pub fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.extension(b'x', &content)
    }

    pub fn end(&mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        std::mem::take(&mut self.0)
    }
}

pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let fixed = key.len() + value.len() + 3;
    let length = (fixed + 1..).find(|length| fixed + length.to_string().len() == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
