//! The ward's files into MySQL, as the job of the repository says it: only readings of mapped sensors are stored, whatever
//! dies meanwhile. What is expected is worked out from the files' bytes, by no code of the product.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pulso_e2e::{Cluster, TaskManager, alone, names, until, until_ok};
use pulso_servers::{MariaDb, MariaDbOptions};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const SENSORS: [&str; 5] =
    ["frequencia_cardiaca", "temperatura", "saturacao", "frequencia_respiratoria", "pressao_sistolica"];
const PATIENTS: i64 = 12;
/// Has no sensors until a test gives it some.
const UNMAPPED: i64 = 12;

/// `paciente_sensor.id` and the local time of a reading, and its value.
type Registro = BTreeMap<(i64, String), String>;

struct Ward {
    task_managers: Vec<TaskManager>,
    cluster: Cluster,
    mariadb: MariaDb,
    /// That the job's paths are relative to.
    folder: PathBuf,
    generated: u32,
    _files: pulso_servers::TemporaryFolder,
}

impl Ward {
    async fn open(job: impl FnOnce(String) -> String) -> Result<(Self, pulso_e2e::JobFile)> {
        let files = pulso_servers::temporary_folder()?;
        let mariadb = MariaDb::start(MariaDbOptions::new(files.path().join("mariadb"), "hospital")).await?;
        let mut cluster = Cluster::start_at(files.path(), "", mariadb.url(), &["--checkpoint-interval", "1s"]).await?;
        let job = cluster.job("ward-files", job)?;
        let folder = job.0.parent().context("a file is in a folder")?.to_owned();
        let task_managers = cluster.start_task_managers(2).await?;
        let ward = Self { task_managers, cluster, mariadb, folder, generated: 0, _files: files };
        let mut database = ward.database().await?;
        for statement in [
            "create table sensor (id bigint primary key, nome varchar(64) not null unique)",
            "create table paciente_sensor (id bigint primary key, paciente_id bigint not null, sensor_id bigint not null, \
             ativo boolean not null)",
            "create table registro (id bigint auto_increment primary key, paciente_sensor_id bigint not null, \
             valor decimal(6,2) not null, created_at datetime(6) not null, unique (paciente_sensor_id, created_at))",
        ] {
            database.query_drop(statement).await?;
        }
        for (id, name) in (1..).zip(SENSORS) {
            database.exec_drop("insert into sensor values (?, ?)", (id, name)).await?;
        }
        for patient in 1..=PATIENTS {
            for sensor in 1..=5 {
                let row = (mapped(patient, sensor), patient, sensor, patient != UNMAPPED);
                database.exec_drop("insert into paciente_sensor values (?, ?, ?, ?)", row).await?;
            }
        }
        database.disconnect().await?;
        Ok((ward, job))
    }

    async fn database(&self) -> Result<Conn> {
        Ok(Conn::from_url(self.mariadb.url()).await?)
    }

    async fn rename(&self, table: &str, to: &str) -> Result<()> {
        let mut database = self.database().await?;
        database.query_drop(format!("rename table {table} to {to}")).await?;
        Ok(database.disconnect().await?)
    }

    fn troubles(&self) -> Result<String> {
        Ok(self.cluster.json(&["describe", "ward-files"])?["troubles"].to_string())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn generate(&mut self, files: u32) -> Result<()> {
        self.generated += 1;
        let (out, count, seed) = (self.path("output/raw"), files.to_string(), self.generated.to_string());
        let out = out.to_str().context("the path is text")?;
        let patients = PATIENTS.to_string();
        let shares = ["--duplicates", "10%", "--corrections", "10%", "--invalid", "5%", "--bad-records", "5%"];
        let what =
            ["generate", "ward-files", "--out", out, "--count", &count, "--seed", &seed, "--patients", &patients];
        self.cluster.healthctl(&[what.as_slice(), &shares].concat()).map(drop)
    }

    /// Every file that ever was, wherever it lies now, in the order in which they count.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for folder in ["output/raw", "output/raw/broken", "output/done"] {
            for name in names(&self.path(folder))?.iter().filter(|name| name.ends_with(".json")) {
                files.push(self.path(folder).join(name));
            }
        }
        let order = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            (modified, path.file_name().map(ToOwned::to_owned))
        };
        files.sort_by_cached_key(order);
        Ok(files)
    }

    async fn stored(&self) -> Result<Registro> {
        let mut database = self.database().await?;
        let sql = "select paciente_sensor_id, date_format(created_at, '%Y-%m-%dT%H:%i:%s.%f'), cast(valor as char) from registro";
        let rows: Vec<(i64, String, String)> = database.query(sql).await?;
        database.disconnect().await?;
        // The files' times are in milliseconds.
        let row = |(id, time, value): (i64, String, String)| ((id, time[..23].to_owned()), value);
        Ok(rows.into_iter().map(row).collect())
    }

    /// Reason of each dead letter in a file that readers see.
    fn letters(&self) -> Result<BTreeMap<String, u64>> {
        let mut reasons = BTreeMap::new();
        for line in self.lines("output/rejected")? {
            *reasons.entry(line["reason"].as_str().context("a reason")?.to_owned()).or_default() += 1;
        }
        Ok(reasons)
    }

    fn lines(&self, folder: &str) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        for name in names(&self.path(folder))?.iter().filter(|name| name.starts_with("ward-files-")) {
            for line in fs::read_to_string(self.path(folder).join(name))?.lines() {
                lines.push(serde_json::from_str(line)?);
            }
        }
        Ok(lines)
    }

    fn count(&self, name: &str) -> Result<u64> {
        self.cluster.json(&["status", "ward-files"])?[name].as_u64().with_context(|| format!("no {name}"))
    }
}

fn mapped(patient: i64, sensor: i64) -> i64 {
    patient * 100 + sensor
}

/// What the files hold.
#[derive(Default)]
struct Expected {
    registro: Registro,
    records: u64,
    dead_letters: u64,
    /// Good readings that nobody is mapped to.
    unmapped: u64,
    /// Files that are no document, and their sizes.
    bad: Vec<(PathBuf, usize)>,
}

impl Expected {
    fn of(files: &[PathBuf], is_mapped: impl Fn(&Path, i64) -> bool) -> Result<Self> {
        let mut expected = Self::default();
        for path in files {
            let bytes = fs::read(path)?;
            let document = serde_json::from_slice::<Value>(&bytes).ok();
            let Some(records) = document.as_ref().and_then(|document| document["records"].as_array()) else {
                expected.records += 1;
                expected.dead_letters += 1;
                expected.bad.push((path.clone(), bytes.len()));
                continue;
            };
            let patient = document.as_ref().and_then(|d| d["paciente"]["id"].as_i64()).context("a patient")?;
            expected.records += records.len() as u64;
            for record in records {
                expected.record(patient, record, is_mapped(path, patient));
            }
        }
        ensure!(expected.registro.len() > 500 && expected.unmapped > 20, "too few to prove anything");
        Ok(expected)
    }

    fn record(&mut self, patient: i64, record: &Value, is_mapped: bool) {
        let value = record["valor"].as_number().map(ToString::to_string);
        // `36.5` and `36.55` are fine, `36.555` is not.
        let value = value.filter(|text| text.split_once('.').is_none_or(|(_, cents)| cents.len() <= 2));
        let time = record["timestamp"].as_str().filter(|time| !time.contains("-02-30"));
        let (Some(value), Some(time), Some(sensor)) = (value, time, record["sensor"].as_str()) else {
            self.dead_letters += 1;
            return;
        };
        let sensor = SENSORS.iter().position(|known| *known == sensor).filter(|_| is_mapped);
        let Some(sensor) = sensor else {
            self.dead_letters += 1;
            self.unmapped += 1;
            return;
        };
        let (whole, cents) = value.split_once('.').unwrap_or((&value, ""));
        let id = mapped(patient, i64::try_from(sensor).unwrap_or(0) + 1);
        self.registro.insert((id, time.to_owned()), format!("{whole}.{cents:0<2}"));
    }
}

fn same(expected: &Registro, stored: &Registro) -> Result<()> {
    for (key, value) in expected {
        ensure!(stored.get(key) == Some(value), "{key:?} is {:?} and not {value:?}", stored.get(key));
    }
    ensure!(stored.len() == expected.len(), "{} rows instead of {}", stored.len(), expected.len());
    Ok(())
}

/// Waits until everything is where the files say it must be.
async fn is_right(ward: &Ward, is_mapped: impl Fn(&Path, i64) -> bool) -> Result<Expected> {
    let expected = Expected::of(&ward.files()?, is_mapped)?;
    until_ok("registro to be as the files say", LIMIT, async || same(&expected.registro, &ward.stored().await?))
        .await?;
    let counted = ward.cluster.job_accounts_for("ward-files", expected.records).await;
    counted.with_context(|| format!("bad files: {:?}", expected.bad))?;
    ensure!(ward.count("dead_letters")? == expected.dead_letters, "{} dead letters expected", expected.dead_letters);
    Ok(expected)
}

/// The files for readers hold what was written and what was refused, once the job has ended and finished them.
async fn files_are_right(ward: &Ward, expected: &Expected) -> Result<()> {
    let written = ward.count("written")?;
    ward.cluster.healthctl(&["stop", "ward-files"])?;
    until_ok("the files to be finished", LIMIT, async || {
        let letters = ward.letters()?;
        let sum: u64 = letters.values().sum();
        ensure!(sum == expected.dead_letters, "{sum} of {} dead letters: {letters:?}", expected.dead_letters);
        ensure!(letters.get("lookup:mapping") == Some(&expected.unmapped), "{} of {letters:?}", expected.unmapped);
        let trusted = ward.lines("output/trusted")?;
        ensure!(trusted.len() as u64 == written, "{} lines for {written} changes", trusted.len());
        ensure!(trusted.iter().all(|line| line["patient_id"].is_i64() && line["valor"].is_number()), "odd lines");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_mapped_sensors_are_stored_once_through_kills() -> Result<()> {
    let _alone = alone().await;
    let (mut ward, job) = Ward::open(|job| job).await?;
    let unchanged = Cluster::example("ward-files");
    ensure!(fs::read(&job.0)? == fs::read(&unchanged.0)?, "the job is that of the repository");
    ward.generate(150)?;
    ward.cluster.submit(&job)?;
    for _ in 0..2 {
        ward.generate(60)?;
        let attempt = ward.cluster.attempt("ward-files")?;
        ward.task_managers.remove(0).kill()?;
        ward.generate(60)?;
        ward.task_managers.push(ward.cluster.start_task_manager()?);
        until("another attempt", LIMIT, async || Ok(ward.cluster.attempt("ward-files")? > attempt)).await?;
    }
    ward.cluster.kill_jobmanager()?;
    ward.generate(60)?;
    ward.cluster.start_jobmanager()?;
    let expected = is_right(&ward, |_, patient| patient != UNMAPPED).await?;
    files_are_right(&ward, &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_mapping_counts_for_later_files_and_a_replay_joins_as_before() -> Result<()> {
    let _alone = alone().await;
    // Without checkpoints everything is replayed.
    let (mut ward, job) = Ward::open(|job| {
        assert!(job.contains("refresh = \"60s\""), "the job is not as this test expects");
        job.replace("refresh = \"60s\"", "refresh = \"1s\"")
    })
    .await?;
    ward.generate(120)?;
    ward.rename("sensor", "away").await?;
    let refused = ward.cluster.submit(&job).expect_err("no table, no job").to_string();
    ensure!(refused.contains("lookup `mapping` (target `hospital`)"), "{refused}");
    ward.rename("away", "sensor").await?;
    ward.cluster.submit(&job)?;
    is_right(&ward, |_, patient| patient != UNMAPPED).await?;
    // While the table is away the rows are those of before.
    ward.rename("sensor", "away").await?;
    until("the trouble to be told", LIMIT, async || Ok(ward.troubles()?.contains("`mapping`"))).await?;
    ward.generate(30)?;
    is_right(&ward, |_, patient| patient != UNMAPPED).await?;
    ward.rename("away", "sensor").await?;
    until("the trouble to be over", LIMIT, async || Ok(ward.troubles()? == "[]")).await?;
    let before: Vec<_> = ward.files()?.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
    let mut database = ward.database().await?;
    database.exec_drop("update paciente_sensor set ativo = true where paciente_id = ?", (UNMAPPED,)).await?;
    database.disconnect().await?;
    until("the new rows to be in a cut", LIMIT, async || {
        let lookups = &ward.cluster.json(&["describe", "ward-files"])?["lookups"];
        Ok(lookups["rows"] == serde_json::json!([60]) && lookups["waits"] == false)
    })
    .await?;
    ward.generate(60)?;
    let is_mapped = |path: &Path, patient: i64| {
        patient != UNMAPPED || path.file_name().is_some_and(|name| !before.iter().any(|old| old == name))
    };
    is_right(&ward, is_mapped).await?;
    // Another file takes the job over, and is what the replay below begins with.
    let text = fs::read_to_string(&job.0)?;
    ensure!(text.contains("keep_for = \"24h\""), "the job is not as this test expects");
    fs::write(&job.0, text.replace("keep_for = \"24h\"", "keep_for = \"48h\""))?;
    let told = ward.cluster.healthctl(&["submit", job.0.to_str().context("the path is text")?, "--wait"])?;
    ensure!(told.contains("positions: kept") && told.contains("dedup: kept"), "{told}");
    ward.generate(60)?;
    is_right(&ward, is_mapped).await?;
    for process in std::mem::take(&mut ward.task_managers) {
        process.kill()?;
    }
    ward.cluster.kill_jobmanager()?;
    ward.generate(60)?;
    ward.cluster.start_jobmanager()?;
    ward.task_managers = ward.cluster.start_task_managers_of_new_jobmanager(2).await?;
    let expected = is_right(&ward, is_mapped).await?;
    files_are_right(&ward, &expected).await
}
