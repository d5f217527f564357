//! The part of a URI behind the question mark, as Go's library reads it: pairs that make no sense are passed over.

use std::borrow::Cow;

/// Names and values, in order.
pub struct Query<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl Query<'_> {
    /// All values of a name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        self.0.iter().filter(move |(candidate, _)| candidate == name).map(|(_, value)| &**value)
    }

    /// The first value of a name.
    pub fn first<'s>(&'s self, name: &'s str) -> Option<&'s str> {
        self.all(name).next()
    }
}

/// Reads `a=1&b&a=2`.
pub fn parse(query: &str) -> Query<'_> {
    let pair = |pair| {
        let (name, value) = str::split_once(pair, '=').unwrap_or((pair, ""));
        Some((unescape(name, true)?, unescape(value, true)?))
    };
    Query(query.split('&').filter(|part| !part.is_empty() && !part.contains(';')).filter_map(pair).collect())
}

/// Undoes percent-encoding. None if a percent sign stands before anything but two hexadecimal digits, or if what comes out is not
/// UTF-8.
pub fn unescape(text: &str, plus_is_blank: bool) -> Option<Cow<'_, str>> {
    if !(text.contains('%') || plus_is_blank && text.contains('+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus_is_blank => b' ',
            byte => byte,
        });
    }
    String::from_utf8(plain).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_stand_alone_come_twice_or_be_escaped() {
        let query = parse("verbose&exclude=a&x=%4eO+SPACE&exclude=b=c&&bad=%zz&cut=%4&semi;colon=1&latin=%ff");
        assert_eq!(query.first("verbose"), Some(""));
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["a", "b=c"]);
        assert_eq!(query.first("x"), Some("NO SPACE"));
        for missing in ["bad", "cut", "semi;colon", "colon", "latin", ""] {
            assert_eq!(query.first(missing), None, "{missing}");
        }
    }
}
