//! Modes as fsutil has them: permissions in the low nine bits, the rest as Go's `io/fs` numbers it.

/// A directory.
pub const DIR: u32 = 1 << 31;
/// A symbolic link.
pub const SYMLINK: u32 = 1 << 27;
/// A device.
pub const DEVICE: u32 = 1 << 26;
/// A named pipe.
pub const NAMED_PIPE: u32 = 1 << 25;
/// A socket.
pub const SOCKET: u32 = 1 << 24;
/// The set-user-id bit.
pub const SETUID: u32 = 1 << 23;
/// The set-group-id bit.
pub const SETGID: u32 = 1 << 22;
/// Of a device: it is one of characters.
pub const CHAR_DEVICE: u32 = 1 << 21;
/// The sticky bit.
pub const STICKY: u32 = 1 << 20;
/// Something else.
pub const IRREGULAR: u32 = 1 << 19;
/// What says of which kind a file is; a regular one has none of them.
pub const TYPES: u32 = DIR | SYMLINK | DEVICE | NAMED_PIPE | SOCKET | CHAR_DEVICE | IRREGULAR;
