//! What a crash, a power cut, and a disk that is full, fails or flips bits cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use super::*;
use crate::push::PushId;

/// What was asked for and what came of it.
#[derive(Default)]
struct StoreLedger {
    asked: BTreeMap<PushId, Vec<String>>,
    acknowledged: BTreeSet<PushId>,
    /// Asked for; some of them nobody was told of.
    deleting: BTreeSet<(String, u64)>,
    deleted: BTreeSet<(String, u64)>,
    /// What stood where, as dispatch was told: card, epoch, seq.
    places: BTreeMap<(String, u32, u64), PushId>,
    cursors: BTreeMap<String, u64>,
}

const CARDS: usize = 12;

fn card(n: usize) -> Address {
    Address::Card(format!("card-{n}").into())
}

/// All that is in the streams, by card.
fn all(rig: &Rig) -> BTreeMap<String, Vec<(u64, PushId)>> {
    let mut found = BTreeMap::new();
    for n in 0..CARDS {
        if rig.embedded().head(&card(n)).is_some() {
            let page = rig.page(&card(n), 0);
            let entries = page.entries.iter().map(|entry| (entry.seq, entry.push.id)).collect();
            found.insert(card(n).name().to_owned(), entries);
        }
    }
    found
}

fn rounds() -> u32 {
    std::env::var("OXIPUSH_CRASH_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// Stores, acknowledges and deletes until the power is cut, or the process is killed, at a random moment, again and again.
async fn cut_again_and_again(seed: u64, kill: bool, sync: config::Sync) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = TestDisk::default();
    let ledger = Arc::new(Mutex::new(StoreLedger::default()));
    for round in 0..rounds() {
        let mut rig = Rig::open(&disk, StoreLimits { sync, ..limits() }).await;
        let there = all(&rig);
        {
            let mut ledger = ledger.lock().unwrap();
            for (name, entries) in &there {
                assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "out of order in round {round}: {entries:?}");
                let ids: BTreeSet<_> = entries.iter().map(|(_, id)| *id).collect();
                assert_eq!(ids.len(), entries.len(), "one twice in round {round}");
                assert!(ids.iter().all(|id| ledger.asked.contains_key(id)), "invented in round {round}");
                let epoch = rig.epoch(&Address::Card(name.clone().into())).to_u32();
                for (seq, id) in entries {
                    let told = ledger.places.entry((name.clone(), epoch, *seq)).or_insert(*id);
                    assert_eq!(told, id, "another push at {seq} of {name} in round {round}");
                }
                for device in rig.embedded().describe(&Address::Card(name.clone().into())).unwrap().devices {
                    let acked = ledger.cursors.get(name).copied().unwrap_or(0);
                    assert!(device.seq <= acked, "an acknowledgement that was none in round {round}");
                }
            }
            for id in &ledger.acknowledged {
                for name in &ledger.asked[id] {
                    let entries = there.get(name).map_or(&[][..], Vec::as_slice);
                    let is_there = entries.iter().any(|(_, other)| other == id);
                    let place = ledger.places.iter().find(|((of, ..), other)| of == name && *other == id);
                    let is_deleted =
                        place.is_some_and(|((of, _, seq), _)| ledger.deleting.contains(&(of.clone(), *seq)));
                    assert!(is_there || is_deleted, "acknowledged and gone in round {round}: {name} {id}");
                }
            }
            let deleted = |name: &str, seq: u64| ledger.deleted.contains(&(name.to_owned(), seq));
            for (name, entries) in &there {
                assert!(!entries.iter().any(|(seq, _)| deleted(name, *seq)), "deleted and back in round {round}");
            }
        }
        let telling = tokio::spawn({
            let (ledger, bundles) = (ledger.clone(), rig.stored.bundles);
            async move {
                let mut bundles = bundles;
                while let Some(StoredPush { push, entries }) = bundles.next().await {
                    let mut ledger = ledger.lock().unwrap();
                    for (card, entry) in push.target.cards.iter().zip(entries) {
                        let before = ledger.places.insert((card.to_string(), entry.epoch.to_u32(), entry.seq), push.id);
                        assert!(before.is_none_or(|before| before == push.id), "a number was given twice");
                    }
                }
            }
        });
        let (_, nothing) = crate::bundles::channel(1);
        rig.stored = StoredPushes { bundles: nothing };
        let mut storing = Vec::new();
        for _ in 0..3 {
            let (store, ledger, mut random) = (rig.store.clone(), ledger.clone(), random.fork());
            storing.push(tokio::spawn(async move {
                loop {
                    let mut cards: Vec<usize> = (0..CARDS).collect();
                    random.shuffle(&mut cards);
                    cards.truncate(random.usize(1..4));
                    let target = Target::cards(cards.iter().map(|n| card(*n).name().to_owned().into()).collect());
                    let names = target.cards.iter().map(|card| card.to_string()).collect();
                    let push = Push { target, ..to(&alice(), &"x".repeat(random.usize(0..2000))) };
                    let id = push.id;
                    ledger.lock().unwrap().asked.insert(id, names);
                    let Ok(storing) = store.append(NewPush { push, claim: None }) else { return };
                    match storing.await {
                        Ok(_) => drop(ledger.lock().unwrap().acknowledged.insert(id)),
                        Err(_) => return,
                    }
                    let one = card(cards[0]);
                    match random.u8(0..6) {
                        0 => {
                            let device = DeviceKey::App("");
                            let _ = embedded(&store).attach(&one, Reader::Device(device, None));
                            let Some(head) = embedded(&store).head(&one) else { continue };
                            let seq = random.u64(0..=head.seq);
                            let mut ledger = ledger.lock().unwrap();
                            let acked = ledger.cursors.entry(one.name().to_owned()).or_default();
                            *acked = seq.max(*acked);
                            drop(ledger);
                            store.ack(one.name(), device, head.epoch, seq);
                        }
                        1 => {
                            let seq = random.u64(1..=embedded(&store).head(&one).map_or(1, |head| head.seq));
                            ledger.lock().unwrap().deleting.insert((one.name().to_owned(), seq));
                            if store.delete_entry(&one, seq).await == Ok(true) {
                                ledger.lock().unwrap().deleted.insert((one.name().to_owned(), seq));
                            }
                        }
                        _ => {}
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
        if kill {
            disk.kill();
        } else {
            disk.cut_power(&mut random);
        }
        for storing in storing {
            storing.await.unwrap();
        }
        rig.close().await;
        telling.await.unwrap();
        // what a delete or a push got through that nobody was told of is found by the next round
        let before = rig_of(&disk, sync).await;
        {
            let mut ledger = ledger.lock().unwrap();
            for (name, entries) in all(&before) {
                let there: BTreeSet<u64> = entries.iter().map(|(seq, _)| *seq).collect();
                let gone: Vec<_> = ledger
                    .places
                    .iter()
                    .filter(|((of, _, seq), id)| {
                        *of == name && !there.contains(seq) && !ledger.acknowledged.contains(*id)
                    })
                    .map(|(place, _)| place.clone())
                    .collect();
                for place in gone {
                    ledger.places.remove(&place);
                }
            }
        }
        before.close().await;
    }
}

async fn rig_of(disk: &TestDisk, sync: config::Sync) -> Rig {
    Rig::open(disk, StoreLimits { sync, ..limits() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    cut_again_and_again(31, false, config::Sync::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_takes_nothing_that_was_acknowledged_whatever_sync_is() {
    cut_again_and_again(32, true, config::Sync::Every(Duration::from_secs(60))).await;
}

#[tokio::test]
async fn with_sync_as_a_time_a_power_cut_renews_the_epochs_and_a_kill_or_an_orderly_stop_does_not() {
    let lazily = StoreLimits { sync: config::Sync::Every(Duration::from_secs(60)), ..limits() };
    let disk = TestDisk::default();
    let rig = Rig::open_in(&disk, lazily.clone(), [1; 16]).await;
    rig.append(to(&alice(), "1")).await.unwrap();
    let epoch = rig.epoch(&alice());
    disk.kill();
    rig.close().await;
    let rig = Rig::open_in(&disk, lazily.clone(), [1; 16]).await;
    assert_eq!(rig.epoch(&alice()), epoch, "the kernel has what a killed process wrote");
    rig.close().await;
    let rig = Rig::open_in(&disk, lazily.clone(), [2; 16]).await;
    assert_eq!(rig.epoch(&alice()), epoch, "the machine went down after the gateway had");
    let second = to(&alice(), "2");
    let id = second.id;
    rig.append(second).await.unwrap();
    disk.kill();
    rig.close().await;
    let rig = Rig::open_in(&disk, lazily.clone(), [3; 16]).await;
    let renewed = rig.epoch(&alice());
    assert_ne!(renewed, epoch);
    assert_eq!(rig.texts(&alice(), 0).len(), 2);
    let resume = Resume { epoch, seq: 2, id: Some(id) };
    let attached = rig.embedded().attach(&alice(), Reader::Device(PHONE, Some(resume))).unwrap();
    assert_eq!(at(attached), (2, 2, 0, true), "reset, and it has what it had");
    rig.append(to(&alice(), "3")).await.unwrap();
    rig.close().await;
    let rig = Rig::open_in(&disk, lazily, [4; 16]).await;
    assert_eq!(rig.epoch(&alice()), renewed, "it is renewed once");
    assert_eq!(rig.texts(&alice(), 0).len(), 3);
    rig.close().await;
    // always synced: nothing that was acknowledged can be gone
    let disk = TestDisk::default();
    let rig = Rig::open_in(&disk, limits(), [1; 16]).await;
    rig.append(to(&alice(), "1")).await.unwrap();
    let epoch = rig.epoch(&alice());
    disk.cut_power(&mut fastrand::Rng::with_seed(1));
    rig.close().await;
    let rig = Rig::open_in(&disk, limits(), [2; 16]).await;
    assert_eq!(rig.epoch(&alice()), epoch);
    rig.close().await;
}

/// A disk with pushes in several segments, and what is where.
async fn filled() -> (TestDisk, BTreeMap<String, Vec<(u64, PushId)>>, BTreeMap<String, Epoch>) {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    for n in 0..120 {
        rig.append(to(&card(n % CARDS), &"x".repeat(n * 17 % 1500))).await.unwrap();
    }
    let (there, epochs) = (all(&rig), (0..CARDS).map(|n| (card(n).name().to_owned(), rig.epoch(&card(n)))).collect());
    rig.close().await;
    (disk, there, epochs)
}

#[tokio::test]
async fn a_flipped_bit_costs_its_entry_only_and_is_told_and_no_number_is_given_twice() {
    let (disk, there, epochs) = filled().await;
    let mut random = fastrand::Rng::with_seed(77);
    let mut costs = 0;
    for _ in 0..60 {
        let mut contents = disk.contents();
        let used: Vec<(u32, usize)> = contents
            .iter()
            .filter_map(|(file, bytes)| Some((*file, bytes.iter().rposition(|byte| *byte != 0)?)))
            .collect();
        let (file, end) = random.choice(used).unwrap();
        let at = random.usize(0..end);
        contents.get_mut(&file).unwrap()[at] ^= 1 << random.u8(0..8);
        let damaged = TestDisk::with(contents);
        let rig = Rig::open(&damaged, limits()).await;
        let left = all(&rig);
        let mut gone = Vec::new();
        for (name, entries) in &there {
            let left = left.get(name).map_or(&[][..], Vec::as_slice);
            assert!(left.iter().all(|one| entries.contains(one)));
            gone.extend(entries.iter().filter(|one| !left.contains(one)).map(|one| (name.clone(), *one)));
        }
        assert!(gone.len() <= 1, "one bit cost {gone:?}");
        if let Some((name, (seq, _))) = gone.first() {
            costs += 1;
            assert!(rig.drops(DropReason::Lost) >= 1, "nobody was told");
            let entries = &there[name];
            let address = Address::Card(name.clone().into());
            if let Some(head) = rig.embedded().head(&address) {
                let is_newest = entries.last().unwrap().0 == *seq;
                assert_eq!(head.epoch == epochs[name], is_newest, "a hole in the middle renews the epoch");
                rig.append(to(&address, "next")).await.unwrap();
                let next = rig.embedded().head(&address).unwrap();
                assert!(next.epoch != epochs[name] || next.seq > entries.last().unwrap().0, "a number was given twice");
            }
        }
        let before = all(&rig);
        rig.close().await;
        // it is told once
        let rig = Rig::open(&damaged, limits()).await;
        assert_eq!((all(&rig), rig.drops(DropReason::Lost)), (before, 0));
        rig.close().await;
    }
    assert!(costs > 10, "too few of the flips hit a push: {costs}");
}

#[tokio::test]
async fn a_full_disk_refuses_by_name_and_goes_on_once_there_is_room() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let state = rig.control.state();
    disk.set_room(Some(300 << 10));
    let mut kept = 0;
    let refused = loop {
        match rig.append(to(&alice(), &"x".repeat(3000))).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, StoreError::Unavailable(told) if told.contains("no room")), "{refused}");
    eventually("it says so", || matches!(&*state.borrow(), StoreState::NotReady(told) if told.contains("no room")))
        .await;
    assert_eq!(rig.texts(&alice(), 0).len(), kept, "what is there is read all the same");
    disk.set_room(None);
    eventually("there is room again", || *state.borrow() == StoreState::Ready).await;
    rig.append(to(&alice(), "more")).await.unwrap();
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    assert_eq!(rig.texts(&alice(), 0).len(), kept + 1);
    rig.close().await;
}

#[tokio::test]
async fn a_disk_that_fails_costs_nothing_that_was_acknowledged_and_what_was_refused_leaves_a_hole() {
    for sync in [config::Sync::Always, config::Sync::Every(Duration::from_secs(60))] {
        let disk = TestDisk::default();
        let rig = Rig::open(&disk, StoreLimits { sync, ..limits() }).await;
        rig.append(to(&alice(), "1")).await.unwrap();
        disk.fail(true);
        let refused = rig.append(to(&alice(), "2")).await;
        assert!(matches!(&refused, Err(StoreError::Unavailable(told)) if told.contains("log")), "{refused:?}");
        let state = rig.control.state();
        assert!(matches!(&*state.borrow(), StoreState::NotReady(_)));
        disk.fail(false);
        eventually("it works again", || *state.borrow() == StoreState::Ready).await;
        rig.append(to(&alice(), "3")).await.unwrap();
        let texts = rig.texts(&alice(), 0);
        assert_eq!(texts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(texts[1].0, 3, "what may be there all the same keeps its number");
        rig.close().await;
        let rig = Rig::open(&disk, limits()).await;
        let texts: Vec<_> = rig.texts(&alice(), 0).into_iter().map(|(_, text)| text).collect();
        assert!(texts == ["1", "3"] || texts == ["1", "2", "3"], "{texts:?}");
        rig.close().await;
    }
}

#[tokio::test]
async fn whichever_write_fails_what_was_acknowledged_is_there_and_the_rest_is_refused() {
    // each waits a second for its disk to heal: side by side
    let all: Vec<_> = (0..40).map(|after| tokio::spawn(write_fails(after))).collect();
    for one in all {
        one.await.unwrap();
    }
}

/// The write after `after` more fails once.
async fn write_fails(after: u64) {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, limits()).await;
    let state = rig.control.state();
    let mut known = Vec::new();
    let mut refused = 0;
    disk.fail_after(after);
    for n in 0..30 {
        let push = to(&card(n % 3), &"x".repeat(3000));
        let id = push.id;
        match rig.append(push).await {
            Ok(_) => known.push(id),
            Err(StoreError::Unavailable(_)) => {
                refused += 1;
                eventually("it works again", || *state.borrow() == StoreState::Ready).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused <= 2, "{refused} were refused where one write failed");
    let here: BTreeSet<_> = all(&rig).into_values().flatten().map(|(_, id)| id).collect();
    assert!(known.iter().all(|id| here.contains(id)), "write {after}");
    disk.cut_power(&mut fastrand::Rng::with_seed(after));
    rig.close().await;
    let rig = Rig::open(&disk, limits()).await;
    let here: BTreeSet<_> = all(&rig).into_values().flatten().map(|(_, id)| id).collect();
    assert!(known.iter().all(|id| here.contains(id)), "write {after}, after a power cut");
    rig.close().await;
}

#[tokio::test]
async fn what_lives_on_moves_on_and_segments_of_dead_pushes_go() {
    let disk = TestDisk::default();
    let mut few = limits();
    few.stream.max_entries = 5;
    let rig = Rig::open(&disk, few.clone()).await;
    // what is to outlast all: a push, a cursor, a claim, a revocation, a stream whose only push was deleted
    let kept = NewPush { push: to(&room("kept"), "kept"), claim: Some(claim(1, 1)) };
    let id = kept.push.id;
    rig.append_new(kept).await.unwrap();
    rig.append(to(&card(0), "first")).await.unwrap();
    rig.append(to(&alice(), "1")).await.unwrap();
    rig.append(to(&alice(), "2")).await.unwrap();
    rig.embedded().attach(&alice(), Reader::Device(PHONE, None)).unwrap();
    let epoch = rig.embedded().head(&alice()).unwrap().epoch;
    rig.store.ack("alice", PHONE, epoch, 2);
    rig.store.delete_entry(&alice(), 1).await.unwrap();
    rig.store.delete_entry(&alice(), 2).await.unwrap();
    let second = unix_millis() / 1000;
    rig.store.revoke("mallory", second).await.unwrap();
    let epochs = (rig.epoch(&alice()), rig.epoch(&room("kept")));
    for n in 0..1500 {
        rig.append(to(&card(1 + n % 3), &"x".repeat(2000))).await.unwrap();
        if n % 100 == 0 {
            assert_eq!(rig.texts(&room("kept"), 0), [(1, "kept".to_owned())], "it is read while it moves");
        }
    }
    let used = disk.used();
    assert!(used < 24 * (64 << 10), "3 MB went through, and {used} bytes are left");
    assert_eq!(rig.drops(DropReason::Lost), 0);
    disk.cut_power(&mut fastrand::Rng::with_seed(5));
    rig.close().await;
    let rig = Rig::open(&disk, few).await;
    assert_eq!((rig.epoch(&alice()), rig.epoch(&room("kept"))), epochs);
    assert_eq!(rig.texts(&room("kept"), 0), [(1, "kept".to_owned())]);
    assert_eq!(rig.texts(&card(0), 0), [(1, "first".to_owned())]);
    assert_eq!(rig.texts(&card(2), 0).len(), 5);
    let info = rig.embedded().describe(&alice()).unwrap();
    assert_eq!((info.entries, info.head.seq, info.devices[0].seq), (0, 2, 2));
    assert_eq!(rig.embedded().revocations(), [("mallory".into(), second)]);
    let again = NewPush { push: to(&room("kept"), "kept"), claim: Some(claim(1, 1)) };
    assert_eq!(rig.append_new(again).await, Ok(Appended::Before(id)));
    rig.append(to(&alice(), "3")).await.unwrap();
    assert_eq!(rig.texts(&alice(), 0), [(3, "3".to_owned())]);
    assert_eq!(rig.drops(DropReason::Lost), 0);
    rig.close().await;
}

#[tokio::test]
async fn what_finds_no_room_on_its_way_to_dispatch_is_counted_and_there() {
    let disk = TestDisk::default();
    let rig = Rig::open(&disk, StoreLimits { memory_bytes: 64 << 10, ..limits() }).await;
    // nobody takes them: each is larger than a bundle
    for _ in 0..1100 {
        rig.append(to(&alice(), "x")).await.unwrap();
    }
    assert_eq!(rig.drops(DropReason::Wakeups), 1100 - 1024);
    assert_eq!(rig.embedded().take_changes(10)[0].1.seq, 1100);
    rig.close().await;
}
