//! Counting tests: what `cargo test` says at the end of each test binary, summed.

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// What one line of output adds. Only the closing line of a test binary adds anything:
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
    pub(crate) fn of_line(line: &str) -> Tally {
        let mut tally = Tally::default();
        let Some((_, counts)) = line
            .trim()
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return tally;
        };
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            if let (Some(Ok(number)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next()) {
                match kind {
                    "passed" => tally.passed += number,
                    "failed" => tally.failed += number,
                    "ignored" => tally.skipped += number,
                    _ => {}
                }
            }
        }
        tally
    }

    /// Adds another tally.
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn only_closing_lines_count() {
        let check = |line: &str, passed, failed, skipped| {
            assert_eq!(
                Tally::of_line(line),
                Tally {
                    passed,
                    failed,
                    skipped
                },
                "{line}"
            );
        };
        check(
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            5,
            0,
            1,
        );
        check(
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s",
            3,
            2,
            0,
        );
        check("test a_test ... ok", 0, 0, 0);
        check("running 5 tests", 0, 0, 0);
        check("it printed test result: ok. 5 passed", 0, 0, 0);
        check("", 0, 0, 0);
    }

    #[test]
    fn a_sum_reads_as_the_plain_closing_line() {
        let mut sum = Tally {
            passed: 1,
            failed: 0,
            skipped: 2,
        };
        sum.add(Tally {
            passed: 3,
            failed: 1,
            skipped: 0,
        });
        assert_eq!(sum.to_string(), "4 passed, 1 failed, 2 skipped");
    }
}
