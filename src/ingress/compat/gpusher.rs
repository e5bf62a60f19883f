//! gpusher: `POST /v1/push` with a tag and a body, `POST /v1/token`, and the same pushes as records on a tag's topic.
//!
//! Its table of errors (100–105, 150–153) was meant to be answered and never was: each failure came as -1, `system error`. Here it is
//! answered as meant, in the envelope `{"Code":0,"Data":{"code":101,"msg":"…"},"Msg":"error"}` with HTTP 200.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use serde_json::{Map, Value, json};

use crate::{
    auth::identity::TokenSigner,
    config::{Config, GpusherConfig, PushLimits, SecretDigest, TokenConfig},
    ingress::{
        draft::{Draft, PushOptions},
        nodes::ClientPlace,
        refusal::{Refusal, RefusalKind},
    },
    push::{Content, NameRule},
};

/// The longest `expireTime` that gpusher takes, in seconds: a week.
const LONGEST_EXPIRE_TIME: u64 = 3600 * 24 * 7;
/// How long its tokens are good.
const TOKEN_LIFE: Duration = Duration::from_secs(3600 * 8);

/// Its table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingress) enum GpusherCode {
    PushFailed,
    NoTag,
    NoUuid,
    BadType,
    NoContent,
    BadExpireTime,
    TokenFailed,
    WrongPassword,
}

impl GpusherCode {
    fn number(self) -> u16 {
        match self {
            Self::PushFailed => 100,
            Self::NoTag => 101,
            Self::NoUuid => 102,
            Self::BadType => 103,
            Self::NoContent => 104,
            Self::BadExpireTime => 105,
            Self::TokenFailed => 150,
            Self::WrongPassword => 151,
        }
    }

    /// gpusher's own text.
    fn text(self) -> &'static str {
        match self {
            Self::PushFailed => "推送失败",
            Self::NoTag => "缺失推送应用tag",
            Self::NoUuid => "缺失推送uuid",
            Self::BadType => "缺失推送类型",
            Self::NoContent => "缺失推送内容",
            Self::BadExpireTime => "超过最大过期时间",
            Self::TokenFailed => "生成token失败",
            Self::WrongPassword => "用户不存在/密码错误",
        }
    }
}

/// A refusal by the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ingress) struct GpusherRefusal {
    code: GpusherCode,
    /// The text of the table alone says what is wrong.
    is_plain: bool,
    pub(in crate::ingress) refusal: Refusal,
}

impl GpusherRefusal {
    /// What the table's own text says; `message` is for the log.
    fn plain(code: GpusherCode, message: &'static str) -> Self {
        Self { code, is_plain: true, refusal: Refusal::new(RefusalKind::BadField, message) }
    }

    /// What the table has only a near word for: the refusal's message stands behind it.
    pub(in crate::ingress) fn near(code: GpusherCode, refusal: Refusal) -> Self {
        Self { code, is_plain: false, refusal }
    }

    /// As it is answered.
    pub(in crate::ingress) fn body(&self) -> String {
        let code = self.code.number();
        let text = self.code.text();
        let text = if self.is_plain { text.to_owned() } else { format!("{text}: {}", self.refusal.message) };
        let text = json!(text);
        format!(r#"{{"Code":0,"Data":{{"code":{code},"msg":{text}}},"Msg":"error"}}"#)
    }

    /// The status: gpusher says 200 where its table has a word, and 400 for what is not JSON; what it never says (too many, away) has
    /// its own.
    pub(in crate::ingress) fn is_said_with_200(&self) -> bool {
        matches!(self.refusal.kind, RefusalKind::BadField | RefusalKind::NoStore)
    }
}

/// A refusal of what its table has no word for.
impl From<Refusal> for GpusherRefusal {
    fn from(refusal: Refusal) -> Self {
        Self::near(GpusherCode::PushFailed, refusal)
    }
}

/// The answer to an accepted push.
pub(in crate::ingress) const ACCEPTED: &str = r#"{"Code":1,"Msg":"ok"}"#;

/// Reads a push; on `topic`, the topic of a tag, the tag need not be said again.
pub(in crate::ingress) fn push(
    message: &[u8],
    topic: Option<&str>,
    config: &GpusherConfig,
    limits: &PushLimits,
) -> Result<Draft, GpusherRefusal> {
    let fields = GoObject::read(message)?;
    let body = fields.object("body")?;
    let tag = match (fields.text("tag")?, topic) {
        ("", Some(topic)) => topic,
        (tag, _) => tag,
    };
    let kind = body.integer("type")?;
    let uuid: ByteString = body.text("uuid")?.into();
    let content: ByteString = body.text("content")?.into();
    let expire_time = body.integer("expireTime")?;
    let offline_push = body.flag("offlinePush")?;
    if tag.is_empty() {
        return Err(GpusherRefusal::plain(GpusherCode::NoTag, "`tag` is missing"));
    }
    if !(1..=3).contains(&kind) {
        return Err(GpusherRefusal::plain(GpusherCode::BadType, "`type` is none of 1, 2 and 3"));
    }
    if kind == 1 && uuid.is_empty() {
        return Err(GpusherRefusal::plain(GpusherCode::NoUuid, "`uuid` is missing"));
    }
    if content.is_empty() {
        return Err(GpusherRefusal::plain(GpusherCode::NoContent, "`content` is missing"));
    }
    if expire_time > LONGEST_EXPIRE_TIME {
        return Err(GpusherRefusal::plain(GpusherCode::BadExpireTime, "`expireTime` is more than a week"));
    }
    let longest = limits.max_ttl.as_secs();
    if expire_time > longest {
        let refusal =
            Refusal::field("expireTime", format_args!("is {expire_time}; at most {longest} ([store] max_ttl)"));
        return Err(GpusherRefusal::near(GpusherCode::BadExpireTime, refusal));
    }
    if offline_push && kind != 1 {
        return Err(Refusal::field("offlinePush", "needs `type` 1: a push is stored for one `uuid`").into());
    }
    // 0 is none, as gpusher has it
    let ttl = (expire_time > 0).then_some(expire_time);
    let options = PushOptions { offline: offline_push, ttl, ..PushOptions::default() };
    let app = config.app_of(tag).filter(|_| topic.is_none_or(|topic| topic == tag));
    let app = app.ok_or_else(|| GpusherRefusal::near(GpusherCode::NoTag, unknown_tag(tag, topic)))?;
    let content = Some(Content::Text(content));
    match kind {
        1 => {
            let name = NameRule { max: limits.max_name };
            name.check(&uuid)
                .map_err(|error| GpusherRefusal::near(GpusherCode::NoUuid, Refusal::field("uuid", error)))?;
            Ok(Draft { to: vec![uuid], app: app.into(), content, options, ..Draft::default() })
        }
        2 => Ok(Draft { app: app.into(), content, options, ..Draft::default() }),
        _ => Ok(Draft { everyone: true, content, options, ..Draft::default() }),
    }
}

fn unknown_tag(tag: &str, topic: Option<&str>) -> Refusal {
    let tag: String = tag.chars().take(64).collect();
    match topic {
        Some(topic) => Refusal::field("tag", format_args!("{tag:?} is not that of this topic, {topic}")),
        None => Refusal::field("tag", format_args!("{tag:?} is not among [gpusher] tags")),
    }
}

/// A JSON object as Go reads it: its fields are found in any case.
struct GoObject(Map<String, Value>);

impl GoObject {
    fn read(message: &[u8]) -> Result<Self, Refusal> {
        let fields = serde_json::from_slice(message);
        fields.map(Self).map_err(|error| {
            let message = format!("the message is no JSON object: {error}; send {{\"tag\":…,\"body\":{{…}}}}");
            Refusal::new(RefusalKind::BadJson, message)
        })
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.0.get(name);
        let found =
            exact.or_else(|| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
        found.filter(|value| !value.is_null())
    }

    fn object(&self, name: &str) -> Result<Self, Refusal> {
        match self.get(name) {
            None => Ok(Self(Map::new())),
            Some(Value::Object(fields)) => Ok(Self(fields.clone())),
            Some(_) => Err(wrong_type(name, "an object")),
        }
    }

    fn text(&self, name: &str) -> Result<&str, Refusal> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(wrong_type(name, "a string")),
        }
    }

    fn integer(&self, name: &str) -> Result<u64, Refusal> {
        match self.get(name) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| wrong_type(name, "a whole number, 0 or more")),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong_type(name, "true or false")),
        }
    }
}

/// gpusher cannot bind it either, and answers 400.
fn wrong_type(name: &str, right: &str) -> Refusal {
    Refusal::new(RefusalKind::BadJson, format!("`{name}` must be {right}"))
}

/// Who asks for a token, and for whom.
#[derive(Debug)]
pub(in crate::ingress) struct TokenRequest {
    pub(in crate::ingress) uuid: ByteString,
    login: SecretDigest,
}

impl TokenRequest {
    /// Reads the body of `POST /v1/token`.
    pub(in crate::ingress) fn read(message: &[u8], limits: &PushLimits) -> Result<Self, GpusherRefusal> {
        let fields = GoObject::read(message)?;
        let uuid: ByteString = fields.text("uuid")?.into();
        NameRule { max: limits.max_name }
            .check(&uuid)
            .map_err(|error| GpusherRefusal::near(GpusherCode::TokenFailed, Refusal::field("uuid", error)))?;
        Ok(Self { uuid, login: login(fields.text("username")?, fields.text("password")?) })
    }
}

/// Both as one value whose comparison tells nothing of them.
fn login(username: &str, password: &str) -> SecretDigest {
    SecretDigest::of(&[username.as_bytes(), b"\0", password.as_bytes()].concat())
}

/// The answer with a token, and where its client should connect: the first of `places`, which gpusher knows, and all of them.
///
/// # Errors
/// There is none.
pub(in crate::ingress) fn with_places(token: &str, places: &[ClientPlace]) -> Result<String, GpusherRefusal> {
    let Some(first) = places.first() else {
        let message = "no node that holds clients is there: try again later";
        return Err(Refusal::new(RefusalKind::Unavailable, message).into());
    };
    let urls: Vec<&str> = places.iter().map(|place| place.url.as_str()).collect();
    let data = json!({"token": token, "gatewayAddr": first.address, "connect": urls});
    Ok(format!(r#"{{"Code":1,"Data":{data},"Msg":"ok"}}"#))
}

/// Makes the tokens that `POST /v1/token` asks for, with the key by which this gateway verifies them.
pub(in crate::ingress) struct TokenIssuer {
    /// `None`: no `[gpusher] username` and `password`.
    login: Option<SecretDigest>,
    token: TokenConfig,
}

impl TokenIssuer {
    pub(in crate::ingress) fn new(config: &Config) -> Self {
        let GpusherConfig { username, password, .. } = &config.gpusher;
        let given = !username.is_empty() && !password.expose().is_empty();
        Self { login: given.then(|| login(username, password.expose())), token: config.token.clone() }
    }

    /// A token for the uuid.
    pub(in crate::ingress) fn token(&self, request: &TokenRequest) -> Result<String, GpusherRefusal> {
        let Some(login) = self.login else {
            let refusal = Refusal::new(RefusalKind::BadField, "[gpusher] username and password are not set");
            return Err(GpusherRefusal::near(GpusherCode::WrongPassword, refusal));
        };
        if login != request.login {
            return Err(GpusherRefusal::plain(GpusherCode::WrongPassword, "`username` or `password` is wrong"));
        }
        self.sign(&request.uuid)
            .map_err(|error| GpusherRefusal::near(GpusherCode::TokenFailed, Refusal::new(RefusalKind::BadField, error)))
    }

    fn sign(&self, uuid: &str) -> Result<String, String> {
        let secret = self.token.secret.as_ref();
        let secret = secret.ok_or("there is no [token] secret to sign with")?;
        let signer = TokenSigner::of_secret(secret).map_err(|error| error.to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = now + TOKEN_LIFE.min(self.token.max_life);
        let mut claims = Map::new();
        // gpusher's own, then those by which this gateway knows the card
        claims.insert("uuid".to_owned(), uuid.into());
        claims.insert(self.token.card_claim.clone(), uuid.into());
        for (claim, known) in [("aud", &self.token.audience), ("iss", &self.token.issuer)] {
            if let Some(first) = known.first() {
                claims.insert(claim.to_owned(), first.as_str().into());
            }
        }
        for (claim, at) in [("nbf", now), ("iat", now), ("exp", end)] {
            claims.insert(claim.to_owned(), at.as_secs().into());
        }
        signer.sign(None, &claims).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config;

    const LIMITS: PushLimits =
        PushLimits { max_content: 1000, max_cards: 10, max_name: 16, max_batch: 3, max_ttl: Duration::from_secs(3600) };

    fn config(settings: &[(&str, &str)]) -> Config {
        let tags = [("GPUSHER__TAGS", "app_gpusher, app_tv:tv")];
        let all = tags.iter().chain(settings).map(|(key, value)| (format!("OXIPUSH__{key}"), (*value).to_owned()));
        config::load(None, all).unwrap()
    }

    fn read(message: &str) -> Result<Draft, GpusherRefusal> {
        push(message.as_bytes(), None, &config(&[]).gpusher, &LIMITS)
    }

    #[test]
    fn a_type_says_whether_it_is_for_a_user_an_app_or_everyone() {
        let of = |tag: &str, body: &str| read(&format!(r#"{{"tag":"{tag}","body":{body}}}"#)).unwrap();
        let user = of(
            "app_gpusher",
            r#"{"type":1,"uuid":"liangjf","content":"hi","expireTime":0,"offlinePush":false,"msgSeq":7}"#,
        );
        assert_eq!((&user.to[..], &*user.app, user.everyone), (&["liangjf".into()][..], "app_gpusher", false));
        assert_eq!(user.content, Some("hi".into()));
        let app = of("app_tv", r#"{"Type":2,"CONTENT":"hi"}"#);
        assert_eq!((app.to.len(), &*app.app, app.everyone), (0, "tv", false), "keys in any case, uuid optional");
        let all = of("app_gpusher", r#"{"type":3,"uuid":"ignored","content":"hi"}"#);
        assert_eq!((all.to.len(), &*all.app, all.everyone), (0, "", true));
    }

    #[test]
    fn an_expire_time_is_its_ttl_and_an_offline_push_is_stored_for_its_user() {
        let of = |kind: u8, options: &str| {
            let body = format!(r#"{{"type":{kind},"uuid":"liangjf","content":"hi",{options}}}"#);
            read(&format!(r#"{{"tag":"app_gpusher","body":{body}}}"#)).unwrap().options
        };
        let options = |offline, ttl| PushOptions { offline, ttl, ..PushOptions::default() };
        assert_eq!(of(1, r#""expireTime":3600,"offlinePush":false"#), options(false, Some(3600)));
        assert_eq!(of(1, r#""expireTime":3600,"offlinePush":true"#), options(true, Some(3600)));
        assert_eq!(of(1, r#""expireTime":0,"offlinePush":true"#), options(true, None));
        assert_eq!(of(2, r#""expireTime":5"#), options(false, Some(5)));
        assert_eq!(of(3, r#""expireTime":5,"offlinePush":false"#), options(false, Some(5)));
    }

    #[test]
    fn the_table_is_answered_as_it_was_meant_in_the_order_of_its_checks() {
        for (message, body) in [
            (r#"{"body":{"type":9}}"#, r#"{"Code":0,"Data":{"code":101,"msg":"缺失推送应用tag"},"Msg":"error"}"#),
            (r#"{"tag":"app_gpusher"}"#, r#"{"Code":0,"Data":{"code":103,"msg":"缺失推送类型"},"Msg":"error"}"#),
            (
                r#"{"tag":"app_gpusher","body":{"type":4}}"#,
                r#"{"Code":0,"Data":{"code":103,"msg":"缺失推送类型"},"Msg":"error"}"#,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":1}}"#,
                r#"{"Code":0,"Data":{"code":102,"msg":"缺失推送uuid"},"Msg":"error"}"#,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":2}}"#,
                r#"{"Code":0,"Data":{"code":104,"msg":"缺失推送内容"},"Msg":"error"}"#,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":3,"content":"x","expireTime":604801}}"#,
                r#"{"Code":0,"Data":{"code":105,"msg":"超过最大过期时间"},"Msg":"error"}"#,
            ),
        ] {
            let refusal = read(message).unwrap_err();
            assert_eq!(refusal.body(), body, "{message}");
            assert!(refusal.is_said_with_200());
        }
    }

    #[test]
    fn what_the_table_has_only_a_near_word_for_has_more_behind_it() {
        for (message, code, told, with_200) in [
            (
                r#"{"tag":"app_x","body":{"type":2,"content":"x"}}"#,
                101,
                r#""app_x\" is not among [gpusher] tags"#,
                true,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":3,"content":"x","expireTime":3601}}"#,
                105,
                "`expireTime` is 3601; at most 3600 ([store] max_ttl)",
                true,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":2,"content":"x","offlinePush":true}}"#,
                100,
                "`offlinePush` needs `type` 1",
                true,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":3,"content":"x","offlinePush":true}}"#,
                100,
                "`offlinePush` needs `type` 1",
                true,
            ),
            (
                r#"{"tag":"app_gpusher","body":{"type":1,"uuid":"more-than-16-bytes","content":"x"}}"#,
                102,
                "`uuid` has 18 bytes",
                true,
            ),
            ("{", 100, "no JSON object", false),
            ("", 100, "no JSON object", false),
            (r#"{"tag":"app_gpusher","body":{"type":"1"}}"#, 100, "`type` must be a whole number", false),
            (r#"{"tag":"app_gpusher","body":{"expireTime":-1}}"#, 100, "`expireTime` must be a whole number", false),
            (r#"{"tag":1}"#, 100, "`tag` must be a string", false),
            (r#"{"tag":"app_gpusher","body":"x"}"#, 100, "`body` must be an object", false),
        ] {
            let refusal = read(message).unwrap_err();
            let body = refusal.body();
            assert!(body.contains(&format!(r#""code":{code},"#)) && body.contains(told), "{message}: {body}");
            assert_eq!(refusal.is_said_with_200(), with_200, "{message}");
        }
    }

    #[test]
    fn a_record_of_a_tags_topic_is_of_that_tag() {
        let config = config(&[]).gpusher;
        let of = |message: &str| push(message.as_bytes(), Some("app_tv"), &config, &LIMITS);
        assert_eq!(of(r#"{"tag":"app_tv","body":{"type":2,"content":"x"}}"#).unwrap().app, "tv");
        assert_eq!(of(r#"{"body":{"type":2,"content":"x"}}"#).unwrap().app, "tv");
        let other = of(r#"{"tag":"app_gpusher","body":{"type":2,"content":"x"}}"#).unwrap_err();
        assert!(other.refusal.message.contains("is not that of this topic"), "{}", other.refusal.message);
    }

    #[test]
    fn a_token_is_for_whom_the_configured_user_asks() {
        let secret = "0123456789abcdef0123456789abcdef";
        let set = [("GPUSHER__USERNAME", "web"), ("GPUSHER__PASSWORD", "hush")];
        let ask = |config: &Config, login: &str| {
            let message = format!(r#"{{"uuid":"liangjf",{login}}}"#);
            let token = TokenIssuer::new(config).token(&TokenRequest::read(message.as_bytes(), &LIMITS)?)?;
            let place = ClientPlace { address: "127.0.0.1:8080".into(), url: "ws://127.0.0.1:8080/ws".into() };
            with_places(&token, &[place])
        };
        let good = r#""username":"web","password":"hush""#;
        let whole = config(&[&set[..], &[("TOKEN__SECRET", secret)]].concat());
        let answer: Value = serde_json::from_str(&ask(&whole, good).unwrap()).unwrap();
        assert_eq!((&answer["Code"], &answer["Msg"]), (&json!(1), &json!("ok")));
        assert_eq!(answer["Data"]["gatewayAddr"], "127.0.0.1:8080");
        assert_eq!(answer["Data"]["connect"], json!(["ws://127.0.0.1:8080/ws"]));
        assert!(with_places("t", &[]).unwrap_err().refusal.message.contains("no node that holds clients"));
        assert_eq!(answer["Data"]["token"].as_str().unwrap().split('.').count(), 3);
        for (config, login, code, told) in [
            (&whole, r#""username":"web","password":"wrong""#, 151, "错误\""),
            (&whole, r#""username":"webhush","password":"""#, 151, "错误\""),
            (&config(&[("TOKEN__SECRET", secret)]), good, 151, "[gpusher] username and password are not set"),
            (&config(&[("TOKEN__SECRET", secret)]), r#""username":"","password":"""#, 151, "are not set"),
            (&config(&set), good, 150, "there is no [token] secret"),
            (&whole, r#""uuid":"""#, 150, "`uuid` is empty"),
        ] {
            let body = ask(config, login).unwrap_err().body();
            assert!(body.contains(&format!(r#""code":{code},"#)) && body.contains(told), "{login}: {body}");
        }
    }
}
