//! A datapath in another process, over a Unix socket: [`Server`] serves any [`Datapath`](crate::Datapath), [`RemoteDatapath`] is one.
//!
//! The process that holds the rights to change the kernel can so be another one than that which talks to runtimes and controllers.
//! Either may die and come back: what is in the kernel stays; a client that finds another process behind the socket compares what that
//! has in force with what it last asked for, and asks again for what is missing.
//!
//! Both sides greet with the version of these messages and of the tables' layout, and refuse any other. Frames are a length (four bytes, little
//! endian, at most [`MAX_FRAME`]) and a message in postcard's encoding. One client at a time; only root, the server's own user and one more user
//! that it was told of are let in (`SO_PEERCRED`).

mod client;
pub(crate) mod ports;
mod server;
mod wire;

pub use client::RemoteDatapath;
pub use server::Server;
pub use wire::MAX_FRAME;
