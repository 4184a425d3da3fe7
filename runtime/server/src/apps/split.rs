//! Which deployment serves a visitor of an app whose requests are split: a pure choice, equal for equal visitors for
//! as long as the split lasts. Growing a share moves visitors to it and none between the others. Who a visitor is,
//! front/version.rs says.

use super::records::{Share, SplitRecord};

/// Deployments beside the active one.
pub(crate) const CANDIDATES_MAX: usize = 4;

/// The place in `percents` of the candidate that serves a visitor; `None` is the active deployment.
pub(crate) fn choose(seed: i64, visitor: u64, percents: impl IntoIterator<Item = u8>) -> Option<usize> {
    let point = point(seed, visitor);
    let mut end = 0;
    percents.into_iter().position(|percent| {
        end += u32::from(percent);
        point < end
    })
}

/// 0 to 99, evenly.
fn point(seed: i64, visitor: u64) -> u32 {
    // Visitors choose their cookies, so nothing depends on this but the evenness.
    let mixed = mix(visitor ^ mix(seed.unsigned_abs()));
    ((u128::from(mixed) * 100) >> 64) as u32
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The split that a request for shares means, checked. Shares may leave out the active deployment, which then has
/// the rest, or name it with what makes 100 together. `before` is the split that they change, `latest` the highest
/// number of a deployment.
///
/// # Errors
/// What is wrong with the shares, and what to write.
pub(crate) fn split(
    shares: &[Share],
    active: i64,
    latest: i64,
    before: Option<&SplitRecord>,
) -> Result<Option<SplitRecord>, String> {
    let mut numbers: Vec<i64> = shares.iter().map(|share| share.deployment).collect();
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.len() < shares.len() {
        return Err("a deployment is named twice".to_owned());
    }
    let sum: u32 = shares.iter().map(|share| u32::from(share.percent)).sum();
    let named = shares.iter().find(|share| share.deployment == active);
    let mut candidates: Vec<Share> = shares
        .iter()
        .filter(|share| share.deployment != active && share.percent > 0)
        .copied()
        .collect();
    if candidates.len() > CANDIDATES_MAX {
        return Err(format!(
            "{} deployments beside the active one, over the limit of {CANDIDATES_MAX}",
            candidates.len()
        ));
    }
    match named {
        Some(_) if sum != 100 => {
            return Err(format!("the shares make {sum} percent together instead of 100"));
        }
        Some(active) if active.percent == 0 => {
            return Err(format!(
                "deployment {}, the active one, would serve nothing; promote another instead",
                active.deployment
            ));
        }
        None if sum > 99 => {
            return Err(format!(
                "the shares make {sum} percent together, which leaves nothing to deployment {active}, the active \
                 one; promote one instead"
            ));
        }
        _ => {}
    }
    if candidates.is_empty() {
        return Ok(None);
    }
    candidates.sort_by_key(|share| std::cmp::Reverse(share.deployment));
    Ok(Some(SplitRecord {
        seed: before.map_or(latest, |before| before.seed),
        shares: candidates,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISITORS: u64 = 100_000;

    fn share(deployment: i64, percent: u8) -> Share {
        Share { deployment, percent }
    }

    /// Visitors of the active deployment and of each candidate.
    fn counts(seed: i64, percents: &[u8], visitors: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut counts = vec![0; percents.len() + 1];
        for visitor in visitors {
            counts[choose(seed, visitor, percents.iter().copied()).map_or(0, |at| at + 1)] += 1;
        }
        counts
    }

    #[test]
    fn the_parts_are_what_was_asked_for() {
        // Whatever visitors' numbers are like: one after another, far apart, random.
        let kinds: [fn(u64) -> u64; 3] = [|n| n, |n| n << 40, |n| mix(n ^ 0x5eed)];
        for seed in [0, 1, 2, 77, i64::MAX] {
            for percents in [&[10][..], &[1], &[50], &[99], &[20, 30], &[1, 2, 3, 4]] {
                for kind in kinds {
                    let counts = counts(seed, percents, (0..VISITORS).map(kind));
                    for (at, percent) in percents.iter().enumerate() {
                        // Five standard deviations of a binomial distribution.
                        let (n, p) = (VISITORS as f64, f64::from(*percent) / 100.0);
                        let off = (counts[at + 1] as f64 - n * p).abs();
                        assert!(
                            off < 5.0 * (n * p * (1.0 - p)).sqrt(),
                            "{seed} {percents:?} {counts:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_visitor_stays() {
        for visitor in (0..VISITORS).map(mix) {
            let of = |seed, percents: &[u8]| choose(seed, visitor, percents.iter().copied());
            assert_eq!(of(3, &[10]), of(3, &[10]));
            // Growing moves visitors to the candidate and none back.
            if of(3, &[10]).is_some() {
                assert_eq!(of(3, &[25]), Some(0));
                assert_eq!(of(3, &[99]), Some(0));
            }
            assert_eq!(of(3, &[]), None);
        }
        // Another rollout has other first visitors.
        let both = (0..VISITORS)
            .map(mix)
            .filter(|visitor| choose(1, *visitor, [10]).is_some() && choose(2, *visitor, [10]).is_some())
            .count() as f64;
        assert!((0.008..0.012).contains(&(both / VISITORS as f64)), "{both}");
    }

    #[test]
    fn shares_are_checked() {
        let check = |shares: &[Share], expected: Result<&[Share], &str>| {
            let found = split(shares, 5, 9, None);
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.map_or(Vec::new(), |split| split.shares), expected);
                }
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, expected) => panic!("{shares:?}: {found:?} instead of {expected:?}"),
            }
        };
        check(&[], Ok(&[]));
        check(&[share(6, 10)], Ok(&[share(6, 10)]));
        check(&[share(6, 10), share(7, 20)], Ok(&[share(7, 20), share(6, 10)]));
        check(&[share(5, 90), share(6, 10)], Ok(&[share(6, 10)]));
        check(&[share(5, 100)], Ok(&[]));
        check(&[share(6, 0)], Ok(&[]));
        check(&[share(6, 10), share(6, 10)], Err("named twice"));
        check(&[share(5, 80), share(6, 10)], Err("90 percent"));
        check(&[share(5, 0), share(6, 100)], Err("promote"));
        check(&[share(6, 100)], Err("promote one"));
        check(&[share(6, 200)], Err("200 percent"));
        let many: Vec<Share> = (6..11).map(|number| share(number, 1)).collect();
        check(&many, Err("limit of 4"));
    }

    #[test]
    fn the_seed_lasts_as_long_as_the_split() {
        let first = split(&[share(6, 10)], 5, 6, None).unwrap().unwrap();
        assert_eq!(first.seed, 6);
        let grown = split(&[share(6, 50)], 5, 8, Some(&first)).unwrap().unwrap();
        assert_eq!(grown.seed, 6);
    }
}
