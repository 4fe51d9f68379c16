//! Results that cannot be computed.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use pulso_core::ids::EventTime;

use super::{Host, decoded};
use crate::batch::Change;
use crate::decode::Decoder;
use crate::testing::job;

const JOB: &str = r#"
[fields]
id = { type = "string", required = true }
at = { type = "timestamp", epoch = "us", required = true }
n = { type = "int64" }
m = { type = "int64" }
[time]
field = "at"
[dedup]
key = ["id", "at"]
keep_for = "1h"
route_by = ["id"]
[[aggregate]]
name = "ratios"
group_by = ["id"]
window = { size = "10m" }
[aggregate.columns]
total = "sum(n)"
ratio = "sum(n) / sum(m)"
inverse = "max(100 / m) filter (where m <> 0)"
[[sink]]
to = "db"
from = "ratios"
table = "ratios"
key = ["id", "window_start"]
[[sink]]
to = "db"
from = "ratios"
table = "large"
where = "100 / total > 10"
columns = { id = "id", window_start = "window_start", rest = "1 / (total - 4)" }
key = ["id", "window_start"]
"#;

/// Change, group, then numbers.
type Written = (Change, String, Vec<Option<i64>>);

/// What both sinks get.
fn rows(host: &mut Host, epoch: usize, records: &[(&str, i64, i64, i64)]) -> [Vec<Written>; 2] {
    let record = |(id, at, n, m): &(&str, i64, i64, i64)| {
        (String::new(), Some(format!("{{\"id\":\"{id}\",\"at\":{at},\"n\":{n},\"m\":{m}}}")))
    };
    let payload = decoded(
        &mut Decoder::new(job("", JOB)).unwrap(),
        epoch as i64 * 100,
        &records.iter().map(record).collect::<Vec<_>>(),
    );
    let processed = host.process(epoch, EventTime::MIN, payload);
    let mut of_sinks = [Vec::new(), Vec::new()];
    for sink in &processed.outputs[&0].0.sinks {
        let ids = sink.batch.column(0).as_string::<i32>();
        let first = if sink.sink == 0 { 3 } else { 2 };
        let numbers = |row: usize| {
            let columns = sink.batch.columns()[first..].iter().map(|column| column.as_primitive::<Int64Type>());
            columns.map(|column| column.is_valid(row).then(|| column.value(row))).collect()
        };
        of_sinks[sink.sink] = sink
            .changes
            .iter()
            .enumerate()
            .map(|(row, change)| {
                (*change, ids.value(row).to_owned(), if *change == Change::Delete { Vec::new() } else { numbers(row) })
            })
            .collect();
        of_sinks[sink.sink].sort_by(|a, b| a.1.cmp(&b.1));
    }
    of_sinks
}

#[test]
fn what_cannot_be_computed_of_one_window_is_null_there() {
    let mut host = Host::new(&job("", JOB), 0);
    let row = |change, id: &str, numbers: &[Option<i64>]| (change, id.to_owned(), numbers.to_vec());
    use Change::{Correction, Delete, Insert};
    let max = i64::MAX;
    let records = [("a", 1, 6, 2), ("b", 1, 4, 0), ("c", 1, 0, 5), ("d", 1, max, 1), ("d", 2, max, 1)];
    let [ratios, large] = rows(&mut host, 1, &records);
    assert_eq!(
        ratios,
        [
            row(Insert, "a", &[Some(6), Some(3), Some(50)]),
            row(Insert, "b", &[Some(4), None, None]),
            row(Insert, "c", &[Some(0), Some(0), Some(20)]),
            row(Insert, "d", &[None, None, Some(100)]),
        ]
    );
    // A condition that fails is not true.
    assert_eq!(large, [row(Insert, "a", &[Some(0)]), row(Insert, "b", &[None])]);
    let [ratios, large] = rows(&mut host, 2, &[("a", 1, 0, 2), ("b", 2, 1, 4), ("d", 2, 0, 1)]);
    assert_eq!(
        ratios,
        [
            row(Correction, "a", &[Some(0), Some(0), Some(50)]),
            row(Correction, "b", &[Some(5), Some(1), Some(25)]),
            row(Correction, "d", &[Some(max), Some(max / 2), Some(100)]),
        ]
    );
    assert_eq!(large, [row(Delete, "a", &[]), row(Correction, "b", &[Some(1)]), row(Delete, "d", &[])]);
}
