//! The container image: built, and run as the containers of `kube-flannel.yml` run it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use twill::lab::host::command::Tool;
use twill::lab::network::backend::Backend;

use super::dockerd::Dockerd;
use super::{image, two_nodes};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/kubernetes/Dockerfile.prebuilt");

#[test]
fn image_has_flanneld_and_install_conf_where_flannels_manifest_expects_them() {
    let lab = two_nodes("image", Backend::HostGw, "");
    let dir = lab.names().dir();
    let busybox = image::pack(&dir);
    let dockerd = Dockerd::start(&lab.nodes()[0], "", &busybox);
    let tree = dir.join("image");
    stage(&tree);
    let build = dockerd.docker("build --quiet --tag twill --file").arg(RECIPE);
    build.arg(tree.display().to_string()).run().unwrap();

    let version = dockerd.docker("run --rm --network none twill --version").run().unwrap();
    assert!(version.starts_with(concat!("v", env!("CARGO_PKG_VERSION"), " twill")), "{version}");
    let (config, net_d) = (dir.join("conf"), dir.join("net.d"));
    fs::create_dir_all(&config).unwrap();
    fs::create_dir_all(&net_d).unwrap();
    fs::write(config.join("cni-conf.json"), "{\"name\":\"cbr0\"}\n").unwrap();
    let mounts = format!(
        "--volume {}:/etc/kube-flannel --volume {}:/etc/cni/net.d",
        config.display(),
        net_d.display()
    );
    let install = dockerd.docker("run --rm --network none --read-only --entrypoint");
    let install = install.words("/opt/bin/install-conf").words(&mounts).words("twill");
    let files = "/etc/kube-flannel/cni-conf.json /etc/cni/net.d/10-flannel.conflist";
    install.words(files).run().unwrap();
    let installed = fs::read_to_string(net_d.join("10-flannel.conflist")).unwrap();
    assert_eq!(installed, "{\"name\":\"cbr0\"}\n");
}

/// What `make image` stages, with the libraries that this build of flanneld needs: the recipe's base
/// is empty.
fn stage(tree: &Path) {
    let program = env!("CARGO_BIN_EXE_flanneld");
    let bin = tree.join("opt/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(program, bin.join("flanneld")).unwrap();
    symlink("flanneld", bin.join("install-conf")).unwrap();
    let libraries = Tool::new("ldd").arg(program).run().unwrap();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}
