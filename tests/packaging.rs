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

/// What a package holds, below `/`, apart from the pages of commands and the documentation; programs
/// are marked with `*`.
const FILES: [&str; 15] = [
    "etc/default/flanneld",
    "usr/bin/flannel-lab*",
    "usr/bin/flanneld*",
    "usr/lib/systemd/system/flanneld.service",
    "usr/libexec/flannel/mk-docker-opts.sh*",
    "usr/share/bash-completion/completions/flannel-lab",
    "usr/share/bash-completion/completions/flanneld",
    "usr/share/fish/vendor_completions.d/flannel-lab.fish",
    "usr/share/fish/vendor_completions.d/flanneld.fish",
    "usr/share/flanneld/grafana/flannel.json",
    "usr/share/flanneld/prometheus/flannel.rules.yml",
    "usr/share/man/man8/flannel-lab.8",
    "usr/share/man/man8/flanneld.8",
    "usr/share/zsh/site-functions/_flannel-lab",
    "usr/share/zsh/site-functions/_flanneld",
];

/// All of a package: [`FILES`], a page for each command of both programs, and the documentation.
fn package_files() -> Vec<String> {
    let mut files: Vec<String> = FILES.map(str::to_owned).to_vec();
    for program in [flanneld_cli::command(), lab_cli::command()] {
        for task in program.get_subcommands().filter(|task| !task.is_hide_set()) {
            let (program, task) = (program.get_name(), task.get_name());
            files.push(format!("usr/share/man/man8/{program}-{task}.8"));
        }
    }
    let docs = fs::read_dir(Path::new(REPOSITORY).join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_page = |name: &String| name.ends_with(".md") || name.ends_with(".svg");
    let docs = docs.filter(is_page).map(|name| format!("docs/{name}"));
    let own = ["CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md"].map(str::to_owned);
    files.extend(docs.chain(own).map(|name| format!("usr/share/doc/flanneld/{name}")));
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
    // In tenths; a unit without any restrictions has 96. The fast path's bpf(2) and CAP_BPF are 2,
    // AF_PACKET for captures is 1.
    let exposure = ["security", "--offline=true", "--no-pager", "--threshold=28"];
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
        let has_statuses = task.get_after_help().is_some();
        assert_eq!(page.contains(".SH \"EXIT STATUS\"\n0 all is well"), has_statuses, "{page}");
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
    let mut build = Command::new(build);
    build.arg(dir.path()).args(["-Zgzip", "-z1"]).env("BINARIES", binaries()).envs(who);
    run(&mut build);
    let packages = files(dir.path());
    let arch = run(Command::new("dpkg").arg("--print-architecture")).stdout;
    let suffix = concat!("_", env!("CARGO_PKG_VERSION"), "_");
    let suffix = suffix.to_owned() + String::from_utf8(arch).unwrap().trim() + ".deb";
    assert_eq!(packages, ["flanneld-dbgsym", "flanneld"].map(|name| name.to_owned() + &suffix));
    let [debug, package] = [0, 1].map(|index: usize| dir.path().join(&packages[index]));

    let root = dir.path().join("root");
    run(Command::new("dpkg-deb").arg("-x").args([&package, &root]));
    let mut expected: Vec<String> = package_files()
        .into_iter()
        .filter(|file| !file.ends_with("/LICENSE"))
        .map(|file| file.replace("zsh/site-functions", "zsh/vendor-completions"))
        .map(|file| if file.ends_with(".8") { file + ".gz" } else { file })
        .collect();
    expected
        .extend(["changelog.gz", "copyright"].map(|name| format!("usr/share/doc/flanneld/{name}")));
    expected.sort();
    assert_eq!(files(&root), expected);

    // Programs without symbols, which are in the other package under the id of each program.
    let symbols = dir.path().join("symbols");
    run(Command::new("dpkg-deb").arg("-x").args([&debug, &symbols]));
    for program in ["flanneld", "flannel-lab"] {
        let program = root.join("usr/bin").join(program);
        let read = |what: &str| run(Command::new("readelf").arg(what).arg(&program)).stdout;
        let sections = String::from_utf8(read("-SW")).unwrap();
        assert!(!sections.contains(".symtab") && !sections.contains(".debug_info"), "{sections}");
        assert!(sections.contains(".gnu_debuglink"), "{sections}");
        let notes = String::from_utf8(read("-nW")).unwrap();
        let id = notes.lines().find_map(|line| line.split("Build ID: ").nth(1)).unwrap().trim();
        let file = format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
        let symbols = run(Command::new("readelf").arg("-SW").arg(symbols.join(file))).stdout;
        assert!(String::from_utf8(symbols).unwrap().contains(".symtab"), "{program:?}");
    }
    let version = run(Command::new(root.join("usr/bin/flanneld")).arg("-version"));
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(version.split(' ').next(), Some(concat!("v", env!("CARGO_PKG_VERSION"))));

    let field = |name| {
        let output = run(Command::new("dpkg-deb").arg("-f").arg(&package).arg(name));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(field("Maintainer"), "A & B/C <ab@example.org>");
    let depends = field("Depends");
    assert!(depends.starts_with("libc6 (>= 2.") && depends.ends_with(", iptables | nftables"));
    let listing = run(Command::new("dpkg-deb").arg("-c").arg(&package)).stdout;
    let listing = String::from_utf8(listing).unwrap();
    assert!(listing.lines().all(|line| line.contains(" root/root ")), "{listing}");
    let control = dir.path().join("control");
    run(Command::new("dpkg-deb").arg("-e").args([&package, &control]));
    assert_eq!(
        files(&control),
        ["conffiles", "control", "md5sums", "postinst*", "postrm*", "prerm*"]
    );
}

#[test]
fn removal_leaves_no_rules_and_an_upgrade_leaves_them() {
    let prerm = Path::new(REPOSITORY).join("dist/debian/prerm");
    // Without a systemd that it could talk to.
    let script = r#"mount -t tmpfs tmpfs /run && iptables -N FLANNEL-FWD &&
        iptables -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD &&
        iptables -A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT &&
        ip link add flannel.1 type vxlan id 1 dstport 8472 && mkdir /run/flannel &&
        echo FLANNEL_NETWORK=10.1.0.0/16 >/run/flannel/subnet.env || exit 9
        look() { iptables-save | grep -c FLANNEL; ls /sys/class/net /run/flannel; }
        "$0" upgrade 0.2.0 && look && echo --- && "$0" remove && look"#;
    let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap());
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", script]).arg(prerm);
    let output = unshare.env("PATH", path).output().unwrap();
    let said = said(&output);
    let (before, after) = said.split_once("---\n").unwrap_or_else(|| panic!("{said}"));
    assert!(before.starts_with("3\n") && before.contains("subnet.env"), "{said}");
    assert!(after.contains("\n0\n") && after.contains("removed"), "{said}");
    let look = after.rsplit_once("\n0\n").unwrap().1;
    assert!(!look.contains("flannel.1") && !look.contains("subnet.env"), "{said}");
}

#[test]
fn rpm_has_a_place_for_every_file() {
    let spec = Path::new(REPOSITORY).join("dist/rpm/flanneld.spec");
    let spec = fs::read_to_string(spec).unwrap();
    let (_, list) = spec.split_once("\n%files\n").unwrap();
    let (list, _) = list.split_once("\n%files debuginfo\n").unwrap();
    let places: Vec<&str> =
        list.lines().filter_map(|line| Some(&line[line.find('/')?..])).collect();
    for file in package_files() {
        let file = format!("/{}", file.trim_end_matches('*'));
        let has = |place: &&&str| file.starts_with(place.trim_end_matches('*'));
        assert!(places.iter().any(|place| has(&place)), "no place for {file} in {places:?}");
    }
}

#[test]
fn packing_says_in_one_line_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let shown = dir.path().display();
    let (nowhere, destdir) = (format!("BINARIES={shown}/none"), format!("DESTDIR={shown}/root"));
    let install = ["-s", "-C", REPOSITORY, "install", &nowhere, &destdir];
    let output = Command::new("make").args(install).output().unwrap();
    let line = format!("make install: {shown}/none/flanneld is missing; run 'make build' first\n");
    assert!(!output.status.success() && said(&output).starts_with(&line), "{}", said(&output));
    assert!(!dir.path().join("root").exists(), "nothing is half installed");

    let tarball = Path::new(REPOSITORY).join("dist/tarball/build");
    let output =
        Command::new(tarball).arg(dir.path()).env("BINARIES", binaries()).output().unwrap();
    assert!(!output.status.success());
    assert!(
        said(&output)
            .ends_with(" needs shared libraries; 'make tarball' builds one that does not\n")
    );

    let check = Path::new(REPOSITORY).join("dist/static/check");
    let output = Command::new(check).arg(binaries().join("flanneld")).output().unwrap();
    assert!(!output.status.success());
    assert!(said(&output).ends_with("flanneld needs shared libraries\n"), "{}", said(&output));
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
