//! Network configs that are missing or wrong at first.

use twill::lab::{Lab, LabSpec};

use crate::harness::{eventually, overlay, spec};

const SOUND: &str =
    r#"{"Network":"10.9.0.0/16","SubnetLen":26,"Backend":{"Type":"udp","Port":7777}}"#;

/// A lab of two nodes whose config is `config`; their daemons run and log what is wrong with it.
fn waiting_lab(topic: &str, config: Option<&str>) -> Lab {
    let mut lab =
        Lab::create(LabSpec { config: config.map(str::to_owned), ..spec(topic, 2) }).unwrap();
    for node in lab.nodes_mut() {
        node.start().unwrap();
    }
    for node in lab.nodes_mut() {
        eventually("a complaint about the config", || {
            node.log_tail(100).contains("Couldn't fetch network config")
        });
        assert!(!node.subnet_file().exists());
    }
    lab
}

fn assert_goes_on_with_a_sound_config(mut lab: Lab) {
    lab.etcd().put_config(SOUND).unwrap();
    for node in lab.nodes_mut() {
        let env = node.wait_ready().unwrap().env;
        assert_eq!((env.network.to_string().as_str(), env.subnet.prefix()), ("10.9.0.0/16", 26));
        node.attach_pods(1).unwrap();
    }
    lab.wait_reachable().unwrap();
    let sockets = lab.nodes()[0].netns().tool("cat").arg("/proc/self/net/udp").run().unwrap();
    assert!(sockets.contains(&format!(":{:04X} ", 7777)), "{sockets}");
    assert_eq!(overlay(&lab.nodes()[0]).device, "flannel0");
}

#[test]
fn nodes_wait_for_a_config_that_is_missing() {
    assert_goes_on_with_a_sound_config(waiting_lab("absent", None));
}

#[test]
fn nodes_wait_for_a_config_that_is_no_json() {
    assert_goes_on_with_a_sound_config(waiting_lab("nojson", Some(r#"{"Network":"10.9.0.0/16"#)));
}

#[test]
fn nodes_wait_for_a_config_that_makes_no_sense() {
    let config = r#"{"Network":"10.9.0.0/24","SubnetLen":20}"#;
    assert_goes_on_with_a_sound_config(waiting_lab("senseless", Some(config)));
}
