//! Who stores pushes for a room and for blocks of cards while clients drop.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    Result,
    address::Address,
    cli::Load,
    http,
    layout::{Aim, Target, card_name, room_name},
    marker::Marker,
    profile::{Profile, Requests},
    shared::Shared,
};

/// Cards that one push names: `[push] max_cards` of a gateway that nobody configured.
pub(super) const BLOCK: usize = 1000;

/// How many pushes were stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stored {
    pub(super) to_room: u32,
    pub(super) to_blocks: u32,
}

impl Stored {
    /// Those to one of so many blocks, which had their turns.
    pub(super) fn to_block(self, block: usize, blocks: usize) -> u32 {
        (self.to_blocks as usize).saturating_sub(block).div_ceil(blocks) as u32
    }
}

/// One HTTP connection that stores pushes.
#[derive(Clone)]
pub(super) struct Callers {
    address: Address,
    requests: Requests,
    shared: Arc<Shared>,
    size: usize,
}

impl Callers {
    pub(super) fn new(load: &Load, shared: &Arc<Shared>) -> Result<Self> {
        let address = Address::parse(load.http.as_ref().ok_or("--http is missing: where do pushes go?")?, "http")?;
        let requests =
            Requests::new(Profile::Oxipush, Aim::Rooms, &address.host, &address.path, load.key.as_deref()).stored(true);
        Ok(Self { address, requests, shared: Arc::clone(shared), size: load.size as usize })
    }

    pub(super) fn blocks(&self) -> usize {
        (self.shared.layout.cards as usize).div_ceil(BLOCK)
    }

    /// Begins each stream with a push that nobody counts.
    pub(super) fn begin(&mut self) -> Result<()> {
        let mut connection = self.connect()?;
        let targets: Vec<_> = (0..self.blocks()).map(|block| self.block(block)).chain([self.room()]).collect();
        for target in targets {
            let marker = Marker { run: self.shared.run ^ 1, seq: 0, due: 0 };
            if let Some(refusal) = self.post(&mut connection, &target, marker)? {
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    /// Spreads so many pushes to the room, and as many to one block after the other, over this time.
    pub(super) fn start(&self, pushes: u64, time: Duration) -> JoinHandle<Result<(Stored, Vec<String>)>> {
        let mut callers = self.clone();
        thread::spawn(move || {
            let (mut stored, mut complaints) = (Stored::default(), Vec::new());
            let mut connection = callers.connect()?;
            let begun = Instant::now();
            for number in 0..pushes {
                let due = time.mul_f64(number as f64 / pushes as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
                let (room, seq) = (callers.room(), stored.to_room);
                match callers.send(&mut connection, &room, seq)? {
                    Some(refusal) => complaints.push(refusal),
                    None => stored.to_room += 1,
                }
                let (turn, blocks) = (stored.to_blocks as usize, callers.blocks());
                let target = callers.block(turn % blocks);
                match callers.send(&mut connection, &target, (turn / blocks) as u32)? {
                    Some(refusal) => complaints.push(refusal),
                    None => stored.to_blocks += 1,
                }
            }
            Ok((stored, complaints))
        })
    }

    fn room(&self) -> Target {
        Target::Room(room_name(self.shared.run, 0))
    }

    fn block(&self, block: usize) -> Target {
        let cards = block * BLOCK..((block + 1) * BLOCK).min(self.shared.layout.cards as usize);
        Target::Cards(cards.map(|card| card_name(self.shared.run, card as u32)).collect())
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address.socket, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }

    fn send(&mut self, connection: &mut TcpStream, target: &Target, seq: u32) -> Result<Option<String>> {
        let marker = Marker { run: self.shared.run, seq, due: self.shared.now() };
        self.post(connection, target, marker)
    }

    /// Stores one push; why it was refused.
    fn post(&mut self, connection: &mut TcpStream, target: &Target, marker: Marker) -> Result<Option<String>> {
        let (mut content, mut out) = (Vec::new(), Vec::new());
        marker.write(self.size, &mut content);
        self.requests.write(target, &content, &mut out);
        connection.write_all(&out)?;
        let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = connection.read(&mut buffer)?;
            if count == 0 {
                return Err("the server closed the callers' connection".into());
            }
            read.extend_from_slice(&buffer[..count]);
            if let Some(answer) = http::first(&read) {
                let is_accepted = Profile::Oxipush.accepted(answer.status(), answer.body);
                let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]);
                return Ok((!is_accepted).then(|| format!("push refused: {} {body}", answer.line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stored;

    #[test]
    fn blocks_have_their_turns() {
        let stored = Stored { to_room: 7, to_blocks: 7 };
        let each: Vec<_> = (0..3).map(|block| stored.to_block(block, 3)).collect();
        assert_eq!(each, [3, 2, 2]);
        assert_eq!(Stored::default().to_block(0, 3), 0);
    }
}
