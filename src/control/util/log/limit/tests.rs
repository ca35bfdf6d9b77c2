use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::control::util::log::writer;

/// What of `act`'s events is written, and the limits after it.
fn limited(act: impl FnOnce()) -> (String, Arc<Limits>) {
    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Text {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (text, limits) = (Text::default(), Arc::<Limits>::default());
    // The lines do not go through a queue, which may lose some; it has limits of its own.
    let queue = writer::start(std::io::sink(), Arc::default()).unwrap();
    let output = text.clone();
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(super::super::EscapedFields)
        .with_ansi(false)
        .with_writer(move || output.clone());
    let limit = Layer::new(Arc::clone(&limits), queue);
    let subscriber =
        tracing_subscriber::registry().with(LevelFilter::TRACE).with(lines).with(limit);
    tracing::subscriber::with_default(subscriber, act);
    let text = text.0.lock().unwrap().clone();
    (String::from_utf8(text).unwrap(), limits)
}

#[test]
fn kinds_are_limited_by_their_place_and_level() {
    let (log, limits) = limited(|| {
        for number in 0..3000 {
            tracing::warn!("bad {number}");
            tracing::error!(number, "worse");
            tracing::info!("note {number}");
            tracing::debug!("detail {number}");
        }
        tracing::warn!("something else");
    });
    let count = |part| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(["WARN", "ERROR", "INFO", "DEBUG"].map(count), [21, 20, 200, 1000]);
    let mut all: Vec<String> = limits.all().iter().map(ToString::to_string).collect();
    all.sort();
    let totals: Vec<&str> = all.iter().filter(|s| s.starts_with("and")).map(|s| &**s).collect();
    assert_eq!(
        totals,
        [
            "and 2000 more lines like \"detail 1000\"",
            "and 2800 more lines like \"note 200\"",
            "and 2980 more lines like \"bad 20\"",
            "and 2980 more lines like \"worse\"",
        ]
    );
    assert_eq!(all.len(), 8, "{all:?}");
}

#[test]
fn fields_and_message_are_escaped() {
    let (log, _) = limited(|| {
        tracing::warn!(key = "a\nb", display = %"c\nd", "say\n\u{1b}[1m\u{2028}");
    });
    assert_eq!(log.lines().count(), 1, "{log:?}");
    for part in [r"say\n", r"[1m\u{2028}", r#"key="a\nb""#, r"display=c\nd"] {
        assert!(log.contains(part), "{log}");
    }
}

#[test]
fn next_minute_has_a_share_of_its_own_and_says_what_the_last_one_left_out() {
    let meta = tracing::callsite! {
        name: "test", kind: tracing::metadata::Kind::EVENT, level: Level::WARN, fields: message
    };
    let meta = tracing::callsite::Callsite::metadata(meta);
    let (limits, start) = (Limits::default(), Instant::now());
    let decide = |at| limits.decide(meta, at, || "text".to_owned());
    let minute = |at: Instant| {
        let verdicts: Vec<Verdict> = (0..25).map(|_| decide(at)).collect();
        assert!(verdicts[..20].iter().all(|verdict| *verdict == Verdict::Written));
        assert_eq!(verdicts[20], Verdict::Last);
        assert!(verdicts[21..].iter().all(|verdict| *verdict == Verdict::Counted));
    };
    minute(start);
    let (due, next) = limits.due(start);
    assert_eq!(due.len(), 1);
    assert!(due[0].to_string().starts_with("20 lines of one kind within 60 s: more are counted"));
    assert_eq!(next, Some(start + MINUTE));
    // The next line comes before anybody asks.
    minute(start + MINUTE);
    let (due, _) = limits.due(start + MINUTE);
    assert_eq!(due[0].to_string(), "and 5 more lines like \"text\"");
    let (due, next) = limits.due(start + 2 * MINUTE);
    assert_eq!((due.len(), due[0].num, next), (1, Some(5), None));
    assert!(limits.lock().kinds.is_empty(), "kinds of the last minute only");
}
