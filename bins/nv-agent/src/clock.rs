//! What a refused certificate has to do with the clock.

use std::error::Error;

/// What to add to the words of a connection that failed, where a certificate was refused for its time.
pub(crate) fn hint(error: &(dyn Error + 'static)) -> &'static str {
    let mut refused = false;
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string().to_lowercase().replace(' ', "");
        refused |= ["notvalidyet", "certificateexpired"]
            .iter()
            .any(|said| words.contains(said));
        next = error.source();
    }
    if refused {
        "; a certificate is not good at the time of this host's clock: is the clock right, and the controller's?"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_to_do_with_the_clock_says_so() {
        let error = |words: &str| std::io::Error::other(std::io::Error::other(words.to_owned()));
        for words in [
            "invalid peer certificate: certificate expired: verification time 1 (UNIX), but …",
            "invalid peer certificate: NotValidYet",
            "received fatal alert: CertificateExpired",
        ] {
            assert!(hint(&error(words)).contains("clock"), "{words}");
        }
        assert_eq!(hint(&error("invalid peer certificate: UnknownIssuer")), "");
    }
}
