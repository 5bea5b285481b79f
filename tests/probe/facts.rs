//! What a probe told, by section and name.

/// What a probe told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts(Vec<(String, String)>);

impl Facts {
    /// Reads its output.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The value of `SECTION.NAME`, which must be there.
    #[track_caller]
    pub fn of(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("the probe told nothing of {name}: {self:?}")).1
    }

    /// Names and values of a section, in the order in which the probe told them.
    pub fn section<'a>(&'a self, section: &str) -> Vec<(&'a str, &'a str)> {
        let of_it = |(name, value): &'a (String, String)| {
            Some((name.strip_prefix(section)?.strip_prefix('.')?, value.as_str()))
        };
        self.0.iter().filter_map(of_it).collect()
    }
}
