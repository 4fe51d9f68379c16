//! Secrets are resolved, and never told.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::{GOOD, bad, good, one, submission, with};
use crate::{SourceSpec, Submission, TargetKind, check, collect_environment, fingerprint};

#[test]
fn a_file_names_what_it_needs() {
    let toml = r#"
[source]
brokers = { env = "KAFKA_BROKERS", default = "localhost:9092" }
sasl = { mechanism = "PLAIN", username = "u", password = { file = "secret/pw" } }
[target.db]
url = { env = "DATABASE_URL" }
other = { env = "not a variable" }
[rules]
env = "NOT_THIS"
"#;
    let lookup = |name: &str| (name != "DATABASE_URL").then(|| format!("value of {name}"));
    let environment = collect_environment(toml, lookup, |path| Some(format!("content of {path}")));
    let expected = [("KAFKA_BROKERS", "value of KAFKA_BROKERS"), ("file:secret/pw", "content of secret/pw")];
    assert_eq!(environment, BTreeMap::from(expected.map(|(name, value)| (name.to_owned(), value.to_owned()))));
    assert!(collect_environment("[[[", |_| Some(String::new()), |_| None).is_empty());
}

#[test]
fn secrets_come_from_environment_default_and_file() {
    let job = good(GOOD);
    let TargetKind::Postgres { url, .. } = &job.targets[0].kind else { panic!() };
    assert_eq!(url.expose_secret(), "postgres://app:s3cret-pw@db:5432/app");
    let toml = with(r#"brokers = "localhost:9092""#, r#"brokers = { env = "NOT_SET", default = "a:1, b:2" }"#);
    let SourceSpec::Kafka(kafka) = good(&toml).source else { panic!() };
    assert_eq!(kafka.brokers, "a:1,b:2");
    let toml = with(r#"{ env = "DATABASE_URL" }"#, r#"{ file = "db.url" }"#);
    let mut submitted = submission(&toml);
    submitted.environment.insert("file:db.url".into(), "postgres://h/d\n".into());
    let (job, warnings) = check(&submitted, "job.toml").unwrap();
    let TargetKind::Postgres { url, .. } = &job.targets[0].kind else { panic!() };
    assert_eq!((url.expose_secret(), warnings.len()), ("postgres://h/d", 0));
}

#[test]
fn missing_and_empty_secrets_are_mistakes() {
    let url = r#"{ env = "DATABASE_URL" }"#;
    one(
        url,
        r#"{ env = "NOT_SET" }"#,
        "P0020",
        r#"{ env = "NOT_SET" }"#,
        "`NOT_SET` is not set where the job is submitted",
    );
    one(url, r#"{ env = "EMPTY" }"#, "P0020", r#"{ env = "EMPTY" }"#, "is empty");
    one(url, r#"{ file = "gone" }"#, "P0020", r#"{ file = "gone" }"#, "`gone` cannot be read");
    one(url, r#"{ env = "A", file = "b" }"#, "P0021", r#"{ env = "A", file = "b" }"#, "either `env` or `file`");
    one(url, "{ }", "P0021", "{ }", "either `env` or `file`");
    one(url, r#"{ env = "A B" }"#, "P0021", r#""A B""#, "letters, digits and _");
    one(r#"topic = "orders""#, r#"topic = { env = "T" }"#, "P0021", r#"{ env = "T" }"#, "must be readable in the file");
}

#[test]
fn kafka_security_becomes_properties() {
    let toml = with(
        r#"topic = "orders""#,
        r#"topic = "orders"
tls = { ca = { file = "ca.pem" } }
sasl = { mechanism = "SCRAM-SHA-512", username = "u", password = { env = "EMPTY", default = "pw" } }"#,
    );
    let mut submitted = submission(&toml);
    submitted.environment.insert("file:ca.pem".into(), "-----BEGIN CERTIFICATE-----\n".into());
    let (job, warnings) = check(&submitted, "job.toml").unwrap();
    assert_eq!(warnings.iter().map(|warning| warning.code.as_str()).collect::<Vec<_>>(), ["P0022"]);
    let SourceSpec::Kafka(kafka) = job.source else { panic!() };
    let properties: Vec<(&str, &str)> =
        kafka.security.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(
        properties,
        [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.pem", "-----BEGIN CERTIFICATE-----"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "u"),
            ("sasl.password", "pw"),
        ]
    );
}

#[test]
fn a_password_in_the_file_is_a_warning() {
    let toml = with(r#"{ env = "DATABASE_URL" }"#, r#""postgres://app:hunter2@db/app""#);
    let (_, warnings) = check(&submission(&toml), "job.toml").unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].code.as_str(), "P0022");
}

#[test]
fn no_message_holds_a_secret() {
    for url in [
        r#""mysql://app:hunter2@db/app""#,
        r#""postgres://app:hunter2@db/app" x"#,
        r#""postgres://app:hunter2@db/app"#,
        r#""""postgres://app:hunter2@/app""""#,
        r#"{ env = "NOT_SET", default = "hunter2" }"#,
        r#"{ env = "NOT_SET", defalt = "hunter2" }"#,
        r#"{ envv = "NOT_SET", default = "hunter2" }"#,
    ] {
        let toml = with(r#"{ env = "DATABASE_URL" }"#, url);
        let diagnostics = bad(&toml);
        let all = format!("{}{}{diagnostics:?}", diagnostics.render(false), diagnostics.to_json());
        assert!(!all.contains("hunter2"), "{url}\n{all}");
    }
    let mut submitted = submission(GOOD);
    submitted.environment.insert("DATABASE_URL".into(), "mysql://app:hunter2@db/app".into());
    let diagnostics = check(&submitted, "job.toml").unwrap_err();
    assert!(!format!("{}{diagnostics:?}{submitted:?}", diagnostics.render(true)).contains("hunter2"));
    let job = good(GOOD);
    assert!(!format!("{job:?}").contains("s3cret-pw"));
}

#[test]
fn a_fingerprint_is_of_the_meaning() {
    let first = fingerprint(&submission(GOOD));
    assert_eq!(first, fingerprint(&submission(&format!("# a comment\n{}", GOOD.replace(" = ", "   =  ")))));
    assert_ne!(first, fingerprint(&submission(&GOOD.replace("max = 10", "max = 11"))));
    let swapped = GOOD.replace("qty = {", "zty = {");
    assert_ne!(first, fingerprint(&submission(&swapped)));
    let other = Submission {
        toml: GOOD.to_owned(),
        environment: BTreeMap::new(),
        folder: String::new(),
        ..Submission::default()
    };
    assert_ne!(first, fingerprint(&other));
}

#[test]
fn what_is_shown_has_no_secrets() {
    let toml = with(r#"{ env = "DATABASE_URL" }"#, r#""postgres://app:hunter2@db/app""#);
    let shown = crate::shown(&submission(&toml));
    assert!(!shown.contains("hunter2") && shown.contains("[fields]"), "{shown}");
    assert_eq!(crate::shown(&submission("a = ")), "");
}

#[test]
fn stand_ins_are_enough_for_the_check() {
    let source = "brokers = { env = \"BROKERS\" }\ntls = { ca = { file = \"ca.pem\" } }\n\
                  sasl = { mechanism = \"PLAIN\", username = { env = \"KUSER\" }, password = { file = \"pw\" } }";
    let toml = with("brokers = \"localhost:9092\"", source)
        .replace("[fields]", "[target.other]\ntype = \"postgres\"\nurl = { env = \"OTHER_URL\" }\n[fields]");
    let environment = crate::stand_ins(&toml);
    let names: Vec<&str> = environment.keys().map(String::as_str).collect();
    assert_eq!(names, ["BROKERS", "DATABASE_URL", "KUSER", "OTHER_URL", "file:ca.pem", "file:pw"]);
    let checked = crate::check(
        &crate::Submission { toml, environment, folder: "/jobs".to_owned(), ..crate::Submission::default() },
        "job.toml",
    );
    assert!(checked.is_ok(), "{}", checked.unwrap_err().render(false));
    assert!(crate::stand_ins("[source").is_empty());
}
