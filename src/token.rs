//! Tokens: the plain text that a client presents, the digest that we keep, and the format of tokens that we issue.
//!
//! Plain text and digest are different types, so that a store, a table or a log line cannot hold the wrong one.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::secret::Secret;

/// The maximum length of a token, in bytes.
pub const MAX_LENGTH: usize = 4096;

/// A well-formed token as presented: 1 to 4096 visible ASCII characters without comma and semicolon.
///
/// A comma would be ambiguous in a joined header, a semicolon in a cookie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PlainToken<'a>(&'a [u8]);

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is empty.
    #[error("a token has at least one character")]
    Empty,
    /// It is longer than [`MAX_LENGTH`].
    #[error("a token has at most {MAX_LENGTH} characters")]
    TooLong,
    /// It has a blank, a comma, a semicolon, a control character or a character outside ASCII.
    #[error("a token consists of visible ASCII characters without comma and semicolon")]
    IllegalCharacter,
}

/// Why a text does not have the format of issued tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The format is different.
    #[error("expected a prefix such as eat, then _ and {} letters and digits", RANDOM_CHARACTERS + CHECKSUM_CHARACTERS)]
    Shape,
    /// The format is right, but the checksum is wrong.
    #[error("its checksum is wrong: it was mistyped or changed, or another program issued it")]
    Checksum,
}

impl<'a> PlainToken<'a> {
    /// Checks the form of a token.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with it; it never holds the text.
    pub fn new(text: &'a [u8]) -> Result<Self, TokenError> {
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(TokenError::TooLong);
        }
        if !every(text, is_token_byte) {
            return Err(TokenError::IllegalCharacter);
        }
        Ok(Self(text))
    }

    /// SHA-256 of the token's bytes.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0).into())
    }

    /// Whether the token has the format of issued tokens, checksum included (see [`generate`]).
    /// Any prefix is accepted: the configured one may have changed since.
    pub fn has_issued_format(&self) -> bool {
        self.issued_prefix().is_ok()
    }

    /// The prefix of a token that has the format of issued tokens.
    ///
    /// # Errors
    /// [`FormatError`]: it does not have the format.
    pub fn issued_prefix(&self) -> Result<&'a str, FormatError> {
        let Some(([prefix @ .., b'_'], body)) =
            self.0.split_last_chunk::<{ RANDOM_CHARACTERS + CHECKSUM_CHARACTERS }>()
        else {
            return Err(FormatError::Shape);
        };
        let (random, checksum) = body.split_at(RANDOM_CHARACTERS);
        if prefix.is_empty() || !every(body, |byte| byte.is_ascii_alphanumeric()) {
            return Err(FormatError::Shape);
        }
        if checksum != self::checksum(prefix, random) {
            return Err(FormatError::Checksum);
        }
        std::str::from_utf8(prefix).map_err(|_| FormatError::Shape)
    }
}

impl fmt::Debug for PlainToken<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PlainToken([REDACTED])")
    }
}

/// Whether the predicate holds for every byte.  Without an early exit the compiler can vectorise the loop.
fn every(bytes: &[u8], predicate: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, &byte| all & predicate(byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b',' && byte != b';'
}

/// The SHA-256 of a token, which is stored instead of the token.
///
/// Equality takes the same time wherever two digests differ.
#[derive(Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Parses 64 hexadecimal digits of either case; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }

    /// SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest with these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes, for a store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        // Compares eight bytes at a time, in constant time as well.
        let words = |digest: &[u8; 32]| {
            let (words, _) = digest.as_chunks::<8>();
            [words[0], words[1], words[2], words[3]].map(u64::from_ne_bytes)
        };
        let (ours, theirs) = (words(&self.0), words(&other.0));
        let pairs = ours.iter().zip(&theirs);
        pairs.fold(Choice::from(1), |equal, (ours, theirs)| equal & ours.ct_eq(theirs)).into()
    }
}

impl Eq for TokenDigest {}

impl Hash for TokenDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A digest is uniformly random: eight of its bytes are as good as all.
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A weak token can be guessed from its digest, so that is redacted, too.
        formatter.write_str("TokenDigest([REDACTED])")
    }
}

const RANDOM_CHARACTERS: usize = 32;
const CHECKSUM_CHARACTERS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Generates a token: `<prefix>_<32 base62 characters><6 base62 characters of CRC-32>`.
///
/// The 32 characters hold about 190 random bits from the operating system.  The checksum is the CRC-32 (IEEE) of
/// everything before it, in base 62 with leading zeros.  With it secret scanners recognise tokens, and a mistyped token
/// is detected.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn generate(prefix: &str) -> Result<Secret, getrandom::Error> {
    let mut random = String::with_capacity(RANDOM_CHARACTERS);
    while random.len() < RANDOM_CHARACTERS {
        let mut bytes = [0; 2 * RANDOM_CHARACTERS];
        getrandom::fill(&mut bytes)?;
        let indices = bytes.iter().map(|byte| byte & 0x3f);
        // 62 and 63 are dropped: with a modulo two characters would be more likely than the others.
        let characters = indices.filter_map(|index| BASE62.get(usize::from(index)));
        random.extend(characters.take(RANDOM_CHARACTERS - random.len()).map(|&byte| char::from(byte)));
    }
    random.extend(checksum(prefix.as_bytes(), random.as_bytes()).map(char::from));
    Ok(Secret::new(format!("{prefix}_{random}")))
}

fn checksum(prefix: &[u8], random: &[u8]) -> [u8; CHECKSUM_CHARACTERS] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(prefix);
    crc.update(b"_");
    crc.update(random);
    let mut rest = crc.finalize();
    let mut digits = [b'0'; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_token() {
        let cases: &[(&[u8], Result<(), TokenError>)] = &[
            (b"x", Ok(())),
            (b"this-is-the-secret-token", Ok(())),
            (b"!\"#$%&'()*+-./:<=>?@[\\]^_`{|}~", Ok(())),
            (&[b'a'; 4096], Ok(())),
            (b"", Err(TokenError::Empty)),
            (&[b'a'; 4097], Err(TokenError::TooLong)),
            (b"a b", Err(TokenError::IllegalCharacter)),
            (b"a,b", Err(TokenError::IllegalCharacter)),
            (b"a;b", Err(TokenError::IllegalCharacter)),
            (b"a\x7f", Err(TokenError::IllegalCharacter)),
            (b"a\n", Err(TokenError::IllegalCharacter)),
            ("Zoë".as_bytes(), Err(TokenError::IllegalCharacter)),
            (b"\xff", Err(TokenError::IllegalCharacter)),
        ];
        for (text, expected) in cases {
            let found = PlainToken::new(text).map(|_| ());
            assert_eq!(found, *expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn the_digest_is_what_sha256sum_prints() {
        let digest = PlainToken::new(b"abc").unwrap().digest();
        assert_eq!(digest.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(TokenDigest::from_hex(&digest.to_hex().to_uppercase()), Some(digest));
        assert_eq!(TokenDigest::from_hex("ba78"), None);
        assert_eq!(TokenDigest::from_hex(&"zz".repeat(32)), None);
    }

    #[test]
    fn digests_differ_in_whichever_byte() {
        let digest = PlainToken::new(b"abc").unwrap().digest();
        for index in 0..32 {
            let mut other = digest;
            other.0[index] ^= 1;
            assert_ne!(digest, other, "byte {index}");
        }
        assert_eq!(digest, digest.clone());
    }

    #[test]
    fn a_made_token_has_the_issued_format_and_a_changed_one_has_not() {
        let made = generate("eat").unwrap();
        let text = made.expose();
        assert_eq!(text.len(), "eat_".len() + 38);
        assert!(PlainToken::new(text.as_bytes()).unwrap().has_issued_format());
        assert_eq!(PlainToken::new(text.as_bytes()).unwrap().issued_prefix(), Ok("eat"));
        assert_ne!(generate("eat").unwrap().expose(), text);

        let last = text.chars().last().unwrap();
        let other = if last == '0' { '1' } else { '0' };
        let mistyped = format!("{}{other}", &text[..text.len() - 1]);
        for wrong in [mistyped.as_str(), "eat_short", "no-underscore", "_", &text[1..]] {
            assert!(!PlainToken::new(wrong.as_bytes()).unwrap().has_issued_format(), "{wrong}");
        }
        for (text, error) in [(mistyped.as_str(), FormatError::Checksum), ("eat_short", FormatError::Shape)] {
            assert_eq!(PlainToken::new(text.as_bytes()).unwrap().issued_prefix(), Err(error), "{text}");
        }
    }

    #[test]
    fn debug_shows_neither_token_nor_digest() {
        let token = PlainToken::new(b"hunter2").unwrap();
        assert_eq!(
            format!("{token:?} {:?}", token.digest()),
            "PlainToken([REDACTED]) TokenDigest([REDACTED])"
        );
    }
}
