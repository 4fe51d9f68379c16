//! Events of a web shop in the form that `jobs/ecommerce.toml` reads: visitors who look, search, fill carts and buy.

use std::sync::Arc;

use jiff::Timestamp;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::object::Object;
use crate::stream::{FAR_FUTURE_MS, LATE_BY_MS, Mix, Record, Stream, Subject, Turn};

/// Visitors at the same time.
const SESSIONS: usize = 50;
/// Between two events when a given number is sent as fast as possible.
const FAST_STEP_MS: i64 = 50;
/// An event is on its way for up to so long: those of one visitor come out of order too.
const ON_ITS_WAY_MS: i64 = 2_000;
/// How long a product keeps its price.
const PRICE_FOR_MS: i64 = 30_000;
/// Share of events whose sender leaves the zone out.
const NAIVE: f64 = 0.1;
const PAYMENTS: [&str; 4] = ["credit_card", "pix", "boleto", "debit_card"];
const SEARCHES: [&str; 5] = ["notebook", "tênis de corrida", "presente", "sofá \"retrátil\"", "livro"];

/// Name, category and the price in cents around which it moves.
const PRODUCTS: [(&str, &str, i64); 20] = [
    ("Notebook 14\"", "eletronicos", 349_900),
    ("Smartphone", "eletronicos", 189_900),
    ("Fone de ouvido", "eletronicos", 24_990),
    ("Monitor 27\"", "eletronicos", 129_900),
    ("Teclado, mecânico", "eletronicos", 39_990),
    ("Dom Casmurro", "livros", 2_990),
    ("Grande Sertão: Veredas", "livros", 8_990),
    ("A Hora da Estrela", "livros", 3_490),
    ("Vidas Secas", "livros", 4_490),
    ("Cafeteira", "casa", 29_990),
    ("Panela de pressão", "casa", 17_990),
    ("Jogo de cama", "casa", 15_990),
    ("Luminária", "casa", 8_990),
    ("Camiseta", "moda", 5_990),
    ("Calça jeans", "moda", 14_990),
    ("Jaqueta", "moda", 25_990),
    ("Tênis de corrida", "esporte", 39_990),
    ("Bola de futebol", "esporte", 12_990),
    ("Bicicleta", "esporte", 149_900),
    ("Garrafa térmica", "esporte", 7_990),
];

#[derive(Debug, Clone, PartialEq)]
pub struct ShopOptions {
    pub mix: Mix,
    pub users: u32,
}

/// Fails, in words for people, on options that make no sense.
pub fn shop(options: ShopOptions) -> Result<Stream<Shop>, String> {
    let ShopOptions { mix, users } = options;
    if users == 0 {
        return Err("there must be at least one user".to_owned());
    }
    let seed = mix.seed;
    Stream::new(mix, |_| Shop { seed, users, sessions: Vec::new(), first_ms: None })
}

/// Visits side by side, a step of any of them at each turn.
#[derive(Debug)]
pub struct Shop {
    seed: u64,
    users: u32,
    sessions: Vec<Session>,
    first_ms: Option<i64>,
}

#[derive(Debug, Clone)]
struct Session {
    user: Arc<str>,
    id: Arc<str>,
    looks_at: Option<Product>,
    cart: Vec<(Product, u32)>,
}

/// Index into [`PRODUCTS`].
type Product = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    PageView,
    AddToCart,
    RemoveFromCart,
    Purchase,
    Search,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::PageView => "page_view",
            What::AddToCart => "add_to_cart",
            What::RemoveFromCart => "remove_from_cart",
            What::Purchase => "purchase",
            What::Search => "search",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Of the prices.
    seed: u64,
    id: Arc<str>,
    what: What,
    time_ms: i64,
    naive: bool,
    user: Arc<str>,
    session: Arc<str>,
    product: Product,
    quantity: u32,
    payment: &'static str,
    search: &'static str,
}

/// Why a record must become a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    PurchaseWithoutProduct,
    UnknownType,
    Malformed,
    NoEventId,
    NoUser,
    NegativePrice,
    PriceTooPrecise,
    NoQuantity,
    BadTime,
    FarFuture,
}

impl Subject for Shop {
    type Record = Event;

    fn record(&mut self, turn: &Turn, random: &mut Pcg64Mcg) -> Event {
        let time_ms = self.event_time(turn) - random.random_range(0..ON_ITS_WAY_MS);
        // The time is in it: another run has other events.
        let id: Arc<str> = format!("{:x}-{:x}-{:08x}", turn.now_us / 1000, turn.n, random.random::<u32>()).into();
        let at = self.visit(&id, random);
        let session = &mut self.sessions[at];
        let (what, product, quantity) = session.step(random);
        let (user, session_id) = (session.user.clone(), session.id.clone());
        let bought = what == What::Purchase && session.cart.is_empty();
        if random.random_bool(if bought { 0.7 } else { 0.03 }) {
            self.sessions.swap_remove(at);
        }
        Event {
            seed: self.seed,
            id,
            what,
            time_ms,
            naive: random.random_bool(NAIVE),
            user,
            session: session_id,
            product,
            quantity,
            payment: PAYMENTS[random.random_range(0..PAYMENTS.len())],
            search: SEARCHES[random.random_range(0..SEARCHES.len())],
        }
    }
}

impl Shop {
    fn event_time(&mut self, turn: &Turn) -> i64 {
        let now_ms = turn.now_us / 1000;
        let Some(backlog) = turn.backlog else { return now_ms };
        let steps = |n: u64| i64::try_from(n).unwrap_or(0) * FAST_STEP_MS;
        *self.first_ms.get_or_insert(now_ms - steps(backlog)) + steps(turn.n)
    }

    /// Which session goes on; it may be a new one.
    fn visit(&mut self, event: &str, random: &mut Pcg64Mcg) -> usize {
        if self.sessions.len() < SESSIONS && (self.sessions.is_empty() || random.random_bool(0.2)) {
            self.sessions.push(Session {
                user: format!("U{:05}", random.random_range(0..self.users) + 1).into(),
                id: format!("S-{event}").into(),
                looks_at: None,
                cart: Vec::new(),
            });
            return self.sessions.len() - 1;
        }
        random.random_range(0..self.sessions.len())
    }
}

impl Session {
    /// What the visitor does next: with which product, and how many of it.
    fn step(&mut self, random: &mut Pcg64Mcg) -> (What, Product, u32) {
        let any = random.random_range(0..PRODUCTS.len());
        let die = random.random_range(0..100);
        match (self.looks_at, self.cart.len()) {
            (_, in_cart) if in_cart > 0 && die < 25 => {
                let (product, quantity) = self.cart.swap_remove(random.random_range(0..in_cart));
                (if die < 20 { What::Purchase } else { What::RemoveFromCart }, product, quantity)
            }
            (Some(product), _) if die < 60 => {
                let quantity = random.random_range(1..=3);
                self.cart.push((product, quantity));
                self.looks_at = None;
                (What::AddToCart, product, quantity)
            }
            _ if die < 70 => (What::Search, any, 1),
            _ => {
                self.looks_at = Some(any);
                (What::PageView, any, 1)
            }
        }
    }
}

impl Event {
    /// In cents. A function of product and time, so that events of one moment agree on it.
    fn price(&self) -> i64 {
        let product = self.product as u64;
        // Not all at the same moment.
        let since = (self.time_ms + 7_919 * i64::try_from(product).unwrap_or(0)).div_euclid(PRICE_FOR_MS);
        let mut mixed = self.seed ^ product.rotate_left(48) ^ since.cast_unsigned();
        // Finaliser of SplitMix64.
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let percent = i64::try_from(mixed % 41).unwrap_or(0) + 80;
        PRODUCTS[self.product].2 * percent / 100
    }

    fn time(&self) -> String {
        let time = Timestamp::from_millisecond(self.time_ms).unwrap_or_default();
        let zone = if self.naive { "" } else { "Z" };
        format!("{}{zone}", time.strftime("%Y-%m-%dT%H:%M:%S%.3f"))
    }

    fn object(&self) -> Object {
        let object = Object::default()
            .text("event_id", &self.id)
            .text("event_type", self.what.name())
            .text("timestamp", &self.time())
            .text("user_id", &self.user)
            .text("session_id", &self.session);
        match self.what {
            What::Search => object.text("query", self.search),
            What::PageView => object.raw("product", self.product_json(Cents(self.price()))),
            What::AddToCart | What::RemoveFromCart => {
                object.raw("product", self.product_json(Cents(self.price()))).raw("quantity", self.quantity)
            }
            What::Purchase => object
                .raw("product", self.product_json(Cents(self.price())))
                .raw("quantity", self.quantity)
                .raw("total_amount", Cents(self.price() * i64::from(self.quantity)))
                .text("payment_method", self.payment),
        }
    }

    fn product_json(&self, price: impl ToString) -> String {
        let (name, category, _) = PRODUCTS[self.product];
        let id = product_id(self.product);
        Object::default().text("id", &id).text("name", name).text("category", category).raw("price", price).json()
    }
}

impl Record for Event {
    type Flaw = Flaw;
    const FLAWS: &'static [Flaw] = &[
        Flaw::PurchaseWithoutProduct,
        Flaw::UnknownType,
        Flaw::Malformed,
        Flaw::NoEventId,
        Flaw::NoUser,
        Flaw::NegativePrice,
        Flaw::PriceTooPrecise,
        Flaw::NoQuantity,
        Flaw::BadTime,
        Flaw::FarFuture,
    ];

    fn key(&self) -> Arc<str> {
        self.user.clone()
    }

    fn payload(&self) -> Vec<u8> {
        self.object().json().into_bytes()
    }

    fn flawed(&self, flaw: Flaw) -> Vec<u8> {
        let (object, purchase) = (self.object(), Event { what: What::Purchase, ..self.clone() }.object());
        let flawed = match flaw {
            Flaw::PurchaseWithoutProduct => purchase.without("product"),
            Flaw::UnknownType => object.text("event_type", "wishlist"),
            Flaw::Malformed => return object.cut().into_bytes(),
            Flaw::NoEventId => object.without("event_id"),
            Flaw::NoUser => object.raw("user_id", "null"),
            Flaw::NegativePrice => object.raw("product", self.product_json("-1.00")),
            Flaw::PriceTooPrecise => object.raw("product", self.product_json("19.999")),
            Flaw::NoQuantity => purchase.raw("quantity", 0),
            Flaw::BadTime => object.text("timestamp", "yesterday"),
            Flaw::FarFuture => {
                let time = Event { time_ms: FAR_FUTURE_MS, ..self.clone() }.time();
                object.text("timestamp", &time)
            }
        };
        flawed.json().into_bytes()
    }

    /// Columns in the order of the fields.
    fn csv(&self) -> String {
        let time = Timestamp::from_millisecond(self.time_ms).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f");
        let head = format!("{},{},{time}+00,{},{}", self.id, self.what.name(), self.user, self.session);
        let (name, category, _) = PRODUCTS[self.product];
        let (name, price) = (name.replace('"', "\"\""), self.price());
        let product = format!("{},\"{name}\",{category},{}", product_id(self.product), Cents(price));
        let (quantity, total) = (self.quantity, Cents(price * i64::from(self.quantity)));
        match self.what {
            What::Search => format!("{head},,,,,,,\n"),
            What::PageView => format!("{head},{product},,,\n"),
            What::AddToCart | What::RemoveFromCart => format!("{head},{product},{quantity},,\n"),
            What::Purchase => format!("{head},{product},{quantity},{total},{}\n", self.payment),
        }
    }

    fn make_late(&mut self) {
        self.time_ms -= LATE_BY_MS;
    }
}

fn product_id(product: Product) -> String {
    format!("P{:03}", product + 1)
}

struct Cents(i64);

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
#[path = "shop_tests.rs"]
mod tests;
