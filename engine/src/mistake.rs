//! Deliberate mistakes, to prove that the simulator would catch real ones. Only built with the feature `mistakes`,
//! which nothing but tests turns on; without it every question is answered `false` at compile time.

/// One wrong variant of the design; the promise that it breaks is in design terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// Confirms when the write is handed over, not when it is on disk.
    ConfirmBeforeSync,
    /// A restarted node goes on in the epoch it finds on its disk, numbers included.
    ReuseEpoch,
    /// A restarted origin states the length of the segment that its last life left open.
    OriginStatesLength,
    /// A replica takes over a peer's `known` without having the bodies.
    KnowledgeAheadOfBlocks,
    /// A replica takes what a peer does not have for consumed.
    RemovalFromAbsence,
    /// Segments that are over are kept as "all up to number n of this node", whatever the epoch.
    RetireByThreshold,
    /// Proofs for a hand-off are not discarded when the replica changes after they were given.
    StaleProofs,
    /// A holder that is itself leaving vouches for others.
    DrainingVouches,
    /// A segment that a crash left open counts as finished, end and all, once everything known of it is consumed.
    FoldWhole,
    /// A takeover does not ask the edges what they hold.
    TakeoverUnasked,
    /// A non-holder's ACK is not kept locally when the holders are out of reach.
    ForgetRemoteAck,
    /// A dead letter's original is removed before the copy is on disks.
    RemoveBeforeCopy,
    /// A node that restarts still has the seat of its last life.
    SeatsWithoutEpoch,
    /// Who leaves for good gives up what it has at once, whoever else has it.
    LeaveAtOnce,
    /// What was taken over before its origin turned out to be of the other part is dispatched further.
    ServeGone,
    /// A node is ready for a split at once, whatever it holds of the other part and the other of it.
    ReadyAtOnce,
    /// Who has missed how its part left dispatches all the same.
    ServeAstray,
    /// What was consumed out of sight of a split is not told to the part that left.
    PartSilently,
    /// Whenever other nodes would be chosen today to hold a segment than hold it, they are named.
    PlaceAnew,
    /// When a link falls, an owner takes all that is in flight for lost, at whichever edge.
    RecallEverywhere,
    /// When a link comes up, an owner takes all that is in flight for lost, at whichever edge.
    RecallAnew,
    /// What is delayed is served as if its time had come.
    ServedEarly,
    /// What a consumer with a selector has read over is not looked at again when it comes back.
    SearchForgets,
}

/// Which mistake, if any, this node makes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "mistakes")]
    mistake: Option<Mistake>,
}

impl Planted {
    /// Plants one.
    #[cfg(feature = "mistakes")]
    pub fn new(mistake: Option<Mistake>) -> Self {
        Self { mistake }
    }

    /// Whether this node makes it.
    #[cfg(feature = "mistakes")]
    pub fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Whether this node makes it: never, in this build.
    #[cfg(not(feature = "mistakes"))]
    #[inline(always)]
    pub fn is(&self, _: Mistake) -> bool {
        false
    }
}
