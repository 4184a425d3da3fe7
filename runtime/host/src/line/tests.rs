//! Who gets a permit when.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::admit::Gate;

const LONG: Duration = Duration::from_secs(10);

fn app(name: &str) -> AppId {
    name.parse().unwrap()
}

fn gates(function: &Gate, node: &Gate) -> Gates {
    Gates {
        function: function.clone(),
        app: Gate::new(100),
        node: node.clone(),
    }
}

fn now<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn without_time_to_wait_it_refuses_at_once_and_with_time_after_that_time() {
    let line = Line::new(10);
    let (function, node) = (Gate::new(1), Gate::new(10));
    let gates = gates(&function, &node);
    let held = line.admit(&app("a"), &gates, Duration::ZERO).await.unwrap();
    let full = Full {
        scope: Scope::Function,
        limit: 1,
    };
    let began = tokio::time::Instant::now();
    assert_eq!(
        line.admit(&app("a"), &gates, Duration::ZERO).await.err(),
        Some(full)
    );
    let time = Duration::from_millis(20);
    assert_eq!(line.admit(&app("a"), &gates, time).await.err(), Some(full));
    assert!(began.elapsed() >= time);
    assert_eq!(line.waiting(), 0);
    drop(held);
    assert!(line.admit(&app("a"), &gates, Duration::ZERO).await.is_ok());
}

#[tokio::test]
async fn those_who_wait_are_served_in_their_order_and_nobody_overtakes() {
    let line = Line::new(10);
    let (function, node) = (Gate::new(1), Gate::new(10));
    let gates = gates(&function, &node);
    let id = app("a");
    let held = line.admit(&id, &gates, LONG).await.unwrap();
    let mut first = pin!(line.admit(&id, &gates, LONG));
    assert!(now(first.as_mut()).is_pending());
    let mut second = pin!(line.admit(&id, &gates, LONG));
    assert!(now(second.as_mut()).is_pending());
    drop(held);
    assert!(now(second.as_mut()).is_pending());
    let Poll::Ready(Ok(held)) = now(first.as_mut()) else {
        panic!("the permit was given back");
    };
    let mut third = pin!(line.admit(&id, &gates, LONG));
    assert!(now(third.as_mut()).is_pending());
    drop(held);
    assert!(now(third.as_mut()).is_pending());
    assert!(now(second.as_mut()).is_ready());
}

#[tokio::test]
async fn who_goes_away_leaves_the_line_and_what_was_on_its_way_goes_to_the_next() {
    let line = Line::new(10);
    let (function, node) = (Gate::new(1), Gate::new(10));
    let gates = gates(&function, &node);
    let id = app("a");
    let held = line.admit(&id, &gates, LONG).await.unwrap();
    let mut gone: Vec<_> = (0..3).map(|_| Box::pin(line.admit(&id, &gates, LONG))).collect();
    for waiting in &mut gone {
        assert!(now(waiting.as_mut()).is_pending());
    }
    assert_eq!(line.waiting(), 3);
    drop(gone.remove(1));
    assert_eq!(line.waiting(), 2);
    drop(held);
    // The first has been given the permit and never looks.
    assert_eq!((line.waiting(), function.permits.taken()), (1, 1));
    drop(gone.remove(0));
    assert!(now(gone[0].as_mut()).is_ready());
    drop(gone);
    assert_eq!(
        (line.waiting(), function.permits.taken(), node.permits.taken()),
        (0, 0, 0)
    );
    assert!(line.lock().ring.is_empty());
}

#[tokio::test]
async fn apps_take_turns_however_many_of_one_wait() {
    let line = Line::new(100);
    let node = Gate::new(1);
    let (loud, quiet) = (gates(&Gate::new(50), &node), gates(&Gate::new(50), &node));
    let held = line.admit(&app("loud"), &loud, LONG).await.unwrap();
    let (loud_id, quiet_id) = (app("loud"), app("quiet"));
    let mut crowd: Vec<_> = (0..20)
        .map(|_| Box::pin(line.admit(&loud_id, &loud, LONG)))
        .collect();
    for waiting in &mut crowd {
        assert!(now(waiting.as_mut()).is_pending());
    }
    let mut one = pin!(line.admit(&quiet_id, &quiet, LONG));
    assert!(now(one.as_mut()).is_pending());
    // One of the crowd was there first; then it is the other app's turn.
    drop(held);
    assert!(now(one.as_mut()).is_pending());
    let Poll::Ready(Ok(held)) = now(crowd[0].as_mut()) else {
        panic!("the first was there first");
    };
    drop(held);
    assert!(now(one.as_mut()).is_ready());
}

#[tokio::test]
async fn a_function_at_its_limit_keeps_nobody_else_waiting() {
    let line = Line::new(100);
    let node = Gate::new(3);
    let (busy, free) = (gates(&Gate::new(1), &node), gates(&Gate::new(5), &node));
    let id = app("a");
    let _held = line.admit(&id, &busy, LONG).await.unwrap();
    let mut stuck = pin!(line.admit(&id, &busy, LONG));
    assert!(now(stuck.as_mut()).is_pending());
    let other = line.admit(&id, &free, LONG).await.unwrap();
    let _more = line.admit(&app("b"), &free, LONG).await.unwrap();
    // Now the node is full, too: who comes waits for it, and not behind the function at its limit.
    let mut next = pin!(line.admit(&id, &free, LONG));
    assert!(now(next.as_mut()).is_pending());
    drop(other);
    assert!(now(next.as_mut()).is_ready());
    assert!(now(stuck.as_mut()).is_pending());
}

#[tokio::test]
async fn the_line_has_an_end_and_an_app_has_a_part_of_it() {
    let line = Line::new(8);
    let node = Gate::new(1);
    let gates = gates(&Gate::new(50), &node);
    let _held = line.admit(&app("a"), &gates, LONG).await.unwrap();
    let apps = ["a", "b", "c", "d", "e"].map(app);
    let mut waiting = Vec::new();
    for id in &apps[..4] {
        for _ in 0..2 {
            let mut one = Box::pin(line.admit(id, &gates, LONG));
            assert!(now(one.as_mut()).is_pending());
            waiting.push(one);
        }
        let full = line.admit(id, &gates, LONG).await.unwrap_err();
        assert_eq!(
            full,
            Full {
                scope: Scope::Queue,
                limit: 2
            }
        );
    }
    let full = line.admit(&apps[4], &gates, LONG).await.unwrap_err();
    assert_eq!(
        full,
        Full {
            scope: Scope::Queue,
            limit: 8
        }
    );
}

/// Threads that take, wait, give up and give back at random end with everything given back and nobody in the line.
#[test]
fn nothing_is_lost_between_threads() {
    let line = Line::new(1000);
    let node = Gate::new(3);
    let functions = [Gate::new(2), Gate::new(2), Gate::new(1)];
    std::thread::scope(|scope| {
        for number in 0..4_u64 {
            let (line, node, functions) = (&line, &node, &functions);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let tasks = (0..8_u64).map(|task| async move {
                        let gates = gates(&functions[(task % 3) as usize], node);
                        let id = app(["a", "b"][(task % 2) as usize]);
                        for round in 0..200_u64 {
                            let patience = (number * 7 + task * 5 + round * 3) % 11;
                            let admitted = line.admit(&id, &gates, Duration::from_micros(patience * 100));
                            if let Ok(admitted) = admitted.await {
                                tokio::task::yield_now().await;
                                drop(admitted);
                            }
                        }
                    });
                    futures_util::future::join_all(tasks).await;
                });
            });
        }
    });
    assert_eq!((line.waiting(), node.permits.taken()), (0, 0));
    assert!(functions.iter().all(|function| function.permits.taken() == 0));
    assert!(line.lock().ring.is_empty());
}
