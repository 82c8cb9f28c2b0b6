//! Chance that is the same in each demo.

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same client.
pub(super) struct Dice(u64);

impl Dice {
    /// Those of a client.
    pub(super) fn of(client: u32) -> Dice {
        Dice(u64::from(client) + 1)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below the bound.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of two.
    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// Random bits; a uuid as far as anybody looks.
    pub(super) fn bits(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    /// As it is written.
    pub(super) fn uuid(&mut self) -> String {
        let hex = format!("{:032x}", self.bits());
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}
