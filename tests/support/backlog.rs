//! What an earlier process accepted and did not hand out.

use std::{path::Path, sync::Arc, time::Duration};

use oxipush::internals::{
    config,
    lifecycle::{Deadline, Tasks},
    push::{Push, PushId, Target},
    queue::{Destination, embedded, record},
    telemetry::Metrics,
};

/// A push as an earlier process accepted it.
pub fn push(card: &str, content: &str) -> Push {
    Push {
        id: PushId::generate(),
        from: "earlier".into(),
        target: Target::cards(vec![card.into()]),
        content: content.into(),
        collapse_key: None,
        deadline: None,
    }
}

/// Leaves pushes with these `contents` for `card` in the embedded log in `dir`; its folder is free again then.
pub async fn leave(dir: &Path, card: &str, contents: &[&str]) {
    let settings = [("OXIPUSH__DATA__DIR".to_owned(), dir.to_str().unwrap().to_owned())];
    let config = config::load(None, settings).unwrap();
    let (tasks, _deaths) = Tasks::new();
    let queue = embedded::open(&config.queue, &tasks, &Arc::new(Metrics::new())).await.unwrap();
    for content in contents {
        queue.publisher.publish(Destination::Live, record::encode(&push(card, content))).await.unwrap();
    }
    queue.control.close(Deadline::after(Duration::from_secs(30))).await;
    assert!(tasks.stop(Duration::from_secs(30)).await);
}
