//! Where in the registry something of many is: they are spread over sets, for whole sets travel when one changes.

/// The number of the set, of so many, that a name is in: FNV-1a, so that all nodes look in the same one.
pub(crate) fn number_of(name: &str, sets: u64) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash % sets
}
