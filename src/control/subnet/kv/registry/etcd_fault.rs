//! Why an etcd gave no answer, in words that say what to do.

use std::borrow::Cow;

use super::failover::Miss;
use crate::control::util::server_fault::{CertificateFault, ServerFault};

/// Where the user looks when etcd is not where we look.
const ENDPOINTS: &str = "--etcd-endpoints says where it is";

/// The host and port of an endpoint.
pub(super) fn place(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, place)| place).trim_end_matches('/')
}

/// Of an endpoint that cannot be used for this reason.
pub(super) fn miss(url: &str, fault: &ServerFault) -> Miss {
    let place = place(url);
    let (reason, hint): (String, Cow<'static, str>) = match fault {
        ServerFault::NoTls => (
            format!("{place} speaks no TLS, the URL says https"),
            format!("write http://{place} in --etcd-endpoints").into(),
        ),
        ServerFault::IsTls => (
            format!("{place} speaks TLS, the URL says http"),
            format!("write https://{place} in --etcd-endpoints").into(),
        ),
        ServerFault::Certificate(fault) => {
            (format!("the certificate of etcd at {place} {fault}"), certificate_hint(fault).into())
        }
        ServerFault::OurCertificate => (
            format!("etcd at {place} refuses this host: {fault}"),
            "see --etcd-certfile and --etcd-keyfile".into(),
        ),
        ServerFault::NoSuchHost
        | ServerFault::NoNameServer
        | ServerFault::Refused
        | ServerFault::Unreachable(_)
        | ServerFault::Late(_)
        | ServerFault::TimedOut
        | ServerFault::Closed
        | ServerFault::Other(_) => (format!("{NO_ANSWER}{place} ({fault})"), ENDPOINTS.into()),
    };
    Miss::new(reason).hint(hint)
}

/// How the reason begins that most servers share, so that a list of them can leave it out.
pub(super) const NO_ANSWER: &str = "etcd does not answer at ";

const fn certificate_hint(fault: &CertificateFault) -> &'static str {
    match fault {
        CertificateFault::Untrusted => "--etcd-cafile names the authority that signed it",
        CertificateFault::Expired => "renew it, or set the clock of this host if that is wrong",
        CertificateFault::NotValidYet => "is the clock of this host right?",
        CertificateFault::OtherName(_) => "name etcd in --etcd-endpoints as its certificate does",
        CertificateFault::Other(_) => "etcd needs another certificate",
    }
}

/// Of something that answers, in words of `how`, and is no etcd.
pub(super) fn no_etcd(url: &str, how: &str) -> Miss {
    Miss::new(format!("{} is no etcd ({how})", place(url))).hint(ENDPOINTS)
}

/// Of something that hung up on a client of v3, and gives this answer to the question of its version
/// over HTTP/1, which every etcd answers.
pub(super) fn hung_up(url: &str, version: &Result<String, ServerFault>) -> Miss {
    match version {
        Err(fault) => miss(url, fault),
        Ok(version) if version.contains("\"etcdserver\":\"2.") => {
            Miss::new(format!("etcd at {} is of version 2, without the v3 API", place(url)))
                .hint("use --etcd-api=2")
        }
        Ok(version) if version.contains("\"etcdserver\":") => miss(url, &ServerFault::Closed),
        Ok(_) => no_etcd(url, "it speaks HTTP, but not gRPC"),
    }
}

/// Of an etcd that does not know our user, or does not know that we are one.
pub(super) fn refused_user(url: &str, user: Option<&str>) -> Miss {
    let place = place(url);
    let miss = match user {
        Some(user) => Miss::new(format!("etcd at {place} refuses user {user:?} or its password"))
            .hint("see --etcd-username and --etcd-password"),
        None => Miss::new(format!("etcd at {place} wants a user"))
            .hint("see --etcd-username and --etcd-password"),
    };
    miss.finally()
}

/// Of an etcd that knows our user and does not let it do this.
pub(super) fn no_right(url: &str, user: Option<&str>) -> Miss {
    let place = place(url);
    let user = user.map_or("a client without a user".to_owned(), |user| format!("user {user:?}"));
    Miss::new(format!("etcd at {place} does not allow this to {user}"))
        .hint("grant its role to read PREFIX/config, and to read and write PREFIX/subnets/")
        .finally()
}

#[cfg(test)]
mod tests;
