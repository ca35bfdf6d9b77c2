//! [`Scrubber`]: takes secrets out of a text.

use regex::Regex;

/// What stands where a secret was.
const MASK: &str = "[secret removed]";

/// Forms of secrets, and what is left of each. No text of ours has them; others' may.
const FORMS: [(&str, &str); 5] = [
    (r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)", MASK),
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}", "$1 [secret removed]"),
    (r"([a-z][a-z0-9+.-]*://)[^/\s:@]*:[^@/\s]+@", "$1[secret removed]@"),
    (
        r#"(?i)([a-z0-9_-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)[a-z0-9_-]*["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;}]+)"#,
        "$1[secret removed]",
    ),
    // A JSON Web Token: three parts of base64, of which the first begins with {".
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", MASK),
];

/// Shorter ones would be found in the middle of words.
const MIN_LEN: usize = 3;

/// Knows the forms of secrets, and those of one daemon by their values.
pub(super) struct Scrubber {
    forms: Vec<(Regex, &'static str)>,
    values: Vec<String>,
}

impl Scrubber {
    pub(super) fn new(values: &[String]) -> Self {
        let forms = FORMS.iter().filter_map(|(form, left)| Some((Regex::new(form).ok()?, *left)));
        let long = values.iter().filter(|value| value.len() >= MIN_LEN);
        Self { forms: forms.collect(), values: long.cloned().collect() }
    }

    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.values {
            text = text.replace(value.as_str(), MASK);
        }
        for (form, left) in &self.forms {
            text = form.replace_all(&text, *left).into_owned();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_valid() {
        assert_eq!(Scrubber::new(&[]).forms.len(), FORMS.len());
    }

    #[test]
    fn planted_secrets_are_gone_and_the_rest_stays() {
        let planted = "\
flanneld -etcd-password=Sesame-1 -v 1
FLANNELD_ETCD_PASSWORD='Sesame-2 with spaces'
{\"etcd_password\": \"Sesame-3\", \"subnet\": \"10.5.1.0/24\"}
Authorization: Bearer Sesame-444444
authorization: Basic Sesame555555==
request to http://root:Sesame-6@192.0.2.1:2379/v3 failed
token: eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJTZXNhbWUifQ.Sesame-7
-----BEGIN EC PRIVATE KEY-----
Sesame-8
-----END EC PRIVATE KEY-----
aws_secret_access_key = Sesame-9
in a log line of another form: Open-Sesame
";
        let clean = Scrubber::new(&["Open-Sesame".to_owned(), "x".to_owned()]).clean(planted);
        assert!(!clean.contains("Sesame"), "{clean}");
        for left in ["-v 1", "10.5.1.0/24", "192.0.2.1:2379/v3 failed", "in a log line"] {
            assert!(clean.contains(left), "{left}: {clean}");
        }
    }

    #[test]
    fn ordinary_words_stay() {
        let text = "-A FORWARD -m comment --comment \"x: y\" -j ACCEPT\nflannel_bytes_total 7\n";
        assert_eq!(Scrubber::new(&[String::new()]).clean(text), text);
    }
}
