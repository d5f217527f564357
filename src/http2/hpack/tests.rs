use super::decoder::Malformed;
use super::*;

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        fields.push((String::from_utf8(field.name.to_vec()).unwrap(), String::from_utf8(field.value.to_vec()).unwrap()));
    })?;
    Ok(fields)
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|digit| (digit as char).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// RFC 7541, C.3 and C.4: three requests on one connection, the same with Huffman's code.
#[test]
fn the_requests_of_the_specification_are_read() {
    let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let second = [&first[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    for blocks in [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf", "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"],
    ] {
        let mut decoder = Decoder::new();
        assert_eq!(fields(&mut decoder, &hex(blocks[0])), Ok(owned(&first)));
        assert_eq!(fields(&mut decoder, &hex(blocks[1])), Ok(owned(&second)));
        assert_eq!(fields(&mut decoder, &hex(blocks[2])), Ok(owned(&third)));
        assert_eq!(fields(&mut decoder, &hex("828684c0")), Ok(owned(&first)));
        assert_eq!(decoder.decode(&hex("828684c0"), |_| {}), Ok(false), "nothing was learned");
        assert_eq!(decoder.decode(&hex("828684400161016282"), |_| {}), Ok(true));
    }
}

#[test]
fn blocks_that_make_no_sense_are_malformed() {
    for (block, why) in [
        ("80", "index 0"),
        ("be", "an index that nothing has"),
        ("4005abcd", "a string that is cut off"),
        ("7f", "a number that is cut off"),
        ("ffffffffffff0f", "a number without end"),
        ("823f01", "a size in the middle"),
        ("3fe220", "a size above the bound"),
        ("0081ff00", "a string that is no code"),
    ] {
        assert_eq!(fields(&mut Decoder::new(), &hex(block)), Err(Malformed), "{why}");
    }
    assert_eq!(fields(&mut Decoder::new(), &hex("3fe11f82")), Ok(owned(&[(":method", "GET")])), "a size of 4096 is the bound");
}

#[test]
fn what_is_kept_becomes_a_number_on_both_sides() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let send = |encoder: &mut Encoder| {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.field(&mut block, b":status", b"200", false);
        encoder.field(&mut block, b"content-type", b"application/grpc", true);
        encoder.field(&mut block, b"grpc-status", b"0", true);
        encoder.field(&mut block, b"grpc-message", b"why", false);
        block
    };
    let expected =
        owned(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0"), ("grpc-message", "why")]);
    let lengths: Vec<usize> = (0..3)
        .map(|_| {
            let block = send(&mut encoder);
            assert_eq!(fields(&mut decoder, &block).as_ref(), Ok(&expected));
            block.len()
        })
        .collect();
    assert!(lengths[0] > 40 && lengths[1] == 3 + 18 && lengths[2] == lengths[1], "{lengths:?}");
    // Smaller, and larger again: both are told. Then nothing is kept.
    encoder.set_max_size(0);
    encoder.set_max_size(10);
    let block = send(&mut encoder);
    assert_eq!(block[..2], [0x20, 0x2a]);
    assert_eq!(fields(&mut decoder, &block).as_ref(), Ok(&expected));
    assert_eq!(fields(&mut decoder, &send(&mut encoder)).as_ref(), Ok(&expected));
}

#[test]
fn old_fields_make_room_for_new_ones() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for n in 0..2_000 {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        let value = "v".repeat(n % 700);
        encoder.field(&mut block, b"name", value.as_bytes(), true);
        encoder.field(&mut block, format!("name{}", n % 7).as_bytes(), b"value", true);
        let expected = owned(&[("name", &value), (&format!("name{}", n % 7), "value")]);
        assert_eq!(fields(&mut decoder, &block), Ok(expected), "block {n}");
    }
}
