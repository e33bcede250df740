//! Where in the registry something of many is: they are spread over sets, for whole sets travel when one changes.

/// FNV-1a: the same at all nodes, and no more than to tell things apart.
pub(crate) fn hash_of(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, step)
}

/// The same, with every bit depending on all of the text: for comparing hashes by size.
pub(crate) fn mixed_hash_of(text: &str) -> u64 {
    let mut bits = hash_of(text);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The number of the set, of so many, that a name is in: all nodes look in the same one.
pub(crate) fn number_of(name: &str, sets: u64) -> u64 {
    hash_of(name) % sets
}
