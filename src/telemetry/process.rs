//! The process's own numbers, read from `/proc` at each scrape, by the names that every Prometheus client has for them.

use std::fmt;

use procfs::{
    ProcResult, boot_time_secs, page_size,
    process::{LimitValue, Process},
    ticks_per_second,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// See the module. What the system does not tell is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// One look at the process.
struct ProcessNumbers {
    cpu_seconds: f64,
    resident_bytes: u64,
    start_seconds: Option<f64>,
    open_descriptors: Option<usize>,
    max_descriptors: Option<u64>,
}

impl ProcessNumbers {
    fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = ticks_per_second() as f64;
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident_bytes: stat.rss * page_size(),
            start_seconds: boot_time_secs().ok().map(|booted| booted as f64 + stat.starttime as f64 / ticks),
            open_descriptors: process.fd_count().ok(),
            max_descriptors: process.limits().ok().map(|limits| match limits.max_open_files.soft_limit {
                LimitValue::Value(limit) => limit,
                LimitValue::Unlimited => u64::MAX,
            }),
        })
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(numbers) = ProcessNumbers::read() else { return Ok(()) };
        let cpu = ConstCounter::new(numbers.cpu_seconds);
        show(&mut encoder, "process_cpu_seconds", "Processor time, of user and system, in seconds.", &cpu)?;
        let gauges = [
            ("process_resident_memory_bytes", "Memory that is in RAM, in bytes.", Some(numbers.resident_bytes as f64)),
            ("process_start_time_seconds", "When it started, in seconds since 1970.", numbers.start_seconds),
            ("process_open_fds", "Open file descriptors.", numbers.open_descriptors.map(|open| open as f64)),
            ("process_max_fds", "How many it may have open.", numbers.max_descriptors.map(|most| most as f64)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                show(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

fn show(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}
