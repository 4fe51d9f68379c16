//! `Debug` of the messages that hold secrets, without them.

use std::fmt;

use crate::v1;

impl fmt::Debug for v1::SubmitRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitRequest")
            .field("file_name", &self.file_name)
            .field("bytes", &self.toml.len())
            .field("environment", &self.environment.keys())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::JobDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobDefinition")
            .field("name", &self.name)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}
