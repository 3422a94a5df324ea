//! Query parameters, in the form in which they were sent.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use crate::attributes::{Http, count_comparison};

/// The raw values of every parameter whose decoded name is this one, in order.
pub fn values<'s, 'a: 's>(http: &Http<'a>, name: &'s str) -> impl Iterator<Item = &'a [u8]> + use<'s, 'a> {
    named(http, name).map(|(_, value)| value)
}

/// The raw names under which parameters of this decoded name were sent, in order.
pub fn raw_names<'s, 'a: 's>(http: &Http<'a>, name: &'s str) -> impl Iterator<Item = &'a [u8]> + use<'s, 'a> {
    named(http, name).map(|(raw, _)| raw)
}

/// Every parameter in order: its raw name, and the whole of it.
pub fn parameters<'a>(http: &Http<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
    let query = http.query();
    let parameters = query.into_iter().flat_map(|query| query.split(|&byte| byte == b'&'));
    parameters.map(|parameter| (split_parameter(parameter).0, parameter))
}

/// Percent-decoding as forms do it: `+` is a blank.
pub fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(raw);
    }
    let blanks: Vec<u8> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Cow::Owned(percent_decode(&blanks).collect())
}

fn named<'s, 'a: 's>(
    http: &Http<'a>,
    name: &'s str,
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'s, 'a> {
    let query: &'a [u8] = http.query().unwrap_or_default();
    query.split(|&byte| byte == b'&').map(split_parameter).filter(move |(raw, _)| is_named(raw, name))
}

fn split_parameter(parameter: &[u8]) -> (&[u8], &[u8]) {
    match parameter.iter().position(|&byte| byte == b'=') {
        Some(equals) => (&parameter[..equals], &parameter[equals + 1..]),
        None => (parameter, &[]),
    }
}

fn is_named(raw: &[u8], name: &str) -> bool {
    count_comparison();
    decode(raw).as_ref() == name.as_bytes()
}
