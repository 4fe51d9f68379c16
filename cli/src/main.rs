//! `healthctl`: runs and watches jobs on a Pulso cluster, and makes data for them.

mod client;
mod commands;
mod failure;
mod output;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::{
    cancel, check, demo, describe, dev, explain, export, generate, list, nodes, plan, produce, resume, savepoint,
    schema, status, stop, submit, test, version,
};
use crate::failure::Failure;
use crate::output::Format;

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage, 3 no such job, 4 job failed, 5 timeout, 130 interrupted";

#[derive(Parser)]
#[command(name = "healthctl", version, about = "Runs and watches jobs on a Pulso cluster", after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Accepted before and after the command.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// Where the JobManager listens; several with commas between, where others stand by
    #[arg(long, global = true, value_name = "HOST:PORT", env = "PULSO_JOBMANAGER", default_value = "127.0.0.1:6123")]
    pub(crate) jobmanager: String,
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Subcommand)]
enum Command {
    Submit(submit::Arguments),
    List(list::Arguments),
    Status(status::Arguments),
    Describe(describe::Arguments),
    Nodes(nodes::Arguments),
    Savepoint(savepoint::Arguments),
    Stop(stop::Arguments),
    Cancel(cancel::Arguments),
    Resume(resume::Arguments),
    Demo(demo::Arguments),
    Generate(generate::Arguments),
    Produce(produce::Arguments),
    Check(check::Arguments),
    Dev(dev::Arguments),
    Test(test::Arguments),
    Plan(plan::Arguments),
    Explain(explain::Arguments),
    Export(export::Arguments),
    Schema(schema::Arguments),
    Version(version::Arguments),
}

fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    let filter = EnvFilter::try_from_env("PULSO_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(output::color()).with_writer(std::io::stderr).init();
    match execute(&global, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, global.output);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn execute(global: &Global, command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(run(global, command));
    // A thread may still wait for a broker that is gone; nobody waits for it.
    runtime.shutdown_background();
    done
}

async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Submit(arguments) => submit::run(global, &arguments).await,
        Command::List(arguments) => list::run(global, &arguments).await,
        Command::Status(arguments) => status::run(global, &arguments).await,
        Command::Describe(arguments) => describe::run(global, &arguments).await,
        Command::Nodes(arguments) => nodes::run(global, &arguments).await,
        Command::Savepoint(arguments) => savepoint::run(global, &arguments).await,
        Command::Stop(arguments) => stop::run(global, &arguments).await,
        Command::Cancel(arguments) => cancel::run(global, &arguments).await,
        Command::Resume(arguments) => resume::run(global, &arguments).await,
        Command::Demo(arguments) => demo::run(global, arguments).await,
        Command::Generate(arguments) => generate::run(global, arguments).await,
        Command::Produce(arguments) => produce::run(global, arguments).await,
        Command::Check(arguments) => check::run(global, &arguments).await,
        Command::Dev(arguments) => dev::run(global, &arguments),
        Command::Test(arguments) => test::run(global, &arguments),
        Command::Plan(arguments) => plan::run(global, &arguments).await,
        Command::Explain(arguments) => explain::run(global, &arguments),
        Command::Export(arguments) => export::run(global, &arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Version(arguments) => version::run(global, &arguments),
    }
}

/// Nobody may be listening on standard error either, and then there is nobody to tell.
fn report(failure: &Failure, format: Format) {
    let text = match (failure, format) {
        (Failure::Reported, _) => return,
        (_, Format::Table) => format!("healthctl: {failure}"),
        (_, Format::Json) => {
            let error = serde_json::json!({ "kind": failure.kind(), "message": failure.to_string() });
            serde_json::json!({ "error": error }).to_string()
        }
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
