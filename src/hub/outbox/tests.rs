#![allow(clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use proptest::prelude::*;

use super::{Flushed, Item, Offer, Outbox, Policy, Sink, Written};
use crate::{hub::Limits, wire::frame::Frame};

#[derive(Default)]
struct Pipe {
    room: Cell<usize>,
    bytes: RefCell<Vec<u8>>,
}

impl Sink for Pipe {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room.get());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - taken);
        self.bytes.borrow_mut().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }
}

fn limits(policy: Policy, max_bytes: usize) -> Limits {
    Limits { max_bytes, policy, write_delay: Duration::ZERO, writes_per_turn: 1 }
}

/// A push whose bytes tell which it is: `size` times its number.
fn push(number: u8, size: usize, key: Option<u8>) -> Rc<Item> {
    let frame = Frame::from_encoded(vec![number; size].into());
    Item::push(&frame, key.map(|key| key.to_string().into()), None)
}

/// As [`push`], several that wait as one.
fn run_of(number: u8, sizes: &[usize]) -> Rc<Item> {
    let frames: Vec<_> = sizes.iter().map(|size| Frame::from_encoded(vec![number; *size].into())).collect();
    Item::pushes(frames.iter())
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        size: usize,
        key: Option<u8>,
    },
    Burst {
        sizes: Vec<usize>,
    },
    /// A burst past the list, where nothing waits, and the room for it.
    Send(Vec<usize>, usize),
    Control {
        size: usize,
    },
    Write {
        room: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..40_usize, proptest::option::of(0..4_u8)).prop_map(|(size, key)| Step::Push { size, key }),
        2 => proptest::collection::vec(1..20_usize, 2..5).prop_map(|sizes| Step::Burst { sizes }),
        2 => (proptest::collection::vec(1..20_usize, 1..5), 0..60_usize)
            .prop_map(|(sizes, room)| Step::Send(sizes, room)),
        1 => (1..10_usize).prop_map(|size| Step::Control { size }),
        2 => (0..60_usize).prop_map(|room| Step::Write { room }),
    ]
}

/// The same rules over a plain list.
#[derive(Default)]
struct Model {
    waiting: Vec<Waiting>,
    written: usize,
    sent: Vec<u8>,
    /// Pushes that left whole, and those dropped or replaced.
    left: u64,
    lost: u64,
}

struct Waiting {
    number: u8,
    size: usize,
    key: Option<u8>,
    /// The sizes of its pushes; none: a frame of another kind.
    pushes: Vec<usize>,
}

impl Waiting {
    /// How many of its pushes are whole in its first `written` bytes.
    fn whole(&self, written: usize) -> u64 {
        let ends = self.pushes.iter().scan(0, |end, size| {
            *end += size;
            Some(*end)
        });
        ends.filter(|end| *end <= written).count() as u64
    }
}

impl Model {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.size).sum()
    }

    /// The first place that is not partly written.
    fn free(&self) -> usize {
        usize::from(self.written > 0)
    }

    fn offer(&mut self, new: Waiting, limits: &Limits) -> Offer {
        if limits.policy == Policy::Conflate && new.key.is_some() {
            let free = self.free();
            let same = self.waiting.iter().skip(free).position(|waiting| waiting.key == new.key);
            if let Some(place) = same {
                self.waiting.remove(free + place);
                self.lost += 1;
            }
        }
        while !self.waiting.is_empty() && self.bytes() + new.size > limits.max_bytes {
            let free = self.free();
            let oldest = self.waiting.iter().skip(free).position(|waiting| !waiting.pushes.is_empty());
            match oldest {
                Some(place) if limits.policy != Policy::Disconnect => {
                    self.lost += self.waiting.remove(free + place).pushes.len() as u64;
                }
                _ => return Offer::Slow,
            }
        }
        self.waiting.push(new);
        Offer::Queued
    }

    fn write(&mut self, mut room: usize) {
        while room > 0
            && let Some(first) = self.waiting.first()
        {
            let taken = room.min(first.size - self.written);
            self.sent.extend(std::iter::repeat_n(first.number, taken));
            room -= taken;
            self.left += first.whole(self.written + taken) - first.whole(self.written);
            self.written += taken;
            if self.written == first.size {
                self.waiting.remove(0);
                self.written = 0;
            }
        }
    }
}

fn run(steps: Vec<Step>, policy: Policy) {
    let limits = limits(policy, 200);
    let (mut outbox, mut model, pipe) = (Outbox::default(), Model::default(), Pipe::default());
    let (mut left, mut lost) = (0, 0);
    let mut offer = |outbox: &mut Outbox, model: &mut Model, item: &Rc<Item>, waiting: Waiting| {
        let offered = outbox.offer(item, &limits);
        lost += offered.dropped + u64::from(offered.conflated);
        assert_eq!(offered.offer, model.offer(waiting, &limits));
        assert_eq!(lost, model.lost);
    };
    for (number, step) in steps.into_iter().enumerate() {
        let number = number as u8;
        match step {
            Step::Push { size, key } => {
                let waiting = Waiting { number, size, key, pushes: vec![size] };
                offer(&mut outbox, &mut model, &push(number, size, key), waiting);
            }
            Step::Burst { sizes } => {
                let item = run_of(number, &sizes);
                let waiting = Waiting { number, size: sizes.iter().sum(), key: None, pushes: sizes };
                offer(&mut outbox, &mut model, &item, waiting);
            }
            Step::Send(sizes, room) if outbox.is_empty() => {
                pipe.room.set(room);
                let item = run_of(number, &sizes);
                let pushes = match item.send(&pipe) {
                    Ok(()) => item.push_count(),
                    Err(part) => {
                        let flushed = outbox.send_rest(&item, part, &pipe, &mut Vec::new(), &limits, 0);
                        assert_eq!(matches!(flushed.result, Ok(Written::All)), outbox.is_empty());
                        flushed.pushes
                    }
                };
                model.offer(Waiting { number, size: item.len(), key: None, pushes: sizes }, &limits);
                model.write(room);
                left += pushes;
                assert_eq!(left, model.left);
            }
            Step::Send(..) => {}
            Step::Control { size } => {
                let item = Item::control(&Frame::from_encoded(vec![number; size].into()));
                offer(&mut outbox, &mut model, &item, Waiting { number, size, key: None, pushes: Vec::new() });
            }
            Step::Write { room } => {
                pipe.room.set(room);
                let Flushed { pushes, result, .. } = outbox.write(&pipe, &mut Vec::new(), 0);
                assert_eq!(matches!(result, Ok(Written::All)), outbox.is_empty());
                model.write(room);
                left += pushes;
                assert_eq!(left, model.left);
            }
        }
        assert_eq!((outbox.bytes(), &*pipe.bytes.borrow()), (model.bytes(), &model.sent));
        let waiting: usize = model.waiting.iter().map(|waiting| waiting.pushes.len()).sum();
        let begun = model.waiting.first().map_or(0, |first| first.whole(model.written));
        assert_eq!(outbox.pushes(), waiting as u64 - begun);
    }
    pipe.room.set(usize::MAX);
    assert!(matches!(outbox.write(&pipe, &mut Vec::new(), 0).result, Ok(Written::All)));
    model.write(usize::MAX);
    assert_eq!(*pipe.bytes.borrow(), model.sent);
    assert!(outbox.rest.capacity() == 0 && !outbox.keys.own_memory(), "an empty outbox owns memory");
}

proptest! {
    #[test]
    fn an_outbox_does_what_a_plain_list_would(
        steps in proptest::collection::vec(step(), 1..250),
        policy in prop_oneof![Just(Policy::Disconnect), Just(Policy::DropOldest), Just(Policy::Conflate)],
    ) {
        run(steps, policy);
    }
}

#[test]
fn conflation_costs_the_same_however_many_keys_wait() {
    let limits = limits(Policy::Conflate, usize::MAX);
    let mut outbox = Outbox::default();
    // quadratic work here would take minutes
    for round in 0..40_u32 {
        for key in 0..5000_u32 {
            let frame = Frame::from_encoded(round.to_be_bytes().to_vec().into());
            let offered = outbox.offer(&Item::push(&frame, Some(key.to_string().into()), None), &limits);
            assert_eq!(offered.conflated, round > 0);
        }
    }
    assert_eq!((outbox.bytes(), outbox.pushes()), (20_000, 5000));
    assert!(outbox.rest.len() <= 10_100, "{}", outbox.rest.len());
}

#[test]
fn a_frame_larger_than_the_bound_leaves_alone() {
    let limits = limits(Policy::Disconnect, 10);
    let mut outbox = Outbox::default();
    assert_eq!(outbox.offer(&push(1, 100, None), &limits).offer, Offer::Queued);
    assert_eq!(outbox.offer(&push(2, 1, None), &limits).offer, Offer::Slow);
}

#[test]
fn an_end_keeps_the_rest_of_a_frame_that_was_begun() {
    let limits = limits(Policy::Disconnect, 100);
    let (mut outbox, pipe) = (Outbox::default(), Pipe::default());
    for number in 1..=3 {
        outbox.offer(&push(number, 4, None), &limits);
    }
    pipe.room.set(2);
    let _ = outbox.write(&pipe, &mut Vec::new(), 0);
    let close = Item::control(&Frame::from_encoded(vec![9].into()));
    assert_eq!(outbox.end(close, true, &limits), 2);
    pipe.room.set(100);
    let _ = outbox.write(&pipe, &mut Vec::new(), 0);
    assert_eq!(*pipe.bytes.borrow(), [1, 1, 1, 1, 9]);
}

#[test]
fn an_end_counts_the_pushes_of_a_run_that_was_begun_as_those_that_leave() {
    let limits = limits(Policy::Disconnect, 100);
    let (mut outbox, pipe) = (Outbox::default(), Pipe::default());
    outbox.offer(&run_of(1, &[2, 2, 2]), &limits);
    outbox.offer(&run_of(2, &[2, 2]), &limits);
    pipe.room.set(3);
    assert_eq!(outbox.write(&pipe, &mut Vec::new(), 0).pushes, 1);
    let close = Item::control(&Frame::from_encoded(vec![9].into()));
    assert_eq!((outbox.end(close, true, &limits), outbox.pushes()), (2, 2));
    pipe.room.set(100);
    assert_eq!(outbox.write(&pipe, &mut Vec::new(), 0).pushes, 2);
    assert_eq!(*pipe.bytes.borrow(), [1, 1, 1, 1, 1, 1, 9]);
}
