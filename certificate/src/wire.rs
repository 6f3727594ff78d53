//! Reading SSH wire encoding (RFC 4251 section 5) with absolute positions, so that a field can be cut out by byte range.
//!
//! Refuses to read past the end, and never copies.

use crate::CertificateError;

/// A cursor over `bytes[at..end]`; positions are offsets into `bytes`.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    pub(crate) fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], CertificateError> {
        let truncated = CertificateError::Truncated { field, at: self.end };
        let Some(stop) = self.at.checked_add(count).filter(|stop| *stop <= self.end) else {
            return Err(truncated);
        };
        let taken = self.bytes.get(self.at..stop).ok_or(truncated)?;
        self.at = stop;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CertificateError> {
        let at = self.at;
        self.take(N, field)?.first_chunk::<N>().copied().ok_or(CertificateError::Truncated { field, at })
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, CertificateError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, CertificateError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, CertificateError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// A length-prefixed string's content.
    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a [u8], CertificateError> {
        let length = self.u32(field)?;
        let Ok(length) = usize::try_from(length) else {
            return Err(CertificateError::Truncated { field, at: self.end });
        };
        self.take(length, field)
    }

    /// A reader over a length-prefixed string's content, with positions in the same buffer.
    pub(crate) fn nested(&mut self, field: &'static str) -> Result<Self, CertificateError> {
        let content = self.string(field)?;
        let end = self.at;
        Ok(Self { bytes: self.bytes, at: end.saturating_sub(content.len()), end })
    }

    /// A length-prefixed string that must be UTF-8 without NUL (sshd refuses NUL; names elsewhere are ASCII).
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, CertificateError> {
        let expected = "UTF-8 without NUL";
        let text =
            std::str::from_utf8(self.string(field)?).map_err(|_| CertificateError::Invalid { field, expected })?;
        if text.contains('\0') {
            return Err(CertificateError::Invalid { field, expected });
        }
        Ok(text)
    }

    /// Everything must have been read.
    pub(crate) fn finish(self, field: &'static str) -> Result<(), CertificateError> {
        match self.end.saturating_sub(self.at) {
            0 => Ok(()),
            count => Err(CertificateError::TrailingBytes { field, count }),
        }
    }
}

/// Appends a length-prefixed string.
///
/// # Errors
/// If `content` is longer than a `u32` can say.
pub(crate) fn put_string(out: &mut Vec<u8>, content: &[u8], field: &'static str) -> Result<(), CertificateError> {
    let length = u32::try_from(content.len()).map_err(|_| CertificateError::Oversize {
        field,
        size: content.len(),
        max: usize::try_from(u32::MAX).unwrap_or(usize::MAX),
    })?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(content);
    Ok(())
}
