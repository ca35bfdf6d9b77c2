//! A panic anywhere in the daemon ends it with an orderly shutdown.
//!
//! The daemon runs inside a copy of this test, so that the log can provoke the panic: a subscriber
//! that panics at a line makes whatever logs that line panic, on its own thread and in its own task.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]
#![allow(unreachable_pub, reason = "the harness is this target's own")]

mod host;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, exit};
use std::time::Duration;

use host::{Host, eventually};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use twill::control::cli;
use twill::control::cli::Invocation;

/// Set in the copy: the part of a line at which to panic, or [`THREAD`].
const PANIC_AT: &str = "TWILL_TEST_PANIC_AT";

/// Panics on a thread that logs nothing, once subnet.env is there.
const THREAD: &str = "thread";

#[test]
fn panic_anywhere_ends_the_daemon_with_one_message_and_status_1() {
    if let Some(line) = std::env::var_os(PANIC_AT) {
        be_the_daemon(line.into_string().unwrap());
    }
    let host = Host::with_etcd();
    host.put_config(r#"{"Network":"10.1.0.0/16"}"#);
    // The firewall's task, which logs when it writes; the daemon's own loop; the device reconciler's
    // task; a thread of any library.
    for line in ["rules are in place", "flannel is ready", "somebody changed", THREAD] {
        let env = host.dir.path().join("subnet.env");
        let mut daemon = start(&host, line);
        if line == "somebody changed" {
            eventually("subnet.env", || env.exists().then_some(()));
            host.output(&["ip", "link", "set", "flannel0", "down"]);
        }
        let status = eventually("the daemon ends", || daemon.0.try_wait().unwrap());
        let log = fs::read_to_string(host.dir.path().join("log")).unwrap();
        assert_eq!(status.code(), Some(1), "{line}: {log}");
        assert_eq!(log.matches("panicked at ").count(), 2, "log and last word: {log}");
        let last = log.lines().last().unwrap();
        assert!(last.starts_with("flanneld: thread ") && last.contains("as asked"), "{log}");
        assert!(host.links_named_flannel().is_empty(), "{line}");
        drop(fs::remove_file(env));
    }
}

struct Copy(Child);

impl Drop for Copy {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(host: &Host, line: &str) -> Copy {
    let this = std::env::current_exe().unwrap();
    let test = "panic_anywhere_ends_the_daemon_with_one_message_and_status_1";
    let mut command = host.command(&[this.to_str().unwrap(), "--exact", test, "--nocapture"]);
    let log = File::create(host.dir.path().join("log")).unwrap();
    // The daemon's own main thread has 8 MiB; a test's has 2, too few for a debug build.
    command.env("RUST_MIN_STACK", "8388608");
    command.env(PANIC_AT, line).env("TWILL_TEST_DIR", host.dir.path()).stderr(log);
    Copy(command.stdout(std::process::Stdio::null()).spawn().unwrap())
}

fn be_the_daemon(line: String) -> ! {
    let env = PathBuf::from(std::env::var_os("TWILL_TEST_DIR").unwrap()).join("subnet.env");
    if line == THREAD {
        let env = env.clone();
        std::thread::spawn(move || {
            while !env.exists() {
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("as asked");
        });
    }
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(lines.and_then(PanicAt(line)))
        .init();
    let mut args = ["-iface", "10.0.0.7", "-subnet-file"].map(OsString::from).to_vec();
    args.push(env.into());
    let Ok(Invocation::Run(config)) = cli::parse(args, []) else { panic!("bad flags") };
    let Err(error) = twill::control::run(*config) else { panic!("nobody asked it to stop") };
    eprintln!("flanneld: {error}");
    exit(1)
}

struct PanicAt(String);

impl<S: Subscriber> Layer<S> for PanicAt {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
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
        let is_about_this = message.0.contains("panicked");
        assert!(is_about_this || !message.0.contains(&self.0), "as asked");
    }
}
