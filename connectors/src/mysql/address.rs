//! Where a MySQL target is and how it is reached.

use std::path::Path;
use std::time::Duration;

use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use secrecy::{ExposeSecret, SecretString};

use super::error::Failure;
use crate::database::roots;

/// `ssl-mode`, as MySQL's own clients have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SslMode {
    Disabled,
    /// Encrypted where the server can.
    Preferred,
    Required,
    /// Signed by a known authority, for this host.
    VerifyIdentity,
}

pub(crate) struct Address {
    plain: Opts,
    /// The same over TLS.
    secure: Opts,
    mode: SslMode,
}

impl Address {
    /// Takes `mysql://USER:PASSWORD@HOST:PORT/DATABASE`, with `ssl-mode` and `ssl-ca` as parameters.
    pub(crate) fn parse(url: &SecretString) -> Result<Self, Failure> {
        let text = url.expose_secret();
        let (address, parameters) = text.split_once('?').unwrap_or((text, ""));
        // Its error may repeat the text.
        let opts = Opts::from_url(address)
            .map_err(|_| Failure::fatal("the target's url must be mysql://user:password@host:port/database"))?;
        if opts.user().is_none() || opts.db_name().is_none_or(str::is_empty) {
            return Err(Failure::fatal("the target's url must name a user and a database: mysql://USER@HOST/DATABASE"));
        }
        let (mode, ca) = ssl(parameters)?;
        let plain = OptsBuilder::from_opts(opts)
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(5)))
            .stmt_cache_size(0)
            // What a statement may be long is asked for with all other facts: see `super::connect`.
            .max_allowed_packet(Some(1 << 30))
            .wait_timeout(Some(28_800));
        let secure = plain.clone().ssl_opts(Some(ssl_opts(mode, ca.as_deref())?));
        Ok(Self { plain: plain.into(), secure: secure.into(), mode })
    }

    pub(crate) async fn connect(&self) -> Result<Conn, Failure> {
        let opts = if self.mode == SslMode::Disabled { &self.plain } else { &self.secure };
        let connected = match Conn::new(opts.clone()).await {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) if self.mode == SslMode::Preferred => {
                Conn::new(self.plain.clone()).await
            }
            connected => connected,
        };
        connected.map_err(|error| Failure::from(error).during("connecting"))
    }
}

fn ssl(parameters: &str) -> Result<(SslMode, Option<String>), Failure> {
    let (mut mode, mut ca) = (SslMode::Preferred, None);
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("ssl-mode", wanted)) => {
                mode = match wanted.to_ascii_lowercase().as_str() {
                    "disabled" => SslMode::Disabled,
                    "preferred" => SslMode::Preferred,
                    "required" => SslMode::Required,
                    "verify_identity" => SslMode::VerifyIdentity,
                    // The client cannot check the authority and leave out the host.
                    "verify_ca" => {
                        return Err(Failure::fatal(
                            "ssl-mode=verify_ca in the target's url is not supported; use verify_identity",
                        ));
                    }
                    _ => {
                        return Err(Failure::fatal(
                            "ssl-mode in the target's url is disabled, preferred, required or verify_identity",
                        ));
                    }
                }
            }
            Some(("ssl-ca", file)) => ca = Some(file.replace("%2F", "/")),
            _ => return Err(Failure::fatal("the target's url may have the parameters ssl-mode and ssl-ca, no others")),
        }
    }
    Ok((mode, ca))
}

fn ssl_opts(mode: SslMode, ca: Option<&str>) -> Result<SslOpts, Failure> {
    if mode != SslMode::VerifyIdentity {
        return Ok(SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true));
    }
    let file = match ca {
        Some(file) => file,
        None => roots::file("ssl-ca").map_err(Failure::fatal)?,
    };
    Ok(SslOpts::default().with_root_certs(vec![Path::new(file).to_owned().into()]).with_disable_built_in_roots(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, Failure> {
        Address::parse(&url.to_owned().into())
    }

    #[test]
    fn parameters_are_those_of_mysqls_clients() {
        assert_eq!(parse("mysql://u:p@h/d").unwrap().mode, SslMode::Preferred);
        let address = parse("mysql://u:p@h:3307/d?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Fetc%2Fca.pem").unwrap();
        let ssl = address.secure.ssl_opts().unwrap();
        assert_eq!((ssl.skip_domain_validation(), ssl.accept_invalid_certs()), (false, false));
        assert_eq!((address.mode, ssl.root_certs().len()), (SslMode::VerifyIdentity, 1));
        assert!(address.plain.ssl_opts().is_none() && address.plain.tcp_port() == 3307);
        assert!(parse("mysql://u@h/d?ssl-mode=maybe").is_err() && parse("mysql://u@h/d?pool_max=1").is_err());
    }

    #[test]
    fn an_authority_without_a_host_is_refused() {
        let error = parse("mysql://u:p@h/d?ssl-mode=verify_ca").err().unwrap();
        assert!(error.text.contains("verify_ca") && error.text.contains("use verify_identity"), "{error}");
    }

    #[test]
    fn a_bad_url_is_not_repeated_in_the_error() {
        for url in ["mysql://u:secret@h:notaport/d", "mysql://secret@h", "mysql://h/secret", "postgres://secret@h/d"] {
            let error = parse(url).err().unwrap();
            assert!(!error.text.contains("secret"), "{error}");
        }
    }
}
