//! What the other nodes said a moment ago: they are asked once for all who want to know it within that moment.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::Instant;

/// An answer that is there or comes; who drops it costs the others nothing.
type SharedAnswer<T> = Shared<BoxFuture<'static, T>>;

/// Answers by what was asked.
pub(crate) struct RecentAnswers<K, T> {
    kept: Mutex<KeptAnswers<K, T>>,
    /// For how long an answer counts, from the moment in which it was asked for; zero: each is asked for anew.
    fresh: Duration,
    /// So many are kept.
    most: usize,
}

struct KeptAnswers<K, T> {
    answers: HashMap<K, (Instant, SharedAnswer<T>)>,
    /// When those that are old were dropped last.
    tidied: Instant,
}

impl<K: Clone + Eq + Hash, T: Clone> RecentAnswers<K, T> {
    /// None yet.
    pub(crate) fn new(fresh: Duration, most: usize) -> Self {
        let kept = KeptAnswers { answers: HashMap::new(), tidied: Instant::now() };
        Self { kept: Mutex::new(kept), fresh, most }
    }

    /// What was asked about `key` a moment ago, or `ask`. Where answers about too many keys are kept, it is asked for this one
    /// caller.
    pub(crate) async fn get_or(&self, key: &K, ask: impl FnOnce() -> BoxFuture<'static, T>) -> T {
        self.find(key, ask).await
    }

    fn find(&self, key: &K, ask: impl FnOnce() -> BoxFuture<'static, T>) -> SharedAnswer<T> {
        if self.fresh.is_zero() {
            return ask().shared();
        }
        let now = Instant::now();
        let is_fresh = |at: Instant| now.duration_since(at) < self.fresh;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, answer)) = kept.answers.get(key).filter(|(at, _)| is_fresh(*at)) {
            return answer.clone();
        }
        if !is_fresh(kept.tidied) {
            kept.answers.retain(|_, (at, _)| is_fresh(*at));
            kept.tidied = now;
        }
        let answer = ask().shared();
        if kept.answers.len() < self.most || kept.answers.contains_key(key) {
            kept.answers.insert(key.clone(), (now, answer.clone()));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_within_a_moment_shares_an_answer_and_what_is_old_is_dropped() {
        let answers = RecentAnswers::new(Duration::from_secs(1), 2);
        let asked = AtomicU32::new(0);
        let ask = || std::future::ready(asked.fetch_add(1, Ordering::Relaxed)).boxed();
        for (key, answer) in [("a", 0), ("a", 0), ("b", 1), ("a", 0)] {
            assert_eq!(answers.get_or(&key, ask).await, answer);
        }
        // there is no room for more
        assert_eq!((answers.get_or(&"c", ask).await, answers.get_or(&"c", ask).await), (2, 3));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((answers.get_or(&"c", ask).await, answers.get_or(&"c", ask).await), (4, 4));
        assert_eq!(answers.kept.lock().map(|kept| kept.answers.len()).ok(), Some(1));
        let anew = RecentAnswers::new(Duration::ZERO, 2);
        assert_eq!((anew.get_or(&"a", ask).await, anew.get_or(&"a", ask).await), (5, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_whose_first_asker_went_away_comes_to_the_others() {
        let answers = RecentAnswers::new(Duration::from_secs(1), 2);
        let ask = || tokio::time::sleep(Duration::from_millis(100)).map(|()| 7).boxed();
        let first = tokio::time::timeout(Duration::from_millis(10), answers.get_or(&"a", ask));
        assert!(first.await.is_err());
        assert_eq!(answers.get_or(&"a", || unreachable!("it is on its way")).await, 7);
    }
}
