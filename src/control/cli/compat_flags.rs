//! Flags of flannel's other modes and older versions, which have no meaning here. Many unit files
//! and tutorials have them, so they are accepted with a warning, unless the daemon would then do
//! something other than the operator asked for.

use super::error::FlagError;
use super::go_flags::{Word, Words, variable_of};
use super::values;

/// A flag of flannel that this program does not have.
#[derive(Debug, Clone, Copy)]
struct CompatFlag {
    name: &'static str,
    /// Whether it is true without a value.
    is_bool: bool,
    effect: Effect,
}

/// How it is handled.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// It is ignored, for this reason.
    Ignored(&'static str),
    /// It cannot be ignored, for this reason, unless it is false or empty.
    Refused(&'static str),
    /// It is another name of this flag of ours.
    Means(&'static str),
}

use Effect::{Ignored, Means, Refused};

const LOG: Effect = Ignored("the log goes to standard error, and RUST_LOG chooses what is logged");
const REMOTE: Effect = Ignored("it belongs to flannel's client/server mode, which is no more");
const NO_REMOTE: Effect =
    Refused("flannel's client/server mode is no more: give every node --etcd-endpoints");
const NO_NETWORKS: Effect = Refused(
    "one flanneld serves one network: run one for each, with an --etcd-prefix and a \
     --subnet-file of its own",
);

/// `main.go` of flannel at 0.28, 0.22, 0.7 and 0.1, without the flags that `args` declares.
const COMPAT_FLAGS: [CompatFlag; 17] = [
    boolean("use-multi-cluster-cidr", Ignored("Kubernetes has no ClusterCIDR objects any more")),
    text("public-ipv6", Ignored("the overlay carries IPv4 only")),
    text("vmodule", LOG),
    text("log_backtrace_at", LOG),
    boolean("logtostderr", LOG),
    boolean("alsologtostderr", LOG),
    text("stderrthreshold", LOG),
    text("log_dir", LOG),
    text("subnet-dir", Ignored("there is one network, and --subnet-file says where its file is")),
    text("networks", NO_NETWORKS),
    boolean("watch-networks", NO_NETWORKS),
    text("listen", NO_REMOTE),
    text("remote", NO_REMOTE),
    text("remote-keyfile", REMOTE),
    text("remote-certfile", REMOTE),
    text("remote-cafile", REMOTE),
    text("etcd-endpoint", Means("etcd-endpoints")),
];

/// Not a flag of flannel, but common in unit files and tutorials.
const MISTAKE: CompatFlag = text("interface", Means("iface"));

const fn text(name: &'static str, effect: Effect) -> CompatFlag {
    CompatFlag { name, is_bool: false, effect }
}

const fn boolean(name: &'static str, effect: Effect) -> CompatFlag {
    CompatFlag { name, is_bool: true, effect }
}

fn find(name: &str) -> Option<CompatFlag> {
    COMPAT_FLAGS.into_iter().chain([MISTAKE]).find(|flag| flag.name == name)
}

/// Whether `name` is one of them that takes a value, as the next word perhaps.
pub(super) fn takes_value(name: &str) -> bool {
    find(name).is_some_and(|flag| !flag.is_bool)
}

/// Those that may also be given as a variable: all but other names of our own flags.
pub(super) fn variables<'a>() -> impl Iterator<Item = &'a str> {
    COMPAT_FLAGS.iter().filter(|flag| !matches!(flag.effect, Means(_))).map(|flag| flag.name)
}

/// The variable of the flag of ours that a variable with another name of it was meant for.
pub(super) fn meaning(variable: &str) -> Option<String> {
    let mut all = COMPAT_FLAGS.into_iter().chain([MISTAKE]);
    let flag = all.find(|flag| variable_of(flag.name) == variable)?;
    match flag.effect {
        Means(ours) => Some(variable_of(ours)),
        Ignored(_) | Refused(_) => None,
    }
}

/// The end of the help text.
pub(super) fn help() -> String {
    let names = |wanted: fn(&Effect) -> bool| {
        let flags = COMPAT_FLAGS.iter().filter(|flag| wanted(&flag.effect));
        flags.map(|flag| format!("--{}", flag.name)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "Flags of flannel's other modes and older versions are accepted and ignored, with a \
         warning:\n{}.\nWithout what these ask for flanneld does not start: {}.",
        names(|effect| matches!(effect, Ignored(_))),
        names(|effect| matches!(effect, Refused(_)))
    )
}

/// Takes them out of `words`, but for those that are other names of our own flags, which get their
/// right names. Adds a line to `warnings` for each that was renamed.
pub(super) fn take(words: &mut Words, warnings: &mut Vec<String>) -> Vec<Word> {
    for word in &mut words.flags {
        if let Some(CompatFlag { name, effect: Means(ours), .. }) = find(&word.name) {
            warnings.push(format!("flag --{name} is taken for --{ours}"));
            ours.clone_into(&mut word.name);
        }
    }
    words.flags.extract_if(.., |word| find(&word.name).is_some()).collect()
}

/// A line for each of `taken` that is ignored, of those that are set at all.
///
/// # Errors
/// [`FlagError::Value`] for the first that must not be ignored, or is neither true nor false.
pub(super) fn validate(taken: &[Word]) -> Result<Vec<String>, FlagError> {
    let mut warnings = Vec::new();
    for (position, word) in taken.iter().enumerate() {
        let Some(flag) = find(&word.name) else { continue };
        let origin = word.origin();
        let is_set = match &word.value {
            None => true,
            Some(value) if flag.is_bool => values::go_bool(value)
                .map_err(|reason| FlagError::Value { origin: origin.clone(), reason })?,
            Some(value) => !value.is_empty(),
        };
        // The last one counts, as with every flag.
        let is_last = taken[position + 1..].iter().all(|later| later.name != word.name);
        match flag.effect {
            Refused(reason) if is_set && is_last => {
                return Err(FlagError::Value { origin, reason: reason.to_owned() });
            }
            Ignored(reason) if is_last && (is_set || flag.is_bool) => {
                warnings.push(format!("{origin} is ignored: {reason}"));
            }
            Refused(_) | Ignored(_) | Means(_) => {}
        }
    }
    Ok(warnings)
}
