//! Ports of this test's own, that stay its own while a server is restarted on them.

use std::{fs::File, net::TcpListener};

/// A port that no other test takes while this lives.
pub struct Port {
    pub number: u16,
    // a lock that ends with the process at the latest
    _claim: File,
}

impl Port {
    /// One that is free now. Below the ephemeral range, so that no outgoing connection takes it while its server is down.
    pub fn claim() -> Self {
        let folder = std::env::temp_dir().join("oxipush-test-ports");
        std::fs::create_dir_all(&folder).expect("a folder for claims");
        for _ in 0..10_000 {
            let number = fastrand::u16(10_000..32_000);
            let Ok(claim) = File::create(folder.join(number.to_string())) else { continue };
            if claim.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no free port");
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
