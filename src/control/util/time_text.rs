//! Durations and times in the form in which log scrapers know them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// A point in time as RFC 3339 writes it, in UTC and to the second: `2026-08-14T09:30:00Z`. What
/// is later than the year 9999 is written as its end.
pub(crate) fn utc(time: SystemTime) -> String {
    let secs = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let secs = secs.min(LAST_SECOND);
    let (year, month, day) = date(secs / 86_400);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads a point in time from 1970 on, as RFC 3339 writes it; a fraction of a second is dropped.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (zone.len() < fraction.len()).then_some(zone)?
        }
        None => rest,
    };
    let is_date = year >= 1970 && (1..=12).contains(&month);
    if !is_date || day == 0 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days_of_years: u64 = (1970..year).map(|year| month_lens(year).iter().sum::<u64>()).sum();
    let mut days_before = days_of_years + day - 1;
    for (len, number) in month_lens(year).into_iter().zip(1..) {
        match number {
            number if number < month => days_before += len,
            number if number == month && day > len => return None,
            _ => {}
        }
    }
    let local = days_before * 86_400 + hour * 3600 + minute * 60 + second;
    let secs = match zone {
        "Z" | "z" => local,
        zone if zone.starts_with('+') => local.checked_sub(offset(zone)?)?,
        zone => local + offset(zone)?,
    };
    UNIX_EPOCH.checked_add(Duration::from_secs(secs))
}

/// How far a zone such as `+05:30` is from UTC, in seconds; which way, its sign says.
fn offset(zone: &str) -> Option<u64> {
    let [hours, minutes] = numbers(zone.strip_prefix(['+', '-'])?, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)
}

/// The numbers of so many digits each that `text` is made of.
fn numbers<const N: usize>(text: &str, separator: char, lens: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, len) in numbers.iter_mut().zip(lens) {
        let part = parts.next().filter(|part| part.len() == len)?;
        *number = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let mut rest = days;
    let mut year = 1970;
    loop {
        for (len, month) in month_lens(year).into_iter().zip(1..) {
            if rest < len {
                return (year, month, rest + 1);
            }
            rest -= len;
        }
        year += 1;
    }
}

/// The days of each month.
const fn month_lens(year: u64) -> [u64; 12] {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
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
    fn time_past_the_year_9999_is_written_as_its_end() {
        let end = "9999-12-31T23:59:59Z";
        for secs in [LAST_SECOND, LAST_SECOND + 1, u64::MAX >> 1] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(secs)), end);
        }
        assert!(parse_rfc3339(end).is_some());
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
            "2026-11-21T12:00:00+0530",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "+026-11-21T12:00:00Z",
            "2026-11-21T12:00:0é",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }
}
