//! [`Limits`]: how many lines of a kind a minute takes. The others are counted.
//!
//! A kind is a place in the code, so that no text from outside can make new ones.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::Context;

use super::escape::escape;
use super::writer::Queue;

/// What the share of each kind is for.
const MINUTE: Duration = Duration::from_secs(60);

/// The log's own lines about its lines are not counted among those.
const OWN_TARGET: &str = "twill::log";

/// Most characters shown of a sample line.
const SAMPLE_LEN: usize = 160;

/// The lines of a minute, by kind.
#[derive(Debug, Default)]
pub(super) struct Limits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kinds: HashMap<Identifier, Kind>,
    /// To be said as soon as possible.
    said: Vec<Summary>,
}

/// One kind's minute.
#[derive(Debug)]
struct Kind {
    level: Level,
    since: Instant,
    num: u64,
    /// The first line that was too much.
    sample: String,
}

/// What is to be said of lines that are not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    level: Level,
    /// How many there were; `None` for those to come.
    num: Option<u64>,
    sample: String,
}

/// Decision about a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Written,
    /// It is the first one over the limit.
    Last,
    Counted,
}

/// Most lines of a kind within a minute. Stock says of every peer that it was added or removed, one
/// line each at level INFO.
const fn share(level: &Level) -> u64 {
    match *level {
        Level::ERROR | Level::WARN => 20,
        Level::INFO => 200,
        _ => 1000,
    }
}

impl Limits {
    /// Decides on a line of the kind `meta`; `text` gives it, if it is needed.
    fn decide(&self, meta: &Metadata<'_>, now: Instant, text: impl FnOnce() -> String) -> Verdict {
        let mut state = self.lock();
        let State { kinds, said } = &mut *state;
        let new = || Kind { level: *meta.level(), since: now, num: 0, sample: String::new() };
        let kind = kinds.entry(meta.callsite()).or_insert_with(new);
        if now.duration_since(kind.since) >= MINUTE {
            said.extend(std::mem::replace(kind, new()).total());
        }
        kind.num += 1;
        match kind.num.checked_sub(share(&kind.level)) {
            None | Some(0) => Verdict::Written,
            Some(1) => {
                kind.sample = text();
                let sample = kind.sample.clone();
                said.push(Summary { level: kind.level, num: None, sample });
                Verdict::Last
            }
            Some(_) => Verdict::Counted,
        }
    }

    /// What is due to be logged at `now`, and when to ask again.
    pub(super) fn due(&self, now: Instant) -> (Vec<Summary>, Option<Instant>) {
        let mut state = self.lock();
        let mut due = std::mem::take(&mut state.said);
        state.kinds.retain(|_, kind| {
            let is_over = now.duration_since(kind.since) >= MINUTE;
            if is_over {
                due.extend(kind.total());
            }
            !is_over
        });
        let next = state.kinds.values().filter(|kind| kind.num_unwritten() > 0);
        (due, next.map(|kind| kind.since + MINUTE).min())
    }

    /// The same at the end, for which no minute is waited.
    pub(super) fn all(&self) -> Vec<Summary> {
        let mut state = self.lock();
        let mut all = std::mem::take(&mut state.said);
        all.extend(state.kinds.drain().filter_map(|(_, kind)| kind.total()));
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    fn num_unwritten(&self) -> u64 {
        self.num.saturating_sub(share(&self.level))
    }

    fn total(&self) -> Option<Summary> {
        let num = Some(self.num_unwritten()).filter(|&num| num > 0);
        num?;
        Some(Summary { level: self.level, num, sample: self.sample.clone() })
    }
}

impl Summary {
    /// Logs it.
    pub(super) fn log(&self) {
        match self.level {
            Level::ERROR => tracing::error!(target: OWN_TARGET, "{self}"),
            Level::WARN => tracing::warn!(target: OWN_TARGET, "{self}"),
            Level::INFO => tracing::info!(target: OWN_TARGET, "{self}"),
            _ => tracing::debug!(target: OWN_TARGET, "{self}"),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sample, minute) = (&self.sample, MINUTE.as_secs());
        match self.num {
            None => write!(
                f,
                "{} lines of one kind within {minute} s: more are counted, not written, like \
                 {sample:?}",
                share(&self.level)
            ),
            Some(1) => write!(f, "and 1 more line like {sample:?}"),
            Some(num) => write!(f, "and {num} more lines like {sample:?}"),
        }
    }
}

/// Drops lines over the limit before they are formatted.
pub(super) struct Layer {
    limits: Arc<Limits>,
    queue: Queue,
}

impl Layer {
    pub(super) const fn new(limits: Arc<Limits>, queue: Queue) -> Self {
        Self { limits, queue }
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if event.metadata().target() == OWN_TARGET {
            return true;
        }
        match self.limits.decide(event.metadata(), Instant::now(), || sample(event)) {
            Verdict::Written => true,
            Verdict::Last => {
                self.queue.wake();
                false
            }
            Verdict::Counted => false,
        }
    }
}

/// The beginning of an event's message.
fn sample(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    let Message(text) = message;
    let Some((cut, _)) = text.char_indices().nth(SAMPLE_LEN) else { return escape(&text) };
    escape(&text[..cut]) + "…"
}

#[cfg(test)]
mod tests;
