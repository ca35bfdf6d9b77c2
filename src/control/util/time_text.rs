//! Durations and times in the form in which log scrapers know them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A duration as Go prints it, to the second: `22h59m59s`.
pub(crate) fn duration(time: Duration) -> String {
    let secs = time.as_secs();
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A point in time as RFC 3339 writes it, in UTC and to the second: `2026-08-14T09:30:00Z`. A time
/// before 1970 is written as its beginning, one after the year 9999 as the last that jiff has.
pub(crate) fn utc(time: SystemTime) -> String {
    let secs = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let timestamp = i64::try_from(secs).ok().and_then(|secs| Timestamp::from_second(secs).ok());
    format!("{:.0}", timestamp.unwrap_or(Timestamp::MAX))
}

/// Reads a point in time from 1970 on, as RFC 3339 writes it; a fraction of a second is dropped.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let secs = text.parse::<Timestamp>().ok()?.as_second();
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(secs).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        let texts = [(82_799, "22h59m59s"), (3600, "1h0m0s"), (61, "1m1s"), (9, "9s"), (0, "0s")];
        for (secs, text) in texts {
            assert_eq!(duration(Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn times_are_in_utc() {
        let texts = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ];
        for (secs, text) in texts {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn time_past_the_year_9999_is_written_as_the_last_that_can_be_read() {
        const YEAR_10000: u64 = 253_402_300_800;
        for secs in [YEAR_10000, u64::MAX >> 1] {
            let text = utc(UNIX_EPOCH + Duration::from_secs(secs));
            assert!(text.starts_with("9999-12-30T"), "{text}");
            assert_eq!(parse_rfc3339(&text).map(utc), Some(text));
        }
    }

    #[test]
    fn written_times_are_read_and_so_are_those_of_other_zones() {
        for secs in [0, 951_782_399, 951_782_400, 951_868_800, 4_107_542_400, 1_798_761_599] {
            let time = UNIX_EPOCH + Duration::from_secs(secs);
            assert_eq!(parse_rfc3339(&utc(time)), Some(time));
        }
        let noon = parse_rfc3339("2026-11-21T12:00:00Z");
        for same in [
            "2026-11-21 12:00:00z",
            "2026-11-21t12:00:00.999Z",
            "2026-11-21T17:30:00+05:30",
            "2026-11-21T17:30:00+0530",
            "2026-11-20T23:00:00-13:00",
        ] {
            assert_eq!(parse_rfc3339(same), noon, "{same}");
        }
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "2026-11-21T12:00:00.Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-11-00T12:00:00Z",
            "2026-11-21T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "+026-11-21T12:00:00Z",
            "2026-11-21T12:00:0é",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }
}
