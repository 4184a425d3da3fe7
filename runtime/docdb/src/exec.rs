//! Running a plan.
#[derive(Debug)]
pub(crate) struct CursorState;
