//! What a client's socket costs on the CPU: encoding frames, encoding pushes for each dialect, reading a client's frames.
//!
//! `cargo bench --bench wire`. Each group states its budget: about twice what was measured on a busy core of the 2-core
//! virtual machine that docs/performance.md names. What needs more is a regression to explain before it lands.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use bytes::BytesMut;
use bytestring::ByteString;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use oxipush::internals::{
    push::{Push, PushId, Target},
    wire::{
        close::Close,
        dialect::Dialect,
        frame::{Frame, FrameReader},
    },
};

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Budget: 250 ns for a frame of 100 B, 8 µs for 64 KiB (a copy), 300 ns for a close.
fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    for size in [100, 64 << 10] {
        let text = "x".repeat(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("text of {size} B"), |b| b.iter(|| Frame::text(black_box(&text))));
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("close", |b| b.iter(|| Frame::close(black_box(&Close::Drain.into()))));
    let frame = Frame::text("x");
    // Budget: 150 ns, two atomic operations. Once for each connection of a fan-out.
    group.bench_function("clone for one more receiver", |b| b.iter(|| black_box(&frame).clone()));
    group.finish();
}

/// Budget: 1 µs for a push of 100 B; 4 ns for each further byte of text, 8 ns where a quarter of them needs an escape.
/// Once for each push and dialect, however many receive it.
fn pushes(c: &mut Criterion) {
    let mut group = c.benchmark_group("push");
    let json = r#"{"title":"hello","body":"\n"}"#;
    for (name, content) in [
        ("100 B of text", "x".repeat(100)),
        ("64 KiB of text", "x".repeat(64 << 10)),
        ("64 KiB of JSON", json.repeat((64 << 10) / json.len())),
    ] {
        let push = Push {
            id: PushId::from_parts(1_700_000_000_000, 1),
            from: "boss".into(),
            target: Target::cards(vec!["card".into()]),
            content: content.into(),
            collapse_key: None,
            deadline: None,
        };
        group.throughput(Throughput::Bytes(push.content.len() as u64));
        for dialect in Dialect::ALL {
            group.bench_function(format!("{name}, {}", dialect.label()), |b| {
                b.iter(|| dialect.push(black_box(&push)));
            });
        }
    }
    group.finish();
}

/// Budget: 1.5 µs for a join. Once for each connection, and for each ping of the dialect.
fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    let join = ByteString::from(r#"{"event":"join","data":{"app_id":"alibaba","card_id":"mayun"}}"#);
    let ping = ByteString::from(r#"{"event":"ping"}"#);
    for dialect in Dialect::ALL {
        group.bench_function(format!("join, {}", dialect.label()), |b| b.iter(|| dialect.parse(black_box(&join))));
        group.bench_function(format!("ping, {}", dialect.label()), |b| b.iter(|| dialect.parse(black_box(&ping))));
    }
    group.finish();
}

/// Budget: 300 ns for a message of 60 B that came whole; 800 MB/s for long ones, whole or in pieces (copy, unmask,
/// UTF-8).
fn reader(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    let small = masked(0x81, &[b'x'; 60]);
    let large = masked(0x81, &vec![b'x'; 64 << 10]);
    let binary = masked(0x82, &vec![0; 64 << 10]);
    for (name, bytes, piece) in [
        ("60 B of text", &small, small.len()),
        ("64 KiB of text", &large, large.len()),
        ("64 KiB of text in pieces of 4 KiB", &large, 4 << 10),
        ("64 KiB of bytes", &binary, binary.len()),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || (FrameReader::new(64 << 10), BytesMut::with_capacity(bytes.len())),
                |(reader, buffer)| {
                    let mut last = None;
                    for piece in bytes.chunks(piece) {
                        buffer.extend_from_slice(piece);
                        last = reader.next(buffer).unwrap();
                    }
                    last.unwrap()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, frames, pushes, commands, reader);
criterion_main!(benches);
