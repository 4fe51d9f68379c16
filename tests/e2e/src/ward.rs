//! Bedside collectors that write files into a folder, good and bad, and what must come of them. What is expected is worked
//! out from what was written here, by no code of the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use pulso_servers::{Postgres, PostgresOptions, TemporaryFolder};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::MutexGuard;

use crate::tables::{python, text};
use crate::{Cluster, TaskManager, until_ok};

const LIMIT: Duration = Duration::from_secs(60);
const JOB: &str = r#"version = 1
name = "ward"
key_groups = 8

[source]
type = "files"
path = "raw/*.json"
format = "json"
each = "records"
follow = true
when_bad = { move_to = "raw/broken" }
when_done = { move_to = "done" }

[target.db]
type = "postgres"
url = { env = "DATABASE_URL" }

[fields]
patient_id = { type = "int64", path = ["^paciente.id"], required = true }
sensor = { type = "string", required = true }
valor = { type = "decimal(6,2)", required = true }
at = { type = "timestamp", path = ["timestamp"], required = true }

[time]
field = "at"

[dedup]
key = ["patient_id", "sensor", "at"]
keep_for = "24h"
changed = "update"

[[sink]]
to = "db"
table = "readings"
key = ["patient_id", "sensor", "at"]
create = true
"#;

/// To be appended to the job: the same rows as lines of files too. It ends in the sink.
pub const FILES_SINK: &str = r#"
[target.out]
type = "files"
path = "out"
roll = "1s"

[[sink]]
to = "out"
"#;

/// The same for its dead letters.
pub const FILES_LETTERS: &str = r#"
[dead_letter]
to = "out"
"#;

/// Patient, sensor, microseconds since 1970.
type Key = (i64, String, i64);
/// In hundredths.
type Value = i64;

/// A cluster without Kafka, a folder of files and what was put there.
pub struct Ward {
    // In this order they are dropped: whoever writes into the folder goes before it.
    pub task_managers: Vec<TaskManager>,
    pub cluster: Cluster,
    pub postgres: Postgres,
    pub folder: TemporaryFolder,
    expected: BTreeMap<Key, Value>,
    /// Every value that any good record of a key had.
    ever: BTreeSet<(Key, Value)>,
    /// File and reason of every dead letter.
    letters: BTreeMap<(String, String), usize>,
    /// Elements of good files, and one for each bad file.
    records: u64,
    /// Names of all files, and which of them are bad.
    names: BTreeSet<String>,
    broken: BTreeSet<String>,
    random: StdRng,
    written: usize,
    /// When the newest file was written, by its own account.
    last: SystemTime,
    _alone: MutexGuard<'static, ()>,
}

impl Ward {
    pub async fn open(flags: &[&str]) -> Result<Self> {
        let alone = crate::alone().await;
        let folder = pulso_servers::temporary_folder()?;
        let postgres = Postgres::start(PostgresOptions::new(folder.path().join("postgres"), "ward")).await?;
        let cluster = Cluster::start_at(folder.path(), "", postgres.url(), flags).await?;
        for name in ["raw", "hidden"] {
            fs::create_dir_all(folder.path().join(name))?;
        }
        Ok(Self {
            task_managers: Vec::new(),
            cluster,
            postgres,
            folder,
            expected: BTreeMap::new(),
            ever: BTreeSet::new(),
            letters: BTreeMap::new(),
            records: 0,
            names: BTreeSet::new(),
            broken: BTreeSet::new(),
            random: StdRng::seed_from_u64(11),
            written: 0,
            last: UNIX_EPOCH,
            _alone: alone,
        })
    }

    /// The job's file is written and submitted.
    pub fn submit(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.path("job.toml");
        fs::write(&path, change(JOB.to_owned()))?;
        self.cluster.healthctl(&["submit", path.to_str().context("the path is text")?]).map(drop)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes so many files as collectors do: under a hidden name first. Some are bad, some come twice under two names,
    /// some correct what an earlier one said.
    pub fn collect(&mut self, files: usize) -> Result<()> {
        for _ in 0..files {
            let name = format!("ward-{:05}.json", self.written);
            self.written += 1;
            let choice = self.random.random_range(0..20);
            let text = if choice == 0 { self.bad_file(&name) } else { self.good_file(&name) };
            self.put(&name, &text)?;
            if choice == 1 {
                let again = format!("again-{name}");
                // The same records: all of them duplicates. Its bad ones are dead letters once more.
                self.count(&again, &text);
                self.put(&again, &text)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, name: &str, text: &str) -> Result<()> {
        let hidden = self.path("hidden").join(name);
        fs::write(&hidden, text)?;
        // A later file has a later time, in milliseconds.
        self.last = SystemTime::now().max(self.last + Duration::from_millis(2));
        fs::File::options().append(true).open(&hidden)?.set_modified(self.last)?;
        fs::rename(&hidden, self.path("raw").join(name))?;
        self.names.insert(name.to_owned());
        Ok(())
    }

    fn bad_file(&mut self, name: &str) -> String {
        self.broken.insert(name.to_owned());
        let (text, reason) = match self.random.random_range(0..3) {
            0 => ("{\"paciente\":{\"id\":1},\"records\":[{\"sensor\":\"hr\"", "invalid_json"),
            1 => ("{\"paciente\":{\"id\":1},\"records\":{}}", "no_records"),
            _ => ("not json at all", "invalid_json"),
        };
        self.letter(name, reason);
        self.records += 1;
        text.to_owned()
    }

    fn good_file(&mut self, name: &str) -> String {
        let patient = self.random.random_range(1..40_i64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let base = i64::try_from(now).unwrap_or(0) - 7_200;
        let count = self.random.random_range(0..30);
        let mut records = Vec::new();
        for _ in 0..count {
            let sensor = ["hr", "spo2", "temp"][self.random.random_range(0..3)];
            let at = base - base % 60 + 60 * self.random.random_range(0..60_i64);
            let value = self.random.random_range(0..100_000_i64);
            let text = timestamp(at);
            let (whole, cents) = (value / 100, value % 100);
            records.push(match self.random.random_range(0..25) {
                0 => format!(r#"{{"sensor":"{sensor}","valor":"{whole}","timestamp":"{text}"}}"#),
                1 => format!(r#"{{"valor":{whole}.{cents:02},"timestamp":"{text}"}}"#),
                2 => "17".to_owned(),
                _ => {
                    let key = (patient, sensor.to_owned(), at * 1_000_000);
                    self.ever.insert((key.clone(), value));
                    self.expected.insert(key, value);
                    format!(r#"{{"sensor":"{sensor}","valor":{whole}.{cents:02},"timestamp":"{text}"}}"#)
                }
            });
        }
        let text = format!("{{\"paciente\":{{\"id\":{patient}}},\n \"records\":[{}]}}\n", records.join(",\n  "));
        self.count(name, &text);
        text
    }

    /// By the shapes that `good_file` gives to bad records.
    fn count(&mut self, name: &str, text: &str) {
        let records = text.matches("\"timestamp\"").count() + text.lines().filter(|line| is_17(line)).count();
        self.records += records as u64;
        for _ in 0..text.matches("\"valor\":\"").count() {
            self.letter(name, "wrong_type");
        }
        for _ in 0..text.matches("{\"valor\"").count() {
            self.letter(name, "missing_field");
        }
        for _ in 0..text.lines().filter(|line| is_17(line)).count() {
            self.letter(name, "not_an_object");
        }
    }

    fn letter(&mut self, name: &str, reason: &str) {
        *self.letters.entry((name.to_owned(), reason.to_owned())).or_default() += 1;
    }

    pub async fn database(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(self.postgres.url(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Waits until the table holds exactly what was written.
    pub async fn table_is_right(&self) -> Result<()> {
        ensure!(self.expected.len() > 20, "a test without rows cannot fail");
        let database = self.database().await?;
        until_ok("the table to be as what was written", LIMIT, async || {
            let sql = "select patient_id, sensor, (extract(epoch from at) * 1000000)::bigint, (valor * 100)::bigint \
                       from readings";
            let mut stored = BTreeMap::new();
            for row in database.query(sql, &[]).await? {
                let key: Key = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                ensure!(stored.insert(key.clone(), row.try_get(3)?).is_none(), "{key:?} is there twice");
            }
            same(&self.expected, &stored)
        })
        .await
    }

    /// Waits until the table of dead letters names each bad file and record once.
    pub async fn letters_are_right(&self) -> Result<()> {
        let database = self.database().await?;
        until_ok("the dead letters to be as what was written", LIMIT, async || {
            let mut stored: BTreeMap<(String, String), usize> = BTreeMap::new();
            for row in database.query("select key, reason from pulso.dead_letters", &[]).await? {
                let key: serde_json::Value = serde_json::from_slice(row.try_get(0)?)?;
                *stored.entry((file_name(key["file"].as_str().context("a file")?), row.try_get(1)?)).or_default() += 1;
            }
            same(&self.letters, &stored)
        })
        .await
    }

    /// Waits until the files that the job has written tell of every change that it counts, and of nothing else: of each
    /// key one new row, and the value that it has at the end.
    pub async fn written_files_are_right(&self) -> Result<()> {
        until_ok("the files to hold what was written", LIMIT, async || {
            let (mut new, mut values) = (BTreeMap::new(), BTreeSet::new());
            let lines = self.written("sink2")?;
            for line in &lines {
                let time = line["at"].as_str().context("a time")?;
                let value = (line["valor"].as_f64().context("a number")? * 100.0).round();
                let value: Value = format!("{value}").parse()?;
                let patient = line["patient_id"].as_i64().context("a patient")?;
                let key: Key = (patient, line["sensor"].as_str().context("a sensor")?.to_owned(), micros(time)?);
                ensure!(self.ever.contains(&(key.clone(), value)), "{line} was never sent");
                if line.get("pulso_change").is_none() {
                    ensure!(new.insert(key.clone(), ()).is_none(), "{line} is new twice");
                }
                values.insert((key, value));
            }
            ensure!(new.len() == self.expected.len(), "{} keys instead of {}", new.len(), self.expected.len());
            for (key, value) in &self.expected {
                ensure!(values.contains(&(key.clone(), *value)), "{key:?} ends with {value}, which is in no file");
            }
            let written = self.status()?["written"].as_u64().context("a count")?;
            ensure!(written == lines.len() as u64, "{} lines for {written} changes", lines.len());
            Ok(())
        })
        .await
    }

    /// Waits until the files of dead letters name each bad file and record once.
    pub async fn letters_in_files_are_right(&self) -> Result<()> {
        until_ok("the files of dead letters to be as what was written", LIMIT, async || {
            let mut stored: BTreeMap<(String, String), usize> = BTreeMap::new();
            let mut places = BTreeSet::new();
            for line in self.written("dead_letters")? {
                let file = file_name(line["file"].as_str().context("a file")?);
                ensure!(places.insert((file.clone(), line["byte"].as_u64())), "{line} is there twice");
                let reason = line["reason"].as_str().context("a reason")?;
                *stored.entry((file, reason.to_owned())).or_default() += 1;
            }
            same(&self.letters, &stored)
        })
        .await
    }

    /// Lines of the files that readers see; of Parquet what DuckDB makes of it.
    fn written(&self, part: &str) -> Result<Vec<serde_json::Value>> {
        let mut lines = Vec::new();
        let names = names(&self.path("out"))?.into_iter().filter(|name| name.starts_with(&format!("ward-{part}-")));
        let (tables, names): (Vec<String>, Vec<String>) = names.partition(|name| name.ends_with(".parquet"));
        if !tables.is_empty() {
            lines.extend(self.rows_of_tables(&tables)?);
        }
        for name in names {
            for line in fs::read_to_string(self.path("out").join(&name))?.lines() {
                lines.push(serde_json::from_str(line).with_context(|| format!("{name}: {line}"))?);
            }
        }
        Ok(lines)
    }

    fn rows_of_tables(&self, names: &[String]) -> Result<Vec<serde_json::Value>> {
        let (out, paths) = (self.path("tables.json"), names.iter().map(|name| self.path("out").join(name)));
        let paths: Vec<PathBuf> = paths.collect();
        let arguments = std::iter::once(&out).chain(&paths).map(|path| text(path)).collect::<Result<Vec<_>>>()?;
        python("parquet.py", &arguments)?;
        let found: serde_json::Value = serde_json::from_reader(fs::File::open(out)?)?;
        let types = serde_json::json!({
            "patient_id": "BIGINT", "sensor": "VARCHAR", "valor": "DECIMAL(6,2)", "at": "TIMESTAMP WITH TIME ZONE",
            "pulso_change": "VARCHAR",
        });
        ensure!(found["types"] == types, "{}", found["types"]);
        found["rows"].as_array().cloned().context("rows")
    }

    /// Waits until every file lies where the job wants it once nothing needs it: none is lost, none is left.
    pub async fn files_are_tidy(&self) -> Result<()> {
        until_ok("the files to be moved away", LIMIT, async || {
            let (raw, done, broken) =
                (names(&self.path("raw"))?, names(&self.path("done"))?, names(&self.path("raw/broken"))?);
            ensure!(raw.is_empty(), "{} files are left, one is {:?}", raw.len(), raw.first());
            ensure!(broken == self.broken, "bad files: {broken:?} and not {:?}", self.broken);
            let good: BTreeSet<String> = self.names.difference(&self.broken).cloned().collect();
            ensure!(done == good, "{} good files instead of {}", done.len(), good.len());
            Ok(())
        })
        .await
    }

    pub async fn is_conserved(&self) -> Result<()> {
        self.cluster.job_accounts_for("ward", self.records).await
    }

    /// For a test that fails.
    pub fn explain(&self) {
        self.cluster.print_logs();
        eprintln!("--- status\n{:?}", self.status());
    }

    pub fn status(&self) -> Result<serde_json::Value> {
        self.cluster.json(&["status", "ward"])
    }
}

fn is_17(line: &str) -> bool {
    line.trim().trim_start_matches("\"records\":[").trim_end_matches([',', ']', '}']) == "17"
}

/// Files of a folder; none where there is no folder.
pub fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(BTreeSet::new()) };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

fn same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    expected: &BTreeMap<K, V>,
    stored: &BTreeMap<K, V>,
) -> Result<()> {
    for (key, value) in expected {
        ensure!(stored.get(key) == Some(value), "{key:?} is {:?} and not {value:?}", stored.get(key));
    }
    let extra = stored.keys().find(|key| !expected.contains_key(key));
    ensure!(extra.is_none(), "{extra:?} was never written");
    Ok(())
}

/// The other way round, of times as this job writes them.
fn micros(time: &str) -> Result<i64> {
    let number = |range: std::ops::Range<usize>| Ok::<i64, anyhow::Error>(time.get(range).context("a time")?.parse()?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Only the last days can be meant: all times here are of the last hours.
    let today = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400)?;
    let is_it = |day: &i64| timestamp(day * 86_400).get(..10) == time.get(..10);
    let midnight = (today - 3..=today).find(is_it).context("a day")?;
    ensure!(time.ends_with(".000000Z"), "{time} is in whole seconds of UTC");
    Ok((midnight * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000_000)
}

/// RFC 3339 by civil-from-days (Howard Hinnant): the product's own calendar is what is tested.
fn timestamp(seconds: i64) -> String {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
