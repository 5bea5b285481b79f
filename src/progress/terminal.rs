//! The terminal on standard error: its size, and its cursor given back whatever happens.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// A terminal that does not tell its size.
const DEFAULT_SIZE: Size = Size { columns: 80, rows: 24 };

/// The size of the terminal on standard error, now.
pub fn stderr_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => DEFAULT_SIZE,
    }
}

static CURSOR_HIDDEN: AtomicBool = AtomicBool::new(false);

/// Appends what hides the cursor and notes that [`restore`] must show it again.
pub fn hide_cursor(out: &mut String) {
    CURSOR_HIDDEN.store(true, Ordering::SeqCst);
    out.push_str("\x1b[?25l");
}

/// Shows the cursor if it is hidden. Called at every way out, panics and the second Ctrl-C included.
pub fn restore() {
    if CURSOR_HIDDEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs no cursor.
        let _ = std::io::stderr().write_all(b"\x1b[?25h");
    }
}
