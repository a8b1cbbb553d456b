//! Ctrl-C at any moment: the terminal is left tidy, and nothing else is left at all.

use std::io;
use std::process;
use std::thread;

use os::poll::{Events, Interest, Poller};
use os::signal::{Signal, Signals};

use super::progress::Stage;

/// Starts a thread that ends the process when a signal asks for it.
///
/// That is all the tidying there is to do: the daemons die with the process that started them, their TUN
/// devices with them, and the namespaces with the last descriptor. The signals stay blocked in all threads
/// started later.
pub(super) fn watch(stage: Stage) -> io::Result<()> {
    let signals = Signals::block()?;
    let poller = Poller::new()?;
    poller.add(&signals, 0, Interest::READ)?;
    thread::Builder::new().name("demo-signals".into()).spawn(move || {
        let mut events = Events::with_capacity(1);
        while poller.wait(&mut events, None).is_ok() {
            match signals.read() {
                Ok(Some(Signal::Interrupt)) => end(stage, 2),
                Ok(Some(Signal::Terminate)) => end(stage, 15),
                Ok(Some(Signal::Hangup)) => end(stage, 1),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(())
}

fn end(stage: Stage, signal: i32) -> ! {
    stage.interrupt("  interrupted; nothing is left behind");
    // As a shell reports a process that a signal has ended.
    process::exit(128 + signal)
}
