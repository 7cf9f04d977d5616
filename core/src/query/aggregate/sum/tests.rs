use proptest::collection::vec;
use proptest::prelude::*;

use super::Sum;
use crate::Value;

fn sum(numbers: &[f64]) -> Sum {
    let mut sum = Sum::default();
    for number in numbers {
        sum.add(&Value::Float(*number));
    }
    sum
}

#[test]
fn what_cancels_out_leaves_no_trace() {
    for (numbers, expected) in [
        (vec![1e308, 1e308, -1e308, -1e308, 0.1], 0.1),
        (vec![1.0, 1e100, 1.0, -1e100], 2.0),
        (vec![5e-324, -1e308, 1e308], 5e-324),
        (vec![0.1; 10], 1.0),
        (vec![-0.1; 10], -1.0),
        (vec![f64::MAX, f64::MIN_POSITIVE, -f64::MAX, -f64::MIN_POSITIVE], 0.0),
        // Half way between two doubles the even one is taken, and not if there is a trace more.
        (vec![9007199254740992.0, 1.0], 9007199254740992.0),
        (vec![9007199254740994.0, 1.0], 9007199254740996.0),
        (vec![9007199254740992.0, 1.0, 5e-324], 9007199254740994.0),
        (vec![-9007199254740992.0, -1.0, -5e-324], -9007199254740994.0),
    ] {
        assert_eq!(sum(&numbers).total(), Value::Float(expected), "{numbers:?}");
    }
    assert_eq!(sum(&[f64::MAX, f64::MAX]).total(), Value::Null);
}

#[test]
fn integers_stay_exact() {
    let mut sum = Sum::default();
    assert_eq!((sum.total(), sum.mean()), (Value::Null, Value::Null));
    sum.add(&Value::String("x".to_owned()));
    assert_eq!(sum.total(), Value::Null);
    sum.add(&Value::Int(i64::MAX));
    sum.add(&Value::Int(i64::MIN));
    assert_eq!(sum.total(), Value::Int(-1));
    assert_eq!(sum.mean(), Value::Float(-0.5));
    sum.add(&Value::Int(i64::MIN));
    assert_eq!(sum.total(), Value::Float(-9223372036854775809.0));
    sum.add(&Value::Float(9223372036854775809.0));
    assert_eq!(sum.total(), Value::Float(-1.0));
}

/// Doubles of all sizes, many of them close to each other.
fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |number| number.is_finite()),
        (any::<i32>(), -60i32..60)
            .prop_map(|(mantissa, exponent)| { f64::from(mantissa) * 2f64.powi(exponent) }),
    ]
}

proptest! {
    /// Multiples of 2^-60 below 2^66 add up exactly in 128 bits.
    #[test]
    fn sums_are_rounded_once(parts in vec((any::<i64>(), 0u32..10), 1..20)) {
        let mut exact = 0i128;
        let mut sum = Sum::default();
        for (part, shift) in &parts {
            // A double has 53 bits.
            let mantissa = (*part >> 11) as f64;
            sum.add(&Value::Float(mantissa * 2f64.powi(*shift as i32 - 60)));
            exact += i128::from(*part >> 11) << shift;
        }
        prop_assert_eq!(sum.total(), Value::Float(exact as f64 * 2f64.powi(-60)));
    }

    #[test]
    fn order_and_merging_do_not_matter(numbers in vec(double(), 0..30), split in 0usize..30) {
        let expected = sum(&numbers).total();
        let reversed: Vec<f64> = numbers.iter().rev().copied().collect();
        prop_assert_eq!(&sum(&reversed).total(), &expected);
        let (left, right) = reversed.split_at(split.min(reversed.len()));
        let mut merged = sum(left);
        merged.merge(&sum(right).state()).unwrap();
        prop_assert_eq!(&merged.total(), &expected);
    }
}
