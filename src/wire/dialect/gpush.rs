//! gpush's dialect: `{"code":…,"topic":…,"data":…}` from the client, `{"code":…,"message":…}` to it, pushes without anything
//! around them. `gpush/` has what the original took and sent; what it was meant to do and did not is done here.

use bytes::Bytes;
use bytestring::ByteString;

use super::{ClientError, Command, DialectCodec, RoomRequest, Subscribed, go_json};
use crate::{
    push::{Content, PRIVATE_TOPICS, Push},
    wire::{close::Ending, frame::Frame},
};

const CONNECTED: &str = r#"{"code":20000,"message":"连接成功"}"#;
const SUBSCRIBED: &str = r#"{"code":20001,"message":"订阅成功"}"#;
const UNSUBSCRIBED: &str = r#"{"code":20002,"message":"取消订阅成功"}"#;
const LOGGED_IN: &str = r#"{"code":20003,"message":"登录成功"}"#;
/// Of the same code as a login, in gpush too.
const LOGGED_OUT: &str = r#"{"code":20003,"message":"退出成功"}"#;
const MALFORMED: &str = r#"{"code":30001,"message":"操作有误","detail":"数据格式不正确"}"#;
const NOT_LOGGED_IN: &str = r#"{"code":30002,"message":"操作有误","detail":"未登录"}"#;
const BAD_TOKEN: &str = r#"{"code":30003,"message":"token验证失败","detail":"token验证失败"}"#;

pub(super) struct Gpush;

impl DialectCodec for Gpush {
    fn label(&self) -> &'static str {
        "gpush"
    }

    fn parse(&self, text: &ByteString) -> Command {
        if text.eq_ignore_ascii_case("ping") {
            return Command::Ping;
        }
        parse(text).unwrap_or_else(Command::ClientError)
    }

    /// gpush does not look at the kind of a frame; Go reads what is no UTF-8 as U+FFFD.
    fn parse_binary(&self, bytes: &Bytes) -> Command {
        self.parse(&String::from_utf8_lossy(bytes).into_owned().into())
    }

    fn push(&self, push: &Push) -> Frame {
        match &push.content {
            Content::Text(text) | Content::Json(text) => Frame::text(text),
            Content::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Frame::text(text),
                Err(_) => Frame::binary(bytes),
            },
        }
    }

    fn greeting(&self) -> Option<Frame> {
        Some(Frame::text(CONNECTED))
    }

    fn subscribed(&self, _subscribed: &Subscribed<'_>) -> Option<Frame> {
        Some(Frame::text(SUBSCRIBED))
    }

    fn unsubscribed(&self, _room: &str) -> Option<Frame> {
        Some(Frame::text(UNSUBSCRIBED))
    }

    fn logged_in(&self) -> Option<Frame> {
        Some(Frame::text(LOGGED_IN))
    }

    fn logged_out(&self) -> Option<Frame> {
        Some(Frame::text(LOGGED_OUT))
    }

    fn pong(&self) -> Frame {
        Frame::text("pong")
    }

    /// Every error is told, and none is the end.
    fn error(&self, error: &ClientError) -> Result<Option<Frame>, Ending> {
        let answer = match error.code {
            // gpush says so too of a topic that was not subscribed
            "not_subscribed" => UNSUBSCRIBED,
            "not_joined" => NOT_LOGGED_IN,
            "no_token" | "bad_token" | "token_expired" | "token_not_yet" | "token_revoked" | "refused"
            | "tokens_differ" | "wrong_card" | "wrong_app" | "card_full" | "unsupported" => BAD_TOKEN,
            _ => MALFORMED,
        };
        Ok(Some(Frame::text(answer)))
    }

    /// A card comes with a login, which is for private topics only.
    fn needs_card(&self) -> bool {
        false
    }
}

fn parse(text: &str) -> Result<Command, ClientError> {
    let [code, topic, data] = go_json::fields(text, ["code", "topic", "data"])?;
    let code: u8 = match code {
        Some(code) => serde_json::from_str(code.get())?,
        None => 0,
    };
    let topic = go_json::text(topic)?;
    let room = |private| RoomRequest { room: topic.clone().into_owned().into(), private, resume: None };
    match code {
        // those are the names of private topics' rooms
        1 | 2 if topic.starts_with(PRIVATE_TOPICS) => {
            Err(ClientError::new("bad_name", "the names of public topics do not begin with private-"))
        }
        1 => Ok(Command::Subscribe(room(false))),
        2 => Ok(Command::Unsubscribe(room(false))),
        // without a text nothing is proved, as by a wrong one
        3 => Ok(Command::Login(go_json::text(data).unwrap_or_default().into_owned().into())),
        4 => Ok(Command::Logout),
        5 => Ok(Command::Subscribe(room(true))),
        6 => Ok(Command::Unsubscribe(room(true))),
        _ => Err(ClientError::new("unknown_event", "unknown code; send one of 1 to 6, or ping")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::dialect::{
        Dialect,
        golden::{self, Heard},
        tests::text_of,
    };

    const GPUSH: Dialect = Dialect::Gpush;

    /// Answers as a gateway that lets everyone in who says `u1`.
    fn answer(said: &str, is_logged_in: &mut bool) -> Frame {
        let error = |code| GPUSH.error(&ClientError::new(code, "x")).unwrap();
        let answer = match GPUSH.parse(&said.into()) {
            Command::Ping => Some(GPUSH.pong()),
            Command::Subscribe(RoomRequest { private: true, .. })
            | Command::Unsubscribe(RoomRequest { private: true, .. })
                if !*is_logged_in =>
            {
                error("not_joined")
            }
            Command::Subscribe(RoomRequest { room, .. }) => {
                GPUSH.subscribed(&Subscribed { room: &room, presence: None, stream: None })
            }
            Command::Unsubscribe(RoomRequest { room, .. }) => GPUSH.unsubscribed(&room),
            Command::Login(token) => {
                *is_logged_in |= token == "u1";
                if token == "u1" { GPUSH.logged_in() } else { error("refused") }
            }
            Command::Logout if *is_logged_in => {
                *is_logged_in = false;
                GPUSH.logged_out()
            }
            Command::Logout => error("not_joined"),
            Command::ClientError(error) => GPUSH.error(&error).unwrap(),
            other => panic!("{said} gave {other:?}"),
        };
        answer.unwrap()
    }

    #[test]
    fn what_clients_say_is_answered_in_gpushs_words() {
        let mut is_logged_in = false;
        let mut said = 0;
        for exchange in golden::exchanges(include_str!("gpush/exchanges.txt")) {
            let frame = answer(exchange.said, &mut is_logged_in);
            assert_eq!([Heard::Text(text_of(&frame))], exchange.heard[..], "{}", exchange.said);
            said += 1;
        }
        assert!(said >= 20);
        // with a line end behind it, it is none
        assert_eq!(text_of(&answer("ping\n", &mut is_logged_in)), MALFORMED);
        assert_eq!(text_of(&GPUSH.greeting().unwrap()), CONNECTED);
    }

    #[test]
    fn topics_and_tokens_are_read_from_either_kind_of_frame() {
        let room = |name: &str, private| RoomRequest { room: name.into(), private, resume: None };
        let subscribed = Command::Subscribe(room("test", false));
        assert_eq!(GPUSH.parse(&r#"{"code":1,"topic":"test"}"#.into()), subscribed);
        assert_eq!(GPUSH.parse_binary(&Bytes::from_static(br#"{"code":1,"topic":"test"}"#)), subscribed);
        let replaced = GPUSH.parse_binary(&Bytes::from_static(b"{\"code\":6,\"topic\":\"\xff\"}"));
        assert_eq!(replaced, Command::Unsubscribe(room("\u{fffd}", true)));
        assert_eq!(GPUSH.parse_binary(&Bytes::from_static(b"pINg")), Command::Ping);
        assert_eq!(GPUSH.parse(&r#"{"code":3,"data":"tok\u0065n"}"#.into()), Command::Login("token".into()));
        for none in [r#"{"code":3}"#, r#"{"code":3,"data":null}"#, r#"{"code":3,"data":7}"#] {
            assert_eq!(GPUSH.parse(&none.into()), Command::Login("".into()), "{none}");
        }
    }

    #[test]
    fn no_public_topic_is_a_private_ones_room() {
        for code in [1, 2] {
            let said = format!(r#"{{"code":{code},"topic":"private-orders"}}"#);
            assert_eq!(text_of(&answer(&said, &mut true)), MALFORMED);
        }
    }

    #[test]
    fn a_push_is_its_content_and_only_bytes_that_are_no_text_are_a_binary_frame() {
        let push = |content| GPUSH.push(&Push { content, ..Push::to("c", "") });
        assert_eq!(push(Content::from("推送 <b>")), Frame::text("推送 <b>"));
        assert_eq!(push(Content::Json("{\"a\":1.0e2}".into())), Frame::text("{\"a\":1.0e2}"));
        assert_eq!(push(Content::of_bytes(Bytes::from_static(b"\xff\xfe"))), Frame::binary(b"\xff\xfe"));
        assert_eq!(push(Content::Binary(Bytes::from_static(b"text"))), Frame::text("text"));
        assert_eq!(push(Content::from("")), Frame::text(""));
    }
}
