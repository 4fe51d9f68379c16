//! What `demo` measured and found.

use pulso_cli::stream::Counts;
use pulso_proto::v1;
use serde::Serialize;

use super::verify::{Latency, Stored};
use crate::failure::Failure;
use crate::output::{self, Format};

#[derive(Serialize)]
pub(super) struct Report {
    /// Messages sent.
    records: u64,
    rows: u64,
    duplicates: u64,
    corrections: u64,
    /// Readings and duplicates that a correction overtook.
    superseded: u64,
    dead_letters: u64,
    /// From the send time in the message to the commit, as PostgreSQL recorded it.
    latency_ms: Option<Latency>,
    /// Longest time without a committed row around the kill.
    failover_ms: Option<f64>,
    /// Every record read is accounted for.
    conserved: bool,
    /// The table equals what was generated, value by value, and the counters say so too.
    verified: bool,
    differences: Vec<String>,
}

impl Report {
    pub(super) fn new(
        sent: &Counts,
        job: &v1::JobSummary,
        stored: Stored,
        latency_ms: Option<Latency>,
        failover_ms: Option<f64>,
    ) -> Self {
        let counters = job.counters.unwrap_or_default();
        let differences = [stored.differences, uncounted(sent, &counters, stored.dead_letters)].concat();
        Self {
            records: sent.messages,
            rows: stored.rows,
            duplicates: counters.duplicates,
            corrections: counters.corrections,
            superseded: counters.superseded,
            dead_letters: counters.dead_letters,
            latency_ms,
            failover_ms,
            conserved: job.conserved && job.records_read == sent.messages,
            verified: differences.is_empty(),
            differences,
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.verified && self.conserved
    }

    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        if format == Format::Json {
            return output::json(self);
        }
        let ms = |value: f64| format!("{value:.1} ms");
        let latency = self.latency_ms.as_ref().map_or_else(
            || "unknown (track_commit_timestamp is off)".to_owned(),
            |l| format!("p50 {}, p95 {}, p99 {}", ms(l.p50), ms(l.p95), ms(l.p99)),
        );
        let mut rows = vec![
            ("records", self.records.to_string()),
            ("rows", self.rows.to_string()),
            ("duplicates", self.duplicates.to_string()),
            ("corrections", self.corrections.to_string()),
            ("superseded", self.superseded.to_string()),
            ("dead letters", self.dead_letters.to_string()),
            ("latency", latency),
            ("failover", self.failover_ms.map_or_else(|| "nothing was killed".to_owned(), ms)),
            ("conserved", if self.conserved { "yes" } else { "NO" }.to_owned()),
            ("verified", if self.verified { "yes: every row, by value, and every count" } else { "NO" }.to_owned()),
        ];
        rows.extend(self.differences.iter().map(|difference| ("difference", difference.clone())));
        let lines: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:13} {value}")).collect();
        output::line(&lines.join("\n"))
    }
}

/// Where the job's counters are not what the generator sent.
///
/// A correction can overtake what it corrects, or a duplicate of that, in another partition: then it counts as the
/// reading or the duplicate is missing, and what was overtaken is superseded. So those two may fall short by just that.
fn uncounted(sent: &Counts, counted: &v1::Counters, stored_letters: u64) -> Vec<String> {
    let overtaken = counted.superseded;
    let repeats = (sent.duplicates + sent.corrections).saturating_sub(overtaken);
    let least = |sent: u64| sent.saturating_sub(overtaken);
    [
        ("dead letters counted", counted.dead_letters, sent.invalid, sent.invalid),
        ("dead letters stored", stored_letters, sent.invalid, sent.invalid),
        ("filtered records", counted.filtered, 0, 0),
        ("duplicates", counted.duplicates, least(sent.duplicates), sent.duplicates),
        ("corrections", counted.corrections, least(sent.corrections), sent.corrections),
        ("duplicates and corrections", counted.duplicates + counted.corrections, repeats, repeats),
        (
            "rows written but for corrections",
            counted.written.saturating_sub(counted.corrections),
            sent.distinct,
            sent.distinct,
        ),
    ]
    .into_iter()
    .filter(|(_, counted, least, most)| !(least..=most).contains(&counted))
    .map(|(what, counted, least, most)| match least == most {
        true => format!("{what}: {counted} instead of {most}"),
        false => format!("{what}: {counted} instead of {least} to {most}"),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Counts {
        Counts { messages: 20, distinct: 10, duplicates: 6, corrections: 3, invalid: 1, late: 0 }
    }

    fn counted() -> v1::Counters {
        v1::Counters { written: 13, duplicates: 6, corrections: 3, dead_letters: 1, ..Default::default() }
    }

    #[test]
    fn equal_counts_differ_in_nothing() {
        assert!(uncounted(&sent(), &counted(), 1).is_empty());
    }

    #[test]
    fn an_overtaken_reading_makes_its_correction_the_reading() {
        let overtaken = v1::Counters { written: 12, corrections: 2, superseded: 1, ..counted() };
        assert!(uncounted(&sent(), &overtaken, 1).is_empty());
        let late_duplicate = v1::Counters { duplicates: 5, superseded: 1, ..counted() };
        assert!(uncounted(&sent(), &late_duplicate, 1).is_empty());
    }

    #[test]
    fn every_difference_is_said() {
        let said = |counters: v1::Counters, letters: u64| uncounted(&sent(), &counters, letters).join("; ");
        assert_eq!(said(counted(), 0), "dead letters stored: 0 instead of 1");
        let more = said(v1::Counters { dead_letters: 2, ..counted() }, 1);
        assert_eq!(more, "dead letters counted: 2 instead of 1");
        let fewer = said(v1::Counters { duplicates: 5, ..counted() }, 1);
        assert!(fewer.contains("duplicates: 5 instead of 6"), "{fewer}");
        // One that turned up in the wrong column is as wrong as one that is lost.
        let swapped = said(v1::Counters { duplicates: 7, corrections: 2, ..counted() }, 1);
        assert!(swapped.contains("duplicates: 7") && swapped.contains("corrections: 2"), "{swapped}");
        let beyond = said(v1::Counters { duplicates: 4, superseded: 1, ..counted() }, 1);
        assert!(beyond.contains("duplicates: 4 instead of 5 to 6"), "{beyond}");
    }
}
