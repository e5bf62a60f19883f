//! `application/x-www-form-urlencoded`, as a browser's form or curl's `-d` sends it.

use std::borrow::Cow;

use crate::ingress::refusal::{Refusal, RefusalKind};

/// The first value of a field, as Go's `PostForm.Get` gives it; `None`: it is not there.
///
/// # Errors
/// A `%` without two hex digits, or bytes that are not UTF-8, in any field.
pub(super) fn first<'a>(form: &'a [u8], name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let mut found = None;
    for pair in form.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let key = decode(&pair[..at])?;
        let value = decode(pair.get(at + 1..).unwrap_or_default())?;
        if key == name && found.is_none() {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Takes `+` and `%XX` out.
fn decode(text: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    let not_utf8 = || Refusal::new(RefusalKind::NotUtf8, "the form is not UTF-8");
    if !text.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return std::str::from_utf8(text).map(Cow::Borrowed).map_err(|_| not_utf8());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => {
                        let message = "the form has a `%` without two hex digits: encode it (curl --data-urlencode)";
                        return Err(Refusal::new(RefusalKind::BadField, message));
                    }
                }
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| not_utf8())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_field_counts() {
        let form = b"a=1&room=x+y%26&room=z&&b&c=%C3%BC";
        for (name, value) in
            [("a", Some("1")), ("room", Some("x y&")), ("b", Some("")), ("c", Some("\u{fc}")), ("d", None)]
        {
            assert_eq!(first(form, name).unwrap().as_deref(), value, "{name}");
        }
    }

    #[test]
    fn what_is_no_form_is_refused_wherever_it_stands() {
        for (form, kind) in [
            (&b"a=%4"[..], RefusalKind::BadField),
            (b"a=1&x=%zz", RefusalKind::BadField),
            (b"a=1&%f", RefusalKind::BadField),
            (b"a=%ff", RefusalKind::NotUtf8),
            (b"a=\xff", RefusalKind::NotUtf8),
        ] {
            assert_eq!(first(form, "a").unwrap_err().kind, kind, "{}", form.escape_ascii());
        }
    }
}
