use std::fmt;

use zeroize::Zeroizing;

/// A piece of secret text: an access token, a device code, a value of credential material.
///
/// It is never empty by construction of its callers, has no length bound of its own (parsers
/// bound it), and is wiped when dropped.
pub struct SecretString(Zeroizing<Box<str>>);

impl SecretString {
    /// Takes over `text`. The boxed form has no spare capacity, so a `String` with some left is
    /// copied once and the original wiped.
    pub fn new(mut text: Zeroizing<String>) -> Self {
        if text.len() < text.capacity() {
            return Self::copy_from(&text);
        }
        Self(Zeroizing::new(std::mem::take(&mut *text).into_boxed_str()))
    }

    /// Copies secret text out of a buffer that its owner wipes.
    pub fn copy_from(text: &str) -> Self {
        Self(Zeroizing::new(Box::from(text)))
    }

    /// The secret itself. The only way out.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The length in bytes, which is not treated as secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString")
    }
}

/// Constant time for equal lengths.
impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes())
            .is_ok()
    }
}

impl Eq for SecretString {}

#[cfg(test)]
mod tests {
    use super::*;

    /// HY-3: `Debug` prints the type's name.
    #[test]
    fn debug_shows_the_name_only() {
        let secret = SecretString::copy_from("hunter2");
        assert_eq!(format!("{secret:?}"), "SecretString");
    }

    /// HY-3: equality compares whole values.
    #[test]
    fn equality_compares_all_bytes() {
        assert_eq!(
            SecretString::copy_from("abc"),
            SecretString::copy_from("abc")
        );
        assert_ne!(
            SecretString::copy_from("abc"),
            SecretString::copy_from("abd")
        );
        assert_ne!(
            SecretString::copy_from("abc"),
            SecretString::copy_from("abcd")
        );
    }
}
