//! CRC-32C, which TensorStore ends its files with.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The checksum of some bytes.
pub(super) fn of(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[((crc ^ u32::from(*byte)) & 255) as usize])
}

/// Takes the checksum off the end of some bytes, if it is theirs.
pub(super) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, sum) = bytes.split_last_chunk::<4>()?;
    (of(rest) == u32::from_le_bytes(*sum)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue() {
        assert_eq!(of(b"123456789"), 0xe306_9283);
        assert_eq!(checked(b"1234567898\x83\x92\x06\xe3"), None);
        assert_eq!(checked(b"123456789\x83\x92\x06\xe3"), Some(&b"123456789"[..]));
        assert_eq!(checked(b"123"), None);
    }
}
