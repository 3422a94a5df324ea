//! An explanation for people.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

use serde_json::Value;

use super::explanation::{ComparedRoute, Explanation, KeyPosition, SelectedBy, Step};

/// The maximum number of shown routes that do not match.
const MOST_ROUTES: usize = 20;

impl Display for Explanation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut lines = RowWriter { formatter, file: &self.configuration };
        lines.request(self)?;
        lines.selection(self)?;
        for location in self.locations.iter().filter(|location| location.carries != "not_asked") {
            lines.line(
                "location",
                &format!("{}: {}", location.location, location.carries.replace('_', " ")),
                Some(&location.at),
            )?;
        }
        lines.step("identity", &self.identity)?;
        if let Some(credential) = &self.credential {
            let policies =
                credential.policies.as_ref().map(|names| format!(", only under {}", names.join(", ")));
            let text = format!("{} {}{}", credential.kind, credential.name, policies.unwrap_or_default());
            lines.line("credential", &text, None)?;
        }
        lines.value("actor", self.actor.as_ref())?;
        lines.value("allow", self.allow.as_ref())?;
        if let Some(admission) = &self.admission {
            lines.step("admission", admission)?;
        }
        lines.line("decision", self.decision, None)?;
        lines.line("reason", self.reason, None)?;
        lines.value("passes as", self.passes_as.as_ref())?;
        if let Some(redirect) = &self.redirect {
            lines.step("redirect", redirect)?;
        }
        lines.answer(self)?;
        if let Some(logged) = &self.logged {
            lines.line("log", &logged.says, None)?;
        }
        self.notes.iter().try_for_each(|note| lines.line("note", note, None))
    }
}

/// The text with its control characters written out: what a client sent must not command a terminal, nor begin
/// a line of its own.
fn printable(text: &str) -> Cow<'_, str> {
    let is_unseen = |character: char| {
        // Those that turn the direction of what follows, or end a line.
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unseen(character) {
            written.extend(character.escape_default());
        } else {
            written.push(character);
        }
    }
    Cow::Owned(written)
}

pub(super) struct RowWriter<'f, 'b> {
    pub(super) formatter: &'f mut Formatter<'b>,
    pub(super) file: &'f str,
}

impl RowWriter<'_, '_> {
    pub(super) fn line(&mut self, title: &str, text: &str, at: Option<&KeyPosition>) -> fmt::Result {
        write!(self.formatter, "{title:<12} {}", printable(text))?;
        match at {
            Some(KeyPosition { line: Some(line), column: Some(column), .. }) => {
                writeln!(self.formatter, "  ({}:{line}:{column})", self.file)
            }
            Some(KeyPosition { key, .. }) => writeln!(self.formatter, "  (the default of `{key}`)"),
            None => writeln!(self.formatter),
        }
    }

    pub(super) fn value(&mut self, title: &str, value: Option<&Value>) -> fmt::Result {
        match value {
            None => Ok(()),
            Some(Value::String(text)) => self.line(title, text, None),
            Some(other) => self.line(title, &other.to_string(), None),
        }
    }

    fn step(&mut self, title: &str, step: &Step) -> fmt::Result {
        self.line(title, &step.says, step.at.as_ref())
    }

    fn request(&mut self, explanation: &Explanation) -> fmt::Result {
        let request = &explanation.request;
        self.line("request", &format!("{} {} {}", request.method, request.host, request.path), None)?;
        if !request.headers.is_empty() {
            self.line("headers", &request.headers.join(", "), None)?;
        }
        let selection = &explanation.selection;
        if selection.host.is_some() || selection.path.is_some() {
            let compared = [selection.host.as_deref(), selection.path.as_deref()];
            let compared: Vec<_> = compared.into_iter().flatten().collect();
            self.line("compared", &compared.join(" "), None)?;
        }
        Ok(())
    }

    fn selection(&mut self, explanation: &Explanation) -> fmt::Result {
        let selection = &explanation.selection;
        let differing = selection.routes.iter().filter(|route| !route.matches).count();
        let hidden = differing.saturating_sub(MOST_ROUTES);
        if hidden > 0 {
            self.line("route", &format!("the first {hidden} routes do not match"), None)?;
        }
        for ComparedRoute { at, differs, .. } in &selection.routes[hidden..] {
            let says = match differs {
                Some(what) => format!("{} does not match: another {what}", at.key),
                None => format!("{} matches", at.key),
            };
            self.line("route", &says, Some(at))?;
        }
        let by = match selection.by {
            SelectedBy::Preflight => "none is needed for a CORS preflight",
            SelectedBy::Nothing => "none could be selected",
            SelectedBy::ContextExtensions => "named by Envoy's route",
            SelectedBy::Route => "of the route that matches",
            SelectedBy::Default => "no route matches",
        };
        let text = match &explanation.policy {
            Some(policy) => format!("{policy}: {by}"),
            None => by.to_owned(),
        };
        self.line("policy", &text, selection.at.as_ref())
    }

    fn answer(&mut self, explanation: &Explanation) -> fmt::Result {
        let answer = &explanation.answer;
        if let Some(status) = answer.status {
            self.line("status", &status.to_string(), None)?;
        }
        let lists = [
            ("header", &answer.headers),
            ("sets", &answer.set_headers),
            ("removes", &answer.remove_headers),
            ("removes ?", &answer.remove_query_parameters),
            ("answers", &answer.set_response_headers),
        ];
        for (title, items) in lists {
            items.iter().try_for_each(|item| self.line(title, item, None))?;
        }
        if let Some(body) = answer.body.as_ref().filter(|body| !body.is_empty()) {
            self.line("body", body, None)?;
        }
        self.value("metadata", Some(&answer.metadata))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_sent_commands_a_terminal() {
        assert_eq!(printable("/Zoë \"x\""), "/Zoë \"x\"");
        assert_eq!(printable("/x\u{1b}[31m\n\u{9b}2J\u{202e}"), "/x\\u{1b}[31m\\n\\u{9b}2J\\u{202e}");
    }
}
