//! The hostile cases that a guest or its front end brings about by seed, by their numbers.

macro_rules! cases {
    ($($variant:ident => $name:literal,)+) => {
        /// A hostile case, by its number and what it does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the name in the table says it")]
        pub enum Case {
            $($variant,)+
        }

        impl Case {
            /// All of them.
            pub const ALL: &'static [Case] = &[$(Case::$variant,)+];

            /// Its number and what it does, in tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Case::$variant => $name,)+
                }
            }
        }
    };
}

cases! {
    ZeroRing => "G-01 ring address 0",
    IndexJumps => "G-02 index jumps",
    WholeRing => "G-03 a whole ring at once",
    SameHead => "G-04 same head twice",
    BadLink => "G-05 link beyond the ring",
    Loop => "G-06 loop",
    ZeroLength => "G-07 zero lengths",
    HugeTotal => "G-08 total beyond 32 bits",
    NowhereEmpty => "G-09 bad address, length 0",
    Wraps => "G-10 address wraps",
    Outside => "G-11 address outside",
    CrossesRegions => "G-12 across regions",
    EndsBeyond => "G-13 ends beyond memory",
    ScatteredHeader => "G-14 header in pieces",
    Short => "G-15 shorter than a frame",
    TooLong => "G-16 longer than a frame",
    RuntBuffers => "G-17 runt receive buffers",
    TooLittleRoom => "G-18/19 too little room",
    ForeignOffload => "G-20 offload not negotiated",
    BadTable => "G-21 table of a bad length",
    TableOutside => "G-22 table outside",
    UnalignedTable => "G-23 unaligned table",
    NestedTable => "G-24 nested table",
    ReservedFlags => "G-25 flags not negotiated",
    WrongDirection => "G-26 wrong direction",
    OnRings => "G-27 buffer on a ring",
    KickEarly => "G-28 kick before enable",
    TornIndex => "G-30 half an index",
    FlipLength => "G-31 length flips",
    FlipTable => "G-32 table flips",
    FlipFlags => "G-34 flags flip",
    AnyLength => "G-41 generated lengths",
    SplitEvents => "G-42 event index lies",
    PackedLies => "G-45 packed flags and ids lie",
    PackedEvents => "G-46 event structure lies",
    OutOfOrder => "G-47 out of order",
    SealedMemory => "G-50 read-only memory",
    Scribble => "random bytes in a ring",
    Garbage => "random bytes in memory",
}
