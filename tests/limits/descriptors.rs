//! A process with few file descriptors.

use tokio::net::TcpStream;

use crate::{
    program::{Place, until},
    support::{client::Client, http},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_clients_never_stops_pushes_health_or_metrics() {
    let place = Place::new("[socket]\nhandshake_timeout = 1h\n");
    // the soft limit alone would not even let it start
    let mut command = place.command(&["sh", "-c", "ulimit -S -n 40; ulimit -H -n 320; exec \"$0\" \"$@\""]);
    let program = place.start(&mut command);
    program.ready().await;
    let log = program.log();
    assert!(log.contains("[socket] max_connections = 100000") && log.contains("may have 320"), "{log}");
    let bound = program.metric("oxipush_max_connections", &[]).await;
    assert!((80.0..200.0).contains(&bound), "{bound}");

    let mut tab = Client::modern(&program.ws(), "alice", "").await;
    // they hold on to what they have
    let mut storm = Vec::new();
    for number in 0..1000 {
        let connecting = TcpStream::connect(program.at[0]);
        // what the system's queue does not take either is no connection
        if let Ok(Ok(stream)) = tokio::time::timeout(std::time::Duration::from_millis(50), connecting).await {
            storm.push(stream);
        }
        if number % 100 == 99 {
            let content = format!("push {number}");
            let (status, answer) = program.push("alice", &content).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(tab.content().await, content);
            assert_eq!(crate::support::http::get(program.url("/healthz")).await.unwrap().status(), 200);
            assert!(program.metric("oxipush_connections", &[]).await >= 1.0);
        }
    }
    assert!(storm.len() > 320, "it was no storm: {}", storm.len());
    drop(storm);
    // and when it is over, there is room again
    until("room", || async { program.status("127.0.0.1", "").await == 101 }).await;
}
