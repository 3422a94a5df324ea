//! Metrics in the formats of Prometheus.  No label holds anything that a client sent.

mod counters;
mod format;
mod process;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::logging::LogCounters;
use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::decision::{Decision, Outcome};
use crate::keys::{Keys, StoreErrors};
use crate::snapshot::Snapshot;
use counters::{AllowedCounters, CredentialCounters};

pub use format::Format;

/// The upper bounds of the latency buckets, in seconds: from the time of a lookup to that of a password.  The denial of
/// a password takes a little more than a tenth of a second.
const BUCKETS: [f64; 13] =
    [0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5];

/// Up to so many keys, the next expiry of one is looked for at every scrape …
const FEW_KEYS: usize = 10_000;
/// … and else so often, since that looks at every key.
const NEXT_EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// The results of a reload.
const SUCCESS: &str = "success";
const FAILURE: &str = "failure";
const HELD_BACK: &str = "held_back";

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What bears no prefix of ours.
    process: Registry,
    decisions: Family<DecisionLabels, Counter>,
    credentials: CredentialCounters,
    duration: Histogram,
    unreadable: Counter,
    tokens: Gauge,
    users: Gauge,
    policies_not_enforced: Gauge,
    token_expiries: TokenExpiries,
    configuration: ConfigurationInForce,
    reloads: Family<ReloadLabels, Counter>,
    last_reload_successful: Gauge,
    last_reload_success: Gauge,
    certificate_expiry: Family<ListenerLabels, Gauge>,
    closed_connections: Family<ListenerLabels, Counter>,
    wrong_wirings: Family<KindLabels, Counter>,
    keys: KeyGauges,
    directory: DirectoryCounters,
    dropped_spans: Counter,
    memory_limit: process::MemoryLimit,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
    reason: &'static str,
    policy: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

impl Metrics {
    /// All metrics at their beginning.
    pub fn new(log: Option<LogCounters>) -> Self {
        let mut registry = Registry::with_prefix("envoy_auth_tokens");
        let mut metrics = Self {
            decisions: Family::default(),
            credentials: CredentialCounters::registered(&mut registry),
            duration: Histogram::new(BUCKETS),
            unreadable: Counter::default(),
            tokens: Gauge::default(),
            users: Gauge::default(),
            policies_not_enforced: Gauge::default(),
            token_expiries: TokenExpiries::default(),
            configuration: ConfigurationInForce::default(),
            reloads: Family::default(),
            last_reload_successful: Gauge::default(),
            last_reload_success: Gauge::default(),
            certificate_expiry: Family::default(),
            closed_connections: Family::default(),
            wrong_wirings: Family::default(),
            keys: KeyGauges::default(),
            directory: DirectoryCounters::default(),
            dropped_spans: Counter::default(),
            memory_limit: process::MemoryLimit::registered(&mut registry),
            registry,
            process: Registry::default(),
        };
        metrics.register();
        metrics.process.register_collector(Box::new(process::Process));
        if let Some(log) = log {
            metrics.registry.register_collector(Box::new(Log(log)));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "decisions",
            "Checks decided, by outcome (allowed, denied, or shadowed where a policy is not enforced), reason and policy",
            self.decisions.clone(),
        );
        registry.register_with_unit(
            "check_duration",
            "Time from a Check's last byte to its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register("unreadable_checks", "Checks answered with a gRPC error", self.unreadable.clone());
        registry.register("configured_tokens", "Tokens of the current configuration", self.tokens.clone());
        registry.register("configured_users", "Users of the current configuration", self.users.clone());
        registry.register(
            "policies_not_enforced",
            "Policies of the current configuration whose denials are not enforced",
            self.policies_not_enforced.clone(),
        );
        registry.register_collector(Box::new(self.token_expiries.clone()));
        registry.register_collector(Box::new(self.configuration.clone()));
        registry.register("config_reload", "Reloads of the configuration, by result", self.reloads.clone());
        // A counter that is there from the beginning can be watched for its first step.
        for result in [SUCCESS, FAILURE, HELD_BACK] {
            drop(self.reloads.get_or_create(&ReloadLabels { result }));
        }
        registry.register(
            "config_last_reload_successful",
            "Whether the last reload was successful, so that the current configuration is that of the file",
            self.last_reload_successful.clone(),
        );
        registry.register_with_unit(
            "config_last_reload_success_timestamp",
            "When the current configuration was loaded, as Unix time",
            Unit::Seconds,
            self.last_reload_success.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the first certificate of a listener's chain expires, as Unix time; of listeners with TLS",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        registry.register(
            "denied_connections",
            "Connections closed because the limit of open connections was reached, by listener",
            self.closed_connections.clone(),
        );
        registry.register(
            "wrong_wiring",
            "Connections and requests that this listener cannot answer, by kind: the log says what to change",
            self.wrong_wirings.clone(),
        );
        registry.register_collector(Box::new(self.keys.clone()));
        registry.register_collector(Box::new(self.directory.clone()));
        registry.register(
            "dropped_spans",
            "Spans dropped because no collector took them in time",
            self.dropped_spans.clone(),
        );
        registry.register(
            "build",
            "The running program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
    }

    /// Counts a decision.
    pub fn count(&self, decision: &Decision, elapsed: Duration) {
        match (&decision.context.policy, decision.outcome()) {
            (Some(policy), Outcome::Allowed) => {
                let counters = &decision.snapshot.allowed_counters;
                counters
                    .get_or_init(|| AllowedCounters::new(&decision.snapshot.policies, &self.decisions))
                    .of(policy)
                    .inc();
            }
            (policy, outcome) => {
                let policy = policy.as_ref().map_or_else(Arc::default, |policy| Arc::clone(policy.name()));
                self.decisions.get_or_create(&DecisionLabels::new(outcome, policy)).inc();
            }
        }
        if let Some(principal) = &decision.context.principal {
            self.credentials.count(principal);
        }
        self.duration.observe(elapsed.as_secs_f64());
    }

    /// Counts a Check that was answered with a gRPC error.
    pub fn count_unreadable(&self) {
        self.unreadable.inc();
    }

    /// Shows how much memory the process may use.
    pub fn show_memory_limit(&self, bytes: u64) {
        self.memory_limit.set(bytes);
    }

    /// Where spans are counted that no collector took.
    pub fn dropped_spans(&self) -> Counter {
        self.dropped_spans.clone()
    }

    /// Where the connections are counted that the listener of this name closes at a limit.
    pub fn closed_connections(&self, listener: &'static str) -> Counter {
        self.closed_connections.get_or_create(&ListenerLabels { listener }).clone()
    }

    /// Where the connections and requests are counted that are wired wrongly in this way.
    pub fn wrong_wirings(&self, kind: &'static str) -> Counter {
        self.wrong_wirings.get_or_create(&KindLabels { kind }).clone()
    }

    /// Counts a reload that put the file's configuration into force at this instant.
    pub fn count_reload(&self, now: jiff::Timestamp) {
        self.reloads.get_or_create(&ReloadLabels { result: SUCCESS }).inc();
        self.show_loaded(now);
    }

    /// Records that the current configuration was loaded at this instant, and matches the file.
    pub fn show_loaded(&self, now: jiff::Timestamp) {
        self.last_reload_successful.set(1);
        self.last_reload_success.set(now.as_second());
    }

    /// Counts a reload that was denied.
    pub fn count_failed_reload(&self) {
        self.reloads.get_or_create(&ReloadLabels { result: FAILURE }).inc();
        self.last_reload_successful.set(0);
    }

    /// Counts a reload that was held back because it loses restrictions of access.
    pub fn count_held_back_reload(&self) {
        self.reloads.get_or_create(&ReloadLabels { result: HELD_BACK }).inc();
        self.last_reload_successful.set(0);
    }

    /// Shows the current configuration.
    pub fn show_snapshot(&self, snapshot: &Snapshot, now: jiff::Timestamp) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.tokens.set(count(snapshot.tokens.len()));
        self.users.set(count(snapshot.users.len()));
        self.policies_not_enforced.set(count(snapshot.policies.not_enforced()));
        let expiries = snapshot.tokens.iter().filter_map(|(_, principal)| principal.expires_at);
        let mut expiries: Vec<_> = expiries.filter(|&expires_at| expires_at > now).collect();
        expiries.sort_unstable();
        self.token_expiries.0.store(Arc::new(expiries));
        self.configuration.0.store(Arc::new(snapshot.sha256.clone()));
        for (listener, tls) in [("ext_authz", &snapshot.tls.ext_authz), ("admin", &snapshot.tls.admin)] {
            if let Some(tls) = tls {
                let gauge = self.certificate_expiry.get_or_create(&ListenerLabels { listener });
                gauge.set(tls.expires_at.as_second());
            }
        }
    }

    /// Shows the results of this authorizer's questions to the directory.
    pub fn show_directory(&self, authorizer: Arc<Authorizer>) {
        // The first one stays: a process has one.
        let _ = self.directory.0.set(authorizer);
    }

    /// Shows the state of the issued keys, read at every scrape.
    pub fn show_keys(&self, keys: Arc<Keys>, clock: Clock) {
        // Only the first store counts: there is one in a process.
        let _ = self.keys.0.set(MeasuredKeys { keys, clock, next_expiry: Mutex::default() });
    }

    /// All metrics in this format.
    pub fn encode(&self, format: Format) -> String {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.process))
            .and_then(|()| encode_eof(&mut text))
            .expect("a String takes every character");
        match format {
            Format::OpenMetrics => text,
            Format::Text => format::text_from_openmetrics(&text),
        }
    }
}

impl DecisionLabels {
    fn new(outcome: Outcome, policy: Arc<str>) -> Self {
        Self { outcome: outcome.as_str(), reason: outcome.reason(), policy }
    }
}

/// The keys count themselves, too, once there are any.
#[derive(Clone, Default)]
struct KeyGauges(Arc<OnceLock<MeasuredKeys>>);

/// The keys of the process, and what of them is not looked up at every scrape.
struct MeasuredKeys {
    keys: Arc<Keys>,
    clock: Clock,
    next_expiry: Mutex<Option<NextExpiry>>,
}

/// When the next key expires.
#[derive(Clone, Copy)]
struct NextExpiry {
    /// `None`: none does.
    expires_at: Option<jiff::Timestamp>,
    /// When that was measured, by the monotonic clock.
    found_at: Duration,
}

impl MeasuredKeys {
    /// When the next key expires.  That looks at every key, so with many of them the answer may be as old as
    /// [`NEXT_EXPIRY_INTERVAL`].
    fn next_expiry(&self) -> Option<jiff::Timestamp> {
        let mut latest = self.next_expiry.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = self.clock.elapsed();
        let is_fresh = |found: &NextExpiry| elapsed.saturating_sub(found.found_at) < NEXT_EXPIRY_INTERVAL;
        if self.keys.held() > FEW_KEYS
            && let Some(found) = latest.filter(is_fresh)
        {
            return found.expires_at;
        }
        let expires_at = self.keys.next_expiry(self.clock.now());
        *latest = Some(NextExpiry { expires_at, found_at: elapsed });
        expires_at
    }
}

impl fmt::Debug for KeyGauges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyGauges")
    }
}

impl Collector for KeyGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without the section `keys` there is nothing to show, and no alert on it.
        let Some(measured) = self.0.get() else {
            return Ok(());
        };
        let keys = &measured.keys;
        let count = |number: usize| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        let seconds = Some(&Unit::Seconds);

        let help = "API keys in memory, dead ones too.";
        count(keys.held()).encode(encoder.encode_descriptor(
            "keys_held",
            help,
            None,
            MetricType::Gauge,
        )?)?;

        let help = "Age of the last data that was read from the key store; NaN before the first read.";
        let lag = ConstGauge::new(keys.lag().map_or(f64::NAN, |lag| lag.as_secs_f64()));
        lag.encode(encoder.encode_descriptor("keys_store_lag", help, seconds, MetricType::Gauge)?)?;

        let help = "The number of the newest change of the key store that this server has read; 0 before the first read.";
        let revision = ConstGauge::new(keys.revision().map_or(0, |revision| revision.0));
        revision.encode(encoder.encode_descriptor(
            "keys_store_revision",
            help,
            None,
            MetricType::Gauge,
        )?)?;

        let help = "When the next API key expires that is still alive, as Unix time; 0 when none does.";
        let next = ConstGauge::new(measured.next_expiry().map_or(0, jiff::Timestamp::as_second));
        let name = "keys_next_expiry_timestamp";
        next.encode(encoder.encode_descriptor(name, help, seconds, MetricType::Gauge)?)?;

        let help = "Times that the key store could not be read or written.";
        let StoreErrors { read, write } = keys.store_errors();
        let mut errors = encoder.encode_descriptor("keys_store_errors", help, None, MetricType::Counter)?;
        for (operation, number) in [("read", read), ("write", write)] {
            ConstCounter::new(number).encode(errors.encode_family(&[("operation", operation)])?)?;
        }

        let help = "Times that the key store was found to have lost changes, or to be another one.";
        let rewrites = ConstCounter::new(keys.history_rewrites());
        let name = "keys_history_rewrites";
        rewrites.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;

        let help = "Rows of the audit that were deleted before 400 days because the key store had more than its limit.";
        let dropped = ConstCounter::new(keys.excess_audit_rows());
        let name = "keys_audit_rows_dropped";
        dropped.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;

        let help = "Keys and sessions that were dead before such a loss, and are denied although the store has them.";
        let name = "keys_denied_by_history";
        count(keys.denied_by_history()).encode(encoder.encode_descriptor(
            name,
            help,
            None,
            MetricType::Gauge,
        )?)
    }
}

/// The results of questions to the directory, if there is a directory.
#[derive(Clone, Default)]
struct DirectoryCounters(Arc<OnceLock<Arc<Authorizer>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuestionLabels {
    listener: &'static str,
    result: &'static str,
}

impl fmt::Debug for DirectoryCounters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DirectoryCounters")
    }
}

impl Collector for DirectoryCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without the section `ldap` there is nothing to show.
        let Some(authorizer) = self.0.get().filter(|authorizer| authorizer.snapshot().ldap.is_some()) else {
            return Ok(());
        };
        let help =
            "Questions to the directory about passwords that were not remembered, by listener and result.";
        let name = "directory_questions";
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (listener, result, count) in authorizer.sources().people.questions() {
            let labels = QuestionLabels { listener, result: result.as_str() };
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The expiries of tokens of the current configuration, in order.
#[derive(Debug, Clone, Default)]
struct TokenExpiries(Arc<ArcSwap<Vec<jiff::Timestamp>>>);

impl TokenExpiries {
    fn next(&self, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let expiries = self.0.load();
        expiries.get(expiries.partition_point(|&expires_at| expires_at <= now)).copied()
    }
}

impl Collector for TokenExpiries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let next = self.next(jiff::Timestamp::now()).map_or(0, jiff::Timestamp::as_second);
        let help = "When the next token expires, as Unix time; 0 when none does.";
        let name = "next_expiry_timestamp";
        let unit = Some(&Unit::Seconds);
        ConstGauge::new(next).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
    }
}

/// The digest of the configuration's text.
#[derive(Debug, Clone, Default)]
struct ConfigurationInForce(Arc<ArcSwap<String>>);

impl Collector for ConfigurationInForce {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The current configuration, by the SHA-256 of its file.";
        let sha256 = self.0.load().to_string();
        Info::new([("sha256", sha256)]).encode(encoder.encode_descriptor(
            "config",
            help,
            None,
            MetricType::Info,
        )?)
    }
}

/// The log counts these itself.
struct Log(LogCounters);

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Log({} lost)", self.0.lost_lines())
    }
}

impl Collector for Log {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let lost = ConstCounter::new(self.0.lost_lines());
        let help = "Log lines that were lost: they were not read fast enough, or they could not be written.";
        lost.encode(encoder.encode_descriptor("dropped_log_lines", help, None, MetricType::Counter)?)?;

        let waiting = ConstGauge::new(i64::try_from(self.0.waiting_audit_lines()).unwrap_or(i64::MAX));
        let help = "Lines of the audit log that wait to be written; at 10000 changes are denied.";
        waiting.encode(encoder.encode_descriptor("audit_lines_waiting", help, None, MetricType::Gauge)?)?;

        let not_stored = ConstCounter::new(self.0.denials_not_stored());
        let help =
            "Denials of the admin API whose row could not be written into the store: the audit log has them.";
        not_stored.encode(encoder.encode_descriptor(
            "audit_denials_not_stored",
            help,
            None,
            MetricType::Counter,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_expiry_goes_on_to_the_next_by_itself() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let expiries = TokenExpiries::default();
        assert_eq!(expiries.next(at(0)), None);
        expiries.0.store(Arc::new(vec![at(10), at(20)]));
        for (now, expected) in [(0, Some(10)), (9, Some(10)), (10, Some(20)), (19, Some(20)), (20, None)] {
            assert_eq!(expiries.next(at(now)), expected.map(at), "{now}");
        }
    }
}
