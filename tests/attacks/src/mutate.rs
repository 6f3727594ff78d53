//! Changes JSON as a liar would, from a seed: the same seed gives the same lies. A change is one of the tree (drop, duplicate, swap,
//! move, nest, take from another true answer) or of a text (flip, cut, lengthen, empty, huge).

use serde_json::{Map, Value, json};

/// `SplitMix64`: all that is asked of it is that a seed can be replayed.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in `COUNTERSIGN_ATTACK_SEED`, or one that is new every time. Either is printed: a failure can be replayed.
    pub fn from_environment(what: &str) -> Self {
        let seed = match std::env::var("COUNTERSIGN_ATTACK_SEED") {
            Ok(text) => text.parse().expect("COUNTERSIGN_ATTACK_SEED: a number"),
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
                u64::try_from(now.as_nanos() & u128::from(u64::MAX)).expect("masked")
            }
        };
        println!("{what}: COUNTERSIGN_ATTACK_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`; zero where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("64 bits").max(1);
        let number = self.number().checked_rem(bound).unwrap_or_default();
        usize::try_from(number).expect("below a usize")
    }
}

/// Changes `value` one to three times. `donors` are other true answers to calls of the same sort. Says what it did.
pub fn mutate(value: &mut Value, donors: &[Value], random: &mut Seeded) -> String {
    let mut told = String::new();
    for _ in 0..=random.below(3) {
        let steps = random.below(5);
        told.push_str(&once(value, donors, steps, random));
        told.push(' ');
    }
    told
}

fn once(value: &mut Value, donors: &[Value], steps: usize, random: &mut Seeded) -> String {
    let child = random.below(members(value));
    if steps > 0 && members(value) > 0 {
        let donors: Vec<Value> = donors.iter().filter_map(|donor| member(donor, child).cloned()).collect();
        let name = name(value, child);
        if let Some(inner) = member_mut(value, child) {
            return format!("{name}.{}", once(inner, &donors, steps.saturating_sub(1), random));
        }
    }
    match value {
        Value::Array(items) if !items.is_empty() && random.below(4) > 0 => list(items, random).to_owned(),
        Value::Object(fields) if !fields.is_empty() && random.below(4) > 0 => object(fields, random).to_owned(),
        Value::String(text) if random.below(6) > 0 => hex(text, random).to_owned(),
        _ => replace(value, donors, random).to_owned(),
    }
}

fn members(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    }
}

fn name(value: &Value, index: usize) -> String {
    match value {
        Value::Object(fields) => fields.keys().nth(index).cloned().unwrap_or_default(),
        _ => index.to_string(),
    }
}

fn member(value: &Value, index: usize) -> Option<&Value> {
    match value {
        Value::Array(items) => items.get(index),
        Value::Object(fields) => fields.values().nth(index),
        _ => None,
    }
}

fn member_mut(value: &mut Value, index: usize) -> Option<&mut Value> {
    match value {
        Value::Array(items) => items.get_mut(index),
        Value::Object(fields) => fields.values_mut().nth(index),
        _ => None,
    }
}

fn list(items: &mut Vec<Value>, random: &mut Seeded) -> &'static str {
    let (one, other) = (random.below(items.len()), random.below(items.len()));
    match random.below(7) {
        0 => {
            items.remove(one);
            "dropped"
        }
        1 => {
            let copy = items.get(one).cloned().unwrap_or_default();
            items.insert(other, copy);
            "duplicated"
        }
        2 => {
            items.swap(one, other);
            "swapped"
        }
        3 => {
            items.truncate(one);
            "cut"
        }
        4 => {
            items.reverse();
            "reversed"
        }
        5 => {
            let copy = items.get(one).cloned().unwrap_or_default();
            if let Some(place) = items.get_mut(other) {
                *place = copy;
            }
            "copied over a sibling"
        }
        _ => {
            let copy = items.get(one).cloned().unwrap_or_default();
            items.resize(items.len().saturating_add(random.below(64)), copy);
            "many more"
        }
    }
}

fn object(fields: &mut Map<String, Value>, random: &mut Seeded) -> &'static str {
    let key = |at: usize| fields.keys().nth(at).cloned().unwrap_or_default();
    let (one, other) = (key(random.below(fields.len())), key(random.below(fields.len())));
    match random.below(5) {
        0 => {
            fields.remove(&one);
            "a field dropped"
        }
        1 => {
            let value = fields.remove(&one).unwrap_or_default();
            fields.insert(format!("{one}X"), value);
            "a field renamed"
        }
        2 => {
            let value = fields.get(&one).cloned().unwrap_or_default();
            fields.insert(other, value);
            "a field copied over another"
        }
        3 => {
            fields.insert("laterFork".to_owned(), json!("0x1"));
            "an unknown field"
        }
        _ => {
            let value = fields.get(&one).cloned().unwrap_or_default();
            let swapped = fields.insert(other, value).unwrap_or_default();
            fields.insert(one, swapped);
            "two fields swapped"
        }
    }
}

fn hex(text: &mut String, random: &mut Seeded) -> &'static str {
    // Answers are ASCII; what is not is replaced as a whole.
    if !text.is_ascii() || text.is_empty() {
        "0x".clone_into(text);
        return "emptied";
    }
    let place = random.below(text.len());
    match random.below(9) {
        0..=2 => {
            let old = text.as_bytes().get(place).copied().map(char::from).unwrap_or_default();
            let digit = char::from_digit(u32::try_from(random.below(16)).expect("small"), 16).unwrap_or_default();
            let digit = if digit == old { 'f' } else { digit };
            text.replace_range(place..=place, digit.encode_utf8(&mut [0; 4]));
            "a digit changed"
        }
        3 => {
            text.truncate(place);
            "cut"
        }
        4 => {
            text.insert_str(place, "00");
            "lengthened"
        }
        5 => {
            "0x".clone_into(text);
            "emptied"
        }
        6 => {
            "0x0".clone_into(text);
            "zero"
        }
        7 => {
            text.push_str(&"f".repeat(random.below(4096)));
            "huge"
        }
        _ => {
            *text = text.to_ascii_uppercase();
            "in capitals"
        }
    }
}

fn replace(value: &mut Value, donors: &[Value], random: &mut Seeded) -> &'static str {
    if !donors.is_empty() && random.below(2) == 0 {
        *value = donors.get(random.below(donors.len())).cloned().unwrap_or_default();
        return "taken from another answer";
    }
    *value = match random.below(7) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(1.5e300),
        3 => json!([]),
        4 => json!({}),
        5 => json!(true),
        _ => (0..random.below(200)).fold(Value::Null, |inner, _| json!([inner])),
    };
    "another type"
}
