//! The bytes of the state as they are on disk: with other libraries (Arrow's rows, DataFusion's states of functions) they
//! must stay these. Where they cannot, the new ones need another number than `WINDOW_1`.

use std::fmt::Write;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array,
    ListArray, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use arrow::row::{RowConverter, SortField};
use pulso_core::ids::EventTime;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn values_of_every_type() {
    let long = "thirty-three bytes, one too many.";
    let columns: [(ArrayRef, &str); 10] = [
        (Arc::new(BooleanArray::from(vec![Some(true), None])), "0101 0000"),
        (Arc::new(Int32Array::from(vec![Some(-2), None])), "017ffffffe 0000000000"),
        (Arc::new(Int64Array::from(vec![Some(3), None])), "018000000000000003 000000000000000000"),
        (Arc::new(Float64Array::from(vec![Some(-0.5), None])), "01401fffffffffffff 000000000000000000"),
        (
            Arc::new(Decimal128Array::from(vec![Some(-1250), None]).with_precision_and_scale(38, 2).unwrap()),
            "017ffffffffffffffffffffffffffffb1e 0000000000000000000000000000000000",
        ),
        (
            Arc::new(StringArray::from(vec![Some(long), None])),
            "027468697274792d74ff6872656520627974ff65732c206f6e6520ff746f6f206d616e79ff2e0000000000000000000000000000000000000000000000000000000000000001 00",
        ),
        (
            Arc::new(TimestampMicrosecondArray::from(vec![Some(7), None]).with_timezone("UTC")),
            "018000000000000007 000000000000000000",
        ),
        (Arc::new(Date32Array::from(vec![Some(20_000), None])), "0180004e20 0000000000"),
        (
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([7; 16]), None].into_iter(), 16).unwrap(),
            ),
            "0107070707070707070707070707070707 0000000000000000000000000000000000",
        ),
        (
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None])),
            "020180000000000000ff010000000000000001020000000000000000ff00000000000000000101 00",
        ),
    ];
    let found = columns.iter().map(|(values, _)| {
        let converter = RowConverter::new(vec![SortField::new(values.data_type().clone())]).unwrap();
        let rows = converter.convert_columns(std::slice::from_ref(values)).unwrap();
        format!("{} {}", hex(rows.row(0).data()), hex(rows.row(1).data()))
    });
    assert_eq!(found.collect::<Vec<_>>(), columns.each_ref().map(|(_, expected)| *expected));
}

/// Everything that one window of a group with two records leaves on disk: key and value.
#[test]
fn windows_and_the_states_of_their_functions() {
    let columns = "[aggregate.columns]\nrows = \"count(*)\"\ntotal = \"sum(v)\"\nmean = \"avg(v)\"\nleast = \"min(v)\"\n\
                   ids = \"count(distinct id)\"\nfirst = \"first_value(id)\"\nmiddle = \"median(v)\"\n\
                   spread = \"stddev(v)\"\nwhole = \"sum(cast(v as bigint))\"\n";
    let (head, sink) = (&JOB[..JOB.find("[[aggregate]]").unwrap()], &JOB[JOB.find("[[sink]]").unwrap()..]);
    let sink = &sink[..sink[1..].find("[[sink]]").unwrap()];
    let aggregate = "[[aggregate]]\nname = \"shared\"\ngroup_by = [\"id\"]\nwindow = { gap = \"3m\" }\n";
    let head = head.replace("CHANGED", "changed = \"update\"");
    let job = job("", &format!("{head}{aggregate}{columns}{sink}"));
    let mut host = Host::new(&job, 0);
    host.process(
        1,
        EventTime(0),
        payload(&mut Decoder::new(Arc::clone(&job)).unwrap(), 0, &[event(0, 4, Some(25)), event(0, 5, None)]),
    );
    host.settle(1, EventTime(0));
    let disk = host.groups.values().flat_map(|(_, disk)| &disk.0).filter(|(key, _)| key[0] == 2);
    let found: Vec<(String, String)> = disk.map(|(key, value)| (hex(key), hex(value))).collect();
    // The head, a chunk of rows, the group's sessions, the times that are due, and what is due then.
    let expected = [
        (
            "02000101000000000e4e1c00080000000131",
            "02ffffffffffffff7f00389c1c0000000001afc79dde538ee93b50efc85e3ef0c9f10200000001800000000000000202\
             0000000000000000ff000000000000044008018000000000000001020000000000000000ff0000000000000440080180\
             0000000000000101c004000000000000020231000000000000ff00010000000000000201023100000000000000010101\
             0201c0040000000000ff0000000000000000010101000000000000000101c00400000000000001800000000000000001\
             80000000000000000000000000000002",
        ),
        (
            "02000102000000000e4e1c0000000000080000000131",
            "02ffffffffffffff7f4b24d58be1c83840761363b6f5239971001c4e0e000000005b00000001800000000000000101c0\
             0400000000000001c00400000000000001c004000000000000023100000000000000010231000000000000000101c004\
             00000000000001c0040000000000000180000000000000000000000000000002c9c81b851aa333c8830d9d86ca8eb0d0\
             00a3e111000000005b000000018000000000000001000000000000000000000000000000000000000000000000000000\
             023100000000000000010231000000000000000100000000000000000000000000000000000000000000000000000000\
             00000000000000",
        ),
        ("02000103080000000131", "02ffffffffffffff7f001c4e0e0000000000389c1c00000000"),
        ("02000104", "02ffffffffffffff7fe0b63524000000000100000000000000"),
        ("02000105000000002435b6e000000000", "02ffffffffffffff7f001c4e0e0000000006000000080000000131"),
    ];
    let expected: Vec<(String, String)> = expected.map(|(k, v): (&str, &str)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(found, expected);
}
