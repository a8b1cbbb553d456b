//! `shadowmesh mdns` as a person or a script meets it: two machines, one cable.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lab/mod.rs"]
mod lab;
#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Output, Stdio};

use lab::{Host, SOON, Scratch, WIRE, cable, wait_for};
use os::netns::{die_with_parent, terminate};
use serde_json::{Value, json};
use support::{clean, stderr, stdout};

fn main() -> ExitCode {
    let tests = lab::tests![
        a_published_service_is_browsed_and_gone_when_its_process_is_asked_to_stop,
        a_service_and_its_host_are_resolved,
        records_and_types_are_listed,
        nothing_found_is_exit_code_1_and_nonsense_is_exit_code_2,
        a_capture_is_read_by_tcpdump_and_shows_nothing_malformed,
        a_terminal_that_is_closed_takes_the_service_back,
        a_name_that_was_won_is_asked_for_again,
        a_host_that_had_to_be_renamed_is_told_by_publish,
        a_name_as_browse_shows_it_is_resolved,
    ];
    let firewalls = lab::tests![behind_a_firewall_publish_says_that_nobody_hears_it_and_when_that_is_over];
    lab::main(vec![(tests, &["tcpdump"]), (firewalls, &["nft"])], 4)
}

fn mdns(host: &Host, args: &[&str]) -> Command {
    let mut command = clean(host.netns.command(env!("CARGO_BIN_EXE_shadowmesh")));
    command.arg("mdns").args(args);
    command
}

fn run(host: &Host, args: &[&str]) -> Output {
    mdns(host, args).output().unwrap()
}

/// A command that goes on, and the lines it prints.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(host: &Host, args: &[&str]) -> Self {
        let mut child = die_with_parent(&mut mdns(host, args)).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Asks it to stop; it must do so without an error.
    fn stop(mut self) {
        terminate(&mut self.child).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Unless it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PRINTER: &str = "Dr. Müller's printer";

/// Publishes on a machine, and returns when the name is its own; the name of the machine.
fn publish(host: &Host) -> (Running, String) {
    let scratch = Scratch::new();
    let (publisher, line) = publish_keeping(host, &scratch.path.join("names"));
    let host_name = line.trim_end().rsplit_once(" of ").unwrap().1.to_owned();
    assert_eq!(line, format!("published {PRINTER} as _ipp._tcp on port 631 of {host_name}\n"));
    (publisher, host_name)
}

/// The same with a file for names; what it says.
fn publish_keeping(host: &Host, names: &Path) -> (Running, String) {
    let mut publisher = Running::start(
        host,
        &[
            "publish",
            PRINTER,
            "_ipp._tcp",
            "631",
            "rp=ipp/print",
            "color",
            "--subtype",
            "_printer",
            "--names",
            names.to_str().unwrap(),
        ],
    );
    let line = publisher.line();
    (publisher, line)
}

fn a_host_that_had_to_be_renamed_is_told_by_publish() {
    let (left, right) = cable();
    let (_first, host_name) = publish(&left);
    let scratch = Scratch::new();
    let names = scratch.path.join("names");
    // Both machines are called the same.
    let mut second = Running::start(
        &right,
        &["publish", "Scans", "_webdav._tcp", "80", "--names", names.to_str().unwrap()],
    );
    let line = second.line();
    let renamed = line.trim_end().rsplit_once(" of ").unwrap().1.to_owned();
    assert_ne!(renamed, host_name);
    assert_eq!(
        second.line(),
        format!("this host is called {renamed} here, because another has, or had, the name {host_name}\n")
    );
    second.stop();
}

fn a_name_as_browse_shows_it_is_resolved() {
    let (left, right) = cable();
    let scratch = Scratch::new();
    let names = scratch.path.join("names");
    let name = "C:\\new \"Dr. Ü\" _x\u{202e}";
    let mut publisher =
        Running::start(&left, &["publish", name, "_http._tcp", "80", "--names", names.to_str().unwrap()]);
    assert!(publisher.line().starts_with("published C:"));
    let shown = stdout(&run(&right, &["browse", "_http._tcp", "--once"]));
    let columns = shown.trim_end().split_once(WIRE).unwrap().1.trim_start();
    let (column, service_type) = columns.rsplit_once("  ").unwrap();
    let json = stdout(&run(&right, &["browse", "_http._tcp", "--once", "--json"]));
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found["name"], json!(name));
    let full_name = found["full_name"].as_str().unwrap();
    for arguments in
        [&["resolve", columns][..], &["resolve", full_name], &["resolve", column.trim_end(), service_type]]
    {
        let output = run(&right, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let text = stdout(&output);
        assert!(text.starts_with(&format!("= {WIRE}    {column}")), "{text}");
        // Addresses of both families, though those of one come first.
        assert!(text.contains("192.0.2.1") && text.contains("2001:db8::1"), "{text}");
    }
    publisher.stop();
}

fn behind_a_firewall_publish_says_that_nobody_hears_it_and_when_that_is_over() {
    let (left, right) = cable();
    let nft = |rule: &str| assert!(left.netns.command("nft").arg(rule).status().unwrap().success(), "{rule}");
    nft("add table inet f; add chain inet f o { type filter hook output priority 0; }; \
         add rule inet f o udp dport 5353 drop");
    let output = run(&left, &["browse", "--once"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("Operation not permitted"), "{output:?}");

    let scratch = Scratch::new();
    let names = scratch.path.join("names");
    let mut command =
        mdns(&left, &["publish", PRINTER, "_ipp._tcp", "631", "--names", names.to_str().unwrap()]);
    let command = die_with_parent(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let lines = BufReader::new(child.stdout.take().unwrap());
    let mut publisher = Running { child, lines };
    let mut warning = String::new();
    errors.read_line(&mut warning).unwrap();
    assert!(
        warning.contains(&format!("cannot send on {WIRE} over IPv4: Operation not permitted")),
        "{warning}"
    );

    nft("delete table inet f");
    // A change of the network is a reason to try again at once.
    left.add_address(WIRE, "192.0.2.77/24");
    let mut told = Vec::new();
    while !told.last().is_some_and(|line: &String| line.starts_with("published ")) {
        told.push(publisher.line());
    }
    assert!(told.contains(&format!("sending on {WIRE} over IPv4 works now\n")), "{told:?}");
    // Nobody had heard the first announcement.
    let found = run(&right, &["resolve", &format!("{PRINTER}._ipp._tcp")]);
    assert!(found.status.success(), "{found:?}");
    publisher.stop();
}

/// RFC 6762 §9.
fn a_name_that_was_won_is_asked_for_again() {
    let (left, right) = cable();
    let scratch = Scratch::new();
    let names = scratch.path.join("state/names");
    let (first, _) = publish(&left);
    let (second, line) = publish_keeping(&right, &names);
    let renamed = format!("published {PRINTER} (2) as _ipp._tcp on port 631 of ");
    assert!(line.starts_with(&renamed), "{line}");
    first.stop();
    second.stop();
    let (_again, line) = publish_keeping(&right, &names);
    assert!(line.starts_with(&renamed), "{line}");
}

fn a_published_service_is_browsed_and_gone_when_its_process_is_asked_to_stop() {
    let (left, right) = cable();
    let mut all = Running::start(&right, &["browse"]);
    let mut resolved = Running::start(&right, &["browse", "_printer._sub._ipp._tcp", "--resolve", "--json"]);
    let (publisher, host_name) = publish(&left);
    let mut event = resolved.json();
    // Its link-local address comes from the kernel.
    event["addresses"]
        .as_array_mut()
        .unwrap()
        .retain(|address| !address.as_str().unwrap().starts_with("fe80"));
    assert_eq!(
        event,
        json!({
            "event": "added",
            "name": PRINTER,
            "full_name": format!("{PRINTER}._ipp._tcp.local"),
            "type": "_ipp._tcp",
            "interface": WIRE,
            "host": host_name,
            "port": 631,
            "addresses": ["192.0.2.1", "2001:db8::1"],
            "txt": { "rp": "ipp/print", "color": true },
        })
    );
    assert_eq!(all.line(), format!("+ {WIRE}    {PRINTER:<32}  _ipp._tcp\n"));

    publisher.stop();
    let gone = json!({
        "event": "removed",
        "name": PRINTER,
        "full_name": format!("{PRINTER}._ipp._tcp.local"),
        "type": "_ipp._tcp",
        "interface": WIRE,
    });
    assert_eq!(resolved.json(), gone);
    assert_eq!(all.line(), format!("- {WIRE}    {PRINTER:<32}  _ipp._tcp\n"));
    all.stop();
}

fn a_service_and_its_host_are_resolved() {
    let (left, right) = cable();
    let (_publisher, host_name) = publish(&left);
    for name in [r"Dr. Müller's printer._ipp._tcp", r"Dr\. Müller's printer._ipp._tcp.local."] {
        let output = run(&right, &["resolve", name]);
        let text = stdout(&output);
        let [head, host, address, ..] = text.lines().collect::<Vec<_>>()[..] else { panic!("{output:?}") };
        assert_eq!(head, format!("= {WIRE}    {PRINTER:<32}  _ipp._tcp"));
        assert_eq!(host, format!("    host     {host_name} port 631"));
        assert!(address.starts_with("    address  192.0.2.1  2001:db8::1"), "{address}");
    }
    let output = run(&right, &["resolve", &host_name, "--json"]);
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(found["name"], json!(host_name));
    assert_eq!(found["addresses"][0], json!({ "address": "192.0.2.1", "interface": WIRE }));
}

fn records_and_types_are_listed() {
    let (left, right) = cable();
    let (_publisher, host_name) = publish(&left);
    let output = run(&right, &["query", &host_name, "A"]);
    assert_eq!(stdout(&output), format!("{WIRE}    {host_name} 120 A 192.0.2.1\n"));
    let output = run(&right, &["query", "_ipp._tcp.local", "ptr", "--json", "--time", "1.5"]);
    let record: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&record["type"], &record["unique"]), (&json!("PTR"), &json!(false)));
    assert_eq!(record["data"], json!(r"Dr\. Müller's printer._ipp._tcp.local"));
    let output = run(&right, &["types"]);
    assert_eq!(stdout(&output), format!("{WIRE}    _ipp._tcp\n"));
    let output = run(&right, &["browse", "--once"]);
    assert_eq!(stdout(&output), format!("+ {WIRE}    {PRINTER:<32}  _ipp._tcp\n"));
}

fn nothing_found_is_exit_code_1_and_nonsense_is_exit_code_2() {
    let (left, _right) = cable();
    let outcome = |args: &[&str]| {
        let output = run(&left, args);
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code().unwrap(), stderr(&output))
    };
    assert_eq!(outcome(&["browse", "--once"]), (1, "no services were found\n".into()));
    assert_eq!(outcome(&["types"]), (1, "no services were found\n".into()));
    assert_eq!(
        outcome(&["resolve", "nobody"]),
        (1, "nobody on the local network answers for `nobody`\n".into())
    );
    assert_eq!(
        outcome(&["query", "nobody.local", "TXT", "-t", "0.3"]),
        (1, "nobody has TXT records of `nobody.local`\n".into())
    );
    assert_eq!(
        outcome(&["browse", "-i", "wire9"]),
        (1, "no interface called wire9 is up with an address (see `ip address`)\n".into())
    );
    assert_eq!(
        outcome(&["browse", "ipp"]),
        (
            2,
            "service type `ipp`: a service type is written _name._tcp or _name._udp, for instance _ipp._tcp\n".into()
        )
    );
    assert_eq!(
        outcome(&["publish", "x", "_ipp._tcp", "1", "a=1", "A=2"]),
        (2, "attribute `A=2`: a TXT key stands twice\n".into())
    );
    let (code, text) = outcome(&["query", "nobody.local", "FOO"]);
    assert!(code == 2 && text.contains("`FOO` is no type of record"), "{text}");
}

fn a_capture_is_read_by_tcpdump_and_shows_nothing_malformed() {
    let (left, right) = cable();
    let scratch = Scratch::new();
    let path = scratch.path.join("lan.pcap");
    let monitor = Running::start(&right, &["monitor", "-w", path.to_str().unwrap()]);
    let mut text = Running::start(&right, &["monitor"]);
    wait_for("the file has begun", SOON, || path.exists().then_some(()));
    let (publisher, host_name) = publish(&left);
    publisher.stop();
    let mut goodbyes = 0;
    while goodbyes == 0 {
        let line = text.line();
        assert!(!line.contains('#'), "{line}");
        goodbyes += u32::from(line.contains(&format!("= {host_name} 0 IN A 192.0.2.1 flush")));
    }
    text.stop();
    monitor.stop();
    let tcpdump = Command::new("tcpdump").arg("-nvr").arg(&path).output().unwrap();
    let packets = stdout(&tcpdump);
    assert!(
        packets.contains("192.0.2.1.5353 > 224.0.0.251.5353") && packets.contains("> ff02::fb.5353"),
        "{packets}"
    );
    for wrong in ["bad", "invalid", "truncated", "|domain"] {
        assert!(!packets.contains(wrong), "{packets}");
    }
}

fn a_terminal_that_is_closed_takes_the_service_back() {
    let (left, right) = cable();
    let mut found = Running::start(&right, &["browse", "_ipp._tcp"]);
    let (publisher, _) = publish(&left);
    assert!(found.line().starts_with('+'));
    // A hang-up, as when a terminal is closed.
    let mut child = Command::new("kill").args(["-HUP", &publisher.child.id().to_string()]).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(found.line().starts_with('-'));
    let mut rest = String::new();
    let mut publisher = publisher;
    publisher.lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
