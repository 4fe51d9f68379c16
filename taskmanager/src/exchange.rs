//! The exchange: one link from every source task to every TaskManager of the attempt, in process or over gRPC.

mod links;
mod serve;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use pulso_core::ids::{JobId, TaskManagerId};
use pulso_core::message::Deployment;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::links::{LinkClosed, Links};

use crate::shell::Events;

/// The TaskManager's end of all links.
pub(crate) struct Exchange {
    /// Cancels the links of a job's current attempt.
    open: BTreeMap<JobId, CancellationToken>,
}

impl Exchange {
    /// Starts to serve incoming links; the second value is the address to tell others.
    pub(crate) async fn bind(
        me: TaskManagerId,
        address: SocketAddr,
        advertised: Option<String>,
        events: Events,
    ) -> Result<(Self, String)> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("binding {address}"))?;
        let advertised = match advertised {
            Some(advertised) => advertised,
            None => listener.local_addr().context("the bound address")?.to_string(),
        };
        tokio::spawn(serve::serve(me, listener, events));
        Ok((Self { open: BTreeMap::new() }, advertised))
    }

    /// Connects to the members of this attempt; links of an older one are closed.
    pub(crate) fn open(&mut self, me: TaskManagerId, deployment: &Deployment, events: Events) -> Links {
        self.close(deployment.job);
        let token = CancellationToken::new();
        self.open.insert(deployment.job, token.clone());
        Links::open(me, deployment, &events, &token)
    }

    pub(crate) fn close(&mut self, job: JobId) {
        if let Some(token) = self.open.remove(&job) {
            token.cancel();
        }
    }
}
