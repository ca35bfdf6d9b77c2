//! The body of `/readyz`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::control::node::status::Check;

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness<'a> {
    ready: bool,
    /// In flannel's words, for probes that search for them.
    message: &'static str,
    checks: &'a BTreeMap<&'static str, Check>,
    warnings: Vec<&'a String>,
}

/// Whether all required `checks` hold, and that with the reasons and with `warnings` as JSON.
pub(in crate::control::observe) fn of(
    checks: &BTreeMap<&'static str, Check>,
    warnings: &BTreeMap<&'static str, String>,
) -> (bool, String) {
    let ready = !checks.values().any(Check::blocks);
    let message = if ready { "flanneld is ready" } else { "flanneld is not ready yet" };
    (ready, to_json(&Readiness { ready, message, checks, warnings: warnings.values().collect() }))
}

/// Writing to memory fails only for maps with keys that are no text; there are none here.
pub(in crate::control::observe) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_fails_and_how_long_the_rest_holds() {
        let until = Check::holds_until("2026-08-14T09:30:00Z".to_owned());
        let mut checks = BTreeMap::from([("lease", until), ("registry", Check::holds())]);
        let none = BTreeMap::new();
        let (ready, json) = of(&checks, &none);
        assert!(ready);
        assert_eq!(
            json,
            "{\"ready\":true,\"message\":\"flanneld is ready\",\"checks\":{\"lease\":{\"ok\":true,\
             \"valid_until\":\"2026-08-14T09:30:00Z\"},\"registry\":{\"ok\":true}},\"warnings\":[]}\n"
        );
        checks.insert("registry", Check::fails("it does not answer"));
        let warnings = BTreeMap::from([("config", "it is another".to_owned())]);
        let (ready, json) = of(&checks, &warnings);
        assert!(!ready);
        assert!(json.ends_with("},\"warnings\":[\"it is another\"]}\n"), "{json}");
        assert!(
            json.contains(r#""registry":{"ok":false,"reason":"it does not answer"}"#),
            "{json}"
        );
        checks.insert("registry", Check::fails("it does not answer").optional());
        let (ready, json) = of(&checks, &warnings);
        assert!(ready, "{json}");
        assert!(json.contains(r#""registry":{"ok":false,"required":false,"reason":"#), "{json}");
    }
}
