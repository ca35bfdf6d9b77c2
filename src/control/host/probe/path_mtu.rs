//! The longest packet that passes.

/// The longest length of `low..=high` that `passes`, if a length that passes is preceded by none
/// that does not; `None` if not even `low` does. The longest is tried first.
pub fn longest(low: u16, high: u16, mut passes: impl FnMut(u16) -> bool) -> Option<u16> {
    if low > high || !passes(low) {
        return None;
    }
    if passes(high) {
        return Some(high);
    }
    let (mut good, mut bad) = (low, high);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if passes(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_found_wherever_it_is() {
        for limit in 68..=1500 {
            let mut num_asked = 0;
            let found = longest(68, 1500, |len| {
                num_asked += 1;
                len <= limit
            });
            assert_eq!(found, Some(limit));
            assert!(num_asked <= 13, "{num_asked}");
        }
        assert_eq!(longest(68, 1500, |_| false), None);
        assert_eq!(longest(100, 68, |_| true), None);
        assert_eq!(longest(68, 65535, |_| true), Some(65535));
    }
}
