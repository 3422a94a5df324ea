//! The path without a query parameter that carried a credential, written as Envoy's ext_authz writes it: there the
//! parameters are sorted by name, `flag` becomes `flag=`, and values stay byte for byte.

use std::collections::BTreeMap;

/// The path without the parameters of these raw names.
pub fn without_parameters(path: &[u8], names: &[&[u8]]) -> Vec<u8> {
    let Some(mark) = path.iter().position(|&byte| byte == b'?') else {
        return path.to_vec();
    };
    let (before, query) = (&path[..mark], &path[mark + 1..]);
    // Envoy keeps them in a sorted map of lists.
    let mut parameters: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
    let mut rest = query;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'&').unwrap_or(rest.len());
        let parameter = &rest[..end];
        let equals = parameter.iter().position(|&byte| byte == b'=');
        let (name, value) = match equals {
            Some(equals) => (&parameter[..equals], &parameter[equals + 1..]),
            None => (parameter, &[][..]),
        };
        parameters.entry(name).or_default().push(value);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    for name in names {
        parameters.remove(name);
    }
    let mut written = before.to_vec();
    let mut delimiter = b'?';
    for (name, values) in parameters {
        for value in values {
            written.push(delimiter);
            written.extend_from_slice(name);
            written.push(b'=');
            written.extend_from_slice(value);
            delimiter = b'&';
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_written_as_ext_authz_writes_it() {
        for (path, expected) in [
            ("/x?z=1&k=T&a=2", "/x?a=2&z=1"),
            ("/x?flag&k=T", "/x?flag="),
            ("/x?k=T", "/x"),
            ("/x?k=T&&b=%20x", "/x?=&b=%20x"),
            ("/x?b=2&b=1&k=T&k=U", "/x?b=2&b=1"),
            ("/x?k=T&b=1&", "/x?b=1"),
            ("/x?a=b=c&k", "/x?a=b=c"),
            ("/x?a=?&k=", "/x?a=?"),
            ("/x", "/x"),
        ] {
            let written = without_parameters(path.as_bytes(), &[b"k"]);
            assert_eq!(String::from_utf8(written).unwrap(), expected, "{path}");
        }
    }
}
