//! The program as a person or a script meets it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use support::{PRIVATE_KEY, PUBLIC_KEY, Scratch, run, run_with_input, stderr, stdout};

#[test]
fn a_public_key_is_the_one_that_wireguard_tools_print() {
    let output = run_with_input(&["pubkey"], format!("{PRIVATE_KEY}\n").as_bytes());
    assert_eq!(stdout(&output), format!("{PUBLIC_KEY}\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn keys_go_through_pipes_and_no_two_are_alike() {
    let scratch = Scratch::new();
    let first = stdout(&run(&scratch.path, &["genkey"]));
    let second = stdout(&run(&scratch.path, &["genkey"]));
    assert_ne!(first, second);
    assert_eq!((first.len(), first.lines().count()), (45, 1));
    let public = stdout(&run_with_input(&["pubkey"], first.as_bytes()));
    assert_eq!(public.len(), 45);
    let preshared = stdout(&run(&scratch.path, &["genpsk"]));
    assert_eq!(preshared.len(), 45);
    assert_ne!(preshared, stdout(&run(&scratch.path, &["genpsk"])));
}

#[test]
fn a_secret_is_as_strong_as_a_key_and_no_two_are_alike() {
    let scratch = Scratch::new();
    let secrets = [(); 2].map(|()| stdout(&run(&scratch.path, &["secret"])));
    assert!(secrets.iter().all(|secret| secret.trim_end().len() == 44), "32 bytes as base64");
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn iface_shows_interfaces_and_the_way_to_an_address() {
    let scratch = Scratch::new();
    let output = run(&scratch.path, &["iface", "--to", "127.0.0.1"]);
    let text = stdout(&output);
    assert!(text.contains("lo: up, MTU 65536") && text.contains("  address   127.0.0.1/8"), "{text}");
    assert!(text.contains("to 127.0.0.1: lo from 127.0.0.1, directly"), "{text}");
    assert!(text.contains("fake TCP  packet socket"), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_is_no_private_key_is_refused_without_repeating_it() {
    for garbage in [&b"garbage\n"[..], b"", b"\xff\xfe\x00", &[b'A'; 10_000]] {
        let output = run_with_input(&["pubkey"], garbage);
        assert!(stderr(&output).starts_with("standard input holds no private key: "), "{}", stderr(&output));
        assert!(!stderr(&output).contains("garbage"));
        assert_eq!((output.stdout.len(), output.status.code()), (0, Some(2)));
    }
}

#[test]
fn commands_that_need_a_running_node_say_so_with_exit_code_3() {
    let scratch = Scratch::new();
    let missing = scratch.path.join("run");
    let run_dir = missing.to_str().unwrap();
    let output = run(&scratch.path, &["status", "--run-dir", run_dir]);
    assert_eq!(
        stderr(&output),
        format!(
            "no node is running (no control socket answers in {run_dir}): start one with `shadowmesh up -c FILE`\n"
        )
    );
    assert_eq!(output.status.code(), Some(3));

    let output = run(&scratch.path, &["status", "--run-dir", run_dir, "--node", "left", "--json"]);
    assert_eq!(stderr(&output), format!("no node is running at {run_dir}/left.sock\n"));
    assert_eq!((output.stdout.len(), output.status.code()), (0, Some(3)));

    let output = run(&scratch.path, &["ping", "right", "--socket", "@shadowmesh-nobody"]);
    assert_eq!(stderr(&output), "no node is running at @shadowmesh-nobody\n");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn the_node_of_a_file_is_found_by_its_name_without_reading_its_keys() {
    let scratch = Scratch::new();
    scratch
        .write("left.toml", "[node]\nprivate_key_file = \"not-readable-by-this-user\"\nname = \"gateway\"\n");
    let run_dir = scratch.path.to_str().unwrap();
    let output = run(&scratch.path, &["status", "-c", "left.toml", "--run-dir", run_dir]);
    assert_eq!(stderr(&output), format!("no node is running at {run_dir}/gateway.sock\n"));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn any_flag_that_names_a_node_is_stronger_than_any_variable() {
    let scratch = Scratch::new();
    let status = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = support::program();
        command.current_dir(&scratch.path).arg("status").args(args).env("SHADOWMESH_RUN_DIR", "/nowhere");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        stderr(&output)
    };
    let all =
        [("SHADOWMESH_SOCKET", "@socket"), ("SHADOWMESH_NODE", "node"), ("SHADOWMESH_CONFIG", "gone.toml")];
    assert_eq!(status(&all, &["--node", "left"]), "no node is running at /nowhere/left.sock\n");
    assert_eq!(status(&all, &["--socket", "@x"]), "no node is running at @x\n");
    assert_eq!(status(&all, &[]), "no node is running at @socket\n");
    assert_eq!(status(&all[1..], &[]), "no node is running at /nowhere/node.sock\n");
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_says_what_is_right() {
    let scratch = Scratch::new();
    for args in
        [&["stauts"][..], &["up"], &["ping"], &["ping", "x", "-n", "0"], &["completions", "tcsh"], &[]]
    {
        let output = run(&scratch.path, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("Usage") || stderr(&output).contains("--help"), "{args:?}");
    }
    assert!(stderr(&run(&scratch.path, &["stauts"])).contains("'status'"));
}

#[test]
fn help_tells_a_newcomer_everything_needed_to_begin() {
    let scratch = Scratch::new();
    let output = run(&scratch.path, &["--help"]);
    let help = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    for needed in [
        "up ",
        "check ",
        "status ",
        "ping ",
        "demo ",
        "genkey ",
        "pubkey ",
        "genpsk ",
        "completions ",
        "version ",
        "private_key_file",
        "allowed_ips",
        "SHADOWMESH_CONFIG",
        "/run/shadowmesh/",
        "/var/lib/shadowmesh/",
        "Exit codes:",
    ] {
        assert!(help.contains(needed), "`{needed}` is missing");
    }
    for line in help.lines() {
        assert!(line.chars().count() <= 110, "too wide: {line}");
    }
    for command in
        ["up", "check", "status", "ping", "demo", "genkey", "pubkey", "genpsk", "completions", "version"]
    {
        let output = run(&scratch.path, &[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
    }
}

#[test]
fn the_configuration_in_the_help_is_a_valid_one() {
    let scratch = Scratch::new();
    let help = stdout(&run(&scratch.path, &["--help"]));
    let begin = help.find("  [node]").unwrap();
    let end = begin + help[begin..].find("\n\n").unwrap();
    let text = help[begin..end].replace("…what `shadowmesh pubkey < right.key` prints…", PUBLIC_KEY);
    scratch.write("left.toml", &text);
    scratch.write("left.key", &stdout(&run(&scratch.path, &["genkey"])));
    let output = run(&scratch.path, &["check", "-c", "left.toml"]);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
}

#[test]
fn version_names_target_and_features() {
    let version = stdout(&run(Scratch::new().path.as_path(), &["version"]));
    assert!(version.starts_with(&format!("shadowmesh {}\n", env!("CARGO_PKG_VERSION"))));
    for needed in ["linux", "post-quantum", "offloads"] {
        assert!(version.contains(needed), "{version}");
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish", "elvish"] {
        let output = run(&scratch.path, &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("genpsk"), "{shell}");
    }
}
