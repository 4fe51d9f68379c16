//! Whether the tables of a changed file are as it wants them, before it takes the place of one that works.

use std::time::Duration;

use pulso_connectors::target::{Inspection, TableFinding};
use pulso_connectors::{mysql, postgres};
use pulso_job::{JobSpec, SinkTo, TargetKind};

/// For the answer of one database.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a look at the databases of a job found.
#[derive(Debug, Default)]
pub(crate) struct Fit {
    /// Would let the job fail, a line each.
    pub(crate) findings: Vec<String>,
    /// Databases that did not tell, and why.
    pub(crate) untold: Vec<String>,
}

/// Changes nothing.
pub(crate) async fn look(spec: &JobSpec) -> Fit {
    let mut fit = Fit::default();
    for (index, target) in spec.targets.iter().enumerate() {
        let asked = async {
            match target.kind {
                TargetKind::Postgres { .. } => postgres::inspect_database(spec, index).await,
                TargetKind::MySql { .. } => mysql::inspect_database(spec, index).await,
                TargetKind::Kafka { .. } | TargetKind::Files { .. } => Ok(Inspection::default()),
            }
        };
        let name = &target.name;
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(found)) => fit.findings.extend(found.findings.iter().map(|one| line(spec, name, one))),
            Ok(Err(reason)) => fit.untold.push(format!("target {name}: {reason}")),
            Err(_) => fit.untold.push(format!("target {name}: no answer within {} s", PATIENCE.as_secs())),
        }
    }
    fit
}

fn line(spec: &JobSpec, target: &str, TableFinding { sink, text }: &TableFinding) -> String {
    let sink = sink.and_then(|index| spec.sinks.get(index)).map(|sink| &sink.to);
    match sink {
        Some(SinkTo::Table(table)) => {
            let (schema, name) = &table.name;
            let dot = if schema.is_empty() { "" } else { "." };
            format!("table {schema}{dot}{name} in {target}: {text}")
        }
        Some(SinkTo::Topic(_) | SinkTo::Files(_)) | None => format!("target {target}: {text}"),
    }
}
