//! Numbers, exactly: what BSON's decimal128 holds, its addition and multiplication with IEEE rounding, and the
//! place of a number of any of the four types in their common order.

use std::cmp::Ordering;

use bson::Decimal128;

/// Digits of a decimal128 coefficient.
const DIGITS: u32 = 34;
/// Largest coefficient plus one.
const COEFFICIENT_END: u128 = 10u128.pow(DIGITS);
const EXPONENT_MIN: i32 = -6176;
const EXPONENT_MAX: i32 = 6111;

/// A decimal128, unpacked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Decimal {
    Nan,
    Infinite {
        negative: bool,
    },
    /// `±coefficient * 10^exponent`, the coefficient below 10^34.
    Finite {
        negative: bool,
        coefficient: u128,
        exponent: i32,
    },
}

impl Decimal {
    /// Unpacks the binary integer encoding; coefficients that are too large count as zero, as the standard says.
    pub(crate) fn unpack(packed: Decimal128) -> Decimal {
        let bits = u128::from_le_bytes(packed.bytes());
        let negative = bits >> 127 == 1;
        let combination = (bits >> 122) & 0x1f;
        if combination == 0x1f {
            return Decimal::Nan;
        }
        if combination == 0x1e {
            return Decimal::Infinite { negative };
        }
        let (biased, coefficient) = if combination >> 3 == 0b11 {
            ((bits >> 111) & 0x3fff, 0)
        } else {
            ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1))
        };
        let coefficient = if coefficient < COEFFICIENT_END {
            coefficient
        } else {
            0
        };
        Decimal::Finite {
            negative,
            coefficient,
            exponent: biased as i32 + EXPONENT_MIN,
        }
    }

    /// Packs into the binary integer encoding.
    pub(crate) fn pack(self) -> Decimal128 {
        let sign = |negative: bool| u128::from(negative) << 127;
        let bits = match self {
            Decimal::Nan => 0x1f << 122,
            Decimal::Infinite { negative } => sign(negative) | (0x1e << 122),
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            } => sign(negative) | (((exponent - EXPONENT_MIN) as u128) << 113) | coefficient,
        };
        Decimal128::from_bytes(bits.to_le_bytes())
    }

    pub(crate) fn from_i64(v: i64) -> Decimal {
        Decimal::Finite {
            negative: v < 0,
            coefficient: u128::from(v.unsigned_abs()),
            exponent: 0,
        }
    }

    /// A double rounded to 15 significant digits, the way arithmetic between the two types takes it.
    pub(crate) fn from_f64(v: f64) -> Decimal {
        if v.is_nan() {
            return Decimal::Nan;
        }
        if v.is_infinite() {
            return Decimal::Infinite { negative: v < 0.0 };
        }
        let text = format!("{:.14e}", v.abs());
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let mut coefficient: u128 = mantissa
            .bytes()
            .filter(u8::is_ascii_digit)
            .fold(0, |n, d| n * 10 + u128::from(d - b'0'));
        let mut exponent = exponent.parse::<i32>().unwrap_or(0) - 14;
        while exponent < 0 && coefficient.is_multiple_of(10) {
            coefficient /= 10;
            exponent += 1;
        }
        Decimal::Finite {
            negative: v.is_sign_negative(),
            coefficient,
            exponent,
        }
    }

    /// The sum, rounded half to even to 34 digits.
    pub(crate) fn add(self, other: Decimal) -> Decimal {
        use Decimal::{Finite, Infinite, Nan};
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { negative: a }, Infinite { negative: b }) if a != b => Nan,
            (Infinite { .. }, _) => self,
            (_, Infinite { .. }) => other,
            (
                Finite {
                    negative: na,
                    coefficient: ca,
                    exponent: ea,
                },
                Finite {
                    negative: nb,
                    coefficient: cb,
                    exponent: eb,
                },
            ) => {
                let exponent = ea.min(eb);
                let a = Natural::from(ca).times_power_of_ten((ea - exponent) as u32);
                let b = Natural::from(cb).times_power_of_ten((eb - exponent) as u32);
                let (negative, sum) = match (na == nb, a.cmp(&b)) {
                    (true, _) => (na, a.plus(&b)),
                    (false, Ordering::Equal) => (false, Natural::default()),
                    (false, Ordering::Greater) => (na, a.minus(&b)),
                    (false, Ordering::Less) => (nb, b.minus(&a)),
                };
                rounded(negative, &sum.digits(), exponent)
            }
        }
    }

    /// The quotient, rounded half to even to 34 digits. By zero: infinite, or NaN for zero by zero.
    pub(crate) fn divide(self, other: Decimal) -> Decimal {
        use Decimal::{Finite, Infinite, Nan};
        match (self, other) {
            (Nan, _) | (_, Nan) | (Infinite { .. }, Infinite { .. }) => Nan,
            (Finite { coefficient: 0, .. }, Finite { coefficient: 0, .. }) => Nan,
            (Infinite { negative: a }, Finite { negative: b, .. }) => Infinite { negative: a != b },
            (
                Finite { negative: a, .. },
                Finite {
                    coefficient: 0,
                    negative: b,
                    ..
                },
            ) => Infinite { negative: a != b },
            (Finite { negative: a, .. }, Infinite { negative: b }) => Finite {
                negative: a != b,
                coefficient: 0,
                exponent: EXPONENT_MIN,
            },
            (
                Finite {
                    negative: na,
                    coefficient: ca,
                    exponent: ea,
                },
                Finite {
                    negative: nb,
                    coefficient: cb,
                    exponent: eb,
                },
            ) => {
                let mut digits = Natural::from(ca / cb).digits();
                let mut rest = ca % cb;
                let mut exponent = ea - eb;
                // Two digits more than fit, and one that tells whether anything followed: enough to round by.
                while rest != 0 && digits.len() < DIGITS as usize + 2 {
                    // Below 10^35, which 128 bits hold.
                    rest *= 10;
                    let digit = (rest / cb) as u8;
                    if digit != 0 || !digits.is_empty() {
                        digits.push(digit);
                    }
                    rest %= cb;
                    exponent -= 1;
                }
                if rest != 0 {
                    digits.push(1);
                    exponent -= 1;
                }
                rounded(na != nb, &digits, exponent)
            }
        }
    }

    /// What a division that rounds towards zero leaves, with the sign of `self`. By zero: NaN.
    pub(crate) fn remainder(self, other: Decimal) -> Decimal {
        use Decimal::{Finite, Infinite, Nan};
        match (self, other) {
            (Nan | Infinite { .. }, _) | (_, Nan) | (_, Finite { coefficient: 0, .. }) => Nan,
            (_, Infinite { .. }) => self,
            (
                Finite {
                    negative,
                    coefficient: ca,
                    exponent: ea,
                },
                Finite {
                    coefficient: cb,
                    exponent: eb,
                    ..
                },
            ) => {
                if ea < eb {
                    let scaled = 10u128
                        .checked_pow((eb - ea) as u32)
                        .and_then(|power| cb.checked_mul(power));
                    // A divisor over 128 bits is larger than any coefficient.
                    let coefficient = scaled.map_or(ca, |scaled| ca % scaled);
                    return Finite {
                        negative,
                        coefficient,
                        exponent: ea,
                    };
                }
                let mut rest = ca % cb;
                for _ in 0..ea - eb {
                    rest = rest * 10 % cb;
                    if rest == 0 {
                        break;
                    }
                }
                Finite {
                    negative,
                    coefficient: rest,
                    exponent: eb,
                }
            }
        }
    }

    /// The number with at most `places` digits after the point (before it, if negative).
    pub(crate) fn to_places(self, places: i32, rounding: Rounding) -> Decimal {
        let Decimal::Finite {
            negative,
            coefficient,
            exponent,
        } = self
        else {
            return self;
        };
        let drop = -places - exponent;
        if drop <= 0 {
            return self;
        }
        let (whole, part, half) = match 10u128.checked_pow(drop as u32) {
            Some(power) => (coefficient / power, coefficient % power, power / 2),
            None => (0, coefficient, u128::MAX),
        };
        let up = match rounding {
            Rounding::Down => false,
            Rounding::Floor => negative && part > 0,
            Rounding::Ceiling => !negative && part > 0,
            Rounding::HalfEven => part > half || (part == half && whole % 2 == 1),
        };
        Decimal::Finite {
            negative,
            coefficient: whole + u128::from(up),
            exponent: -places,
        }
    }

    /// The square root; NaN of a negative number. Right to the 33rd digit at least.
    pub(crate) fn square_root(self) -> Decimal {
        let Decimal::Finite {
            negative,
            coefficient,
            exponent,
        } = self
        else {
            return if self == (Decimal::Infinite { negative: true }) {
                Decimal::Nan
            } else {
                self
            };
        };
        if coefficient == 0 {
            return self;
        }
        if negative {
            return Decimal::Nan;
        }
        let shift = exponent.div_euclid(2);
        let reduced = Decimal::Finite {
            negative,
            coefficient,
            exponent: exponent - 2 * shift,
        };
        let half = Decimal::Finite {
            negative: false,
            coefficient: 5,
            exponent: -1,
        };
        let mut root = Decimal::from_f64(reduced.to_f64().sqrt());
        for _ in 0..3 {
            root = root.add(reduced.divide(root)).multiply(half);
        }
        match root {
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            } => {
                let (coefficient, exponent) = stripped(coefficient, exponent);
                Decimal::Finite {
                    negative,
                    coefficient,
                    exponent: exponent + shift,
                }
            }
            root => root,
        }
    }

    pub(crate) fn negated(self) -> Decimal {
        match self {
            Decimal::Nan => Decimal::Nan,
            Decimal::Infinite { negative } => Decimal::Infinite { negative: !negative },
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            } => Decimal::Finite {
                negative: !negative,
                coefficient,
                exponent,
            },
        }
    }

    pub(crate) fn is_negative(self) -> bool {
        matches!(
            self,
            Decimal::Infinite { negative: true } | Decimal::Finite { negative: true, .. }
        )
    }

    pub(crate) fn is_zero(self) -> bool {
        matches!(self, Decimal::Finite { coefficient: 0, .. })
    }

    /// The nearest double.
    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Decimal::Nan => f64::NAN,
            Decimal::Infinite { negative: true } => f64::NEG_INFINITY,
            Decimal::Infinite { negative: false } => f64::INFINITY,
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            } => {
                let magnitude: f64 = format!("{coefficient}e{exponent}").parse().unwrap_or(f64::NAN);
                if negative { -magnitude } else { magnitude }
            }
        }
    }

    /// The whole part, if it is a number of 64 bits.
    pub(crate) fn to_i64(self) -> Option<i64> {
        let Decimal::Finite {
            negative,
            coefficient,
            exponent,
        } = self.to_places(0, Rounding::Down)
        else {
            return None;
        };
        if coefficient == 0 {
            return Some(0);
        }
        let power = 10i128.checked_pow(u32::try_from(exponent).ok()?)?;
        let magnitude = i128::try_from(coefficient).ok()?.checked_mul(power)?;
        i64::try_from(if negative { -magnitude } else { magnitude }).ok()
    }

    /// The product, rounded half to even to 34 digits.
    pub(crate) fn multiply(self, other: Decimal) -> Decimal {
        use Decimal::{Finite, Infinite, Nan};
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { .. }, Finite { coefficient: 0, .. })
            | (Finite { coefficient: 0, .. }, Infinite { .. }) => Nan,
            (Infinite { negative: a }, Infinite { negative: b } | Finite { negative: b, .. })
            | (Finite { negative: a, .. }, Infinite { negative: b }) => Infinite { negative: a != b },
            (
                Finite {
                    negative: na,
                    coefficient: ca,
                    exponent: ea,
                },
                Finite {
                    negative: nb,
                    coefficient: cb,
                    exponent: eb,
                },
            ) => rounded(
                na != nb,
                &Natural::from(ca).times(&Natural::from(cb)).digits(),
                ea + eb,
            ),
        }
    }
}

/// Which of two neighbours a number becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// The one nearer to zero.
    Down,
    /// The smaller.
    Floor,
    /// The larger.
    Ceiling,
    /// The nearer, of two as near the even.
    HalfEven,
}

/// Without the zeros at the end.
fn stripped(mut coefficient: u128, mut exponent: i32) -> (u128, i32) {
    while exponent < 0 && coefficient != 0 && coefficient.is_multiple_of(10) {
        coefficient /= 10;
        exponent += 1;
    }
    (coefficient, exponent)
}

/// The decimal128 nearest to `±digits * 10^exponent`, ties to even; infinite above the range.
fn rounded(negative: bool, digits: &[u8], exponent: i32) -> Decimal {
    let below_range = usize::try_from(EXPONENT_MIN - exponent).unwrap_or(0);
    let drop = digits.len().saturating_sub(DIGITS as usize).max(below_range);
    let keep = digits.len().saturating_sub(drop);
    let mut coefficient = digits[..keep].iter().fold(0u128, |n, d| n * 10 + u128::from(*d));
    let mut exponent = exponent.saturating_add(drop as i32);
    if drop > 0 && drop <= digits.len() {
        let rest = &digits[keep..];
        let sticky = rest[1..].iter().any(|d| *d != 0);
        if rest[0] > 5 || (rest[0] == 5 && (sticky || coefficient % 2 == 1)) {
            coefficient += 1;
        }
    }
    if coefficient == COEFFICIENT_END {
        coefficient /= 10;
        exponent += 1;
    }
    if coefficient == 0 {
        exponent = exponent.clamp(EXPONENT_MIN, EXPONENT_MAX);
    }
    while exponent > EXPONENT_MAX && coefficient < COEFFICIENT_END / 10 {
        coefficient *= 10;
        exponent -= 1;
    }
    if exponent > EXPONENT_MAX {
        return Decimal::Infinite { negative };
    }
    Decimal::Finite {
        negative,
        coefficient,
        exponent,
    }
}

/// Where a number lies among all numbers of all types: first by the double next to it towards zero, then by the
/// exact decimal value if it is not that double. Equal numbers have equal places; NaN is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The double's bits, arranged so that their order as an integer is the order of doubles.
    pub(crate) head: u64,
    /// The exact magnitude of a number that is no double: exponent (biased) and 34 digits.
    pub(crate) rest: Option<(u16, u128)>,
}

impl Place {
    const SIGN: u64 = 1 << 63;
    const EXPONENT_BIAS: i32 = 7000;

    pub(crate) fn of_f64(v: f64) -> Place {
        let head = if v.is_nan() {
            0
        } else if v == 0.0 {
            Self::SIGN
        } else if v < 0.0 {
            !v.to_bits()
        } else {
            v.to_bits() | Self::SIGN
        };
        Place { head, rest: None }
    }

    pub(crate) fn of_i64(v: i64) -> Place {
        Self::of_parts(v < 0, u128::from(v.unsigned_abs()), 0)
    }

    pub(crate) fn of_decimal(v: Decimal) -> Place {
        match v {
            Decimal::Nan => Self::of_f64(f64::NAN),
            Decimal::Infinite { negative: true } => Self::of_f64(f64::NEG_INFINITY),
            Decimal::Infinite { negative: false } => Self::of_f64(f64::INFINITY),
            Decimal::Finite { coefficient: 0, .. } => Self::of_f64(0.0),
            Decimal::Finite {
                negative,
                coefficient,
                exponent,
            } => Self::of_parts(negative, coefficient, exponent),
        }
    }

    /// Whether larger magnitudes come first (also said of NaN, which has none).
    pub(crate) fn is_negative(self) -> bool {
        self.head & Self::SIGN == 0
    }

    fn of_parts(negative: bool, mut coefficient: u128, mut exponent: i32) -> Place {
        if coefficient == 0 {
            return Self::of_f64(0.0);
        }
        while exponent != 0 && coefficient.is_multiple_of(10) {
            coefficient /= 10;
            exponent += 1;
        }
        let (double, exact) = double_towards_zero(coefficient, exponent);
        let rest = (!exact).then(|| {
            let digits = coefficient.ilog10() + 1;
            let scaled = coefficient * 10u128.pow(DIGITS - digits);
            ((exponent + digits as i32 + Self::EXPONENT_BIAS) as u16, scaled)
        });
        let bits = double.to_bits() | Self::SIGN;
        Place {
            head: if negative { !bits } else { bits },
            rest,
        }
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = self.rest.cmp(&other.rest);
        self.head
            .cmp(&other.head)
            .then(if self.is_negative() { rest.reverse() } else { rest })
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The largest finite double not above `coefficient * 10^exponent`, and whether it is that number.
fn double_towards_zero(coefficient: u128, exponent: i32) -> (f64, bool) {
    let integer = u32::try_from(exponent)
        .ok()
        .and_then(|e| 10u128.checked_pow(e))
        .and_then(|power| coefficient.checked_mul(power))
        .filter(|v| *v < 1 << 120);
    let (nearest, order) = if let Some(integer) = integer {
        let nearest = integer as f64;
        (nearest, (nearest as u128).cmp(&integer))
    } else {
        let nearest: f64 = format!("{coefficient}e{exponent}")
            .parse()
            .unwrap_or(f64::INFINITY);
        if nearest.is_infinite() {
            return (f64::MAX, false);
        }
        (nearest, compare_double(nearest, coefficient, exponent))
    };
    match order {
        Ordering::Less => (nearest, false),
        Ordering::Equal => (nearest, true),
        Ordering::Greater => (nearest.next_down(), false),
    }
}

/// Compares a double, finite and not negative, with `coefficient * 10^exponent`, exactly.
fn compare_double(double: f64, coefficient: u128, exponent: i32) -> Ordering {
    if double == 0.0 {
        return 0.cmp(&coefficient);
    }
    let bits = double.to_bits();
    let (fraction, field) = (bits & ((1 << 52) - 1), (bits >> 52) as i32);
    let (significand, power) = if field == 0 {
        (fraction, -1074)
    } else {
        (fraction | 1 << 52, field - 1075)
    };
    let left = Natural::from(u128::from(significand))
        .shifted(u32::try_from(power).unwrap_or(0))
        .times_power_of_ten(u32::try_from(-exponent).unwrap_or(0));
    let right = Natural::from(coefficient)
        .shifted(u32::try_from(-power).unwrap_or(0))
        .times_power_of_ten(u32::try_from(exponent).unwrap_or(0));
    left.cmp(&right)
}

/// A natural number of any size: little-endian words, the last not zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Natural(Vec<u32>);

impl From<u128> for Natural {
    fn from(mut v: u128) -> Self {
        let mut words = Vec::with_capacity(4);
        while v != 0 {
            words.push(v as u32);
            v >>= 32;
        }
        Natural(words)
    }
}

impl Natural {
    fn times_small(mut self, factor: u32) -> Self {
        let mut carry = 0u64;
        for word in &mut self.0 {
            let product = u64::from(*word) * u64::from(factor) + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
        self
    }

    fn times_power_of_ten(mut self, mut power: u32) -> Self {
        while power >= 9 && !self.0.is_empty() {
            self = self.times_small(1_000_000_000);
            power -= 9;
        }
        if self.0.is_empty() {
            self
        } else {
            self.times_small(10u32.pow(power))
        }
    }

    fn shifted(mut self, bits: u32) -> Self {
        if self.0.is_empty() {
            return self;
        }
        self = self
            .times_small(1 << (bits % 32 / 2))
            .times_small(1 << (bits % 32).div_ceil(2));
        let mut words = vec![0; bits as usize / 32];
        words.append(&mut self.0);
        Natural(words)
    }

    fn times(&self, other: &Natural) -> Self {
        let mut words = vec![0u32; self.0.len() + other.0.len()];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in other.0.iter().enumerate() {
                let sum = u64::from(*a) * u64::from(*b) + u64::from(words[i + j]) + carry;
                words[i + j] = sum as u32;
                carry = sum >> 32;
            }
            words[i + other.0.len()] = carry as u32;
        }
        Natural(words).trimmed()
    }

    fn plus(&self, other: &Natural) -> Self {
        let mut words = Vec::with_capacity(self.0.len().max(other.0.len()) + 1);
        let mut carry = 0u64;
        for i in 0..self.0.len().max(other.0.len()) {
            let word = |n: &Natural| u64::from(n.0.get(i).copied().unwrap_or(0));
            let sum = word(self) + word(other) + carry;
            words.push(sum as u32);
            carry = sum >> 32;
        }
        words.push(carry as u32);
        Natural(words).trimmed()
    }

    /// The difference; `other` is not larger.
    fn minus(&self, other: &Natural) -> Self {
        let mut words = Vec::with_capacity(self.0.len());
        let mut borrow = 0i64;
        for (i, word) in self.0.iter().enumerate() {
            let difference = i64::from(*word) - i64::from(other.0.get(i).copied().unwrap_or(0)) - borrow;
            borrow = i64::from(difference < 0);
            words.push(difference as u32);
        }
        Natural(words).trimmed()
    }

    /// Decimal digits, most significant first; none for zero.
    fn digits(&self) -> Vec<u8> {
        let mut words = self.0.clone();
        let mut digits = Vec::with_capacity(words.len() * 10);
        while !words.is_empty() {
            let mut remainder = 0u64;
            for word in words.iter_mut().rev() {
                let value = remainder << 32 | u64::from(*word);
                *word = (value / 1_000_000_000) as u32;
                remainder = value % 1_000_000_000;
            }
            while words.last() == Some(&0) {
                words.pop();
            }
            for _ in 0..9 {
                digits.push((remainder % 10) as u8);
                remainder /= 10;
            }
        }
        while digits.last() == Some(&0) {
            digits.pop();
        }
        digits.reverse();
        digits
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0
            .len()
            .cmp(&other.0.len())
            .then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::unpack(text.parse().unwrap())
    }

    fn text(v: Decimal) -> String {
        v.pack().to_string()
    }

    #[test]
    fn packs_what_it_unpacked() {
        for t in [
            "0",
            "-0",
            "1",
            "-1.50",
            "9999999999999999999999999999999999E+6111",
            "1E-6176",
            "Infinity",
        ] {
            let packed: Decimal128 = t.parse().unwrap();
            assert_eq!(Decimal::unpack(packed).pack(), packed, "{t}");
        }
        assert_eq!(decimal("NaN"), Decimal::Nan);
    }

    #[test]
    fn adds_and_multiplies_with_rounding() {
        let add =
            |a: &str, b: &str, sum: &str| assert_eq!(text(decimal(a).add(decimal(b))), sum, "{a} + {b}");
        add("0.1", "0.2", "0.3");
        add("1.10", "-0.1", "1.00");
        add("1", "-1", "0");
        add(
            "9999999999999999999999999999999999",
            "1",
            "1.000000000000000000000000000000000E+34",
        );
        add("1E+40", "1", "1.000000000000000000000000000000000E+40");
        add("1E+6000", "-1E-6000", "1.000000000000000000000000000000000E+6000");
        add("9999999999999999999999999999999999E+6111", "9E+6111", "Infinity");
        add("Infinity", "-Infinity", "NaN");
        let multiply =
            |a: &str, b: &str, p: &str| assert_eq!(text(decimal(a).multiply(decimal(b))), p, "{a} * {b}");
        multiply("1.5", "-2", "-3.0");
        multiply(
            "3333333333333333333333333333333333",
            "3",
            "9999999999999999999999999999999999",
        );
        multiply("1E-6000", "1E-6000", "0E-6176");
        multiply("1E+6000", "1E+6000", "Infinity");
        multiply("Infinity", "0", "NaN");
        assert_eq!(text(Decimal::from_f64(0.1).add(Decimal::from_i64(1))), "1.1");
        assert_eq!(text(Decimal::from_f64(1e22)), "1.00000000000000E+22");
    }

    #[test]
    fn places_numbers_exactly() {
        let ascending = [
            Place::of_f64(f64::NAN),
            Place::of_f64(f64::NEG_INFINITY),
            Place::of_decimal(decimal("-1E+400")),
            Place::of_f64(f64::MIN),
            Place::of_i64(i64::MIN),
            Place::of_decimal(decimal("-0.1000000000000000055511151231257828")),
            Place::of_f64(-0.1),
            Place::of_decimal(decimal("-0.1")),
            Place::of_f64(-f64::MIN_POSITIVE),
            Place::of_decimal(decimal("-1E-6000")),
            Place::of_f64(-0.0),
            Place::of_decimal(decimal("1E-6000")),
            Place::of_decimal(decimal("0.1")),
            Place::of_f64(0.1),
            Place::of_decimal(decimal("0.1000000000000000055511151231257828")),
            Place::of_decimal(decimal("0.3")),
            Place::of_decimal(decimal("0.5")),
            Place::of_f64(9007199254740992.0),
            Place::of_decimal(decimal("9007199254740992.5")),
            Place::of_i64(9007199254740993),
            Place::of_f64(9007199254740994.0),
            Place::of_i64(i64::MAX),
            Place::of_f64(9223372036854775808.0),
            Place::of_f64(f64::MAX),
            Place::of_decimal(decimal("1E+400")),
            Place::of_decimal(decimal("2E+400")),
            Place::of_f64(f64::INFINITY),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{i} {j}");
            }
        }
        assert_eq!(Place::of_f64(0.5), Place::of_decimal(decimal("0.50")));
        assert_eq!(Place::of_f64(42.0), Place::of_decimal(decimal("4.2E+1")));
        assert_eq!(Place::of_i64(42), Place::of_f64(42.0));
        assert_eq!(Place::of_f64(0.0), Place::of_decimal(decimal("-0E+10")));
        assert_eq!(
            Place::of_i64(9007199254740993),
            Place::of_decimal(decimal("9007199254740993.0"))
        );
        assert_eq!(
            Place::of_decimal(decimal("1E+30")),
            Place::of_decimal(decimal("1000000000000000000000000000000"))
        );
    }
}
