//! TLS with a server that has a certificate of an authority of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use pulso_connectors::target::TargetError;
use pulso_servers::{MariaDb, MariaDbOptions, temporary_folder};

use crate::support::{Found, Writer, key_value, query, upsert};

/// An authority: `NAME.pem` and `NAME.key`.
fn authority(folder: &Path, name: &str) {
    openssl(folder, &format!("req -x509 -subj /CN={name} -days 2 -keyout {name}.key -out {name}.pem"));
}

/// A server's certificate for 127.0.0.1 alone: `server.pem` and `server.key`.
fn certificate(folder: &Path, authority: &str) {
    let names = "-addext subjectAltName=IP:127.0.0.1";
    openssl(folder, &format!("req -subj /CN=server {names} -keyout server.key -out server.csr"));
    let signed = format!("-CA {authority}.pem -CAkey {authority}.key -CAcreateserial -copy_extensions copy -days 2");
    openssl(folder, &format!("x509 -req -in server.csr {signed} -out server.pem"));
}

fn openssl(folder: &Path, arguments: &str) {
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(arguments.split(' '));
    if arguments.starts_with("req ") {
        openssl.args("-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(' '));
    }
    let done = openssl.output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

async fn take_over(url: &str) -> Result<Found, TargetError> {
    Writer::of(&key_value(url, upsert()), &[0]).take_over(1, true).await
}

async fn refused(url: &str) -> String {
    match take_over(url).await {
        Err(TargetError::ConnectionLost { reason }) => reason,
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_who_its_certificate_says() {
    let folder = temporary_folder().unwrap();
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    authority(&keys, "ours");
    authority(&keys, "other");
    certificate(&keys, "ours");
    // The server runs as another user.
    std::fs::set_permissions(keys.join("server.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut options = MariaDbOptions::new(folder.path().join("mariadb"), "tests");
    for (option, file) in [("ssl-cert", "server.pem"), ("ssl-key", "server.key")] {
        options.settings.push((option.to_owned(), keys.join(file).display().to_string()));
    }
    let mariadb = MariaDb::start(options).await.unwrap();
    query(mariadb.url(), "create user careful@'%' require ssl").await;
    query(mariadb.url(), "grant all on *.* to careful@'%'").await;
    let with = |parameters: &str| format!("{}?{parameters}", mariadb.url().replace("root@", "careful@"));
    let ca = |name: &str| keys.join(format!("{name}.pem")).display().to_string();

    for parameters in ["", "ssl-mode=required", &format!("ssl-mode=verify_identity&ssl-ca={}", ca("ours"))] {
        take_over(&with(parameters)).await.unwrap_or_else(|error| panic!("{parameters}: {error}"));
    }
    let plain = take_over(&with("ssl-mode=disabled")).await;
    assert!(matches!(&plain, Err(TargetError::Fatal { reason }) if reason.contains("1045")), "{plain:?}");
    let reason = refused(&with(&format!("ssl-mode=verify_identity&ssl-ca={}", ca("other")))).await;
    assert!(reason.contains("invalid peer certificate"), "{reason}");
    let elsewhere = with(&format!("ssl-mode=verify_identity&ssl-ca={}", ca("ours"))).replace("127.0.0.1", "localhost");
    let reason = refused(&elsewhere).await;
    assert!(reason.contains("not valid for name \"localhost\""), "{reason}");
}
