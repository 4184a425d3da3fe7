//! Exact decimal numbers: what BSON's decimal128 holds, its arithmetic with IEEE rounding, and exact comparison
//! with binary doubles.
