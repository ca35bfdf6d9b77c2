//! The files that `make install` and `make deb` install, and whether they work.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test or bench may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use twill::control::cli as flanneld_cli;
use twill::lab::cli as lab_cli;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// What a package holds, below `/`, apart from the pages of commands; programs are marked with `*`.
const FILES: [&str; 13] = [
    "etc/default/flanneld",
    "usr/bin/flannel-lab*",
    "usr/bin/flanneld*",
    "usr/lib/systemd/system/flanneld.service",
    "usr/libexec/flannel/mk-docker-opts.sh*",
    "usr/share/bash-completion/completions/flannel-lab",
    "usr/share/bash-completion/completions/flanneld",
    "usr/share/fish/vendor_completions.d/flannel-lab.fish",
    "usr/share/fish/vendor_completions.d/flanneld.fish",
    "usr/share/man/man8/flannel-lab.8",
    "usr/share/man/man8/flanneld.8",
    "usr/share/zsh/site-functions/_flannel-lab",
    "usr/share/zsh/site-functions/_flanneld",
];

/// All of a package: [`FILES`], and a page for each command of both programs.
fn package_files() -> Vec<String> {
    let mut files: Vec<String> = FILES.map(str::to_owned).to_vec();
    for program in [flanneld_cli::command(), lab_cli::command()] {
        for task in program.get_subcommands().filter(|task| !task.is_hide_set()) {
            let (program, task) = (program.get_name(), task.get_name());
            files.push(format!("usr/share/man/man8/{program}-{task}.8"));
        }
    }
    files.sort();
    files
}

#[test]
fn install_puts_every_file_in_its_place_and_uninstall_takes_all_but_the_settings() {
    let root = TempDir::new().unwrap();
    let destdir = format!("DESTDIR={}", root.path().display());
    make(&["install", &destdir, "PREFIX=/usr"]);
    assert_eq!(files(root.path()), package_files());

    let settings = root.path().join(FILES[0]);
    fs::write(&settings, "FLANNELD_V=1\n").unwrap();
    make(&["install", &destdir, "PREFIX=/usr"]);
    assert_eq!(fs::read_to_string(settings).unwrap(), "FLANNELD_V=1\n", "ours to keep");
    make(&["uninstall", &destdir, "PREFIX=/usr"]);
    assert_eq!(files(root.path()), [FILES[0]]);
}

#[test]
fn installed_unit_satisfies_systemd() {
    let host = TempDir::new().unwrap();
    let dir = host.path().display();
    make(&["install", &format!("PREFIX={dir}/usr"), &format!("SYSCONFDIR={dir}/etc")]);
    let unit = host.path().join("usr/lib/systemd/system/flanneld.service");
    let text = fs::read_to_string(&unit).unwrap();
    for line in [
        format!("EnvironmentFile=-{dir}/etc/default/flanneld"),
        format!("ExecStart={dir}/usr/bin/flanneld $FLANNEL_OPTIONS"),
        "ExecStartPre=+/bin/sh -c 'umask 077 && : >>/run/xtables.lock'".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    // It looks for the programs, and complains about words it does not know.
    let verify = run(systemd_analyze().args(["verify", "--man=no"]).arg(&unit));
    assert_eq!(said(&verify), "");
    // In tenths; a unit without any restrictions has 96.
    let exposure = ["security", "--offline=true", "--no-pager", "--threshold=25"];
    run(systemd_analyze().args(exposure).arg(&unit));
}

#[test]
fn sample_settings_are_flags_and_change_nothing_until_asked_to() {
    let settings = fs::read_to_string(Path::new(REPOSITORY).join("dist/flanneld.default")).unwrap();
    let (comments, active): (Vec<&str>, Vec<&str>) =
        settings.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with('#'));
    assert!(active.is_empty(), "{active:?}");
    let samples = comments.iter().filter_map(|line| line.strip_prefix('#')?.split_once('='));
    let variables: Vec<(&str, &str)> =
        samples.filter(|(name, _)| name.starts_with("FLANNELD_")).collect();
    assert!(variables.len() > 3, "{variables:?}");
    let env = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let parsed = flanneld_cli::parse([], env).unwrap();
    let flanneld_cli::Invocation::Run(config) = parsed else { panic!("{parsed:?}") };
    assert_eq!(config.healthz.unwrap().to_string(), "127.0.0.1:8285");
    for (name, _) in variables {
        let flag = name["FLANNELD_".len()..].to_lowercase().replace('_', "-");
        assert!(
            flanneld_cli::command().get_arguments().any(|arg| arg.get_long() == Some(&flag)),
            "{name}"
        );
    }
}

#[test]
fn manual_and_completions_know_every_flag() {
    let dir = TempDir::new().unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_flanneld-manual")).arg(dir.path()));
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let page = read("flanneld.8").replace("\\-", "-");
    let completions = [read("flanneld.bash"), read("_flanneld"), read("flanneld.fish")];
    for arg in flanneld_cli::command().get_arguments() {
        let flag = arg.get_long().unwrap();
        assert!(page.contains(&format!("--{flag}")), "{flag} is not in the manual");
        for completion in &completions {
            assert!(completion.contains(flag), "{flag} is not in {completion}");
        }
    }
    assert!(page.contains("flanneld - joins a host to a flannel overlay network\n"), "{page}");
    for section in [
        "EXAMPLES",
        "ENVIRONMENT",
        "DIAGNOSTICS",
        "DOCKER",
        "FILES",
        "SIGNALS",
        "SYSTEMD",
        "\"EXIT STATUS\"",
    ] {
        assert!(page.contains(&format!(".SH {section}\n")), "no {section} in {page}");
    }
    for command in [flanneld_cli::command(), lab_cli::command()] {
        manual_and_completions_know_every_command(&command, read);
    }
    let complete = r#"source "$0"; COMP_WORDS=(flanneld --etcd-e); COMP_CWORD=1
        _flanneld flanneld --etcd-e flanneld; printf '%s\n' "${COMPREPLY[@]}""#;
    let script = dir.path().join("flanneld.bash");
    let completed = run(Command::new("bash").arg("-c").arg(complete).arg(script));
    assert_eq!(String::from_utf8(completed.stdout).unwrap(), "--etcd-endpoints\n");
}

fn manual_and_completions_know_every_command(
    command: &clap::Command,
    read: impl Fn(&str) -> String,
) {
    let program = command.get_name();
    let manual = read(&format!("{program}.8")).replace("\\-", "-");
    let completions = ["{}.bash", "_{}", "{}.fish"].map(|name| read(&name.replace("{}", program)));
    for task in command.get_subcommands().filter(|task| !task.is_hide_set()) {
        let name = task.get_name();
        assert!(manual.contains(&format!("{program}-{name}(8)")), "{name} is not in the manual");
        let page = read(&format!("{program}-{name}.8")).replace("\\-", "-");
        for flag in task.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{flag}")), "{flag} is not in the manual of {name}");
            let known = |completion: &String| completion.contains(flag);
            assert!(completions.iter().all(known), "{flag} is not completed");
        }
    }
}

#[test]
fn debian_package_holds_the_same_files_and_says_what_it_needs() {
    let dir = TempDir::new().unwrap();
    let build = Path::new(REPOSITORY).join("dist/debian/build");
    let who = [("DEBFULLNAME", "A & B/C"), ("DEBEMAIL", "ab@example.org")];
    run(Command::new(build).arg(dir.path()).env("BINARIES", binaries()).envs(who));
    let package = files(dir.path()).pop().unwrap();
    assert!(package.starts_with(concat!("flanneld_", env!("CARGO_PKG_VERSION"), "_")));
    let package = dir.path().join(package);

    let root = dir.path().join("root");
    run(Command::new("dpkg-deb").arg("-x").args([&package, &root]));
    let mut expected: Vec<String> = package_files()
        .iter()
        .map(|file| file.replace("zsh/site-functions", "zsh/vendor-completions"))
        .map(|file| if file.ends_with(".8") { file + ".gz" } else { file })
        .collect();
    expected.push("usr/share/doc/flanneld/copyright".to_owned());
    expected.sort();
    assert_eq!(files(&root), expected);
    let version = run(Command::new(root.join("usr/bin/flanneld")).arg("-version"));
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(version.split(' ').next(), Some(concat!("v", env!("CARGO_PKG_VERSION"))));

    let field = |name| {
        let output = run(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(field("Maintainer"), "A & B/C <ab@example.org>");
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    let listing = run(Command::new("dpkg-deb").arg("-c").arg(&package)).stdout;
    let listing = String::from_utf8(listing).unwrap();
    assert!(listing.lines().all(|line| line.contains(" root/root ")), "{listing}");
    let control = dir.path().join("control");
    run(Command::new("dpkg-deb").arg("-e").args([&package, &control]));
    assert_eq!(files(&control), ["conffiles", "control", "postinst*", "postrm*", "prerm*"]);
}

/// The directory of the programs that this test was built with.
fn binaries() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_flanneld")).parent().unwrap().to_owned()
}

fn make(args: &[&str]) {
    let binaries = format!("BINARIES={}", binaries().display());
    run(Command::new("make").args(["-s", "-C", REPOSITORY, &binaries]).args(args));
}

fn systemd_analyze() -> Command {
    Command::new("systemd-analyze")
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

/// Both outputs.
fn said(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{stdout}{stderr}")
}

/// Every file below `root`, in order, programs with a `*`. Programs and data are for all to read.
fn files(root: &Path) -> Vec<String> {
    let mut pending = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(root).unwrap().display().to_string();
        match fs::metadata(&path).unwrap().permissions().mode() & 0o777 {
            0o755 => files.push(name + "*"),
            0o644 => files.push(name),
            mode => panic!("{name} has mode {mode:o}"),
        }
    }
    files.sort();
    files
}
