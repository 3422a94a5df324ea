//! The values that statements are given, as both databases take them.

/// A value that a statement is given.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A number.
    Integer(Option<i64>),
    /// A text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(Some(value))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Integer(Some(value.into()))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<Option<String>> for Value {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

impl From<Option<&str>> for Value {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Some(value.to_vec()))
    }
}

impl From<Option<Vec<u8>>> for Value {
    fn from(value: Option<Vec<u8>>) -> Self {
        Self::Bytes(value)
    }
}

impl From<&crate::token::TokenDigest> for Value {
    fn from(digest: &crate::token::TokenDigest) -> Self {
        digest.as_bytes().as_slice().into()
    }
}

impl From<jiff::Timestamp> for Value {
    /// Whole seconds since 1970.
    fn from(at: jiff::Timestamp) -> Self {
        Self::Integer(Some(at.as_second()))
    }
}

impl From<Option<jiff::Timestamp>> for Value {
    fn from(at: Option<jiff::Timestamp>) -> Self {
        Self::Integer(at.map(jiff::Timestamp::as_second))
    }
}

/// The values of a statement in the order of their numbers.
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($crate::keys::store::value::Value::from($value)),*] };
}
pub(super) use values;
