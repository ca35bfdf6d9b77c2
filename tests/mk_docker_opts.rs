//! `dist/mk-docker-opts.sh` under each installed shell: the same bytes as flannel's script, and right
//! results where that one fails.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/mk-docker-opts.sh");

const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.1.0.0/16\n\
                          FLANNEL_SUBNET=10.1.74.1/24\n\
                          FLANNEL_MTU=1472\n\
                          FLANNEL_IPMASQ=false\n";

const BIP: &str = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n";
const IPMASQ: &str = "DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n";
const MTU: &str = "DOCKER_OPT_MTU=\"--mtu=1472\"\n";
const ALL: &str = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";

#[test]
fn default_options_write_every_variable_and_the_combined_one() {
    under_every_shell(|bench| assert_eq!(bench.written(&[]), [BIP, IPMASQ, MTU, ALL].concat()));
}

#[test]
fn options_choose_what_is_written() {
    let named = ALL.replace("DOCKER_OPTS", "DOCKER_NETWORK_OPTIONS");
    let unmasked = ALL.replace(" --ip-masq=true", "");
    let cases: [(&[&str], &[&str]); 6] = [
        (&["-i"], &[BIP, IPMASQ, MTU]),
        (&["-c"], &[ALL]),
        (&["-i", "-c"], &[BIP, IPMASQ, MTU, ALL]),
        (&["-k", "DOCKER_NETWORK_OPTIONS"], &[BIP, IPMASQ, MTU, &named]),
        (&["-m"], &[BIP, MTU, &unmasked]),
        (&["-mck", "DOCKER_OPTS"], &[&unmasked]),
    ];
    under_every_shell(|bench| {
        for (args, lines) in cases {
            assert_eq!(bench.written(args), lines.concat(), "{args:?}");
        }
    });
}

#[test]
fn dockers_masquerade_is_the_opposite_of_flannels() {
    under_every_shell(|bench| {
        bench.input(&SUBNET_ENV.replace("=false", "=true"));
        assert!(bench.written(&["-i"]).contains("DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\n"));
    });
}

#[test]
fn masquerade_that_is_neither_true_nor_false_is_an_error_and_writes_nothing() {
    under_every_shell(|bench| {
        bench.input("FLANNEL_IPMASQ=maybe\n");
        fs::write(bench.output(), "as it was\n").unwrap();
        let message = bench.fails(&[]);
        assert!(message.contains("FLANNEL_IPMASQ is 'maybe'"), "{message}");
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), "as it was\n");
        assert_eq!(bench.written(&["-m"]), "DOCKER_OPTS=\"\"\n");
    });
}

#[test]
fn no_input_makes_an_empty_variable() {
    under_every_shell(|bench| {
        fs::remove_file(bench.path("subnet.env")).unwrap();
        assert_eq!(bench.written(&[]), "DOCKER_OPTS=\"\"\n");
        assert_eq!(bench.written(&["-i"]), "");
        bench.input("FLANNEL_MTU=1400\n");
        assert_eq!(bench.written(&["-c"]), "DOCKER_OPTS=\" --mtu=1400\"\n");
    });
}

#[test]
fn output_is_written_anew_each_time() {
    under_every_shell(|bench| {
        fs::write(bench.output(), "x".repeat(4096)).unwrap();
        assert_eq!(bench.written(&["-c"]), ALL);
    });
}

#[test]
fn value_the_variable_has_already_comes_first() {
    under_every_shell(|bench| {
        let before = [("DOCKER_OPTS", "-D")];
        let combined = ALL.replace("\" ", "\"-D  ");
        assert_eq!(bench.written_with(&before, &["-c"]), combined);
        bench.input("DOCKER_OPTS='-D --debug'\n");
        assert_eq!(bench.written(&["-c"]), "DOCKER_OPTS=\"-D --debug\"\n");
    });
}

#[test]
fn callers_options_are_taken_along_in_order_of_their_names() {
    let env = [("DOCKER_OPT_X", "--debug"), ("DOCKER_OPT_C", "--icc"), ("X_DOCKER_OPT_Y", "--no")];
    let options = [BIP, "DOCKER_OPT_C=\"--icc\"\n", IPMASQ, MTU, "DOCKER_OPT_X=\"--debug\"\n"];
    let combined = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --icc --ip-masq=true --mtu=1472 --debug\"\n";
    under_every_shell(|bench| {
        assert_eq!(bench.written_with(&env, &["-i"]), options.concat());
        assert_eq!(bench.written_with(&env, &["-c"]), combined);
    });
}

#[test]
fn any_value_reads_back_as_it_was() {
    let value = "--label \"a  b\" 'c' $HOME `id` \\n *";
    let env = [("DOCKER_OPT_X", value), ("MULTI", "\nDOCKER_OPT_NO=1\nDOCKER_OPTS=no")];
    under_every_shell(|bench| {
        fs::remove_file(bench.path("subnet.env")).unwrap();
        let written = bench.written_with(&env, &[]);
        assert_eq!(written.lines().count(), 2, "{written}");
        for (variable, expected) in [("DOCKER_OPT_X", value), ("DOCKER_OPTS", &format!(" {value}"))]
        {
            let print = format!(". \"$0\"; printf %s \"${variable}\"");
            let shell = Command::new("sh").arg("-c").arg(print).arg(bench.output()).output();
            assert_eq!(String::from_utf8(shell.unwrap().stdout).unwrap(), expected);
        }
    });
}

#[test]
fn names_need_no_slash() {
    under_every_shell(|bench| {
        let mut command = bench.command(&[], &["-c", "-f", "subnet.env", "-d", "docker.env"]);
        assert!(command.current_dir(bench.dir.path()).status().unwrap().success());
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), ALL);
    });
}

#[test]
fn output_may_be_the_input() {
    under_every_shell(|bench| {
        let file = bench.path("subnet.env");
        let mut command = bench.command(&[], &["-c"]);
        assert!(command.arg("-d").arg(&file).status().unwrap().success());
        assert_eq!(fs::read_to_string(file).unwrap(), ALL);
    });
}

#[test]
fn mistakes_print_the_usage_and_fail() {
    under_every_shell(|bench| {
        for args in [["-h"].as_slice(), &["-?"], &["-x"], &["-k"]] {
            let message = bench.fails(args);
            assert!(message.contains("Usage: mk-docker-opts.sh [-f FILE]"), "{args:?}: {message}");
            assert!(!bench.output().exists(), "{args:?}");
        }
        for key in ["", "1A", "A B", "A;id"] {
            let message = bench.fails(&["-k", key]);
            assert!(message.contains("not the name of a variable"), "{key:?}: {message}");
        }
        let missing = bench.path("missing/docker.env");
        let message = bench.fails(&["-d", missing.to_str().unwrap()]);
        assert!(message.contains(&format!("cannot write {}", missing.display())), "{message}");
    });
}

#[test]
fn route_to_our_own_subnet_via_another_host_is_an_error_after_writing() {
    let ours = "ip route add 10.1.74.0/24 dev lo";
    let others = "ip route add 10.1.7.0/24 via 192.0.2.3 dev lo onlink";
    let wrong = "ip route add 10.1.74.0/24 via 192.0.2.3 dev lo onlink";
    under_every_shell(|bench| {
        for route in [ours, others] {
            let (code, message) = bench.run_on_host_with(route);
            assert_eq!((code, message.as_str()), (Some(0), ""), "{route}");
        }
        fs::remove_file(bench.output()).unwrap();
        let (code, message) = bench.run_on_host_with(wrong);
        assert_eq!(code, Some(1));
        assert!(message.contains("10.1.74.0/24 is our own subnet"), "{message}");
        assert!(message.contains("via 192.0.2.3 dev lo"), "{message}");
        assert_eq!(fs::read_to_string(bench.output()).unwrap(), ALL);
    });
}

/// A directory with `subnet.env` in it, and a shell.
struct Bench {
    shell: &'static [&'static str],
    dir: TempDir,
}

/// Runs `test` on a bench of its own for each shell that is installed; `sh` always is.
fn under_every_shell(test: impl Fn(&Bench)) {
    const SHELLS: [&[&str]; 5] =
        [&["sh"], &["dash"], &["bash"], &["bash", "--posix"], &["busybox", "sh"]];
    for shell in SHELLS {
        let works = Command::new(shell[0]).args(&shell[1..]).args(["-c", "exit 0"]).status();
        if works.is_ok_and(|status| status.success()) || shell == ["sh"] {
            eprintln!("under {}", shell.join(" "));
            let bench = Bench { shell, dir: TempDir::new().unwrap() };
            bench.input(SUBNET_ENV);
            test(&bench);
        }
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn output(&self) -> PathBuf {
        self.path("docker.env")
    }

    fn input(&self, text: &str) {
        fs::write(self.path("subnet.env"), text).unwrap();
    }

    /// The script with `args`, on our input and output, in an environment of nothing but `env`.
    fn command(&self, env: &[(&str, &str)], args: &[&str]) -> Command {
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]).arg(Path::new(SCRIPT));
        command.arg("-f").arg(self.path("subnet.env")).arg("-d").arg(self.output()).args(args);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(env.iter().copied());
        command
    }

    fn written(&self, args: &[&str]) -> String {
        self.written_with(&[], args)
    }

    fn written_with(&self, env: &[(&str, &str)], args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(env, args).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success() && stdout.is_empty() && said.is_empty(), "{args:?}: {said}");
        fs::read_to_string(self.output()).unwrap()
    }

    /// Exit status and message of `-c` on a host, which is a network namespace, set up by `set_up`.
    fn run_on_host_with(&self, set_up: &str) -> (Option<i32>, String) {
        let command = self.command(&[], &["-c"]);
        let mut host = Command::new("unshare");
        host.args(["--user", "--map-root-user", "--net", "sh", "-c"]);
        host.arg(format!("ip link set lo up && {set_up} && exec \"$@\"")).arg("sh");
        let output = host.arg(command.get_program()).args(command.get_args()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// What it says when it fails.
    fn fails(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(&[], args).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stdout.as_slice()), (Some(1), &b""[..]), "{args:?}: {said}");
        said
    }
}
