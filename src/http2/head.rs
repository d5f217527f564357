//! A request's head, from its header fields (RFC 9113 §8.3).

use bytes::Bytes;

use super::hpack::Field;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `:method`
    pub method: Bytes,
    /// `:scheme`
    pub scheme: Bytes,
    /// `:authority`, whatever the client thinks one is.
    pub authority: Option<Bytes>,
    /// `:path`
    pub path: Bytes,
    /// All other fields, in their order. Names are in lower case.
    pub fields: Vec<Field>,
    /// The body's length, if the client has told it.
    pub content_length: Option<u64>,
}

impl Head {
    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.name == name.as_bytes()).map(|field| &*field.value)
    }
}

/// What came of a header block.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Head(Head),
    /// More than is taken in.
    TooLarge,
    /// No request may look like this.
    Malformed,
}

/// Takes a block's fields one by one. What is too much or makes no sense is not kept.
#[derive(Default)]
pub struct Reader {
    head: Head,
    has: [bool; 4],
    left: usize,
    is_too_large: bool,
    is_malformed: bool,
}

impl Reader {
    /// Of at most so many bytes (SETTINGS_MAX_HEADER_LIST_SIZE).
    pub fn new(limit: usize) -> Reader {
        Reader { left: limit, ..Reader::default() }
    }

    /// The next field.
    pub fn take(&mut self, field: Field) {
        match self.left.checked_sub(field.size()) {
            Some(left) => self.left = left,
            None => self.is_too_large = true,
        }
        if self.is_too_large || self.is_malformed {
            return;
        }
        let fits = match &*field.name {
            [b':', ..] => self.take_pseudo(&field),
            _ => self.take_field(field),
        };
        self.is_malformed = !fits;
    }

    fn take_pseudo(&mut self, Field { name, value }: &Field) -> bool {
        let head = &mut self.head;
        let (at, slot) = match &**name {
            b":method" => (0, &mut head.method),
            b":scheme" => (1, &mut head.scheme),
            b":authority" => (2, head.authority.insert(Bytes::new())),
            b":path" => (3, &mut head.path),
            _ => return false,
        };
        *slot = value.clone();
        let is_first = !std::mem::replace(&mut self.has[at], true);
        is_first && head.fields.is_empty() && is_value(value)
    }

    fn take_field(&mut self, field: Field) -> bool {
        let Field { name, value } = &field;
        let fits = match &**name {
            // They are about a connection, and this one is not theirs (RFC 9113 §8.2.2).
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => false,
            b"te" => value == "trailers",
            b"content-length" => {
                let length = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
                let length = length.and_then(|text| text.parse().ok());
                let is_first = self.head.content_length.is_none() || self.head.content_length == length;
                self.head.content_length = length;
                length.is_some() && is_first
            }
            _ => !name.is_empty() && name.iter().all(|byte| is_name(*byte)),
        };
        let fits = fits && is_value(value);
        self.head.fields.push(field);
        fits
    }

    /// After the last field.
    pub fn finish(self) -> Read {
        let [method, scheme, _, path] = self.has;
        let is_complete = method && scheme && path && !self.head.path.is_empty();
        if self.is_too_large {
            Read::TooLarge
        } else if self.is_malformed || !is_complete {
            Read::Malformed
        } else {
            Read::Head(self.head)
        }
    }
}

/// Bytes of a field's name: a token in lower case (RFC 9110 §5.6.2, RFC 9113 §8.2).
fn is_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes of a field's value: no control characters but tabs.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}
