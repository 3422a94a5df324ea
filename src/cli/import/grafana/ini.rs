//! Grafana's ini file, read as Grafana's own library reads it (go-ini with its default options): `#` and `;` begin a
//! comment anywhere but in quotes, the last of two equal keys counts, `%(name)s` is another key of the section.

use std::collections::HashMap;

/// How often `%(name)s` is replaced in one value.
const MAX_REPLACEMENTS: usize = 99;

/// The quotes of values that may hold anything, lines too.
const QUOTES: [&str; 2] = ["\"\"\"", "`"];

/// The sections of a file, in their order.
#[derive(Debug, Default)]
pub struct Ini {
    sections: Vec<Section>,
}

/// A section, with its keys in their order.
#[derive(Debug)]
pub struct Section {
    /// The text between the brackets; empty for the part before all sections.
    pub name: String,
    keys: Vec<(String, String)>,
}

/// Why a text is not an ini file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IniError {
    /// The line, from 1.
    pub line: usize,
    /// It quotes nothing.
    pub problem: &'static str,
}

impl Ini {
    /// Reads a file.
    ///
    /// # Errors
    /// [`IniError`].
    pub fn parse(text: &str) -> Result<Self, IniError> {
        let mut ini = Self::default();
        let mut section = ini.section_index("");
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let error = |problem| IniError { line: index + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let (name, _) = rest.rsplit_once(']').ok_or(error("a section ends with `]`"))?;
                section = ini.section_index(name.trim());
                continue;
            }
            let (key, value) = line.split_once(['=', ':']).ok_or(error("expected `key = value`"))?;
            let value = read_value(value.trim(), &mut lines).ok_or(error("its quotes are not closed"))?;
            ini.sections[section].set(key.trim().trim_matches(['"', '`']), value);
        }
        Ok(ini)
    }

    fn section_index(&mut self, name: &str) -> usize {
        let found = self.sections.iter().position(|section| section.name == name);
        found.unwrap_or_else(|| {
            self.sections.push(Section { name: name.to_owned(), keys: Vec::new() });
            self.sections.len() - 1
        })
    }

    /// The sections, in their order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// A value; one that is empty counts as not there.  `%(name)s` is replaced by a key of the section, or by one of these
    /// that it lacks; where there is none, it stays.
    pub fn value(&self, section: &str, key: &str, defaults: &HashMap<&str, &str>) -> Option<String> {
        let section = self.sections.iter().find(|found| found.name == section)?;
        let mut value = section.get(key)?.to_owned();
        for _ in 0..MAX_REPLACEMENTS {
            let Some((start, name)) = reference(&value) else {
                break;
            };
            let name = name.to_owned();
            let own = section.get(&name).filter(|_| name != key);
            let Some(found) = own.or_else(|| defaults.get(name.as_str()).copied()) else {
                break;
            };
            let end = start + name.len() + "%()s".len();
            value.replace_range(start..end, found);
        }
        Some(value).filter(|value| !value.is_empty())
    }
}

/// The first `%(name)s` in a text: where it begins, and the name.
pub fn reference(text: &str) -> Option<(usize, &str)> {
    text.match_indices("%(").find_map(|(start, opening)| {
        let rest = &text[start + opening.len()..];
        let (name, after) = rest.split_once(')')?;
        (after.starts_with('s') && !name.is_empty()).then_some((start, name))
    })
}

impl Section {
    /// The keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(key, _)| key.as_str())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.keys.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, key: &str, value: String) {
        match self.keys.iter_mut().find(|(found, _)| found == key) {
            Some((_, earlier)) => *earlier = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }
}

/// The value of a key, which may go on in the next lines; `None` when its quotes are not closed.
fn read_value<'t>(written: &str, lines: &mut impl Iterator<Item = (usize, &'t str)>) -> Option<String> {
    for quote in QUOTES {
        let Some(rest) = written.strip_prefix(quote) else {
            continue;
        };
        if let Some((value, _)) = rest.rsplit_once(quote) {
            return Some(value.to_owned());
        }
        let mut value = format!("{rest}\n");
        for (_, line) in lines {
            if let Some((end, _)) = line.rsplit_once(quote) {
                value.push_str(end);
                return Some(value);
            }
            value.push_str(line);
            value.push('\n');
        }
        return None;
    }
    if let Some(first) = written.strip_suffix('\\') {
        let mut value = first.to_owned();
        for (_, line) in lines {
            let line = line.trim();
            match line.strip_suffix('\\') {
                Some(line) => value.push_str(line),
                None => {
                    value.push_str(line);
                    break;
                }
            }
        }
        return Some(value);
    }
    let value = written.split(['#', ';']).next().unwrap_or_default().trim();
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Some(unquoted.unwrap_or(value).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_grafana_reads_them() {
        let text = r##"
app_mode = production
; a comment
[server]
domain = grafana.example.com ; behind it
root_url: https://%(domain)s/%(serve_from)s
self = %(self)s
[auth.generic_oauth]
  enabled = true
client_secret = """a#b;c"d"""
scopes = "openid profile"
name = 'Log in'
empty =
path = contains(groups[*], 'a') && \
   'Admin' || \
   'Viewer'
lines = `one
two`
twice = first
[ server ]
http_port = 3000
[auth.generic_oauth]
twice = second
"##;
        let ini = Ini::parse(text).unwrap();
        let names: Vec<_> = ini.sections().iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, ["", "server", "auth.generic_oauth"]);
        let defaults = HashMap::from([("serve_from", "grafana"), ("domain", "localhost")]);
        for (section, key, expected) in [
            ("", "app_mode", Some("production")),
            ("server", "domain", Some("grafana.example.com")),
            ("server", "root_url", Some("https://grafana.example.com/grafana")),
            ("server", "http_port", Some("3000")),
            ("server", "self", Some("%(self)s")),
            ("server", "enabled", None),
            ("auth.generic_oauth", "enabled", Some("true")),
            ("auth.generic_oauth", "client_secret", Some("a#b;c\"d")),
            ("auth.generic_oauth", "scopes", Some("openid profile")),
            ("auth.generic_oauth", "name", Some("Log in")),
            ("auth.generic_oauth", "empty", None),
            ("auth.generic_oauth", "path", Some("contains(groups[*], 'a') && 'Admin' || 'Viewer'")),
            ("auth.generic_oauth", "lines", Some("one\ntwo")),
            ("auth.generic_oauth", "twice", Some("second")),
        ] {
            assert_eq!(ini.value(section, key, &defaults).as_deref(), expected, "{section} {key}");
        }
    }

    #[test]
    fn what_is_no_ini_file() {
        for (text, line) in [("a = b\nc\n", 2), ("[server\n", 1), ("\na = \"\"\"b\n", 2), ("a = `b", 1)] {
            assert_eq!(Ini::parse(text).map(|_| ()).map_err(|error| error.line), Err(line), "{text}");
        }
    }

    #[test]
    fn values_that_name_each_other_come_to_an_end() {
        let ini = Ini::parse("[a]\nb = %(c)s\nc = %(b)s%(b)s\n").unwrap();
        assert!(ini.value("a", "b", &HashMap::new()).is_some_and(|value| value.len() < 10_000));
    }
}
