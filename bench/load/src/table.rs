//! Medians over rounds, and ratios to the node, as a Markdown table.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use cloudlet_bench_load::client::Outcome;

/// Which figures a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) scenario: &'static str,
    pub(crate) connections: usize,
    pub(crate) server: &'static str,
}

/// The figures of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    requests_per_s: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    error_count: u64,
    resident_mib: f64,
}

impl Sample {
    pub(crate) fn new(outcome: &Outcome, cpu_s: f64, resident_bytes: u64) -> Self {
        let ms = |q| outcome.latency.value_at_quantile(q) as f64 / 1e6;
        Self {
            requests_per_s: outcome.requests as f64 / outcome.elapsed.as_secs_f64(),
            cpu_us: cpu_s * 1e6 / outcome.requests.max(1) as f64,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            error_count: outcome.errors,
            resident_mib: resident_bytes as f64 / (1 << 20) as f64,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8.0} requests/s  {:>7.1} us CPU  p50 {:.3} ms  p99 {:.3} ms",
            self.requests_per_s, self.cpu_us, self.p50_ms, self.p99_ms
        )?;
        if self.error_count > 0 {
            write!(f, "  {} ERRORS", self.error_count)?;
        }
        Ok(())
    }
}

/// All samples of a run.
#[derive(Default)]
pub(crate) struct Table {
    samples: BTreeMap<Cell, Vec<Sample>>,
    order: Vec<Cell>,
    left_out: BTreeMap<&'static str, String>,
}

impl Table {
    pub(crate) fn add(&mut self, cell: Cell, sample: Sample) {
        if !self.samples.contains_key(&cell) {
            self.order.push(cell);
        }
        self.samples.entry(cell).or_default().push(sample);
    }

    pub(crate) fn left_out(&mut self, server: &'static str, why: String) {
        self.left_out.insert(server, why);
    }

    /// One row a cell; the ratio column is the row's requests/s over those of the first server of its scenario.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::from(
            "| scenario | connections | server | requests/s | node / it | CPU us per request | node / it | p50 ms | p99 ms | p99.9 ms | errors | RSS MiB |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for cell in &self.order {
            let samples = &self.samples[cell];
            let median = |f: fn(&Sample) -> f64| {
                let mut values: Vec<f64> = samples.iter().map(f).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let node = self
                .order
                .iter()
                .find(|c| c.scenario == cell.scenario && c.connections == cell.connections);
            let ratio = |f: fn(&Sample) -> f64| {
                let Some(node) = node else { return f64::NAN };
                let mut values: Vec<f64> = self.samples[node]
                    .iter()
                    .zip(samples)
                    .map(|(ours, theirs)| f(ours) / f(theirs))
                    .collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.0} | {:.2} | {:.1} | {:.2} | {:.3} | {:.3} | {:.3} | {} | {:.0} |",
                cell.scenario,
                cell.connections,
                cell.server,
                median(|s| s.requests_per_s),
                ratio(|s| s.requests_per_s),
                median(|s| s.cpu_us),
                ratio(|s| s.cpu_us),
                median(|s| s.p50_ms),
                median(|s| s.p99_ms),
                median(|s| s.p999_ms),
                samples.iter().map(|s| s.error_count).sum::<u64>(),
                median(|s| s.resident_mib),
            );
        }
        for (server, why) in &self.left_out {
            let _ = writeln!(text, "\nLeft out: {server}: {why}");
        }
        text
    }
}
