//! The example jobs as a test can run them.

/// A job that writes to its database alone, dead letters too: there a test compares them all by SQL.
pub fn without_kafka(job: &str) -> String {
    let mut sections = vec![String::new()];
    for line in job.split_inclusive('\n') {
        // A section goes from its header, which begins a line, to the next one.
        if line.starts_with('[') {
            sections.push(String::new());
        }
        sections.last_mut().into_iter().for_each(|section| section.push_str(line));
    }
    sections.retain(|section| !section.contains("to = \"kafka\"") && !section.starts_with("[target.kafka]"));
    sections.concat()
}
