//! Seeds of the simulation, the determinism of a run, and mistakes that must be noticed.

use pulso_sim::{Coverage, Mistake, Sight, repeat, run};

fn seeds(range: std::ops::Range<u64>) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in range {
        let run = run(seed, None, false);
        coverage.merge(&run.coverage);
        if let Some(violation) = run.violation {
            panic!("seed {seed}: {violation}\n  repeat: {}", repeat(seed, None));
        }
    }
    coverage
}

#[test]
fn every_seed_holds_every_invariant() {
    let wanted = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let coverage = seeds(0..wanted);
    let missing: Vec<_> = Sight::ALL.into_iter().filter(|s| coverage.count(*s) == 0).collect();
    assert!(missing.is_empty(), "never happened in {wanted} seeds: {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 17, 40] {
        let (first, second) = (run(seed, None, false), run(seed, None, false));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_ne!(first.trace, run(seed + 1, None, false).trace, "seed {seed} and the next");
    }
}

/// Each mistake is noticed in some seed, or the model or its checks lack something. They are rare to very different
/// degrees; should a change of the protocol make one rarer, more seeds may be needed.
#[test]
fn every_mistake_is_noticed() {
    const SEEDS: u64 = 1_000;
    let missed: Vec<&str> = Mistake::ALL
        .into_iter()
        .filter(|mistake| !(0..SEEDS).any(|seed| run(seed, Some(*mistake), false).violation.is_some()))
        .map(Mistake::name)
        .collect();
    assert!(missed.is_empty(), "not noticed in {SEEDS} seeds: {missed:?}");
}
