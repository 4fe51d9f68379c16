use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::stream::{Kind, Message};
use crate::testing::{Judge, job, late, play, shares_are};

const JOB: &str = include_str!("../../jobs/ecommerce.toml");

fn mixed() -> ShopOptions {
    let mix = Mix { count: Some(10_000), invalid: 0.05, late: 0.02, ..Mix::default() };
    ShopOptions { mix, users: 200 }
}

fn paced() -> ShopOptions {
    let mut options = mixed();
    options.mix.rate = Some(50.0);
    options
}

fn good(message: &Message<Event>) -> bool {
    !matches!(message.kind, Kind::Invalid(_))
}

#[test]
fn the_job_accepts_all_but_the_flawed_and_those_for_their_flaw() {
    let (sent, _) = play(shop(mixed()).unwrap());
    let mut judge = Judge::new(&job(JOB));
    let mut flaws = BTreeSet::new();
    for (_, message) in &sent {
        let verdict = judge.judge(message.key.as_bytes(), Some(&message.payload), message.timestamp_ms);
        let Kind::Invalid(flaw) = message.kind else {
            assert_eq!(verdict, Ok(()), "{}", String::from_utf8_lossy(&message.payload));
            continue;
        };
        let reason = match flaw {
            Flaw::PurchaseWithoutProduct => "rule:purchase_is_complete",
            Flaw::UnknownType => "not_one_of",
            Flaw::Malformed => "invalid_json",
            Flaw::NoEventId | Flaw::NoUser => "missing_field",
            Flaw::NegativePrice | Flaw::NoQuantity => "out_of_range",
            Flaw::PriceTooPrecise => "too_precise",
            Flaw::BadTime => "invalid_format",
            Flaw::FarFuture => "too_far_in_future",
        };
        assert!(verdict.unwrap_err().contains(reason), "{flaw:?}");
        flaws.insert(reason);
    }
    assert_eq!(flaws.len(), 8);
}

#[test]
fn shares_are_as_asked_and_the_same_seed_gives_the_same_stream() {
    for options in [mixed(), paced()] {
        let (sent, counts) = play(shop(options.clone()).unwrap());
        assert_eq!(counts.messages, 10_000);
        shares_are(counts, 0.3, 0.0, 0.05, 0.02);
        if options.mix.rate.is_some() {
            assert_eq!(late(&sent, |row| row.time_ms), counts.late);
        }
        assert!(sent == play(shop(options.clone()).unwrap()).0);
        let other = ShopOptions { mix: Mix { seed: 2, ..options.mix.clone() }, ..options };
        assert!(sent != play(shop(other).unwrap()).0);
    }
}

/// The first event of each id, in JSON, against the rows that are promised, in CSV.
#[test]
fn the_rows_promised_are_those_an_independent_reader_finds() {
    let (sent, counts) = play(shop(mixed()).unwrap());
    let mut found = BTreeMap::new();
    for (_, message) in sent.iter().filter(|(_, message)| good(message)) {
        let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        found.entry(value["event_id"].as_str().unwrap().to_owned()).or_insert(value);
    }
    let rows: String = sent.iter().filter_map(|(_, message)| message.row.as_ref()).map(Event::csv).collect();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(rows.as_bytes());
    let mut seen = BTreeSet::new();
    for row in reader.records().map(Result::unwrap) {
        let value = &found[&row[0]];
        let text = |value: &serde_json::Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None if value.is_null() => String::new(),
            None => value.to_string(),
        };
        let time = value["timestamp"].as_str().unwrap().trim_end_matches('Z').replace('T', " ");
        assert_eq!(&row[2], format!("{time}+00"));
        let product = &value["product"];
        for (at, member) in [
            (1, &value["event_type"]),
            (3, &value["user_id"]),
            (4, &value["session_id"]),
            (5, &product["id"]),
            (6, &product["name"]),
            (7, &product["category"]),
            (9, &value["quantity"]),
            (11, &value["payment_method"]),
        ] {
            assert_eq!(row[at], text(member), "{row:?}");
        }
        for (at, member) in [(8, &product["price"]), (10, &value["total_amount"])] {
            // serde_json shows 19.90 as 19.9.
            assert_eq!(row[at].parse::<f64>().ok(), member.as_f64(), "{row:?}");
        }
        seen.insert(row[0].to_owned());
    }
    assert_eq!((seen.len() as u64, found.len() as u64), (counts.distinct, counts.distinct));
}

#[test]
fn visits_go_from_looking_to_buying_and_every_kind_of_event_is_there() {
    let (sent, _) = play(shop(paced()).unwrap());
    let events: Vec<&Event> = sent.iter().filter_map(|(_, message)| message.row.as_ref()).collect();
    let of = |what: What| events.iter().filter(|event| event.what == what).count();
    assert!(of(What::PageView) > of(What::AddToCart) && of(What::AddToCart) > of(What::Purchase));
    assert!(of(What::Purchase) > 300 && of(What::Search) > 300 && of(What::RemoveFromCart) > 50);
    // Of each visit and product no more is bought or put back than was in the cart, but what was a bad record.
    let mut carts: BTreeMap<(&str, Product), i64> = BTreeMap::new();
    for event in &events {
        let cart = carts.entry((&event.session, event.product)).or_default();
        match event.what {
            What::AddToCart => *cart += 1,
            What::Purchase | What::RemoveFromCart => *cart -= 1,
            What::PageView | What::Search => {}
        }
    }
    let impossible = carts.values().filter(|cart| **cart < 0).count();
    assert!(impossible * 10 < carts.len(), "{impossible} of {}", carts.len());
}

#[test]
fn events_are_out_of_order_and_prices_change_but_not_at_one_moment() {
    let (sent, _) = play(shop(paced()).unwrap());
    let events: Vec<&Event> = sent.iter().filter_map(|(_, message)| message.row.as_ref()).collect();
    let disordered = events.windows(2).filter(|pair| pair[0].time_ms > pair[1].time_ms).count();
    assert!(disordered > events.len() / 10, "{disordered}");
    let mut prices: BTreeMap<Product, BTreeSet<i64>> = BTreeMap::new();
    let mut at: BTreeMap<(Product, i64), i64> = BTreeMap::new();
    for event in &events {
        assert!(event.price() > 0);
        prices.entry(event.product).or_default().insert(event.price());
        assert_eq!(*at.entry((event.product, event.time_ms)).or_insert(event.price()), event.price());
    }
    assert_eq!(prices.len(), PRODUCTS.len());
    assert!(prices.values().all(|prices| prices.len() > 2));
}

#[test]
fn senseless_options_are_refused() {
    assert!(shop(ShopOptions { users: 0, ..mixed() }).is_err());
}
