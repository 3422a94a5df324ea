//! The metrics of the process from the operating system, with the names that Prometheus' client libraries use, and how
//! much memory it may use.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};

/// Reads the process' state whenever the metrics are read.  What cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let stat = stat.as_deref().and_then(|text| Stat::parse(text, ticks, rustix::param::page_size()));
        if let Some(stat) = &stat {
            let help = "User and system CPU time spent by the process.";
            let counter = ConstCounter::new(stat.cpu_seconds);
            let unit = Some(&Unit::Seconds);
            counter.encode(encoder.encode_descriptor("process_cpu", help, unit, MetricType::Counter)?)?;
        }
        let mut gauge = |name: &str, unit: Option<Unit>, help: &str, value: Option<f64>| match value {
            None => Ok(()),
            Some(value) => ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                unit.as_ref(),
                MetricType::Gauge,
            )?),
        };
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
        let start = stat.as_ref().zip(boot).map(|(stat, boot)| boot + stat.started_after_boot);
        gauge("process_start_time", Some(Unit::Seconds), "When the process began, as Unix time.", start)?;
        let resident = stat.as_ref().map(|stat| stat.resident_bytes);
        gauge("process_resident_memory", Some(Unit::Bytes), "Memory in use.", resident)?;
        let size = stat.as_ref().map(|stat| stat.virtual_bytes);
        gauge("process_virtual_memory", Some(Unit::Bytes), "Addresses in use.", size)?;
        gauge(
            "process_virtual_memory_max",
            Some(Unit::Bytes),
            "The most addresses that may be in use.",
            Some(limit(Resource::As)),
        )?;
        gauge("process_open_fds", None, "Open file descriptors.", open_descriptors())?;
        gauge(
            "process_max_fds",
            None,
            "The most file descriptors that may be open.",
            Some(limit(Resource::Nofile)),
        )
    }
}

/// How much memory the process may use.
#[derive(Debug)]
pub(super) struct MemoryLimit(Gauge);

impl MemoryLimit {
    /// The gauge, shown by this registry.
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let gauge = Gauge::default();
        registry.register_with_unit(
            "memory_limit",
            "What the process may use of memory by its cgroup, the machine, or serve --memory-limit",
            Unit::Bytes,
            gauge.clone(),
        );
        Self(gauge)
    }

    pub(super) fn set(&self, bytes: u64) {
        self.0.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// The soft limit; the largest number of 64 bits where there is none, as other clients have it.
fn limit(resource: Resource) -> f64 {
    as_float(getrlimit(resource).current.unwrap_or(u64::MAX))
}

fn open_descriptors() -> Option<f64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is this very look.
    Some(as_float(u64::try_from(open.saturating_sub(1)).unwrap_or(u64::MAX)))
}

/// Large numbers lose digits, as all do in Prometheus.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn as_float(number: u64) -> f64 {
    number as f64
}

/// A part of `/proc/self/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    started_after_boot: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn parse(text: &str, ticks_per_second: u64, page_size: usize) -> Option<Self> {
        // The program's name is in brackets and may hold anything.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // The manual counts from 1, and two fields come before these.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok().map(as_float);
        let ticks = as_float(ticks_per_second);
        let page_size = as_float(u64::try_from(page_size).ok()?);
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            started_after_boot: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size,
        })
    }
}

/// When the machine started, by `/proc/stat`.
fn boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operating_system_writes_down() {
        let text = "4242 (a) b) c) S 1 2 3 0 -1 4194560 100 0 1 0 250 50 0 0 20 0 9 0 12345 1048576 256 \
            18446744073709551615 1 1 0 0 0 0 0";
        let expected = Stat {
            cpu_seconds: 3.0,
            started_after_boot: 123.45,
            virtual_bytes: 1_048_576.0,
            resident_bytes: 1_048_576.0,
        };
        assert_eq!(Stat::parse(text, 100, 4096), Some(expected));
        for damaged in ["", "1 (a", "1 (a) S 1 2", "1 (a) S 1 2 3 0 -1 4194560 100 0 1 0 x 50"] {
            assert_eq!(Stat::parse(damaged, 100, 4096), None, "{damaged}");
        }
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(boot_time("cpu 1 2\n"), None);
    }
}
