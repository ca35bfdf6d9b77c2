//! The thread that writes to standard error, and the queue before it.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use super::journal;
use super::limit::Limits;
use super::recent::Recent;

/// Name of the thread, which recovers from its own panics.
pub(in crate::control) const THREAD: &str = "flannel-log";

/// Lines that wait for standard error; beyond them lines are lost.
const QUEUE_LEN: usize = 1024;

/// Longest line, in bytes: an entry of etcd may have 1.5 MB.
const MAX_LINE_LEN: usize = 4096;

/// How long the end of the daemon waits for standard error to take what is queued.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How soon it is tried again to write where that would have blocked: somebody else has made the
/// file non-blocking.
const RETRY: Duration = Duration::from_millis(20);

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// There may be something to sum up.
    Wake,
    /// Sum up what is left, write what is queued, and say so.
    End(Option<String>, Sender<()>),
}

/// Takes lines for the thread. It never blocks.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    items: Sender<Item>,
    lost: Arc<AtomicU64>,
    recent: Recent,
}

impl Queue {
    /// The last lines, also those that standard error did not take.
    pub(super) fn recent(&self) -> String {
        self.recent.text()
    }

    /// Has the thread ask the limits for what is to be said.
    pub(super) fn wake(&self) {
        // Where there is no room the thread has something to do, and asks after that.
        drop(self.items.try_send(Item::Wake));
    }

    /// Queues `last` and waits a moment for everything to be written.
    pub(super) fn end(&self, last: Option<String>) {
        let deadline = Instant::now() + END_TIMEOUT;
        let (done, is_done) = bounded(1);
        if self.items.send_deadline(Item::End(last, done), deadline).is_ok() {
            // If it is not written, nobody reads: do not wait longer.
            let _: Result<(), _> = is_done.recv_deadline(deadline);
        }
    }

    fn put(&self, line: Vec<u8>) {
        self.recent.push(&line);
        if self.items.try_send(Item::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One whole line comes with each call of `write`.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(cut(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A line of at most [`MAX_LINE_LEN`] bytes, and what it is short of.
fn cut(line: &[u8]) -> Vec<u8> {
    if line.len() <= MAX_LINE_LEN {
        return line.to_owned();
    }
    let text = String::from_utf8_lossy(&line[..MAX_LINE_LEN]);
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    format!("{text}… ({} bytes in all)\n", line.len()).into_bytes()
}

/// Starts the thread, which writes to `output` for the life of the process.
///
/// # Errors
/// What the kernel says when it refuses a thread.
pub(super) fn start(output: impl Write + Send + 'static, limits: Arc<Limits>) -> io::Result<Queue> {
    let (items, queued) = bounded(QUEUE_LEN);
    let queue = Queue { items, lost: Arc::default(), recent: Recent::default() };
    let lost = Arc::clone(&queue.lost);
    let mut thread = Thread { output, queued, limits, lost, num_lost_seen: 0 };
    let work = move || {
        // A panic costs only its line: without this thread there would be no log.
        while catch_unwind(AssertUnwindSafe(|| thread.run())).is_err() {}
    };
    std::thread::Builder::new().name(THREAD.to_owned()).spawn(work)?;
    Ok(queue)
}

struct Thread<W> {
    output: W,
    queued: Receiver<Item>,
    limits: Arc<Limits>,
    /// Lines that found no room in the queue, or could not be written.
    lost: Arc<AtomicU64>,
    /// How many of those the log has spoken of.
    num_lost_seen: u64,
}

impl<W: Write> Thread<W> {
    /// Writes lines until all queues are gone.
    fn run(&mut self) {
        let mut wake_at: Option<Instant> = None;
        loop {
            let item = match wake_at {
                Some(at) => self.queued.recv_deadline(at),
                None => self.queued.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match item {
                Ok(Item::Line(line)) => self.write(&line),
                Ok(Item::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Item::End(last, done)) => self.end(last, &done),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let (due, next) = self.limits.due(Instant::now());
            due.iter().for_each(super::limit::Summary::log);
            wake_at = next;
        }
    }

    fn end(&mut self, last: Option<String>, done: &Sender<()>) {
        self.limits.all().iter().for_each(super::limit::Summary::log);
        while let Ok(item) = self.queued.try_recv() {
            match item {
                Item::Line(line) => self.write(&line),
                Item::Wake | Item::End(..) => {}
            }
        }
        if let Some(last) = last {
            self.write(last.as_bytes());
        }
        // There is room for the one answer.
        let _: Result<(), _> = done.try_send(());
    }

    /// Writes one line, after a word on those that were lost before it.
    fn write(&mut self, line: &[u8]) {
        let num_lost = self.lost.load(Ordering::Relaxed);
        if num_lost > self.num_lost_seen {
            let num = num_lost - self.num_lost_seen;
            let lines = if num == 1 { "line" } else { "lines" };
            let prefix = if journal::is_stderr() { journal::prefix(Level::WARN) } else { "" };
            let word =
                format!("{prefix}flanneld: {num} log {lines} lost: standard error took no more\n");
            if self.try_write(word.as_bytes()).is_ok() {
                self.num_lost_seen = num_lost;
            }
        }
        if self.try_write(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn try_write(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(num) => rest = &rest[num..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes what it is given once `is_open`.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Content>>);

    #[derive(Default)]
    struct Content {
        text: String,
        is_broken: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut content = self.0.lock().unwrap();
            if content.is_broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // Few at a time, as a pipe that is nearly full.
            let num = bytes.len().min(7);
            content.text.push_str(std::str::from_utf8(&bytes[..num]).unwrap());
            Ok(num)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_lost_are_counted_and_told_later() {
        let pipe = Pipe::default();
        let mut queue = start(pipe.clone(), Arc::default()).unwrap();
        queue.write_all(b"first of all\n").unwrap();
        queue.end(None);
        {
            // The thread waits for this lock as for a pipe that is full.
            let _full = pipe.0.lock().unwrap();
            for number in 0..QUEUE_LEN + 10 {
                queue.write_all(format!("line {number}\n").as_bytes()).unwrap();
            }
        }
        queue.end(Some("the end\n".to_owned()));
        let num_lost = queue.lost.load(Ordering::Relaxed);
        assert!((9..=10).contains(&num_lost), "{num_lost}");
        let text = pipe.0.lock().unwrap().text.clone();
        let expected =
            format!("flanneld: {num_lost} log lines lost: standard error took no more\n");
        assert!(text.contains(&expected), "{text}");
        assert!(
            text.starts_with("first of all\nline 0\n") || text.contains("\nline 1\n"),
            "{text}"
        );
        assert!(text.ends_with("the end\n"), "{text}");
        assert_eq!(text.lines().count() as u64, 1 + 1034 - num_lost + 2);
    }

    #[test]
    fn broken_pipe_costs_lines_and_no_more() {
        let pipe = Pipe::default();
        pipe.0.lock().unwrap().is_broken = true;
        let mut queue = start(pipe.clone(), Arc::default()).unwrap();
        queue.write_all(b"unread\n").unwrap();
        queue.end(None);
        pipe.0.lock().unwrap().is_broken = false;
        queue.write_all(b"read\n").unwrap();
        queue.end(None);
        let expected = "flanneld: 1 log line lost: standard error took no more\nread\n";
        assert_eq!(pipe.0.lock().unwrap().text, expected);
    }

    #[test]
    fn end_does_not_wait_for_ever() {
        let pipe = Pipe::default();
        let mut queue = start(pipe.clone(), Arc::default()).unwrap();
        let _full = pipe.0.lock().unwrap();
        for _ in 0..2 * QUEUE_LEN {
            queue.write_all(b"unread\n").unwrap();
        }
        queue.end(Some("unread, too\n".to_owned()));
    }

    #[test]
    fn long_line_is_cut_between_characters() {
        let short = "é".repeat(MAX_LINE_LEN / 2);
        assert_eq!(cut(short.as_bytes()), short.as_bytes());
        let long = format!("x{}\n", "é".repeat(1 << 20));
        let line = String::from_utf8(cut(long.as_bytes())).unwrap();
        assert!(line.ends_with("é… (2097154 bytes in all)\n"), "{line}");
        assert!(line.len() < MAX_LINE_LEN + 40);
    }
}
