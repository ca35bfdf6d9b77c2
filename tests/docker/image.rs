//! A container image that has only busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use twill::lab::host::command::Tool;

/// The name it is imported by.
pub(crate) const NAME: &str = "busybox";

/// Where its web server's pages are.
pub(crate) const PAGES: &str = "/www";

const APPLETS: [&str; 7] = ["sh", "ping", "httpd", "wget", "ip", "sleep", "cat"];

/// Packs the image into a file below `dir`.
pub(crate) fn pack(dir: &Path) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("busybox.tar"));
    let bin = tree.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let busybox = Tool::new("sh").words("-c").arg("command -v busybox").run().unwrap();
    fs::copy(busybox.trim(), bin.join("busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    let pages = tree.join(PAGES.trim_start_matches('/'));
    fs::create_dir(&pages).unwrap();
    // Some hundreds of full packets.
    fs::write(pages.join("index.html"), "flannel ".repeat(64 * 1024)).unwrap();
    Tool::new("tar").arg("-C").arg(tree).arg("-cf").arg(&image).arg(".").run().unwrap();
    image
}

/// Whether this is the web server's page.
pub(crate) fn is_page(text: &str) -> bool {
    text == "flannel ".repeat(64 * 1024)
}
