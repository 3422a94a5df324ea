//! Distinguished names of directories (RFC 4514), compared as directories compare them.
//!
//! A name is a sequence of RDNs, from the entry up to the root: `cn=admins,ou=groups,dc=example,dc=org`.  Two names are
//! equal if their RDNs are, one by one.  An RDN with several attributes (`cn=ann+uid=7`) is a set of them.  Types of
//! attributes are compared without case; values also in Unicode's compatible form (NFKC), with one blank for each run of
//! blanks and none at the ends, and after their escapes are undone.  So does `caseIgnoreMatch` (RFC 4518), by which
//! directories compare what names people and groups.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization;

/// The types of attributes that RFC 4514 lets a program write as a name or as a number.
const NUMBERED_TYPES: [(&str, &str); 9] = [
    ("2.5.4.3", "cn"),
    ("2.5.4.6", "c"),
    ("2.5.4.7", "l"),
    ("2.5.4.8", "st"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "o"),
    ("2.5.4.11", "ou"),
    ("0.9.2342.19200300.100.1.25", "dc"),
    ("0.9.2342.19200300.100.1.1", "uid"),
];

/// A distinguished name: its text, and the form by which it is compared.
#[derive(Clone)]
pub struct DistinguishedName {
    text: Box<str>,
    rdns: Box<[Rdn]>,
}

/// A relative distinguished name: its attributes, in order.
type Rdn = Box<[(Box<str>, Value)]>;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    /// A text, in the form by which it is compared.
    Text(Box<str>),
    /// Bytes that are no text; they are compared as they are.
    Bytes(Box<[u8]>),
    /// BER of a value that is not text; its meaning depends on the type of the attribute.
    Ber(Box<[u8]>),
}

/// Why a text is not a distinguished name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (character {character})")]
pub struct DistinguishedNameError {
    /// The problem.
    pub problem: &'static str,
    /// The position: 1 is the first character.
    pub character: usize,
}

impl DistinguishedName {
    /// The text from which it was parsed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is the name of an entry in the subtree of the other one: that very entry, or one below it.
    pub fn is_at_or_below(&self, base: &Self) -> bool {
        self.rdns.ends_with(&base.rdns)
    }
}

impl FromStr for DistinguishedName {
    type Err = DistinguishedNameError;

    /// Parses the text of a name (RFC 4514, section 3).  Blanks next to `,`, `+` and `=` are allowed as in RFC 2253,
    /// because people write them.  The name of the root, an empty text, is an error.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { text, position: 0 };
        parser.skip_blanks();
        if parser.peek().is_none() {
            return Err(parser.error("it is empty"));
        }
        let mut rdns = Vec::new();
        loop {
            let mut rdn = vec![parser.attribute()?];
            while parser.take('+') {
                rdn.push(parser.attribute()?);
            }
            rdn.sort();
            rdns.push(rdn.into_boxed_slice());
            if !parser.take(',') {
                break;
            }
        }
        // A value ends before a separator, before a character that it must escape, or with the text.
        match parser.peek() {
            None => Ok(Self { text: text.into(), rdns: rdns.into() }),
            Some(_) => Err(parser
                .error("a comma or the end is expected; in a value a backslash goes before this character")),
        }
    }
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &Self) -> bool {
        self.rdns == other.rdns
    }
}

impl Eq for DistinguishedName {}

impl Hash for DistinguishedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rdns.hash(state);
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DistinguishedName({:?})", self.text)
    }
}

/// Escapes a text that becomes the value of an attribute in a distinguished name, or a part of one (RFC 4514,
/// section 2.4): whatever it holds, it stays one value.
pub fn escape_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + 8);
    for (position, character) in value.char_indices() {
        let is_at_end = position == 0 || position + character.len_utf8() == value.len();
        match character {
            '\0' => escaped.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '=' | '>' | '\\' => escaped.extend(['\\', character]),
            ' ' | '#' if is_at_end => escaped.extend(['\\', character]),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Reads a text from left to right.
struct Parser<'t> {
    text: &'t str,
    /// In bytes, at the border of a character.
    position: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += character.len_utf8();
        Some(character)
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.position += wanted.len_utf8();
        }
        is_next
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'t str {
        let rest = &self.text[self.position..];
        let taken = &rest[..rest.find(|character| !belongs(character)).unwrap_or(rest.len())];
        self.position += taken.len();
        taken
    }

    fn skip_blanks(&mut self) {
        self.take_while(|character| character == ' ');
    }

    /// An error about the character that is next.
    fn error(&self, problem: &'static str) -> DistinguishedNameError {
        self.error_at(self.position, problem)
    }

    fn error_at(&self, position: usize, problem: &'static str) -> DistinguishedNameError {
        DistinguishedNameError { problem, character: self.text[..position].chars().count() + 1 }
    }

    /// `attributeTypeAndValue`, with blanks around its parts.
    fn attribute(&mut self) -> Result<(Box<str>, Value), DistinguishedNameError> {
        self.skip_blanks();
        let kind = self.attribute_type()?;
        self.skip_blanks();
        if !self.take('=') {
            return Err(self.error("the type of an attribute is followed by \"=\" and a value"));
        }
        self.skip_blanks();
        let value = if self.peek() == Some('#') { self.hexadecimal_value()? } else { self.text_value()? };
        self.skip_blanks();
        Ok((kind, value))
    }

    /// `attributeType`: a name (`descr`), or a number (`numericoid`).
    fn attribute_type(&mut self) -> Result<Box<str>, DistinguishedNameError> {
        let start = self.position;
        let kind = self
            .take_while(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '.'))
            .to_ascii_lowercase();
        let is_name = kind.starts_with(|first: char| first.is_ascii_alphabetic()) && !kind.contains('.');
        if is_name {
            return Ok(kind.into());
        }
        let is_arc = |arc: &str| {
            let has_leading_zero = arc.len() > 1 && arc.starts_with('0');
            !arc.is_empty() && !has_leading_zero && arc.bytes().all(|digit| digit.is_ascii_digit())
        };
        if !kind.contains('.') || !kind.split('.').all(is_arc) {
            return Err(self.error_at(start, "the type of an attribute is expected, such as \"cn\""));
        }
        let name = NUMBERED_TYPES.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name);
        Ok(name.unwrap_or(&kind).into())
    }

    /// `hexstring`: the value in BER, in hexadecimal digits.
    fn hexadecimal_value(&mut self) -> Result<Value, DistinguishedNameError> {
        let start = self.position;
        self.next();
        let digits = self.take_while(|character| character.is_ascii_hexdigit());
        let bytes = hex::decode(digits).unwrap_or_default();
        if bytes.is_empty() {
            return Err(self.error_at(start, "\"#\" is followed by pairs of hexadecimal digits"));
        }
        Ok(match text_of_ber(&bytes) {
            Some(text) => Value::Text(comparable(text)),
            None => Value::Ber(bytes.into()),
        })
    }

    /// `string`.
    fn text_value(&mut self) -> Result<Value, DistinguishedNameError> {
        let mut bytes = Vec::new();
        while let Some(character) = self.peek() {
            match character {
                ',' | '+' | '"' | ';' | '<' | '>' => break,
                '\0' => return Err(self.error("a NUL must be written as \\00")),
                '\\' => bytes.push(self.escaped_byte()?),
                character => {
                    self.next();
                    bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
                }
            }
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => Value::Text(comparable(&text)),
            Err(error) => Value::Bytes(error.into_bytes().into()),
        })
    }

    /// `pair`: a backslash with the character that it escapes, or with a byte in two hexadecimal digits.
    fn escaped_byte(&mut self) -> Result<u8, DistinguishedNameError> {
        let start = self.position;
        self.next();
        let problem = "a backslash is followed by one of \"+,;<>#=\\, a blank, or two hexadecimal digits";
        let error = self.error_at(start, problem);
        let first = self.next().ok_or(error)?;
        if let Some(high) = first.to_digit(16) {
            let low = self.next().and_then(|digit| digit.to_digit(16)).ok_or(error)?;
            return u8::try_from(high * 16 + low).map_err(|_| error);
        }
        let escaped = "\"+,;<>#=\\ ".contains(first).then_some(first);
        escaped.and_then(|character| u8::try_from(character).ok()).ok_or(error)
    }
}

/// The text in BER: its tag, a length, its bytes.  `None` if it is not a text that every implementation reads in the
/// same way.
fn text_of_ber(bytes: &[u8]) -> Option<&str> {
    /// OCTET STRING, UTF8String, NumericString, PrintableString, IA5String, VisibleString.
    const TEXTS: [u8; 6] = [4, 12, 18, 19, 22, 26];
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, content) = match first {
        0..0x80 => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, content) = rest.split_at_checked(usize::from(first - 0x80))?;
            (length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), content)
        }
        0x80 | 0x85.. => return None,
    };
    let is_whole_text = TEXTS.contains(&tag) && content.len() == length;
    if is_whole_text { std::str::from_utf8(content).ok() } else { None }
}

/// A text in the form by which it is compared.
fn comparable(text: &str) -> Box<str> {
    let compatible: String = text.nfkc().collect();
    // Lower case may bring forth what NFKC takes apart.
    let folded: String = compatible.to_lowercase().nfkc().collect();
    let words: Vec<_> = folded.split_whitespace().collect();
    words.join(" ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DistinguishedName {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn an_entry_is_at_or_below_the_entries_that_its_name_ends_with() {
        let ann = parse("uid=ann,ou=people,dc=example,dc=org");
        for base in ["UID=Ann,ou=people,dc=example,dc=org", "OU=People, DC=example,DC=org", "dc=org"] {
            assert!(ann.is_at_or_below(&parse(base)), "{base}");
        }
        for base in [
            "ou=groups,dc=example,dc=org",
            "uid=ann",
            "ou=people",
            "cn=a,uid=ann,ou=people,dc=example,dc=org",
            "dc=rg",
        ] {
            assert!(!ann.is_at_or_below(&parse(base)), "{base}");
        }
    }

    #[test]
    fn names_are_equal_as_directories_compare_them() {
        let plain = "cn=admins,ou=groups,dc=example,dc=org";
        for (one, other) in [
            (plain, "CN=Admins,OU=Groups,DC=EXAMPLE,DC=org"),
            (plain, " cn = admins , ou=groups, dc=example ,dc=org "),
            (plain, "cn=\\61dmins,ou=gro\\75ps,dc=example,dc=org"),
            (plain, "2.5.4.3=admins,2.5.4.11=groups,0.9.2342.19200300.100.1.25=example,dc=org"),
            (plain, "cn=#0C0661646D696e73,ou=groups,dc=example,dc=org"),
            (plain, "cn=#04810661646d696e73,ou=groups,dc=example,dc=org"),
            (plain, "cn=\\ admins\\ ,ou=groups,dc=example,dc=org"),
            (plain, "cn=ａｄｍｉｎｓ,ou=groups,dc=example,dc=org"),
            ("cn=Site  Admins", "cn=site admins"),
            ("cn=site\\20admins", "cn=site admins"),
            ("cn=site\u{3000}admins", "cn=site admins"),
            ("cn=Smith\\, Ann", "cn=smith\\2C ann"),
            ("cn=Smith\\, Ann", "cn=smith\\2c\\20ann"),
            ("cn=Ren\\C3\\A9e", "cn=RENÉE"),
            ("cn=Rene\u{301}e", "cn=renée"),
            ("cn=a\\+b", "cn=a\\2Bb"),
            ("cn=a\\\\b", "cn=a\\5cb"),
            ("cn=\\#1", "cn=\\231"),
            ("cn=a=b", "cn=a\\=b"),
            ("cn=a#b", "cn=a\\#b"),
            ("cn=\\\"a\\\"\\<\\>\\;", "cn=\\22a\\22\\3C\\3e\\3b"),
            ("cn=ann+uid=7,dc=org", "UID=7 + CN=Ann,dc=org"),
            ("cn=\\FF\\fe", "cn=\\ff\\FE"),
            ("cn=#1e020061", "CN=#1E020061"),
            ("cn=", "cn= "),
            ("x-own-1=a", "X-OWN-1=A"),
            ("1.2.3.4=a", "1.2.3.4=A"),
        ] {
            assert_eq!(parse(one), parse(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn names_of_others_are_others() {
        let plain = "cn=admins,ou=groups,dc=example,dc=org";
        for (one, other) in [
            (plain, "cn=admin,ou=groups,dc=example,dc=org"),
            (plain, "cn=admins,ou=groups,dc=example"),
            (plain, "ou=groups,cn=admins,dc=example,dc=org"),
            (plain, "ou=admins,ou=groups,dc=example,dc=org"),
            (plain, "cn=admins\\,ou=groups,dc=example,dc=org"),
            (plain, "cn=admins\\2Cou=groups,dc=example,dc=org"),
            (plain, "cn=admins+ou=groups,dc=example,dc=org"),
            (plain, "cn=admins\\00,ou=groups,dc=example,dc=org"),
            (plain, "cn=admins\\C2\\AD,ou=groups,dc=example,dc=org"),
            ("cn=siteadmins", "cn=site admins"),
            ("cn=a+cn=a", "cn=a"),
            ("cn=a+uid=b", "cn=b+uid=a"),
            // Bytes are no text, and BER of an unknown kind is not its own digits.
            ("cn=#1e020061", "cn=\\#1e020061"),
            ("cn=#1e020061", "cn=\\1e\\02\\00a"),
            ("cn=#0401ff", "cn=\\04\\01\\ff"),
            ("cn=#0C0561646D696e73", "cn=admins"),
            ("1.2.3.4=a", "1.2.3.5=a"),
        ] {
            assert_ne!(parse(one), parse(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_value_with_an_escaped_comma_is_one_rdn() {
        for (text, rdns) in [
            ("cn=Smith\\, Ann,ou=people", 2),
            ("cn=Smith\\2C Ann,ou=people", 2),
            ("cn=a\\+b+uid=1,ou=people", 2),
            ("uid=mallory\\,ou=guests,ou=people,dc=org", 3),
            ("uid=mallory,ou=guests,ou=people,dc=org", 4),
        ] {
            assert_eq!(parse(text).rdns.len(), rdns, "{text:?}");
            assert_eq!(parse(text).as_str(), text);
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_and_where() {
        for (text, problem, character) in [
            ("", "empty", 1),
            ("  ", "empty", 3),
            ("admins", "followed by \"=\"", 7),
            ("cn=é,ou", "followed by \"=\"", 8),
            ("=admins", "type of an attribute", 1),
            ("cn=a,", "type of an attribute", 6),
            ("cn=a,,ou=b", "type of an attribute", 6),
            ("cn=a+", "type of an attribute", 6),
            ("1cn=a", "type of an attribute", 1),
            ("cn.x=a", "type of an attribute", 1),
            ("1.02=a", "type of an attribute", 1),
            ("1..2=a", "type of an attribute", 1),
            ("oid.2.5.4.3=a", "type of an attribute", 1),
            ("c_n=a", "followed by \"=\"", 2),
            ("cn=é\"a\"", "a comma or the end", 5),
            ("cn=a;ou=b", "a comma or the end", 5),
            ("cn=<a>", "a comma or the end", 4),
            ("cn=a\0", "NUL", 5),
            ("cn=a\\", "backslash", 5),
            ("cn=a\\x", "backslash", 5),
            ("cn=a\\4", "backslash", 5),
            ("cn=a\\4g", "backslash", 5),
            ("cn=#", "hexadecimal", 4),
            ("cn=#0", "hexadecimal", 4),
            ("cn=#0c016", "hexadecimal", 4),
            ("cn=#0c0161x", "a comma or the end", 11),
        ] {
            let error = text.parse::<DistinguishedName>().expect_err(text);
            assert!(error.problem.contains(problem), "{text:?}: {error}");
            assert_eq!(error.character, character, "{text:?}: {error}");
        }
    }

    #[test]
    fn an_escaped_value_stays_one_value() {
        for (value, escaped) in [
            ("ann", "ann"),
            ("renée", "renée"),
            ("mallory,ou=guests", "mallory\\,ou\\=guests"),
            ("a+uid=b", "a\\+uid\\=b"),
            ("\\2c", "\\\\2c"),
            (" a b ", "\\ a b\\ "),
            (" ", "\\ "),
            ("#0#c", "\\#0#c"),
            ("a\0b", "a\\00b"),
            ("\"<;>\"", "\\\"\\<\\;\\>\\\""),
        ] {
            assert_eq!(escape_value(value), escaped);
            let name = parse(&format!("uid={escaped},ou=people,dc=org"));
            assert_eq!(name.rdns.len(), 3, "{value:?}");
            assert_eq!(name.rdns[0].as_ref(), [("uid".into(), Value::Text(comparable(value)))]);
        }
    }
}
