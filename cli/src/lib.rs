//! What `healthctl` shares with its demo and the tests: the generator of vital signs, sending to Kafka, job
//! files, and jobs that run without any server.

pub mod examples;
pub mod generator;
pub mod job_file;
pub mod local;
pub mod sender;
pub mod vitals;
