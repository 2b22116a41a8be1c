//! The binary as people run it, without DPDK: against its own null back end, and refusing what it cannot do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::process::{Command, Output};

use towpath_bench::affinity;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_towpath-bench")).args(args).output().unwrap()
}

#[test]
fn the_null_ceiling_moves_frames_in_both_layouts() {
    let cores = affinity::allowed().unwrap();
    let core = cores[0].to_string();
    let null = cores.last().unwrap().to_string();
    for ring in ["split", "packed"] {
        let args = ["run", "--null-ceiling", "--ring", ring, "--time", "1s", "--warm", "100ms", "--json"];
        let mut args = args.to_vec();
        args.extend(["--core", &core, "--null-core", &null, "--small-pages"]);
        let output = bench(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["frames"].as_u64().unwrap() > 0, "{report}");
        assert_eq!((report["corrupt"].as_u64(), report["ring"].as_str()), (Some(0), Some(ring)));
        let (frames, bytes) = (report["frames"].as_u64().unwrap(), report["bytes"].as_u64().unwrap());
        assert_eq!(bytes, 60 * frames, "64 is testpmd's name for 60 bytes");
    }
}

#[test]
fn a_missing_socket_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let ports = format!("{},{}", socket("a.sock"), socket("b.sock"));
    let output = bench(&["run", "--ports", &ports, "--patience", "50ms"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("a.sock") && message.contains("No such file"), "{message}");
}

#[test]
fn nobody_connecting_is_said_and_the_socket_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let ports = format!("{0},{0}2", path.display());
    let output = bench(&["run", "--server", "--ports", &ports, "--patience", "50ms"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("nobody connected"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "sockets are left behind");
}

#[test]
fn wrong_options_end_with_status_2() {
    for args in [
        &["run", "--ports", "a,b", "--size", "63"][..],
        &["run", "--ports", "a,b", "--rate", "fast"],
        &["run", "--ports", "a,b", "--null-ceiling"],
        &["compare", "--systems", "nobody"],
        &["inproc", "--flows", "0"],
    ] {
        assert_eq!(bench(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_comparison_without_the_daemon_says_how_to_build_it() {
    let folder = tempfile::tempdir().unwrap();
    let cores = affinity::allowed().unwrap();
    if let [core, worker, ..] = cores[..] {
        let (core, worker, path) =
            (core.to_string(), worker.to_string(), folder.path().to_string_lossy().into_owned());
        let args = [
            "compare",
            "--systems",
            "towpathd",
            "--core",
            &core,
            "--worker-core",
            &worker,
            "--binaries",
            &path,
        ];
        let output = bench(&args);
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains("towpathd is missing; build it"), "{message}");
    }
}
