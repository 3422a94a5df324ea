//! The requests of `keys import`: which lines of a file each has, and what is said of one that fails.

use std::fmt;
use std::io::{self, BufRead};

use serde_json::{Map, Value};

use super::super::{AdminApiError, Input};

/// The most lines of one request.
const MAX_LINES: usize = 1000;
/// The most bytes of one request.
const MAX_BYTES: usize = 1024 * 1024;

/// The lines of one request, which the server takes whole or not at all.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// The lines, each with its line ending.
    pub text: String,
    /// Their numbers in the file, from 1: empty lines are left out.
    pub lines: Vec<usize>,
}

/// Why a file cannot be parted.
#[derive(Debug)]
pub enum PartError {
    /// It cannot be read.
    Unreadable(io::Error),
    /// A line cannot be sent.
    Line {
        /// From 1.
        line: usize,
        /// The problem.
        problem: LineProblem,
    },
}

/// Why a line cannot be sent; the text goes on behind the line's number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// It is not a JSON object.
    #[error("is not a JSON object: {0}")]
    NoObject(String),
    /// It is longer than a request may be.
    #[error("is longer than a request may be")]
    TooLong,
}

/// Parts the lines, all of which are looked at before any is sent.
///
/// # Errors
/// [`PartError`]: a line cannot be read, or cannot be sent.
pub fn part(lines: impl BufRead) -> Result<Vec<Batch>, PartError> {
    let mut batches: Vec<Batch> = Vec::new();
    for (index, line) in lines.lines().enumerate() {
        let (line, number) = (line.map_err(PartError::Unreadable)?, index + 1);
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        check(line).map_err(|problem| PartError::Line { line: number, problem })?;
        let fits = |batch: &Batch| batch.lines.len() < MAX_LINES && batch.text.len() + line.len() < MAX_BYTES;
        match batches.last_mut().filter(|batch| fits(batch)) {
            Some(batch) => {
                batch.text.push_str(line);
                batch.lines.push(number);
            }
            None => batches.push(Batch { text: line.to_owned(), lines: vec![number] }),
        }
        if let Some(batch) = batches.last_mut() {
            batch.text.push('\n');
        }
    }
    Ok(batches)
}

fn check(line: &str) -> Result<(), LineProblem> {
    let object: Result<Map<String, Value>, _> = serde_json::from_str(line);
    if let Err(error) = object {
        let text = error.to_string();
        // The parser counts lines from the beginning of this one.
        let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
        return Err(LineProblem::NoObject(format!("{problem}, in column {}", error.column())));
    }
    if line.len() >= MAX_BYTES { Err(LineProblem::TooLong) } else { Ok(()) }
}

/// A request that fails.
#[derive(Debug)]
pub struct FailedBatch {
    /// The file that its lines stand in.
    pub file: Input,
    /// Their numbers in the file.
    pub lines: Vec<usize>,
    /// How many keys were imported by the requests before.
    pub imported: u64,
    /// Why it fails.
    pub source: AdminApiError,
}

impl FailedBatch {
    /// The line that the API finds at fault, by its number in the file, and what is wrong with it.
    fn line_at_fault(&self) -> Option<(usize, String)> {
        let (number, problem) = self.source.answer()?.line()?;
        let line = self.lines.get(number.checked_sub(1)?)?;
        Some((*line, problem))
    }
}

impl fmt::Display for FailedBatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, lines, imported, source } = self;
        match (self.line_at_fault(), source.answer()) {
            (Some((line, problem)), _) => writeln!(formatter, "{file}, line {line}: {problem}")?,
            (None, Some(answer)) => writeln!(formatter, "{file}: {}", answer.in_words_of_the_api())?,
            (None, None) => writeln!(formatter, "{file}: {source}")?,
        }
        let (first, last) = (lines.first().unwrap_or(&0), lines.last().unwrap_or(&0));
        if source.may_be_done() {
            write!(formatter, "Whether lines {first} to {last} are imported is not known: see `keys list`.")?;
        } else if *imported == 0 {
            formatter.write_str("No key is imported")?;
            return if first == last {
                formatter.write_str(".")
            } else {
                write!(
                    formatter,
                    ": lines {first} to {last} are one request, which is taken whole or not at all."
                )
            };
        } else {
            write!(
                formatter,
                "Lines {first} to {last}, which are one request, and all lines behind them are not imported."
            )?;
        }
        match imported {
            0 => Ok(()),
            1 => write!(formatter, " The 1 key of the lines before is imported."),
            _ => write!(formatter, " The {imported} keys of the lines before are imported."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(text: &str) -> Result<Vec<Batch>, (usize, String)> {
        part(text.as_bytes()).map_err(|error| match error {
            PartError::Line { line, problem } => (line, problem.to_string()),
            PartError::Unreadable(source) => panic!("{source}"),
        })
    }

    #[test]
    fn lines_are_parted_by_what_a_request_may_hold() {
        assert_eq!(parted("\n\n"), Ok(Vec::new()));
        let few = parted("{\"name\":\"a\"}\n\n {\"name\":\"b\"} \r\n").expect("two lines");
        let text = "{\"name\":\"a\"}\n{\"name\":\"b\"}\n".to_owned();
        assert_eq!(few, [Batch { text, lines: vec![1, 3] }]);
        let many = parted(&"{}\n".repeat(2500)).expect("many lines");
        let numbers: Vec<Vec<usize>> = many.into_iter().map(|batch| batch.lines).collect();
        assert_eq!(
            numbers,
            [(1..=1000).collect::<Vec<_>>(), (1001..=2000).collect(), (2001..=2500).collect()]
        );
        let long = format!("{{\"name\":\"{}\"}}\n", "a".repeat(MAX_BYTES / 2));
        let batches = parted(&long.repeat(3)).expect("long lines");
        assert!(batches.len() == 3 && batches.iter().all(|batch| batch.text.len() <= MAX_BYTES));
    }

    #[test]
    fn a_line_that_is_no_object_is_named() {
        for (text, number) in [("{}\n[]\n", 2), ("{\n", 1), ("\n{} {}\n", 2)] {
            let (line, problem) = parted(text).expect_err(text);
            assert_eq!(line, number, "{text}");
            assert!(problem.starts_with("is not a JSON object: ") && !problem.contains("line"), "{problem}");
        }
        let long = format!("{{}}\n{{\"name\":\"{}\"}}\n", "a".repeat(MAX_BYTES));
        assert_eq!(parted(&long), Err((2, "is longer than a request may be".to_owned())));
    }
}
