//! What the servers say to a job: its topics, its tables in the databases, and the rows of its lookups. Nothing is changed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use pulso_connectors::kafka::{KafkaError, TopicFacts, inspect_topic};
use pulso_connectors::lookup::{self, LookupError};
use pulso_connectors::target::Inspection;
use pulso_connectors::{mysql, postgres};
use pulso_dataflow::lookup::encode;
use pulso_job::{
    DeadLettersTo, Finding, FindingKind, JobSpec, KafkaSourceSpec, LookupSpec, OnChange, OnDataLoss, Place, SinkTo,
    SourceSpec, StartPosition, Submission, TargetKind,
};
use secrecy::SecretString;

/// Of all questions to one server; each has shorter ones of its own.
const PATIENCE: Duration = Duration::from_secs(45);

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) findings: Vec<Finding>,
    /// What is as it should be, a line each.
    pub(super) facts: Vec<String>,
}

impl Answers {
    fn finding(&mut self, place: Place, kind: FindingKind, text: &str) {
        // The statement that mends it is the help.
        let (message, help) = match text.split_once("; run: ") {
            Some((message, statement)) => (message.to_owned(), format!("run: {statement}")),
            None => (text.to_owned(), String::new()),
        };
        self.findings.push(Finding { place, kind, message, help });
    }

    fn fact(&mut self, text: String) {
        self.facts.push(text);
    }
}

/// Asks all servers at once. The columns of lookups become part of the submission: the file is to be checked with them.
pub(super) async fn ask(spec: &JobSpec, submission: &mut Submission) -> Answers {
    let targets = join_all((0..spec.targets.len()).map(|index| target(spec, index)));
    let (source, targets, lookups) = futures::join!(source(spec), targets, lookups(spec, submission));
    let mut all = source;
    for answers in targets.into_iter().chain([lookups]) {
        all.findings.extend(answers.findings);
        all.facts.extend(answers.facts);
    }
    all
}

async fn source(spec: &JobSpec) -> Answers {
    let mut answers = Answers::default();
    let kafka = match &spec.source {
        SourceSpec::Kafka(kafka) => kafka,
        SourceSpec::Files(files) => {
            answers.fact(format!("files {}: what the cluster sees of them is not asked", files.pattern));
            return answers;
        }
    };
    match topic(kafka).await {
        Ok(facts) => {
            let compacted = match facts.compacted {
                Some(true) => ", compacted",
                Some(false) => "",
                None => ", and the brokers do not tell whether it is compacted",
            };
            answers.fact(format!("topic {}: {}{compacted}", kafka.topic, partitions(facts)));
            if facts.compacted == Some(true) && kafka.on_change == OnChange::Fail {
                let message =
                    format!("topic {} is compacted: a replay may miss records that the first run saw", kafka.topic);
                let help = "read a topic that is not compacted: a replay that differs fails the job. With on_change = \"accept\" \
                            (upserts only, no aggregates) this is not told, but the job fails all the same";
                let place = Place::Source { key: "topic" };
                let kind = FindingKind::Compacted;
                answers.findings.push(Finding { place, kind, message, help: help.to_owned() });
            }
        }
        Err(Trouble::Topic(text)) => answers.finding(Place::Source { key: "topic" }, FindingKind::Topic, &text),
        Err(Trouble::Missing(text)) => answers.finding(Place::Source { key: "topic" }, FindingKind::Topic, &text),
        Err(Trouble::Server(text)) => {
            answers.finding(Place::Source { key: "brokers" }, FindingKind::Unreachable, &text);
        }
    }
    answers
}

async fn target(spec: &JobSpec, index: usize) -> Answers {
    match spec.targets.get(index).map(|target| &target.kind) {
        Some(TargetKind::Postgres { .. }) => database(spec, index, postgres::inspect_database(spec, index), '"').await,
        Some(TargetKind::MySql { .. }) => database(spec, index, mysql::inspect_database(spec, index), '`').await,
        Some(TargetKind::Kafka { brokers, security }) => topics(spec, index, brokers, security).await,
        Some(TargetKind::Files { folder, .. }) => {
            let mut answers = Answers::default();
            answers.fact(format!("folder {}: whether TaskManagers may write there is not asked", folder.display()));
            answers
        }
        None => Answers::default(),
    }
}

/// `quote` stands around the names that `look` gives.
async fn database(
    spec: &JobSpec,
    index: usize,
    look: impl Future<Output = Result<Inspection, String>>,
    quote: char,
) -> Answers {
    let mut answers = Answers::default();
    let name = spec.targets.get(index).map_or("", |target| &target.name);
    let place = Place::Target { index, key: "url" };
    let inspection = match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(inspection)) => inspection,
        Ok(Err(text)) => {
            answers.finding(place, FindingKind::Unreachable, &format!("target {name}: {text}"));
            return answers;
        }
        Err(_) => {
            let text = format!("target {name}: no answer within {} s", PATIENCE.as_secs());
            answers.finding(place, FindingKind::Unreachable, &text);
            return answers;
        }
    };
    for found in &inspection.findings {
        let place = found.sink.map_or(place, |index| Place::Sink { index, key: "table" });
        answers.finding(place, FindingKind::Table, &found.text);
    }
    for table in spec.tables(index) {
        let (schema, name) = &table.table.name;
        let parts = [schema, name].into_iter().filter(|part| !part.is_empty());
        let quoted = parts.clone().map(|part| format!("{quote}{part}{quote}")).collect::<Vec<_>>().join(".");
        let bad = inspection.findings.iter().any(|found| found.sink == Some(table.index));
        let state = if inspection.to_be_made.contains(&quoted) { "is made at the first start" } else { "fits" };
        if !bad {
            let name = parts.map(String::as_str).collect::<Vec<_>>().join(".");
            answers.fact(format!("table {name}: {state}"));
        }
    }
    answers
}

/// Topics that sinks and dead letters go to; those that are missing are made by the job.
async fn topics(spec: &JobSpec, target: usize, brokers: &str, security: &[(String, SecretString)]) -> Answers {
    let mut answers = Answers::default();
    let sinks = spec.sinks.iter().enumerate().filter(|(_, sink)| sink.target == target);
    let mut wanted: Vec<(&str, Place)> = sinks
        .filter_map(|(index, sink)| match &sink.to {
            SinkTo::Topic(topic) => Some((topic.topic.as_str(), Place::Sink { index, key: "topic" })),
            SinkTo::Table(_) | SinkTo::Files(_) => None,
        })
        .collect();
    if let (DeadLettersTo::Topic(topic), true) = (&spec.dead_letter.to, spec.dead_letter.target == target) {
        wanted.push((topic, Place::DeadLetter { key: "topic" }));
    }
    let mut seen = BTreeSet::new();
    for (name, place) in wanted.into_iter().filter(|(name, _)| seen.insert(*name)) {
        let source = KafkaSourceSpec {
            brokers: brokers.to_owned(),
            topic: name.to_owned(),
            start: StartPosition::Earliest,
            tombstone_key: None,
            on_data_loss: OnDataLoss::Fail,
            on_change: OnChange::Fail,
            security: security.to_vec(),
            max_record: 0,
        };
        match topic(&source).await {
            Ok(facts) => answers.fact(format!("topic {name}: {}", partitions(facts))),
            Err(Trouble::Missing(_)) => answers.fact(format!("topic {name}: is made at the first start")),
            Err(Trouble::Topic(text)) => answers.finding(place, FindingKind::Topic, &text),
            Err(Trouble::Server(text)) => {
                answers.finding(Place::Target { index: target, key: "brokers" }, FindingKind::Unreachable, &text);
                break;
            }
        }
    }
    answers
}

/// First the columns of all lookups; then, where the file is right with them, the rows.
async fn lookups(spec: &JobSpec, submission: &mut Submission) -> Answers {
    let mut answers = Answers::default();
    let told = join_all(spec.lookups.iter().map(|asked| lookup::types(spec, asked))).await;
    for (index, (asked, told)) in spec.lookups.iter().zip(told).enumerate() {
        match told {
            Ok(types) => drop(submission.lookups.insert(asked.name.clone(), types)),
            Err(error) => lookup_failed(&mut answers, index, &error),
        }
    }
    let Ok((spec, _)) = pulso_job::check(submission, "") else { return answers };
    let known = spec.lookups.iter().enumerate().filter(|(_, asked)| asked.known);
    let found = join_all(known.map(async |(index, asked)| (index, asked, rows(&spec, asked).await))).await;
    for (index, asked, found) in found {
        match found {
            Ok(rows) => answers.fact(format!("lookup {}: {rows} row{}", asked.name, if rows == 1 { "" } else { "s" })),
            Err(error) => lookup_failed(&mut answers, index, &error),
        }
    }
    answers
}

/// How many rows there are; an error too where a record would fit several.
async fn rows(spec: &JobSpec, asked: &LookupSpec) -> Result<usize, LookupError> {
    let rows = lookup::rows(spec, asked).await?;
    encode(asked, &rows).map_err(|error| LookupError::Refused { message: error.to_string() })?;
    Ok(rows.num_rows())
}

fn lookup_failed(answers: &mut Answers, index: usize, error: &LookupError) {
    match error {
        LookupError::Unavailable { message } => {
            answers.finding(Place::Lookup { index, key: "in" }, FindingKind::Unreachable, message);
        }
        LookupError::Refused { message } => {
            answers.finding(Place::Lookup { index, key: "sql" }, FindingKind::Lookup, message);
        }
    }
}

/// What is wrong with a topic, by what it is about.
enum Trouble {
    Server(String),
    Topic(String),
    Missing(String),
}

async fn topic(source: &KafkaSourceSpec) -> Result<TopicFacts, Trouble> {
    match tokio::time::timeout(PATIENCE, inspect_topic(source)).await {
        Ok(Ok(facts)) => Ok(facts),
        Ok(Err(error)) => Err(match &error {
            KafkaError::MissingTopic { .. } => Trouble::Missing(error.to_string()),
            KafkaError::Denied { .. } | KafkaError::DataLoss { .. } | KafkaError::Recreated { .. } => {
                Trouble::Topic(error.to_string())
            }
            KafkaError::Unreachable { .. } | KafkaError::Damaged { .. } | KafkaError::Invalid { .. } => {
                Trouble::Server(error.to_string())
            }
        }),
        Err(_) => Err(Trouble::Server(format!("no answer from {} within {} s", source.brokers, PATIENCE.as_secs()))),
    }
}

fn partitions(facts: TopicFacts) -> String {
    if facts.partitions == 1 { "1 partition".to_owned() } else { format!("{} partitions", facts.partitions) }
}
