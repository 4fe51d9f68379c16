//! What `healthctl` shares with its demo and the tests: generators of records, CSV files, sending to Kafka, job files,
//! and jobs that run without any server.

pub mod csv_file;
mod devices;
pub mod examples;
pub mod generator;
pub mod job_file;
pub mod local;
pub mod lookups;
mod object;
pub mod sender;
pub mod sensors;
pub mod shop;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod vitals;
pub mod ward;
