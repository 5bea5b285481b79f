//! The comparison with other builders (`benches/compare`) says what is true: its promises, on small inputs, in its own
//! language. Absent: the other builders themselves, which only `make compare` starts.

use std::path::Path;
use std::process::Command;

#[test]
fn figures_of_other_builders_count_only_for_equal_images_and_equal_starts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare");
    let done = Command::new("/usr/bin/python3")
        .args(["-B", "check.py"])
        .current_dir(directory)
        .output()
        .expect("python3 starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
