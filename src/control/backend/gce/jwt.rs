//! JSON Web Tokens with the signature RS256 (RFC 7515, RFC 7523), by which a service account asks
//! for a token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Serialize;
use serde_json::json;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// How long the request for a token is valid, in seconds: the longest that Google takes.
const VALID: i64 = 3600;

/// What a service account says of itself.
#[derive(Debug, Serialize)]
pub(super) struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

impl<'a> Claims<'a> {
    /// That `account` asks the endpoint `audience` for a token that is good for `scope`.
    pub(super) fn new(account: &'a str, scope: &'a str, audience: &'a str) -> Self {
        let now = Timestamp::now().as_second();
        Self { iss: account, scope, aud: audience, iat: now, exp: now + VALID }
    }
}

/// The claims, signed with a key in PEM form.
///
/// # Errors
/// One line, when the key cannot be used.
pub(super) fn sign(claims: &Claims<'_>, key_id: Option<&str>, pem: &str) -> Result<String, String> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|error| format!("private_key: {error}"))?;
    let key = if let PrivateKeyDer::Pkcs1(der) = &der {
        RsaKeyPair::from_der(der.secret_pkcs1_der())
    } else {
        RsaKeyPair::from_pkcs8(der.secret_der())
    };
    let key = key.map_err(|error| format!("private_key: {error}"))?;
    let head = json!({ "alg": "RS256", "typ": "JWT", "kid": key_id });
    let claims = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(head.to_string().as_bytes()), encode(&claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| "private_key: it does not sign".to_owned())?;
    Ok(format!("{signed}.{}", encode(&signature)))
}
