//! BER as LDAP uses it: tags of one byte and definite lengths (RFC 4511, section 5.1).
//!
//! Reading borrows, goes only as deep as the caller asks for, and never allocates by the value of a length.

/// `INTEGER`.
pub(super) const INTEGER: u8 = 0x02;
/// `BOOLEAN`.
pub(super) const BOOLEAN: u8 = 0x01;
/// `OCTET STRING`.
pub(super) const OCTET_STRING: u8 = 0x04;
/// `ENUMERATED`.
pub(super) const ENUMERATED: u8 = 0x0a;
/// `SEQUENCE` and `SEQUENCE OF`.
pub(super) const SEQUENCE: u8 = 0x30;
/// `SET OF`.
pub(super) const SET: u8 = 0x31;

/// The bytes are not BER, or not the expected message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The elements of a constructed element, from first to last.
#[derive(Clone, Copy)]
pub(super) struct Elements<'b>(&'b [u8]);

impl<'b> Elements<'b> {
    pub(super) fn new(content: &'b [u8]) -> Self {
        Self(content)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element: its tag and its content.  `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'b [u8])>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let length = length_of(self.0)?.ok_or(Malformed)?;
        let (element, rest) = self.0.split_at_checked(length.whole).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some((element[0], &element[length.header..])))
    }

    /// The content of the next element, which has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<&'b [u8], Malformed> {
        match self.next()? {
            Some((found, content)) if found == tag => Ok(content),
            Some(_) | None => Err(Malformed),
        }
    }
}

/// How long an element is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    /// Its tag and its length.
    header: usize,
    /// All of it.
    pub(super) whole: usize,
}

/// The length of the element that begins here; `None` while its header is not whole.
pub(super) fn length_of(bytes: &[u8]) -> Result<Option<Length>, Malformed> {
    /// The tag continues in the next byte.
    const LONG_TAG: u8 = 0x1f;
    let [tag, first, rest @ ..] = bytes else { return Ok(None) };
    if tag & LONG_TAG == LONG_TAG {
        return Err(Malformed);
    }
    let (size, content) = match first {
        0..0x80 => (0, usize::from(*first)),
        // Active Directory writes every length in four bytes.
        0x81..=0x84 => {
            let size = usize::from(first - 0x80);
            let Some(length) = rest.get(..size) else { return Ok(None) };
            (size, length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)))
        }
        0x80 | 0x85.. => return Err(Malformed),
    };
    let header = 2 + size;
    Ok(Some(Length { header, whole: header.checked_add(content).ok_or(Malformed)? }))
}

/// The number in an `INTEGER` or an `ENUMERATED`, which has no sign in LDAP.
pub(super) fn number(content: &[u8]) -> Result<u32, Malformed> {
    let [0..0x80, ..] = content else { return Err(Malformed) };
    let digits = content.strip_prefix(&[0]).unwrap_or(content);
    if digits.len() > 4 {
        return Err(Malformed);
    }
    Ok(digits.iter().fold(0, |number, &digit| number << 8 | u32::from(digit)))
}

/// Writes an element behind what is there.
pub(super) fn write(into: &mut Vec<u8>, tag: u8, content: &[u8]) {
    into.push(tag);
    let length = content.len().to_be_bytes();
    let digits = &length[length.iter().take_while(|&&digit| digit == 0).count()..];
    match digits {
        [] | [0..0x80] => {}
        [..] => into.push(0x80 | u8::try_from(digits.len()).expect("a length has at most eight bytes")),
    }
    into.extend(if digits.is_empty() { &[0][..] } else { digits });
    into.extend(content);
}

/// Writes an `INTEGER` or an `ENUMERATED`.
pub(super) fn write_number(into: &mut Vec<u8>, tag: u8, number: u32) {
    let digits = [&[0], &number.to_be_bytes()[..]].concat();
    // The fewest bytes in which the sign bit is clear.
    let start = (0..4).find(|&start| digits[start] != 0 || digits[start + 1] >= 0x80).unwrap_or(4);
    write(into, tag, &digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let mut bytes = Vec::new();
            write(&mut bytes, OCTET_STRING, &vec![7; length]);
            write_number(&mut bytes, INTEGER, 1);
            let mut elements = Elements::new(&bytes);
            assert_eq!(elements.expect(OCTET_STRING), Ok(&vec![7; length][..]));
            assert_eq!(elements.expect(INTEGER), Ok(&[1][..]));
            assert_eq!(elements.next(), Ok(None));
        }
        for (written, content) in [
            (0, &[0][..]),
            (1, &[1]),
            (127, &[127]),
            (128, &[0, 128]),
            (255, &[0, 255]),
            (256, &[1, 0]),
            (32_768, &[0, 128, 0]),
            (u32::MAX, &[0, 255, 255, 255, 255]),
        ] {
            let mut bytes = Vec::new();
            write_number(&mut bytes, ENUMERATED, written);
            assert_eq!(Elements::new(&bytes).expect(ENUMERATED), Ok(content));
            assert_eq!(number(content), Ok(written));
        }
    }

    #[test]
    fn a_length_says_no_more_than_its_bytes() {
        for (bytes, length) in [
            (&[][..], Ok(None)),
            (&[0x30], Ok(None)),
            (&[0x30, 0x82, 1], Ok(None)),
            (&[0x30, 0x05], Ok(Some(Length { header: 2, whole: 7 }))),
            (&[0x30, 0x82, 1, 0], Ok(Some(Length { header: 4, whole: 260 }))),
            (&[0x30, 0x84, 0, 0, 0, 5], Ok(Some(Length { header: 6, whole: 11 }))),
            (&[0x30, 0x84, 255, 255, 255, 255], Ok(Some(Length { header: 6, whole: 0xffff_ffff + 6 }))),
            // An indefinite one, one of more than four bytes, a long tag.
            (&[0x30, 0x80], Err(Malformed)),
            (&[0x30, 0x85, 0, 0, 0, 0, 1], Err(Malformed)),
            (&[0x1f, 0x01], Err(Malformed)),
        ] {
            assert_eq!(length_of(bytes), length, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_another_element_is_malformed() {
        for bytes in [&[][..], &[4], &[4, 1], &[4, 2, 0], &[4, 0x81], &[2, 1, 0]] {
            assert_eq!(Elements::new(bytes).expect(OCTET_STRING), Err(Malformed), "{bytes:02x?}");
        }
        for content in [&[][..], &[0x80], &[0xff, 1], &[1, 0, 0, 0, 0], &[0, 1, 0, 0, 0, 0]] {
            assert_eq!(number(content), Err(Malformed), "{content:02x?}");
        }
    }
}
