//! Entity tags, byte ranges, conditional requests: RFC 9110 sections 8.8, 13 and 14 as pure functions.
