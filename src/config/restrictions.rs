//! Detects a configuration that has lost restrictions of the one before it.
//!
//! A truncated file can be a valid configuration: without the routes at its end, every request falls to a policy that
//! admits any actor.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// The hash function of this process.  Hashes are kept and not the lines, which may hold tokens.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// How many prefixes of the last line are kept.
const MAX_PREFIXES: usize = 64 * 1024;

/// The parts of a configuration that narrow access, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restrictions {
    /// How many `routes` there are.
    pub routes: usize,
    /// How many `policies`.
    pub policies: usize,
    /// How many `users`.
    pub users: usize,
    /// Whether there is a `default`.
    pub has_default: bool,
    /// The text.
    pub text: TextDigest,
}

/// The lines of a text as hashes, without blank lines and comments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextDigest {
    lines: Vec<HashedLine>,
    /// The hashes of the prefixes of the last line, in ascending length.
    prefixes: Vec<u32>,
    /// Whether the text ends with a line ending.
    ends_with_newline: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HashedLine {
    hash: u32,
    length: u32,
}

impl Restrictions {
    /// The restrictions that a later configuration has lost, as a sentence; `None` when none is lost.
    pub fn lost_in(&self, later: &Self) -> Option<String> {
        let sections = [
            ("routes", self.routes > 0 && later.routes == 0),
            ("policies", self.policies > 0 && later.policies == 0),
            ("users", self.users > 0 && later.users == 0),
            ("default", self.has_default && !later.has_default),
        ];
        let lost = sections.iter().filter(|(_, is_lost)| *is_lost).map(|(name, _)| format!("`{name}`"));
        let lost: Vec<_> = lost.collect();
        if !lost.is_empty() {
            return Some(format!("the new file has lost {}", lost.join(", ")));
        }
        let is_prefix = later.text.is_prefix_of(&self.text);
        is_prefix.then(|| "the new file looks cut off: it is the beginning of the current file".to_owned())
    }
}

impl TextDigest {
    /// The digest of a text.
    pub fn of(text: &str) -> Self {
        let counts = |line: &&str| !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
        let significant = || text.lines().map(str::trim_end).filter(counts);
        let lines = significant().map(|line| HashedLine {
            hash: hash(line.as_bytes()),
            length: u32::try_from(line.len()).unwrap_or(u32::MAX),
        });
        let last = significant().next_back().unwrap_or_default().as_bytes();
        let prefixes = (1..=last.len().min(MAX_PREFIXES)).scan(0_u32, |rolling, length| {
            *rolling = rolled(*rolling, last[length - 1]);
            Some(*rolling)
        });
        Self { lines: lines.collect(), prefixes: prefixes.collect(), ends_with_newline: text.ends_with('\n') }
    }

    /// Whether this text is a proper prefix of the other one.
    fn is_prefix_of(&self, whole: &Self) -> bool {
        let (Some((last, before)), true) = (self.lines.split_last(), self.lines.len() <= whole.lines.len())
        else {
            return false;
        };
        if !whole.lines.starts_with(before) {
            return false;
        }
        let line = whole.lines[before.len()];
        let goes_on = whole.lines.len() > self.lines.len();
        if *last == line {
            return goes_on;
        }
        // The last line itself may be truncated.
        if self.ends_with_newline || last.length >= line.length {
            return false;
        }
        let length = last.length as usize;
        match whole.prefixes.get(length - 1) {
            Some(prefix) if !goes_on => self.prefixes.last() == Some(prefix),
            // Prefixes of earlier lines are not kept: every shorter line may be one.
            Some(_) | None => true,
        }
    }
}

/// Half of a hash is enough: a collision gives no advantage.
fn hash(bytes: &[u8]) -> u32 {
    let [.., a, b, c, d] = HASHES.hash_one(bytes).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The hash of a text with one more byte.  The factor is odd, so that no bit is lost, and random for each process.
fn rolled(rolling: u32, byte: u8) -> u32 {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| hash(b"a factor") | 1);
    (rolling ^ u32::from(byte)).wrapping_add(1).wrapping_mul(*FACTOR).rotate_left(15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
# The tokens.
tokens:
- token: a-token-0123456789
  actor: {id: alice}

routes:
- {path: /admin, allow: {role: Admin}}
default: {allow: false}
realm: internal
";

    fn is_beginning(text: &str, whole: &str) -> bool {
        TextDigest::of(text).is_prefix_of(&TextDigest::of(whole))
    }

    #[test]
    fn every_beginning_is_found_wherever_it_ends() {
        for ending in ["\n", "", "\r\n"] {
            let whole = WHOLE.replace('\n', "\r\n");
            let whole = match ending {
                "\r\n" => whole.as_str(),
                _ => WHOLE,
            };
            let whole = whole.trim_end().to_owned() + ending;
            let first = whole.find("tokens:").unwrap() + 1;
            for end in first..whole.trim_end().len() {
                assert!(is_beginning(&whole[..end], &whole), "{:?} of {whole:?}", &whole[..end]);
            }
            // A program that ends what it has got with a line's end.
            let cut = whole.find("routes:").unwrap();
            assert!(is_beginning(&format!("{}\n# more\n", &whole[..cut]), &whole));
        }
    }

    #[test]
    fn what_says_the_same_or_something_else_is_no_beginning() {
        let longer = format!("{WHOLE}actor_headers: {{}}\n");
        let edited = WHOLE.replace("role: Admin", "role: Viewer");
        let shorter_last = WHOLE.replace("realm: internal", "realm: api");
        let without_one =
            WHOLE.replace("- {path: /admin, allow: {role: Admin}}\n", "- {path: /a, allow: true}\n");
        let uncommented = WHOLE.replace("# The tokens.\n", "");
        for text in [
            WHOLE,
            WHOLE.trim_end(),
            &format!("{WHOLE}\n# a comment\n"),
            &uncommented,
            &longer,
            &edited,
            &shorter_last,
            shorter_last.trim_end(),
            &without_one,
            "",
            "# nothing\n",
        ] {
            assert!(!is_beginning(text, WHOLE), "{text:?}");
        }
    }

    #[test]
    fn what_was_lost_is_named() {
        let of = |routes, policies, users, has_default, text: &str| {
            let text = TextDigest::of(text);
            Restrictions { routes, policies, users, has_default, text }
        };
        let whole = of(3, 2, 1, true, "a: 1\nb: 2\n");
        for (later, expected) in [
            (of(3, 2, 1, true, "c: 1\n"), None),
            (of(1, 1, 1, true, "c: 1\n"), None),
            (of(9, 9, 9, true, "a: 1\nb: 2\nc: 3\n"), None),
            (of(0, 2, 1, true, "c: 1\n"), Some("the new file has lost `routes`")),
            (of(3, 0, 1, true, "c: 1\n"), Some("the new file has lost `policies`")),
            (of(3, 2, 0, true, "c: 1\n"), Some("the new file has lost `users`")),
            (of(3, 2, 1, false, "c: 1\n"), Some("the new file has lost `default`")),
            (
                of(0, 0, 0, false, "a: 1\n"),
                Some("the new file has lost `routes`, `policies`, `users`, `default`"),
            ),
            (
                of(3, 2, 1, true, "a: 1\n"),
                Some("the new file looks cut off: it is the beginning of the current file"),
            ),
        ] {
            assert_eq!(whole.lost_in(&later).as_deref(), expected, "{later:?}");
        }
        let nothing = of(0, 0, 0, false, "a: 1\n");
        assert_eq!(nothing.lost_in(&of(0, 0, 0, false, "b: 1\n")), None);
    }
}
