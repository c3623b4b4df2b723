//! Users.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A user.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Name.
    pub fullname: String,
    /// Always empty: users are the controller's own.
    pub server: String,
    /// Name.
    pub username: String,
    /// Address for mail.
    pub email: String,
    /// `admin`, `operator` or `reader`.
    pub role: String,
    /// Seconds without a call after which a session ends.
    pub timeout: u32,
    /// Language.
    pub locale: String,
    /// Always false: there is no default password.
    pub default_password: bool,
    /// Always false: nobody is made to change a password.
    pub modify_password: bool,
    /// Last login since the controller started, seconds since the epoch; 0 for none.
    pub last_login_timestamp: i64,
    /// The same, RFC 3339; empty for none.
    pub last_login_at: String,
    /// Logins since the controller started.
    pub login_count: u32,
    /// Always false: failures slow down whoever makes them, and block nobody else.
    pub blocked_for_failed_login: bool,
    /// Always false: passwords do not expire.
    pub blocked_for_password_expired: bool,
    /// Whether the caller may set a new password without knowing the old one.
    pub password_resettable: bool,
}

/// All users that the caller may see.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsersData {
    /// Users.
    pub users: Vec<User>,
    /// Roles that there are.
    pub global_roles: Vec<String>,
    /// Always empty: roles are for everything.
    pub domain_roles: Vec<String>,
}

wrapper!(
    /// One user.
    UserData { user: User }
);

/// A user to make.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    /// Name.
    pub fullname: String,
    /// The same name, or left out.
    #[serde(default)]
    pub username: Option<String>,
    /// Password.
    pub password: String,
    /// `admin`, `operator` or `reader`.
    pub role: String,
    /// Address for mail.
    #[serde(default)]
    pub email: Option<String>,
    /// Language.
    #[serde(default)]
    pub locale: Option<String>,
    /// Must be empty, if it is there: users are the controller's own.
    #[serde(default)]
    pub server: Option<String>,
    /// Taken and ignored, as are the fields below: they are in what a list answers with.
    #[serde(default)]
    pub timeout: Option<u32>,
    /// Ignored.
    #[serde(default)]
    pub default_password: Option<bool>,
    /// Ignored.
    #[serde(default)]
    pub modify_password: Option<bool>,
    /// Ignored.
    #[serde(default)]
    pub last_login_timestamp: Option<i64>,
    /// Ignored.
    #[serde(default)]
    pub last_login_at: Option<String>,
    /// Ignored.
    #[serde(default)]
    pub login_count: Option<u32>,
    /// Ignored.
    #[serde(default)]
    pub blocked_for_failed_login: Option<bool>,
    /// Ignored.
    #[serde(default)]
    pub blocked_for_password_expired: Option<bool>,
    /// Ignored.
    #[serde(default)]
    pub password_resettable: Option<bool>,
}

impl std::fmt::Debug for UserCreate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserCreate")
            .field("fullname", &self.fullname)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

wrapper!(
    /// Body of a user to make.
    UserCreateData { user: UserCreate }
);

/// A user to change: what is left out stays.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// Name; must be that of the path.
    pub fullname: String,
    /// Old password: needed for a new one of one's own.
    pub password: Option<String>,
    /// New password. It ends all other sessions of the user.
    pub new_password: Option<String>,
    /// Role. A new one ends all sessions of the user.
    pub role: Option<String>,
    /// Address for mail.
    pub email: Option<String>,
    /// Language.
    pub locale: Option<String>,
    /// Must be empty, if it is there: there are no profiles of passwords.
    pub pwd_profile: Option<String>,
}

impl std::fmt::Debug for UserConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserConfig")
            .field("fullname", &self.fullname)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

wrapper!(
    /// Body of a user to change.
    UserConfigData { config: UserConfig }
);
