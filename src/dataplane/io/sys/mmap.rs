//! `mmap` of a BPF array of 64-bit words: what user space stores there a program loads at once, and
//! what a program stores user space loads without a call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// An array map of 64-bit words (`BPF_F_MMAPABLE`, Linux 5.5).
#[derive(Debug)]
pub(crate) struct MappedWords {
    words: NonNull<AtomicU64>,
    num_words: usize,
}

// SAFETY: the memory is the kernel's, mapped for as long as the value lives, and every access to it
// is atomic.
unsafe impl Send for MappedWords {}
// SAFETY: as above.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Maps the `num_words` words of `map`.
    ///
    /// # Errors
    /// What the kernel says: the map has fewer, or is no such map.
    pub(crate) fn new(map: BorrowedFd<'_>, num_words: usize) -> io::Result<Self> {
        let len = num_words * size_of::<u64>();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the kernel picks the address, so nothing that exists is replaced; it refuses a
        // length that goes past the map's memory.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, map.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { words, num_words })
    }

    /// Stores a word, which programs see as a whole. An index past the end is ignored.
    pub(crate) fn store(&self, index: usize, word: u64) {
        if let Some(slot) = self.word(index) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    /// Loads a word as a whole; 0 past the end.
    pub(crate) fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.num_words {
            return None;
        }
        // SAFETY: the index is below the number of words that are mapped.
        let word = unsafe { self.words.add(index) };
        // SAFETY: it is mapped for as long as we are borrowed, aligned to 8 bytes as all of a map's
        // values are, and nobody accesses it other than atomically.
        Some(unsafe { word.as_ref() })
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        let len = self.num_words * size_of::<u64>();
        // SAFETY: this is what was mapped, and no reference into it is left.
        unsafe { libc::munmap(self.words.as_ptr().cast(), len) };
    }
}
