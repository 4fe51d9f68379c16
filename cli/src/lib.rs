//! What `healthctl` shares with its demo and the tests: the generator of vital signs, sending to Kafka, job files.

pub mod generator;
pub mod job_file;
pub mod sender;
pub mod vitals;
