//! The small codes of gRPC over HTTP/2 (PROTOCOL-HTTP2.md of the gRPC project): timeouts, percent-encoded messages, and the base64
//! of binary metadata.

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderValue;

/// Reads the value of `grpc-timeout`: at most eight digits and a unit. The error is gRPC's text for it.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let (digits, unit) = text.split_at(text.char_indices().next_back().map_or(0, |(at, _)| at));
    let unit: fn(u64) -> Duration = match unit {
        "H" => |n| Duration::from_secs(n * 3600),
        "M" => |n| Duration::from_secs(n * 60),
        "S" => Duration::from_secs,
        "m" => Duration::from_millis,
        "u" => Duration::from_micros,
        "n" => Duration::from_nanos,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    // `parse` alone would also take a sign.
    match digits.parse::<u64>() {
        Ok(number) if digits.bytes().all(|digit| digit.is_ascii_digit()) => Ok(unit(number)),
        _ => Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax")),
    }
}

/// The value of `grpc-message`: printable ASCII as it is, `%` and all else as `%XX`.
pub fn percent_encode(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes all"),
        }
    }
    HeaderValue::try_from(encoded).expect("only printable ASCII was left")
}

/// Decodes standard base64, padded or not, as binary metadata comes in both ways.
pub fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let text = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for symbol in group {
            bits = bits << 6 | sextet(*symbol)?;
        }
        match group.len() {
            4 => bytes.extend_from_slice(&bits.to_be_bytes()[1..]),
            3 => bytes.extend_from_slice(&(bits << 6).to_be_bytes()[1..3]),
            2 => bytes.push((bits >> 4) as u8),
            _ => return None,
        }
    }
    Some(bytes)
}

fn sextet(symbol: u8) -> Option<u32> {
    Some(u32::from(match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_all_units() {
        for (text, time) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse_timeout(text), Ok(time));
        }
    }

    #[test]
    fn broken_timeouts_get_grpcs_words() {
        for (text, why) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("5x", "transport: timeout unit is not recognized: \"5x\""),
            ("aS", "strconv.ParseUint: parsing \"a\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
            ("1é", "transport: timeout unit is not recognized: \"1é\""),
        ] {
            assert_eq!(parse_timeout(text), Err(why.to_string()));
        }
    }

    #[test]
    fn messages_are_percent_encoded_where_a_header_cannot_hold_them() {
        assert_eq!(percent_encode("etcdserver: key is not provided"), "etcdserver: key is not provided");
        assert_eq!(percent_encode("100%\nä"), "100%25%0A%C3%A4");
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zg", b"f"),
            ("Zm8=", b"fo"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("+/+/", &[251, 255, 191]),
        ] {
            assert_eq!(decode_base64(text.as_bytes()).as_deref(), Some(bytes));
        }
        for text in ["Z", "Zg=", "Zm9v=", "Zm9v====", "Z*==", "Zm=v", "===="] {
            assert_eq!(decode_base64(text.as_bytes()), None, "{text}");
        }
    }
}
