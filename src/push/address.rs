//! Where a push goes to, and what a client is a member of.

use bytestring::ByteString;

/// gpush's private topics are rooms whose names begin so; where clients prove who they are, such a room needs an identity.
pub const PRIVATE_TOPICS: &str = "private-";

/// What a push is sent to and a client is a member of. A card and a room of one name are two addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A user, or a group of tabs.
    Card(ByteString),
    /// A named set of clients that subscribed.
    Room(ByteString),
}

/// Which kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// [`Address::Card`].
    Card,
    /// [`Address::Room`].
    Room,
}

impl AddressKind {
    /// The address of this kind and name.
    pub fn of(self, name: &str) -> Address {
        match self {
            Self::Card => Address::Card(name.into()),
            Self::Room => Address::Room(name.into()),
        }
    }
}

impl Address {
    /// Its kind.
    pub fn kind(&self) -> AddressKind {
        match self {
            Self::Card(_) => AddressKind::Card,
            Self::Room(_) => AddressKind::Room,
        }
    }

    /// Its name, which only its kind makes one of one thing.
    pub fn name(&self) -> &str {
        match self {
            Self::Card(name) | Self::Room(name) => name,
        }
    }
}
