//! Diagnostics: the problems of a configuration, their positions, and the values to write instead.
//!
//! A [`Diagnostic`] names the file, the line and the key, and shows the line after [`redact`](super::redact) has masked
//! the secrets in it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is denied.
    Error,
    /// The configuration is loaded, but may not mean what its author wants.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A position in the file: line and column from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// The line of an error, with everything masked that could be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactedLine {
    /// The masked text, without a line ending.
    pub text: String,
    /// The number of characters before the error.
    pub caret: usize,
}

/// One thing that is wrong, or looks wrong, in a configuration.
///
/// `Display` renders it the way rustc does.  No part of it holds a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it keeps the configuration from being loaded.
    pub severity: Severity,
    /// The configuration's file.
    pub file: Arc<Path>,
    /// The position in the file; `None` when it is about the file as a whole.
    pub position: Option<Position>,
    /// The path of the key, such as `tokens[0].actor.role`; empty for the file as a whole.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
    /// The line of the error.
    pub line: Option<RedactedLine>,
}

impl Diagnostic {
    /// An error about the file as a whole.
    pub fn about_file(file: &Path, message: String) -> Self {
        Self {
            severity: Severity::Error,
            file: file.into(),
            position: None,
            key: String::new(),
            message,
            line: None,
        }
    }

    /// The file, the line and the column, as compilers write them.
    pub fn place(&self) -> String {
        match self.position {
            Some(Position { line, column }) => format!("{}:{line}:{column}", self.file.display()),
            None => self.file.display().to_string(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.message)?;
        let file = self.file.display();
        let Some(Position { line, column }) = self.position else {
            return write!(formatter, "\n --> {file}");
        };
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        write!(formatter, "\n{margin}--> {file}:{line}:{column}")?;
        let Some(redacted) = self.line.as_ref().filter(|line| !line.text.is_empty()) else {
            return Ok(());
        };
        let indent = " ".repeat(redacted.caret);
        write!(formatter, "\n{margin} |\n{number} | {}\n{margin} | {indent}^", redacted.text)
    }
}

/// All diagnostics of a configuration that is not valid, in the order of its lines.
///
/// At least one is an error.  Warnings are included, so that one run shows everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// Sorts the diagnostics by line.
    pub fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        // The sort is stable: diagnostics of one position keep their order.
        diagnostics.sort_by_key(|diagnostic| diagnostic.position);
        Self(diagnostics)
    }

    /// Every diagnostic, by line.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Diagnostic> for Errors {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n\n" };
            write!(formatter, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
