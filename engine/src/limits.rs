//! Every limit of the engine, with its unit and its reason.

/// Slots of one segment. A removed set in the worst shape is then 128 KiB as a bitmap.
pub const SEGMENT_SLOTS: u32 = 1 << 20;

/// Payload bytes of one segment: the unit that placement, hand-off and retirement move about.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Age at which an open segment is closed, in milliseconds: a quiet node's old segments can still retire.
pub const SEGMENT_AGE_MS: u64 = 3_600_000;

/// Bytes after which a block is full. A unit (transaction) never spans blocks, so a block may be larger by one unit.
pub const BLOCK_TARGET_BYTES: usize = 64 << 10;

/// Bytes of one publish unit, heads and bodies together; also bounds a block and so a wire message.
pub const UNIT_BYTES: usize = 24 << 20;

/// Messages times inboxes in one unit.
pub const UNIT_SLOTS: usize = 1 << 16;

/// Bytes of an inbox's name.
pub const INBOX_NAME_BYTES: usize = 1 << 10;

/// Payload bytes that one commit takes in: keeps the time to write one, and so the latency of the next, bounded.
pub const COMMIT_BYTES: usize = 8 << 20;

/// Time for which a block is left alone before it may be rewritten, in milliseconds: most are consumed by then, whole.
pub const REWRITE_AGE_MS: u64 = 10_000;

/// Time for which a block is left alone that was read and not worth rewriting, in milliseconds: few of its messages are left,
/// and they are large.
pub const REWRITE_AGAIN_MS: u64 = 60_000;

/// Bytes from which on a block has an outline of its own: smaller ones lie in the store's index themselves.
pub const OUTLINE_BYTES: usize = 512;

/// Bytes below which a block is not rewritten: its row and its name would stay.
pub const REWRITE_BYTES: u32 = 1 << 10;

/// Bytes of blocks that may be dead, besides an eighth of what waits, before blocks are rewritten of which more than a quarter
/// waits: a fraction of what the log takes between two checkpoints.
pub const REWRITE_SPARE_BYTES: u64 = if cfg!(test) { 256 << 10 } else { 8 << 20 };

/// Bytes below which a block is gathered with its neighbours: what memory holds of it is more than a thirtieth of it.
pub const GATHER_BELOW_BYTES: u32 = 4 << 10;

/// Fewer neighbours than that are not gathered: what is written again several times grows by this factor each time.
pub const GATHER_LEAST: usize = if cfg!(test) { 2 } else { 4 };

/// Blocks that are looked at for small neighbours in one call, in memory: a millisecond at most.
pub const GATHER_LOOKS: usize = 8192;

/// Blocks looked at, and bytes read, in one call of [`Engine::compact`](crate::Engine::compact): it runs between messages.
pub const REWRITE_LOOKS: usize = 512;
/// See [`REWRITE_LOOKS`].
pub const REWRITE_READ_BYTES: usize = 512 << 10;

/// Slots covered by one row of removal state: at most 512 bytes as a bitmap.
pub const REMOVED_PAGE_SLOTS: u32 = 4096;

/// Such rows that one commit touches after another was refused: as much as a full disk still takes.
pub const REFUSED_PAGES: usize = 32;

/// Bytes of decoded blocks kept in memory; the rest is read from the store.
pub const BLOCK_CACHE_BYTES: usize = 64 << 20;

/// Ranges in the set of consumed slots that is kept of a folded segment. Mostly it is one; more come of blocks that are
/// lost for ever. A segment with more holes is not folded: its replica is kept.
pub const FOLDED_RANGES: usize = 256;

/// Bytes of values and blocks in one delta for another replica, one value or block more or less: it is held in memory.
pub const DELTA_BYTES: usize = 16 << 20;
