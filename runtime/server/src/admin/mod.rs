//! The admin API: what the command line and the console use.
