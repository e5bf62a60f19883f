//! Files that are not what the log left: what is whole is delivered, what is lost is counted, and a start that is refused says
//! how to go on.

use std::{fs, path::PathBuf};

use super::{Log, config, eventually, texts};
use crate::telemetry::labels::DropReason;

/// The largest file: it has the pushes.
fn segment(dir: &std::path::Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let has_content = |path: &PathBuf| fs::read(path).unwrap().iter().any(|byte| *byte != 0);
    let segments = files.filter(|path| !path.ends_with("log.lock") && has_content(path));
    segments.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let refused = Log::open(&config(&dir.path().join("file/folder"))).await.err().unwrap().to_string();
    assert!(refused.contains("[data] dir"), "{refused}");
}

#[tokio::test]
async fn a_damaged_push_is_lost_and_counted_and_the_others_come_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    for n in 0..100 {
        log.publish(format!("push {n:03}")).await.unwrap();
    }
    log.close().await;
    let path = segment(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    for lost in ["push 013", "push 050", "push 051"] {
        let at = bytes.windows(lost.len()).position(|window| window == lost.as_bytes()).unwrap();
        bytes[at + 6] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let expected = (0..100).filter(|n| ![13, 50, 51].contains(n)).map(|n| format!("push {n:03}"));
    assert_eq!(texts(&log.all().await), expected.collect::<Vec<_>>());
    assert_eq!(log.metrics.drops.get_or_create(&DropReason::Lost).get(), 3);
    log.close().await;
    // it is told and counted once
    let log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!(log.metrics.queue_records.get(), 97);
    assert_eq!(log.metrics.drops.get_or_create(&DropReason::Lost).get(), 0);
    log.close().await;
}

#[tokio::test]
async fn a_page_of_garbage_costs_what_was_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    for n in 0..600 {
        log.publish(format!("{n:0200}")).await.unwrap();
    }
    log.close().await;
    let path = segment(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    fastrand::Rng::with_seed(1).fill(&mut bytes[40_960..45_056]);
    fs::write(&path, bytes).unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    let left = log.all().await.len() as u64;
    let lost = log.metrics.drops.get_or_create(&DropReason::Lost).get();
    assert!(left >= 600 - 20 && left + lost >= 600, "{left} came, {lost} are counted");
    assert!(lost <= 24, "{lost} are counted");
    log.close().await;
}

#[tokio::test]
async fn a_log_cut_short_gives_what_was_before_the_cut_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    for n in 0..20 {
        log.publish(n).await.unwrap();
    }
    log.close().await;
    let path = segment(dir.path());
    let whole = fs::read(&path).unwrap();
    for cut in [0, 10, 200, 500, 4096, whole.len() / 2, whole.len() - 1] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(path.file_name().unwrap()), &whole[..cut]).unwrap();
        let mut log = Log::open(&config(dir.path())).await.unwrap();
        let came = log.all().await;
        let lost = log.metrics.drops.get_or_create(&DropReason::Lost).get();
        assert_eq!(texts(&came), (0..came.len()).map(|n| n.to_string()).collect::<Vec<_>>());
        // how many were behind a cut is not known: at least one
        assert!(came.len() == 20 || lost > 0 || cut < 200, "{} came after a cut at {cut}", came.len());
        log.close().await;
    }
}

#[tokio::test]
async fn a_log_that_was_moved_away_takes_its_pushes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(&config(dir.path())).await.unwrap();
    for n in 0..5 {
        log.publish(n).await.unwrap();
        log.next().await.finish();
    }
    log.close().await;
    let away = dir.path().join("away");
    fs::create_dir(&away).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::rename(entry.path(), away.join(entry.file_name())).unwrap();
        }
    }
    let log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!(log.metrics.queue_records.get(), 0, "what was finished came back");
    log.close().await;
}

#[tokio::test]
async fn a_folder_that_is_deleted_under_the_queue_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("data");
    let log = Log::open(&config(&dir)).await.unwrap();
    log.publish("before").await.unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let told = loop {
        match log.publish("after").await {
            Ok(()) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            Err(error) => break error.to_string(),
        }
    };
    assert!(told.contains("was deleted while the gateway uses it"), "{told}");
    eventually("the node is not ready", || log.metrics.queue_ready.get() == 0).await;
    log.close().await;
}
