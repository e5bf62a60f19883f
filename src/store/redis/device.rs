//! A device as Redis has it: the field of its cursor.

use crate::store::DeviceKey;

/// `d` and the device that a join named, or `a` and its app.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct DeviceField(pub(super) String);

impl DeviceField {
    pub(super) fn of(device: DeviceKey<'_>) -> Self {
        match device {
            DeviceKey::Declared(name) => Self(format!("d{name}")),
            DeviceKey::App(name) => Self(format!("a{name}")),
        }
    }

    /// Whether it was named by a join, and its name.
    pub(super) fn read(field: &[u8]) -> Option<(bool, &str)> {
        let (kind, name) = field.split_first()?;
        Some((*kind == b'd', std::str::from_utf8(name).ok()?))
    }
}
