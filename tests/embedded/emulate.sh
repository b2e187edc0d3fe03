#!/bin/sh
# Runs the whole test suite on the static files of targets, each with an emulated processor on this
# machine's kernel, or with the machine's own if it is of that kind:
#
#     tests/embedded/emulate.sh [TARGET...]
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/tests/embedded/common.sh"

# qemu hands no SO_MARK on to the kernel: ENOPROTOOPT.
marked='a_default_route_by_a_mark a_mark_keeps_the_tunnel_out_of_the_tunnel
    a_tunnel_without_ipv6_is_set_up_for_ipv4
    other_packets_for_the_peers_address_pass outer_packets_carry_the_mark the_ip_of_busybox_will_do
    the_ends_of_the_ranges_are_good what_a_killed_program_leaves_is_removed'
# strace shows the calls of qemu, among which it cannot find the program's own.
traced='a_kernel_that_takes_64_segments_only a_name_of_the_other_family_is_asked_for_now_and_then
    a_resolver_that_can_not_start_has_a_line
    a_wait_that_fails_has_a_line_and_is_tried_again before_linux_5_9_they_end_here_too
    a_signal_at_the_very_end_writes_to_nothing hup_and_usr1_during_the_set_up_end_nothing
    nothing_is_sent_before_there_are_random_numbers term_and_int_during_the_set_up_are_heeded_after_it
    unequal_datagrams_share_calls what_is_refused_costs_few_calls'
# No library can be put before a static file.
linked='a_child_that_ends_sends_what_it_has_read a_session_ends_after_half_an_hour
    a_session_is_renewed_without_loss no_clock_is_needed the_clock_is_set_back_and_forward
    what_a_resolver_leaves_behind_holds_nothing_up'
# It compares with the words of the C library here; musl has others.
worded=each_reason_for_a_lost_packet_has_a_line
# qemu has no preadv2: ENOSYS. So what waits in the tun together is not read together.
queued='a_client_whose_kernel_refuses datagrams_of_equal_and_mixed_sizes_that_wait_together
    flows_that_come_by_turns_are_joined_and_keep_their_order
    super_packets_share_calls_and_become_whole_again'

# suite [FILE::]...: the tests, of these files only if any are given, without those that cannot work.
suite() {
    # shellcheck disable=SC2046,SC2086 # one word for each test
    JTUNNEL_BIN=$static/$target JTUNNEL_RUNNER=$runner \
        cargo test --quiet --no-fail-fast --locked -p jtunnel-tests -- "$@" --include-ignored \
        --test-threads="$threads" $(printf -- '--skip %s ' $skipped)
}

# Most tests wait most of the time.
threads=6
cd "$root"
# shellcheck disable=SC2086 # one word for each target
[ $# -gt 0 ] || set -- $targets
for target; do
    skipped="$marked $traced $linked $worded $queued"
    runner=qemu-$(processor_of "$target")-static
    if [ "$(processor_of "$target")" = "$(uname -m)" ]; then
        runner=
        skipped="$linked $worded"
    fi
    case $target in
    mips-*)
        # qemu does not swap the bytes of the control messages UDP_SEGMENT and UDP_GRO, without a word.
        # What needs them is tested in a whole machine, by boot.rs.
        # Of a received address it swaps 16 of the 32 bits of sin6_scope_id.
        skipped="$skipped link_local_addresses_work"
        without='headers_of_any_length_pass many_in_one_call'
        echo "== $target, -O"
        JTUNNEL_FLAGS=-O suite
        # Big endian talks to little endian.
        for native in jtunneld jtunnel-client; do
            echo "== $target, -O, and $native of this machine"
            JTUNNEL_FLAGS=-O JTUNNEL_NATIVE=$native suite carry:: roam::
        done
        ;;
    *)
        without=
        echo "== $target"
        suite
        echo "== $target, -O"
        JTUNNEL_FLAGS=-O suite
        ;;
    esac
    echo "== $target, unit tests"
    for tests in "$static/$target/unit-tests/"*; do
        # shellcheck disable=SC2046,SC2086 # one word for each test
        $runner "$tests" --quiet $([ -z "$without" ] || printf -- '--skip %s ' $without)
    done
done
