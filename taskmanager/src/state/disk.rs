//! The part of a key group's state that is on disk: one RocksDB without a write-ahead log.
//!
//! What is in here is committed in every target. After a crash a live directory is never opened again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pulso_core::ids::EventTime;
use pulso_dataflow::DataflowError;
use pulso_dataflow::state::{DiskState, Horizon, is_dropped, is_expired};
use pulso_job::StateId;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME, Options, WriteBatch,
    WriteOptions,
};

use crate::memory::Budget;

/// Values before the horizon may go; it only grows.
#[derive(Clone)]
struct Expired(Arc<[AtomicI64; 2]>);

impl Expired {
    fn new() -> Self {
        Self(Arc::new([AtomicI64::new(i64::MIN), AtomicI64::new(i64::MIN)]))
    }

    fn raise(&self, Horizon { dedup, windows }: Horizon) {
        self.0[0].fetch_max(dedup.0, Ordering::Relaxed);
        self.0[1].fetch_max(windows.0, Ordering::Relaxed);
    }

    fn horizon(&self) -> Horizon {
        let [dedup, windows] = [0, 1].map(|at: usize| EventTime(self.0[at].load(Ordering::Relaxed)));
        Horizon { dedup, windows }
    }
}

/// Keys and what they become, sorted by key; `None` deletes.
pub(crate) type Changes = [(Box<[u8]>, Option<Vec<u8>>)];

pub(crate) struct Disk {
    db: DB,
    expired: Expired,
    path: PathBuf,
}

impl Disk {
    /// Opens the directory of a restored snapshot, or makes a new one.
    /// `states`: what the job has; of others nothing is kept.
    pub(crate) fn open(path: &Path, budget: &Budget, states: &Arc<[StateId]>) -> Result<Self, rocksdb::Error> {
        let expired = Expired::new();
        let options = options(budget, expired.clone(), Arc::clone(states));
        // Named, because only then there is a handle of it.
        let family = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, options.clone());
        let db = DB::open_cf_descriptors(&options, path, [family])?;
        Ok(Self { db, expired, path: path.to_owned() })
    }

    /// Writes changes of whole epochs.
    pub(crate) fn write(&self, changes: &Changes, horizon: Option<Horizon>) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        self.db.write_opt(batch, &write)?;
        if let Some(horizon) = horizon {
            self.expired.raise(horizon);
        }
        Ok(())
    }

    /// Hard-links everything written so far into `to`, which must not exist.
    pub(crate) fn checkpoint(&self, to: &Path) -> Result<(), rocksdb::Error> {
        Checkpoint::new(&self.db)?.create_checkpoint(to)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of its files; zero where RocksDB does not tell.
    pub(crate) fn bytes(&self) -> u64 {
        self.db.property_int_value("rocksdb.total-sst-files-size").ok().flatten().unwrap_or(0)
    }

    /// Removes the folder. Where an upload still holds the database, the files live on through their links.
    pub(crate) fn remove(self: Arc<Self>) {
        let folder = self.path.clone();
        drop(self);
        std::fs::remove_dir_all(folder).ok();
    }
}

impl DiskState for Disk {
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, DataflowError> {
        let failed = |e: rocksdb::Error| DataflowError::State(e.to_string());
        let family = self.db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME);
        let family = family.ok_or_else(|| DataflowError::State("no default column family".to_owned()))?;
        let values = self.db.batched_multi_get_cf(family, keys.iter().copied(), false);
        values.into_iter().map(|value| Ok(value.map_err(failed)?.map(|value| value.to_vec()))).collect()
    }
}

fn options(budget: &Budget, expired: Expired, states: Arc<[StateId]>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&budget.block_cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_manager(&budget.write_buffers);
    options.set_write_buffer_size(8 << 20);
    options.set_max_open_files(64);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_keep_log_file_num(1);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options.set_max_log_file_size(1 << 20);
    // Goes into every checkpoint as a whole.
    options.set_max_manifest_file_size(256 << 10);
    options.set_max_background_jobs(1);
    options.set_stats_dump_period_sec(0);
    options.set_compaction_filter("expired", move |_level, key, value: &[u8]| {
        let gone = is_dropped(key, &states) || is_expired(value, expired.horizon());
        if gone { Decision::Remove } else { Decision::Keep }
    });
    options
}
