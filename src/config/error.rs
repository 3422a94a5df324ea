//! What is wrong with a configuration, told so that somebody at three in the morning can act on it.
//!
//! A [`Diagnostic`] names the file, the line, the key and what was expected, and shows the line.
//! What it shows has been through [`redact`](super::redact): no secret's value stands in it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is denied.
    Error,
    /// The configuration is loaded; somebody should look all the same.
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

/// Where in the file: both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// The line at fault, with everything masked that could be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownLine {
    /// The masked text, without a line ending.
    pub text: String,
    /// How many characters of it stand before the place at fault.
    pub caret: usize,
}

/// One thing that is wrong, or looks wrong, in a configuration.
///
/// `Display` renders it the way rustc does.  No part of it holds a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the configuration is denied for it.
    pub severity: Severity,
    /// The configuration's file.
    pub file: Arc<Path>,
    /// Where in the file; `None` when the file as a whole is meant.
    pub position: Option<Position>,
    /// The path of the key, such as `tokens[0].actor.role`; empty for the file as a whole.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
    /// The line at fault.
    pub shown: Option<ShownLine>,
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
            shown: None,
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
        let Some(shown) = self.shown.as_ref().filter(|shown| !shown.text.is_empty()) else {
            return Ok(());
        };
        let indent = " ".repeat(shown.caret);
        write!(formatter, "\n{margin} |\n{number} | {}\n{margin} | {indent}^", shown.text)
    }
}

/// Everything that is wrong with a configuration, in the order of its lines.
///
/// There is at least one error in it.  Warnings stand among the errors, so that one look shows all there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// Sorts the diagnostics by line.
    pub fn new(mut diagnostics: Vec<Diagnostic>) -> Self {
        // The sort is stable: what shares a place stays in the order in which it was found.
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
