//! Shapes on a plane: `$box`, `$center` and `$polygon`, which take longitudes and latitudes for x and y. They hold points
//! alone, and `2d` indexes serve them.

use bson::RawBsonRef;

use super::parse::{VERTICES_MAX, number, pair, quote};
use crate::value::{elements, fields};

/// A shape with its edges.
#[derive(Debug, Clone)]
pub(super) enum Flat {
    Box {
        low: (f64, f64),
        high: (f64, f64),
    },
    Circle {
        center: (f64, f64),
        radius: f64,
    },
    /// At least three corners; the last is joined to the first.
    Polygon(Vec<(f64, f64)>),
}

impl Flat {
    /// The shape that an operator's argument is.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(operator: &str, v: RawBsonRef<'_>) -> Result<Self, String> {
        match operator {
            "$box" => {
                let [(x1, y1), (x2, y2)] = corners(operator, v)?[..] else {
                    return Err(format!("$box takes two corners, found {}", quote(v)));
                };
                Ok(Self::Box {
                    low: (x1.min(x2), y1.min(y2)),
                    high: (x1.max(x2), y1.max(y2)),
                })
            }
            "$polygon" => {
                let corners = corners(operator, v)?;
                if corners.len() < 3 {
                    return Err("Polygon must have at least 3 points".to_owned());
                }
                Ok(Self::Polygon(corners))
            }
            _ => {
                let (center, radius) = circle(operator, v)?;
                let center = pair(center).ok_or_else(|| format!("{operator} has no center: {}", quote(v)))?;
                Ok(Self::Circle { center, radius })
            }
        }
    }

    /// The largest of the numbers that it is made of.
    pub(super) fn reach(&self) -> f64 {
        let most = |numbers: &[f64]| {
            numbers
                .iter()
                .fold(0.0_f64, |most, number| most.max(number.abs()))
        };
        match self {
            Self::Box { low, high } => most(&[low.0, low.1, high.0, high.1]),
            Self::Circle { center, radius } => most(&[center.0, center.1]) + radius,
            Self::Polygon(corners) => corners.iter().fold(0.0, |reach, (x, y)| most(&[reach, *x, *y])),
        }
    }

    /// Whether a point is in it or on its edge.
    pub(super) fn contains(&self, (x, y): (f64, f64)) -> bool {
        match self {
            Self::Box { low, high } => (low.0..=high.0).contains(&x) && (low.1..=high.1).contains(&y),
            Self::Circle { center, radius } => libm::hypot(x - center.0, y - center.1) <= *radius,
            Self::Polygon(corners) => {
                let mut inside = false;
                let Some(mut last) = corners.last().copied() else {
                    return false;
                };
                for corner in corners.iter().copied() {
                    let ((x1, y1), (x2, y2)) = (last, corner);
                    let beside = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1);
                    let within =
                        (x1.min(x2)..=x1.max(x2)).contains(&x) && (y1.min(y2)..=y1.max(y2)).contains(&y);
                    if within && beside == 0.0 {
                        return true;
                    }
                    // A ray to the right crosses the edge.
                    if (y1 > y) != (y2 > y) && (beside > 0.0) == (y2 > y1) {
                        inside = !inside;
                    }
                    last = corner;
                }
                inside
            }
        }
    }
}

/// The center and radius of a circle, `[center, radius]`.
pub(super) fn circle<'v>(operator: &str, v: RawBsonRef<'v>) -> Result<(RawBsonRef<'v>, f64), String> {
    let parts: Vec<RawBsonRef<'v>> = match v {
        RawBsonRef::Array(array) => elements(array).collect(),
        RawBsonRef::Document(document) => fields(document).map(|(_, v)| v).collect(),
        _ => Vec::new(),
    };
    let [center, radius] = parts[..] else {
        return Err(format!(
            "{operator} takes a center and a radius, found {}",
            quote(v)
        ));
    };
    let radius = number(radius).filter(|radius| *radius >= 0.0 && radius.is_finite());
    let radius = radius.ok_or_else(|| format!("radius must be a non-negative number: {}", quote(v)))?;
    Ok((center, radius))
}

fn corners(operator: &str, v: RawBsonRef<'_>) -> Result<Vec<(f64, f64)>, String> {
    let all: Vec<RawBsonRef<'_>> = match v {
        RawBsonRef::Array(array) => elements(array).collect(),
        RawBsonRef::Document(document) => fields(document).map(|(_, v)| v).collect(),
        _ => return Err(format!("{operator} takes an array of points, found {}", quote(v))),
    };
    if all.len() > VERTICES_MAX {
        return Err(format!(
            "{operator} has {} corners, and at most {VERTICES_MAX} are allowed",
            all.len()
        ));
    }
    let corner = |v: RawBsonRef<'_>| {
        pair(v)
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .ok_or_else(|| format!("Point must only contain numeric elements, found {}", quote(v)))
    };
    all.into_iter().map(corner).collect()
}
