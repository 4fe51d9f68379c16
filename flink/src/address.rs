//! Addresses and credentials: names of variables in place of values.

use pulso_job::{JobSpec, SourceSpec, TargetKind};
use secrecy::{ExposeSecret, SecretString};
use toml::de::DeValue;

use crate::place::{Places, Step};
use crate::sql;

/// How a script names a secret: the variable that the job file takes it from, or else `fallback`.
fn variable(places: &Places<'_>, path: &[Step<'_>], fallback: &str) -> String {
    let table = places.value(path).and_then(DeValue::as_table);
    let name = table.and_then(|table| table.get("env")).and_then(|name| name.get_ref().as_str());
    name.unwrap_or(fallback).to_owned()
}

fn placeholder(places: &Places<'_>, path: &[Step<'_>], fallback: &str) -> String {
    format!("${{{}}}", variable(places, path, fallback))
}

/// `host:port` is no secret where it stands in the file.
fn brokers(places: &Places<'_>, path: &[Step<'_>], fallback: &str) -> String {
    let literal = places.value(path).and_then(DeValue::as_str);
    literal.map_or_else(|| placeholder(places, path, fallback), str::to_owned)
}

/// A Kafka connection's options.
pub(crate) fn kafka(places: &Places<'_>, section: &[Step<'_>], security: &[(String, SecretString)]) -> Vec<String> {
    let prefix = match section.last() {
        Some(Step::Key(name)) => name.to_uppercase(),
        Some(Step::Item(_)) | None => "KAFKA".to_owned(),
    };
    let at = |keys: &[&'static str]| [section, &keys.iter().map(|key| Step::Key(key)).collect::<Vec<_>>()].concat();
    let secret = |keys: &[&'static str], name: &str| placeholder(places, &at(keys), &format!("{prefix}_{name}"));
    let mut options =
        vec![option("properties.bootstrap.servers", &brokers(places, &at(&["brokers"]), &format!("{prefix}_BROKERS")))];
    let has = |name: &str| security.iter().find(|(property, _)| property == name).map(|(_, value)| value);
    if let Some(protocol) = has("security.protocol") {
        options.push(option("properties.security.protocol", &protocol.expose_secret().to_uppercase()));
    }
    if has("ssl.ca.pem").is_some() {
        options.push(option("properties.ssl.truststore.type", "PEM"));
        options.push(option("properties.ssl.truststore.certificates", &secret(&["tls", "ca"], "TLS_CA")));
    }
    if has("ssl.certificate.pem").is_some() {
        options.push(option("properties.ssl.keystore.type", "PEM"));
        options.push(option("properties.ssl.keystore.certificate.chain", &secret(&["tls", "cert"], "TLS_CERT")));
        options.push(option("properties.ssl.keystore.key", &secret(&["tls", "key"], "TLS_KEY")));
    }
    if let Some(mechanism) = has("sasl.mechanism").map(ExposeSecret::expose_secret) {
        let module = if mechanism == "PLAIN" { "plain.PlainLoginModule" } else { "scram.ScramLoginModule" };
        let login = format!(
            "org.apache.flink.kafka.shaded.org.apache.kafka.common.security.{module} required username=\"{}\" \
             password=\"{}\";",
            secret(&["sasl", "username"], "SASL_USERNAME"),
            secret(&["sasl", "password"], "SASL_PASSWORD")
        );
        options.push(option("properties.sasl.mechanism", mechanism));
        options.push(option("properties.sasl.jaas.config", &login));
    }
    options
}

/// A database's address as JDBC wants it. Of another name than the job's own variable, whose value JDBC does not take.
pub(crate) fn jdbc(places: &Places<'_>, target: &str) -> String {
    let path = [Step::Key("target"), Step::Key(target), Step::Key("url")];
    format!("${{JDBC_{}}}", variable(places, &path, &format!("{}_URL", target.to_uppercase())))
}

/// `'key' = 'value'`
pub(crate) fn option(key: &str, value: &str) -> String {
    format!("{} = {}", sql::text(key), sql::text(value))
}

/// What has to be put into the script before it runs: name and meaning.
pub(crate) fn placeholders(job: &JobSpec, places: &Places<'_>) -> Vec<(String, &'static str)> {
    let mut found: Vec<(String, &'static str)> = Vec::new();
    let mut add = |options: &[String]| {
        for option in options {
            for name in option.split("${").skip(1).filter_map(|rest| rest.split('}').next()) {
                if found.iter().all(|(known, _)| known != name) {
                    let meaning = match name {
                        name if name.ends_with("BROKERS") => "host:port, several with commas between",
                        _ => "as in the job file",
                    };
                    found.push((name.to_owned(), meaning));
                }
            }
        }
    };
    match &job.source {
        SourceSpec::Kafka(source) => add(&kafka(places, &[Step::Key("source")], &source.security)),
        SourceSpec::Files(_) => {}
    }
    let mut databases = Vec::new();
    for target in &job.targets {
        match &target.kind {
            TargetKind::Kafka { security, .. } => {
                add(&kafka(places, &[Step::Key("target"), Step::Key(&target.name)], security));
            }
            TargetKind::Postgres { .. } => databases.push(jdbc(places, &target.name)),
            // Refused.
            TargetKind::MySql { .. } | TargetKind::Files { .. } => {}
        }
    }
    let meaning = "jdbc:postgresql://HOST:PORT/DATABASE?user=USER&password=PASSWORD&stringtype=unspecified";
    let bare = |name: &String| name.trim_start_matches("${").trim_end_matches('}').to_owned();
    found.extend(databases.iter().map(|name| (bare(name), meaning)));
    found
}
