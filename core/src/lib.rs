//! Everything that Pulso decides, as plain synchronous code: `handle(event, now)` in, commands out.
//!
//! No clock, thread, network, disk or random number in here; the simulation runs these very machines.

pub mod control_log;
pub mod coordinator;
pub mod cut;
pub mod files;
pub mod ids;
pub mod key_group;
pub mod ledger;
pub mod lookups;
pub mod message;
#[doc(hidden)]
pub mod mistake;
pub mod placement;
pub mod record;
pub mod source;
pub mod worker;
