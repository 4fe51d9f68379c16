use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::printer::print_schema;
use pulso_core::ids::KeyGroup;
use pulso_dataflow::batch::Change;
use pulso_job::spec::SinkValue;

use super::*;

fn table(is_marked: bool, columns: &[(&str, DataType, bool)]) -> Table {
    let column = |(name, data_type, nullable): &(&str, DataType, bool)| SinkColumn {
        name: (*name).to_owned(),
        value: SinkValue::Column(0),
        data_type: data_type.clone(),
        nullable: *nullable,
    };
    let own = columns.iter().map(|of| field(&column(of), false));
    let mark = is_marked.then(|| Field::new("pulso_change", DataType::Utf8, true));
    Table { schema: Arc::new(Schema::new(own.chain(mark).collect::<Vec<_>>())), is_marked }
}

fn part(columns: Vec<(&str, ArrayRef)>, changes: &[Change]) -> SinkRows {
    let named = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(named).unwrap();
    let key_groups = vec![KeyGroup(0); changes.len()];
    SinkRows { sink: 0, batch, changes: changes.into(), key_groups: key_groups.into() }
}

fn numbers(of: impl IntoIterator<Item = Option<i64>>) -> SinkRows {
    let array: Int64Array = of.into_iter().collect();
    let changes = vec![Change::Insert; array.len()];
    part(vec![("n", Arc::new(array))], &changes)
}

/// The file that these streams become.
fn written(streams: &[&[u8]]) -> (pulso_servers::TemporaryFolder, std::path::PathBuf) {
    let folder = pulso_servers::temporary_folder().unwrap();
    let path = folder.path().join("x.parquet");
    let mut table = TableFile::new(File::create_new(&path).unwrap());
    streams.iter().for_each(|stream| table.append(stream).unwrap());
    table.finish().unwrap();
    (folder, path)
}

fn read(path: &std::path::Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

#[test]
fn records_of_one_file_follow_each_other_and_say_what_changed() {
    let table = table(true, &[("n", DataType::Int64, false), ("id", DataType::FixedSizeBinary(16), true)]);
    let id = |byte| Arc::new(FixedSizeBinaryArray::try_from_iter([[byte; 16]].into_iter()).unwrap());
    let row = |n, change| {
        let columns: Vec<(&str, ArrayRef)> = vec![("n", Arc::new(Int64Array::from(vec![n]))), ("id", id(7))];
        table.encode(&part(columns, &[change])).unwrap()
    };
    let first = [row(1, Change::Insert), row(2, Change::Correction)].concat();
    let (_folder, path) = written(&[&first, &row(3, Change::Delete)]);
    let found = read(&path);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].column(0).as_ref(), &Int64Array::from(vec![1, 2, 3]));
    assert_eq!(found[0].column(2).as_ref(), &StringArray::from(vec![None, Some("correction"), Some("delete")]));
    let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let mut schema = Vec::new();
    print_schema(&mut schema, file.metadata().file_metadata().schema());
    let schema = String::from_utf8(schema).unwrap();
    assert_eq!(
        schema.lines().map(str::trim).collect::<Vec<_>>(),
        [
            "message arrow_schema {",
            "REQUIRED INT64 n;",
            "OPTIONAL FIXED_LEN_BYTE_ARRAY (16) id (UUID);",
            "OPTIONAL BYTE_ARRAY pulso_change (STRING);",
            "}"
        ]
    );
    assert_eq!(file.metadata().row_group(0).column(0).compression(), Compression::SNAPPY);
}

#[test]
fn the_same_rows_are_the_same_bytes() {
    let table = table(false, &[("n", DataType::Int64, true)]);
    let streams = [table.encode(&numbers([Some(1), None])).unwrap(), table.encode(&numbers([Some(3)])).unwrap()];
    let bytes = || {
        let (_folder, path) = written(&[&streams[0], &streams[1]]);
        std::fs::read(path).unwrap()
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_file_grows_by_row_groups_that_fit_into_memory() {
    let table = table(false, &[("t", DataType::Utf8, false)]);
    let mut state = 1_u64;
    let mut text = || {
        let mut word = || {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            format!("{:016x}", state)
        };
        (0..16).map(|_| word()).collect::<String>()
    };
    let total = 3 * MOST_MEMORY / 256;
    let streams: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let array: StringArray = (0..total / 2).map(|_| Some(text())).collect();
            table.encode(&part(vec![("t", Arc::new(array))], &vec![Change::Insert; total / 2])).unwrap()
        })
        .collect();
    let (_folder, path) = written(&[&streams[0], &streams[1]]);
    let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let groups = file.metadata().row_groups();
    assert!(groups.len() >= 2, "{}", groups.len());
    assert!(groups.iter().all(|group| group.total_byte_size() < 2 * MOST_MEMORY as i64), "{groups:?}");
    assert_eq!(groups.iter().map(|group| group.num_rows()).sum::<i64>(), total as i64);
}

#[test]
fn what_does_not_fit_is_told_by_its_column() {
    let table = table(false, &[("n", DataType::Int64, false)]);
    let told = table.encode(&numbers([Some(1), None])).unwrap_err();
    assert!(told.contains("\"n\"") || told.contains("'n'"), "{told}");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    assert!(table.encode(&part(vec![("n", text)], &[Change::Insert])).is_err());
}

#[test]
fn a_stream_that_is_cut_off_or_no_stream_is_damage() {
    let table = table(false, &[("n", DataType::Int64, true)]);
    let stream = table.encode(&numbers([Some(1)])).unwrap();
    for bytes in [&b"n\r\n1\r\n"[..], &stream[..stream.len() / 2], &stream[..20]] {
        let folder = pulso_servers::temporary_folder().unwrap();
        let mut table = TableFile::new(File::create_new(folder.path().join("x")).unwrap());
        assert_eq!(table.append(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
