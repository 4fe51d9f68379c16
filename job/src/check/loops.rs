//! What a job writes must not come back as its input.

use std::path::Path;

use glob::Pattern;

use super::sink::Sinks;
use super::source::{self, Source};
use super::target::Targets;
use crate::code;
use crate::document::{Entry, printable};
use crate::reader::Reader;
use crate::spec::{DeadLetterSpec, DeadLettersTo, FileFormat, PATTERN_OPTIONS, SinkTo, SourceSpec, TargetIndex};

/// Topics of Pulso itself: what each job's Kafka targets have committed.
const LEDGERS: &str = "pulso-ledger-";
/// Where a Kafka target puts what its topics take as too large.
const OVERSIZE: &str = "pulso-dead-letters";

/// The name of a topic that a job reads or writes.
pub(super) fn topic(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<String> {
    let topic = source::topic(reader, entry)?;
    if topic.starts_with(LEDGERS) {
        let message = format!("`{}`: topics whose names begin with {LEDGERS} are Pulso's own", printable(&topic));
        reader.error(code::BAD_TOPIC, &entry.span, message);
        return None;
    }
    Some(topic)
}

/// The topic of a sink, or of the dead letters.
pub(super) fn written_topic(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    targets: &Targets,
    target: TargetIndex,
) -> Option<String> {
    let topic = topic(reader, entry)?;
    let brokers = targets.brokers(target).unwrap_or_default();
    if targets.input.as_ref().is_some_and(|(input, read)| *read == topic && is_same_cluster(input, brokers)) {
        let message = "this is the topic that the job reads: it would read what it writes";
        reader.error_help(code::BAD_TOPIC, &entry.span, message, "name another topic");
        return None;
    }
    Some(topic)
}

/// A broker of both. Two names of one cluster are not known to be that.
fn is_same_cluster(one: &str, other: &str) -> bool {
    let brokers = |list: &str| list.split(',').map(|broker| broker.trim().to_ascii_lowercase()).collect::<Vec<_>>();
    let (one, other) = (brokers(one), brokers(other));
    one.iter().any(|broker| other.contains(broker))
}

/// Messages that are too large for their topics end in a topic of Pulso: the job must not read that one.
pub(super) fn oversize_is_no_input(reader: &mut Reader<'_>, source: &Source, targets: &Targets) {
    let SourceSpec::Kafka(kafka) = &source.spec else { return };
    if kafka.topic == OVERSIZE && targets.clusters().any(|brokers| is_same_cluster(&kafka.brokers, brokers)) {
        let message = format!("the job reads `{OVERSIZE}`, where its own target puts messages that are too large");
        reader.error_help(code::BAD_TOPIC, &source.topic_span, message, "write to another cluster, or to a database");
    }
}

/// The same of files.
pub(super) fn files_are_no_input(
    reader: &mut Reader<'_>,
    source: &Source,
    targets: &Targets,
    job: Option<&str>,
    sinks: &Sinks,
    letters: Option<&DeadLetterSpec>,
) {
    let SourceSpec::Files(files) = &source.spec else { return };
    for (target, folder, span) in targets.folders() {
        let mut streams = Vec::new();
        for (index, sink) in sinks.specs.iter().flatten().enumerate().filter(|(_, sink)| sink.target == target) {
            if let SinkTo::Files(format) = sink.to {
                streams.push((format!("sink{}", index + 1), format.extension()));
            }
        }
        if letters.is_some_and(|letters| letters.target == target && letters.to == DeadLettersTo::Files) {
            streams.push(("dead_letters".to_owned(), FileFormat::Jsonl.extension()));
        }
        let job = job.unwrap_or("job");
        // Attempt, writer and number are others each time.
        let name = |(stream, extension): &(String, &str)| format!("{job}-{stream}-12-0a1b2c3d-00000012.{extension}");
        if streams.iter().map(name).any(|name| is_read(&files.pattern, &folder.join(name))) {
            let message =
                "files of this target would match the pattern of the source: the job would read what it writes";
            reader.error(code::BAD_FILES, span, message);
        }
    }
}

fn is_read(pattern: &str, file: &Path) -> bool {
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path_with(file, PATTERN_OPTIONS))
}

/// Whether files that were found by the pattern would be found in this folder too: they keep their names.
pub(super) fn is_found_in(pattern: &str, folder: &Path) -> bool {
    match pattern.rsplit_once('/') {
        Some((folders, name)) if name != "**" => is_read(&format!("{folders}/file"), &folder.join("file")),
        _ => is_read(pattern, &folder.join("file")),
    }
}
