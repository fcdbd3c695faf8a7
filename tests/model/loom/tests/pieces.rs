//! The smallest pieces under loom: every interleaving of two threads, with the weak memory of the language.
use hamal_model_loom::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn accepts(f: impl Fn() + Sync + Send + 'static) {
    loom::model::Builder::new().check(f);
}

fn rejects(f: impl Fn() + Sync + Send + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| loom::model::Builder::new().check(f)));
    assert!(found.is_err(), "every interleaving passes");
}

#[test]
fn the_leader_reads_what_was_copied() {
    accepts(|| group(false, true));
    rejects(|| group(false, false));
    rejects(|| group(true, true));
}

#[test]
fn a_page_is_bound_to_one_frame() {
    accepts(|| translation(true));
    rejects(|| translation(false));
}

#[test]
fn a_write_reads_b_again_or_the_scan_sees_its_mark() {
    accepts(|| flight(true));
    rejects(|| flight(false));
}

#[test]
fn a_page_is_marked_before_its_record_is_reserved() {
    accepts(|| dirty(true));
    rejects(|| dirty(false));
}

#[test]
fn the_end_of_a_write_hides_no_change() {
    accepts(|| end_of_flight(true));
    rejects(|| end_of_flight(false));
}
