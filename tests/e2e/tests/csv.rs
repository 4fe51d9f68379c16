//! A CSV file that changes in every way, a producer that is killed, and a table that must say what the file says.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pulso_e2e::{Cluster, JobFile, World, healthctl, records, until, until_ok};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "csv-data";

/// By id: name, age, city, value. Empty is null.
type People = BTreeMap<i64, [String; 4]>;

fn person(id: i64, version: i64) -> [String; 4] {
    let age = if id % 7 == 0 { String::new() } else { (20 + id % 60).to_string() };
    let cents = 100 + id * 7 + version;
    [format!("Nome \"{id}\", {version}"), age, "São\nPaulo".to_owned(), format!("{}.{:02}", cents / 100, cents % 100)]
}

fn csv(people: &People) -> String {
    let quoted =
        |cell: &String| if cell.is_empty() { String::new() } else { format!("\"{}\"", cell.replace('"', "\"\"")) };
    let line = |(id, cells): (&i64, &[String; 4])| format!("{id},{}\r\n", cells.each_ref().map(quoted).join(","));
    "\u{feff}id,nome,idade,cidade,valor\r\n".to_owned() + &people.iter().map(line).collect::<String>()
}

/// The file's producer as a process.
struct Producer<'a> {
    world: &'a World,
    file: PathBuf,
    process: Option<Child>,
}

impl Producer<'_> {
    fn command(&self) -> Result<Command> {
        let mut command = healthctl();
        let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jobs/csv-people.toml");
        command.args(["produce", "--topic", TOPIC, "--partitions", "4", "--key", "id", "-o", "json", "--csv"]);
        command.arg(&self.file).arg("--job").arg(job).env("KAFKA_BROKERS", self.world.kafka.brokers());
        let log = std::fs::File::options().create(true).append(true).open(self.file.with_extension("log"))?;
        command.stdin(Stdio::null()).stderr(log);
        Ok(command)
    }

    fn follow(&mut self) -> Result<()> {
        let mut command = self.command()?;
        self.process = Some(command.arg("--follow").stdout(Stdio::null()).spawn()?);
        Ok(())
    }

    /// Waits until the producer knows that everything has arrived, so that a kill finds nothing under way.
    async fn knows(&self) -> Result<()> {
        let state = PathBuf::from(format!("{}.pulso", self.file.display()));
        until("the producer to know", LIMIT, async || Ok(!std::fs::read_to_string(&state)?.contains(",null]"))).await
    }

    /// SIGKILL; returns when it is gone.
    fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("no producer runs")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Reads the file once; records, removals and bad lines.
    fn once(&self) -> Result<[u64; 3]> {
        let done = self.command()?.output()?;
        ensure!(done.status.success(), "the producer ended with {}", done.status);
        let summary: serde_json::Value = serde_json::from_slice(&done.stdout)?;
        ["records", "tombstones", "bad_lines"]
            .map(|name| summary[name].as_u64())
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|counts| counts.try_into().ok())
            .with_context(|| format!("{summary}"))
    }

    /// Another file of this name.
    fn replace(&self, people: &People) -> Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, csv(people))?;
        Ok(std::fs::rename(&new, &self.file)?)
    }

    fn told(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.file.with_extension("log"))?)
    }

    /// What who reads the topic has in the end, and the number of records.
    fn topic(&self) -> Result<(People, usize)> {
        let mut all = records(self.world.kafka.brokers(), TOPIC)?;
        all.sort_by_key(|record| (record.partition, record.offset));
        let mut people = People::new();
        for record in &all {
            let id: i64 = std::str::from_utf8(record.key.as_deref().context("a key")?)?.parse()?;
            let Some(value) = &record.value else {
                people.remove(&id);
                continue;
            };
            let value: serde_json::Value = serde_json::from_slice(value)?;
            ensure!(value["id"] == id, "{value} has key {id}");
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let age = value["idade"].as_i64().map(|age| age.to_string()).unwrap_or_default();
            let amount = format!("{:.2}", value["valor"].as_f64().context("a number")?);
            people.insert(id, [text("nome"), age, text("cidade"), amount]);
        }
        Ok((people, all.len()))
    }

    /// Waits until the topic says what the file shall; the number of records by then.
    async fn topic_is(&self, people: &People) -> Result<usize> {
        let mut count = 0;
        until_ok("the topic to say what the file says", LIMIT, async || {
            let (found, all) = self.topic()?;
            count = all;
            ensure!(found == *people, "{} people, not {}", found.len(), people.len());
            Ok(())
        })
        .await?;
        Ok(count)
    }
}

impl Drop for Producer<'_> {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// The job without what goes to Kafka.
fn job(folder: &Path) -> Result<JobFile> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jobs/csv-people.toml"))?;
    let parts: Vec<&str> = text.split("\n\n").collect();
    let to_kafka = |part: &&&str| part.contains("[target.kafka]") || part.contains("to = \"kafka\"");
    ensure!(parts.iter().filter(to_kafka).count() == 2, "the job is another than this test expects");
    let kept: Vec<&str> = parts.iter().filter(|part| !to_kafka(part)).copied().collect();
    let path = folder.join("csv-people.toml");
    std::fs::write(&path, kept.join("\n\n"))?;
    Ok(JobFile(path))
}

async fn table_is(world: &World, people: &People) -> Result<()> {
    let database = world.database().await?;
    until_ok("the table to say what the file says", LIMIT, async || {
        let select =
            "select id, nome, coalesce(idade::text, ''), coalesce(cidade, ''), valor::text, imposto::text from pessoas";
        let mut found = People::new();
        for row in database.query(select, &[]).await? {
            let value: String = row.try_get(4)?;
            let cents: i64 = value.replace('.', "").parse()?;
            // A tenth, rounded half up.
            let tax = (cents + 5) / 10;
            ensure!(row.try_get::<_, String>(5)? == format!("{}.{:02}", tax / 100, tax % 100), "the tax of {value}");
            found.insert(row.try_get(0)?, [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, value]);
        }
        ensure!(found == *people, "{} people, not {}", found.len(), people.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_follows_a_file_that_changes_in_every_way() -> Result<()> {
    let world = World::start().await?;
    let file = world.folder.path().join("people.csv");
    let mut people: People = (1..=200).map(|id| (id, person(id, 0))).collect();
    std::fs::write(&file, csv(&people))?;
    let mut producer = Producer { world: &world, file: file.clone(), process: None };
    producer.follow()?;
    assert_eq!(producer.topic_is(&people).await?, 200);
    let mut cluster = Cluster::start(&world, &[]).await?;
    let _task_managers = cluster.start_task_managers(2).await?;
    cluster.submit(&job(&cluster.storage().join(".."))?)?;
    table_is(&world, &people).await?;

    // Half of a line, for longer than a file needs to settle: neither new nor is anything removed.
    let mut open = std::fs::File::options().append(true).open(&file)?;
    open.write_all(b"201,\"Nome")?;
    until("the producer to wait", LIMIT, async || Ok(producer.told()?.contains("no end yet"))).await?;
    assert_eq!(producer.topic()?.1, 200);
    open.write_all(b"\",,,1.00\r\n")?;
    people.insert(201, ["Nome".to_owned(), String::new(), String::new(), "1.00".to_owned()]);
    assert_eq!(producer.topic_is(&people).await?, 201);

    // Another file: removed, changed and new lines, and no more records than those.
    people.retain(|id, _| *id > 50);
    people.extend((60..80).chain(300..310).map(|id| (id, person(id, 1))));
    producer.replace(&people)?;
    assert_eq!(producer.topic_is(&people).await?, 201 + 50 + 20 + 10);

    // No file is not a file without lines.
    let away = file.with_extension("away");
    std::fs::rename(&file, &away)?;
    until("the producer to miss the file", LIMIT, async || Ok(producer.told()?.contains("waiting for it"))).await?;
    std::fs::write(&file, "")?;
    until("the producer to miss the header", LIMIT, async || Ok(producer.told()?.contains("no header"))).await?;
    std::fs::rename(&away, &file)?;

    // What changed while there was no producer, and only that; a line that is gone for ever and one that came back.
    producer.knows().await?;
    producer.kill()?;
    people.retain(|id, _| *id <= 290);
    people.insert(1, person(1, 0));
    std::fs::write(&file, csv(&people))?;
    producer.follow()?;
    assert_eq!(producer.topic_is(&people).await?, 281 + 10 + 1);
    table_is(&world, &people).await?;

    // Killed at any moment, also between sending and knowing.
    for round in 0..8 {
        people.retain(|id, _| (id + round) % 5 != 0);
        people.extend((0..1_000).filter(|id| (id + round) % 3 == 0).map(|id| (id, person(id, 10 + round))));
        producer.replace(&people)?;
        tokio::time::sleep(Duration::from_millis(150 + 170 * u64::try_from(round)?)).await;
        producer.kill()?;
        if round % 2 == 0 {
            // Back to what it was for some: the topic may have the other value.
            people.retain(|id, _| (id + round) % 4 != 0);
            producer.replace(&people)?;
        }
        producer.follow()?;
    }
    producer.topic_is(&people).await?;
    table_is(&world, &people).await?;

    // Nothing left to say; bad lines are told and stop nothing.
    producer.knows().await?;
    producer.kill()?;
    assert_eq!(producer.once()?, [0, 0, 0]);
    let bad = csv(&people) + "5000,x\r\n,a,,,1\r\n5001,y,old,,1.5\r\n5002,z,30,,2\r\n";
    std::fs::write(&file, bad)?;
    assert_eq!(producer.once()?, [2, 0, 3]);
    let told = producer.told()?;
    assert!(told.contains("2 columns where the header has 5") && told.contains("column idade is no int32"), "{told}");
    people.insert(5002, ["z".to_owned(), "30".to_owned(), String::new(), "2.00".to_owned()]);
    table_is(&world, &people).await?;
    until_ok("the dead letter of line 5001", LIMIT, async || {
        let status = cluster.json(&["status", "csv-people"])?;
        ensure!(status["dead_letters"] == 1, "{status}");
        Ok(())
    })
    .await
}
