//! flanneld-manual: writes flanneld's manual page and shell completions, for `make install`.
//!
//! Both come from the flags that flanneld itself parses. What a page says beyond flags stands in
//! `dist/flanneld.8.in`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use twill::control::flags;

/// The sections after OPTIONS, as they are.
const SECTIONS: &str = include_str!("../../dist/flanneld.8.in");

/// What whatis(1) shows.
const NAME: &str = "joins a host to a flannel overlay network";

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).context("usage: flanneld-manual DIRECTORY")?;
    let dir = PathBuf::from(dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let command = flags::command();
    write_manual(command.clone(), &dir.join("flanneld.8"))?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command.clone(), "flanneld", &dir)
            .with_context(|| format!("write completions for {shell} to {}", dir.display()))?;
    }
    Ok(())
}

fn write_manual(command: Command, path: &Path) -> anyhow::Result<()> {
    let version = concat!("flanneld ", env!("CARGO_PKG_VERSION"));
    let about = command.get_about().cloned().unwrap_or_default();
    let command = command.about(NAME).long_about(about);
    // A date would make every build another one.
    let man = Man::new(command).section("8").date("").source(version).manual("flannel");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(SECTIONS.as_bytes());
    fs::write(path, page).with_context(|| format!("write {}", path.display()))
}
