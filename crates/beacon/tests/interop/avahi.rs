//! Debian's Avahi on one host: a daemon with a message bus and a `/run` of its own, so that many run side by side and none
//! meets that of the machine.

use std::process::Command;

use crate::lan::Host;
use crate::program::{Program, Scratch};

pub(crate) struct Avahi<'h> {
    host: &'h Host,
    scratch: Scratch,
    daemon: Option<Program>,
    /// The name of the host, as it was after probing.
    pub(crate) host_name: String,
    _bus: Program,
}

/// What avahi-browse says of a service that it has resolved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) address: String,
    pub(crate) port: String,
    /// Each attribute in quotation marks.
    pub(crate) txt: String,
}

impl<'h> Avahi<'h> {
    pub(crate) fn start(host: &'h Host, host_name: &str) -> Self {
        let scratch = Scratch::new();
        let address = bus_address(&scratch);
        let bus_config = scratch.write(
            "bus.conf",
            &format!(
                "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' \
                 'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\n\
                 <busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>\
                 <policy context='default'><allow send_destination='*' eavesdrop='true'/>\
                 <allow receive_sender='*'/><allow own='*'/></policy></busconfig>"
            ),
        );
        let mut bus = Command::new("dbus-daemon");
        bus.arg("--config-file").arg(bus_config).args(["--nofork", "--nopidfile", "--print-address=1"]);
        let mut bus = Program::start(&mut bus);
        bus.wait("the bus", |line| line.starts_with("unix:").then_some(()));

        let config = scratch.write(
            "avahi.conf",
            &format!(
                "[server]\nhost-name={host_name}\n[publish]\npublish-hinfo=no\npublish-workstation=no\n"
            ),
        );
        let mut daemon = host.netns.command("unshare");
        daemon.env("DBUS_SYSTEM_BUS_ADDRESS", address).args(["--mount", "sh", "-c"]).arg(
            "mount -t tmpfs tmpfs /run && mkdir /run/avahi-daemon && \
             exec avahi-daemon -f \"$0\" --no-drop-root --no-chroot --no-rlimits --no-proc-title",
        );
        let mut daemon = Program::start(daemon.arg(config));
        let host_name = daemon.wait("avahi-daemon", |line| {
            let name = line.split_once("Server startup complete. Host name is ")?.1;
            Some(name.split_once(". Local service cookie")?.0.to_owned())
        });
        Self { host, scratch, daemon: Some(daemon), host_name, _bus: bus }
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.host.netns.command(program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", bus_address(&self.scratch)).env("LC_ALL", "C.UTF-8");
        command
    }

    /// `avahi-browse -r` for as long as the program is held.
    pub(crate) fn browse(&self, service_type: &str) -> Program {
        let mut command = self.client("avahi-browse");
        Program::start(command.args(["--resolve", "--parsable", "--no-db-lookup", service_type]))
    }

    /// Publishes until the program is terminated; returns it with the name that it got in the end.
    pub(crate) fn publish(
        &self,
        name: &str,
        service_type: &str,
        port: &str,
        txt: &[&str],
    ) -> (Program, String) {
        let mut command = self.client("avahi-publish");
        let mut program = Program::start(command.args(["-s", name, service_type, port]).args(txt));
        let established = program.wait("avahi-publish", |line| {
            let name = line.strip_prefix("Established under name '")?.strip_suffix('\'')?;
            Some(name.to_owned())
        });
        (program, established)
    }

    /// Ends the daemon without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }
}

fn bus_address(scratch: &Scratch) -> String {
    format!("unix:path={}", scratch.path("bus").display())
}

/// Waits until avahi-browse has resolved the service of that name over IPv4.
#[track_caller]
pub(crate) fn resolved(browse: &mut Program, name: &str) -> Resolved {
    browse.wait(name, |line| {
        let resolved = parse(line)?;
        (resolved.name == name).then_some(resolved)
    })
}

/// `=;wire0;IPv4;Dr\.\032Ink;_ipp._tcp;local;left.local;192.0.2.1;631;"color" "rp=ipp/print"`
fn parse(line: &str) -> Option<Resolved> {
    let fields: Vec<&str> = line.splitn(10, ';').collect();
    let ["=", _, "IPv4", name, _, _, host, address, port, txt] = fields[..] else { return None };
    let (host, address, port, txt) = (host.into(), address.into(), port.into(), txt.into());
    Some(Resolved { name: unescape(name)?, host, address, port, txt })
}

/// Waits until avahi-browse says that the service of that name is gone from IPv4.
#[track_caller]
pub(crate) fn gone(browse: &mut Program, name: &str) {
    browse.wait(&format!("{name} gone"), |line| {
        let fields: Vec<&str> = line.split(';').collect();
        (fields.len() > 3 && fields[0] == "-" && fields[2] == "IPv4" && unescape(fields[3])? == name)
            .then_some(())
    });
}

fn unescape(name: &str) -> Option<String> {
    let name: beacon::NameBuf = name.parse().ok()?;
    String::from_utf8(name.as_name().labels().next()?.to_vec()).ok()
}
