//! go-push's `/stats`: its gateway's numbers and its logic's, which it writes with capitals, in one object.

use serde_json::json;

use crate::{
    ingress::{
        admission::PushSource,
        queries::{Answered, Counts},
        refusal::RefusalKind,
    },
    telemetry::{
        Metrics,
        labels::{DropReason, MergeTarget, PushLabels, PushOutcome},
    },
};

/// The object; connections and rooms are the cluster's, the rest is this node's. docs/dialects/go-push.md says what each number is here. A merger loses nothing: its failures are 0.
pub(in crate::ingress) fn object(metrics: &Metrics, counts: &Answered<Counts>) -> String {
    let dropped = |reasons: &[DropReason]| -> u64 {
        reasons.iter().filter_map(|reason| metrics.drops.get(reason)).map(|drops| drops.get()).sum()
    };
    let pushes = |outcomes: &[&'static str]| -> u64 {
        let labels = PushSource::ALL
            .iter()
            .flat_map(|source| outcomes.iter().map(|outcome| PushLabels { source: source.label(), outcome }));
        labels.filter_map(|labels| metrics.pushes.get(&labels).map(|pushes| pushes.get())).sum()
    };
    let merged = |target| metrics.merges.get(&target).map_or(0, |merges| merges.get());
    let slow = [DropReason::Slow, DropReason::DropOldest, DropReason::Conflated, DropReason::Closed];
    let undone = [DropReason::Attempts, DropReason::Undecodable, DropReason::Lost, DropReason::Expired];
    let mut stats = json!({
        "onlineConnections": counts.answer.connections,
        "sendMessageTotal": metrics.deliveries.get(),
        "sendMessageFail": dropped(&slow),
        "dispatchPending": metrics.publishes.get(),
        "pushJobPending": metrics.jobs_in_flight.get(),
        "dispatchFail": dropped(&undone),
        "roomCount": counts.answer.rooms,
        "mergerPending": metrics.merging.get(),
        "mergerRoomTotal": merged(MergeTarget::Room),
        "mergerAllTotal": merged(MergeTarget::Everyone),
        "mergerRoomFail": 0,
        "mergerAllFail": 0,
        "DispatchTotal": pushes(&[PushOutcome::Accepted.word()]),
        "DispatchFail": pushes(&[RefusalKind::Full.name(), RefusalKind::Rate.name()]),
        "PushFail": pushes(&[RefusalKind::Unavailable.name(), RefusalKind::TimedOut.name()]),
    });
    if !counts.missing.is_empty() {
        stats["missing"] = counts.missing.iter().map(|node| &**node).collect();
    }
    stats.to_string()
}
