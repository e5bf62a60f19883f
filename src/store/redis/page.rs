//! Pages of streams.

use std::io;

use redis::Value;

use super::{
    RedisStore,
    append::id_of,
    keys::{bytes_of, number_of},
    scripts,
};
use crate::{
    push::{PageEntry, PagePlace, StreamPage, unix_millis},
    record::{self, Record},
    redis_client::RedisCallError,
};

impl RedisStore {
    /// See [`crate::store::Store::read_pages`].
    pub(in crate::store) async fn read_pages(
        &self,
        places: Vec<PagePlace>,
        entries: usize,
        bytes: usize,
    ) -> Vec<(PagePlace, io::Result<Option<StreamPage>>)> {
        let call = |place: &PagePlace| {
            let keys = self.shared.keys.stream(&place.address);
            scripts::READ
                .with_keys(&[&keys.meta, &keys.entries])
                .arg(place.epoch.to_string())
                .arg(place.after)
                .arg(entries.max(1))
                .arg(bytes)
        };
        let calls: Vec<_> = places.iter().map(call).collect();
        let answers = self.shared.client.run_scripts(&calls).await;
        places.into_iter().zip(answers).map(|(place, answer)| read(place, answer)).collect()
    }
}

fn read(place: PagePlace, answer: Result<Value, RedisCallError>) -> (PagePlace, io::Result<Option<StreamPage>>) {
    let page = match answer {
        Ok(Value::Array(fields)) => Ok(page(&place, fields)),
        Ok(_) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    };
    (place, page)
}

/// From what read.lua answers.
fn page(place: &PagePlace, fields: Vec<Value>) -> Option<StreamPage> {
    let mut fields = fields.into_iter();
    let head = number_of(&fields.next()?);
    let head_id = id_of(&fields.next()?);
    let has_more = number_of(&fields.next()?) == 1;
    let after_id = id_of(&fields.next()?);
    let now = unix_millis();
    let mut page = StreamPage {
        address: place.address.clone(),
        epoch: place.epoch,
        after: place.after,
        after_id,
        entries: Vec::with_capacity(fields.len() / 4),
        end: head,
        end_id: head_id,
        head,
    };
    let mut last = None;
    while let (Some(seq), Some(id), Some(left), Some(record)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    {
        let seq = number_of(&seq);
        last = Some((seq, id_of(&id)));
        let record = match record {
            Value::BulkString(bytes) => bytes,
            other => bytes_of(&other).to_vec(),
        };
        match record::decode(record.into()) {
            Ok(Record::Push(mut push)) => {
                // by Redis's clock: who stored it may have had another than this node
                push.deadline = push.deadline.map(|_| now.saturating_add(number_of(&left)));
                page.entries.push(PageEntry { seq, push });
            }
            Ok(Record::Stored(_) | Record::Disconnect(_) | Record::Rebalance(_) | Record::Presence(_)) | Err(_) => {
                tracing::error!(seq, "a stored push in Redis cannot be read: was it written by a newer version?");
            }
        }
    }
    if let Some((seq, id)) = last.filter(|_| has_more) {
        (page.end, page.end_id) = (seq, id);
    }
    Some(page)
}
