//! Tables of FlatBuffers, in which Arrow describes its messages: as much as is needed to read them.
//!
//! A table begins with the signed distance back to its list of slots; the list says for each slot
//! how far behind the table's begin its value stands, or nothing. Nothing is believed: a value
//! outside of the bytes is none.

/// A table within the bytes of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flat<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A list within the bytes of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many elements it claims to have.
    pub(crate) len: usize,
}

impl<'a> Flat<'a> {
    /// The table that a message begins with.
    pub(crate) fn root(bytes: &'a [u8]) -> Option<Flat<'a>> {
        Some(Flat { bytes, at: u32_at(bytes, 0)? as usize })
    }

    /// The table at a place that [`Flat::place`] said.
    pub(crate) fn at(bytes: &'a [u8], at: usize) -> Flat<'a> {
        Flat { bytes, at }
    }

    /// Where the table stands in its bytes.
    pub(crate) fn place(&self) -> usize {
        self.at
    }

    /// Where the value of a slot stands; none where it is left at its default.
    fn slot(&self, slot: usize) -> Option<usize> {
        let back = u32_at(self.bytes, self.at)? as i32;
        let slots = usize::try_from(i64::try_from(self.at).ok()? - i64::from(back)).ok()?;
        let size = usize::from(u16_at(self.bytes, slots)?);
        let entry = 4 + 2 * slot;
        if entry + 2 > size {
            return None;
        }
        let distance = usize::from(u16_at(self.bytes, slots.checked_add(entry)?)?);
        (distance != 0).then(|| self.at + distance)
    }

    /// Where that stands which a slot points to.
    fn target(&self, slot: usize) -> Option<usize> {
        let at = self.slot(slot)?;
        at.checked_add(u32_at(self.bytes, at)? as usize)
    }

    pub(crate) fn u8(&self, slot: usize) -> Option<u8> {
        self.bytes.get(self.slot(slot)?).copied()
    }

    pub(crate) fn i16(&self, slot: usize) -> Option<i16> {
        Some(u16_at(self.bytes, self.slot(slot)?)? as i16)
    }

    pub(crate) fn i64(&self, slot: usize) -> Option<i64> {
        i64_at(self.bytes, self.slot(slot)?)
    }

    pub(crate) fn table(&self, slot: usize) -> Option<Flat<'a>> {
        Some(Flat { bytes: self.bytes, at: self.target(slot)? })
    }

    pub(crate) fn list(&self, slot: usize) -> Option<List<'a>> {
        let at = self.target(slot)?;
        let len = u32_at(self.bytes, at)? as usize;
        Some(List { bytes: self.bytes, at: at.checked_add(4)?, len })
    }

    pub(crate) fn text(&self, slot: usize) -> Option<&'a str> {
        let list = self.list(slot)?;
        let bytes = list.bytes.get(list.at..list.at.checked_add(list.len)?)?;
        std::str::from_utf8(bytes).ok()
    }
}

impl<'a> List<'a> {
    /// An element of a list of tables.
    pub(crate) fn table(&self, index: usize) -> Option<Flat<'a>> {
        let at = self.place(index, 4)?;
        Some(Flat { bytes: self.bytes, at: at.checked_add(u32_at(self.bytes, at)? as usize)? })
    }

    /// An element of a list of numbers.
    pub(crate) fn i64(&self, index: usize) -> Option<i64> {
        i64_at(self.bytes, self.place(index, 8)?)
    }

    /// An element of a list of structs of two numbers.
    pub(crate) fn pair(&self, index: usize) -> Option<(i64, i64)> {
        let at = self.place(index, 16)?;
        Some((i64_at(self.bytes, at)?, i64_at(self.bytes, at.checked_add(8)?)?))
    }

    fn place(&self, index: usize, size: usize) -> Option<usize> {
        if index >= self.len {
            return None;
        }
        self.at.checked_add(index.checked_mul(size)?)
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// The little-endian number at a place.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// The little-endian number at a place.
pub(crate) fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    array(bytes, at).map(i64::from_le_bytes)
}
