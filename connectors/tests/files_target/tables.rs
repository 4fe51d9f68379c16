//! Rows that become Parquet, as a reader of Parquet finds them.

use arrow::array::{
    Array as _, AsArray as _, BooleanArray, Date32Array, FixedSizeBinaryArray, Float64Array, Int32Array,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::schema::printer::print_schema;

use super::*;

impl Rig {
    /// Of all files that readers see.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("out")).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
        files
    }

    /// The first column of all rows, ascending.
    fn ids(&self) -> Vec<i64> {
        let mut ids = Vec::new();
        for path in self.files() {
            assert!(path.extension().is_some_and(|extension| extension == "parquet"), "{path:?}");
            ids.extend(read(&path).column(0).as_primitive::<Int64Type>().values());
        }
        ids.sort_unstable();
        ids
    }
}

fn read(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

async fn write(writer: &mut FilesWriter, from: u64, to: u64, rows: TargetRows) {
    let guard = vec![GuardRow { key_group: id(0), from: mark(from), to: mark(to) }];
    let done = writer.transact(&transaction(guard, vec![Epoch(to)]), &[(Epoch(to), rows)]).await.unwrap();
    assert_eq!(done, Outcome::Committed);
}

/// A field of each type.
fn wide(tombstone: &str, changed: &str) -> Rig {
    let folder = temporary_folder().unwrap();
    let toml = format!(
        "version = 1\nname = \"ward\"\n[source]\ntype = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"t\"\n{tombstone}\n\
         [target.out]\ntype = \"files\"\npath = \"{}\"\nroll = \"1h\"\n\
         [fields]\nid = {{ type = \"int64\", required = true }}\nat = {{ type = \"timestamp\", required = true }}\n\
         s = {{ type = \"string\", required = true }}\nb = {{ type = \"bool\" }}\ni = {{ type = \"int32\" }}\nf = {{ type = \"float64\" }}\n\
         d = {{ type = \"decimal(6,2)\" }}\nw = {{ type = \"decimal(38,10)\" }}\nday = {{ type = \"date\" }}\n\
         u = {{ type = \"uuid\" }}\nj = {{ type = \"json\" }}\n\
         [time]\nfield = \"at\"\n[dedup]\nkey = [\"id\", \"at\"]\nkeep_for = \"1h\"\nchanged = \"{changed}\"\n\
         [[sink]]\nto = \"out\"\nformat = \"parquet\"\n[dead_letter]\nto = \"out\"\n",
        folder.path().join("out").display()
    );
    let submission = Submission { toml, environment: BTreeMap::new(), folder: "/".to_owned(), ..Submission::default() };
    match pulso_job::check(&submission, "job.toml") {
        Ok((job, _)) => Rig { folder, job: Arc::new(job) },
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}

/// A row of values, then one of nulls where `wide` allows them.
fn both() -> Vec<(&'static str, ArrayRef)> {
    let decimal = |value: i128, precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(vec![Some(value), None]).with_precision_and_scale(precision, scale).unwrap())
    };
    let ids = [Some([0xab_u8; 16]), None];
    let moments = vec![1_772_350_200_000_001, -1];
    vec![
        ("id", Arc::new(Int64Array::from(vec![i64::MAX, 2])) as ArrayRef),
        ("at", Arc::new(TimestampMicrosecondArray::from(moments).with_timezone("UTC"))),
        ("s", Arc::new(StringArray::from(vec!["é\"\n", ""]))),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("i", Arc::new(Int32Array::from(vec![Some(-7), None]))),
        ("f", Arc::new(Float64Array::from(vec![Some(f64::NEG_INFINITY), None]))),
        ("d", decimal(-5, 6, 2)),
        ("w", decimal(10_i128.pow(37), 38, 10)),
        ("day", Arc::new(Date32Array::from(vec![Some(-1), None]))),
        ("u", Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids.into_iter(), 16).unwrap())),
        ("j", Arc::new(StringArray::from(vec![Some("{\"x\": [1.10, null]}"), None]))),
    ]
}

fn target_rows(columns: Vec<(&str, ArrayRef)>, changes: &[Change]) -> TargetRows {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let key_groups = vec![KeyGroup(0); changes.len()];
    let sink = SinkRows { sink: 0, batch, changes: changes.into(), key_groups: key_groups.into() };
    TargetRows { sinks: vec![sink], ..TargetRows::default() }
}

fn schema(path: &Path) -> Vec<String> {
    let file = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut schema = Vec::new();
    print_schema(&mut schema, file.metadata().file_metadata().schema());
    let lines = String::from_utf8(schema).unwrap();
    lines.lines().map(|line| line.trim().trim_end_matches(';').to_owned()).collect()
}

#[tokio::test]
async fn every_type_is_what_parquet_calls_it_and_null_is_null() {
    let rig = wide("", "drop");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    write(&mut writer, 0, 1, target_rows(both(), &[Change::Insert; 2])).await;
    writer.finish().await.unwrap();
    let [file] = rig.files().try_into().unwrap();
    assert_eq!(
        schema(&file)[1..12],
        [
            "REQUIRED INT64 id",
            "REQUIRED INT64 at (TIMESTAMP(MICROS,true))",
            "REQUIRED BYTE_ARRAY s (STRING)",
            "OPTIONAL BOOLEAN b",
            "OPTIONAL INT32 i",
            "OPTIONAL DOUBLE f",
            "OPTIONAL INT32 d (DECIMAL(6,2))",
            "OPTIONAL FIXED_LEN_BYTE_ARRAY (16) w (DECIMAL(38,10))",
            "OPTIONAL INT32 day (DATE)",
            "OPTIONAL FIXED_LEN_BYTE_ARRAY (16) u (UUID)",
            "OPTIONAL BYTE_ARRAY j (STRING)",
        ]
    );
    let found = read(&file);
    assert_eq!(found.num_columns(), 11, "nothing is ever corrected: no row needs a mark");
    for ((name, expected), column) in both().iter().zip(found.columns()) {
        assert_eq!(column.as_ref(), expected.as_ref(), "{name}");
    }
}

#[tokio::test]
async fn corrections_and_deletes_are_marked_and_a_delete_needs_its_key_only() {
    let rig = wide("tombstone = { key = [\"id\", \"at\"] }", "update");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    let twice = both().into_iter().map(|(name, array)| (name, arrow::compute::concat(&[&array, &array]).unwrap()));
    let mut columns: Vec<(&str, ArrayRef)> = twice.collect();
    columns[2].1 = Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("c"), None]));
    let changes = [Change::Insert, Change::Correction, Change::Insert, Change::Delete];
    write(&mut writer, 0, 1, target_rows(columns, &changes)).await;
    writer.finish().await.unwrap();
    let [file] = rig.files().try_into().unwrap();
    let lines = schema(&file);
    assert_eq!(lines[3], "OPTIONAL BYTE_ARRAY s (STRING)", "a deleted row has none");
    assert_eq!(lines[12], "OPTIONAL BYTE_ARRAY pulso_change (STRING)");
    let found = read(&file);
    let expected = StringArray::from(vec![None, Some("correction"), None, Some("delete")]);
    assert_eq!(found.column(11).as_ref(), &expected);
    assert!(found.column(2).is_null(3));
}

#[tokio::test]
async fn one_file_a_roll_and_none_without_rows() {
    let rig = Rig::new("1h", "parquet");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    write(&mut writer, 0, 1, TargetRows::default()).await;
    writer.finish().await.unwrap();
    assert_eq!(rig.files(), [""; 0].map(PathBuf::from));
    // An epoch of nothing between two of rows, and one of several rows.
    assert_eq!(commit(&mut writer, &[0], 1, 2, 10).await, Outcome::Committed);
    write(&mut writer, 2, 3, TargetRows::default()).await;
    write(&mut writer, 3, 4, rows(&[(11, "a", Change::Insert), (12, "null", Change::Insert)])).await;
    assert_eq!(rig.files().len(), 0, "not before it is whole");
    writer.finish().await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!((rig.files().len(), rig.ids()), (1, vec![10, 11, 12]));
    let names = read(&rig.files()[0]);
    assert_eq!(names.column(1).as_ref(), &StringArray::from(vec![Some("x"), Some("a"), None]));
    assert_eq!(commit(&mut writer, &[0], 4, 5, 13).await, Outcome::Committed);
    writer.finish().await.unwrap();
    assert_eq!((rig.files().len(), rig.ids()), (2, vec![10, 11, 12, 13]));
}

#[tokio::test]
async fn a_crash_before_or_behind_the_decision_loses_and_doubles_nothing() {
    let rig = Rig::new("1h", "parquet");
    let mut crashed = rig.writer();
    crashed.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    commit(&mut crashed, &[0], 0, 1, 1).await;
    // Something lies where the file is to be: what is decided cannot be published.
    let chain = chains(&rig).pop().unwrap();
    let part = chain.file_name().unwrap().to_string_lossy()[11..19].to_owned();
    let obstacle = rig.folder.path().join(format!("out/ward-sink1-1-{part}-00000002.parquet"));
    std::fs::create_dir(&obstacle).unwrap();
    crashed.finish().await.unwrap_err();
    std::mem::forget(crashed);
    std::fs::remove_dir(&obstacle).unwrap();
    assert_eq!(rig.ids(), [0; 0]);
    let mut next = rig.writer();
    next.take_over(Attempt(2), &ids(&[0]), false).await.unwrap();
    assert_eq!(rig.ids(), [1]);
    assert!(obstacle.is_file(), "under the name that was decided");
    // Rows that nothing is decided about: the takeover makes their file.
    commit(&mut next, &[0], 1, 2, 2).await;
    commit(&mut next, &[0], 2, 3, 3).await;
    std::mem::forget(next);
    rig.writer().take_over(Attempt(3), &ids(&[0]), false).await.unwrap();
    assert_eq!((rig.files().len(), rig.ids()), (2, vec![1, 2, 3]));
}

#[tokio::test]
async fn dead_letters_stay_lines_beside_parquet() {
    let rig = Rig::new("1h", "parquet");
    let mut writer = rig.writer();
    writer.take_over(Attempt(1), &ids(&[0]), true).await.unwrap();
    let schema = pulso_dataflow::batch::letters_schema();
    let letters = RecordBatch::try_new(
        schema,
        vec![
            Arc::new(arrow::array::UInt16Array::from(vec![0])),
            Arc::new(arrow::array::UInt32Array::from(vec![3])),
            Arc::new(Int64Array::from(vec![17])),
            Arc::new(Int64Array::from(vec![0])),
            Arc::new(StringArray::from(vec!["invalid_json"])),
            Arc::new(StringArray::from(vec![None::<&str>])),
            Arc::new(arrow::array::BinaryArray::from(vec![None])),
            Arc::new(arrow::array::BinaryArray::from(vec![Some(&b"{"[..])])),
        ],
    );
    let rows = TargetRows { letters: Some(letters.unwrap()), ..rows(&[(1, "a", Change::Insert)]) };
    write(&mut writer, 0, 1, rows).await;
    writer.finish().await.unwrap();
    let [letters, file] = rig.files().try_into().unwrap();
    assert_eq!(read(&file).num_rows(), 1);
    let line = std::fs::read_to_string(letters).unwrap();
    assert_eq!(line, "{\"reason\":\"invalid_json\",\"field\":null,\"split\":3,\"position\":17,\"value\":\"{\"}\n");
}
