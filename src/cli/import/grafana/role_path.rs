//! Grafana's `role_attribute_path` (JMESPath), in the shapes that people write: claims that hold or equal a text, each
//! with a role, the first that fits.

use crate::keys::Role;

/// The roles of people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePath {
    /// The first that fits counts.
    pub entries: Vec<RoleEntry>,
    /// The role of the others.
    pub fallback: Fallback,
    /// Whether a claim is compared whole somewhere: one that is a list fits there by none of its elements.
    pub compares_whole: bool,
}

/// People with a claim that is, or contains, one of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleEntry {
    /// The claim, as our `roles` write it.
    pub claim: String,
    /// The value that it must be or contain.
    pub values: Vec<String>,
    /// The role.
    pub role: Role,
    /// Whether a claim that is a text fits by a part of it, too.
    pub fits_parts: bool,
}

/// The role of people without a matching entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The path does not say.
    Unsaid,
    /// This role.
    Role(Role),
    /// `'None'`: no role.
    NoRole,
}

impl RolePath {
    /// Whether a person gets a higher role here, because a part of a text does not match.
    pub fn raises_a_role(&self, fallback: Option<Role>) -> bool {
        self.entries.iter().enumerate().any(|(index, entry)| {
            let later = self.entries[index + 1..].iter().map(|later| later.role).chain(fallback);
            entry.fits_parts && later.into_iter().any(|role| role > entry.role)
        })
    }
}

/// People do not write paths with more opening parentheses.
const MAX_PARENTHESES: usize = 100;

/// Reads a path; `None` when it does not have one of the shapes.
pub fn parse(text: &str) -> Option<RolePath> {
    if text.matches('(').count() > MAX_PARENTHESES {
        return None;
    }
    let mut parser = Parser::new(text);
    let mut path = RolePath { entries: Vec::new(), fallback: Fallback::Unsaid, compares_whole: false };
    loop {
        let alternative = parser.alternative()?;
        // Behind one that always fits nothing counts.
        if path.fallback == Fallback::Unsaid {
            match alternative {
                Alternative::Entries(mut entries) => path.entries.append(&mut entries),
                Alternative::Fallback(fallback) => path.fallback = fallback,
            }
        }
        if !parser.take("||") {
            break;
        }
    }
    path.compares_whole = parser.compares_whole;
    parser.rest.is_empty().then_some(path)
}

/// A path of names as our `members` and `roles` write it; `None` when it is more than that.
pub fn claim_path(text: &str) -> Option<String> {
    let mut parser = Parser::new(text);
    let (path, _) = parser.path()?;
    parser.rest.is_empty().then_some(path)
}

enum Alternative {
    Entries(Vec<RoleEntry>),
    Fallback(Fallback),
}

#[derive(Clone, Copy)]
struct Parser<'t> {
    rest: &'t str,
    compares_whole: bool,
}

/// The value that a claim must be or contain.
struct Condition {
    claim: String,
    value: String,
    fits_parts: bool,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        Self { rest: text.trim(), compares_whole: false }
    }

    /// Takes these characters, and the blanks behind them.
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.map_or(self.rest, str::trim_start);
        rest.is_some()
    }

    /// The text between two `||`.
    fn alternative(&mut self) -> Option<Alternative> {
        let mut attempt = *self;
        if let Some(conditions) = attempt.conditions()
            && attempt.take("&&")
        {
            *self = attempt;
            // A condition that takes the role away has no counterpart.
            let Fallback::Role(role) = self.role()? else {
                return None;
            };
            let mut entries: Vec<RoleEntry> = Vec::new();
            for Condition { claim, value, fits_parts } in conditions {
                match entries.iter_mut().find(|entry| entry.claim == claim) {
                    Some(entry) => {
                        entry.values.push(value);
                        entry.fits_parts |= fits_parts;
                    }
                    None => entries.push(RoleEntry { claim, values: vec![value], role, fits_parts }),
                }
            }
            return Some(Alternative::Entries(entries));
        }
        if self.rest.starts_with('\'') {
            return Some(Alternative::Fallback(self.role()?));
        }
        if self.rest.starts_with('(') {
            self.take("(");
            let alternative = self.alternative()?;
            return self.take(")").then_some(alternative);
        }
        let (claim, _) = self.path()?;
        self.compares_whole = true;
        let of = |values: &[&str], role| RoleEntry {
            claim: claim.clone(),
            values: values.iter().map(ToString::to_string).collect(),
            role,
            fits_parts: false,
        };
        Some(Alternative::Entries(vec![
            of(&["Admin", "admin", "GrafanaAdmin"], Role::Admin),
            of(&["Editor", "editor"], Role::Editor),
            of(&["Viewer", "viewer"], Role::Viewer),
        ]))
    }

    /// A condition, or several in parentheses of which one must hold.
    fn conditions(&mut self) -> Option<Vec<Condition>> {
        if !self.take("(") {
            return self.condition().map(|condition| vec![condition]);
        }
        let mut conditions = self.conditions()?;
        while self.take("||") {
            conditions.append(&mut self.conditions()?);
        }
        self.take(")").then_some(conditions)
    }

    /// `contains(PATH, 'VALUE')` or `PATH == 'VALUE'`.
    fn condition(&mut self) -> Option<Condition> {
        let mut call = *self;
        if call.take("contains") && call.take("(") {
            *self = call;
            let (claim, is_list) = self.path()?;
            if !self.take(",") {
                return None;
            }
            let value = self.text()?;
            return self.take(")").then_some(Condition { claim, value, fits_parts: !is_list });
        }
        let (claim, _) = self.path()?;
        if !self.take("==") {
            return None;
        }
        self.compares_whole = true;
        Some(Condition { claim, value: self.text()?, fits_parts: false })
    }

    /// Names with dots between them, and whether `[*]` or `[]` stands at the end.
    fn path(&mut self) -> Option<(String, bool)> {
        let mut path = self.name()?;
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            path.push('.');
            path.push_str(&self.name()?);
        }
        let is_list = self.take("[*]") || self.take("[]");
        self.rest = self.rest.trim_start();
        Some((path, is_list))
    }

    /// A name, with quotes or without.
    fn name(&mut self) -> Option<String> {
        if let Some(rest) = self.rest.strip_prefix('"') {
            let (name, rest) = rest.split_once('"')?;
            self.rest = rest;
            return (!name.is_empty() && !name.contains('\\')).then(|| name.to_owned());
        }
        let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let end = self.rest.find(|character| !is_part(character)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        let is_name = name.starts_with(|first: char| !first.is_ascii_digit());
        self.rest = rest;
        is_name.then(|| name.to_owned())
    }

    /// A text in single quotes.
    fn text(&mut self) -> Option<String> {
        let (text, rest) = self.rest.strip_prefix('\'')?.split_once('\'')?;
        self.rest = rest.trim_start();
        // JMESPath writes a quote within as \'.
        (!text.contains('\\')).then(|| text.to_owned())
    }

    /// A role in single quotes, in any case as Grafana reads it.
    fn role(&mut self) -> Option<Fallback> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "none" => Some(Fallback::NoRole),
            "grafanaadmin" | "admin" => Some(Fallback::Role(Role::Admin)),
            "editor" => Some(Fallback::Role(Role::Editor)),
            "viewer" => Some(Fallback::Role(Role::Viewer)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_have_a_counterpart() {
        let entry = |claim: &str, values: &[&str], role| RoleEntry {
            claim: claim.to_owned(),
            values: values.iter().map(ToString::to_string).collect(),
            role,
            fits_parts: false,
        };
        let by_part = |entry| RoleEntry { fits_parts: true, ..entry };
        let by_role = |claim: &str| {
            vec![
                entry(claim, &["Admin", "admin", "GrafanaAdmin"], Role::Admin),
                entry(claim, &["Editor", "editor"], Role::Editor),
                entry(claim, &["Viewer", "viewer"], Role::Viewer),
            ]
        };
        for (text, entries, fallback) in [
            (
                "contains(groups[*], 'admin') && 'Admin' || contains(groups[*], 'editor') && 'Editor' || 'Viewer'",
                vec![entry("groups", &["admin"], Role::Admin), entry("groups", &["editor"], Role::Editor)],
                Fallback::Role(Role::Viewer),
            ),
            (
                "contains(realm_access.roles, 'a b') && 'grafanaAdmin'",
                vec![by_part(entry("realm_access.roles", &["a b"], Role::Admin))],
                Fallback::Unsaid,
            ),
            (
                "(contains(groups[*],'a')||contains(groups[],'b')||login=='c')&&'Editor'||'None'",
                vec![entry("groups", &["a", "b"], Role::Editor), entry("login", &["c"], Role::Editor)],
                Fallback::NoRole,
            ),
            (
                "(contains(resource_access.\"my-app\".roles[*], 'a') && 'Admin') || ('Viewer')",
                vec![entry("resource_access.my-app.roles", &["a"], Role::Admin)],
                Fallback::Role(Role::Viewer),
            ),
            (
                "contains(\"https://example.com/groups\"[*], 'a') && 'Viewer'",
                vec![entry("https://example.com/groups", &["a"], Role::Viewer)],
                Fallback::Unsaid,
            ),
            ("role", by_role("role"), Fallback::Unsaid),
            ("info.role || 'Viewer'", by_role("info.role"), Fallback::Role(Role::Viewer)),
            ("'Editor' || contains(groups, 'a') && 'Admin'", vec![], Fallback::Role(Role::Editor)),
        ] {
            let compares_whole = text.contains("==") || text.contains("role ") || text == "role";
            assert_eq!(parse(text), Some(RolePath { entries, fallback, compares_whole }), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_text_raises_no_role() {
        for (text, fallback, raises) in [
            ("contains(email, '@a') && 'Viewer' || contains(groups[*], 'b') && 'Admin'", None, true),
            ("contains(email, '@a') && 'Viewer'", Some(Role::Editor), true),
            ("contains(email, '@a') && 'Viewer'", Some(Role::Viewer), false),
            (
                "contains(email, '@a') && 'Admin' || contains(groups[*], 'b') && 'Editor'",
                Some(Role::Viewer),
                false,
            ),
            ("contains(groups[*], 'b') && 'Viewer'", Some(Role::Admin), false),
        ] {
            assert_eq!(parse(text).unwrap().raises_a_role(fallback), raises, "{text}");
        }
    }

    #[test]
    fn shapes_that_have_none() {
        for text in [
            "",
            "contains(groups[*], 'a')",
            "contains(groups[*], 'a') && contains(groups[*], 'b') && 'Admin'",
            "contains(groups[*], 'a') && 'None' || 'Viewer'",
            "contains(groups[*], 'a') && 'Owner'",
            "contains(groups[*], 'a') || contains(groups[*], 'b') && 'Admin'",
            "!contains(groups[*], 'a') && 'Viewer'",
            "[login=='ada'][0] && 'GrafanaAdmin' || 'Viewer'",
            "roles[0]",
            "groups[?name=='a'] && 'Admin'",
            "to_string(a) == 'b' && 'Admin'",
            "contains(not_null(groups[*], ''), 'a') && 'Admin'",
            "email == `a` && 'Admin'",
            "starts_with(email, 'a') && 'Admin'",
            "contains(groups[*], 'it\\'s') && 'Admin'",
            "'Viewer' trailing",
            "((((",
            &"(".repeat(100_000),
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn paths_of_names() {
        for (text, expected) in [
            ("groups", Some("groups")),
            ("info.groups[*]", Some("info.groups")),
            ("\"a b\".c", Some("a b.c")),
            ("groups[0]", None),
            ("a || b", None),
            ("join('', a)", None),
            ("a.", None),
            ("", None),
        ] {
            assert_eq!(claim_path(text).as_deref(), expected, "{text}");
        }
    }
}
