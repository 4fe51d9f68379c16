//! What makes a record a dead letter: the checks of `[fields]`, `[time]` and `[rules]`, in Pulso's order and words.

use pulso_job::{FieldSpec, FieldType, JobSpec};

use crate::expression::translate;
use crate::place::Step;
use crate::source::text_of;
use crate::sql::{self, own};
use crate::unsaid::Ledger;
use crate::value::{bound, parsed};

/// The views of judged records and of those without a problem that the filter keeps.
pub(crate) fn judge(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let mut checks: Vec<String> = job.fields.iter().flat_map(|field| of_field(job, field)).collect();
    checks.extend(of_time(job));
    let rules = of_rules(job, ledger);
    let filter = filter(job, ledger);
    checks.extend(rules?);
    let problem = match checks.as_slice() {
        [] => "CAST(NULL AS STRING)".to_owned(),
        checks => format!("CASE\n{}  END", checks.iter().map(|check| format!("    {check}\n")).collect::<String>()),
    };
    Some(format!(
        "CREATE TEMPORARY VIEW {judged} AS SELECT *,\n  {problem} AS {column}\nFROM {typed};\n\n\
         CREATE TEMPORARY VIEW {good} AS SELECT *\nFROM {judged} WHERE {column} IS NULL{filter};\n",
        judged = sql::name(own::JUDGED),
        column = sql::name(own::PROBLEM),
        typed = sql::name(own::TYPED),
        good = sql::name(own::GOOD),
        filter = filter?,
    ))
}

fn check(condition: &str, reason: &str) -> String {
    format!("WHEN {condition} THEN {}", sql::text(reason))
}

fn of_field(job: &JobSpec, field: &FieldSpec) -> Vec<String> {
    let mut checks = Vec::new();
    let name = sql::name(&field.name);
    let is_text = matches!(field.kind, FieldType::String);
    let is_time = job.time.as_ref().and_then(|time| job.fields.get(time.field)).is_some_and(|f| f.name == field.name);
    let text = if is_text { name.clone() } else { sql::name(&text_of(field)) };
    let reason = |what: &str| format!("{what}:{}", field.name);
    if field.required {
        checks.push(check(&format!("{text} IS NULL"), &reason("missing_field")));
    }
    // The event time's own column is NULL too where it is too far in the future, which is told below.
    let value = if is_time { parsed(field, &text, 3).ok() } else { Some(name.clone()) };
    if let Some(value) = value.filter(|_| !is_text) {
        checks.push(check(&format!("{text} IS NOT NULL AND {value} IS NULL"), &reason("wrong_type")));
    }
    let bounds = [(field.min, "<"), (field.max, ">")];
    let outside: Vec<String> = bounds
        .into_iter()
        .filter_map(|(limit, outside)| Some(format!("{name} {outside} {}", bound(field, limit?))))
        .collect();
    if !outside.is_empty() {
        checks.push(check(&outside.join(" OR "), &reason("out_of_range")));
    }
    if !field.one_of.is_empty() {
        let allowed: Vec<String> = field.one_of.iter().map(|text| sql::text(text)).collect();
        checks.push(check(&format!("{name} NOT IN ({})", allowed.join(", ")), &reason("not_one_of")));
    }
    if is_text {
        let most = field.max_bytes;
        // A letter has up to four bytes; only texts that may be too long are counted byte by byte.
        let long =
            format!("CHAR_LENGTH({name}) > {} AND CHAR_LENGTH(HEX({name})) > {}", most / 4, most.saturating_mul(2));
        checks.push(check(&long, &reason("too_long")));
    }
    checks
}

fn of_time(job: &JobSpec) -> Option<String> {
    let field = job.fields.get(job.time.as_ref()?.field)?;
    Some(check(&format!("{} IS NULL", sql::name(&field.name)), &format!("too_far_in_future:{}", field.name)))
}

fn of_rules(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<Vec<String>> {
    let schema = job.field_schema();
    let mut checks = Vec::new();
    let mut good = Some(());
    for rule in &job.rules {
        let path = [Step::Key("rules"), Step::Key(&rule.name)];
        match ledger.said(translate(&rule.condition.sql, &schema), &path, &format!("[rules] {}", rule.name)) {
            Some(condition) => {
                condition.notes.into_iter().for_each(|note| ledger.note(note));
                let reason = format!("rule:{}", rule.name);
                checks.push(check(&format!("({}) IS NOT TRUE", condition.sql), &reason));
            }
            None => good = None,
        }
    }
    good.map(|()| checks)
}

fn filter(job: &JobSpec, ledger: &mut Ledger<'_>) -> Option<String> {
    let Some(filter) = &job.filter else { return Some(String::new()) };
    let path = [Step::Key("filter"), Step::Key("keep")];
    let keep = ledger.said(translate(&filter.sql, &job.field_schema()), &path, "[filter] keep")?;
    keep.notes.into_iter().for_each(|note| ledger.note(note));
    Some(format!("\n  AND ({})", keep.sql))
}
