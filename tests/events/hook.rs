//! A back end's webhook: checks each request as docs/events.md says, and answers as a test says.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::support::http_server::{Asked, HttpServer, Told};

pub(crate) const SECRET: &str = "a secret of the test";

/// What a test answers a batch with.
type Answer = Arc<dyn Fn(&[Value]) -> Told + Send + Sync>;

/// The events of all requests that were answered with 2xx, in the order of their arrival.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Vec<Value>>>>);

impl Heard {
    pub(crate) fn batches(&self) -> Vec<Vec<Value>> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.batches().concat()
    }

    /// The data of each event, in order.
    pub(crate) fn data(&self) -> Vec<Value> {
        self.events().iter().map(|event| event["data"].clone()).collect()
    }

    /// Waits until `is` holds for the events.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        for _ in 0..600 {
            let events = self.events();
            if is(&events) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not within 30 s: {what}; there are {:?}", self.data());
    }
}

/// A server; dropped, it is killed.
pub(crate) struct Hook {
    server: HttpServer,
    pub(crate) heard: Heard,
    answer: Answer,
}

impl Hook {
    pub(crate) async fn start(answer: impl Fn(&[Value]) -> Told + Send + Sync + 'static) -> Self {
        let (heard, answer): (_, Answer) = (Heard::default(), Arc::new(answer));
        let server = HttpServer::start(handler(heard.clone(), answer.clone())).await;
        Self { server, heard, answer }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/events", self.server.url)
    }

    pub(crate) fn asked(&self) -> usize {
        self.server.asked()
    }

    /// Nobody listens from now on; gives what brings it back.
    pub(crate) fn kill(self) -> KilledHook {
        let address = self.server.url.trim_start_matches("http://").to_owned();
        KilledHook { address, heard: self.heard, answer: self.answer }
    }
}

pub(crate) struct KilledHook {
    address: String,
    pub(crate) heard: Heard,
    answer: Answer,
}

impl KilledHook {
    pub(crate) async fn again(self) -> Hook {
        let Self { address, heard, answer } = self;
        let server = HttpServer::start_on(&address, handler(heard.clone(), answer.clone())).await;
        Hook { server, heard, answer }
    }
}

fn handler(heard: Heard, answer: Answer) -> impl Fn(Asked) -> Told + Send + Sync + 'static {
    move |asked| {
        let events = check(&asked);
        let told = answer(&events);
        if told.status.starts_with('2') {
            heard.0.lock().unwrap().push(events);
        }
        told
    }
}

/// As a back end would.
fn check(asked: &Asked) -> Vec<Value> {
    assert_eq!(asked.line, "POST /events HTTP/1.1");
    let header = |name: &str| {
        let line = asked.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", asked.head)).split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(header("content-type"), "application/json");
    let signature = header("x-oxipush-signature");
    let (time, given) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(time.parse().unwrap()) < 60, "{signature}");
    let signed = [time.as_bytes(), b".", &asked.body].concat();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let expected: String = ring::hmac::sign(&key, &signed).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(given, expected, "the signature does not verify");
    let events: Vec<Value> = serde_json::from_slice(&asked.body).unwrap();
    assert!(!events.is_empty());
    for event in &events {
        assert_eq!(event["node"], header("x-oxipush-node"));
        assert_eq!(event["id"].as_str().unwrap().len(), 26);
        assert!(event["time"].as_u64().unwrap().abs_diff(now * 1000) < 120_000, "{event}");
    }
    events
}
