//! BuildKit's rules about space, as limits of the store.
//!
//! In: `gc…`, `reservedSpace`, `maxUsedSpace`, `minFreeSpace` and `gcpolicy` of a worker, or the value of
//! `--oci-worker-gc-keepstorage`. Out: [`Space`]. BuildKit walks along a list of rules, each of which takes from what it
//! filters until its size is kept; the store has one size, one age, and one size of its cache mounts. So rules without
//! filters give the size and the age, the strictest counting, and one of cache mounts gives theirs; the rest is told to
//! mean nothing. Sizes are in binary units there, whatever letters say.

use std::time::Duration;

use toml::{Table, Value};

use crate::cli::values;
use crate::options::size::Size;

const KEYS: [&str; 6] = ["gc", "gckeepstorage", "reservedspace", "maxusedspace", "minfreespace", "gcpolicy"];
/// The one kind of thing that has a size of its own.
const MOUNTS: [&str; 2] = ["type==exec.cachemount", "type=exec.cachemount"];
/// More than any disk has.
const NO_LIMIT: Size = Size::Bytes(u64::MAX);

/// What the store may take, as far as it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The store.
    pub max_size: Option<Size>,
    /// So much of the disk stays free.
    pub keep_free: Option<Size>,
    /// But the store may have so much.
    pub at_least: Option<Size>,
    /// All cache mounts.
    pub mounts_max_size: Option<Size>,
    /// What is not used stays so long.
    pub keep_for: Option<Duration>,
}

/// One rule's sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    reserved: Option<Size>,
    max: Option<Size>,
    free: Option<Size>,
}

impl Sizes {
    fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What may be used: a maximum, and where there is none as much as the disk has beside what stays free; a reserve
    /// alone is both, least and most.
    fn max_size(self) -> Option<Size> {
        match self {
            Self { max: Some(Size::Bytes(max)), reserved: Some(Size::Bytes(reserved)), .. } => {
                Some(Size::Bytes(max.max(reserved)))
            }
            Self { max: Some(max), .. } => Some(max),
            Self { free: Some(_), .. } => Some(NO_LIMIT),
            Self { reserved, .. } => reserved,
        }
    }

    fn space(self) -> Space {
        Space { max_size: self.max_size(), keep_free: self.free, at_least: self.reserved, ..Space::default() }
    }
}

/// Whether a worker's key is about space.
pub fn is_key(name: &str) -> bool {
    KEYS.contains(&name.to_ascii_lowercase().as_str())
}

impl Space {
    /// Nothing goes by itself.
    pub const UNLIMITED: Self = Self {
        max_size: Some(NO_LIMIT),
        keep_free: None,
        at_least: None,
        mounts_max_size: Some(NO_LIMIT),
        keep_for: None,
    };

    /// What a worker's table says; what of it means nothing here goes to `unknown`.
    ///
    /// # Errors
    /// With the key, for values that are none.
    pub fn of_worker(table: &Table, unknown: &mut Vec<String>) -> Result<Self, String> {
        let get = |wanted: &str| table.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        match get("gc") {
            Some((_, Value::Boolean(false))) => return Ok(Self::UNLIMITED),
            None | Some((_, Value::Boolean(true))) => {}
            Some(_) => return Err("`worker.oci.gc` is true or false".into()),
        }
        if let Some((_, rules)) = get("gcpolicy") {
            let rules = rules.as_array().ok_or("`worker.oci.gcpolicy` is a list of tables")?;
            return Self::of_rules(rules, unknown);
        }
        Ok(sizes("worker.oci", table)?.space())
    }

    /// What `--oci-worker-gc-keepstorage RESERVED[,FREE[,MAXIMUM]]` says: megabytes, or shares of the disk.
    ///
    /// # Errors
    /// For what is none.
    pub fn of_flag(text: &str) -> Result<Self, String> {
        let size = |word: &str| -> Result<Option<Size>, String> {
            let wrong = || format!("`{}` is neither a number of megabytes nor a percentage", word.escape_debug());
            let word = word.trim();
            match word.strip_suffix('%') {
                Some(_) => word.parse().map(Some).map_err(|_| wrong()),
                None => {
                    let megabytes: u64 = word.parse().map_err(|_| wrong())?;
                    Ok(Some(Size::Bytes(megabytes.saturating_mul(1_000_000))).filter(|_| megabytes > 0))
                }
            }
        };
        let mut words = text.splitn(3, ',');
        let mut next = || words.next().map_or(Ok(None), size);
        Ok(Sizes { reserved: next()?, free: next()?, max: next()? }.space())
    }

    fn of_rules(rules: &[Value], unknown: &mut Vec<String>) -> Result<Self, String> {
        let mut all = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let place = format!("worker.oci.gcpolicy[{at}]");
            let rule = rule.as_table().ok_or_else(|| format!("`{place}` is a table"))?;
            let (sizes, age) = (sizes(&place, rule)?, age(&place, rule)?);
            let filters = filters(&place, rule)?;
            let is_mounts = filters.iter().all(|filter| MOUNTS.contains(&filter.as_str()));
            match (filters.is_empty(), sizes.max_size(), age) {
                (true, Some(_), None) => {
                    let Space { max_size, keep_free, at_least, .. } = sizes.space();
                    // Rules are told from the mildest to the strictest.
                    (all.max_size, all.keep_free, all.at_least) = (max_size, keep_free, at_least);
                }
                (true, None, Some(age)) => all.keep_for = Some(all.keep_for.map_or(age, |known| known.min(age))),
                // What is unused longest goes first anyway, when a later rule's size asks for it.
                (true, Some(_), Some(_)) if has_plain_size(&rules[at + 1..]) => {}
                (false, Some(size), None) if is_mounts => all.mounts_max_size = Some(size),
                _ => unknown.push(place),
            }
        }
        Ok(all)
    }
}

/// Whether one of the rules gives a size to everything.
fn has_plain_size(rules: &[Value]) -> bool {
    rules.iter().filter_map(Value::as_table).any(|rule| {
        let says = |wanted: &str| rule.keys().any(|name| name.eq_ignore_ascii_case(wanted));
        let sized = ["keepBytes", "reservedSpace", "maxUsedSpace", "minFreeSpace"].into_iter().any(says);
        sized && !says("filters") && !says("keepDuration")
    })
}

fn sizes(place: &str, table: &Table) -> Result<Sizes, String> {
    let mut sizes = Sizes::default();
    // Of several names of one thing the new one counts.
    for (name, value) in table {
        let read =
            || size(value).ok_or_else(|| format!("`{place}.{name}` is bytes, or a size like \"20GB\" or \"10%\""));
        match name.to_ascii_lowercase().as_str() {
            "reservedspace" => sizes.reserved = read()?,
            "gckeepstorage" | "keepbytes" => sizes.reserved = sizes.reserved.or(read()?),
            "maxusedspace" => sizes.max = read()?,
            "minfreespace" => sizes.free = read()?,
            _ => {}
        }
    }
    debug_assert!(sizes.is_none() || sizes.max_size().is_some());
    Ok(sizes)
}

/// A size; 0 is none. `None`: it is no size.
fn size(value: &Value) -> Option<Option<Size>> {
    let size = match value {
        Value::Integer(bytes) => Size::Bytes(u64::try_from(*bytes).ok()?),
        Value::String(text) => {
            let text = text.trim().to_ascii_lowercase();
            let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
            match text[number.len()..].trim_start().chars().next().filter(|unit| *unit != 'b') {
                Some(unit) => format!("{number}{unit}ib").parse().ok()?,
                None => number.parse().ok()?,
            }
        }
        _ => return None,
    };
    Some(Some(size).filter(|size| *size != Size::Bytes(0)))
}

fn age(place: &str, rule: &Table) -> Result<Option<Duration>, String> {
    let Some((name, value)) = rule.iter().find(|(name, _)| name.eq_ignore_ascii_case("keepDuration")) else {
        return Ok(None);
    };
    let age = match value {
        Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Value::String(text) => values::duration(text).ok(),
        _ => None,
    };
    let age = age.ok_or_else(|| format!("`{place}.{name}` is seconds, or a time like \"48h\""))?;
    Ok(Some(age).filter(|age| !age.is_zero()))
}

fn filters(place: &str, rule: &Table) -> Result<Vec<String>, String> {
    let Some((name, value)) = rule.iter().find(|(name, _)| name.eq_ignore_ascii_case("filters")) else {
        return Ok(Vec::new());
    };
    super::buildkitd::texts(&format!("{place}.{name}"), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn read(text: &str) -> (Result<Space, String>, Vec<String>) {
        let mut unknown = Vec::new();
        let table: Table = text.parse().expect("it is TOML");
        (Space::of_worker(&table, &mut unknown), unknown)
    }

    #[test]
    fn sizes_of_a_worker_become_sizes_of_the_store() {
        let check = |text: &str, expected: Space| {
            assert_eq!(read(text), (Ok(expected), Vec::new()), "{text}");
        };
        let bytes = |gib: u64| Some(Size::Bytes(gib * GIB));
        check("", Space::default());
        check("gc = true", Space::default());
        check("gc = false\nmaxUsedSpace = 1", Space::UNLIMITED);
        check("gckeepstorage = 9000", {
            let size = Some(Size::Bytes(9000));
            Space { max_size: size, at_least: size, ..Space::default() }
        });
        check("gckeepstorage = \"9GB\"\nreservedSpace = \"2 GiB\"", {
            Space { max_size: bytes(2), at_least: bytes(2), ..Space::default() }
        });
        check("reservedSpace = \"1g\"\nmaxUsedSpace = \"60%\"\nminFreeSpace = \"20GB\"", {
            let max_size = Some(Size::Percent(60));
            Space { max_size, keep_free: bytes(20), at_least: bytes(1), ..Space::default() }
        });
        check("reservedSpace = \"3gb\"\nmaxUsedSpace = \"2gb\"", {
            Space { max_size: bytes(3), at_least: bytes(3), ..Space::default() }
        });
        check("minFreeSpace = \"1TB\"\nmaxUsedSpace = 0", {
            Space { max_size: Some(NO_LIMIT), keep_free: bytes(1024), ..Space::default() }
        });
    }

    #[test]
    fn rules_become_one_size_one_age_and_one_size_of_mounts() {
        let text = "gckeepstorage = 1\n[[gcpolicy]]\nkeepBytes = 512\nkeepDuration = 172800\nfilters = \
                    [\"type==source.local\", \"type==exec.cachemount\"]\n[[gcpolicy]]\nkeepDuration = \
                    \"1440h\"\nreservedSpace = \"10GB\"\n[[gcpolicy]]\nfilters = \
                    [\"type==exec.cachemount\"]\nmaxUsedSpace = \"4GB\"\n[[gcpolicy]]\nkeepDuration = \
                    \"720h\"\n[[gcpolicy]]\nmaxUsedSpace = \"20GB\"\n[[gcpolicy]]\nall = true\nmaxUsedSpace = \
                    \"18GB\"\nminFreeSpace = \"10%\"\n";
        let (space, unknown) = read(text);
        let expected = Space {
            max_size: Some(Size::Bytes(18 * GIB)),
            keep_free: Some(Size::Percent(10)),
            at_least: None,
            mounts_max_size: Some(Size::Bytes(4 * GIB)),
            keep_for: Some(Duration::from_secs(720 * 3600)),
        };
        assert_eq!(space, Ok(expected));
        assert_eq!(unknown, ["worker.oci.gcpolicy[0]"]);
        let (space, unknown) = read("[[gcpolicy]]\nkeepDuration = 60\nmaxUsedSpace = 5\n");
        assert_eq!((space, unknown.len()), (Ok(Space::default()), 1), "no size without the age");
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_key() {
        let check = |text: &str, expected: &str| {
            let error = read(text).0.expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("gc = 1", "`worker.oci.gc`");
        check("minFreeSpace = -1", "`worker.oci.minFreeSpace`");
        check("maxUsedSpace = \"x\"", "`worker.oci.maxUsedSpace`");
        check("reservedSpace = \"1e3gb\"", "`worker.oci.reservedSpace`");
        check("gcpolicy = 1", "list of tables");
        check("[[gcpolicy]]\nkeepDuration = \"long\"", "`worker.oci.gcpolicy[0].keepDuration`");
        check("[[gcpolicy]]\nfilters = \"x\"", "`worker.oci.gcpolicy[0].filters`");
    }

    #[test]
    fn the_flag_is_megabytes_and_shares() {
        let mb = |count: u64| Some(Size::Bytes(count * 1_000_000));
        let check = |text: &str, expected: Option<Space>| assert_eq!(Space::of_flag(text).ok(), expected, "{text}");
        check("5000", Some(Space { max_size: mb(5000), at_least: mb(5000), ..Space::default() }));
        check("10,20%,30", {
            let (keep_free, at_least) = (Some(Size::Percent(20)), mb(10));
            Some(Space { max_size: mb(30), keep_free, at_least, ..Space::default() })
        });
        check("0", Some(Space::default()));
        for wrong in ["", "x", "1GB", "1,,2", "200%"] {
            check(wrong, None);
        }
    }
}
