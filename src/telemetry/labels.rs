//! The labels of metrics: an enum where the words are known here, a struct around a text where another table owns them.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder};

/// Defines enums of label values. Each names its metric and its label, so that docs/operations.md can be held to its words.
/// An enum is a label set by itself where its metric has no other label.
macro_rules! label_values {
    ($(
        $(#[$doc:meta])*
        $name:ident in $metric:literal by $label:literal { $($variant:ident = $word:literal,)+ }
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            #[allow(missing_docs)] // docs/operations.md says what each is
            pub enum $name { $($variant,)+ }

            impl $name {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$variant,)+];

                /// As it is shown.
                pub const fn word(self) -> &'static str {
                    match self { $(Self::$variant => $word,)+ }
                }
            }

            impl EncodeLabelValue for $name {
                fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                    EncodeLabelValue::encode(&self.word(), encoder)
                }
            }

            impl EncodeLabelSet for $name {
                fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                    [($label, self.word())].encode(encoder)
                }
            }
        )+

        /// Metric, label and words of each of these enums, for docs/operations.md's test.
        pub const LABEL_WORDS: &[(&str, &str, &[&str])] = &[$(($metric, $label, &[$($word,)+]),)+];
    };
}

label_values! {
    /// How a connection ended that the gateway did not close: the client's close code, or none.
    PeerCloseCode in "closes" by "code" {
        Normal = "1000",
        GoingAway = "1001",
        NoCode = "1005",
        Other = "other",
        Abnormal = "abnormal",
    }

    /// What became of a push that was not refused; a refusal counts under its own word.
    PushOutcome in "pushes" by "outcome" {
        Accepted = "accepted",
        Replayed = "replayed",
        CallerLeft = "caller_left",
        GivenUp = "given_up",
        ToNobody = "to_nobody",
    }

    /// An option that a push had.
    PushOption in "push_options" by "option" {
        Offline = "offline",
        Ttl = "ttl",
        IdempotencyKey = "idempotency_key",
    }

    /// What became of a call to rebalance.
    RebalanceOutcome in "rebalances" by "outcome" {
        Accepted = "accepted",
        Refused = "refused",
    }

    /// What the node does.
    NodeRole in "node_roles" by "role" {
        Ingress = "ingress",
        Socket = "socket",
    }

    /// What a refused request spoke.
    RequestProtocol in "requests" by "protocol" {
        Http = "http",
        Grpc = "grpc",
    }

    /// Why the gateway has a gRPC connection no more.
    GrpcCloseReason in "grpc_closes" by "reason" {
        Idle = "idle",
        Silent = "silent",
        Accept = "accept",
        Flood = "flood",
        Protocol = "protocol",
    }

    /// What became of a frame that was offered to an outbox.
    OfferOutcome in "offers" by "outcome" {
        Queued = "queued",
        Slow = "slow",
        Gone = "gone",
    }

    /// Why something was not delivered.
    DropReason in "drops" by "reason" {
        NoConnection = "no_connection",
        NoMatch = "no_match",
        Slow = "slow",
        DropOldest = "drop_oldest",
        Conflated = "conflated",
        Closed = "closed",
        Expired = "expired",
        Lost = "lost",
        Attempts = "attempts",
        Copy = "copy",
        Undecodable = "undecodable",
        Void = "void",
        Presence = "presence",
        PushedOut = "pushed_out",
        Wakeups = "wakeups",
    }

    /// What became of a question to another node.
    PeerOutcome in "peer_questions" by "outcome" {
        Answered = "answered",
        NoAddress = "no_address",
        Busy = "busy",
        Late = "late",
        Away = "away",
        Refused = "refused",
        Unready = "unready",
        WrongId = "wrong_id",
        TooLarge = "too_large",
        OtherQuestion = "other_question",
        Failed = "failed",
    }

    /// What became of a question of another node, or of who said to be one.
    PeerAnswerOutcome in "peer_answers" by "outcome" {
        Answered = "answered",
        Stranger = "stranger",
        Failed = "failed",
    }

    /// What became of a push that was to be stored.
    AppendOutcome in "store_appends" by "outcome" {
        Stored = "stored",
        Refused = "refused",
        Failed = "failed",
    }

    /// What became of a command to Redis.
    RedisOutcome in "redis_commands" by "outcome" {
        Done = "done",
        Refused = "refused",
        Away = "away",
        Unknown = "unknown",
    }

    /// Which nodes the directory sent a push to.
    DirectoryRoute in "directory_routes" by "route" {
        Nodes = "nodes",
        Nobody = "nobody",
        EveryNode = "every_node",
    }

    /// What became of a push whose client was gone from the node that the directory named.
    ForwardOutcome in "directory_forwards" by "outcome" {
        SentOn = "sent_on",
        Nobody = "nobody",
        Failed = "failed",
    }

    /// What became of a push in a shared store that nodes were to be told of.
    WakeOutcome in "store_wakes" by "outcome" {
        Told = "told",
        Dropped = "dropped",
    }

    /// Whom the pushes of a merge window were for.
    MergeTarget in "merges" by "target" {
        Room = "room",
        Everyone = "everyone",
    }

    /// What became of a job.
    JobOutcome in "jobs" by "outcome" {
        Finished = "finished",
        Requeued = "requeued",
        Dropped = "dropped",
    }

    /// Which of a node's clients of nsqd was built anew.
    NsqSide in "queue_rebuilds" by "side" {
        Publisher = "publisher",
        Consumer = "consumer",
    }

    /// What became of what a client presented to prove who it is.
    IdentityOutcome in "identities" by "outcome" {
        Verified = "verified",
        NoToken = "no_token",
        TooLong = "too_long",
        Malformed = "malformed",
        Critical = "crit",
        WrongAlgorithm = "alg",
        UnknownKey = "kid",
        BadSignature = "signature",
        WrongAudience = "aud",
        WrongIssuer = "iss",
        Expired = "exp",
        NotYet = "nbf",
        TooLongLife = "max_life",
        BadClaim = "claim",
        NoCard = "no_card",
        Revoked = "revoked",
        Refused = "refused",
        Away = "away",
    }

    /// What became of a configuration that was read again.
    ReloadOutcome in "reloads" by "outcome" {
        Applied = "applied",
        Refused = "refused",
    }

    /// What became of a fetch of the key set.
    JwksFetchOutcome in "jwks_fetches" by "outcome" {
        Good = "good",
        Failed = "failed",
    }

    /// What the call-out said of a client.
    CallOutOutcome in "call_outs" by "outcome" {
        Admitted = "admitted",
        Refused = "refused",
        Failed = "failed",
        Cached = "cached",
    }

    /// What became of an event for the back end.
    EventOutcome in "events" by "outcome" {
        Accepted = "accepted",
        Delivered = "delivered",
        Refused = "refused",
        Full = "full",
        Unread = "unread",
        Failed = "failed",
        Lost = "lost",
    }

    /// What became of a request to the webhook.
    EventRequestOutcome in "event_requests" by "outcome" {
        Taken = "taken",
        Refused = "refused",
        Failed = "failed",
    }

    /// Why a line of the log was not written.
    LineDropReason in "log_lines_dropped" by "reason" {
        Repeated = "repeated",
        Full = "full",
        Failed = "failed",
    }
}

/// Of handshakes that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectLabels {
    /// The dialect's name.
    pub dialect: &'static str,
}

/// Of handshakes that were refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedConnectLabels {
    /// The refusal's word, of docs/errors.md.
    pub reason: &'static str,
}

/// Of connections that ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// The gateway's close code, or a [`PeerCloseCode`].
    pub code: &'static str,
}

/// Of messages that a client got an error for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClientErrorLabels {
    /// The error's code, of docs/errors.md.
    pub error: &'static str,
}

/// Of pushes that came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PushLabels {
    /// Where from.
    pub source: &'static str,
    /// A [`PushOutcome`], or the refusal's word.
    pub outcome: &'static str,
}

/// Of orders to end clients that came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DisconnectLabels {
    /// Where from.
    pub source: &'static str,
    /// A [`PushOutcome`], or the refusal's word.
    pub outcome: &'static str,
}

/// Of what callers push, and of their requests that their key does not admit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallerLabels {
    /// The caller's name, never its key.
    pub caller: String,
    /// As [`PushLabels::outcome`].
    pub outcome: &'static str,
}

/// Of requests that were refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// What the request spoke.
    pub protocol: RequestProtocol,
    /// The status, by the protocol's own name.
    pub status: &'static str,
}

/// Of the program that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BuildLabels {
    /// The package's.
    pub version: &'static str,
    /// Of the processor, by Rust's name for it.
    pub arch: &'static str,
}
