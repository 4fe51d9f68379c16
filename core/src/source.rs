//! One source task: which records belong to which epoch, live and in replay.

use std::collections::BTreeMap;

use crate::cut::{Cut, RunningHash};
use crate::ids::{Epoch, EventTime, Position, SplitId, WallTime};
use crate::message::{Barrier, Opening, SplitReport};
