//! A refusal as gRPC says it: a status, and in its details the refusal's word and when another try makes sense.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    ingress::refusal::Refusal,
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
