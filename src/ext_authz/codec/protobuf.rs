//! Reading protobuf without copying: a message is a run of fields, and a field borrows from the message.
//!
//! A CheckRequest holds about forty fields that no decision reads.  Skipping a field takes a few instructions, while a
//! generated decoder counts a reference for each field.  The encoding:
//! <https://protobuf.dev/programming-guides/encoding/>.

/// The bytes are not a protobuf message, or a field has an unexpected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is not the protobuf that was expected")]
pub struct Malformed;

/// The fields of one message, in the order in which they were sent.  After an error there are no more.
pub struct FieldIter<'m> {
    rest: &'m [u8],
}

/// One field: its number and its value.
pub struct Field<'m> {
    /// The field's number.
    pub number: u32,
    value: FieldValue<'m>,
}

/// The value of a field, as far as this reader distinguishes values.
enum FieldValue<'m> {
    /// Text, bytes, or a message.
    Bytes(&'m [u8]),
    /// A number, or a group, which no decision reads.
    Other,
}

impl<'m> Field<'m> {
    /// The value of a field whose type is `bytes`, `string` or a message.
    ///
    /// # Errors
    /// [`Malformed`]: it was sent as something else.
    pub fn bytes(&self) -> Result<&'m [u8], Malformed> {
        match self.value {
            FieldValue::Bytes(bytes) => Ok(bytes),
            FieldValue::Other => Err(Malformed),
        }
    }
}

/// How deep groups may be nested, as in other implementations.
const MAX_GROUP_DEPTH: u32 = 100;

/// Wire types, the low three bits of a tag.
const VARINT: u32 = 0;
const FIXED_64: u32 = 1;
const BYTES: u32 = 2;
const GROUP: u32 = 3;
const END_OF_GROUP: u32 = 4;
const FIXED_32: u32 = 5;

impl<'m> Iterator for FieldIter<'m> {
    type Item = Result<Field<'m>, Malformed>;

    /// The next field, or an error: the message ends within a field, or the bytes are not valid.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if let Some(field) = self.short_field() {
            return Some(Ok(field));
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'m> FieldIter<'m> {
    /// The fields of a message.
    pub fn new(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    /// Whether there are no more.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes of the next field if it has this number and is short: its tag and its length take a byte each.
    #[inline]
    pub fn short_text(&mut self, number: u32) -> Option<&'m [u8]> {
        let (tag, bytes, rest) = self.short()?;
        (tag == number << 3 | BYTES).then(|| {
            self.rest = rest;
            bytes
        })
    }

    /// The next field if it is text with a tag and a length of one byte each, as nearly all fields are.
    #[inline]
    fn short_field(&mut self) -> Option<Field<'m>> {
        let (tag, bytes, rest) = self.short()?;
        (tag & 7 == BYTES).then(|| {
            self.rest = rest;
            Field { number: tag >> 3, value: FieldValue::Bytes(bytes) }
        })
    }

    /// Tag and bytes of the next field, read as text with a tag and a length of one byte each, and the bytes after it.
    #[inline]
    fn short(&self) -> Option<(u32, &'m [u8], &'m [u8])> {
        // From 8 on a tag has a number that is not zero.
        let [tag @ 8..0x80, length @ 0..0x80, rest @ ..] = self.rest else {
            return None;
        };
        let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
        Some((u32::from(*tag), bytes, rest))
    }

    fn field(&mut self) -> Result<Field<'m>, Malformed> {
        let (number, wire_type) = self.tag()?;
        let value = if wire_type == BYTES {
            FieldValue::Bytes(self.bytes()?)
        } else {
            self.skip(number, wire_type, MAX_GROUP_DEPTH)?;
            FieldValue::Other
        };
        Ok(Field { number, value })
    }

    fn tag(&mut self) -> Result<(u32, u32), Malformed> {
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let number = tag >> 3;
        if number == 0 { Err(Malformed) } else { Ok((number, tag & 7)) }
    }

    fn bytes(&mut self) -> Result<&'m [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<&'m [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// At most ten bytes of seven bits each, the lowest first.
    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly every tag and length is one byte.
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut number = 0;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                // The tenth byte holds only the highest bit.
                if index == 9 && byte > 1 {
                    return Err(Malformed);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn skip(&mut self, number: u32, wire_type: u32, max_depth: u32) -> Result<(), Malformed> {
        match wire_type {
            VARINT => self.varint().map(drop),
            FIXED_64 => self.take(8).map(drop),
            BYTES => self.bytes().map(drop),
            GROUP => self.skip_group(number, max_depth.checked_sub(1).ok_or(Malformed)?),
            FIXED_32 => self.take(4).map(drop),
            // An end without a beginning, or no wire type at all.
            _ => Err(Malformed),
        }
    }

    fn skip_group(&mut self, group: u32, max_depth: u32) -> Result<(), Malformed> {
        loop {
            let (number, wire_type) = self.tag()?;
            if wire_type == END_OF_GROUP {
                return if number == group { Ok(()) } else { Err(Malformed) };
            }
            self.skip(number, wire_type, max_depth)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(message: &[u8]) -> Result<Vec<(u32, Option<Vec<u8>>)>, Malformed> {
        let shown = |field: Field<'_>| (field.number, field.bytes().ok().map(<[u8]>::to_vec));
        FieldIter::new(message).map(|field| field.map(shown)).collect()
    }

    #[test]
    fn every_wire_type_is_read_or_skipped() {
        let table: &[(&[u8], &[(u32, Option<&[u8]>)])] = &[
            (&[], &[]),
            (&[0x0a, 2, b'h', b'i'], &[(1, Some(b"hi"))]),
            (&[0x08, 0x96, 0x01, 0x12, 0], &[(1, None), (2, Some(b""))]),
            (&[0x09, 1, 2, 3, 4, 5, 6, 7, 8], &[(1, None)]),
            (&[0x0d, 1, 2, 3, 4], &[(1, None)]),
            // A group with a group, a number and text in it.
            (&[0x0b, 0x13, 0x08, 1, 0x14, 0x1a, 1, b'x', 0x0c, 0x0a, 1, b'y'], &[(1, None), (1, Some(b"y"))]),
            // The largest number that there is.
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &[(1, None)]),
            // A length that takes more bytes than it needs.
            (&[0x0a, 0x81, 0x00, b'x'], &[(1, Some(b"x"))]),
        ];
        for (message, expected) in table {
            let expected: Vec<_> =
                expected.iter().map(|(number, bytes)| (*number, bytes.map(<[u8]>::to_vec))).collect();
            assert_eq!(walk(message), Ok(expected), "{message:x?}");
        }
    }

    #[test]
    fn malformed_messages_are_errors() {
        let table: &[&[u8]] = &[
            &[0x0a],
            &[0x0a, 2, b'h'],
            &[0x80],
            &[0x02, 0],
            &[0x08],
            &[0x09, 1, 2, 3],
            &[0x0d, 1],
            &[0x0e],
            &[0x0f],
            &[0x0c],
            &[0x0b],
            &[0x0b, 0x14],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
            &[0x8a, 0x80, 0x80, 0x80, 0x10, 0],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ];
        for message in table {
            assert_eq!(walk(message), Err(Malformed), "{message:x?}");
        }
        let deep = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        assert!(walk(&deep(100)).is_ok());
        assert_eq!(walk(&deep(101)), Err(Malformed));
    }
}
