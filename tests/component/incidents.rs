//! The incidents that the gate answers to, and the tests that show it: who may have what, and what
//! happens to it afterwards.

use crate::evidence_page::is_there;

/// What happened elsewhere, and the tests of what it led to here.
const SHOWN: [(&str, &str, &[&str]); 13] = [
    (
        "IN-3",
        "equal request ids crossed between clients",
        &[
            "e2e crowd::equal_ids_on_a_hundred_connections_do_not_cross",
            "component mcp::limits::equal_ids_on_a_hundred_connections_do_not_cross",
        ],
    ),
    (
        "IN-8",
        "a constraint was dropped for one kind of key",
        &[
            "component constraints::every_constraint_holds_on_every_path",
            "component constraints::a_lease_is_cut_on_every_path_that_makes_one",
        ],
    ),
    (
        "IN-9",
        "secrets in transcripts",
        &[
            "e2e leaks::secrets_stay_out_of_everything_that_can_be_seen",
            "component mcp::leases::a_model_gets_a_handle_and_a_program_the_credential",
        ],
    ),
    (
        "IN-10",
        "an injected model widened what it may",
        &[
            "component mcp::eras::the_list_of_tools_is_the_same_for_everybody_and_always",
            "component gate::a_decoy_is_refused_like_anything_else_and_recorded_like_nothing_else",
        ],
    ),
    (
        "IN-13",
        "tokens in the log on one path",
        &["e2e leaks::secrets_stay_out_of_everything_that_can_be_seen"],
    ),
    (
        "IN-16",
        "a bad request ended the daemon",
        &["e2e bad_input::any_bytes_leave_the_daemon_alive"],
    ),
    (
        "IN-21",
        "capabilities in the environment, read by the same user",
        &[
            "e2e attack::another_process_of_the_same_user_cannot_look_inside",
            "e2e attack::nothing_of_the_daemon_is_read_but_what_is_shown_of_anybody",
        ],
    ),
    (
        "IN-22",
        "documents claimed what code did not check",
        &[
            "e2e policy::rules_by_hash_and_group_hold_for_real_programs",
            "lib broker::policy::tests::conditions_on_unit_group_and_hash_narrow",
        ],
    ),
    (
        "IN-28",
        "a slow accept loop without deadline",
        &[
            "e2e bad_input::the_last_connection_too_many_is_turned_away",
            "e2e bad_input::a_process_that_holds_half_of_the_connections_is_told_so",
        ],
    ),
    (
        "IN-29",
        "a denial's text leaked the policy's patterns",
        &[
            "e2e denials::denials_have_one_shape_at_both_doors",
            "e2e denials::denials_of_programs_have_the_same_shape",
        ],
    ),
    (
        "IN-30",
        "dead tokens were served after suspend and clock steps",
        &["lib broker::tests::nothing_leaks_and_nobody_is_forgotten"],
    ),
    (
        "LC-7",
        "what was given out outlived who asked for it",
        &[
            "component holders::each_class_ends_by_its_own_event",
            "e2e holders::a_lease_ends_with_its_process_however_that_ends",
            "e2e holders::the_end_of_a_command_is_recorded_as_the_end_of_its_holder",
        ],
    ),
    (
        "LM",
        "a caller in a loop",
        &["component gate::a_caller_that_is_denied_again_and_again_is_paused"],
    ),
];

#[test]
fn every_incident_of_the_gate_has_its_tests() {
    for (id, what, tests) in SHOWN {
        assert!(!tests.is_empty(), "{id}: {what}");
        for test in tests {
            assert!(is_there(test), "{id}, {what}: {test} is not there");
        }
    }
}
