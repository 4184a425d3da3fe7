//! The command line.

/// Parses the arguments and runs the command.
pub(crate) fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
