//! The span that caused a request, by its headers: W3C Trace Context, else B3.

use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use super::super::traceparent::{self, Traceparent};

/// What a request says of the trace that it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub enum Parent {
    /// The span that caused it, and whether that one is sampled.
    Span(SpanContext),
    /// Its trace is not sampled, and has no name (B3's `0`).
    Unsampled,
}

/// The parent that these headers name: `traceparent` with `tracestate`, else `b3`, else `x-b3-…`.
/// Headers that break their format count as absent.
pub fn parent<'a>(header: impl Fn(&'static str) -> Option<&'a [u8]>) -> Option<Parent> {
    w3c(&header).or_else(|| b3_single(header("b3")?)).or_else(|| b3_multiple(&header))
}

/// W3C Trace Context.
fn w3c<'a>(header: &impl Fn(&'static str) -> Option<&'a [u8]>) -> Option<Parent> {
    let Traceparent { trace_id, parent_id, sampled } = traceparent::parse(header("traceparent")?)?;
    let state = header("tracestate").and_then(|state| std::str::from_utf8(state).ok());
    let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    span_context(id(trace_id.as_bytes(), 32)?, id(parent_id.as_bytes(), 16)?, sampled, state)
}

/// B3, "Single Header": `{trace}-{span}[-{sampled}[-{parent}]]`, or only `{sampled}`.
fn b3_single(text: &[u8]) -> Option<Parent> {
    if text == b"0" {
        return Some(Parent::Unsampled);
    }
    let mut fields = text.split(|&byte| byte == b'-');
    let (trace, span) = (b3_trace(fields.next()?)?, id(fields.next()?, 16)?);
    let sampled = b3_sampled(fields.next())?;
    if let Some(parent) = fields.next() {
        id(parent, 16)?;
    }
    if fields.next().is_some() {
        return None;
    }
    span_context(trace, span, sampled, TraceState::default())
}

/// B3, "Multiple Headers".
fn b3_multiple<'a>(header: &impl Fn(&'static str) -> Option<&'a [u8]>) -> Option<Parent> {
    let sampled = match header("x-b3-flags") {
        Some(b"1") => true,
        Some(_) | None => b3_sampled(header("x-b3-sampled"))?,
    };
    let Some(trace) = header("x-b3-traceid") else {
        return (!sampled).then_some(Parent::Unsampled);
    };
    span_context(b3_trace(trace)?, id(header("x-b3-spanid")?, 16)?, sampled, TraceState::default())
}

/// Whether B3 says that the trace is sampled: `d` is debug, and no word leaves it to us, who do.
fn b3_sampled(text: Option<&[u8]>) -> Option<bool> {
    match text {
        None | Some(b"1" | b"d" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        Some(_) => None,
    }
}

/// A trace's number may have 64 bits, which are the lower ones.
fn b3_trace(text: &[u8]) -> Option<u128> {
    id(text, 32).or_else(|| id(text, 16))
}

fn span_context(trace: u128, span: u128, sampled: bool, state: TraceState) -> Option<Parent> {
    let span = SpanId::from(u64::try_from(span).ok()?);
    let flags = TraceFlags::default().with_sampled(sampled);
    Some(Parent::Span(SpanContext::new(TraceId::from(trace), span, flags, true, state)))
}

/// A number other than 0.
fn id(text: &[u8], digits: usize) -> Option<u128> {
    hex(text, digits).filter(|&id| id != 0)
}

/// A number of exactly so many hexadecimal digits in lower case.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits || !text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parent_of(headers: &[(&'static str, &str)]) -> Option<Parent> {
        let find = |name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes());
        parent(find)
    }

    /// The trace, the span and whether it is sampled.
    fn parsed(headers: &[(&'static str, &str)]) -> Option<(String, String, bool)> {
        match parent_of(headers)? {
            Parent::Span(context) => {
                assert!(context.is_valid() && context.is_remote());
                Some((context.trace_id().to_string(), context.span_id().to_string(), context.is_sampled()))
            }
            Parent::Unsampled => panic!("{headers:?} names no span"),
        }
    }

    fn this(sampled: bool) -> Option<(String, String, bool)> {
        Some((TRACE.to_owned(), SPAN.to_owned(), sampled))
    }

    #[test]
    fn w3c_names_the_parent_and_counts_as_absent_when_it_breaks_its_format() {
        let w3c = |value: &str| parsed(&[("traceparent", value)]);
        assert_eq!(w3c(&format!("00-{TRACE}-{SPAN}-01")), this(true));
        assert_eq!(w3c(&format!("00-{TRACE}-{SPAN}-00")), this(false));
        assert_eq!(parent_of(&[("traceparent", &format!("00-{TRACE}-{SPAN}-1"))]), None);
    }

    #[test]
    fn the_state_of_a_trace_is_kept_and_a_broken_one_is_not() {
        let state = |state: &str| {
            let headers = [("traceparent", &*format!("00-{TRACE}-{SPAN}-01")), ("tracestate", state)];
            match parent_of(&headers) {
                Some(Parent::Span(context)) => context.trace_state().header(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(state("congo=t61rcWkgMzE,rojo=1"), "congo=t61rcWkgMzE,rojo=1");
        assert_eq!(state("congo"), "");
    }

    #[test]
    fn b3_in_one_header_names_the_parent() {
        let b3 = |value: &str| parsed(&[("b3", value)]);
        assert_eq!(b3(&format!("{TRACE}-{SPAN}-1")), this(true));
        assert_eq!(b3(&format!("{TRACE}-{SPAN}-d")), this(true));
        assert_eq!(b3(&format!("{TRACE}-{SPAN}-0")), this(false));
        assert_eq!(b3(&format!("{TRACE}-{SPAN}")), this(true), "it is left to us");
        assert_eq!(b3(&format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90")), this(true));
        let padded = b3(&format!("8448eb211c80319c-{SPAN}-1")).unwrap();
        assert_eq!(padded.0, "00000000000000008448eb211c80319c");
        assert_eq!(parent_of(&[("b3", "0")]), Some(Parent::Unsampled));
    }

    #[test]
    fn b3_in_one_header_that_breaks_its_format_counts_as_absent() {
        for value in [
            "",
            "1",
            "d",
            "-",
            TRACE,
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-"),
            &format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90-"),
            &format!("{TRACE}-0000000000000000-1"),
            &format!("0{TRACE}-{SPAN}-1"),
        ] {
            assert_eq!(parent_of(&[("b3", value)]), None, "{value:?}");
        }
    }

    #[test]
    fn b3_in_several_headers_names_the_parent() {
        let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        let with = |more: (&'static str, &'static str)| parsed(&[ids[0], ids[1], more]);
        assert_eq!(parsed(&ids), this(true), "it is left to us");
        assert_eq!(with(("x-b3-sampled", "1")), this(true));
        assert_eq!(with(("x-b3-sampled", "true")), this(true));
        assert_eq!(with(("x-b3-sampled", "0")), this(false));
        assert_eq!(with(("x-b3-flags", "1")), this(true));
        assert_eq!(with(("x-b3-parentspanid", "05e3ac9a4f6e3b90")), this(true));
        assert_eq!(parent_of(&[("x-b3-sampled", "0")]), Some(Parent::Unsampled));
        for headers in [
            &[("x-b3-sampled", "1")][..],
            &[("x-b3-traceid", TRACE)],
            &[("x-b3-spanid", SPAN)],
            &[ids[0], ids[1], ("x-b3-sampled", "perhaps")],
            &[],
        ] {
            assert_eq!(parent_of(headers), None, "{headers:?}");
        }
    }

    #[test]
    fn w3c_goes_before_b3_and_one_header_before_several() {
        let other = "11111111111111111111111111111111";
        let w3c = ("traceparent", &*format!("00-{TRACE}-{SPAN}-01"));
        let single = ("b3", &*format!("{TRACE}-{SPAN}-1"));
        let multiple = [("x-b3-traceid", other), ("x-b3-spanid", SPAN)];
        assert_eq!(parsed(&[w3c, ("b3", "0"), multiple[0], multiple[1]]), this(true));
        assert_eq!(parsed(&[("traceparent", "broken"), single, multiple[0], multiple[1]]), this(true));
        assert_eq!(parsed(&[multiple[0], multiple[1]]).unwrap().0, other);
    }
}
