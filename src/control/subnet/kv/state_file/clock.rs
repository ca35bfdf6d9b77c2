//! [`Written`]: when a state was written, so that a clock that is behind does not revive it.

use std::fs;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use serde_json::value::to_raw_value;

use super::{StateError, member};
use crate::control::subnet::kv::registry::file::document::Document;
use crate::control::util::time_text;

/// A clock that is set back by less is being kept, not wrong: times are written to the second, and
/// NTP steps.
const SLACK: Duration = Duration::from_secs(60);

/// The time of writing by two clocks. That of the host may be wrong or set at any time; the other
/// one counts from the boot and is never set.
#[derive(Debug)]
pub(super) struct Written {
    clock: SystemTime,
    boot: Option<(String, Duration)>,
}

impl Written {
    pub(super) fn now() -> Self {
        Self { clock: SystemTime::now(), boot: since_boot() }
    }

    /// `None` if the state does not say.
    pub(super) fn read(document: &Document) -> Option<Self> {
        let clock = time_text::parse_rfc3339(&member(document, "written")?)?;
        let secs = document.member("uptime").and_then(|text| text.parse().ok());
        let boot = member(document, "boot").zip(secs.map(Duration::from_secs));
        Some(Self { clock, boot })
    }

    pub(super) fn save(&self, document: &mut Document) -> serde_json::Result<()> {
        document.set_member("written", to_raw_value(&time_text::utc(self.clock))?);
        if let Some((boot, uptime)) = &self.boot {
            document.set_member("boot", to_raw_value(boot)?);
            document.set_member("uptime", to_raw_value(&uptime.as_secs())?);
        }
        Ok(())
    }

    /// How far the host's clock is behind at the time `now`, as far as is known.
    ///
    /// # Errors
    /// [`StateError::Clock`] when it is wrong and nobody knows by how much.
    pub(super) fn behind(&self, now: &Self) -> Result<Duration, StateError> {
        if let (Some((boot, then)), Some((same, uptime))) = (&self.boot, &now.boot)
            && boot == same
        {
            let true_time = self.clock + uptime.saturating_sub(*then);
            return Ok(true_time.duration_since(now.clock).unwrap_or_default());
        }
        if now.clock + SLACK < self.clock {
            return Err(StateError::Clock {
                now: time_text::utc(now.clock),
                written: time_text::utc(self.clock),
            });
        }
        Ok(Duration::ZERO)
    }
}

/// Which boot of the kernel this is, and how long ago, sleep included.
fn since_boot() -> Option<(String, Duration)> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some((id.trim().to_owned(), uptime.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn clock_before_the_time_of_writing_is_wrong_after_another_boot() {
        let written = at(100, "a", 5);
        assert_eq!(written.behind(&at(100, "b", 0)).unwrap(), Duration::ZERO);
        assert_eq!(written.behind(&at(130, "b", 0)).unwrap(), Duration::ZERO);
        let error = written.behind(&at(99, "b", 0)).unwrap_err().to_string();
        assert!(error.starts_with("the clock says 1970-01-05T03:00:00Z"), "{error}");
    }

    #[test]
    fn time_since_the_same_boot_is_believed_rather_than_the_clock() {
        let written = at(100, "a", 5);
        for (clock, uptime, behind) in [(101, 6, 0), (125, 6, 0), (99, 6, 2), (1, 29, 123)] {
            assert_eq!(written.behind(&at(clock, "a", uptime)).unwrap(), HOUR * behind);
        }
    }

    fn at(clock: u32, boot: &str, uptime: u32) -> Written {
        let clock = SystemTime::UNIX_EPOCH + HOUR * clock;
        Written { clock, boot: Some((boot.to_owned(), HOUR * uptime)) }
    }
}
