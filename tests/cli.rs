//! The command line: what is printed where, and with which exit status.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use support::config::{Config, SERVER_ID, client_id};
use support::host::Host;
use support::launch::Launch;
use support::peer::Peer;

const PROGRAMS: [&str; 2] = ["jtunneld", "jtunnel-client"];

/// What a program needs behind its options.
fn operands(program: &str) -> &'static [&'static str] {
    match program {
        "jtunneld" => &["/bin/true"],
        _ => &["192.0.2.1", "5886", "/bin/true"],
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A run that ended with this status, said nothing on standard output, and on standard error
/// first this.
#[track_caller]
fn assert_failed(output: &Output, status: i32, message: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(said.lines().next(), Some(message), "{said}");
}

/// A set-up error: one line, status 111.
#[track_caller]
fn assert_set_up_failed(output: &Output, message: &str) {
    assert_failed(output, 111, message);
    assert_eq!(text(&output.stderr).lines().count(), 1);
}

/// In front of a command: a caller who leaves all files open to all.
const UMASK_0: [&str; 4] = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];

/// A usage error: the reason, then the synopsis and where there is more, status 100.
#[track_caller]
fn assert_wrong_usage(program: &'static str, output: &Output, reason: &str) {
    assert_failed(output, 100, &format!("{program}: {reason}"));
    let said = text(&output.stderr);
    let (_, usage) = said.split_once('\n').unwrap();
    assert!(usage.starts_with(&format!("usage: {program} [-")), "{said}");
    assert!(said.lines().count() <= 6, "{said}");
    // The same words as -h.
    let host = Host::new("help");
    let help = text(&Launch::new(&host, program).options(["-h"]).output().stdout);
    let (synopsis, _) = help.split_once("\n\n").unwrap();
    assert_eq!(usage, format!("{synopsis}\n-h for help\n"));
}

#[test]
#[ignore = "needs root"]
fn help_and_version() {
    let host = Host::new("host");
    for program in PROGRAMS {
        // Whatever else is asked for.
        for options in [
            &["-h"][..],
            &["-V"],
            &["-f", "-h", "-v"],
            &["-V", "-I"],
            &["-h", "-p", "1"],
            &["--help"],
            &["--version"],
            &["-f", "--help", "-p", "1"],
        ] {
            let output = Launch::new(&host, program).options(options).output();
            assert_eq!(
                (output.status.code(), text(&output.stderr)),
                (Some(0), String::new())
            );
            let said = text(&output.stdout);
            match options
                .iter()
                .any(|option| ["-h", "--help"].contains(option))
            {
                true => assert!(said.starts_with(&format!("usage: {program} ")), "{said}"),
                false => assert_eq!(said, format!("{program} {}\n", env!("CARGO_PKG_VERSION"))),
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_printed_is_an_error() {
    let host = Host::new("host");
    for program in PROGRAMS {
        for option in ["-h", "-V", "-I"] {
            let mut command = Launch::new(&host, program)
                .options(["-d", "config", option])
                .command();
            command.stdin(Stdio::null()).stderr(Stdio::piped());
            command.stdout(fs::File::create("/dev/full").unwrap());
            let output = host.spawn(command).wait_with_output().unwrap();
            let reason = "unable to write to standard output: No space left on device";
            assert_set_up_failed(&output, &format!("{program}: {reason}"));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn wrong_values_of_options() {
    let host = Host::new("host");
    let port = "not a port from 1 to 65535";
    let mark = "not a mark of 32 bits, decimal or 0x and hex";
    let mtu = "not an MTU from 68 to 65499 bytes";
    let address = "not a literal address";
    for (option, value, expected) in [
        ("-p", "0", port),
        ("-p", "65536", port),
        ("-p", "-1", port),
        ("-p", "http", port),
        ("-p", "", port),
        ("-M", "0x100000000", mark),
        ("-M", "4294967296", mark),
        ("-M", "abc", mark),
        ("-M", "-1", mark),
        ("-M", "0x", mark),
        ("-m", "67", mtu),
        ("-m", "65500", mtu),
        ("-m", "1e3", mtu),
        ("-b", "localhost", address),
        ("-b", "192.0.2.256", address),
        ("-b", "192.0.2.1:80", address),
        ("-b", "fe80::1%nosuchdevice", address),
        ("-b", "", address),
        ("-d", "", "not a path"),
        ("-P", "", "not a path"),
    ] {
        for program in PROGRAMS {
            let launch = Launch::new(&host, program).options([option, value]);
            let output = launch.operands(operands(program)).output();
            assert_failed(
                &output,
                100,
                &format!("{program}: {option} {value:?}: {expected}"),
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_link_local_address_needs_its_interface() {
    let host = Host::new("host");
    for program in PROGRAMS {
        let launch = Launch::new(&host, program).options(["-b", "fe80::1"]);
        let output = launch.operands(operands(program)).output();
        let reason = "-b fe80::1: without its interface, as in fe80::1%eth0";
        assert_failed(&output, 100, &format!("{program}: {reason}"));
    }
}

#[test]
#[ignore = "needs root"]
fn wrong_identifiers_are_not_repeated() {
    let host = Host::new("host");
    for id in [
        "0123456789abcde",
        "0123456789abcdef0",
        "0123456789ABCDEF",
        "0123456789abcdeg",
        "",
        "0x23456789abcdef",
    ] {
        for program in PROGRAMS {
            let launch = Launch::new(&host, program).options(["-i", id]);
            let output = launch.operands(operands(program)).output();
            assert_wrong_usage(
                program,
                &output,
                "-i: not an identifier of 16 lower-case hex digits",
            );
            let output = Launch::new(&host, program).options(["-I", id]).output();
            assert_wrong_usage(program, &output, "-I takes no argument");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn wrong_keepalive_intervals_and_ports_of_the_client() {
    let host = Host::new("host");
    for value in ["3601", "-1", "1.5", "x", ""] {
        let output = Launch::client(&host)
            .options(["-k", value])
            .operands(operands("jtunnel-client"))
            .output();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(100), "{said}");
        assert!(
            said.starts_with(&format!("jtunnel-client: -k {value:?}: not ")),
            "{said}"
        );
    }
    for port in ["0", "65536", "jtunnel", "", "-5"] {
        let output = Launch::client(&host)
            .operands(["192.0.2.1", port, "/bin/true"])
            .output();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(100), "{said}");
        let first = said.lines().next().unwrap();
        assert!(
            first.contains(&format!("{port:?}")) && first.contains("port"),
            "{said}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn missing_and_unknown_words() {
    let host = Host::new("host");
    let missing = "ADDRESS, PORT or PROG is missing";
    let cases: [(&'static str, &[&str], &str); 14] = [
        ("jtunneld", &[], "PROG is missing"),
        ("jtunneld", &["-f"], "PROG is missing"),
        (
            "jtunneld",
            &["-k", "1", "/bin/true"],
            "Unrecognized option: 'k'",
        ),
        ("jtunneld", &["-A", "/bin/true"], "Unrecognized option: 'A'"),
        ("jtunneld", &["-x", "/bin/true"], "Unrecognized option: 'x'"),
        ("jtunneld", &["--hel"], "Unrecognized option: 'hel'"),
        ("jtunneld", &["-p"], "Argument to option 'p' missing"),
        (
            "jtunneld",
            &["-p", "1", "-p", "2", "/bin/true"],
            "Option 'p' given more than once",
        ),
        ("jtunneld", &["-I", "/bin/true"], "-I takes no argument"),
        ("jtunnel-client", &[], missing),
        ("jtunnel-client", &["192.0.2.1"], missing),
        ("jtunnel-client", &["192.0.2.1", "5886"], "PROG is missing"),
        (
            "jtunnel-client",
            &["-x", "192.0.2.1", "5886", "/bin/true"],
            "Unrecognized option: 'x'",
        ),
        (
            "jtunnel-client",
            &["-I", "192.0.2.1"],
            "-I takes no argument",
        ),
    ];
    for (program, words, reason) in cases {
        let output = Launch::new(&host, program).options(words).output();
        assert_wrong_usage(program, &output, reason);
    }
}

#[test]
#[ignore = "needs root"]
fn bytes_that_are_no_text() {
    let host = Host::new("host");
    let bytes = OsString::from_vec(vec![b'a', 0xff, b'b']);
    let flags = std::env::var("JTUNNEL_FLAGS").unwrap_or_default();
    let place = flags.split_whitespace().count() + 2;
    let reason = format!("argument {place}: not valid UTF-8");
    for program in PROGRAMS {
        for option in ["-d", "-P", "-b", "-i"] {
            let launch = Launch::new(&host, program).options([OsStr::new(option), &bytes]);
            let output = launch.operands(operands(program)).output();
            assert_wrong_usage(program, &output, &reason);
        }
    }
    // PROG and its arguments may be any bytes.
    let prog = host.script("prog", "printf %s \"$1\" >$0.argument; : >$0.done");
    let odd = host.path("").join(&bytes);
    fs::rename(&prog, &odd).unwrap();
    let config = Config::server(&host, "config", SERVER_ID);
    config.authorise(&client_id(1));
    let server = Launch::server(&host)
        .options(["-d".as_ref(), config.path.as_os_str()])
        .operands([odd.as_os_str(), &bytes])
        .start();
    server.lines.wait("started: ");
    Peer::new(&host).knock(&client_id(1), ("127.0.0.1", 5886), SERVER_ID);
    let mut file = odd.clone().into_os_string();
    file.push(".argument");
    support::wait::wait_until(support::wait::PATIENCE, "PROG", || {
        fs::read(&file).is_ok_and(|content| content == b"a\xffb")
    });
}

#[test]
#[ignore = "needs root"]
fn an_identifier_is_made_once_and_safely() {
    let host = Host::new("host");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for program in ["jtunneld", "jtunnel-client"] {
        let directory = host.path(program).join("jtunnel");
        let launch = Launch::new(&host, program).options(["-I", "-d", directory.to_str().unwrap()]);
        // Whatever umask the caller has.
        let output = launch.clone().under(&UMASK_0).output();
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new())
        );
        let id = text(&output.stdout);
        assert_eq!(id.len(), 17);
        assert!(
            id[..16].chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')),
            "{id}"
        );
        assert_eq!(fs::read_to_string(directory.join("id")).unwrap(), id);
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("id")), 0o600);
        for peers in ["clients", "servers"] {
            assert_eq!(mode(&directory.join(peers)), 0o700);
        }
        let mut names: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["clients", "id", "servers"], "nothing else is left");
        // Again, it is the same.
        assert_eq!(text(&launch.output().stdout), id);
        // Another directory, another one.
        let other = host.path("other").join(program);
        let launch = Launch::new(&host, program).options(["-I", "-d", other.to_str().unwrap()]);
        assert_ne!(text(&launch.output().stdout), id);
    }
}

#[test]
#[ignore = "needs root"]
fn the_default_directory_is_etc_jtunnel() {
    let host = Host::new("host");
    host.empty_directory("/etc");
    let ids =
        PROGRAMS.map(|program| text(&Launch::new(&host, program).options(["-I"]).output().stdout));
    assert_eq!(ids[0], ids[1], "one host, one identifier");
    assert_eq!(
        host.sh("cat /etc/jtunnel/id; ls /etc/jtunnel"),
        format!("{}clients\nid\nservers\n", ids[0])
    );
}

#[test]
#[ignore = "needs root"]
fn many_first_runs_at_once_agree() {
    let host = Host::new("host");
    let directory = host.path("jtunnel");
    let runs: Vec<_> = (0..8)
        .map(|number| {
            let launch = Launch::new(&host, PROGRAMS[number % 2]);
            let launch = launch.options(["-I", "-d", directory.to_str().unwrap()]);
            std::thread::spawn(move || text(&launch.output().stdout))
        })
        .collect();
    let ids: Vec<String> = runs.into_iter().map(|run| run.join().unwrap()).collect();
    assert_eq!(ids[0].len(), 17);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
#[ignore = "needs root"]
fn an_identifier_that_cannot_be_written_or_read() {
    let host = Host::new("host");
    host.run(|| {
        // Read-only flash.
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("tmpfs"), "/mnt", Some("tmpfs"), flags, None::<&str>).unwrap();
    });
    for program in PROGRAMS {
        let launch = |directory: &str| Launch::new(&host, program).options(["-d", directory]);
        for arguments in [
            launch("/mnt").options(["-I"]),
            launch("/mnt").operands(operands(program)),
        ] {
            let output = arguments.output();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(111));
            assert!(
                said.starts_with(&format!("{program}: unable to write /mnt/id ")),
                "{said}"
            );
            assert!(
                said.contains("-i") && said.ends_with(": Read-only file system\n"),
                "{said}"
            );
        }
        for (content, reason) in [
            ("", "not an identifier of 16 lower-case hex digits"),
            (
                "0123456789ABCDEF\n",
                "not an identifier of 16 lower-case hex digits",
            ),
            (
                "0123456789abcdef and more",
                "not an identifier of 16 lower-case hex digits",
            ),
        ] {
            let directory = host.path("bad");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("id"), content).unwrap();
            let output = launch(directory.to_str().unwrap()).options(["-I"]).output();
            let file = directory.join("id").display().to_string();
            assert_set_up_failed(
                &output,
                &format!("{program}: unable to read {file}: {reason}"),
            );
        }
        let directory = host.path("odd");
        fs::create_dir_all(directory.join("id")).unwrap();
        let output = launch(directory.to_str().unwrap()).options(["-I"]).output();
        assert_eq!(output.status.code(), Some(111));
        fs::remove_dir(directory.join("id")).unwrap();
        nix::unistd::mkfifo(&directory.join("id"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let output = launch(directory.to_str().unwrap()).options(["-I"]).output();
        assert_eq!(output.status.code(), Some(111), "a FIFO does not block");
        fs::remove_dir_all(directory).unwrap();
        // With -i the file is of no interest.
        let output = launch("/mnt").options(["-i", SERVER_ID, "-I"]).output();
        assert_eq!(text(&output.stdout), format!("{SERVER_ID}\n"));
    }
}

/// A program with an identifier, ready for the operands.
fn with_id(host: &Host, program: &'static str) -> Launch {
    Launch::new(host, program).options(["-i", SERVER_ID, "-d", "config"])
}

#[test]
#[ignore = "needs root"]
fn prog_must_be_there() {
    let host = Host::new("host");
    fs::write(host.path("plain"), "").unwrap();
    fs::create_dir(host.path("directory")).unwrap();
    for program in PROGRAMS {
        let front = &operands(program)[..operands(program).len() - 1];
        for (prog, reason) in [
            ("/nonexistent/prog", "No such file or directory"),
            ("nosuchcommand", "No such file or directory"),
            ("", "No such file or directory"),
            ("./plain", "Permission denied"),
            ("./directory", "Permission denied"),
            ("./plain/prog", "Not a directory"),
        ] {
            let output = with_id(&host, program)
                .operands(front)
                .operands([prog])
                .output();
            assert_set_up_failed(
                &output,
                &format!("{program}: unable to run {prog}: {reason}"),
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn prog_must_have_what_runs_it() {
    let host = Host::new("host");
    let scripts = [
        ("dos", "#!/bin/sh\r\necho\r\n", "its first line ends in CR"),
        (
            "lost",
            "#!/nonexistent/sh -e\n",
            "its interpreter /nonexistent/sh: No such file or directory",
        ),
        (
            "mode",
            "#!/etc/passwd\n",
            "its interpreter /etc/passwd: Permission denied",
        ),
        ("bare", "echo\n", "it does not begin with #!"),
        ("empty", "", "it does not begin with #!"),
    ];
    for (name, text, reason) in scripts {
        host.sh(&format!("printf '{text}' >{name}; chmod 755 {name}"));
        for program in PROGRAMS {
            let front = &operands(program)[..operands(program).len() - 1];
            let prog = format!("./{name}");
            let output = with_id(&host, program)
                .operands(front)
                .operands([&prog])
                .output();
            assert_set_up_failed(
                &output,
                &format!("{program}: unable to run {prog}: {reason}"),
            );
        }
    }
}

/// Starts a program, and returns what it says before it runs; whoever starts it in the background
/// hears the same.
#[track_caller]
fn said_at_start(launch: &Launch) -> Vec<String> {
    let mut process = launch.start();
    process.lines.wait("started: ");
    process.stop();
    let lines = process.lines.all();
    let lines = lines.iter().take_while(|line| !line.contains("started: "));
    let in_foreground: Vec<String> = lines.cloned().collect();
    // A name is resolved, and a port free, for the next one.
    let host_pid = "said-at-start.pid";
    let output = launch.clone().options(["-P", host_pid]).output();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.lines().collect::<Vec<_>>(), in_foreground);
    in_foreground
}

#[test]
#[ignore = "needs root"]
fn a_start_that_cannot_work_says_so() {
    for (program, peers) in [("jtunneld", "clients"), ("jtunnel-client", "servers")] {
        let host = Host::new("host");
        let directory = host.path("jtunnel");
        let launch = || {
            let launch = Launch::new(&host, program).options(["-d", "jtunnel"]);
            launch.operands(operands(program))
        };
        let end = || {
            let pid = host.read("said-at-start.pid");
            host.sh(&format!("kill {pid}"));
            support::wait::wait_until(support::wait::PATIENCE, "the end", || {
                !host.path("said-at-start.pid").exists()
            });
        };
        // A new directory.
        let nobody = format!(
            "{program}: nobody is authorised in {}/{peers}: the identifier that the other end \
             prints with -I is to be the name of a file there",
            directory.display()
        );
        let mut process = launch().start();
        process.lines.wait("started: ");
        let own = host.read("jtunnel/id").trim().to_owned();
        let made = format!(
            "{program}: made a new identifier {} in {}/id",
            support::config::shown(&own),
            directory.display()
        );
        assert_eq!(process.lines.all()[..2], [made, nobody.clone()]);
        process.stop();
        assert_eq!(said_at_start(&launch()), [nobody]);
        end();
        // This host's own identifier was taken for the other's.
        let own_file = directory.join(peers).join(&own);
        fs::write(&own_file, "").unwrap();
        let said = said_at_start(&launch());
        let message = format!(
            "{program}: {}/{peers}/{} is this host's own identifier: that of the other end belongs there",
            directory.display(),
            support::config::shown(&own)
        );
        assert_eq!(said, [message]);
        end();
        fs::rename(own_file, directory.join(peers).join(client_id(1))).unwrap();
        assert_eq!(said_at_start(&launch()), [] as [&str; 0]);
        end();
        // Another user's, whatever the mode.
        let other = client_id(1);
        for (file, shown) in [
            ("id", "id"),
            (".", ""),
            (peers, peers),
            (&*format!("{peers}/{other}"), &*format!("a file in {peers}")),
        ] {
            let file = directory.join(file);
            std::os::unix::fs::chown(&file, Some(1234), None).unwrap();
            let said = said_at_start(&launch());
            end();
            assert_eq!(said.len(), 1, "{said:?}");
            let place = format!(
                "{}/{}",
                directory.display(),
                shown.trim_start_matches("a file in ")
            );
            let place = place.trim_end_matches('/');
            let of_file = if shown.starts_with("a file") {
                "a file in "
            } else {
                ""
            };
            let message = format!(
                "{program}: {of_file}{place} belongs to user 1234, who can change it: chown -R root {}",
                directory.display()
            );
            assert_eq!(said[0], message);
            std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        }
        // An address that is not there.
        for address in ["192.0.2.77", "2001:db8::77"] {
            let to = match (program, address.contains(':')) {
                ("jtunneld", _) => vec!["/bin/true"],
                (_, true) => vec!["2001:db8::1", "5886", "/bin/true"],
                (_, false) => vec!["192.0.2.1", "5886", "/bin/true"],
            };
            let options = ["-d", "jtunnel", "-b", address];
            let launch = Launch::new(&host, program).options(options).operands(to);
            let message = format!(
                "{program}: no interface has the address {address} yet: nothing is received until one has"
            );
            assert_eq!(said_at_start(&launch), [message]);
            end();
            host.ip(&format!("address add {address} dev lo"));
            assert_eq!(said_at_start(&launch), [] as [&str; 0]);
            end();
        }
        // One of what was ignored, no more of it than of an identifier.
        fs::write(directory.join(peers).join(client_id(2).to_uppercase()), "").unwrap();
        let mut process = launch().start();
        let line = process.lines.wait("ignored 1 names in ");
        assert!(
            line.ends_with("that are not 16 lower-case hex digits, such as \"0002\"..."),
            "{line}"
        );
        process.stop();
    }
    // Who accepts anybody need not name one.
    let host = Host::new("host");
    let launch = Launch::client(&host).options(["-A", "-d", "jtunnel", "-i", SERVER_ID]);
    assert_eq!(
        said_at_start(&launch.operands(operands("jtunnel-client"))),
        [] as [&str; 0]
    );
}

#[test]
#[ignore = "needs root"]
fn no_tun_devices_here() {
    let host = Host::new("host");
    host.without_device("net/tun");
    for program in PROGRAMS {
        let output = with_id(&host, program).operands(operands(program)).output();
        let reason = "unable to open /dev/net/tun: No such file or directory";
        assert_set_up_failed(&output, &format!("{program}: {reason}"));
    }
}

#[test]
#[ignore = "needs root"]
fn no_permission() {
    let host = Host::new("host");
    for program in PROGRAMS {
        let output = with_id(&host, program)
            .operands(operands(program))
            .under(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
            .output();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(111), "{said}");
        assert!(
            said.starts_with(&format!("{program}: unable to ")),
            "{said}"
        );
        assert!(said.ends_with(": Operation not permitted\n"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}

#[test]
#[ignore = "needs root"]
fn the_address_is_in_use() {
    let host = Host::new("host");
    let _other = Peer::bound(&host, "[::]:5886");
    let _old = Peer::bound(&host, "0.0.0.0:5887");
    for (options, address) in [
        (&[][..], "[::]:5886"),
        (&["-b", "127.0.0.1"], "127.0.0.1:5886"),
        (&["-b", "::1"], "[::1]:5886"),
        (&["-p", "5887"], "[::]:5887"),
    ] {
        for program in PROGRAMS {
            let options = match (program, options.contains(&"-p")) {
                ("jtunnel-client", false) => [options, &["-p", "5886"]].concat(),
                _ => options.to_vec(),
            };
            let output = with_id(&host, program)
                .options(options)
                .operands(operands(program))
                .output();
            let said = text(&output.stderr);
            let message = format!("{program}: unable to bind");
            assert_eq!(output.status.code(), Some(111), "{said}");
            assert!(
                said.starts_with(&message) && said.contains(address),
                "{said}"
            );
            assert!(said.ends_with(" in use\n"), "{said}");
            assert_eq!(said.lines().count(), 1);
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_server_of_another_family_than_the_socket() {
    let host = Host::new("host");
    for (own, server, shown) in [
        ("127.0.0.1", "2001:db8::1", "[2001:db8::1]"),
        ("::1", "192.0.2.1", "192.0.2.1"),
    ] {
        let launch = with_id(&host, "jtunnel-client").options(["-b", own, "-p", "5886"]);
        let output = launch.operands([server, "5887", "/bin/true"]).output();
        let own = if own.contains(':') { "[::1]" } else { own };
        let reason = "Address family not supported by protocol";
        let message = format!("unable to send to {shown}:5887 from {own}:5886: {reason}");
        assert_set_up_failed(&output, &format!("jtunnel-client: {message}"));
    }
}

#[test]
#[ignore = "needs root"]
fn the_pid_file_cannot_be_written() {
    let host = Host::new("host");
    for program in PROGRAMS {
        for foreground in [&[][..], &["-f"]] {
            let output = with_id(&host, program)
                .options(foreground)
                .options(["-P", "/nonexistent/pid"])
                .operands(operands(program))
                .output();
            let message = "unable to write /nonexistent/pid: No such file or directory";
            assert_set_up_failed(&output, &format!("{program}: {message}"));
        }
    }
    let fifo = host.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let launch = with_id(&host, "jtunneld").options(["-P", "fifo"]);
    let output = launch.operands(["/bin/true"]).output();
    let message = format!(
        "unable to write {}: No such device or address",
        fifo.display()
    );
    assert_set_up_failed(&output, &format!("jtunneld: {message}"));
    assert!(host.pids().is_empty());
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_keeps_no_empty_pid_file() {
    let host = Host::new("host");
    host.run(|| {
        let (tmpfs, flags) = (Some("tmpfs"), nix::mount::MsFlags::empty());
        nix::mount::mount(tmpfs, "/mnt", tmpfs, flags, Some("size=4k")).unwrap();
        fs::write("/mnt/full", [0; 4096]).unwrap();
    });
    for program in PROGRAMS {
        for path in ["/mnt/pid", "/dev/full"] {
            let launch = with_id(&host, program).options(["-P", path]);
            let output = launch.operands(operands(program)).output();
            let message = format!("{program}: unable to write {path}: No space left on device");
            assert_set_up_failed(&output, &message);
        }
    }
    // The device is not ours.
    assert_eq!(host.sh("ls /mnt /dev/full"), "/dev/full\n\n/mnt:\nfull\n");
}

#[test]
#[ignore = "needs root"]
fn nobody_else_may_write_the_pid_file() {
    let host = Host::new("host");
    let server = with_id(&host, "jtunneld")
        .options(["-P", "pid"])
        .operands(["/bin/true"])
        .under(&UMASK_0)
        .start();
    server.lines.wait("started: ");
    let mode = fs::metadata(host.path("pid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
}

#[test]
#[ignore = "needs root"]
fn the_ends_of_the_ranges_are_good() {
    let host = Host::new("host");
    for options in [
        &["-p", "1", "-m", "68", "-M", "0"][..],
        &["-p", "65535", "-m", "65499", "-M", "0xffffffff"],
        &["-p", "7777", "-M", "4294967295", "-b", "::ffff:127.0.0.1"],
        &["-p", "7778", "-O", "-v", "-b", "fe80::1%lo"],
    ] {
        let mut server = with_id(&host, "jtunneld")
            .options(options)
            .operands(["/bin/true"])
            .start();
        server.lines.wait("started: ");
        server.stop();
        let server = match options.contains(&"fe80::1%lo") {
            true => "::1",
            false => "127.0.0.1",
        };
        for keepalive in ["0", "1", "3600"] {
            let mut client = with_id(&host, "jtunnel-client")
                .options(options)
                .options(["-k", keepalive])
                .operands([server, "65535", "true"])
                .start();
            client.lines.wait("started: ");
            client.stop();
        }
    }
}
