//! flanneld-manual: writes manual pages and shell completions, for `make install`.
//!
//! They come from the flags that flanneld and flannel-lab themselves parse. The other sections
//! of a page are in `dist/flanneld.8.in` and `dist/flannel-lab.8.in`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use twill::control::cli as flanneld_cli;
use twill::lab::cli as lab_cli;

/// The sections after OPTIONS, as they are.
const FLANNELD_SECTIONS: &str = include_str!("../../dist/flanneld.8.in");
const LAB_SECTIONS: &str = include_str!("../../dist/flannel-lab.8.in");

/// What whatis(1) shows.
const FLANNELD: &str = "joins a host to a flannel overlay network";
const LAB: &str = "makes flannel overlay networks on one machine";

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: flanneld-manual DIRECTORY")?;
    let dir = PathBuf::from(dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    write_manual(flanneld_cli::command(), "flanneld", FLANNELD, FLANNELD_SECTIONS, &dir)?;
    write_manual(lab_cli::command(), "flannel-lab", LAB, LAB_SECTIONS, &dir)?;
    write_manuals_of_subcommands(flanneld_cli::command(), &dir)?;
    write_manuals_of_subcommands(lab_cli::command(), &dir)?;
    for (name, mut command) in
        [("flanneld", flanneld_cli::command()), ("flannel-lab", lab_cli::command())]
    {
        for shell in SHELLS {
            clap_complete::generate_to(shell, &mut command, name, &dir)
                .with_context(|| format!("write completions for {shell} to {}", dir.display()))?;
        }
    }
    Ok(())
}

/// A page for each command of a program, `flanneld-status(8)` and so on, as the program's own page
/// names them.
fn write_manuals_of_subcommands(mut program: Command, dir: &Path) -> anyhow::Result<()> {
    program.build();
    for task in program.get_subcommands() {
        if task.is_hide_set() || task.get_name() == "help" {
            continue;
        }
        // As `build` named it, and as the page calls itself.
        let name = task.get_display_name().unwrap_or_default().to_owned();
        let about = task.get_about().map(ToString::to_string).unwrap_or_default();
        let after = task.get_after_help().map(ToString::to_string).unwrap_or_default();
        let sections = after.strip_prefix("Exit status: ").map(|statuses| {
            format!(".SH \"EXIT STATUS\"\n{statuses}\n.SH \"SEE ALSO\"\n.BR flanneld (8)\n")
        });
        let sections = sections.unwrap_or_default();
        write_manual(task.clone(), &name, about.trim_end_matches('.'), &sections, dir)?;
    }
    Ok(())
}

fn write_manual(
    command: Command,
    name: &str,
    whatis: &str,
    sections: &str,
    dir: &Path,
) -> anyhow::Result<()> {
    let version = format!("flanneld {}", env!("CARGO_PKG_VERSION"));
    let about = command.get_long_about().or(command.get_about()).cloned().unwrap_or_default();
    let has_tasks = command.get_subcommands().any(|task| !task.is_hide_set());
    let command = command.about(whatis.to_owned()).long_about(about);
    // A date would make every build another one.
    let man = Man::new(command).section("8").date("").source(version).manual("flannel");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_tasks {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend_from_slice(sections.as_bytes());
    let path = dir.join(format!("{name}.8"));
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}
