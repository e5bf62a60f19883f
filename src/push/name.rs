//! Names of cards, apps and senders.

use bytestring::ByteString;

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("is empty")]
    Empty,
    /// It has more bytes than allowed.
    #[error("has {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// `[push] max_name`.
        limit: usize,
    },
    /// It has a control character.
    #[error("has the control character U+{0:04X}; remove it")]
    Control(u32),
}

/// The one rule for names, at every entrance: HTTP, gRPC, NSQ and join.
#[derive(Clone, Copy, Debug)]
pub struct NameRule {
    /// `[push] max_name`, in bytes.
    pub max: usize,
}

impl NameRule {
    /// Checks a name that must be there.
    ///
    /// # Errors
    /// [`NameError`], to be shown behind the field's name.
    pub fn check(&self, name: &ByteString) -> Result<(), NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        self.check_optional(name)
    }

    /// Checks a name that may be empty.
    ///
    /// # Errors
    /// As [`NameRule::check`], less [`NameError::Empty`].
    pub fn check_optional(&self, name: &ByteString) -> Result<(), NameError> {
        if name.len() > self.max {
            return Err(NameError::TooLong { bytes: name.len(), limit: self.max });
        }
        match name.chars().find(|c| c.is_control()) {
            Some(c) => Err(NameError::Control(c as u32)),
            None => Ok(()),
        }
    }
}
