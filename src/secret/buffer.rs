use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

/// A byte buffer for text that holds secrets on its way in or out: made with its final capacity,
/// never grown (growing would leave copies behind), wiped on [`clear`](Self::clear) and on drop.
pub struct SecretBuffer(Zeroizing<Vec<u8>>);

/// The buffer's capacity is used up; nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("buffer is full")]
pub struct BufferFull;

impl SecretBuffer {
    /// An empty buffer for at most `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`BufferFull`] when they do not fit; the buffer is unchanged then.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), BufferFull> {
        if bytes.len() > self.0.capacity().saturating_sub(self.0.len()) {
            return Err(BufferFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// The bytes themselves. The only way out.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wipes the content and keeps the capacity.
    pub fn clear(&mut self) {
        self.0.as_mut_slice().zeroize();
        self.0.clear();
    }
}

impl fmt::Debug for SecretBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBuffer")
    }
}

/// For encoders that write through [`std::io::Write`]; a full buffer is an error of kind
/// `StorageFull`.
impl std::io::Write for SecretBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend(bytes)
            .map_err(|full| std::io::Error::new(std::io::ErrorKind::StorageFull, full))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HY-5: the buffer never grows past the capacity it was made with.
    #[test]
    fn a_full_buffer_refuses_and_keeps_its_content() {
        let mut buffer = SecretBuffer::with_capacity(4);
        let capacity = buffer.0.capacity();
        assert_eq!(buffer.extend(b"abc"), Ok(()));
        assert_eq!(buffer.extend(&vec![b'x'; capacity]), Err(BufferFull));
        assert_eq!(buffer.expose(), b"abc");
        buffer.clear();
        assert!(buffer.is_empty());
        assert_eq!(buffer.0.capacity(), capacity);
    }
}
