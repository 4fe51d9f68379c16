//! `sim`: runs seeds of the simulation, repeats one, or shows which mistakes on purpose are caught.
#![allow(clippy::print_stdout, reason = "a command-line tool")]

use std::process::ExitCode;

use clap::Parser;
use pulso_sim::{Coverage, Mistake, Sight, repeat, run};

/// Runs the protocol's machines through faults, seed by seed, and checks what comes out.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Write every event to stderr.
    #[arg(long)]
    trace: bool,
    /// Put this mistake into the protocol.
    #[arg(long)]
    mistake: Option<String>,
    /// Put every mistake in, one at a time, and show which are caught, each within `--seeds`.
    #[arg(long)]
    mistakes: bool,
    /// Go on after a failure and count.
    #[arg(long)]
    all: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mistake = match &arguments.mistake {
        None => None,
        Some(name) => Some(Mistake::named(name).ok_or_else(|| {
            let names: Vec<&str> = Mistake::ALL.iter().map(|m| m.name()).collect();
            anyhow::anyhow!("no mistake `{name}`; there are {}", names.join(", "))
        })?),
    };
    if arguments.mistakes {
        return Ok(table(&arguments));
    }
    let (from, seeds) = arguments.seed.map_or((arguments.from, arguments.seeds), |seed| (seed, 1));
    Ok(seeds_of(from, seeds, mistake, &arguments))
}

fn seeds_of(from: u64, seeds: u64, mistake: Option<Mistake>, arguments: &Arguments) -> ExitCode {
    let mut coverage = Coverage::default();
    let (mut failed, mut records, mut epochs, mut millis) = (0_u64, 0, 0, 0);
    for seed in from..from + seeds {
        let run = run(seed, mistake, arguments.trace);
        coverage.merge(&run.coverage);
        records += run.records;
        epochs += run.epochs;
        millis += run.millis;
        if let Some(violation) = run.violation {
            failed += 1;
            println!("seed {seed}: {violation}\n  repeat: {}", repeat(seed, mistake));
            if !arguments.all {
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{seeds} seeds: {failed} failed; {records} records, {epochs} epochs, {} s of virtual time", millis / 1000);
    let sights: Vec<String> = Sight::ALL.iter().map(|s| format!("{s:?} {}", coverage.count(*s))).collect();
    println!("seen: {}", sights.join(", "));
    let missing = coverage.missing();
    if seeds >= 100 && !missing.is_empty() {
        println!("never seen, so this run proves nothing about it: {missing:?}");
        return ExitCode::FAILURE;
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn table(arguments: &Arguments) -> ExitCode {
    let mut missed = 0;
    println!("{:24} {:8} {:>6}  by", "mistake", "caught", "seeds");
    for mistake in Mistake::ALL {
        let mut caught = (arguments.from..arguments.from + arguments.seeds)
            .map(|seed| (seed, run(seed, Some(mistake), false).violation))
            .filter_map(|(seed, violation)| Some((seed, violation?)));
        match caught.next() {
            Some((seed, violation)) => {
                let by: String = violation.chars().take(110).collect();
                println!("{:24} {:8} {:>6}  {by}", mistake.name(), "yes", seed - arguments.from + 1);
            }
            None => {
                missed += 1;
                println!("{:24} {:8} {:>6}", mistake.name(), "NO", arguments.seeds);
            }
        }
    }
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
