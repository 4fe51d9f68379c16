//! `JobService`: what healthctl asks for. Decode, one call, encode.

use pulso_core::control_log::JobStatus;
use pulso_core::coordinator::{Answer, Call, NewJob, Refusal};
use pulso_core::ids::JobId;
use pulso_core::record::JobDefinition;
use pulso_job::Submission;
use pulso_proto::convert::id_bytes;
use pulso_proto::v1;
use pulso_proto::v1::job_service_server::{JobService, JobServiceServer};
use tonic::{Request, Response, Status};

use crate::overview::Overview;
use crate::shell::{Handle, NotLeading, Standing};
use crate::storage::Objects;
use crate::submit::{self, Changed, Fate, Prepared, Rejection, Submitted, Wishes};

/// A job file and the certificates it names.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// A job's document with its history.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

pub(crate) struct Jobs {
    handle: Handle,
    objects: Objects,
}

pub(crate) fn service(handle: Handle, objects: Objects) -> JobServiceServer<impl JobService> {
    JobServiceServer::new(Jobs { handle, objects })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES)
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        use v1::submit_response::Outcome;
        let outcome = match self.submitted(request.into_inner()).await? {
            Ok(submitted) => Outcome::Submitted(submitted),
            Err(Rejection::Mistakes(mistakes)) => {
                let (rendered, json) = (mistakes.render(false), mistakes.to_json().to_string());
                Outcome::Diagnostics(v1::Diagnostics { rendered, json })
            }
            Err(Rejection::Input(reason) | Rejection::InTheWay(reason)) => {
                return Err(Status::failed_precondition(reason));
            }
            Err(Rejection::Internal(reason)) => return Err(Status::internal(reason)),
        };
        Ok(Response::new(v1::SubmitResponse { outcome: Some(outcome) }))
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let jobs = self.overview().await?.jobs.iter().map(Into::into).collect();
        Ok(Response::new(v1::ListResponse { jobs }))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let name = request.into_inner().job;
        let id = self.find(&name).await?.id;
        let overview = self.overview().await?;
        let job = overview.jobs.iter().find(|job| job.id == id).ok_or_else(|| no_such_job(&name))?;
        let json = serde_json::to_string(job).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(v1::DescribeResponse { summary: Some(job.into()), json }))
    }

    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        let nodes = self.overview().await?.task_managers.iter().map(Into::into).collect();
        Ok(Response::new(v1::NodesResponse { nodes }))
    }

    async fn savepoint(
        &self,
        request: Request<v1::SavepointRequest>,
    ) -> Result<Response<v1::SavepointResponse>, Status> {
        let name = request.into_inner().job;
        let answer = self.call(&name, |job| Call::Savepoint { job }).await?;
        let Answer::SavepointTaken { checkpoint, epoch } = answer else { return Err(unexpected(answer, &name)) };
        Ok(Response::new(v1::SavepointResponse { checkpoint: checkpoint.0, epoch: epoch.0 }))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::StopResponse>, Status> {
        let name = request.into_inner().job;
        let answer = self.call(&name, |job| Call::Stop { job }).await?;
        let Answer::Stopped { checkpoint, epoch } = answer else { return Err(unexpected(answer, &name)) };
        Ok(Response::new(v1::StopResponse { checkpoint: checkpoint.0, epoch: epoch.0 }))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let name = request.into_inner().job;
        let answer = self.call(&name, |job| Call::Cancel { job }).await?;
        let Answer::Cancelled = answer else { return Err(unexpected(answer, &name)) };
        Ok(Response::new(v1::CancelResponse {}))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        let name = request.into_inner().job;
        let answer = self.call(&name, |job| Call::Resume { job }).await?;
        let Answer::Resumed = answer else { return Err(unexpected(answer, &name)) };
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn compare(&self, request: Request<v1::CompareRequest>) -> Result<Response<v1::CompareResponse>, Status> {
        let v1::CompareRequest { toml, file_name, folder } = request.into_inner();
        let mut new = Submission { toml, folder, ..Submission::default() };
        let checked = |of: &Submission| {
            let spec = submit::without_secrets(of, &file_name);
            spec.map_err(|mistakes| Status::invalid_argument(mistakes.render(false)))
        };
        let name = checked(&new)?.name;
        let standing = self.handle.standing(&name).await.map_err(not_leading)?;
        let Some(Standing { definition, .. }) = standing.filter(|standing| standing.status != JobStatus::Cancelled)
        else {
            return Ok(Response::new(v1::CompareResponse::default()));
        };
        let old: Submission =
            serde_json::from_str(&definition.submission).map_err(|e| Status::internal(e.to_string()))?;
        // Nobody is asked: what is known of lookups by now holds for both.
        new.lookups.clone_from(&old.lookups);
        let old = submit::without_secrets(&old, "job.toml")
            .map_err(|mistakes| Status::internal(format!("the job of the control log: {mistakes}")))?;
        let comparison = pulso_job::compare(&old, &checked(&new)?);
        let json = serde_json::to_string(&comparison).map_err(|e| Status::internal(e.to_string()))?;
        let job = id_bytes(definition.id.0);
        Ok(Response::new(v1::CompareResponse { job, json, rendered: comparison.to_string() }))
    }
}

impl Jobs {
    async fn submitted(&self, request: v1::SubmitRequest) -> Result<Result<v1::Submitted, Rejection>, Status> {
        let v1::SubmitRequest { toml, environment, file_name, folder, allow_state_drop, new } = request;
        let submission = Submission { toml, environment, folder, ..Submission::default() };
        let submitted = match Submitted::new(submission, &file_name) {
            Ok(submitted) => submitted,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let name = submitted.name().to_owned();
        let standing = self.handle.standing(&name).await.map_err(not_leading)?;
        let (call, warnings, changes) =
            match submitted.prepare(standing, Wishes { allow_state_drop, new }, &self.objects).await {
                Ok(Fate::New(prepared)) => {
                    let Prepared { definition, start, lookups, warnings } = *prepared;
                    (Call::Submit(Box::new(NewJob { definition, start, lookups })), warnings, String::new())
                }
                Ok(Fate::Changed(Changed { call, changes, warnings, .. })) => (call, warnings, changes),
                Ok(Fate::Known { job, changes, warnings }) => {
                    let (job, warnings) = (id_bytes(job.0), warnings.join("\n"));
                    return Ok(Ok(v1::Submitted { job, name, known: changes.is_empty(), warnings, changes }));
                }
                Err(rejection) => return Ok(Err(rejection)),
            };
        let (job, known, changes) = match self.handle.call(call).await.map_err(not_leading)? {
            Answer::Submitted { job, known } => (job, known, String::new()),
            Answer::Changing { job } => (job, false, changes),
            answer @ (Answer::SavepointTaken { .. }
            | Answer::Stopped { .. }
            | Answer::Cancelled
            | Answer::Resumed
            | Answer::Refused(_)) => return Err(unexpected(answer, &name)),
        };
        tracing::info!(%job, name, known, changes, "job submitted");
        Ok(Ok(v1::Submitted { job: id_bytes(job.0), name, known, warnings: warnings.join("\n"), changes }))
    }

    async fn overview(&self) -> Result<Overview, Status> {
        let overview = self.handle.overview().await.map_err(not_leading)?;
        if overview.leading { Ok(overview) } else { Err(not_leading(NotLeading)) }
    }

    async fn find(&self, name: &str) -> Result<JobDefinition, Status> {
        self.handle.find(name).await.map_err(not_leading)?.ok_or_else(|| no_such_job(name))
    }

    async fn call(&self, name: &str, call: impl FnOnce(JobId) -> Call) -> Result<Answer, Status> {
        let job = self.find(name).await?.id;
        let call = call(job);
        tracing::info!(%job, ?call, "called");
        self.handle.call(call).await.map_err(not_leading)
    }
}

fn not_leading(error: NotLeading) -> Status {
    Status::unavailable(error.to_string())
}

fn no_such_job(name: &str) -> Status {
    Status::not_found(format!("there is no job `{name}`"))
}

/// A refusal, or an answer that belongs to another call.
fn unexpected(answer: Answer, name: &str) -> Status {
    match answer {
        Answer::Refused(Refusal::NameTaken { job }) => {
            Status::already_exists(format!("another job `{name}` ({job}) was just submitted: submit again"))
        }
        Answer::Refused(Refusal::NoSuchJob) => no_such_job(name),
        Answer::Refused(Refusal::WrongState { reason }) => Status::failed_precondition(reason),
        Answer::Refused(Refusal::JobFailed { reason }) => Status::aborted(reason),
        Answer::Submitted { .. }
        | Answer::Changing { .. }
        | Answer::SavepointTaken { .. }
        | Answer::Stopped { .. }
        | Answer::Cancelled
        | Answer::Resumed => Status::internal("the answer belongs to another call"),
    }
}
