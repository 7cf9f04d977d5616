//! Conditions: read back, and found by what they say of ids and of the fields of an index.

use std::borrow::Cow;

use anabranch_core::Value;
use anabranch_core::ids::DocumentKey;
use anabranch_core::query::{
    Allowed, Args, IndexPaths, Predicate, Restrictions, Rule, Span, parse_filter,
};

use crate::Input;

/// A rule that is taken can be bound to any claims or says why not, and what it then lets at goes as text to
/// those who heed it.
pub fn check_rule(input: &Input) {
    let Input { text, args, documents } = input;
    let rule = match Rule::new(text.as_str()) {
        Ok(rule) => rule,
        Err(error) => return assert!(!error.to_string().is_empty() && !error.code().is_empty()),
    };
    assert_eq!(rule.as_str(), text);
    let allowed = match rule.bind(args) {
        Ok(allowed) => allowed,
        Err(error) => return assert!(!error.to_string().is_empty() && !error.code().is_empty()),
    };
    // A claim more changes nothing: the text does not name one that is longer than it.
    let mut more = args.clone();
    more.insert(format!("{text}_"), Value::Null);
    assert_eq!(rule.bind(&more).as_ref(), Ok(&allowed));

    let condition = allowed.clone().into_condition();
    check_condition(&condition, documents);
    let again = Rule::new(condition.to_string()).and_then(|rule| rule.bind(&Args::new()));
    assert_eq!(again, Ok(allowed.clone()), "{condition} as a rule");
    for document in documents {
        match allowed {
            Allowed::Nothing => assert!(!condition.matches(document)),
            Allowed::Everything => assert!(condition.matches(document)),
            Allowed::Where(_) => {}
        }
    }
}

/// What is printed means the same, and whoever looks only where the condition says finds every document of
/// which it holds.
pub(crate) fn check_condition(condition: &Predicate, documents: &[Value]) {
    let text = condition.to_string();
    let read = parse_filter(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    assert_eq!(&read, condition, "{text}");
    assert_eq!(read.to_string(), text);

    let restrictions = Restrictions::of_condition(condition);
    let index = IndexPaths::serving(&restrictions);
    let lookup = index.as_ref().and_then(|index| index.lookup(&restrictions));
    assert_eq!(index.is_some(), lookup.is_some(), "what would serve {text} does");
    for document in documents {
        let matches = condition.matches(document);
        assert_eq!(read.matches(document), matches, "{text} of {document}");
        let needed = only(&condition.fields(), document);
        assert_eq!(condition.matches(&needed), matches, "{text} of {needed}");
        if !matches {
            continue;
        }
        if let (Some(keys), Some(id)) = (condition.key(), document.get(&["_id"]))
            && let Ok(key) = DocumentKey::from_value(id)
        {
            assert!(keys.binary_search(&key).is_ok(), "{text} finds {document}");
        }
        if let (Some(index), Some(lookup)) = (&index, &lookup) {
            let entry = index.entry(|path| document.get(path.steps()).map(Cow::Borrowed));
            let entry = entry.unwrap_or_else(|| panic!("{document} is in an index over {index}"));
            let found = lookup.spans.iter().any(|span| match span {
                Span::Point(values) => entry == *values,
                Span::Range(range) => range.contains(&entry),
            });
            assert!(found, "{text} finds {document} by {index}");
        }
    }
}

/// A document with only these of its fields.
pub(crate) fn only(fields: &std::collections::BTreeSet<&str>, document: &Value) -> Value {
    match document {
        Value::Object(all) => {
            let all = all.iter().filter(|(name, _)| fields.contains(name.as_str()));
            all.map(|(name, value)| (name.clone(), value.clone())).collect()
        }
        other => other.clone(),
    }
}
