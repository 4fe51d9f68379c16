//! Lookups, which Flink SQL has no equivalent of.

use pulso_job::JobSpec;

use crate::place::Step;
use crate::unsaid::Ledger;

const WHY: &str = "`sql`: Flink SQL joins records with a table as it is at that moment, so that a replay joins them with \
                   other rows";

/// `None` where there are any: which records are good, and what their columns hold, rests on them.
pub(crate) fn lookups(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<()> {
    for (index, lookup) in job.lookups.iter().enumerate() {
        let path = [Step::Key("lookup"), Step::Item(index), Step::Key("sql")];
        ledger.refuse(&path, format!("[[lookup]] {}", lookup.name), WHY);
    }
    job.lookups.is_empty().then_some(())
}
