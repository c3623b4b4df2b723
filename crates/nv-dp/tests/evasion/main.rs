//! The evasion matrix: tricks by which a workload gets past a guard, each played between real network namespaces under Protect.
//!
//! Every row prints how many packets were delivered, for both families and both directions, once with the guard on and once with it
//! off; the second shows that the row would notice. Rows marked 'stated' are limits that the documentation states; rows marked
//! 'known gap' are not held yet and fail as soon as they are, so that they get moved.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]
#![allow(unreachable_pub, reason = "the modules of one test")]

#[path = "../common/mod.rs"]
mod common;
mod control;
mod link;
mod packets;
mod play;
mod sys;
mod town;
mod translation;
mod transport;
mod wire;

use common::netns::is_root;

/// Rows that this datapath cannot be tried on, and why.
const ELSEWHERE: &[(u8, &str)] = &[
    (
        10,
        "host network: a workload without an interface of its own is no endpoint, and is listed as not enforceable by the agent",
    ),
    (
        31,
        "DNS names: which answers count is the agent's to say, not the datapath's",
    ),
];

#[test]
fn the_matrix_is_whole() {
    let tables = [
        link::ROWS,
        packets::ROWS,
        transport::ROWS,
        translation::ROWS,
        control::ROWS,
    ];
    let mut numbers: Vec<u8> = tables
        .iter()
        .flat_map(|rows| rows.iter().map(|row| row.number))
        .collect();
    numbers.extend(ELSEWHERE.iter().map(|(number, _)| *number));
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<u8>>(), "every row once");
}

#[test]
fn addresses_and_links() {
    if is_root("addresses_and_links") {
        play::play(link::ROWS);
    }
}

#[test]
fn marks_are_the_nodes_alone() {
    if is_root("marks_are_the_nodes_alone") {
        play::play(link::BEYOND);
    }
}

#[test]
fn odd_packets() {
    if is_root("odd_packets") {
        play::play(packets::ROWS);
    }
}

#[test]
fn transport_and_applications() {
    if is_root("transport_and_applications") {
        play::play(transport::ROWS);
    }
}

#[test]
fn address_translation() {
    if is_root("address_translation") {
        play::play(translation::ROWS);
    }
}

#[test]
fn starts_restarts_and_changes() {
    if is_root("starts_restarts_and_changes") {
        play::play(control::ROWS);
    }
}
