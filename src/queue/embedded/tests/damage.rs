//! Files that are not what the log left: refused with what to do, or taken for a new log.

use super::{Log, config};

#[tokio::test]
async fn a_folder_that_cannot_be_and_a_file_that_is_no_log_are_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let refused = Log::open(&config(&dir.path().join("file/folder"))).await.err().unwrap().to_string();
    assert!(refused.contains("[data] dir"), "{refused}");
    for content in [vec![7; 100], vec![7; 100_000], b"redb is not here".to_vec()] {
        std::fs::write(dir.path().join("queue.redb"), content).unwrap();
        let refused = Log::open(&config(dir.path())).await.err().unwrap().to_string();
        assert!(refused.contains("queue.redb is damaged") && refused.contains("move it away"), "{refused}");
    }
}

#[tokio::test]
async fn a_log_cut_short_is_refused_or_whole_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    for n in 0..20 {
        log.publish(n).await.unwrap();
    }
    log.close().await;
    let path = dir.path().join("queue.redb");
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 10, 4095, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        if let Ok(log) = Log::open(&config(dir.path())).await {
            log.close().await;
        }
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
    std::fs::rename(dir.path().join("queue.redb"), dir.path().join("away")).unwrap();
    let log = Log::open(&config(dir.path())).await.unwrap();
    assert_eq!(log.metrics.queue_records.get(), 0, "what was finished came back");
    log.close().await;
}
