//! The JobManager as the commands see it, and what its refusals mean for the exit code.

use std::time::Duration;

use pulso_proto::v1::job_service_client::JobServiceClient;
use pulso_proto::{MAX_MESSAGE_BYTES, v1};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::failure::Failure;

/// To find out that nobody is there; well within the 5 s after which people get impatient.
const CONNECT: Duration = Duration::from_secs(3);
/// For an answer that needs no work.
const READ: Duration = Duration::from_secs(4);

pub(crate) struct Client {
    service: JobServiceClient<Channel>,
    address: String,
}

impl Client {
    /// `addresses`: one, or several with commas between, of which the one that leads is taken.
    pub(crate) async fn connect(addresses: &str) -> Result<Self, Failure> {
        let mut addresses = addresses.split(',').map(str::trim).peekable();
        loop {
            let address = addresses.next().unwrap_or_default();
            let client = Self::open(address).await;
            if addresses.peek().is_none() {
                return client;
            }
            // What else is wrong is for the next one to say.
            if let Ok(client) = client
                && client.nodes().await.is_ok()
            {
                return Ok(client);
            }
        }
    }

    async fn open(address: &str) -> Result<Self, Failure> {
        let endpoint = pulso_proto::endpoint(address)
            .map_err(|_| Failure::Usage(format!("--jobmanager `{address}` is not HOST:PORT")))?;
        let channel = match tokio::time::timeout(CONNECT, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(e)) => return Err(down(address, &root(&e))),
            Err(_) => return Err(down(address, &format!("no answer within {} s", CONNECT.as_secs()))),
        };
        let service = JobServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { service, address: address.to_owned() })
    }

    pub(crate) async fn list(&self) -> Result<Vec<v1::JobSummary>, Failure> {
        let mut service = self.service.clone();
        Ok(self.within(READ, service.list(v1::ListRequest {})).await?.jobs)
    }

    pub(crate) async fn describe(&self, job: &str) -> Result<v1::DescribeResponse, Failure> {
        let mut service = self.service.clone();
        self.within(READ, service.describe(v1::DescribeRequest { job: job.to_owned() })).await
    }

    pub(crate) async fn summary(&self, job: &str) -> Result<v1::JobSummary, Failure> {
        let summary = self.describe(job).await?.summary;
        summary.ok_or_else(|| anyhow::anyhow!("the JobManager's answer lacks the job").into())
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<v1::Node>, Failure> {
        let mut service = self.service.clone();
        Ok(self.within(READ, service.nodes(v1::NodesRequest {})).await?.nodes)
    }

    pub(crate) async fn submit(
        &self,
        request: v1::SubmitRequest,
        timeout: Duration,
    ) -> Result<v1::submit_response::Outcome, Failure> {
        let mut service = self.service.clone();
        let answer = self.within(timeout, service.submit(request)).await?;
        answer.outcome.ok_or_else(|| anyhow::anyhow!("the JobManager's answer is of a newer version").into())
    }

    pub(crate) async fn savepoint(&self, job: &str, timeout: Duration) -> Result<v1::SavepointResponse, Failure> {
        let mut service = self.service.clone();
        self.within(timeout, service.savepoint(v1::SavepointRequest { job: job.to_owned() })).await
    }

    pub(crate) async fn stop(&self, job: &str, timeout: Duration) -> Result<v1::StopResponse, Failure> {
        let mut service = self.service.clone();
        self.within(timeout, service.stop(v1::StopRequest { job: job.to_owned() })).await
    }

    pub(crate) async fn cancel(&self, job: &str) -> Result<(), Failure> {
        let mut service = self.service.clone();
        self.within(READ, service.cancel(v1::CancelRequest { job: job.to_owned() })).await.map(|_| ())
    }

    pub(crate) async fn resume(&self, job: &str) -> Result<(), Failure> {
        let mut service = self.service.clone();
        self.within(READ, service.resume(v1::ResumeRequest { job: job.to_owned() })).await.map(|_| ())
    }

    pub(crate) async fn compare(&self, request: v1::CompareRequest) -> Result<v1::CompareResponse, Failure> {
        let mut service = self.service.clone();
        self.within(READ, service.compare(request)).await
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(failure(&status, &self.address)),
            Err(_) => Err(Failure::Timeout(format!(
                "no answer from the JobManager at {} within {}; what was asked for may still happen",
                self.address,
                humantime::format_duration(timeout)
            ))),
        }
    }
}

fn down(address: &str, reason: &str) -> Failure {
    Failure::Failed(anyhow::anyhow!(
        "no JobManager answers at {address} ({reason}); \
         name another one with --jobmanager HOST:PORT or PULSO_JOBMANAGER"
    ))
}

/// The last cause says it best: "connection refused".
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other codes are failures without a meaning of their own")]
fn failure(status: &Status, address: &str) -> Failure {
    let text = status.message().to_owned();
    match status.code() {
        Code::NotFound => Failure::NoSuchJob(text),
        Code::Aborted => Failure::JobFailed(text),
        Code::DeadlineExceeded => Failure::Timeout(text),
        Code::Unimplemented => {
            Failure::Failed(anyhow::anyhow!("what answers at {address} is no JobManager, or one of another version"))
        }
        Code::Unavailable | Code::Unknown | Code::Internal if text.is_empty() || text.contains("transport") => {
            down(address, "the connection broke")
        }
        _ => Failure::Failed(anyhow::anyhow!("{text}")),
    }
}

/// A job's or TaskManager's id as people see it.
pub(crate) fn id(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).map_or_else(|_| "?".to_owned(), |id| id.to_string())
}

pub(crate) fn status_name(status: v1::JobStatus) -> &'static str {
    match status {
        v1::JobStatus::Unspecified => "unknown",
        v1::JobStatus::Running => "running",
        v1::JobStatus::Stopping => "stopping",
        v1::JobStatus::Finished => "finished",
        v1::JobStatus::Cancelled => "cancelled",
        v1::JobStatus::Failed => "failed",
    }
}

/// What comes from elsewhere may hold bytes that a terminal obeys.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn refusals_have_exit_codes() {
        let code = |status: Status| failure(&status, "h:1").exit_code();
        assert_eq!(code(Status::not_found("no job")), 3);
        assert_eq!(code(Status::aborted("it failed")), 4);
        assert_eq!(code(Status::deadline_exceeded("slow")), 5);
        assert_eq!(code(Status::failed_precondition("no")), 1);
    }

    #[tokio::test]
    async fn nobody_there_is_said_soon_and_how_to_go_on() {
        let began = Instant::now();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let Err(refused) = Client::connect(&address).await else { panic!("connected to nothing") };
        let text = refused.to_string();
        assert!(text.contains(&address) && text.contains("PULSO_JOBMANAGER"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(refused.exit_code(), 1);
    }

    #[tokio::test]
    async fn one_that_accepts_and_is_silent_is_given_up() {
        let began = Instant::now();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let result = match Client::connect(&address).await {
            Ok(client) => client.list().await.map(|_| ()),
            Err(failure) => Err(failure),
        };
        assert!(result.is_err());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn terminals_are_not_driven() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }
}
