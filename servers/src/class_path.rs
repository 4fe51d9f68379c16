//! Kafka's Java class path, resolved once by Maven, and the class archive that halves a broker's start.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::kafka::KAFKA_VERSION;

/// Kafka's POM leaves out the logging backend that its distribution has; without one the broker logs nothing.
const LOG4J_VERSION: &str = "2.24.3";
/// Fixed, or Maven would ask which version is the newest.
const DEPENDENCY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath";

/// The jars stay in Maven's own repository; the listing and the archive are in `~/.cache/pulso`.
#[derive(Debug)]
pub(crate) struct ClassPath {
    folder: PathBuf,
    entries: String,
}

impl ClassPath {
    /// Asks Maven the first time, and again when a jar is gone.
    pub(crate) async fn resolve() -> Result<ClassPath> {
        let home = std::env::var_os("HOME").context("HOME is not set")?;
        let folder = Path::new(&home).join(".cache/pulso").join(format!("kafka-{KAFKA_VERSION}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // Maven's repository takes one writer at a time; whoever waited finds the listing.
        let lock = File::create(folder.join("lock"))?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        let listing = folder.join("class-path");
        let entries = match known(&listing) {
            Some(entries) => entries,
            None => ask_maven(&folder, &listing).await?,
        };
        drop(lock);
        Ok(ClassPath { folder, entries })
    }

    pub(crate) fn entries(&self) -> &str {
        &self.entries
    }

    /// Where this Java's archive of Kafka's classes is, or will be. Another Java would not take it.
    pub(crate) fn archive(&self, java: &Path) -> PathBuf {
        let (size, time) = java.metadata().map_or((0, 0), |m| (m.len(), m.mtime()));
        self.folder.join(format!("classes-{size:x}-{time:x}.jsa"))
    }
}

/// Has Maven fetch Kafka, unless it is there.
pub async fn fetch_kafka() -> Result<()> {
    ClassPath::resolve().await.map(drop)
}

fn known(listing: &Path) -> Option<String> {
    let entries = std::fs::read_to_string(listing).ok()?.trim().to_owned();
    let complete = !entries.is_empty() && entries.split(':').all(|jar| Path::new(jar).exists());
    complete.then_some(entries)
}

async fn ask_maven(folder: &Path, listing: &Path) -> Result<String> {
    tracing::info!(version = KAFKA_VERSION, "resolving Kafka with Maven");
    let pom = folder.join("pom.xml");
    std::fs::write(&pom, project())?;
    let fresh = folder.join("class-path.new");
    let done = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .args([DEPENDENCY_PLUGIN, "-DincludeScope=runtime"])
        .arg(format!("-Dmdep.outputFile={}", fresh.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("starting Maven (mvn); `make setup` installs it")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stdout);
        bail!("Maven could not resolve Kafka {KAFKA_VERSION} ({}):\n{}", done.status, said.trim());
    }
    // The same project may be resolved into another repository later, so only a complete listing gets the name.
    std::fs::rename(&fresh, listing)?;
    known(listing).with_context(|| format!("Maven's class path in {} names missing jars", listing.display()))
}

fn project() -> String {
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pulso</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"#
    )
}
