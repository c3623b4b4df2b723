//! Errors and sessions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a refused call answers with.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// NeuVector's number of the kind of error.
    pub code: u16,
    /// The kind of error.
    pub error: String,
    /// What is wrong; names the field or the thing.
    pub message: String,
}

/// Body of a login.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthRequest {
    /// Who logs in.
    pub password: Password,
    /// Taken and ignored: the address is that of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
}

/// Who logs in.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// New password, to change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_password: Option<String>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Password")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Answer to a login.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenData {
    /// The session.
    pub token: Token,
    /// Always -1: passwords do not expire.
    pub password_days_until_expire: i32,
    /// Always 0.
    pub password_hours_until_expire: i32,
}

/// A session.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// What goes into `X-Auth-Token`.
    pub token: String,
    /// User.
    pub fullname: String,
    /// Always empty: users are the controller's own.
    pub server: String,
    /// User.
    pub username: String,
    /// Address for mail.
    pub email: String,
    /// `admin`, `operator` or `reader`.
    pub role: String,
    /// Seconds without a call after which the session ends.
    pub timeout: u32,
    /// Language.
    pub locale: String,
    /// Always false: there is no default password.
    pub default_password: bool,
    /// Always false: nobody is made to change a password.
    pub modify_password: bool,
    /// Login before this one since the controller started, seconds since the epoch; 0 for none.
    pub last_login_timestamp: i64,
    /// The same, RFC 3339; empty for none.
    pub last_login_at: String,
    /// Logins since the controller started, this one among them.
    pub login_count: u32,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("username", &self.username)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Whether the controller serves.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}
