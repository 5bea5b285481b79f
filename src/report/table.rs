//! Columns for people.

use unicode_width::UnicodeWidthStr as _;

/// Rows under their headings, each column as wide as its widest cell.
pub fn render<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(headings.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line = line + cell + &" ".repeat(width - cell.width() + 3);
        }
        text = text + line.trim_end() + "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned() {
        let rows = [["app".into(), "表".into()], ["registry.example/long".into(), "x".into()]];
        let expected = "NAME                    SIZE\napp                     表\nregistry.example/long   x\n";
        assert_eq!(super::render(["NAME", "SIZE"], rows), expected);
    }
}
