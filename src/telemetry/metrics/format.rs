//! The two text formats in which metrics are read.

use http::HeaderValue;

/// How metrics are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, for clients that accept it, as Prometheus does.
    OpenMetrics,
    /// Prometheus' own text format 0.0.4, which every scraper reads.
    Text,
}

impl Format {
    /// The format that these `Accept` headers ask for (RFC 9110 section 12.5.1): OpenMetrics where it is named
    /// and not denied by a weight of 0, the text format otherwise.
    pub fn accepted<'v>(accept: impl IntoIterator<Item = &'v HeaderValue>) -> Self {
        let values = accept.into_iter().filter_map(|value| value.to_str().ok());
        let mut ranges = values.flat_map(|value| value.split(','));
        if ranges.any(names_openmetrics) { Self::OpenMetrics } else { Self::Text }
    }

    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

fn names_openmetrics(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let is_named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
    let is_denied = |parameter: &str| match parameter.split_once('=') {
        Some((name, weight)) => name.trim().eq_ignore_ascii_case("q") && weight.trim().parse() == Ok(0.0_f32),
        None => false,
    };
    is_named && !parts.any(is_denied)
}

/// The same metrics in the text format.
///
/// There a counter's family bears the name of its samples, `…_total`, an info is a gauge called `…_info`,
/// and neither units nor the end are written.  The samples are the same.
pub(super) fn text_from_openmetrics(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(family) = line.strip_prefix("# HELP ") {
            // What is helped with is named by its type, which follows.
            help = family.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|family| family.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_clients_that_accept_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
        for (accept, expected) in [
            (&[][..], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/plain; version=0.0.4"], Format::Text),
            (&[prometheus], Format::OpenMetrics),
            (&["text/plain", "Application/OpenMetrics-Text"], Format::OpenMetrics),
            (&["application/openmetrics-text; q=0, */*"], Format::Text),
            (&["application/openmetrics-textual"], Format::Text),
        ] {
            let values: Vec<_> = accept.iter().map(|text| HeaderValue::from_static(text)).collect();
            assert_eq!(Format::accepted(&values), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_text_format_names_families_as_their_samples() {
        let openmetrics = "# HELP a_decisions Decided.\n# TYPE a_decisions counter\n\
            a_decisions_total{reason=\"# TYPE x counter\"} 1\n\
            # HELP a_lag_seconds Lag.\n# TYPE a_lag_seconds gauge\n# UNIT a_lag_seconds seconds\na_lag_seconds NaN\n\
            # HELP a_build Build.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_decisions_total Decided.\n# TYPE a_decisions_total counter\n\
            a_decisions_total{reason=\"# TYPE x counter\"} 1\n\
            # HELP a_lag_seconds Lag.\n# TYPE a_lag_seconds gauge\na_lag_seconds NaN\n\
            # HELP a_build_info Build.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n";
        assert_eq!(text_from_openmetrics(openmetrics), text);
    }
}
