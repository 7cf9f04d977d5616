//! Questions in both languages, where both mean the same: numbers meet numbers and text meets text.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A question in both languages.
pub(crate) struct Question {
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// Rows have `c0`, `c1` .. up to so many.
    pub(crate) columns: usize,
}

/// A part of a question in both languages.
#[derive(Clone)]
struct Text {
    ours: String,
    theirs: String,
}

/// Letters that both have the same cases of, and what patterns are made of.
const LETTERS: [char; 7] = ['a', 'A', 'b', ' ', '%', '_', '日'];

pub(crate) fn letter(dice: &mut StdRng) -> char {
    *LETTERS.choose(dice).expect("there are letters")
}

impl Text {
    fn same(text: impl Into<String>) -> Self {
        let text = text.into();
        Text { ours: text.clone(), theirs: text }
    }

    fn field(path: &str) -> Self {
        Text { ours: path.to_owned(), theirs: format!("doc ->> '$.{path}'") }.join("(", ")")
    }

    fn join(self, before: &str, after: &str) -> Self {
        let Text { ours, theirs } = self;
        Text { ours: format!("{before}{ours}{after}"), theirs: format!("{before}{theirs}{after}") }
    }

    /// A function, by its name in each language, of these.
    fn call(ours: &str, theirs: &str, arguments: &[Text]) -> Self {
        let list =
            |text: fn(&Text) -> &str| arguments.iter().map(text).collect::<Vec<_>>().join(", ");
        Text {
            ours: format!("{ours}({})", list(|text| &text.ours)),
            theirs: format!("{theirs}({})", list(|text| &text.theirs)),
        }
    }

    fn operator(left: &Text, operator: &str, right: &Text) -> Self {
        Text {
            ours: format!("({} {operator} {})", left.ours, right.ours),
            theirs: format!("({} {operator} {})", left.theirs, right.theirs),
        }
    }

    fn push(&mut self, text: &str) {
        self.ours.push_str(text);
        self.theirs.push_str(text);
    }

    fn add(&mut self, other: &Text) {
        self.ours.push_str(&other.ours);
        self.theirs.push_str(&other.theirs);
    }
}

fn quoted(text: &str) -> Text {
    Text::same(format!("'{text}'"))
}

fn word(dice: &mut StdRng) -> String {
    let length = dice.random_range(0..3);
    (0..length).map(|_| letter(dice)).collect()
}

fn case(dice: &mut StdRng, depth: u32, value: fn(&mut StdRng, u32) -> Text) -> Text {
    let mut text = Text::same("CASE");
    for _ in 0..dice.random_range(1..3) {
        text.push(" WHEN ");
        text.add(&condition(dice, depth));
        text.push(" THEN ");
        text.add(&value(dice, depth));
    }
    if dice.random() {
        text.push(" ELSE ");
        text.add(&value(dice, depth));
    }
    text.push(" END");
    text.join("(", ")")
}

fn whole(dice: &mut StdRng) -> Text {
    match dice.random_range(0..4) {
        0 => Text::field("n"),
        1 => Text::field("o.n"),
        2 => Text::field("o.a[0]"),
        _ => Text::same(dice.random_range(-3..6).to_string()).join("(", ")"),
    }
}

fn number(dice: &mut StdRng, depth: u32) -> Text {
    if depth == 0 || dice.random_bool(0.2) {
        return match dice.random_range(0..3) {
            0 => Text::field("f"),
            1 => Text::same(format!("({:?})", f64::from(dice.random_range(-8..8)) / 4.0)),
            _ => whole(dice),
        };
    }
    let depth = depth - 1;
    match dice.random_range(0..13) {
        0..=2 => {
            let operator = ["+", "-", "*"].choose(dice).expect("there are some");
            Text::operator(&number(dice, depth), operator, &number(dice, depth))
        }
        // Halves and quarters stay exact. Of two integers SQLite gives the whole part.
        3 => Text::operator(&number(dice, depth), "/", &Text::same("(-4.0)")),
        4 => Text::operator(&whole(dice), "%", &whole(dice)),
        5 => Text::call("abs", "abs", &[number(dice, depth)]),
        6 => number(dice, depth).join("(- ", ")"),
        7 => Text::call("length", "length", &[string(dice, depth)]),
        8 => Text::call("coalesce", "coalesce", &[number(dice, depth), number(dice, depth)]),
        9 => case(dice, depth, number),
        10 => Text::call("nullif", "nullif", &[number(dice, depth), number(dice, depth)]),
        11 => {
            let arguments = [string(dice, depth), quoted(&word(dice).replace(' ', "b"))];
            Text::call("position", "instr", &arguments)
        }
        _ => {
            let (ours, theirs) = if dice.random() { ("greatest", "max") } else { ("least", "min") };
            Text::call(ours, theirs, &[number(dice, depth), number(dice, depth)])
        }
    }
}

fn string(dice: &mut StdRng, depth: u32) -> Text {
    if depth == 0 || dice.random_bool(0.2) {
        return match dice.random_range(0..4) {
            0 => Text::field("s"),
            1 => Text::field("t"),
            2 => Text::field("o.a[1]"),
            _ => quoted(&word(dice)),
        };
    }
    let depth = depth - 1;
    match dice.random_range(0..8) {
        0 => Text::call("lower", "lower", &[string(dice, depth)]),
        1 => Text::call("upper", "upper", &[string(dice, depth)]),
        2 => {
            let from = Text::same(dice.random_range(-3..4).to_string());
            Text::call("substr", "substr", &[string(dice, depth), from])
        }
        3 => {
            let from = Text::same(dice.random_range(-3..4).to_string());
            let count = Text::same(dice.random_range(0..4).to_string());
            Text::call("substr", "substr", &[string(dice, depth), from, count])
        }
        4 => Text::operator(&string(dice, depth), "||", &string(dice, depth)),
        5 => {
            let arguments = [string(dice, depth), quoted(&word(dice)), quoted(&word(dice))];
            Text::call("replace", "replace", &arguments)
        }
        6 => {
            let name = *["trim", "ltrim", "rtrim"].choose(dice).expect("there are some");
            Text::call(name, name, &[string(dice, depth)])
        }
        _ => case(dice, depth, string),
    }
}

fn condition(dice: &mut StdRng, depth: u32) -> Text {
    let below = depth.saturating_sub(1);
    if depth > 0 && dice.random_bool(0.4) {
        return match dice.random_range(0..3) {
            0 => Text::operator(&condition(dice, below), "AND", &condition(dice, below)),
            1 => Text::operator(&condition(dice, below), "OR", &condition(dice, below)),
            _ => condition(dice, below).join("(NOT ", ")"),
        };
    }
    let not = if dice.random_bool(0.3) { "NOT " } else { "" };
    let value: fn(&mut StdRng, u32) -> Text = if dice.random() { number } else { string };
    match dice.random_range(0..6) {
        0..=1 => {
            let operators = ["=", "<>", "<", "<=", ">", ">=", "==", "!="];
            let operator = operators.choose(dice).expect("there are some");
            Text::operator(&value(dice, below), operator, &value(dice, below))
        }
        2 => value(dice, below).join("(", &format!(" IS {not}NULL)")),
        3 => {
            let mut text = value(dice, below).join("(", &format!(" {not}BETWEEN "));
            text.add(&value(dice, below));
            text.push(" AND ");
            text.add(&value(dice, below));
            text.join("", ")")
        }
        4 => {
            let mut text = value(dice, below).join("(", &format!(" {not}IN ("));
            let count = dice.random_range(2..5);
            let members: Vec<_> = (0..count).map(|_| value(dice, 0)).collect();
            for (number, member) in members.iter().enumerate() {
                text.push(if number > 0 { ", " } else { "" });
                text.add(member);
            }
            text.join("", "))")
        }
        _ => {
            let length = dice.random_range(0..5);
            let pattern: String = (0..length).map(|_| letter(dice)).collect();
            let string = string(dice, below);
            Text {
                ours: format!("({} {not}LIKE '{pattern}')", string.ours),
                theirs: format!("({} {not}LIKE '{pattern}' ESCAPE '\\')", string.theirs),
            }
        }
    }
}

/// A condition on a field and constants, which an index may serve.
fn served(dice: &mut StdRng) -> Text {
    let fields = [("n", false), ("f", false), ("o.n", false), ("s", true)];
    let (path, is_text) = *fields.choose(dice).expect("there are some");
    let constant = |dice: &mut StdRng| match is_text {
        true => Text::same(format!("'{}'", letter(dice))),
        false => Text::same(dice.random_range(-3..4).to_string()),
    };
    let field = Text::field(path);
    match dice.random_range(0..5) {
        0..=2 => Text::operator(&field, "=", &constant(dice)),
        3 => {
            let operator = *["<", "<=", ">", ">="].choose(dice).expect("there are some");
            Text::operator(&field, operator, &constant(dice))
        }
        _ => {
            let mut text = field.join("(", " IN (");
            text.add(&constant(dice));
            text.push(", ");
            text.add(&constant(dice));
            text.join("", "))")
        }
    }
}

/// A number, text or a condition; conditions count as 1 and 0 in SQLite.
fn any(dice: &mut StdRng, depth: u32) -> Text {
    match dice.random_range(0..5) {
        0..=1 => number(dice, depth),
        2..=3 => string(dice, depth),
        _ => condition(dice, depth),
    }
}

/// One that depends on the document: SQLite takes a number alone for that of a column.
fn key(dice: &mut StdRng, depth: u32) -> Text {
    loop {
        let key = any(dice, depth);
        if key.theirs.contains("doc") {
            return key;
        }
    }
}

fn aggregate(dice: &mut StdRng) -> Text {
    let distinct = if dice.random_bool(0.3) { "DISTINCT " } else { "" };
    let (name, operand) = match dice.random_range(0..7) {
        0 => return Text::same("COUNT(*)"),
        1 => ("COUNT", any(dice, 1)),
        2 => ("SUM", number(dice, 1)),
        3 => ("AVG", number(dice, 1)),
        4 => ("MIN", string(dice, 1)),
        5 => ("MAX", number(dice, 1)),
        _ => ("MIN", number(dice, 1)),
    };
    operand.join(&format!("{name}({distinct}"), ")")
}

/// A question about a collection.
pub(crate) fn question(collection: &str, dice: &mut StdRng) -> Question {
    let mut text = Text::same("SELECT ");
    let kind = dice.random_range(0..4);
    // What rows are grouped by, or in DISTINCT what they are; else the ids make rows distinct.
    let mut keys: Vec<Text> = match kind {
        0 | 1 => vec![Text::field("_id")],
        2 => (0..dice.random_range(1..3)).map(|_| key(dice, 2)).collect(),
        _ => (0..dice.random_range(0..3)).map(|_| key(dice, 1)).collect(),
    };
    let mut columns = keys.clone();
    match kind {
        0 | 1 => columns.extend((0..dice.random_range(1..4)).map(|_| any(dice, 3))),
        2 => text.push("DISTINCT "),
        _ => columns.extend((0..dice.random_range(1..4)).map(|_| aggregate(dice))),
    }
    for (number, column) in columns.iter().enumerate() {
        text.push(if number > 0 { ", " } else { "" });
        text.add(column);
        text.push(&format!(" AS c{number}"));
    }
    text.push(&format!(" FROM {collection}"));
    let conditions: Vec<_> = [
        dice.random_bool(0.2).then(|| served(dice)),
        dice.random_bool(0.1).then(|| served(dice)),
        dice.random_bool(0.6).then(|| condition(dice, 3)),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (number, condition) in conditions.iter().enumerate() {
        text.push(if number > 0 { " AND " } else { " WHERE " });
        text.add(condition);
    }
    if kind == 3 {
        for (number, key) in keys.iter().enumerate() {
            text.push(if number > 0 { ", " } else { " GROUP BY " });
            text.add(key);
        }
        if !keys.is_empty() && dice.random_bool(0.4) {
            text.push(" HAVING ");
            let operator = ["<", ">", "="].choose(dice).expect("there are some");
            let count = Text::same(dice.random_range(0..4).to_string());
            text.add(&Text::operator(&Text::same("COUNT(*)"), operator, &count));
        }
    }
    if kind == 0 {
        keys.insert(0, key(dice, 2));
    }
    // Something that tells all rows apart decides in the end, so that the order is the same.
    for (number, key) in keys.iter().enumerate() {
        text.push(if number > 0 { ", " } else { " ORDER BY " });
        text.add(key);
        text.push(["", " ASC", " DESC"].choose(dice).expect("there are some"));
    }
    if dice.random_bool(0.5) {
        text.push(&format!(" LIMIT {}", dice.random_range(0..20)));
        if dice.random_bool(0.5) {
            text.push(&format!(" OFFSET {}", dice.random_range(0..10)));
        }
    }
    let Text { ours, theirs } = text;
    Question { ours, theirs, columns: columns.len() }
}
