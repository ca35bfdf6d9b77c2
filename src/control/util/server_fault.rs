//! [`ServerFault`]: why no use can be made of a server, whichever library noticed.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio_rustls::rustls;
use tokio_rustls::rustls::{AlertDescription, CertificateError, InvalidMessage};

/// Why no use can be made of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerFault {
    /// Its name has no address.
    NoSuchHost,
    /// No name server says what address it has.
    NoNameServer,
    /// Nothing listens at its port.
    Refused,
    /// No packet gets there, in the kernel's words.
    Unreachable(String),
    /// It did not answer in time.
    Late(Duration),
    /// The same, of a library that does not say how long it waited.
    TimedOut,
    /// It closed the connection, or the connection broke.
    Closed,
    /// It speaks no TLS, and the URL says that it does.
    NoTls,
    /// It speaks TLS, and the URL says that it does not.
    IsTls,
    /// Its certificate does not prove who it is.
    Certificate(CertificateFault),
    /// It wants a certificate of ours, or another one. Servers use the same alerts for both.
    OurCertificate,
    /// Anything else, in the words of whoever noticed.
    Other(String),
}

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertificateFault {
    /// No authority that we know signed it.
    Untrusted,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotValidYet,
    /// It is for other names, these.
    OtherName(Vec<String>),
    /// Anything else.
    Other(String),
}

impl ServerFault {
    /// What `error` and its causes say, as far as they come from the network or from TLS.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(Self::of_tls(error));
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // What is inside is no `source` of an `io::Error`.
            let inner = error.get_ref().and_then(|inner| Self::of(inner));
            return inner.or_else(|| Self::of_io(error));
        }
        Self::of(error.source()?)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "of all others the number decides")]
    fn of_io(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => return Some(Self::Refused),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => return Some(Self::Closed),
            io::ErrorKind::TimedOut => return Some(Self::TimedOut),
            _ => {}
        }
        if error.raw_os_error().is_some() {
            return Some(Self::Unreachable(plain(error)));
        }
        // The words of glibc and musl for what getaddrinfo(3) returns.
        let text = error.to_string();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        let is_lookup = text.contains("failed to lookup address information");
        let is_temporary = says(&["Temporary failure in name resolution", "Try again"]);
        is_lookup.then_some(if is_temporary { Self::NoNameServer } else { Self::NoSuchHost })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all others are shown as the library has them"
    )]
    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            rustls::Error::InvalidCertificate(error) => {
                Self::Certificate(CertificateFault::of(error))
            }
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied,
            ) => Self::OurCertificate,
            error => Self::Other(error.to_string()),
        }
    }
}

impl CertificateFault {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all others are shown as the library has them"
    )]
    fn of(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Untrusted,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotValidYet
            }
            CertificateError::Revoked => Self::Other("it has been revoked".to_owned()),
            CertificateError::BadEncoding => {
                Self::Other("it cannot be decoded as X.509".to_owned())
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::Other("its extended key usage does not name servers (serverAuth)".to_owned())
            }
            CertificateError::Other(error) => Self::Other(webpki_words(&error.to_string())),
            CertificateError::NotValidForName => Self::OtherName(Vec::new()),
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::OtherName(presented.iter().map(|name| bare(name)).collect())
            }
            error => Self::Other(error.to_string()),
        }
    }
}

/// What webpki calls by the names of its error type, in words.
fn webpki_words(name: &str) -> String {
    let known = [
        ("CaUsedAsEndEntity", "it is that of an authority (CA:TRUE), not one of a server"),
        ("EndEntityUsedAsCa", "it is signed by one that is no authority (CA:FALSE)"),
        ("UnsupportedCertVersion", "it is of an old version of X.509: version 3 is needed"),
        ("NameConstraintViolation", "its authority may not sign for this name"),
        ("PathLenConstraintViolated", "its authority may not have others below it"),
        ("RequiredEkuNotFound", "its extended key usage does not name servers (serverAuth)"),
        ("UnsupportedCriticalExtension", "it has a critical extension that is not known here"),
        ("UnsupportedSignatureAlgorithm", "it is signed by a method that is not supported here"),
    ];
    let found = known.into_iter().find(|(known, _)| name.contains(known));
    found.map_or_else(|| name.to_owned(), |(_, words)| words.to_owned())
}

/// A name of a certificate, which rustls shows as `DnsName("etcd.example")` or
/// `IpAddress(127.0.0.1)`.
fn bare(name: &str) -> String {
    let name = name.split_once('(').and_then(|(_, name)| name.strip_suffix(')')).unwrap_or(name);
    name.trim_matches('"').to_owned()
}

/// In brackets behind the name of the server.
impl fmt::Display for ServerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHost => f.write_str("no such host"),
            Self::NoNameServer => f.write_str("no name server answers"),
            Self::Refused => f.write_str("refused"),
            Self::Unreachable(reason) | Self::Other(reason) => f.write_str(reason),
            Self::Late(limit) => write!(f, "no answer within {limit:?}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Closed => f.write_str("it closes the connection"),
            Self::NoTls => f.write_str("it speaks no TLS"),
            Self::IsTls => f.write_str("it speaks TLS"),
            Self::Certificate(fault) => write!(f, "its certificate {fault}"),
            Self::OurCertificate => f.write_str("it wants a client certificate, or another one"),
        }
    }
}

/// Behind the words "its certificate".
impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => f.write_str("is not trusted"),
            Self::Expired => f.write_str("has expired"),
            Self::NotValidYet => f.write_str("is not valid yet"),
            Self::OtherName(names) if names.is_empty() => f.write_str("is for another name"),
            Self::OtherName(names) => write!(f, "is for another name: {}", names.join(", ")),
            Self::Other(reason) => write!(f, "cannot be used: {reason}"),
        }
    }
}

/// What the kernel says, in its words: `connection refused`.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    if error.raw_os_error().is_none() {
        return text;
    }
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_is_found_behind_what_libraries_wrap_around_it() {
        let refused = || io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let wrapped = io::Error::other(io::Error::other(refused()));
        assert_eq!(ServerFault::of(&wrapped), Some(ServerFault::Refused));
        let tls = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let expired = ServerFault::Certificate(CertificateFault::Expired);
        assert_eq!(ServerFault::of(&io::Error::other(tls)), Some(expired));
        let route = io::Error::from_raw_os_error(libc::EHOSTUNREACH);
        let no_route = ServerFault::Unreachable("no route to host".to_owned());
        assert_eq!(ServerFault::of(&route), Some(no_route));
        assert_eq!(ServerFault::of(&io::Error::other("something")), None);
        assert_eq!(ServerFault::of(&fmt::Error), None);
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_words() {
        let error = rustls::OtherError(std::sync::Arc::new(io::Error::other("CaUsedAsEndEntity")));
        let fault = CertificateFault::of(&CertificateError::Other(error));
        let words = "cannot be used: it is that of an authority (CA:TRUE), not one of a server";
        assert_eq!(fault.to_string(), words);
        assert_eq!(webpki_words("SomethingNew"), "SomethingNew");
    }

    #[test]
    fn names_of_a_certificate_are_shown_bare() {
        assert_eq!(bare("DnsName(\"etcd.example\")"), "etcd.example");
        assert_eq!(bare("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(bare("etcd.example"), "etcd.example");
    }
}
