//! A refusal as gRPC says it: a status, and in its details the refusal's word and when another try makes sense.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    ingress::refusal::{Refusal, RefusalKind},
    telemetry::{
        Metrics,
        labels::{RequestLabels, RequestProtocol},
    },
};

/// Whose words the reasons are (google.rpc.ErrorInfo).
const DOMAIN: &str = "oxipush";

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let wait = refusal.retry_after();
        let Refusal { kind, message, .. } = refusal;
        let mut details = ErrorDetails::with_error_info(kind.name(), DOMAIN, HashMap::new());
        if wait.is_some() {
            details.set_retry_info(wait);
        }
        Self::with_error_details(kind.grpc().unwrap_or(Code::InvalidArgument), message, details)
    }
}

/// A status with a word in its details, too, where gRPC's library made it and gave it none.
pub(super) fn worded(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    let word = match status.code() {
        Code::Internal if status.message().contains("UTF-8") => RefusalKind::NotUtf8.name(),
        Code::Internal => "not_protobuf",
        Code::Unimplemented => RefusalKind::WrongType.name(),
        Code::NotFound => RefusalKind::NotFound.name(),
        // of a caller that left
        _ => return status,
    };
    let details = ErrorDetails::with_error_info(word, DOMAIN, HashMap::new());
    let metadata = status.metadata().clone();
    Status::with_error_details_and_metadata(status.code(), status.message(), details, metadata)
}

/// Counts a refused request.
pub(super) fn count(metrics: &Metrics, code: Code) {
    let status = match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Internal => "INTERNAL",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        _ => "other",
    };
    count_as(metrics, status);
}

/// Counts a request that was refused with a status of this name.
pub(super) fn count_as(metrics: &Metrics, status: &'static str) {
    metrics.requests.get_or_create(&RequestLabels { protocol: RequestProtocol::Grpc, status }).inc();
}
