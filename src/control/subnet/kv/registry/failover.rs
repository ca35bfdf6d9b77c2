//! [`Failover`]: which of several servers to ask, and what each said that gave no answer.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::RegistryError;
use super::etcd_fault::NO_ANSWER;

/// How long a server may take before the next one is asked as well, while none is known to answer.
/// One that is well answers in a fraction of this.
const HEAD_START: Duration = Duration::from_millis(300);

/// Asks the server that answered last, and the others if it fails.
#[derive(Debug)]
pub(super) struct Failover {
    num_servers: usize,
    /// The one that answered last.
    current: AtomicUsize,
    /// It did, and they have not all failed since.
    is_known: AtomicBool,
}

/// Why a server gave no answer.
#[derive(Debug, Default)]
pub(super) struct Miss {
    /// What happened, and at which server.
    reason: String,
    /// What the user can do.
    hint: Option<Cow<'static, str>>,
    /// Another server would say the same.
    is_final: bool,
}

impl Miss {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    /// The same, with what the user can do.
    pub(super) fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same, which another server would say, too.
    pub(super) fn finally(self) -> Self {
        Self { is_final: true, ..self }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(std::slice::from_ref(self)))
    }
}

/// Why no server gave an answer so far.
struct Misses {
    operation: &'static str,
    /// In the operator's order of servers.
    all: Vec<Miss>,
}

impl Failover {
    pub(super) const fn new(num_servers: usize) -> Self {
        Self { num_servers, current: AtomicUsize::new(0), is_known: AtomicBool::new(false) }
    }

    /// Asks the server that answered last, then the others, until one gives an answer or a
    /// refusal that any other would give, too.
    ///
    /// A server that fell silent may have done what it was asked. `ask` must be such that asking
    /// another once more does no harm.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        ask: impl Fn(usize) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Miss>>,
    {
        let mut misses = Misses::new(operation, self.num_servers);
        for index in self.order() {
            // On the heap: what a client needs for a call would else be a part of every future above.
            match self.note(index, Box::pin(ask(index)).await) {
                Ok(answer) => return Ok(answer),
                Err(miss) => misses.add(index, miss)?,
            }
        }
        self.is_known.store(false, Ordering::Relaxed);
        Err(misses.into_error())
    }

    /// Like [`call`](Self::call), for what changes nothing. As long as no server is known to
    /// answer, as at the start, it does not wait for one that is slow before it asks the
    /// next: the lookup of a name alone may take many seconds.
    pub(super) async fn read<T, F>(
        &self,
        operation: &'static str,
        ask: impl Fn(usize) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, Miss>>,
    {
        if self.is_known.load(Ordering::Relaxed) {
            return self.call(operation, ask).await;
        }
        let (ask, mut misses) = (&ask, Misses::new(operation, self.num_servers));
        let mut order = self.order().peekable();
        let mut asked = FuturesUnordered::new();
        loop {
            if let Some(index) = order.next() {
                asked.push(async move { (index, self.note(index, ask(index).await)) });
            }
            let answered = match order.peek() {
                Some(_) => timeout(HEAD_START, asked.next()).await,
                None => Ok(asked.next().await),
            };
            match answered {
                Ok(Some((_, Ok(answer)))) => return Ok(answer),
                Ok(Some((index, Err(miss)))) => misses.add(index, miss)?,
                Ok(None) => return Err(misses.into_error()),
                Err(_) => {}
            }
        }
    }

    fn note<T>(&self, index: usize, answer: Result<T, Miss>) -> Result<T, Miss> {
        if answer.is_ok() {
            self.current.store(index, Ordering::Relaxed);
            self.is_known.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// The servers in the order in which they are asked.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (start, num) = (self.current.load(Ordering::Relaxed), self.num_servers);
        (0..num).map(move |turn| (start + turn) % num)
    }
}

impl Misses {
    fn new(operation: &'static str, num_servers: usize) -> Self {
        Self { operation, all: (0..num_servers).map(|_| Miss::default()).collect() }
    }

    /// Takes note of the miss of a server; an error if there is no use in asking another.
    fn add(&mut self, index: usize, miss: Miss) -> Result<(), RegistryError> {
        let is_final = miss.is_final;
        self.all[index] = miss;
        if is_final {
            let Self { operation, all } = self;
            return Err(RegistryError::Call { operation, reason: describe(&all[index..=index]) });
        }
        Ok(())
    }

    fn into_error(self) -> RegistryError {
        RegistryError::Call { operation: self.operation, reason: describe(&self.all) }
    }
}

/// The reasons, those of servers that answered first, then each hint once: `etcd does not answer at 10.0.0.1:2379 (refused) and at
/// 10.0.0.2:2379 (refused); --etcd-endpoints says where it is`.
fn describe(misses: &[Miss]) -> String {
    let mut text = String::new();
    let mut before: Option<&str> = None;
    let mut misses: Vec<&Miss> = misses.iter().collect();
    misses.sort_by_key(|miss| miss.reason.starts_with(NO_ANSWER));
    for Miss { reason, .. } in &misses {
        match (before, reason.strip_prefix(NO_ANSWER)) {
            (None, _) => text += reason,
            (Some(before), Some(place)) if before.starts_with(NO_ANSWER) => {
                text = format!("{text} and at {place}");
            }
            (Some(_), _) => text = format!("{text}; {reason}"),
        }
        before = Some(reason);
    }
    let mut hints: Vec<&str> = Vec::new();
    for hint in misses.iter().filter_map(|miss| miss.hint.as_deref()) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints.iter().fold(text, |text, hint| format!("{text}; {hint}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    fn miss<T>(server: usize, is_final: bool) -> Result<T, Miss> {
        Err(Miss { is_final, ..Miss::new(format!("server {server}")) })
    }

    #[tokio::test(start_paused = true)]
    async fn next_server_is_asked_when_one_fails_or_is_slow_and_the_one_that_answered_stays() {
        let failover = Failover::new(4);
        let start = Instant::now();
        let asked = Mutex::new(Vec::new());
        let ask = async |server: usize| {
            asked.lock().unwrap().push((server, start.elapsed()));
            match server {
                0 => miss(server, false),
                1 | 3 => std::future::pending().await,
                _ => Ok(server),
            }
        };
        assert_eq!(failover.read("test", ask).await, Ok(2));
        let times = [(0, Duration::ZERO), (1, Duration::ZERO), (2, HEAD_START)];
        assert_eq!(*asked.lock().unwrap(), times);
        assert_eq!(failover.read("test", ask).await, Ok(2));
        assert_eq!(failover.call("test", ask).await, Ok(2));
        assert_eq!(asked.lock().unwrap()[3..], [(2, HEAD_START); 2]);
    }

    #[test]
    fn what_servers_share_is_said_once_after_what_others_answered() {
        let away = |place| Miss::new(format!("{NO_ANSWER}{place} (refused)")).hint("look there");
        let other = || Miss::new("b:1 is no etcd (it speaks HTTP)").hint("look there");
        assert_eq!(describe(&[away("a:1")]), format!("{NO_ANSWER}a:1 (refused); look there"));
        assert_eq!(
            describe(&[away("a:1"), away("a:2"), other(), Miss::new("c"), away("d:1")]),
            format!(
                "b:1 is no etcd (it speaks HTTP); c; {NO_ANSWER}a:1 (refused) and at a:2 (refused) \
                 and at d:1 (refused); look there"
            )
        );
    }

    #[tokio::test]
    async fn refusal_that_is_final_ends_the_search_and_other_reasons_keep_their_order() {
        let failover = Failover::new(3);
        let ask = async |server: usize| miss::<()>(server, server == 1);
        let error = failover.read("test", ask).await.unwrap_err().to_string();
        assert_eq!(error, "test: server 1");
        let ask = async |server: usize| miss::<()>(server, false);
        for error in [failover.read("test", ask).await, failover.call("test", ask).await] {
            let error = error.unwrap_err().to_string();
            assert_eq!(error, "test: server 0; server 1; server 2");
        }
    }
}
