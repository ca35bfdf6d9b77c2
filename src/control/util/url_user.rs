//! The user in a URL, whose password nobody may read.

/// `http://(hidden)@host` of `http://name:password@host`.
pub(crate) fn hide_user(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
            format!("{}(hidden)@{host}", scheme.unwrap_or_default())
        }
        None => url.to_owned(),
    }
}
