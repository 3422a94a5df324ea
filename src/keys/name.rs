//! Valid names of keys.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};
use unicode_normalization::UnicodeNormalization;

use super::{MAX_DESCRIPTION, MAX_NAME};

/// A sequence of emoji, or visible characters; the first one must not be a combining mark.
///
/// Invisible characters make one name look like another, which only helps an impostor: controls, line ends, format
/// characters (category Cf: zero-width characters, direction marks, tags), other characters that Unicode lets a display
/// ignore, and the blank pattern of Braille.  Only emoji need some of these: the joiner between two pictographs, the
/// selector of their coloured form, the tags of a flag.
static NAME: LazyLock<Regex> = LazyLock::new(|| {
    const INVISIBLE: &str = r"\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\x{2800}";
    const PICTOGRAPH: &str = r"\p{Extended_Pictographic}\x{FE0F}?\p{Emoji_Modifier}?";
    const KEYCAP: &str = r"[0-9#*]\x{FE0F}\x{20E3}";
    const FLAG: &str = r"\x{1F3F4}[\x{E0020}-\x{E007E}]+\x{E007F}";
    let emoji = format!(r"{FLAG}|{KEYCAP}|{PICTOGRAPH}(?:\x{{200D}}{PICTOGRAPH})*");
    let name = format!(r"^(?:{emoji}|[^\p{{M}}{INVISIBLE}])(?:{emoji}|[^{INVISIBLE}])*$");
    Regex::new(&name).expect("the pattern is a constant")
});

/// Scripts in modern use (UAX 31, table 5), each alone; and the mixtures with Latin that UTS 39 section 5.2 calls
/// Highly Restrictive.
const SCRIPTS: [&[&str]; 31] = [
    &["Arabic"],
    &["Armenian"],
    &["Bengali"],
    &["Cherokee"],
    &["Cyrillic"],
    &["Devanagari"],
    &["Ethiopic"],
    &["Georgian"],
    &["Greek"],
    &["Gujarati"],
    &["Gurmukhi"],
    &["Hebrew"],
    &["Kannada"],
    &["Khmer"],
    &["Lao"],
    &["Malayalam"],
    &["Mongolian"],
    &["Myanmar"],
    &["Oriya"],
    &["Sinhala"],
    &["Syriac"],
    &["Tamil"],
    &["Telugu"],
    &["Thaana"],
    &["Thai"],
    &["Tibetan"],
    &["Tifinagh"],
    &["Yi"],
    &["Latin", "Han", "Hiragana", "Katakana"],
    &["Latin", "Han", "Bopomofo"],
    &["Latin", "Han", "Hangul"],
];

/// A name in characters outside of these scripts.
static ONE_SCRIPT: LazyLock<RegexSet> = LazyLock::new(|| {
    let patterns = SCRIPTS.map(|scripts| {
        let scripts: String = scripts.iter().map(|script| format!(r"\p{{scx={script}}}")).collect();
        format!(r"^[\p{{scx=Common}}\p{{scx=Inherited}}{scripts}]*$")
    });
    RegexSet::new(patterns).expect("the patterns are constants")
});

/// Whether a key may have this name: 1 to [`MAX_NAME`] printable characters without blanks at the ends, of one
/// script or of a mixture that is in use.
pub fn is_name(text: &str) -> bool {
    text.chars().take(MAX_NAME + 1).count() <= MAX_NAME
        && text.trim() == text
        && NAME.is_match(text)
        // The long s and the Kelvin sign are not letters of names, but case folding turns them into s and k.
        && !text.contains(['\u{17f}', '\u{212a}'])
        && (text.is_ascii() || ONE_SCRIPT.is_match(text))
}

/// Whether a text can describe a key: at most [`MAX_DESCRIPTION`] characters in one line, without direction marks.
pub fn is_description(text: &str) -> bool {
    let is_hidden = |character: char| {
        character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().take(MAX_DESCRIPTION + 1).count() <= MAX_DESCRIPTION && !text.chars().any(is_hidden)
}

/// The form in which names are compared: compatibility forms and capitals are the same name.
pub fn folded(name: &str) -> String {
    name.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Whether a name is the one of this folded form.
pub fn is_same(folded_name: &str, other: &str) -> bool {
    if other.is_ascii() { folded_name.eq_ignore_ascii_case(other) } else { folded_name == folded(other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_scripts_and_emoji_are_valid() {
        let longest = "é".repeat(MAX_NAME);
        for name in [
            "a",
            "my key",
            "a\u{301}",
            "🔑",
            "👩\u{200d}👩\u{200d}👧",
            "👩🏽\u{200d}⚕\u{fe0f} on call",
            "1\u{fe0f}\u{20e3}",
            "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
            "🇩🇪",
            "מפתח",
            "مفتاح",
            "किताब",
            "<script>",
            "'; DROP TABLE keys; --",
            "ключ",
            "κλειδί",
            "日本のキー key",
            "열쇠 key",
            "clé-β".trim_end_matches('β'),
            &longest,
        ] {
            assert!(is_name(name), "{name:?}");
        }
        for mixed in [
            "\u{430}dmin",
            "admin\u{43e}",
            "clé-β",
            "a\u{5d0}",
            "ad\u{3bc}in",
            "\u{17f}ecret",
            "to\u{212a}en",
        ] {
            assert!(!is_name(mixed), "{mixed:?}");
        }
    }

    #[test]
    fn names_are_compared_without_case_and_compatibility_forms() {
        for (one, other, same) in [
            ("admin", "ADMIN", true),
            ("admin", "ａｄｍｉｎ", true),
            ("É", "e\u{301}", true),
            ("ﬁle", "FILE", true),
            ("ключ", "КЛЮЧ", true),
            ("admin", "admin2", false),
        ] {
            assert_eq!(is_same(&folded(one), other), same, "{one} {other}");
            assert_eq!(is_same(&folded(other), one), same, "{other} {one}");
        }
    }

    #[test]
    fn names_that_a_reader_cannot_see_whole_are_invalid() {
        let too_long = "a".repeat(MAX_NAME + 1);
        for name in
            ["", " ", " a", "a ", "a\u{a0}", "\u{3000}a", "a\nb", "a\0", "\u{7f}", "\u{85}", &too_long]
        {
            assert!(!is_name(name), "{name:?}");
        }
        // Each between two letters, in front, at the end, and alone.
        for invisible in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fffb}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
        ] {
            for name in [
                format!("ad{invisible}min"),
                format!("{invisible}admin"),
                format!("admin{invisible}"),
                invisible.into(),
            ] {
                assert!(!is_name(&name), "{name:?}");
            }
        }
        // What belongs to emoji only, elsewhere; and what has nothing to combine with.
        for name in ["🔑\u{200d}", "🔑\u{200d}a", "\u{200d}🔑", "1\u{fe0f}", "\u{301}a", "\u{20e3}"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
