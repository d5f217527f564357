//! A fuzzer's bytes as numbers and pieces. Beyond the end everything is zero and empty, so that each input means something.

/// What is left of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub fn bool(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    pub fn u64(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Small numbers, the borders of their types, or any: in one byte for those that matter.
    pub fn number(&mut self) -> i64 {
        match self.byte() {
            byte @ 0..200 => i64::from(byte) - 8,
            200 => i64::MAX,
            201 => i64::MIN,
            202 => i64::from(i32::MAX),
            203 => i64::from(i32::MIN),
            204 => i64::MAX - 1,
            205 => 1 << 32,
            _ => self.u64().cast_signed(),
        }
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// So many bytes, or what is left of them.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// A piece that says in one byte how long it is, up to 255 bytes; or, after 255, in two more.
    pub fn piece(&mut self) -> &'a [u8] {
        let count = match self.byte() {
            255 => usize::from(self.u16()),
            short => usize::from(short),
        };
        self.bytes(count)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(self.0.len())
    }
}
