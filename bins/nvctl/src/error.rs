//! What can go wrong, and the exit code it ends in.

/// Done.
pub const EXIT_OK: u8 = 0;
/// The controller refused, or something on this side did.
pub const EXIT_REFUSED: u8 = 1;
/// Wrong usage; clap ends with the same number.
pub const EXIT_USAGE: u8 = 2;
/// The controller cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 3;
/// It ran, and the answer is no.
pub const EXIT_NO: u8 = 4;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CtlError {
    /// The controller does not answer.
    #[error("cannot reach the controller at {server}")]
    Unreachable {
        /// Address that was tried.
        server: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// The controller said no.
    #[error("{message} (HTTP {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// The controller answered something that is not its language.
    #[error("{server} answered something that nvctl does not understand: {detail}")]
    Garbled {
        /// Address.
        server: String,
        /// What it was.
        detail: String,
    },
    /// Not logged in.
    #[error("not logged in at {server}")]
    NoToken {
        /// Address.
        server: String,
    },
    /// A file cannot be read, or is wrong.
    #[error("{file}: {problem}")]
    File {
        /// File, `-` for standard input.
        file: String,
        /// What is wrong, with line and column where there is one.
        problem: String,
    },
    /// Wrong usage that only shows up later than parsing.
    #[error("{0}")]
    Usage(String),
    /// A call of the operating system failed.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A step of a self test failed.
    #[error("step '{step}' failed: {detail}")]
    Step {
        /// Step.
        step: String,
        /// What was seen.
        detail: String,
    },
}

impl CtlError {
    /// Exit code of the program for this error.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => EXIT_UNREACHABLE,
            Self::Usage(_) => EXIT_USAGE,
            Self::Step { .. } => EXIT_NO,
            Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::NoToken { .. }
            | Self::File { .. }
            | Self::Io { .. } => EXIT_REFUSED,
        }
    }

    /// What to do about it, if that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } if is_certificate(source) => Some(
                "its certificate is not from the CA that nvctl knows; name the controller's ca.pem with --ca"
                    .into(),
            ),
            Self::Unreachable { .. } => {
                Some("is nv-controller (or nv-allinone) running? name it with --server or NV_SERVER".into())
            }
            Self::NoToken { .. } => Some("run 'nvctl login' first".into()),
            Self::Refused { status: 401, .. } => {
                Some("the session has ended or was never there; run 'nvctl login'".into())
            }
            Self::Refused { status: 403, .. } => Some("this user's role may not do that".into()),
            _ => None,
        }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

fn is_certificate(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if inner.to_string().contains("certificate") {
            return true;
        }
        cause = inner.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_exit_code() {
        let refused = CtlError::Refused {
            status: 400,
            message: "x".into(),
        };
        assert_eq!(refused.exit_code(), EXIT_REFUSED);
        assert_eq!(CtlError::Usage("x".into()).exit_code(), EXIT_USAGE);
        assert_eq!(
            CtlError::Step {
                step: "a".into(),
                detail: "b".into()
            }
            .exit_code(),
            EXIT_NO
        );
        assert!(
            CtlError::NoToken { server: "s".into() }
                .hint()
                .unwrap()
                .contains("login")
        );
    }
}
