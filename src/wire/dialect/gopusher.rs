//! gopusher's dialect, byte for byte (predecessors.md D2 is its source).

use bytestring::ByteString;

use super::{Command, Mistake};
use crate::{
    push::Push,
    wire::{close::Ending, frame::Frame},
};

pub(super) fn parse(_text: &ByteString) -> Command {
    todo!()
}
pub(super) fn push(_push: &Push) -> Frame {
    todo!()
}
pub(super) fn ok() -> Frame {
    todo!()
}
pub(super) fn ending(_mistake: &Mistake) -> Ending {
    todo!()
}
