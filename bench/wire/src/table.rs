//! Medians over rounds, and ratios to the node, as a Markdown table.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::Outcome;

/// Which figures a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) work: &'static str,
    pub(crate) connections: usize,
    pub(crate) server: &'static str,
}

/// The figures of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    per_second: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
    resident_mib: f64,
}

impl Sample {
    pub(crate) fn new(outcome: &Outcome, cpu_s: f64, resident_bytes: u64) -> Self {
        let ms = |q| outcome.latency.value_at_quantile(q) as f64 / 1e6;
        Self {
            per_second: outcome.operations as f64 / outcome.elapsed.as_secs_f64(),
            cpu_us: cpu_s * 1e6 / outcome.operations.max(1) as f64,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            resident_mib: resident_bytes as f64 / f64::from(1 << 20),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8.0}/s  {:>7.1} us CPU  p50 {:.3} ms  p99 {:.3} ms",
            self.per_second, self.cpu_us, self.p50_ms, self.p99_ms
        )
    }
}

/// All samples of a run.
#[derive(Default)]
pub(crate) struct Table {
    samples: BTreeMap<Cell, Vec<Sample>>,
    order: Vec<Cell>,
    loaded: Vec<(&'static str, f64)>,
    left_out: BTreeMap<&'static str, String>,
}

impl Table {
    pub(crate) fn add(&mut self, cell: Cell, sample: Sample) {
        if !self.samples.contains_key(&cell) {
            self.order.push(cell);
        }
        self.samples.entry(cell).or_default().push(sample);
    }

    /// How fast a server took the documents before the work began.
    pub(crate) fn loaded(&mut self, server: &'static str, mib_per_second: f64) {
        self.loaded.push((server, mib_per_second));
    }

    pub(crate) fn left_out(&mut self, server: &'static str, why: String) {
        self.left_out.insert(server, why);
    }

    /// One row a cell; a ratio is the median of the ratios within a round, over the node's figure.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::from(
            "| work | connections | server | operations/s | node / it | CPU us each | p50 ms | p99 ms | RSS MiB |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for cell in &self.order {
            let samples = &self.samples[cell];
            let median = |f: fn(&Sample) -> f64| middle(samples.iter().map(f).collect());
            let node = (self.order.iter())
                .find(|c| c.work == cell.work && c.connections == cell.connections)
                .map_or(&[][..], |node| &self.samples[node]);
            let ratio = middle(
                node.iter()
                    .zip(samples)
                    .map(|(ours, theirs)| ours.per_second / theirs.per_second)
                    .collect(),
            );
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.0} | {ratio:.2} | {:.1} | {:.3} | {:.3} | {:.0} |",
                cell.work,
                cell.connections,
                cell.server,
                median(|s| s.per_second),
                median(|s| s.cpu_us),
                median(|s| s.p50_ms),
                median(|s| s.p99_ms),
                median(|s| s.resident_mib),
            );
        }
        for (server, rate) in &self.loaded {
            let _ = writeln!(text, "\nLoading into {server}: {rate:.1} MiB/s");
        }
        for (server, why) in &self.left_out {
            let _ = writeln!(text, "\nLeft out: {server}: {why}");
        }
        text
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
