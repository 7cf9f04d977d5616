//! Sums that are exact, so that they do not depend on the order of what is added.
//!
//! Integers are added as such. Doubles are added in fixed point, over the whole range that they have:
//! all are multiples of 2^-1074 (R. M. Neal, "Fast exact summation using small and large
//! superaccumulators", 2015). The total is rounded once.

#[cfg(test)]
mod tests;

use crate::Value;

/// A sum of numbers.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Sum {
    count: u64,
    integers: i128,
    /// If there were doubles.
    doubles: Option<Box<FixedPoint>>,
}

/// Digits of 32 bits: the first counts 2^-1088. While numbers are added digits may be larger, or
/// below 0.
#[derive(Clone, Debug)]
struct FixedPoint {
    digits: [i64; DIGITS],
    /// How many numbers may still be added before digits are too large.
    left: u32,
}

/// Up to 2^1088: 2^64 times the largest double.
const DIGITS: usize = 68;
/// The exponent of the first digit.
const FIRST: i32 = -1088;
/// A number adds less than 2^32 to a digit, which has 63 bits.
const BETWEEN_CARRIES: u32 = 1 << 30;

impl Sum {
    /// Adds a number; anything else adds nothing. How many bytes more it takes.
    pub(in super::super) fn add(&mut self, value: &Value) -> usize {
        let before = self.bytes();
        match value {
            Value::Int(number) => self.integers += i128::from(*number),
            Value::Float(number) => self.doubles.get_or_insert_default().add(*number),
            _ => return 0,
        }
        self.count += 1;
        self.bytes() - before
    }

    fn bytes(&self) -> usize {
        if self.doubles.is_some() { size_of::<FixedPoint>() } else { 0 }
    }

    /// NULL of nothing, and of what is larger than any double. An integer if all are and it fits.
    pub(in super::super) fn total(&self) -> Value {
        if self.count == 0 {
            return Value::Null;
        }
        match (i64::try_from(self.integers), &self.doubles) {
            (Ok(total), None) => Value::Int(total),
            _ => super::super::eval::finite(self.rounded()),
        }
    }

    /// A double; NULL of nothing.
    #[allow(clippy::cast_precision_loss)] // nobody counts to 2^53
    pub(in super::super) fn mean(&self) -> Value {
        if self.count == 0 {
            return Value::Null;
        }
        super::super::eval::finite(self.rounded() / self.count as f64)
    }

    #[allow(clippy::cast_precision_loss)] // it is what rounds
    fn rounded(&self) -> f64 {
        match &self.doubles {
            None => self.integers as f64,
            Some(doubles) => {
                let mut total = doubles.clone();
                total.add_scaled(self.integers.unsigned_abs(), 0, self.integers < 0);
                total.rounded()
            }
        }
    }

    /// What it has seen: how many, the sum of the integers, the digits of the doubles.
    pub(in super::super) fn state(&self) -> Value {
        let mut state = vec![
            Value::Int(i64::try_from(self.count).unwrap_or(i64::MAX)),
            Value::String(self.integers.to_string()),
        ];
        if let Some(doubles) = &self.doubles {
            let mut doubles = doubles.clone();
            doubles.carry();
            state.push(Value::Array(doubles.digits.into_iter().map(Value::Int).collect()));
        }
        Value::Array(state)
    }

    /// Adds what another one has seen; `None` if that is not the state of one. How many bytes more it
    /// takes.
    pub(in super::super) fn merge(&mut self, state: &Value) -> Option<usize> {
        let before = self.bytes();
        let Value::Array(state) = state else { return None };
        let ([Value::Int(count), Value::String(integers)], digits) = state.split_first_chunk()?
        else {
            return None;
        };
        self.count = self.count.checked_add(u64::try_from(*count).ok()?)?;
        self.integers = self.integers.checked_add(integers.parse().ok()?)?;
        if let Some(Value::Array(digits)) = digits.first() {
            let digits = digits.iter().map(|digit| match digit {
                Value::Int(digit) => Some(*digit),
                _ => None,
            });
            let digits: Option<Vec<i64>> = digits.collect();
            self.doubles.get_or_insert_default().add_digits(&digits?)?;
        }
        Some(self.bytes() - before)
    }
}

impl Default for FixedPoint {
    fn default() -> Self {
        FixedPoint { digits: [0; DIGITS], left: BETWEEN_CARRIES }
    }
}

impl FixedPoint {
    fn add(&mut self, number: f64) {
        let bits = number.abs().to_bits();
        let (exponent, fraction) = (bits >> 52, bits & ((1 << 52) - 1));
        // Without the leading one, which is not written, if the exponent is the least.
        let (mantissa, exponent) =
            if exponent == 0 { (fraction, 1) } else { (fraction | 1 << 52, exponent) };
        let exponent = i32::try_from(exponent).expect("an exponent has 11 bits");
        self.add_scaled(u128::from(mantissa), exponent - 1075, number < 0.0);
    }

    /// Adds `mantissa * 2^exponent`; the mantissa leaves 32 bits free if the exponent is not a
    /// multiple of 32.
    fn add_scaled(&mut self, mantissa: u128, exponent: i32, is_negative: bool) {
        if self.left == 0 {
            self.carry();
        }
        self.left -= 1;
        let shift = usize::try_from(exponent - FIRST).expect("no double is smaller");
        let mut rest = mantissa << (shift % 32);
        for digit in &mut self.digits[shift / 32..] {
            if rest == 0 {
                break;
            }
            let part = i64::from(low(rest));
            *digit += if is_negative { -part } else { part };
            rest >>= 32;
        }
    }

    fn add_digits(&mut self, digits: &[i64]) -> Option<()> {
        let carried = |digit: &i64| (i64::MIN >> 1..1 << 32).contains(digit);
        if digits.len() != DIGITS || !digits.iter().all(carried) {
            return None;
        }
        self.carry();
        for (digit, more) in self.digits.iter_mut().zip(digits) {
            *digit = digit.checked_add(*more)?;
        }
        Some(())
    }

    /// Brings all digits but the last, which has the sign, to between 0 and 2^32.
    fn carry(&mut self) {
        let mut carried = 0;
        let (last, digits) = self.digits.split_last_mut().expect("there are digits");
        for digit in digits {
            let sum = *digit + carried;
            carried = sum >> 32;
            *digit = sum & 0xffff_ffff;
        }
        *last += carried;
        self.left = BETWEEN_CARRIES;
    }

    /// The nearest double, of two the even one.
    #[allow(clippy::cast_precision_loss)] // it is what rounds
    fn rounded(mut self: Box<Self>) -> f64 {
        self.carry();
        let is_negative = self.digits[DIGITS - 1] < 0;
        if is_negative {
            self.digits.iter_mut().for_each(|digit| *digit = -*digit);
            self.carry();
        }
        let Some(top) = self.digits.iter().rposition(|digit| *digit != 0) else { return 0.0 };
        let lowest = top.saturating_sub(3);
        let digits = &self.digits[lowest..=top];
        let leading = digits.iter().rev().fold(0u128, |all, digit| {
            all << 32 | u128::try_from(*digit).expect("digits were carried")
        });
        // What is below tells only on which side of the middle between two doubles it is.
        let is_more = self.digits[..lowest].iter().any(|digit| *digit != 0);
        let nearest = (leading | u128::from(is_more)) as f64;
        let exponent = FIRST + 32 * i32::try_from(lowest).expect("there are few digits");
        // In two steps, since 2^-1088 is no double. Where the result has fewer bits it is exact.
        let half = exponent / 2;
        let magnitude = nearest * 2f64.powi(half) * 2f64.powi(exponent - half);
        if is_negative { -magnitude } else { magnitude }
    }
}

#[allow(clippy::cast_possible_truncation)] // the low bits are the point
fn low(number: u128) -> u32 {
    number as u32
}
