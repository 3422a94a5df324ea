//! Times: how people write them, and how they are shown to people.

use jiff::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::clock::parse_time_or_day;

/// A span of time such as `12h`, in seconds, by the syntax of the admin page.
pub(super) fn parse_seconds(text: &str) -> Result<i64, &'static str> {
    const SYNTAX: &str = "write one whole number and one of s m h d w M y, such as 12h";
    if text.starts_with('-') {
        return Err(
            "a span of time is not negative: write one whole number and one of s m h d w M y, such as 12h",
        );
    }
    let unit = text.chars().next_back().ok_or(SYNTAX)?;
    let length = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        'M' => 2_592_000,
        'y' => 31_536_000,
        _ => return Err(SYNTAX),
    };
    let count = &text[..text.len() - unit.len_utf8()];
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SYNTAX);
    }
    let seconds = count.parse::<i64>().ok().and_then(|count| count.checked_mul(length));
    match seconds {
        None => Err("that is too long"),
        Some(0) => Err("a span of time is longer than nothing: write 1s or more"),
        Some(seconds) => Ok(seconds),
    }
}

/// How long a key works, in seconds: a span of time.
pub(super) fn parse_life(text: &str) -> Result<i64, &'static str> {
    let is_nothing = text.starts_with('0') && text[1..].trim_start_matches('0').chars().count() <= 1;
    match parse_seconds(text) {
        Err(_) if is_nothing => Err("a key works for 1s or more; --no-expiry makes one that never expires"),
        parsed => parsed,
    }
}

/// An instant: RFC 3339, a day such as `2026-11-30`, which begins at midnight UTC, or a span such as `7d` before now.
pub(super) fn parse_instant(text: &str) -> Result<Timestamp, &'static str> {
    instant(text, Timestamp::now())
}

fn instant(text: &str, now: Timestamp) -> Result<Timestamp, &'static str> {
    const SYNTAX: &str =
        "write a day such as 2026-11-30, a time such as 2026-11-30T12:00:00Z, or how long ago, such as 7d";
    if let Some(at) = parse_time_or_day(text) {
        return Ok(at);
    }
    let seconds = parse_seconds(text).map_err(|_| SYNTAX)?;
    let at = now.as_second().checked_sub(seconds).and_then(|second| Timestamp::from_second(second).ok());
    at.ok_or("that is too long ago")
}

/// A time as the admin API writes it: RFC 3339.
pub(super) fn timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

/// A time for people, in UTC.
pub(super) fn absolute_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A time for people, in UTC, with the distance to now.
pub(super) fn time_and_distance(now: Timestamp, at: Timestamp) -> String {
    format!("{} ({})", absolute_time(at), relative_time(now, at))
}

/// `in 3 days`, `2 minutes ago`: rounded to the largest unit of which there is at least one.
pub(super) fn relative_time(now: Timestamp, at: Timestamp) -> String {
    const UNITS: [(&str, u64, u64); 6] = [
        ("second", 1, 60),
        ("minute", 60, 60),
        ("hour", 3_600, 24),
        ("day", 86_400, 30),
        ("month", 2_629_800, 12),
        ("year", 31_557_600, u64::MAX),
    ];
    let seconds = at.as_second() - now.as_second();
    let away = seconds.unsigned_abs();
    if away == 0 {
        return "now".to_owned();
    }
    let counts = UNITS.map(|(unit, length, limit)| (unit, (away + length / 2) / length, limit));
    let (unit, count, _) =
        counts.into_iter().find(|(_, count, limit)| count < limit).unwrap_or(("year", 0, 0));
    let plural = if count == 1 { "" } else { "s" };
    if seconds > 0 { format!("in {count} {unit}{plural}") } else { format!("{count} {unit}{plural} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_one_whole_number_and_one_unit() {
        for (text, expected) in [
            ("1s", 1),
            ("30m", 1_800),
            ("12h", 43_200),
            ("1d", 86_400),
            ("2w", 1_209_600),
            ("3M", 7_776_000),
            ("1y", 31_536_000),
            ("007d", 604_800),
        ] {
            assert_eq!(parse_seconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "1",
            "d",
            "0d",
            "000s",
            "-1d",
            "+1d",
            "1.5d",
            "1 d",
            " 1d",
            "1d ",
            "1d12h",
            "1D",
            "1e3s",
            "١d",
            "1日",
            "99999999999999999999s",
            "9223372036854775807y",
        ] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_instant_is_a_day_a_time_or_a_span_ago() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("2026-11-30", "2026-11-30T00:00:00Z"),
            ("2026-11-30T12:00:00+02:00", "2026-11-30T10:00:00Z"),
            ("2026-11-30T12:00:00.5Z", "2026-11-30T12:00:00.5Z"),
            ("7d", "2026-11-23T12:00:00Z"),
            ("1h", "2026-11-30T11:00:00Z"),
        ] {
            assert_eq!(instant(text, now).map(|at| at.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "now", "30.11.2026", "2026-11-30T12:00:00", "2026-13-01", "7", "100000y"] {
            assert!(instant(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn distances_are_rounded_to_the_greatest_unit() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for (away, expected) in [
            (0, "now"),
            (1, "in 1 second"),
            (59, "in 59 seconds"),
            (60, "in 1 minute"),
            (-3_599, "1 hour ago"),
            (259_199, "in 3 days"),
            (-86_400, "1 day ago"),
            (86_400 * 90, "in 3 months"),
            (31_536_000, "in 1 year"),
            (31_557_600 * 7_000, "in 7000 years"),
        ] {
            let at = Timestamp::from_second(now.as_second() + away).expect("a time before the year 10,000");
            assert_eq!(relative_time(now, at), expected, "{away}");
        }
    }
}
