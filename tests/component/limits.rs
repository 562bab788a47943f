//! The index of limits: every bound has a test at it and one step beyond, or a line here that says
//! why not. What has no bound in the code yet has none here to test.

use std::collections::BTreeSet;

use crate::evidence_page::is_there;

/// How a limit is held.
enum Held {
    /// By these tests.
    By(&'static [&'static str]),
    /// By nothing: what it limits is not there yet.
    NotYet(&'static str),
}

use Held::{By, NotYet};

/// Every limit, what it limits first.
const LIMITS: [(&str, Held); 39] = [
    (
        "broker.sock: a line of 256 KiB",
        By(&[
            "lib socket::frame::tests::the_bound_is_exact",
            "lib socket::connection::tests::the_longest_line_is_served",
            "lib socket::connection::tests::an_endless_line_is_refused_and_the_connection_closed",
        ]),
    ),
    (
        "mcp.sock: a line of 1 MiB, 1024 values",
        By(&[
            "component mcp::limits::a_line_that_is_too_long_is_answered_and_ends_the_conversation",
            "component mcp::limits::a_line_with_too_many_values_is_answered_and_ends_the_conversation",
        ]),
    ),
    (
        "both: the first message in 10 s, a begun line in 5 s",
        By(&[
            "lib socket::connection::tests::silence_and_half_lines_end_the_connection",
            "component mcp::limits::silence_and_half_lines_end_in_time",
        ]),
    ),
    (
        "connections: 256 a socket",
        By(&[
            "lib socket::listener::tests::the_limit_is_answered_and_the_end_is_waited_for",
            "e2e bad_input::the_last_connection_too_many_is_turned_away",
        ]),
    ),
    (
        "connections: half of them a process",
        By(&[
            "lib socket::listener::tests::a_process_holds_at_most_its_share",
            "e2e bad_input::a_process_that_holds_half_of_the_connections_is_told_so",
        ]),
    ),
    (
        "broker.sock: 64 requests in flight",
        By(&["lib socket::connection::tests::reading_stops_at_64_requests_in_flight"]),
    ),
    (
        "mcp.sock: calls in flight",
        By(&[
            "component mcp::limits::a_call_too_many_is_told_so_and_cancellations_still_arrive",
            "lib mcp::guard::tests::what_is_under_way_is_bounded",
        ]),
    ),
    (
        "replies: 1 MiB",
        By(&["lib socket::wire::tests::an_answer_that_is_too_long_becomes_internal"]),
    ),
    (
        "replies: unread for 30 s",
        By(&[
            "lib socket::connection::tests::unread_answers_end_the_connection",
            "component mcp::limits::a_peer_that_never_reads_is_given_up",
        ]),
    ),
    (
        "accept: hundreds wait",
        By(&["lib socket::folder::tests::a_crowd_may_wait_to_be_accepted"]),
    ),
    (
        "accept: a client waits 1 s for a place",
        By(&["lib socket::client::tests::a_place_to_wait_in_is_waited_for"]),
    ),
    (
        "accept: out of descriptors",
        By(&[
            "lib socket::listener::tests::accept_errors_are_told_apart",
            "lib daemon::descriptors::tests::a_low_limit_carries_fewer_connections",
            "e2e bad_input::a_low_limit_of_open_files_keeps_nobody_out",
        ]),
    ),
    (
        "core: 1024 requests wait",
        By(&["lib broker::actor::tests::a_request_too_many_for_the_core_is_told_so"]),
    ),
    (
        "core: 1024 leases",
        By(&["lib broker::tests::a_full_lease_table_says_when_to_come_back"]),
    ),
    (
        "new leases of a client of mcp.sock: 60, then 10 a second",
        By(&[
            "lib mcp::rate::tests::a_burst_then_a_steady_pace_for_each_process",
            "component mcp::limits::new_leases_are_counted_for_each_client",
        ]),
    ),
    (
        "new leases of a peer of broker.sock",
        NotYet("no key: the issuer throttles"),
    ),
    ("prompts: 1 for equal requests", NotYet("approvals")),
    ("prompts: 8 wait", NotYet("approvals")),
    ("prompts: 3 a minute for a peer", NotYet("approvals")),
    (
        "denials: remembered 60 s, doubling to 15 min",
        By(&[
            "lib broker::denials::tests::each_no_is_remembered_twice_as_long_up_to_a_quarter_of_an_hour",
            "lib broker::denials::tests::what_is_remembered_is_bounded",
        ]),
    ),
    (
        "HTTP call: 10 s to connect",
        By(&["lib aegis::tests::a_connection_has_ten_seconds"]),
    ),
    (
        "HTTP call: 30 s in all",
        By(&[
            "lib aegis::tests::the_whole_call_has_one_deadline",
            "lib aegis::tests::both_keys_of_a_beginning_have_one_deadline",
        ]),
    ),
    (
        "HTTP answer: 1 MiB, 64 KiB of headers",
        By(&["lib aegis::tests::the_bounds_of_an_answer_are_exact"]),
    ),
    (
        "HTTP answer: depth 64",
        By(&["lib aegis::wire::tests::depth_is_bounded"]),
    ),
    (
        "HTTP answer: never compressed",
        By(&["lib aegis::tests::hostile_answers_to_redeem_are_classified"]),
    ),
    ("app descriptor: 256 KiB, 256 tools", NotYet("apps")),
    (
        "secret value: 64 KiB",
        By(&["lib aegis::wire::tests::secrets_are_bounded_and_unescaped"]),
    ),
    (
        "reason: 200 characters",
        By(&[
            "lib socket::wire::tests::requests_are_parsed_into_types",
            "lib socket::wire::tests::bad_lines_are_answered_by_their_fault",
        ]),
    ),
    (
        "access token: 10 min, at most 15",
        By(&["lib aegis::tests::token_lifetimes_are_the_earlier_and_capped"]),
    ),
    (
        "lease: 30 s to 60 min, 1 to 10 redemptions",
        By(&[
            "lib socket::wire::tests::requests_are_parsed_into_types",
            "lib socket::wire::tests::bad_lines_are_answered_by_their_fault",
            "lib aegis::tests::created_leases_are_checked",
        ]),
    ),
    (
        "device code: 10 min, at most 15",
        By(&["lib aegis::tests::begin_answers_are_checked"]),
    ),
    ("SPIFFE challenge: 5 min", NotYet("workload identity")),
    ("SVID: 1 h", NotYet("workload identity")),
    (
        "proof that the server takes: 8 KiB",
        By(&[
            "mock dpop_matrix::bad_proofs_are_refused_and_good_ones_accepted_where_no_nonce_is_required",
        ]),
    ),
    (
        "jti that the server takes: 256 bytes",
        By(&[
            "mock-lib dpop::tests::bad_proofs_are_refused_by_the_check_they_fail",
            "mock-lib dpop::tests::good_proofs_at_the_edges_are_accepted",
        ]),
    ),
    (
        "key store call: 5 s, 60 s with a prompt",
        NotYet("a key store that could take time"),
    ),
    (
        "shutdown: 2 s",
        By(&[
            "lib broker::tests::shutdown_revokes_and_stops_within_two_seconds",
            "component leases::a_core_without_doors_ends_in_time",
        ]),
    ),
    (
        "logout: a call keeps its session for 3 s",
        By(&[
            "lib broker::actor::tests::a_call_under_way_keeps_the_session_for_three_seconds_at_most",
        ]),
    ),
    (
        "restart after a crash: no manual step",
        By(&["e2e crash::a_daemon_killed_in_a_call_starts_again_alone"]),
    ),
];

/// LM.
#[test]
fn every_limit_has_a_test_or_says_what_is_not_there_yet() {
    let names: BTreeSet<&str> = LIMITS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), LIMITS.len(), "a limit is there twice");
    for (name, held) in &LIMITS {
        match held {
            By(tests) => {
                assert!(!tests.is_empty(), "{name}");
                for test in *tests {
                    assert!(is_there(test), "{name}: {test} is not there");
                }
            }
            NotYet(what) => assert!(!what.is_empty(), "{name}"),
        }
    }
}
