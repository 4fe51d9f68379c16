//! The certificate authorities of the machine.

/// Where Debian, Ubuntu, Fedora and Alpine keep them.
const FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The file that has them; `option` names another one in an address.
pub(crate) fn file(option: &str) -> Result<&'static str, String> {
    let found = FILES.into_iter().find(|path| std::path::Path::new(path).exists());
    found.ok_or_else(|| format!("this machine has no file of certificate authorities: name one with {option}=FILE"))
}
