//! `healthctl nodes`

use bytesize::ByteSize;
use pulso_proto::v1;
use serde::Serialize;

use crate::Global;
use crate::client::{Client, id, plain};
use crate::failure::Failure;
use crate::output::{self, Format};

/// List the TaskManagers
#[derive(clap::Args)]
pub(crate) struct Arguments {}

#[derive(Serialize)]
struct Node {
    name: String,
    task_manager: String,
    exchange: String,
    leaving: bool,
    splits: u32,
    key_groups: u32,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        Self {
            name: node.name,
            task_manager: id(&node.task_manager),
            exchange: node.exchange,
            leaving: node.leaving,
            splits: node.splits,
            key_groups: node.key_groups,
            memory_bytes: node.memory_bytes,
            memory_limit_bytes: node.memory_limit_bytes,
        }
    }
}

pub(crate) async fn run(global: &Global, _: &Arguments) -> Result<(), Failure> {
    let nodes = Client::connect(&global.jobmanager).await?.nodes().await?;
    let nodes: Vec<Node> = nodes.into_iter().map(Into::into).collect();
    if global.output == Format::Json {
        return output::json(&nodes);
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string());
    let row = |node: Node| {
        [
            plain(&node.name),
            if node.leaving { "leaving" } else { "there" }.to_owned(),
            node.splits.to_string(),
            node.key_groups.to_string(),
            size(node.memory_bytes),
            size(node.memory_limit_bytes),
            plain(&node.exchange),
            node.task_manager,
        ]
    };
    let header = ["NAME", "STATE", "SPLITS", "KEY GROUPS", "MEMORY", "LIMIT", "EXCHANGE", "TASKMANAGER"];
    output::table(header, nodes.into_iter().map(row).collect())
}
