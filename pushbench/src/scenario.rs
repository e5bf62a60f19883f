//! What is loaded, and how: the scenarios as a table. [`run()`] is one of them from the first connect to the report.

mod run;

use std::time::Duration;

use clap::ValueEnum;

pub(crate) use self::run::{Outcome, run, slices};
use crate::{
    Result,
    cli::Load,
    layout::{Aim, Layout},
    pace::{End, Pace},
};

/// The scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Idle,
    Unicast,
    Fanout,
    Rooms,
    Everyone,
    Merged,
    Pressed,
    Groups,
    Burst,
    Churn,
    Slow,
    Soak,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Unicast => "unicast",
            Self::Fanout => "fanout",
            Self::Rooms => "rooms",
            Self::Everyone => "everyone",
            Self::Merged => "merged",
            Self::Pressed => "pressed",
            Self::Groups => "groups",
            Self::Burst => "burst",
            Self::Churn => "churn",
            Self::Slow => "slow",
            Self::Soak => "soak",
        }
    }

    /// Cards that the connections join as.
    pub(crate) fn cards(self, load: &Load) -> u32 {
        let own = match self {
            Self::Idle | Self::Unicast | Self::Soak => load.connections,
            Self::Rooms | Self::Everyone | Self::Merged => load.connections,
            Self::Fanout | Self::Pressed | Self::Burst | Self::Slow => 1,
            Self::Groups => load.connections.div_ceil(load.tabs),
            Self::Churn => load.connections.div_ceil(10),
        };
        load.cards.unwrap_or(own).min(load.connections)
    }

    /// Who its connections are, and what its pushes are addressed to.
    pub(crate) fn layout(self, load: &Load) -> Result<Layout> {
        let cards = self.cards(load);
        let to_rooms = matches!(self, Self::Rooms | Self::Merged);
        let (aim, rooms, own) = match self {
            Self::Everyone if !load.profile.has_everyone() => {
                return Err(format!("{} has nothing that reaches everyone", load.profile.name()).into());
            }
            Self::Everyone => (Aim::Everyone, load.rooms, 0),
            _ if to_rooms => (Aim::Rooms, load.rooms.min(load.connections), 1),
            // rooms stand for cards
            _ if !load.profile.has_cards() => (Aim::Rooms, cards, 1),
            _ => (Aim::Cards { span: load.cards_per_push.min(cards) }, load.rooms, 0),
        };
        if load.cards_per_push > 1 && !matches!(aim, Aim::Cards { .. }) {
            return Err("these pushes name no cards: leave --cards-per-push out".into());
        }
        Layout { aim, cards, rooms, subscriptions: load.subscriptions.unwrap_or(own) }.check()
    }

    /// How its pushes follow each other.
    pub(crate) fn pace(self, load: &Load) -> Pace {
        let own = match self {
            Self::Fanout | Self::Rooms | Self::Everyone => Pace::Rounds { burst: 1 },
            // as many as one frame holds, in each window
            Self::Merged => Pace::Rate(f64::from(load.merge_count) * 1000.0 / f64::from(load.merge_window)),
            Self::Burst => Pace::Rounds { burst: load.burst },
            Self::Idle | Self::Unicast | Self::Groups => Pace::Press,
            Self::Pressed => Pace::Lead,
            Self::Churn | Self::Soak => Pace::Rate(1000.0),
            Self::Slow => Pace::Rate(200.0),
        };
        load.rate.map_or(own, Pace::Rate)
    }

    /// When its pushes end.
    pub(crate) fn end(self, load: &Load) -> End {
        // a quarter of a million deliveries in all is steady enough, and short
        let rounds = |deliveries: u64, least, most| (deliveries / u64::from(load.connections)).clamp(least, most);
        let own = match self {
            Self::Idle => End::Pushes(0),
            Self::Fanout | Self::Rooms | Self::Everyone => End::Pushes(rounds(300_000, 20, 3000)),
            Self::Burst => End::Pushes(rounds(300_000, 20, 3000) * u64::from(load.burst)),
            Self::Unicast | Self::Pressed | Self::Groups | Self::Merged => End::After(Duration::from_secs(5)),
            Self::Churn | Self::Slow => End::After(Duration::from_secs(10)),
            Self::Soak => End::After(Duration::from_secs(600)),
        };
        match (load.duration, load.pushes) {
            (Some(seconds), _) => End::After(Duration::from_secs_f64(seconds)),
            (None, Some(pushes)) => End::Pushes(pushes),
            // one whole round of the cards' pushes at the least
            (None, None) => own,
        }
    }

    /// Pushes before those that are timed.
    pub(crate) fn warmup(self, load: &Load, end: End) -> u64 {
        let own = match (self, end) {
            (Self::Idle, _) => 0,
            (_, End::Pushes(pushes)) => pushes / 10,
            (Self::Unicast, _) => 5000,
            (Self::Pressed | Self::Groups, _) => 500,
            (Self::Merged, _) => 2 * u64::from(load.merge_count),
            _ => 20,
        };
        load.warmup.unwrap_or(own)
    }
}
