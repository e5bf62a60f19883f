#![allow(clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use proptest::prelude::*;

use super::{Item, Offer, Outbox, Policy, Sink, Written};
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
    Item::push(frame, key.map(|key| key.to_string().into()))
}

#[derive(Clone, Debug)]
enum Step {
    Push { size: usize, key: Option<u8> },
    Control { size: usize },
    Write { room: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..40_usize, proptest::option::of(0..4_u8)).prop_map(|(size, key)| Step::Push { size, key }),
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
}

struct Waiting {
    number: u8,
    size: usize,
    key: Option<u8>,
    push: bool,
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
        if limits.policy == Policy::Conflate && new.push && new.key.is_some() {
            let free = self.free();
            let same = self.waiting.iter().skip(free).position(|waiting| waiting.push && waiting.key == new.key);
            if let Some(place) = same {
                self.waiting.remove(free + place);
            }
        }
        while !self.waiting.is_empty() && self.bytes() + new.size > limits.max_bytes {
            let free = self.free();
            let oldest = self.waiting.iter().skip(free).position(|waiting| waiting.push);
            match oldest {
                Some(place) if limits.policy != Policy::Disconnect => drop(self.waiting.remove(free + place)),
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
    for (number, step) in steps.into_iter().enumerate() {
        let number = number as u8;
        match step {
            Step::Push { size, key } => {
                let offered = outbox.offer(&push(number, size, key), &limits);
                assert_eq!(offered.offer, model.offer(Waiting { number, size, key, push: true }, &limits));
            }
            Step::Control { size } => {
                let item = Item::control(Frame::from_encoded(vec![number; size].into()));
                let offered = outbox.offer(&item, &limits);
                assert_eq!(offered.offer, model.offer(Waiting { number, size, key: None, push: false }, &limits));
            }
            Step::Write { room } => {
                pipe.room.set(room);
                let (_, written) = outbox.write(&pipe, &mut Vec::new());
                assert_eq!(matches!(written, Ok(Written::All)), outbox.is_empty());
                model.write(room);
            }
        }
        assert_eq!((outbox.bytes(), &*pipe.bytes.borrow()), (model.bytes(), &model.sent));
        assert_eq!(outbox.pushes() as usize, model.waiting.iter().filter(|waiting| waiting.push).count());
    }
    pipe.room.set(usize::MAX);
    assert!(matches!(outbox.write(&pipe, &mut Vec::new()), (_, Ok(Written::All))));
    model.write(usize::MAX);
    assert_eq!(*pipe.bytes.borrow(), model.sent);
    assert!(outbox.rest.capacity() == 0 && outbox.keys.is_none(), "an empty outbox owns memory");
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
            let offered = outbox.offer(&Item::push(frame, Some(key.to_string().into())), &limits);
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
    let _ = outbox.write(&pipe, &mut Vec::new());
    let close = Item::control(Frame::from_encoded(vec![9].into()));
    assert_eq!(outbox.end(close, true, &limits), 2);
    pipe.room.set(100);
    let _ = outbox.write(&pipe, &mut Vec::new());
    assert_eq!(*pipe.bytes.borrow(), [1, 1, 1, 1, 9]);
}
