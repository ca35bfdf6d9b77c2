//! Certificates, for tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A certificate authority, and the certificates that it signed.
pub(crate) struct Files {
    dir: TempDir,
}

impl Files {
    pub(crate) fn make() -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.request("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        files
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A new certificate for 127.0.0.1, and its key.
    pub(crate) fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        let (ca, ca_key) = (self.ca(), self.path("ca.key"));
        let [ca, ca_key] = [&ca, &ca_key].map(|path| path.to_str().unwrap());
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        let host = ["-addext", "subjectAltName=IP:127.0.0.1"];
        self.request(name, &[&["-CA", ca, "-CAkey", ca_key][..], &leaf, &host].concat());
        (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    /// The same, whose time was over yesterday.
    pub(crate) fn expired_pair(&self) -> (PathBuf, PathBuf) {
        let (cert, key) = self.pair("expired");
        let request = self.path("expired.csr");
        openssl(
            &["x509", "-x509toreq", "-copy_extensions", "copyall"],
            &[("-in", &cert), ("-signkey", &key), ("-out", &request)],
        );
        openssl(
            &["x509", "-req", "-days", "-1", "-copy_extensions", "copyall"],
            &[
                ("-in", &request),
                ("-CA", &self.ca()),
                ("-CAkey", &self.path("ca.key")),
                ("-out", &cert),
            ],
        );
        (cert, key)
    }

    fn request(&self, name: &str, args: &[&str]) {
        let key = self.path(&format!("{name}.key"));
        let cert = self.path(&format!("{name}.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}"), "-keyout"])
            .args([&key, Path::new("-out"), &cert])
            .args(args)
            .output()
            .expect("cannot run `openssl`: install openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn openssl(words: &[&str], files: &[(&str, &Path)]) {
    let mut command = Command::new("openssl");
    command.args(words);
    for (flag, path) in files {
        command.arg(flag).arg(path);
    }
    let made = command.output().expect("cannot run `openssl`: install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
