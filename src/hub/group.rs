//! The live connections of one card in one shard.

use std::rc::Rc;

use super::member::Member;

/// Most cards have one connection: that costs no allocation.
pub(super) enum Group<S> {
    One(Rc<Member<S>>),
    Many(Vec<Rc<Member<S>>>),
}

impl<S> Group<S> {
    pub(super) fn new(member: Rc<Member<S>>) -> Self {
        member.position.set(0);
        Self::One(member)
    }

    pub(super) fn members(&self) -> &[Rc<Member<S>>] {
        match self {
            Self::One(member) => std::slice::from_ref(member),
            Self::Many(members) => members,
        }
    }

    pub(super) fn add(&mut self, member: Rc<Member<S>>) {
        match self {
            Self::One(first) => {
                member.position.set(1);
                *self = Self::Many(vec![Rc::clone(first), member]);
            }
            Self::Many(members) => {
                member.position.set(members.len() as u32);
                members.push(member);
            }
        }
    }

    /// Takes `member` out; `true`: nobody is left. The last one moves to its position, so that no search is needed.
    pub(super) fn remove(&mut self, member: &Member<S>) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(members) => {
                let position = member.position.get() as usize;
                members.swap_remove(position);
                if let Some(moved) = members.get(position) {
                    moved.position.set(position as u32);
                }
                if members.capacity() > 16 && members.len() * 4 < members.capacity() {
                    members.shrink_to(members.len() * 2);
                }
                members.is_empty()
            }
        }
    }
}
