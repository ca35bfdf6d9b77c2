//! Which twill this is.

/// The version, without a `v`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, as far as `build.rs` could tell.
pub const COMMIT: Option<&str> = option_env!("TWILL_COMMIT_HASH");

/// What `--version` prints: `v0.1.0 twill, commit 25930f4c1a2b`. Scripts that know stock's `v0.27.0`
/// find the version in the first word.
pub fn version_line() -> String {
    match COMMIT {
        Some(commit) => format!("v{VERSION} twill, commit {commit}"),
        None => format!("v{VERSION} twill, commit unknown"),
    }
}
