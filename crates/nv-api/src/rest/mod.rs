//! REST objects. Fields that NeuVector has and nv does not fill are left out; fields of ours stand beside its own.

macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident { $field:ident: $type:ty }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The object.
            pub $field: $type,
        }
    };
}

mod capture;
mod endpoint;
mod inventory;
mod policy;
mod session;
mod traffic;
mod user;

pub use capture::*;
pub use endpoint::*;
pub use inventory::*;
pub use policy::*;
pub use session::*;
pub use traffic::*;
pub use user::*;
