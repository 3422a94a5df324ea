//! Metrics in the OpenMetrics text format.  No label holds anything that a client sent.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_appender::non_blocking::ErrorCounter;

use crate::clock::Clock;
use crate::config::Rules;
use crate::decision::{Decision, Refusal};
use crate::keys::service::Keys;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The upper bounds of the latency buckets, in seconds: from what a look-up takes
/// to what a password may take.
const BUCKETS: [f64; 12] =
    [0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.01, 0.05, 0.1, 0.5];

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    credentials: Family<CredentialLabels, Counter>,
    duration: Histogram,
    unreadable: Counter,
    tokens: Gauge,
    users: Gauge,
    next_expiry: Gauge,
    keys: OnceLock<(Arc<Keys>, Clock)>,
    keys_held: Gauge,
    keys_lag: Gauge<f64, AtomicU64>,
    keys_store_errors: Gauge,
    dropped_spans: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
    reason: &'static str,
    policy: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    kind: &'static str,
}

impl Metrics {
    /// All metrics at their beginning.
    pub fn new(dropped_log_lines: Option<ErrorCounter>) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("envoy_auth_tokens"),
            decisions: Family::default(),
            credentials: Family::default(),
            duration: Histogram::new(BUCKETS),
            unreadable: Counter::default(),
            tokens: Gauge::default(),
            users: Gauge::default(),
            next_expiry: Gauge::default(),
            keys: OnceLock::new(),
            keys_held: Gauge::default(),
            keys_lag: Gauge::default(),
            keys_store_errors: Gauge::default(),
            dropped_spans: Counter::default(),
        };
        metrics.register();
        if let Some(dropped) = dropped_log_lines {
            metrics.registry.register_collector(Box::new(DroppedLogLines(dropped)));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "decisions",
            "Checks decided, by outcome, reason and policy",
            self.decisions.clone(),
        );
        registry.register("credentials", "Credentials recognised, by kind", self.credentials.clone());
        registry.register_with_unit(
            "check_duration",
            "Time from a Check's last byte to its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register("unreadable_checks", "Checks answered with a gRPC error", self.unreadable.clone());
        registry.register("configured_tokens", "Tokens of the configuration in force", self.tokens.clone());
        registry.register("configured_users", "Users of the configuration in force", self.users.clone());
        registry.register_with_unit(
            "next_expiry_timestamp",
            "When the next token expires, as Unix time; 0 when none does",
            Unit::Seconds,
            self.next_expiry.clone(),
        );
        registry.register("keys_held", "API keys in memory, dead ones too", self.keys_held.clone());
        registry.register_with_unit(
            "keys_store_lag",
            "Time since the key store was last read; NaN before the first time",
            Unit::Seconds,
            self.keys_lag.clone(),
        );
        registry.register(
            "keys_store_errors",
            "Times that the key store could not be read or written since the start",
            self.keys_store_errors.clone(),
        );
        registry.register("dropped_spans", "Spans that no collector took", self.dropped_spans.clone());
        registry.register(
            "build",
            "The running program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
    }

    /// Counts a decision.
    pub fn count(&self, decision: &Decision, refusal: Option<Refusal>, elapsed: Duration) {
        let (outcome, reason) = match refusal {
            None => ("allowed", "admitted"),
            Some(refusal) => ("refused", refusal.reason()),
        };
        let policy = match &decision.learned.policy {
            Some(policy) => Arc::clone(policy.name()),
            None => Arc::default(),
        };
        self.decisions.get_or_create(&DecisionLabels { outcome, reason, policy }).inc();
        if let Some(known) = &decision.learned.known {
            self.credentials.get_or_create(&CredentialLabels { kind: known.kind.as_str() }).inc();
        }
        self.duration.observe(elapsed.as_secs_f64());
    }

    /// Counts a Check that was answered with a gRPC error.
    pub fn count_unreadable(&self) {
        self.unreadable.inc();
    }

    /// Where spans are counted that no collector took.
    pub fn dropped_spans(&self) -> Counter {
        self.dropped_spans.clone()
    }

    /// Shows what is in force.
    pub fn show_rules(&self, rules: &Rules, now: jiff::Timestamp) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.tokens.set(count(rules.tokens.len()));
        self.users.set(count(rules.users.iter().count()));
        let expiries = rules.tokens.iter().filter_map(|(_, known)| known.expires_at);
        let next = expiries.filter(|&expires_at| expires_at > now).min();
        self.next_expiry.set(next.map_or(0, jiff::Timestamp::as_second));
    }

    /// Shows what is held of issued keys, asked for whenever the metrics are.
    pub fn show_keys(&self, keys: Arc<Keys>, clock: Clock) {
        // Only the first store counts: there is one in a process.
        let _ = self.keys.set((keys, clock));
    }

    /// All metrics as text.
    pub fn encode(&self) -> String {
        if let Some((keys, clock)) = self.keys.get() {
            self.keys_held.set(i64::try_from(keys.held()).unwrap_or(i64::MAX));
            self.keys_lag.set(keys.lag(clock.now()).map_or(f64::NAN, |lag| lag.as_secs_f64()));
            self.keys_store_errors.set(i64::try_from(keys.store_errors()).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes every character");
        text
    }
}

/// The log counts these itself.
struct DroppedLogLines(ErrorCounter);

impl fmt::Debug for DroppedLogLines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DroppedLogLines({})", self.0.dropped_lines())
    }
}

impl Collector for DroppedLogLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counter = ConstCounter::new(u64::try_from(self.0.dropped_lines()).unwrap_or(u64::MAX));
        let help = "Log lines dropped because nobody read them fast enough";
        counter.encode(encoder.encode_descriptor("dropped_log_lines", help, None, MetricType::Counter)?)
    }
}
