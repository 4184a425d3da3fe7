//! The trace that an invocation belongs to (W3C Trace Context): taken from the request that made it, passed on as it is with
//! the requests that it sends. The host adds no span of its own.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longest `tracestate` that is passed on, in bytes; the standard's own minimum.
const STATE_BYTES_MAX: usize = 512;

/// A trace, or none.
#[derive(Debug, Clone, Default)]
pub struct TraceContext(Option<Box<(HeaderValue, Option<HeaderValue>)>>);

impl TraceContext {
    /// The trace that a request's headers name; none when there is none, more than one, or what is there is malformed.
    pub fn of(headers: &HeaderMap) -> Self {
        let one = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        let Some(parent) = one(&TRACEPARENT).filter(|parent| is_parent(parent.as_bytes())) else {
            return Self(None);
        };
        let state = one(&TRACESTATE).filter(|state| state.len() <= STATE_BYTES_MAX);
        Self(Some(Box::new((parent.clone(), state.cloned()))))
    }

    /// Adds it to a request that names no trace itself.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        let Some((parent, state)) = self.0.as_deref() else {
            return;
        };
        if headers.contains_key(TRACEPARENT) {
            return;
        }
        headers.insert(TRACEPARENT, parent.clone());
        headers.remove(TRACESTATE);
        if let Some(state) = state {
            headers.insert(TRACESTATE, state.clone());
        }
    }
}

/// `00-TRACE-SPAN-FLAGS` in lower-case hex, neither id all zero; later versions may have more after that.
fn is_parent(text: &[u8]) -> bool {
    let hex = |from: usize, to: usize| {
        text[from..to]
            .iter()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |from: usize, to: usize| text[from..to].iter().any(|b| *b != b'0');
    text.len() >= 55
        && (text.len() == 55 || (!text.starts_with(b"00") && text[55] == b'-'))
        && [2, 35, 52].iter().all(|at| text[*at] == b'-')
        && hex(0, 2)
        && hex(3, 35)
        && hex(36, 52)
        && hex(53, 55)
        && !text.starts_with(b"ff")
        && some(3, 35)
        && some(36, 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn malformed_parents_are_none() {
        for good in [
            PARENT,
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(is_parent(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_parent(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_requests_own_trace_stays() {
        let mut incoming = HeaderMap::new();
        incoming.insert(TRACEPARENT, HeaderValue::from_static(PARENT));
        incoming.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let trace = TraceContext::of(&incoming);
        let mut plain = HeaderMap::new();
        trace.pass_on(&mut plain);
        assert_eq!(plain, incoming);
        let mut own = HeaderMap::new();
        own.insert(TRACEPARENT, HeaderValue::from_static("mine"));
        trace.pass_on(&mut own);
        assert_eq!(own.len(), 1);
        incoming.append(TRACEPARENT, HeaderValue::from_static(PARENT));
        let mut none = HeaderMap::new();
        TraceContext::of(&incoming).pass_on(&mut none);
        assert!(none.is_empty());
    }
}
