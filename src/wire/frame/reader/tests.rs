#![allow(clippy::unwrap_used)]

use bytes::{BufMut, BytesMut};

use super::*;

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first];
    match payload.len() {
        n @ 0..=125 => bytes.push(0x80 | n as u8),
        n @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.put_u16(n as u16);
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.put_u64(n as u64);
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn read_all(max: usize, bytes: &[u8]) -> (Vec<Message>, Option<Close>) {
    let (mut reader, mut buffer, mut messages) = (FrameReader::new(max), BytesMut::from(bytes), Vec::new());
    loop {
        match reader.next(&mut buffer) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(ending) => return (messages, Some(ending.close)),
        }
    }
}

/// Byte by byte; also says after how many bytes the error came.
fn read_slowly(max: usize, bytes: &[u8]) -> (Vec<Message>, Option<(Close, usize)>) {
    let (mut reader, mut buffer, mut messages) = (FrameReader::new(max), BytesMut::new(), Vec::new());
    for (at, byte) in bytes.iter().enumerate() {
        buffer.put_u8(*byte);
        loop {
            match reader.next(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(ending) => return (messages, Some((ending.close, at + 1))),
            }
        }
    }
    (messages, None)
}

fn close(code: u16, description: Option<&str>) -> Message {
    Message::Close(Some(CloseReason { code: code.into(), description: description.map(str::to_owned) }))
}

fn text(text: &str) -> Message {
    Message::Text(text.into())
}

#[test]
fn a_masked_text_frame_is_one_message() {
    for length in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload = "x".repeat(length);
        let bytes = masked(0x81, payload.as_bytes());
        assert_eq!(read_all(1 << 20, &bytes), (vec![text(&payload)], None), "{length} bytes");
    }
}

#[test]
fn fragments_are_joined_and_control_frames_between_them_come_first() {
    let mut bytes = masked(0x01, b"hel");
    bytes.extend(masked(0x89, b"p"));
    bytes.extend(masked(0x00, b"lo "));
    bytes.extend(masked(0x8A, b""));
    bytes.extend(masked(0x80, b"you"));
    bytes.extend(masked(0x82, b"\xFF"));
    let messages = vec![
        Message::Ping(Bytes::from_static(b"p")),
        Message::Pong(Bytes::new()),
        text("hello you"),
        Message::Binary(Bytes::from_static(b"\xFF")),
    ];
    assert_eq!(read_all(100, &bytes), (messages.clone(), None));
    assert_eq!(read_slowly(100, &bytes), (messages, None));
}

#[test]
fn a_gigabyte_is_refused_at_its_header() {
    let mut bytes = vec![0x82, 0xFF];
    bytes.put_u64(1 << 30);
    bytes.extend_from_slice(&[0; 4]);
    assert_eq!(read_all(65_536, &bytes), (vec![], Some(Close::TooLarge)));
}

#[test]
fn the_bound_is_for_the_whole_message_and_exact() {
    assert_eq!(read_all(10, &masked(0x81, b"0123456789")), (vec![text("0123456789")], None));
    assert_eq!(read_all(10, &masked(0x81, b"0123456789a")), (vec![], Some(Close::TooLarge)));
    let mut bytes = masked(0x01, b"012345");
    bytes.extend(masked(0x80, b"6789a"));
    assert_eq!(read_all(10, &bytes), (vec![], Some(Close::TooLarge)));
}

#[test]
fn what_rfc_6455_forbids_is_a_protocol_error() {
    let unmasked = vec![0x81, 0x02, b'h', b'i'];
    let new_message_inside = [masked(0x01, b"a"), masked(0x81, b"b")].concat();
    let cases = [
        ("unmasked", unmasked),
        ("RSV1", masked(0xC1, b"")),
        ("RSV2", masked(0xA1, b"")),
        ("RSV3", masked(0x91, b"")),
        ("opcode 3", masked(0x83, b"")),
        ("opcode 11", masked(0x8B, b"")),
        ("fragmented ping", masked(0x09, b"")),
        ("long ping", masked(0x89, &[0; 126])),
        ("continues nothing", masked(0x80, b"")),
        ("new message inside", new_message_inside),
        ("length in 2 bytes, 1 would do", vec![0x81, 0xFE, 0, 5, 0, 0, 0, 0]),
        ("length in 8 bytes, 2 would do", vec![0x81, 0xFF, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
        ("length beyond 63 bits", vec![0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("close of one byte", masked(0x88, b"\x03")),
        ("close 999", masked(0x88, &999_u16.to_be_bytes())),
        ("close 1004", masked(0x88, &1004_u16.to_be_bytes())),
        ("close 1005", masked(0x88, &1005_u16.to_be_bytes())),
        ("close 1015", masked(0x88, &1015_u16.to_be_bytes())),
        ("close 2999", masked(0x88, &2999_u16.to_be_bytes())),
        ("close 5000", masked(0x88, &5000_u16.to_be_bytes())),
    ];
    for (name, bytes) in cases {
        assert_eq!(read_all(1000, &bytes), (vec![], Some(Close::ProtocolError)), "{name}");
    }
}

#[test]
fn a_close_frame_is_the_last_message() {
    let mut bytes = masked(0x88, b"\x03\xE8bye");
    bytes.extend(masked(0x81, b"more"));
    assert_eq!(read_all(100, &bytes), (vec![close(1000, Some("bye"))], None));
    assert_eq!(read_all(100, &masked(0x88, b"\x0F\xA0")), (vec![close(4000, None)], None));
    assert_eq!(read_all(100, &masked(0x88, b"")), (vec![Message::Close(None)], None));
    assert_eq!(read_all(100, &masked(0x88, b"\x03\xE8\xFF")), (vec![], Some(Close::InvalidUtf8)));
}

#[test]
fn bad_utf8_fails_with_its_first_impossible_byte() {
    let good = "κόσμε".as_bytes();
    let payload = [good, b"\xF4\x90\x80\x80", b"rest"].concat();
    let bytes = masked(0x81, &payload);
    assert_eq!(read_all(100, &bytes), (vec![], Some(Close::InvalidUtf8)));
    let header = 6;
    assert_eq!(read_slowly(100, &bytes), (vec![], Some((Close::InvalidUtf8, header + good.len() + 2))));
    // Cut in the middle of a character: whole at last, or an error at the message's end.
    let (head, tail) = good.split_at(1);
    let joined = [masked(0x01, head), masked(0x00, b""), masked(0x80, tail)].concat();
    assert_eq!(read_all(100, &joined), (vec![text("κόσμε")], None));
    assert_eq!(read_all(100, &masked(0x81, head)), (vec![], Some(Close::InvalidUtf8)));
    let ended = [masked(0x01, head), masked(0x80, b"")].concat();
    assert_eq!(read_all(100, &ended), (vec![], Some(Close::InvalidUtf8)));
}

#[test]
fn nothing_is_kept_between_messages_and_the_rest_of_a_dead_connection_is_dropped() {
    let mut reader = FrameReader::new(100);
    let mut buffer = BytesMut::from(&[masked(0x01, b"a"), masked(0x80, b"b")].concat()[..]);
    assert_eq!(reader.next(&mut buffer).unwrap(), Some(text("ab")));
    assert!(reader.incomplete.is_none() && buffer.is_empty());
    assert!(std::mem::size_of::<FrameReader>() <= 16);
    buffer.extend_from_slice(b"GET / HTTP/1.1");
    assert!(reader.next(&mut buffer).is_err());
    assert!(reader.next(&mut buffer).unwrap().is_none() && buffer.is_empty());
}
