//! Durations and sizes.

use std::time::Duration;

use proptest::prelude::*;

use crate::unit::{duration, show_duration, show_size, size};

#[test]
fn durations_have_units() {
    for (text, millis) in
        [("0s", 0), ("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
    {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn ambiguous_durations_are_refused() {
    for (text, words) in [
        ("30", "\"30s\""),
        ("30 sec", "\"30s\""),
        ("5M", "a number with a unit"),
        ("5min", "\"5m\""),
        ("-5s", "a number with a unit"),
        ("", "a number with a unit"),
        ("s", "a number with a unit"),
        ("5m1h", "a number with a unit"),
        ("1m1m", "a number with a unit"),
        ("1.5h", "a number with a unit"),
        ("99999999999999999999h", "a number with a unit"),
        ("300000000000000000d", "a number with a unit"),
    ] {
        let error = duration(text).expect_err(text);
        assert!(error.help.contains(words), "{text}: {}", error.help);
    }
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [
        ("1B", 1),
        ("64KiB", 65_536),
        ("64MB", 64_000_000),
        ("64MiB", 67_108_864),
        ("1.5GiB", 1_610_612_736),
        ("0.5kB", 500),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in [
        "",
        "64",
        "18446744073709551616",
        "64mib",
        "64 MiB",
        "64M",
        "1.5B",
        ".5KiB",
        "5.KiB",
        "-1B",
        "1.2.3KiB",
        "18446744073709551616GiB",
    ] {
        assert!(size(text).is_err(), "{text}");
    }
    assert_eq!(size("64mib").unwrap_err().help, "did you mean \"64MiB\"?");
}

proptest! {
    #[test]
    fn what_is_shown_is_read_again(millis in 0_u64..10_000_000_000, bytes in 0_u64..1 << 60) {
        let shown = show_duration(Duration::from_millis(millis));
        prop_assert_eq!(duration(&shown), Ok(Duration::from_millis(millis)));
        prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,20}") {
        let _ = duration(&text);
        let _ = size(&text);
    }
}
