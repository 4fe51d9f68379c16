//! What can go wrong in an operator that is not the fault of a record: those become dead letters instead.

use thiserror::Error;

#[derive(Debug, Error)]
pub enum DataflowError {
    /// An expression of the job does not compile against its columns; the job's check should have said so.
    #[error("expression of {place}: {message}")]
    Expression { place: String, message: String },
    /// The job asks for something that this crate cannot do; the job's check should have said so.
    #[error("{0}")]
    Invalid(String),
    /// Bytes from the exchange or from the state are not what was written.
    #[error("{what} is corrupt: {reason}")]
    Corrupt { what: &'static str, reason: String },
    /// The state of a key group cannot be read.
    #[error("state of a key group: {0}")]
    State(String),
    /// Arrow refused what should be possible: too much text in one column of one epoch, for example.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

pub type Result<T, E = DataflowError> = std::result::Result<T, E>;
