//! The error responses of the admin API, in the words of the command line.

use http::StatusCode;
use serde::Deserialize;

use super::super::escape_controls;

/// Messages from Grafana's API, and their meaning here.
const IN_WORDS: &[(&str, &str)] = &[
    (
        "api_key Quota reached",
        "the limit of stored keys is reached: delete keys that are not used, or raise keys.max in the server's \
         configuration",
    ),
    ("Number of seconds before expiration should be set", "every key must have an expiry here"),
    ("Number of seconds before expiration is greater than the global limit", "the key would expire too late"),
];

/// A note that a name was found in another letter case.
pub fn spelling_note(what: &str, named: &str, name: &str, id: i64) -> String {
    let (named, name) = (escape_controls(named), escape_controls(name));
    format!("note: {named} is the {what} {name}, with the id {id}")
}

/// The arguments for members of a request, by the names of the members.
const ARGUMENTS: &[(&str, &str)] = &[
    ("secondsToLive", "--ttl"),
    ("overlapSeconds", "--overlap"),
    ("role", "--role"),
    ("policies", "--policy"),
    ("actor", "--actor"),
    ("description", "--description"),
    ("account", "--account"),
    ("expiringSeconds", "--expiring"),
    ("unusedSeconds", "--unused"),
    ("createdBy", "--created-by"),
    ("createdSince", "--created-since"),
    ("unusedForSeconds", "--unused-for"),
    ("namePattern", "--name-pattern"),
    ("action", "--action"),
    ("from", "--from"),
    ("to", "--to"),
];

/// The field of a detail that names the missing right of the caller.
const CALLER: &str = "caller";

/// Phrases of the API in problems, and their form on the command line.
const PROBLEMS: &[(&str, &str)] = &[
    (" (keys.max_seconds_to_live)", " seconds (keys.max_seconds_to_live)"),
    ("leave it out for a key that never expires", "--no-expiry makes one that never expires"),
];

/// An error response of the admin API.
#[derive(Debug)]
pub struct ApiAnswer {
    /// The message of the API, without control characters.
    pub message: String,
    /// The members at fault.
    pub details: Vec<ApiDetail>,
    /// The status, which is not 2xx.
    pub status: StatusCode,
    /// The credential that the API rejects, for people.
    pub rejected: Option<String>,
}

/// A member of a request that is at fault.
#[derive(Debug, Deserialize)]
pub struct ApiDetail {
    field: String,
    problem: String,
}

impl ApiAnswer {
    /// The text for a user who wrote arguments.
    pub fn in_words_of_the_command_line(&self) -> String {
        let argument = |field: &str| {
            let found = ARGUMENTS.iter().find(|(member, _)| *member == field);
            found.map_or_else(|| field.to_owned(), |(_, argument)| (*argument).to_owned())
        };
        let in_words = |problem: String| {
            PROBLEMS.iter().fold(problem, |problem, (theirs, ours)| problem.replace(theirs, ours))
        };
        self.text(self.details.iter().map(|ApiDetail { field, problem }| {
            let problem = in_words(without_field(field, problem).to_owned());
            // What the caller lacks is no argument.
            if field == CALLER { problem } else { format!("{}: {problem}", argument(field)) }
        }))
    }

    /// The text for a user who wrote the members.
    pub fn in_words_of_the_api(&self) -> String {
        let details = self.details.iter();
        self.text(details.map(|ApiDetail { field, problem }| match without_field(field, problem) {
            problem if field == CALLER => problem.to_owned(),
            problem => format!("{field}: {problem}"),
        }))
    }

    /// The number of the line that is at fault, from 1, where a body of lines was sent, and what is wrong with it.
    pub fn line(&self) -> Option<(usize, String)> {
        let [ApiDetail { field, problem }] = self.details.as_slice() else { return None };
        let (number, problem) = problem.strip_prefix("line ")?.split_once(": ")?;
        let number = number.parse().ok()?;
        // A line without a member at fault has the message alone.
        let detail = match field.as_str() {
            "line" => None,
            CALLER => Some(problem.to_owned()),
            field => Some(format!("{field}: {}", without_field(field, problem))),
        };
        Some((number, self.text(detail.into_iter())))
    }

    fn text(&self, details: impl Iterator<Item = String>) -> String {
        let in_words = IN_WORDS.iter().find(|(theirs, _)| *theirs == self.message);
        let message = in_words.map_or(self.message.as_str(), |(_, ours)| *ours);
        let details: String = details.map(|detail| format!("; {}", escape_controls(&detail))).collect();
        let rejected = self.rejected.as_ref().map(|credential| format!(": the server rejects {credential}"));
        format!("{message}{details} ({}){}", self.status.as_u16(), rejected.unwrap_or_default())
    }
}

/// The problem without the name of the member, which some say themselves.
fn without_field<'p>(field: &str, problem: &'p str) -> &'p str {
    problem.strip_prefix(field).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(message: &str, details: &[(&str, &str)]) -> ApiAnswer {
        let detail = |(field, problem): &(&str, &str)| ApiDetail {
            field: (*field).to_owned(),
            problem: (*problem).to_owned(),
        };
        ApiAnswer {
            message: message.to_owned(),
            details: details.iter().map(detail).collect(),
            status: StatusCode::BAD_REQUEST,
            rejected: None,
        }
    }

    #[test]
    fn members_of_a_request_are_called_as_their_arguments() {
        let life = ("secondsToLive", "expected at most 3600 (keys.max_seconds_to_live)");
        let long = answer("bad request data", &[life, ("role", "role: expected Viewer, Editor or Admin")]);
        assert_eq!(
            long.in_words_of_the_command_line(),
            "bad request data; --ttl: expected at most 3600 seconds (keys.max_seconds_to_live); \
             --role: expected Viewer, Editor or Admin (400)"
        );
        assert_eq!(
            long.in_words_of_the_api(),
            "bad request data; secondsToLive: expected at most 3600 (keys.max_seconds_to_live); \
             role: expected Viewer, Editor or Admin (400)"
        );
        let low =
            answer("Permission denied", &[("caller", "this needs the role Admin, and you have no role")]);
        for text in [low.in_words_of_the_command_line(), low.in_words_of_the_api()] {
            assert_eq!(text, "Permission denied; this needs the role Admin, and you have no role (400)");
        }
        let full = answer("api_key Quota reached", &[]).in_words_of_the_command_line();
        assert!(full.contains("raise keys.max in"), "{full}");
        assert_eq!(answer("a", &[("b", "c\u{1b}")]).in_words_of_the_command_line(), "a; b: c\\u{1b} (400)");
    }

    #[test]
    fn the_line_at_fault_is_reported_with_its_problem() {
        let line = |field: &str, problem: &str| answer("a message", &[(field, problem)]).line();
        assert_eq!(line("name", "line 7: taken: x"), Some((7, "a message; name: taken: x (400)".to_owned())));
        assert_eq!(line("line", "line 12: a message"), Some((12, "a message (400)".to_owned())));
        assert_eq!(line("lines", "has more than 1000 lines"), None);
        assert_eq!(answer("a message", &[]).line(), None);
    }
}
