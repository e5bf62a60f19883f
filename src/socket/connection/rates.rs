//! What one client may send over time.

use std::{borrow::Cow, time::Duration};

use super::Connection;
use crate::{
    socket::live::SocketSettings,
    wire::{
        close::{Close, Ending},
        dialect::ClientError,
        frame::Message,
        stream_ping::StreamPing,
    },
};

/// One in so many Pongs of streams is counted.
const COUNTED_STREAM_PONGS: u8 = 16;

/// Pings and pongs that are not forgotten yet: one is for each that came, less the rate for each second that passed. Its two
/// numbers fit where a connection has room anyway. The clock goes round after 18 hours, which then forgets too little once.
#[derive(Clone, Copy, Default)]
pub(super) struct ControlFrames {
    count: u16,
    second: u16,
}

impl ControlFrames {
    /// One more; `false`: it is one too many.
    fn admits(&mut self, now: Duration, rate: u32, burst: u32) -> bool {
        let second = now.as_secs() as u16;
        let passed = u32::from(second.wrapping_sub(self.second));
        self.second = second;
        self.count = u32::from(self.count).saturating_sub(passed.saturating_mul(rate)) as u16;
        if u32::from(self.count) >= burst.min(u32::from(u16::MAX)) {
            return false;
        }
        self.count += 1;
        true
    }
}

impl Connection {
    /// Counts a message that came.
    ///
    /// # Errors
    /// It is one too many: how the connection ends.
    pub(super) fn admit_message(&mut self, message: &Message) -> Result<(), Ending> {
        let settings = self.worker.live.now();
        let now = self.worker.elapsed();
        let admitted = match message {
            Message::Pong(payload) if self.is_free_of_charge(payload) => true,
            Message::Ping(_) | Message::Pong(_) => {
                let rate = settings.config.max_messages_per_second;
                self.control_frames.admits(now, rate, settings.message_burst)
            }
            _ => self.messages.take(1, now, settings.messages).is_ok(),
        };
        if admitted { Ok(()) } else { Err(too_many(&settings)) }
    }

    /// Whether a Pong is not counted that may say what the client has of a stream: the gateway's own Pings asked for it, one
    /// behind each stored push. One in 16 is counted all the same, by chance, since Pongs can be made up.
    fn is_free_of_charge(&self, pong: &[u8]) -> bool {
        self.worker.store.is_some()
            && StreamPing::of_payload(pong).is_some()
            && self.client.is_joined()
            && fastrand::u8(..COUNTED_STREAM_PONGS) != 0
    }

    /// Counts a join, which is a message already, as the messages that it costs; the first of a client is always admitted.
    ///
    /// # Errors
    /// As [`Connection::admit_message`].
    pub(super) fn admit_join(&mut self) -> Result<(), Ending> {
        let settings = self.worker.live.now();
        let more = u32::from(settings.config.join_cost).min(settings.message_burst) - 1;
        let admitted = self.messages.take(more, self.worker.elapsed(), settings.messages);
        admitted.map_err(|_| too_many(&settings))
    }

    /// A join that was decided, if its card has room for one more connection. Two that join at the same moment on two threads
    /// may both find the last place.
    pub(super) fn check_card_limits(&self, card: &str) -> Result<(), ClientError> {
        if self.client.has_joined(card) {
            return Ok(());
        }
        let settings = self.worker.live.now();
        let most = settings.config.max_cards;
        if self.client.card_count() >= most {
            let message = format!("this client joined {most} cards ([socket] max_cards); leave one first");
            return Err(ClientError::new("too_many_cards", message));
        }
        let max = settings.config.max_connections_per_card;
        if max == 0 || self.worker.shard.connections(card) < max {
            return Ok(());
        }
        let message = format!("this card has {max} connections on this node; close another one first");
        Err(ClientError::new("card_full", message))
    }
}

fn too_many(settings: &SocketSettings) -> Ending {
    let text = format!(
        "too many messages: more than {} at once, or {} a second for long; send fewer",
        settings.message_burst, settings.config.max_messages_per_second
    );
    Ending { close: Close::BadMessage, text: Cow::Owned(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(frames: &mut ControlFrames, tries: u32, second: u64) -> u32 {
        (0..tries).map(|_| u32::from(frames.admits(Duration::from_secs(second), 10, 600))).sum()
    }

    #[test]
    fn pongs_that_a_pause_bunched_are_admitted_and_a_flood_is_not() {
        let mut frames = ControlFrames::default();
        for second in 0..1000 {
            assert_eq!(admitted(&mut frames, 10, second), 10);
        }
        assert_eq!(admitted(&mut frames, 200, 1020), 200);
        assert_eq!(admitted(&mut frames, 1000, 1020), 400);
        assert_eq!(admitted(&mut frames, 1000, 1021), 10);
        // when the clock goes round
        assert_eq!(admitted(&mut frames, 1000, 65_535), 600);
        assert_eq!(admitted(&mut frames, 1000, 65_537), 20);
    }
}
