//! Exports finished spans to the collector: a bounded queue, and a count of dropped spans.
//!
//! The queue and its thread are the SDK's.  It does not report what it drops and whether an export failed, so
//! spans are counted on their way in and on their way out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use prometheus_client::metrics::counter::Counter;

/// How often dropped spans are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Spans that wait, and those that were dropped.
#[derive(Debug)]
struct SpanCounts {
    /// Spans in the queue.
    waiting: AtomicUsize,
    dropped: Counter,
    /// When dropped spans were last logged, and how many there were.
    last_logged: Mutex<LastLogged>,
}

#[derive(Debug, Default)]
struct LastLogged {
    at: Option<Instant>,
    dropped: u64,
}

/// Takes finished spans without waiting: beyond `capacity` they are dropped and counted.
#[derive(Debug)]
pub(super) struct SpanQueue {
    batches: BatchSpanProcessor,
    capacity: usize,
    counts: Arc<SpanCounts>,
}

impl SpanQueue {
    /// A queue before this exporter for at most so many spans.
    /// `OTEL_BSP_SCHEDULE_DELAY` and `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` say how it is emptied.
    pub(super) fn before<E>(exporter: E, capacity: usize, dropped: Counter) -> Self
    where
        E: SpanExporter + 'static,
    {
        let counts =
            Arc::new(SpanCounts { waiting: AtomicUsize::new(0), dropped, last_logged: Mutex::default() });
        let counted = CountingExporter { exporter, counts: Arc::clone(&counts) };
        // The SDK's queue always takes what passes here, so that the SDK drops nothing by itself.
        let config = BatchConfigBuilder::default().with_max_queue_size(capacity).build();
        let batches = BatchSpanProcessor::builder(counted).with_batch_config(config).build();
        Self { batches, capacity, counts }
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) < self.capacity {
            self.batches.on_end(span);
        } else {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// An exporter that counts and logs what it loses.
#[derive(Debug)]
struct CountingExporter<E> {
    exporter: E,
    counts: Arc<SpanCounts>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        let exported = self.exporter.export(batch).await;
        if exported.is_err() {
            self.counts.dropped.inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
        }
        self.counts.log_dropped(&exported);
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl SpanCounts {
    fn log_dropped(&self, exported: &OTelSdkResult) {
        let Ok(mut last) = self.last_logged.lock() else {
            return;
        };
        let dropped = self.dropped.get();
        let is_time = last.at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if dropped == last.dropped || !is_time {
            return;
        }
        let spans = dropped - last.dropped;
        match exported {
            // The library's text holds nothing that the collector said.
            Err(error) => tracing::warn!(spans, %error, "spans dropped: the collector cannot be reached"),
            Ok(()) => tracing::warn!(spans, "spans dropped: the collector takes them too slowly"),
        }
        *last = LastLogged { at: Some(Instant::now()), dropped };
    }
}
