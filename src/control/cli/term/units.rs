//! Numbers for people.

/// `12`, `1.2 k`, `3.45 M`: three digits and the unit.
pub(in crate::control::cli) fn scaled(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut value, mut index) = (value, 0);
    while value >= 999.5 && index + 1 < PREFIXES.len() {
        value /= 1000.0;
        index += 1;
    }
    let digits = if index == 0 || value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let unit = format!("{}{unit}", PREFIXES[index]);
    if unit.is_empty() { digits } else { format!("{digits} {unit}") }
}

/// `123 us`, `1.23 ms`, `1.23 s`.
pub(in crate::control::cli) fn latency(micros: u64) -> String {
    if micros < 1000 {
        format!("{micros} us")
    } else if micros < 1_000_000 {
        format!("{:.2} ms", micros as f64 / 1000.0)
    } else {
        format!("{:.2} s", micros as f64 / 1_000_000.0)
    }
}

/// `45 s`, `12 min`, `3 h 05 min`, `17 d 4 h`.
pub(in crate::control::cli) fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    if seconds < 2 * MINUTE {
        format!("{seconds} s")
    } else if seconds < HOUR {
        format!("{} min", seconds / MINUTE)
    } else if seconds < DAY {
        format!("{} h {:02} min", seconds / HOUR, seconds % HOUR / MINUTE)
    } else {
        format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_their_unit() {
        for (value, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (999.9, "1.00 k"),
            (1234.0, "1.23 k"),
            (99_960.0, "100 k"),
            (12_345_678.0, "12.3 M"),
        ] {
            assert_eq!(scaled(value, ""), text);
        }
        assert_eq!(scaled(1.0e9, "bit/s"), "1.00 Gbit/s");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (720, "12 min"),
            (11_100, "3 h 05 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
