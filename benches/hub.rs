//! What a push costs in the hub. Budgets, on one core of the machine that docs/performance.md names:
//! a look-up in the index 60 ns, an offer to one of 1,000 connections 60 ns (its write not counted), an offer that replaces
//! a waiting push of its key 150 ns.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{hint::black_box, io, rc::Rc, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use oxipush::internals::{
    config,
    hub::{Fanout, Hub, Item, Limits, Outbox, Part, Recipients, Shard, Sink, WriteBudget},
    push::{Address, Push, PushId, Target},
    telemetry::Metrics,
    wire::{dialect::Dialect, frame::Frame},
};
use tokio::sync::mpsc;

/// A socket that takes everything.
struct Hole;

impl Sink for Hole {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }
}

fn hub() -> Hub {
    let limits = config::HubConfig { inbox: 16, writes_per_turn: 1024 };
    let outbox =
        config::OutboxConfig { max_bytes: 1 << 20, policy: config::Policy::Disconnect, write_delay: Duration::ZERO };
    Hub::new(&limits, &outbox, 1, &Arc::new(Metrics::new()))
}

fn push(card: &str) -> Push {
    Push {
        id: PushId::generate(),
        from: "bench".into(),
        target: Target::cards(vec![card.into()]),
        content: "x".repeat(78).into(),
        collapse_key: None,
        deadline: None,
    }
}

fn lookup(c: &mut Criterion) {
    let hub = hub();
    let (shard, _inbox): (Rc<Shard<Hole>>, _) = hub.claim_shard().unwrap().open();
    let cards: Vec<Address> = (0..15_000).map(|n| Address::Card(format!("card-{n}").into())).collect();
    for card in &cards {
        let client = shard.open(Hole, Dialect::Gopusher);
        shard.join(&client, card.name(), "");
    }
    let mut next = cards.iter().cycle();
    c.bench_function("hub/lookup of one of 15,000 cards", |b| b.iter(|| hub.shards(black_box(next.next().unwrap()))));
}

fn offer(c: &mut Criterion) {
    let hub = hub();
    let (shard, _inbox): (Rc<Shard<Hole>>, _) = hub.claim_shard().unwrap().open();
    for _ in 0..1000 {
        let client = shard.open(Hole, Dialect::Gopusher);
        shard.join(&client, "all", "");
    }
    let (completions, mut told) = mpsc::unbounded_channel();
    let part = || {
        Part::new(Fanout::new(push("all"), 0, completions.clone()), Recipients::Address(Address::Card("all".into())))
    };
    let mut group = c.benchmark_group("hub/1,000 connections");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("send at once", |b| {
        b.iter_batched(
            &part,
            |part| {
                shard.deliver(part.into(), &mut WriteBudget::unlimited());
                told.try_recv().unwrap()
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("offer and write", |b| {
        b.iter_batched(
            &part,
            |part| {
                shard.deliver(part.into(), &mut WriteBudget::none());
                while shard.write() {}
                told.try_recv().unwrap()
            },
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("burst of 10 one by one, offer and write", |b| {
        b.iter_batched(
            || std::array::from_fn::<_, 10, _>(|_| part()),
            |burst| {
                burst.into_iter().for_each(|part| shard.deliver(part.into(), &mut WriteBudget::none()));
                while shard.write() {}
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn conflate(c: &mut Criterion) {
    let limits = Limits {
        max_bytes: 1 << 20,
        policy: config::Policy::Conflate,
        write_delay: Duration::ZERO,
        writes_per_turn: 1024,
    };
    let items: Vec<_> =
        (0..1000).map(|key| Item::push(&Frame::text("content"), Some(format!("key-{key}").into()), None)).collect();
    let mut outbox = Outbox::default();
    let mut next = items.iter().cycle();
    c.bench_function("outbox/replace one of 1,000 keys", |b| {
        b.iter(|| outbox.offer(black_box(next.next().unwrap()), &limits));
    });
}

criterion_group!(benches, lookup, offer, conflate);
criterion_main!(benches);
