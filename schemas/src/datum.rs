//! Avro's binary encoding, for the records of which there is one for each document or each slice of
//! a round: a library that walks a schema beside each field was a tenth of what applying costs.
//! Reading is the library's, and what is written here has to be what it would write.

/// `long` and `int`, and the index of an `enum`.
pub(crate) fn put_long(number: i64, to: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        to.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    to.push(rest.to_le_bytes()[0]);
}

/// `["null", "long"]` of a `u64`, bit for bit.
pub(crate) fn put_optional_long(number: Option<u64>, to: &mut Vec<u8>) {
    put_long(number.is_some().into(), to);
    if let Some(number) = number {
        put_long(number.cast_signed(), to);
    }
}

/// `bytes`.
pub(crate) fn put_bytes(bytes: &[u8], to: &mut Vec<u8>) {
    put_length(bytes.len(), to);
    to.extend_from_slice(bytes);
}

/// `string`.
pub(crate) fn put_text(text: &str, to: &mut Vec<u8>) {
    put_bytes(text.as_bytes(), to);
}

/// `array`.
pub(crate) fn put_array<T>(items: &[T], to: &mut Vec<u8>, mut put: impl FnMut(&T, &mut Vec<u8>)) {
    if !items.is_empty() {
        put_length(items.len(), to);
        items.iter().for_each(|item| put(item, to));
    }
    put_length(0, to);
}

fn put_length(length: usize, to: &mut Vec<u8>) {
    put_long(i64::try_from(length).expect("nothing in memory is that long"), to);
}
