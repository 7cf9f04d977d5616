use std::cmp::Ordering;

use proptest::prelude::*;

use super::super::total_cmp;
use super::properties::value;
use crate::Value;

#[test]
fn types_are_ordered() {
    let ascending = super::json(
        r#"[null, false, true, -1e300, -9223372036854775808, -1, -0.5, 0, 0.5, 1, 1.5,
            9007199254740992.0, 9007199254740993, 9223372036854775807, 9223372036854775808.0, 1e300,
            "", "A", "a", "aa", "b", [], [null], [1], [1, 1], [2], {}, {"a": 1}, {"a": 1, "b": 0},
            {"a": 2}, {"b": 0}]"#,
    );
    let Value::Array(ascending) = ascending else { panic!("not an array") };
    for (left_index, left) in ascending.iter().enumerate() {
        for (right_index, right) in ascending.iter().enumerate() {
            assert_eq!(total_cmp(left, right), left_index.cmp(&right_index), "{left} {right}");
        }
    }
}

#[test]
fn numbers_are_equal_however_they_are_held() {
    for (int, float) in [(0, 0.0), (0, -0.0), (1, 1.0), (i64::MIN, i64::MIN as f64)] {
        assert_eq!(total_cmp(&Value::Int(int), &Value::Float(float)), Ordering::Equal);
    }
}

proptest! {
    #[test]
    fn order_is_total(a in value(), b in value(), c in value()) {
        prop_assert_eq!(total_cmp(&a, &a), Ordering::Equal);
        prop_assert_eq!(total_cmp(&a, &b), total_cmp(&b, &a).reverse());
        if total_cmp(&a, &b).is_le() && total_cmp(&b, &c).is_le() {
            prop_assert!(total_cmp(&a, &c).is_le());
        }
    }

    #[test]
    #[allow(clippy::cast_possible_truncation)] // a cast to i128 cuts at its ends, beyond all of i64
    fn integers_and_doubles_compare_as_the_numbers_they_are(
        int in prop_oneof![any::<i64>(), -9i64..9],
        offset in -2i64..3,
        bits in any::<u64>(),
    ) {
        // i128 holds every double this size that has no fraction.
        let near = int.saturating_add(offset) as f64;
        let expected = i128::from(int).cmp(&(near as i128));
        prop_assert_eq!(total_cmp(&Value::Int(int), &Value::Float(near)), expected);

        let float = f64::from_bits(bits);
        if float.is_finite() {
            let floor = float.floor();
            let expected = i128::from(int).cmp(&(floor as i128)).then(
                if float > floor { Ordering::Less } else { Ordering::Equal },
            );
            prop_assert_eq!(total_cmp(&Value::Int(int), &Value::Float(float)), expected);
        }
    }
}
