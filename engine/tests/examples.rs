//! The examples say what they do by assertions; here they are run.

#[allow(unreachable_pub)] // an example is a program of its own, too
#[path = "../examples/log.rs"]
mod log;
#[allow(unreachable_pub)]
#[path = "../examples/register.rs"]
mod register;
#[allow(unreachable_pub)]
#[path = "../examples/set.rs"]
mod set;

#[test]
fn the_set() {
    set::main().expect("runs");
}

#[test]
fn the_register() {
    register::main().expect("runs");
}

#[test]
fn the_log() {
    log::main().expect("runs");
}
