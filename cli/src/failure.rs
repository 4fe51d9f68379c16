//! How a command fails, and the exit code that says so.

use std::io::ErrorKind;

/// As shells count it: 128 and the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// 0 is done; usage errors found by the argument parser are 2 as well.
#[derive(Debug)]
pub(crate) enum Failure {
    Failed(anyhow::Error),
    Usage(String),
    NoSuchJob(String),
    JobFailed(String),
    Timeout(String),
    /// Ended by Ctrl-C or the like before there was anything to say.
    Interrupted,
    /// Already said, such as the diagnostics of a job file.
    Reported,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) | Failure::Reported => 1,
            Failure::Usage(_) => 2,
            Failure::NoSuchJob(_) => 3,
            Failure::JobFailed(_) => 4,
            Failure::Timeout(_) => 5,
            Failure::Interrupted => INTERRUPTED,
        }
    }

    /// Stable name for `-o json`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Failure::Failed(_) | Failure::Reported => "failed",
            Failure::Usage(_) => "usage",
            Failure::NoSuchJob(_) => "no_such_job",
            Failure::JobFailed(_) => "job_failed",
            Failure::Timeout(_) => "timeout",
            Failure::Interrupted => "interrupted",
        }
    }

    /// Whoever read our output has seen enough: `healthctl ... | head`.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        match self {
            Failure::Failed(error) => error
                .chain()
                .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)),
            Failure::Usage(_)
            | Failure::NoSuchJob(_)
            | Failure::JobFailed(_)
            | Failure::Timeout(_)
            | Failure::Interrupted
            | Failure::Reported => false,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Failed(error) => f.write_str(&causes(error)),
            Failure::Usage(text) | Failure::NoSuchJob(text) | Failure::JobFailed(text) | Failure::Timeout(text) => {
                f.write_str(text)
            }
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Reported => Ok(()),
        }
    }
}

/// From the outermost to the root; some libraries repeat the cause in their own text.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("down").context("asking (down)").context("no answer");
        assert_eq!(Failure::from(error).to_string(), "no answer: asking (down)");
    }

    #[test]
    fn a_closed_pipe_is_found_under_context() {
        let error = anyhow::Error::from(std::io::Error::from(ErrorKind::BrokenPipe)).context("writing");
        assert!(Failure::from(error).is_closed_pipe());
        assert!(!Failure::from(anyhow::anyhow!("other")).is_closed_pipe());
    }
}
