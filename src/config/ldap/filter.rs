//! Search filters of directories (RFC 4515), and the place of the person's name in them.

/// The text that stands for the name, or for an attribute's value.
pub const NAME: &str = "%s";

/// How deep filters may be nested.
const MAX_NESTING: usize = 32;

/// A filter that is well-formed.
#[derive(Debug, PartialEq, Eq)]
pub struct Filter<'f> {
    /// The attributes that are compared with [`NAME`], in their order; one is here as often as it is compared.
    pub compared: Vec<&'f str>,
    /// Whether it fits nothing that does not equal the name somewhere: no entry fits whatever is typed.
    pub needs_name: bool,
}

/// Why a text is not a search filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Parentheses do not fit.
    #[error("a filter begins with `(` and ends with the `)` that closes it, and so does each of its parts")]
    Parentheses,
    /// The text before the operator is not an attribute.
    #[error("an attribute such as uid (letters, digits and `-`) is expected before the operator")]
    Attribute,
    /// There is no operator.
    #[error("`=`, `~=`, `<=`, `>=` or `:=` is expected after an attribute")]
    Operator,
    /// A value has characters that must be escaped.
    #[error(r"in a value `(`, `)`, `*`, `\` and NUL are written \28, \29, \2a, \5c and \00")]
    Value,
    /// A part of a name would stand for the whole.
    #[error("with `*` next to `%s` a part of a name would match: write `%s` alone")]
    PartOfName,
    /// It is nested too deep.
    #[error("a filter is nested {MAX_NESTING} levels at most")]
    TooDeep,
}

impl<'f> Filter<'f> {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`]: it is not a filter, or compares with a part of the name.
    pub fn parse(text: &'f str) -> Result<Self, FilterError> {
        let mut compared = Vec::new();
        match read_filter(text, &mut compared, MAX_NESTING)? {
            ("", needs_name) => Ok(Self { compared, needs_name }),
            _ => Err(FilterError::Parentheses),
        }
    }
}

/// Reads one filter, and returns the rest of the text, and whether the filter needs the name.
fn read_filter<'f>(
    text: &'f str,
    compared: &mut Vec<&'f str>,
    levels: usize,
) -> Result<(&'f str, bool), FilterError> {
    let levels = levels.checked_sub(1).ok_or(FilterError::TooDeep)?;
    let inner = text.strip_prefix('(').ok_or(FilterError::Parentheses)?;
    let (rest, needs_name) = match inner.as_bytes().first() {
        Some(operator @ (b'&' | b'|')) => {
            let mut rest = &inner[1..];
            let mut parts = Vec::new();
            // RFC 4526: an empty list is true, or false.
            while rest.starts_with('(') {
                let (after, needs_name) = read_filter(rest, compared, levels)?;
                parts.push(needs_name);
                rest = after;
            }
            let needs_name = if *operator == b'&' { parts.contains(&true) } else { !parts.contains(&false) };
            (rest, needs_name)
        }
        Some(b'!') => (read_filter(&inner[1..], compared, levels)?.0, false),
        Some(_) | None => read_item(inner, compared)?,
    };
    let rest = rest.strip_prefix(')').ok_or(FilterError::Parentheses)?;
    Ok((rest, needs_name))
}

/// Reads a comparison without its parentheses, and returns the rest of the text, and whether it needs the name.
fn read_item<'f>(text: &'f str, compared: &mut Vec<&'f str>) -> Result<(&'f str, bool), FilterError> {
    let end = text.find([')', '(']).ok_or(FilterError::Parentheses)?;
    let (left, value) = text[..end].split_once('=').ok_or(FilterError::Operator)?;
    let (attribute, takes_parts) = match left.as_bytes().last() {
        Some(b':') => (read_extensible(&left[..left.len() - 1])?, false),
        Some(b'~' | b'<' | b'>') => (&left[..left.len() - 1], false),
        Some(_) | None => (left, true),
    };
    // An extensible comparison may be of every attribute.
    let is_every = attribute.is_empty() && left.ends_with(':');
    if !is_attribute_of_filter(attribute) && !is_every {
        return Err(FilterError::Attribute);
    }
    // A value ends at the first parenthesis, since those in it are escaped.
    if text[end..].starts_with('(') || !is_value(value, takes_parts) {
        return Err(FilterError::Value);
    }
    let has_name = value.contains(NAME);
    if has_name {
        if value.contains('*') {
            return Err(FilterError::PartOfName);
        }
        compared.push(attribute);
    }
    // `~=`, `<=` and `>=` fit other names, too.
    let is_equality = !matches!(left.as_bytes().last(), Some(b'~' | b'<' | b'>'));
    Ok((&text[end..], has_name && is_equality))
}

/// The attribute of `attribute:dn:rule`.
fn read_extensible(text: &str) -> Result<&str, FilterError> {
    let mut parts = text.split(':');
    let attribute = parts.next().unwrap_or_default();
    let rules: Vec<_> = parts.collect();
    let is_rule = |rule: &str| is_attribute_of_filter(rule) && !rule.contains(';');
    let is_legal = match rules[..] {
        [] => !attribute.is_empty(),
        ["dn"] => !attribute.is_empty(),
        ["dn", rule] => is_rule(rule),
        // ldap3 reads the beginning as `:dn`, and then fails.
        [rule] => is_rule(rule) && !rule.starts_with("dn"),
        _ => false,
    };
    if is_legal { Ok(attribute) } else { Err(FilterError::Attribute) }
}

/// Whether a value has no characters that must be escaped, and no part between two `*` is empty.
fn is_value(value: &str, takes_parts: bool) -> bool {
    if value.contains("**") {
        return false;
    }
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = match (byte, after) {
            (b'\\', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => after,
            (b'\\' | 0, _) => return false,
            (b'*', _) if !takes_parts => return false,
            (_, after) => after,
        };
    }
    true
}

/// Whether a text is an attribute's name or number (RFC 4512 section 2.5), perhaps with options.
pub fn is_attribute(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_number = |text: &str| {
        text.split('.').all(|arc| !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut parts = text.split(';');
    let name = parts.next().unwrap_or_default();
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic()) && is_word(name);
    (is_name || is_number(name)) && parts.all(is_word)
}

/// Whether a text is an attribute as ldap3 reads it in a filter: without `_`, which RFC 4512 does not allow and some servers
/// have, and without zeros before the parts of a number.
fn is_attribute_of_filter(text: &str) -> bool {
    let name = text.split(';').next().unwrap_or_default();
    let has_leading_zero = name.split('.').any(|arc| arc.len() > 1 && arc.starts_with('0'));
    is_attribute(text) && !text.contains('_') && !has_leading_zero
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_the_attributes_that_are_compared_with_the_name() {
        let cases: [(&str, &[&str]); 12] = [
            ("(uid=%s)", &["uid"]),
            ("(&(objectClass=person)(|(uid=%s)(mail=%s)))", &["uid", "mail"]),
            ("(&(objectClass=*)(!(nsAccountLock=TRUE))(uid=%s))", &["uid"]),
            ("(&(uid=%s)(memberOf:1.2.840.113556.1.4.1941:=cn=a,dc=example))", &["uid"]),
            ("(member:1.2.840.113556.1.4.1941:=%s)", &["member"]),
            ("(cn:dn:caseExactMatch:=%s)", &["cn"]),
            ("(:caseExactMatch:=%s)", &[""]),
            ("(userPrincipalName=%s@corp.example)", &["userPrincipalName"]),
            ("(2.5.4.3=%s)", &["2.5.4.3"]),
            ("(cn;lang-de=%s)", &["cn;lang-de"]),
            (r"(cn=\28%s\29 and a=b)", &["cn"]),
            ("(&)", &[]),
        ];
        for (text, compared) in cases {
            let filter = Filter::parse(text);
            assert_eq!(filter.map(|filter| filter.compared), Ok(compared.to_vec()), "{text}");
            // A reader of the directory reads it, too.
            #[cfg(feature = "ldap")]
            assert!(ldap3::parse_filter(text.replace(NAME, "ann")).is_ok(), "{text}");
        }
    }

    /// Every filter of at most five of these parts that passes here is one for the parser whose bytes the directory gets.
    #[cfg(feature = "ldap")]
    #[test]
    fn whatever_passes_can_be_sent() {
        const PARTS: [&str; 19] = [
            "a", "dn", "0", "1", "-", "_", ".", ";", ":", "=", "~", "<", "*", "\\", "2a", "%s", "(", ")", "&",
        ];
        let (mut passed, mut parts) = (0, Vec::new());
        let mut text = String::new();
        // Counts in the parts as digits, the empty list first.
        loop {
            text.clear();
            text.push('(');
            text.extend(parts.iter().map(|&part: &usize| PARTS[part]));
            text.push(')');
            if Filter::parse(&text).is_ok() {
                passed += 1;
                assert!(ldap3::parse_filter(text.replace(NAME, "ann")).is_ok(), "{text}");
            }
            match parts.iter().rposition(|&part| part + 1 < PARTS.len()) {
                Some(last) => {
                    parts[last] += 1;
                    parts[last + 1..].fill(0);
                }
                None if parts.len() < 5 => parts = vec![0; parts.len() + 1],
                None => break,
            }
        }
        assert!(passed > 1_000, "{passed}");
    }

    #[test]
    fn what_is_no_filter() {
        for (text, error) in [
            ("", FilterError::Parentheses),
            ("uid=%s", FilterError::Parentheses),
            ("(uid=%s", FilterError::Parentheses),
            ("(uid=%s))", FilterError::Parentheses),
            ("(&(uid=%s)", FilterError::Parentheses),
            ("(& (uid=%s))", FilterError::Parentheses),
            ("(uid=%s)(mail=%s)", FilterError::Parentheses),
            ("()", FilterError::Operator),
            ("(uid)", FilterError::Operator),
            ("(=%s)", FilterError::Attribute),
            ("(%s=ann)", FilterError::Attribute),
            ("( uid=%s)", FilterError::Attribute),
            ("(:=%s)", FilterError::Attribute),
            ("(uid:dn:a:b:=%s)", FilterError::Attribute),
            ("(uid=a(b)", FilterError::Value),
            (r"(uid=\zz)", FilterError::Value),
            (r"(uid=\2)", FilterError::Value),
            ("(uid>=*)", FilterError::Value),
            ("(uid=a\0b)", FilterError::Value),
            ("(&(uid=%s)(cn=a**b))", FilterError::Value),
            ("(my_attribute=%s)", FilterError::Attribute),
            ("(2.05.4=%s)", FilterError::Attribute),
            ("(cn:caseExactMatch;x:=%s)", FilterError::Attribute),
            ("(member:dnOneLevelMatch:=%s)", FilterError::Attribute),
            ("(uid=%s*)", FilterError::PartOfName),
            ("(cn=*%s*)", FilterError::PartOfName),
            (&"(!".repeat(40), FilterError::TooDeep),
        ] {
            assert_eq!(Filter::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_filter_that_fits_whatever_is_typed_does_not_need_the_name() {
        for (text, needs_name) in [
            ("(uid=%s)", true),
            ("(&(objectClass=person)(uid=%s))", true),
            ("(|(uid=%s)(mail=%s))", true),
            ("(member:1.2.840.113556.1.4.1941:=%s)", true),
            ("(&(!(disabled=TRUE))(|(uid=%s)(&(a=b)(mail=%s))))", true),
            ("(|(uid=%s)(objectClass=*))", false),
            ("(|(uid=%s)(!(uid=zz)))", false),
            ("(!(uid=%s))", false),
            ("(uid>=%s)", false),
            ("(uid<=%s)", false),
            ("(uid~=%s)", false),
            ("(&(a=b)(|(uid=%s)(c=d)))", false),
        ] {
            assert_eq!(Filter::parse(text).unwrap().needs_name, needs_name, "{text}");
        }
    }

    #[test]
    fn attributes() {
        for text in ["uid", "sAMAccountName", "x-a1", "2.5.4.3", "cn;lang-en;binary", "my_attribute"] {
            assert!(is_attribute(text), "{text}");
        }
        for text in ["", "1a", "-a", "a b", "a.b", "2..5", "cn;", "cn=", "ä"] {
            assert!(!is_attribute(text), "{text}");
        }
    }
}
