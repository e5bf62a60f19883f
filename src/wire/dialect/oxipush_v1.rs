//! The subprotocol `oxipush.v1`: `{"event":…,"data":…}` both ways.

use std::time::Duration;

use bytestring::ByteString;

use super::{Command, Mistake};
use crate::{push::Push, wire::frame::Frame};

pub(super) fn parse(_text: &ByteString) -> Command {
    todo!()
}
pub(super) fn push(_push: &Push) -> Frame {
    todo!()
}
pub(super) fn joined(_card: &ByteString, _app: &ByteString) -> Frame {
    todo!()
}
pub(super) fn pong() -> Frame {
    todo!()
}
pub(super) fn error(_mistake: &Mistake) -> Frame {
    todo!()
}
pub(super) fn drain(_delay: Duration) -> Frame {
    todo!()
}
