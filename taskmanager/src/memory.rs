//! One number for memory, divided once: what each part of the process may hold.

use rocksdb::{Cache, WriteBufferManager};

/// The parts of `--memory`. Shared by all jobs and key groups of the process.
#[derive(Clone)]
pub(crate) struct Budget {
    /// Records read and not yet sent on, and what the Kafka client has fetched ahead, in bytes, per job.
    pub(crate) source_bytes: u64,
    /// State of recent epochs that is not on disk yet, in bytes, over all key groups of a job.
    pub(crate) overlay_bytes: u64,
    /// Output of one transaction, in bytes.
    pub(crate) transaction_bytes: u64,
    pub(crate) block_cache: Cache,
    pub(crate) write_buffers: WriteBufferManager,
}

impl Budget {
    /// An eighth each for reading ahead, transactions and the block cache, a quarter for fresh state, a sixteenth for
    /// RocksDB's write buffers (which count against the block cache); the rest is headroom for what is in flight.
    pub(crate) fn divide(memory: u64) -> Self {
        let part = |share: u64| memory / share;
        let block_cache = Cache::new_lru_cache(usize::try_from(part(8)).unwrap_or(usize::MAX));
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            usize::try_from(part(16)).unwrap_or(usize::MAX),
            false,
            block_cache.clone(),
        );
        Self {
            source_bytes: part(8),
            overlay_bytes: part(4),
            transaction_bytes: part(8).min(32 << 20),
            block_cache,
            write_buffers,
        }
    }
}
