//! The queue's record: what each push pays twice on its way. `cargo bench --bench record`; a budget that is missed ends it
//! with an error. Budgets are four to seven times what a busy virtual machine of two cores needed: they catch a lost order of
//! magnitude, no more.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytestring::ByteString;
use criterion::{Criterion, Throughput};
use oxipush::internals::{
    push::{Push, PushId, Target},
    queue::record::{Record, decode, encode},
};

fn push(cards: usize, content: usize) -> Push {
    Push {
        id: PushId::generate(),
        from: ByteString::from_static("orders"),
        target: Target {
            cards: (0..cards).map(|n| format!("card-{n:06}").into()).collect(),
            app: Some(ByteString::from_static("web")),
            ..Target::default()
        },
        content: "x".repeat(content).into(),
        collapse_key: None,
        deadline: None,
    }
}

/// The best of a few runs, so that a busy machine does not fail it.
fn budget(name: &str, most: Duration, mut work: impl FnMut()) {
    const TIMES: u32 = 2000;
    let run = |work: &mut dyn FnMut()| {
        let since = Instant::now();
        (0..TIMES).for_each(|_| work());
        since.elapsed() / TIMES
    };
    let best = (0..20).map(|_| run(&mut work)).min().unwrap_or_default();
    assert!(best <= most, "{name} takes {best:?}; its budget is {most:?}");
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, cards, content, most) in [
        ("one card, 200 bytes", 1, 200, 2),
        ("one card, 16 KiB", 1, 16 << 10, 4),
        ("1000 cards, 200 bytes", 1000, 200, 500),
    ] {
        let push = push(cards, content);
        let record = encode(&push);
        assert_eq!(decode(record.clone()), Ok(Record::Push(push.clone())));
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(record.len() as u64));
        group.bench_function("encode", |bencher| bencher.iter(|| encode(black_box(&push))));
        group.bench_function("decode", |bencher| bencher.iter(|| decode(black_box(record.clone()))));
        group.finish();
        if !cfg!(debug_assertions) {
            budget(&format!("encode, {name}"), Duration::from_micros(most), || drop(black_box(encode(&push))));
            budget(&format!("decode, {name}"), Duration::from_micros(most), || {
                drop(black_box(decode(record.clone())));
            });
        }
    }
    criterion.final_summary();
}
