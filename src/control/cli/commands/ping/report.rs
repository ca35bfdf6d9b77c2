//! What `flanneld ping` prints.

use serde_json::{Value, json};

use super::observe::{Longest, Observed, Peer, Series};
use super::verdict::Verdict;
use crate::control::cli::commands::survey::Own;
use crate::control::cli::term::paint::Paint;
use crate::control::cli::term::{WIDTH, wrap};
use crate::control::host::probe::{Answer, Port, SendFault};

/// Columns of the names on the left.
const INDENT: usize = 11;

/// Who was asked, what came, and what it means.
#[derive(Debug)]
pub(super) struct PingReport {
    pub(super) own: Own,
    pub(super) peer: Peer,
    pub(super) seen: Observed,
    pub(super) verdict: Verdict,
}

impl PingReport {
    pub(super) fn to_text(&self, paint: Paint) -> String {
        let Self { own, peer, seen, verdict } = self;
        let mut text = String::new();
        let plain: fn(Paint, &str) -> String = |_, text| text.to_owned();
        let mut line = |name: &str, value: &str, colour: fn(Paint, &str) -> String| {
            for (index, part) in wrap(value, WIDTH - INDENT).into_iter().enumerate() {
                let name = if index == 0 { name } else { "" };
                text += &format!("{name:<INDENT$}{}\n", colour(paint, &part));
            }
        };
        let colour = if verdict.ok { Paint::green } else { Paint::red };
        let Some(lease) = &peer.lease else {
            // It is no node: of what it answers only the verdict is of use.
            line("verdict", &verdict.text, colour);
            if let Some(advice) = &verdict.advice {
                line("", &format!("-> {advice}"), plain);
            }
            return text;
        };
        let whom = format!("{}, subnet {}, from {}", peer.public_ip, lease.subnet, own.addr);
        line("node", &whom, plain);
        line("underlay", &describe(&seen.underlay), plain);
        if let (Some(port), Some(number)) = (&seen.port, own.wire.port()) {
            line("port", &format!("UDP {number} {}", port_words(port)), plain);
        }
        match &seen.overlay {
            Some(overlay) => line("overlay", &describe(overlay), plain),
            None => line("overlay", "not asked: one of the two nodes is not on it", plain),
        }
        if let Some(tcp) = seen.tcp {
            line("tcp", if tcp { "answers" } else { "no answer" }, plain);
        }
        if let Some(forwards) = seen.forwards {
            line("forwards", if forwards { "yes" } else { "no" }, plain);
        }
        if let Some(pod) = &seen.pod {
            line("container", &describe(pod), plain);
        }
        for (name, longest) in [("outer mtu", seen.underlay_mtu), ("mtu", seen.overlay_mtu)] {
            if let Some(longest) = longest {
                line(name, &length(longest), plain);
            }
        }
        line("verdict", &verdict.text, colour);
        if let Some(advice) = &verdict.advice {
            line("", &format!("-> {advice}"), plain);
        }
        if let Some((doubt, advice)) = &verdict.doubt {
            line("but", doubt, Paint::yellow);
            line("", &format!("-> {advice}"), plain);
        }
        text
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { own, peer, seen, verdict } = self;
        json!({
            "from": own.addr,
            "public_ip": peer.public_ip,
            "subnet": peer.lease.as_ref().map(|lease| lease.subnet),
            "underlay": seen.underlay,
            "port": seen.port.as_ref().map(|port| json!({
                "number": own.wire.port(),
                "state": port_state(port),
            })),
            "overlay": seen.overlay,
            "tcp": seen.tcp,
            "forwards": seen.forwards,
            "container": seen.pod,
            "underlay_mtu": seen.underlay_mtu,
            "overlay_mtu": seen.overlay_mtu,
            "ok": verdict.ok,
            "verdict": verdict.text,
            "advice": verdict.advice,
            "doubt": verdict.doubt.as_ref().map(|(text, _)| text),
        })
    }
}

fn describe(series: &Series) -> String {
    let Series { to, sent, received, median, failure } = series;
    let time = median.map(|time| format!(", median {:.2} ms", time.as_secs_f64() * 1000.0));
    let failure = failure.as_ref().map(|answer| format!(": {}", answer_words(answer)));
    let (time, failure) = (time.unwrap_or_default(), failure.unwrap_or_default());
    format!("{to} answers {received} of {sent}{time}{failure}")
}

fn answer_words(answer: &Answer) -> String {
    match answer {
        Answer::Reply { .. } => "a reply".to_owned(),
        Answer::Refused { by, error } => format!("{by} says {}", error.words()),
        Answer::NotSent(fault) => format!("not sent, {}", fault_words(fault)),
        Answer::Silence => "nothing came back in time".to_owned(),
    }
}

fn fault_words(fault: &SendFault) -> String {
    match fault {
        SendFault::TooLong => "it is longer than the MTU".to_owned(),
        SendFault::NoRoute => "there is no route".to_owned(),
        SendFault::Forbidden => "a rule of this host's firewall forbids it".to_owned(),
        SendFault::Other(reason) => reason.clone(),
    }
}

fn port_words(port: &Port) -> String {
    match port {
        Port::Answered => "is open: flanneld answers there".to_owned(),
        Port::Refused { by, error } => {
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            format!("is refused{by}: {}", error.words())
        }
        Port::NotSent(fault) => format!("was not asked, {}", fault_words(fault)),
        Port::Silent => "is silent: filtered, or open without an answer".to_owned(),
    }
}

const fn port_state(port: &Port) -> &'static str {
    match port {
        Port::Answered => "open",
        Port::Refused { .. } => "refused",
        Port::NotSent(_) => "not-asked",
        Port::Silent => "silent",
    }
}

fn length(longest: Longest) -> String {
    let Longest { passed, wanted } = longest;
    match passed {
        Some(passed) => format!("{passed} of {wanted} bytes pass"),
        None => format!("nothing passes, of up to {wanted} bytes"),
    }
}
