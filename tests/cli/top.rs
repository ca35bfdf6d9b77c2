//! `flanneld top` on a terminal: frames, keys, a daemon that comes and goes, and what is left behind.

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use regex::Regex;

use crate::host::{FLANNELD, Host, eventually};
use crate::tools::start;

/// `flanneld top` under script(1), which gives it a terminal.
struct Terminal<'a> {
    host: &'a Host,
    script: Child,
    keys: ChildStdin,
}

impl<'a> Terminal<'a> {
    fn open(host: &'a Host, variable: &str) -> Self {
        for file in ["typescript", "status", "after"] {
            drop(fs::remove_file(host.dir.path().join(file)));
        }
        let run = format!(
            "tty > tty; stty rows 24 cols 80; stty -g > before; export TERM=xterm {variable}; \
             sh -c 'echo $$ > pid; exec {FLANNELD} top'; echo $? > status; stty -g > after"
        );
        let mut script = host.command(&["script", "-qfc", &run, "typescript"]);
        script.stdin(Stdio::piped()).stdout(Stdio::null()).current_dir(host.dir.path());
        let mut script = script.spawn().unwrap();
        let keys = script.stdin.take().unwrap();
        Self { host, script, keys }
    }

    fn file(&self, name: &str) -> String {
        let bytes = fs::read(self.host.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines of the last whole frame, without colours.
    fn frame(&self) -> Vec<String> {
        let shown = self.file("typescript");
        let whole = shown.rsplit_once("\x1b[?2026l").map_or("", |(shown, _)| shown);
        let last = whole.rsplit_once("\x1b[?2026h").map_or("", |(_, frame)| frame);
        let rows = Regex::new("\x1b\\[[0-9]+;1H").unwrap();
        let escapes = Regex::new("\x1b\\[[0-9;]*[A-Za-z]").unwrap();
        rows.split(last).skip(1).map(|row| escapes.replace_all(row, "").into_owned()).collect()
    }

    /// The first frame with `text`.
    fn wait_for(&self, text: &str) -> Vec<String> {
        eventually(text, || Some(self.frame()).filter(|frame| frame.concat().contains(text)))
    }

    fn resize(&self, size: &[&str]) {
        let mut stty = Command::new("stty");
        stty.arg("-F").arg(self.file("tty").trim()).args(size);
        assert!(stty.status().unwrap().success());
    }

    /// Waits for the end, which leaves the terminal as it was.
    fn end(mut self) -> String {
        // What top wrote last reaches script(1) after top has ended.
        let is_over = || self.file("after").ends_with('\n') && self.tail().contains("\x1b[?1049l");
        eventually("the end", || is_over().then_some(()));
        // It would wait for the end of its input.
        self.script.kill().unwrap();
        self.script.wait().unwrap();
        let shown = self.file("typescript");
        assert_eq!(self.file("status").trim(), "0", "{shown}");
        assert_eq!(self.file("after"), self.file("before"));
        assert!(self.tail().contains("\x1b[?25h"), "{:?}", self.tail());
        shown
    }

    /// What follows the last whole frame.
    fn tail(&self) -> String {
        let shown = self.file("typescript");
        shown.rsplit_once("\x1b[?2026l").map_or(String::new(), |(_, tail)| tail.to_owned())
    }
}

#[test]
fn top_follows_size_and_daemon_and_leaves_the_terminal_as_it_was() {
    let host = Host::new();
    let leases = (0..2000).map(|number| {
        let (high, low) = (number / 16, number % 16 * 16);
        format!(r#""10.1.{high}.{low}-28": {{"PublicIP":"10.2.{high}.{low}"}}"#)
    });
    let leases = leases.collect::<Vec<_>>().join(",");
    let config = r#"{"Network":"10.1.0.0/16","SubnetLen":28}"#;
    let registry = format!(r#"{{"config":{config},"leases":{{{leases}}}}}"#);
    fs::write(host.dir.path().join("registry.json"), registry).unwrap();
    let daemon = start(&host, "a", &[]);
    daemon.wait_for("Watching for new subnet leases");

    let mut terminal = Terminal::open(&host, "NO_COLOR=");
    let frame = terminal.wait_for(" more");
    assert_eq!(frame.len(), 24, "{frame:?}");
    assert!(frame[0].contains(" on flannel0") && frame[23] == "q quits", "{frame:?}");
    assert!(frame.iter().all(|line| line.chars().count() <= 80), "{frame:?}");
    terminal.resize(&["rows", "30", "cols", "40"]);
    // stty sets rows and columns one after the other.
    let is_narrow = |frame: &[String]| frame.iter().all(|line| line.chars().count() <= 40);
    let resized = |frame: &Vec<String>| frame.len() == 30 && is_narrow(frame);
    let frame = eventually("30 rows of 40", || Some(terminal.frame()).filter(resized));
    assert!(frame.iter().any(|line| line.starts_with("PEER") && line.contains("IN BIT/S")));

    daemon.stop();
    terminal.wait_for("waiting for it");
    let daemon = start(&host, "a", &[]);
    terminal.wait_for(" on flannel0");
    terminal.keys.write_all(b"q").unwrap();
    assert!(terminal.end().contains("\x1b[1m"), "its heads are bold");

    let mut terminal = Terminal::open(&host, "NO_COLOR=1");
    terminal.wait_for("PEER");
    terminal.keys.write_all(b"\x03").unwrap();
    assert!(!terminal.end().contains("\x1b[1m"));
    let terminal = Terminal::open(&host, "NO_COLOR=1");
    terminal.wait_for("PEER");
    let pid = terminal.file("pid");
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    terminal.end();
    daemon.stop();
}
