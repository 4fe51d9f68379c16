//! The rows of a `[[lookup]]`: what its query gives in a database, as Arrow.

mod reading;
mod value;

use std::time::Duration;

use arrow::array::RecordBatch;
use pulso_job::spec::{JobSpec, LookupSpec, TargetKind};
use thiserror::Error;

pub(crate) use reading::{QueryColumn, Reading, Written};

use crate::database::{Failure, Kind, Zone};
use crate::{mysql, postgres};

/// Sessions end a statement after 60 s; this is for a server that does not answer at all.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a lookup has no rows, by what the caller does about it. Messages name the lookup and its target, and hold no values
/// of rows; behind `; run: ` is what an administrator mends it with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LookupError {
    /// The database does not answer, or not now. Worth another try.
    #[error("{message}")]
    Unavailable { message: String },
    /// The query is wrong, a privilege is missing, or the rows are too many or not those of this lookup.
    #[error("{message}")]
    Refused { message: String },
}

/// Columns of the query and their types, as `[fields]` calls them; where it has no such type, the database's name of it.
/// The query is not run.
///
/// # Errors
/// Where the database cannot be asked, refuses the query, or gives two columns the name of one that the job uses.
pub async fn types(spec: &JobSpec, lookup: &LookupSpec) -> Result<Vec<(String, String)>, LookupError> {
    let ask = async {
        let (query, _) = Query::prepare(spec, lookup).await?;
        reading::not_doubled(spec, lookup, query.columns())?;
        Ok(query.columns().iter().map(|column| (column.name.clone(), column.kind.clone())).collect())
    };
    patiently(spec, lookup, ask).await
}

/// Runs the query in a transaction that can only read. The rows have [`JobSpec::lookup_schema`]. A value of a column of
/// `on` that the field's type does not hold equals no value of a record, and is null.
///
/// # Errors
/// As [`types`], and where columns are not what the job was checked with, a value does not fit its column, or the rows are
/// too many or too large.
pub async fn rows(spec: &JobSpec, lookup: &LookupSpec) -> Result<RecordBatch, LookupError> {
    let ask = async {
        let (query, zone) = Query::prepare(spec, lookup).await?;
        let mut reading = Reading::new(spec, lookup, zone, query.columns())?;
        match query {
            Query::Postgres(query) => query.read(&mut reading).await?,
            Query::MySql(query) => query.read(&mut reading).await?,
        }
        reading.finish()
    };
    patiently(spec, lookup, ask).await
}

enum Query {
    Postgres(Box<postgres::lookup::Query>),
    MySql(Box<mysql::lookup::Query>),
}

impl Query {
    /// And the zone of columns without one.
    async fn prepare(spec: &JobSpec, lookup: &LookupSpec) -> Result<(Self, Zone), Failure> {
        // A semicolon at the end is no part of a statement that is prepared.
        let sql = lookup.sql.trim().trim_end_matches(';');
        let zone = |name: &String| Zone::named(name).map_err(Failure::fatal);
        match spec.targets.get(lookup.target).map(|target| &target.kind) {
            Some(TargetKind::Postgres { url, zone: name, .. }) => {
                let query = postgres::lookup::Query::prepare(url, sql).await?;
                Ok((Self::Postgres(Box::new(query)), zone(name)?))
            }
            Some(TargetKind::MySql { url, zone: name, .. }) => {
                let query = mysql::lookup::Query::prepare(url, sql, lookup.max_rows).await?;
                Ok((Self::MySql(Box::new(query)), zone(name)?))
            }
            Some(TargetKind::Kafka { .. } | TargetKind::Files { .. }) | None => {
                Err(Failure::fatal("its target is not a database"))
            }
        }
    }

    fn columns(&self) -> &[QueryColumn] {
        match self {
            Self::Postgres(query) => &query.columns,
            Self::MySql(query) => &query.columns,
        }
    }
}

async fn patiently<T>(
    spec: &JobSpec,
    lookup: &LookupSpec,
    ask: impl Future<Output = Result<T, Failure>>,
) -> Result<T, LookupError> {
    let answer = tokio::time::timeout(PATIENCE, Box::pin(ask)).await;
    let late = || Failure::lost(format!("the database has not answered for {} s", PATIENCE.as_secs()));
    answer.unwrap_or_else(|_| Err(late())).map_err(|failure| {
        let target = spec.targets.get(lookup.target).map_or("", |target| &target.name);
        let message = format!("lookup `{}` (target `{target}`): {}", lookup.name, failure.text);
        match failure.kind {
            Kind::ConnectionLost | Kind::Retry => LookupError::Unavailable { message },
            Kind::Fatal | Kind::Refused => LookupError::Refused { message },
        }
    })
}

/// What was raised or written by a query that should only read.
pub(crate) fn of_query(mut failure: Failure, raised: &[&str], read_only: &[&str]) -> Failure {
    let code = failure.code.as_str();
    if raised.contains(&code) {
        failure.text = format!("a function of the query raises an error (code {code})");
    }
    if read_only.contains(&code) {
        failure.kind = Kind::Fatal;
        failure.text = format!("the query writes, and a lookup only reads: {}", failure.text);
    }
    failure
}
