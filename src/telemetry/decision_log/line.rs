//! One line of the log, as `tracing` writes its own: fields in their order, text quoted and escaped.

use std::io::Write;

use jiff::Timestamp;

use super::super::logging::LogFormat;

/// What a line takes as a rule.
const USUAL_LENGTH: usize = 512;

/// A line at info that is being written.
#[derive(Debug)]
pub(super) struct LogLine {
    format: LogFormat,
    target: &'static str,
    bytes: Vec<u8>,
}

impl LogLine {
    /// Begins with the time and the message.  Message and target, by which lines are found, are plain words.
    pub(super) fn begin(
        format: LogFormat,
        now: Timestamp,
        target: &'static str,
        message: &'static str,
    ) -> Self {
        let mut line = Self { format, target, bytes: Vec::with_capacity(USUAL_LENGTH) };
        match format {
            LogFormat::Json => {
                line.print(format_args!(r#"{{"timestamp":"{now:.6}","level":"INFO","message":"{message}""#));
            }
            LogFormat::Text => line.print(format_args!("{now:.6}  INFO {target}: {message}")),
        }
        line
    }

    /// A field that holds text.
    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        match self.format {
            LogFormat::Json => {
                self.name(name);
                serde_json::to_writer(&mut self.bytes, value).expect("text is always JSON");
            }
            LogFormat::Text => self.print(format_args!(" {name}={value:?}")),
        }
    }

    /// A field that holds a number.
    pub(super) fn number(&mut self, name: &'static str, value: i64) {
        match self.format {
            LogFormat::Json => {
                self.name(name);
                self.print(format_args!("{value}"));
            }
            LogFormat::Text => self.print(format_args!(" {name}={value}")),
        }
    }

    /// A field that is true; one that is false is left out.
    pub(super) fn flag(&mut self, name: &'static str) {
        match self.format {
            LogFormat::Json => {
                self.name(name);
                self.print(format_args!("true"));
            }
            LogFormat::Text => self.print(format_args!(" {name}=true")),
        }
    }

    /// The whole line, its end included.
    pub(super) fn end(mut self) -> Vec<u8> {
        match self.format {
            LogFormat::Json => {
                self.text("target", self.target);
                self.bytes.extend_from_slice(b"}\n");
            }
            LogFormat::Text => self.bytes.push(b'\n'),
        }
        self.bytes
    }

    fn name(&mut self, name: &str) {
        for part in [b",\"", name.as_bytes(), b"\":"] {
            self.bytes.extend_from_slice(part);
        }
    }

    fn print(&mut self, text: std::fmt::Arguments<'_>) {
        self.bytes.write_fmt(text).expect("a Vec takes every byte");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: LogFormat) -> String {
        let now = "2026-11-21T23:04:05.000607Z".parse().unwrap();
        let mut line = LogLine::begin(format, now, "decision", "allowed");
        line.text("policy", "Zoë's \"own\"\\");
        line.text("path", "/a\n\u{202e}");
        line.flag("redirected");
        line.number("duration_us", 12);
        String::from_utf8(line.end()).unwrap()
    }

    #[test]
    fn the_same_fields_stand_in_both_forms() {
        let json = written(LogFormat::Json);
        assert!(json.ends_with("}\n") && json.lines().count() == 1, "{json}");
        let expected = serde_json::json!({
            "timestamp": "2026-11-21T23:04:05.000607Z",
            "level": "INFO",
            "message": "allowed",
            "policy": "Zoë's \"own\"\\",
            "path": "/a\n\u{202e}",
            "redirected": true,
            "duration_us": 12,
            "target": "decision",
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected);
        assert_eq!(
            written(LogFormat::Text),
            "2026-11-21T23:04:05.000607Z  INFO decision: allowed policy=\"Zoë's \\\"own\\\"\\\\\" \
             path=\"/a\\n\\u{202e}\" redirected=true duration_us=12\n"
        );
    }
}
