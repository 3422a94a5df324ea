//! What Envoy tells of a request: the words every rule reads.
//!
//! An [`Attributes`] borrows everything from the message it was decoded from.
//! Client text is bytes: it becomes text only where a rule reads it.

/// The part of Envoy's `AttributeContext` that a decision reads
/// (`envoy.service.auth.v3.AttributeContext`).
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    /// `request.http`; absent when the TCP filter (`envoy.filters.network.ext_authz`) asks.
    pub http: Option<Http<'a>>,
    /// `context_extensions["policy"]`: set per route by the operator, out of the client's reach.
    pub policy: Option<&'a [u8]>,
}

/// `AttributeContext.Request.http`.
#[derive(Debug, Clone)]
pub struct Http<'a> {
    /// `method`, as sent.
    pub method: &'a [u8],
    /// `host`: the `:authority`, case and port preserved.
    pub host: &'a [u8],
    /// `path`: the `:path` with its query, undecoded.  Envoy leaves `query` empty.
    pub path: &'a [u8],
    /// The request's headers.
    pub headers: Headers<'a>,
}

impl<'a> Http<'a> {
    /// The path without its query.
    pub fn path_without_query(&self) -> &'a [u8] {
        match self.path.iter().position(|&byte| byte == b'?') {
            Some(mark) => &self.path[..mark],
            None => self.path,
        }
    }

    /// What follows the first `?` of the path; `None` without one.
    pub fn query(&self) -> Option<&'a [u8]> {
        let mark = self.path.iter().position(|&byte| byte == b'?')?;
        Some(&self.path[mark + 1..])
    }
}

/// One header: its name as sent and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name.  Envoy sends it in lower case; comparisons ignore ASCII case all the same.
    pub name: &'a [u8],
    /// The value, bytes as Envoy handed them over.
    pub value: &'a [u8],
}

/// How Envoy encoded the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `headers`, a map: one entry per name, repeated lines joined with `,`, bad UTF-8 replaced by `!`.
    Joined,
    /// `header_map` (`encode_raw_headers`): one entry per line, bytes untouched.
    /// Envoy's codec has already joined the lines of its inline headers, `authorization` among them.
    Lines,
}

/// The headers of one request.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    encoding: Encoding,
    entries: Vec<Header<'a>>,
    lengths: Lengths,
}

/// The lengths of some names, as bits: a name whose length is not among them need not be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths(u64);

impl Lengths {
    /// The lengths of these names.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Self {
        Self(names.into_iter().fold(0, |bits, name| bits | Self::bit(name.len())))
    }

    /// Whether none of them is among the others.
    fn are_apart_from(self, others: Self) -> bool {
        self.0 & others.0 == 0
    }

    /// Whether a name of this length may be among them.
    pub fn may_hold(self, length: usize) -> bool {
        self.0 & Self::bit(length) != 0
    }

    /// Longer names share their bits with shorter ones, which costs a comparison at most.
    fn bit(length: usize) -> u64 {
        1 << (length % 64)
    }
}

impl<'a> Headers<'a> {
    /// Headers in the order in which they were decoded.
    pub fn new(encoding: Encoding, entries: Vec<Header<'a>>) -> Self {
        let lengths = Lengths::of(entries.iter().map(|header| header.name));
        Self { encoding, entries, lengths }
    }

    /// How they were encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Every entry, in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + '_ {
        self.entries.iter().copied()
    }

    /// The entries whose names may have one of these lengths, in order.
    pub fn of_lengths(&self, lengths: Lengths) -> impl Iterator<Item = Header<'a>> + '_ {
        let none: &[Header<'a>] = &[];
        let entries = if self.lengths.are_apart_from(lengths) { none } else { &self.entries };
        entries.iter().copied().filter(move |header| lengths.may_hold(header.name.len()))
    }

    /// Every value of this name, in order.
    ///
    /// In a map the last entry of a key is the only one: that is what protobuf makes of a repeated key.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        let entries = if self.lengths.may_hold(name.len()) { self.entries.as_slice() } else { &[] };
        // Envoy's names are in lower case, as ours are, and equal bytes are compared many at a time.
        let name = name.as_bytes();
        let named = move |header: &Header<'a>| header.name == name || header.name.eq_ignore_ascii_case(name);
        let entries = entries.iter().enumerate();
        entries
            // Most names are told apart by this alone, which takes an instruction or two.
            .filter(move |(_, header)| header.name.len() == name.len())
            .filter(move |(index, header)| named(header) && !self.is_replaced(*index))
            .map(|(_, header)| header.value)
    }

    /// The first value of this name.
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Whether the request has a header of this name, even an empty one.
    pub fn has(&self, name: &str) -> bool {
        self.lengths.may_hold(name.len())
            && self.entries.iter().any(|header| header.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether a later entry of a map has the very same key.
    fn is_replaced(&self, index: usize) -> bool {
        match self.encoding {
            Encoding::Lines => false,
            Encoding::Joined => {
                let name = self.entries[index].name;
                self.entries[index + 1..].iter().any(|later| later.name == name)
            }
        }
    }
}

/// The bytes without blanks (SP, HTAB) at either end: RFC 9110 section 5.5.
pub fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maps_key_counts_once_and_keys_of_another_case_are_others() {
        let entries = [("a", "1"), ("A", "2"), ("b", "3"), ("a", "4")];
        let entries = entries.map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
        let values = |encoding| -> Vec<_> {
            let headers = Headers::new(encoding, entries.to_vec());
            headers.all("a").map(|value| char::from(value[0])).collect()
        };
        assert_eq!(values(Encoding::Joined), ['2', '4']);
        assert_eq!(values(Encoding::Lines), ['1', '2', '4']);
    }
}
